"""Label values of `reconnects`: why a session ended, as a reason to count by and a sentence for the log."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException

from klagg.process.alarms import AlarmKind

# Alarms for which this side gives a connection up.
STALLED: Final = str(AlarmKind.STALLED)
SILENT: Final = str(AlarmKind.SILENT)
SILENT_CONTROL: Final = str(AlarmKind.SILENT_CONTROL)
STALE_ROUTE: Final = str(AlarmKind.STALE_ROUTE)

# Other reasons of an end.
UNACKNOWLEDGED: Final = "unacknowledged"
"""A subscription was not acknowledged."""
CLOSED: Final = "closed"
"""The exchange closed it, or it broke."""
FRAME: Final = "frame"
"""This side closed it because of a frame that it refuses: too large, or no WebSocket frame."""
HANDSHAKE: Final = "handshake"
"""The exchange or a proxy did not accept it."""
CERTIFICATE: Final = "certificate"
"""The exchange's certificate is not trusted."""
NETWORK: Final = "network"
"""It could not be reached."""
ENDED: Final = "ended"
"""It ended by itself, which it should not."""

REASONS: Final = (
    STALLED,
    SILENT,
    SILENT_CONTROL,
    STALE_ROUTE,
    UNACKNOWLEDGED,
    CLOSED,
    FRAME,
    HANDSHAKE,
    CERTIFICATE,
    NETWORK,
    ENDED,
)
"""All there are; those that bear the name of an alarm are what this side gave a connection up for."""


class SessionLost(Exception):
    """This side gave the connection up; the message says why, and `reason` is one of REASONS."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class Loss(NamedTuple):
    """One of REASONS, and a sentence for the log."""

    reason: str
    sentence: str


def loss_of(error: SessionLost | WebSocketException | OSError) -> Loss:
    """The reason and the sentence of the error that ended a session."""
    if isinstance(error, SessionLost):
        return Loss(error.reason, str(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        return Loss(CERTIFICATE, f"the exchange's certificate is not trusted: {error.verify_message}")
    sentence = str(error) or type(error).__name__
    if isinstance(error, ConnectionClosed):
        # RFC 6455 §7.1.5: the first close frame holds the reason. This side sends it only because of a bad frame.
        ours = error.sent is not None and error.rcvd_then_sent is not True
        return Loss(FRAME if ours else CLOSED, sentence)
    return Loss(HANDSHAKE if isinstance(error, InvalidHandshake) else NETWORK, sentence)

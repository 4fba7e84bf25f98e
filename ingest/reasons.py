"""Label values of `alarms` and `reconnects`: what a person is alarmed about, and why a session ended.

An alarm is a sentence that begins with ALARM in the log, and a counter by kind. A session's end has a reason, to count
by, and a sentence for the log.
"""

from __future__ import annotations

import logging
import ssl
from typing import Final, NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException

from klagg.process.stats import Stats

# Kinds of alarm.
STALLED: Final = "stalled"
"""A connection gives no sign of life, not even an answer to a ping."""
SILENT: Final = "silent"
"""A connection is acknowledged and answers pings, but brings none of the trades that take place."""
DEAD_SYMBOL: Final = "dead_symbol"
"""One symbol's trades do not come, while others on its connection do."""
SILENT_CONTROL: Final = "silent_control"
"""Trades come, but no tickers: the control connection is silent."""
STALE_ROUTE: Final = "stale_route"
"""Everything is connected and acknowledged, and nothing comes at all: the exchange may have moved its streams, as it
did when it routed them by kind of data (Binance USDⓈ-M docs, "Important WebSocket Change Notice")."""
HAND_OVER: Final = "hand_over"
"""A connection should be replaced, but the one to replace it brings nothing."""
NOT_CARRIED: Final = "not_carried"
"""A symbol that fits the choice is traded, and the exchange does not list it."""


# Reasons of an end, beside the alarms for which this side gives a connection up.
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


def expect(stats: Stats, *kinds: str) -> None:
    """Show these kinds at 0: Prometheus sees growth only in what it saw before."""
    for kind in kinds:
        stats.add("alarms", 0, kind=kind)


def alarm(stats: Stats, log: logging.Logger, kind: str, sentence: str) -> None:
    """Count an alarm of this `kind` and log its sentence."""
    stats.add("alarms", kind=kind)
    log.error("ALARM: %s", sentence)

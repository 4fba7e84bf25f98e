"""Why sessions end, by reason."""

from __future__ import annotations

import ssl

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus, WebSocketException
from websockets.frames import Close
from websockets.http11 import Response

from ingest.reasons import CERTIFICATE, CLOSED, FRAME, HANDSHAKE, NETWORK, REASONS, STALLED, SessionLost, loss_of

UNTRUSTED = ssl.SSLCertVerificationError("untrusted")
UNTRUSTED.verify_message = "self-signed certificate"
GOING, TOO_BIG = Close(1001, "24 hours"), Close(1009, "frame too big")


@pytest.mark.parametrize(
    ("error", "reason", "sentence"),
    [
        (SessionLost(STALLED, "no sign of life"), STALLED, "no sign of life"),
        (UNTRUSTED, CERTIFICATE, "the exchange's certificate is not trusted: self-signed certificate"),
        (ConnectionClosedError(None, None), CLOSED, "no close frame"),
        (ConnectionClosedOK(GOING, GOING, True), CLOSED, "24 hours"),
        (ConnectionClosedError(None, TOO_BIG), FRAME, "frame too big"),
        (ConnectionClosedError(TOO_BIG, TOO_BIG, False), FRAME, "frame too big"),
        (InvalidStatus(Response(403, "Forbidden", Headers())), HANDSHAKE, "403"),
        (ConnectionRefusedError(111, "refused"), NETWORK, "refused"),
        (TimeoutError(), NETWORK, "TimeoutError"),
    ],
)
def test_an_error_has_a_reason_and_a_sentence(error: WebSocketException | OSError, reason: str, sentence: str) -> None:
    loss = loss_of(error)
    assert loss.reason == reason
    assert sentence in loss.sentence
    assert reason in REASONS


def test_the_reasons_are_different() -> None:
    assert len(set(REASONS)) == len(REASONS)

"""Where a token is looked for, and which connections dawdle."""

from __future__ import annotations

from typing import Any

from gateway.guards import AccessGuard, token_of
from klagg.settings import Gateway


def test_a_token_comes_as_a_bearer_as_an_api_key_or_in_the_query() -> None:
    assert token_of({"Authorization": "Bearer abc"}, {}) == "abc"
    assert token_of({"Authorization": "bearer abc "}, {"token": "x"}) == "abc"
    assert token_of({"X-MBX-APIKEY": "abc"}, {"token": "x"}) == "abc"
    assert token_of({"Authorization": "Basic abc"}, {"token": "x"}) == "x"
    assert token_of({}, {}) == ""


class Connection:
    """A connection of the server as the guard sees it."""

    def __init__(self) -> None:
        self.closed = False
        self.transport: Any = None

    def force_close(self) -> None:
        self.closed = True


def test_connections_without_a_request_are_closed_after_their_time() -> None:
    guard = AccessGuard(Gateway(idle_s=30))
    idle, busy, late = Connection(), Connection(), Connection()
    guard._at_work.add(busy)
    assert guard.sweep([idle, busy], 100.0) == 0
    assert guard.sweep([idle, busy, late], 120.0) == 0
    assert guard.sweep([idle, busy, late], 130.0) == 1
    assert (idle.closed, busy.closed, late.closed) == (True, False, False)
    guard._at_work.discard(busy)
    assert guard.sweep([busy, late], 149.0) == 0, "a request that just ended begins anew"
    assert guard.sweep([busy, late], 150.0) == 1
    assert late.closed
    assert guard.sweep([], 500.0) == 0
    assert guard._idle_since == {}

"""How often a connection may speak: the exchange closes whoever sends more than its limit. Pure, `now_s` is given."""

from __future__ import annotations

from collections import deque


class Pace:
    """At most `per_s` messages within any second."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._said_s: deque[float] = deque(maxlen=per_s)

    def wait_s(self, now_s: float) -> float:
        """How long to wait before the next message, 0 if it may go out at `now_s` (monotonic)."""
        if len(self._said_s) < self._per_s:
            return 0.0
        return max(0.0, 1.0 - (now_s - self._said_s[0]))

    def said(self, now_s: float) -> None:
        """A message goes out at `now_s`."""
        self._said_s.append(now_s)

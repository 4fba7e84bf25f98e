"""How long something has not changed, by looks at it: pure, `now_ms` is an argument."""

from __future__ import annotations

from typing import Final

LOOK_MS_MAX: Final = 5_000.0
"""What one look may add: an observer that stood still itself, or slept with its machine, has not seen silence."""


class SilenceWatch:
    """How long a number that changes with every arrival has stayed the same. Times are local ms, of a steady clock.

    `limit_ms` is from when on that is silence.
    """

    def __init__(self, limit_ms: float) -> None:
        self._limit_ms = limit_ms
        self._seen: object = None
        self._looked_ms: float | None = None
        self._silent_ms = 0.0

    def check(self, seen: object, now_ms: float, *, runs: bool = True) -> float:
        """Look at `now_ms`: how long `seen` has not changed, 0 while that is no silence.

        While nothing `runs` that could change it, time does not count.
        """
        passed_ms = 0.0 if self._looked_ms is None else min(LOOK_MS_MAX, max(0.0, now_ms - self._looked_ms))
        self._looked_ms = now_ms
        if seen != self._seen:
            self._seen, self._silent_ms = seen, 0.0
        elif runs:
            self._silent_ms += passed_ms
        return self._silent_ms if self._silent_ms > self._limit_ms else 0.0

"""Whether the live state can be trusted: pure, `now_ms` (a clock that never steps) is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALARM_AFTER: Final = 5
"""Consecutive timeouts that are an alarm."""


@dataclass(slots=True)
class Health:
    """How long the live state has not moved on.

    A timeout is a whole `timeout_ms` in which Redis did not answer, or answered that the aggregator did nothing; they
    are consecutive until something moves on. `timeouts` counts those of now, `timeouts_total` all.
    """

    timeout_ms: int
    stale_ms: int
    moved_ms: float
    timeouts: int = 0
    timeouts_total: int = 0
    alarmed: bool = False

    def moved(self, now_ms: float) -> bool:
        """The state moved on; whether that ends an alarm."""
        self.moved_ms = now_ms
        self.timeouts = 0
        ended, self.alarmed = self.alarmed, False
        return ended

    def look(self, now_ms: float) -> bool:
        """Count the timeouts up to now; whether it is time to alarm, which is once until the state moves on."""
        timeouts = int((now_ms - self.moved_ms) // self.timeout_ms)
        if timeouts > self.timeouts:
            self.timeouts_total += timeouts - self.timeouts
            self.timeouts = timeouts
        if self.timeouts < ALARM_AFTER or self.alarmed:
            return False
        self.alarmed = True
        return True

    def stale_for_ms(self, now_ms: float) -> int:
        """For how long the state has stood still, 0 while it counts as live."""
        still_ms = now_ms - self.moved_ms
        return int(still_ms) if still_ms >= self.stale_ms else 0

"""Whether live state is live. Pure: `now_ms` (a monotonic clock) is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ALARM_AFTER: Final = 5
"""An alarm is raised after so many consecutive timeouts."""


@dataclass(slots=True)
class Health:
    """How long live state has not changed.

    A timeout is a whole `timeout_ms` in which Redis did not answer, or the aggregator committed nothing; timeouts are
    consecutive until the state changes. `timeouts` counts the current consecutive ones, `timeouts_total` all.
    """

    timeout_ms: int
    stale_ms: int
    moved_ms: float
    timeouts: int = 0
    timeouts_total: int = 0
    alarmed: bool = False

    def moved(self, now_ms: float) -> bool:
        """The state changed; returns whether that ends an alarm."""
        self.moved_ms = now_ms
        self.timeouts = 0
        ended, self.alarmed = self.alarmed, False
        return ended

    def check(self, now_ms: float) -> bool:
        """Count the timeouts up to now; returns whether to raise the alarm, which happens once until the state
        changes."""
        timeouts = int((now_ms - self.moved_ms) // self.timeout_ms)
        if timeouts > self.timeouts:
            self.timeouts_total += timeouts - self.timeouts
            self.timeouts = timeouts
        if self.timeouts < ALARM_AFTER or self.alarmed:
            return False
        self.alarmed = True
        return True

    def stale_for_ms(self, now_ms: float) -> int:
        """How long (ms) the state has not changed, 0 while it counts as live."""
        still_ms = now_ms - self.moved_ms
        return int(still_ms) if still_ms >= self.stale_ms else 0

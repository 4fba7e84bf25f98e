"""When ticks are due and which time they tell: pure, every time is an argument."""

from __future__ import annotations

from typing import Final

TICK_LEAST_S: Final = 0.01
"""However fast a local exchange runs, ticks come no more often than this in real time."""

UNREACHABLE_MS: Final = 10_000
"""If the exchange's clock could not be read for this long from the start, the local clock stands in."""

BEHIND_MS: Final = 1_000
"""An estimate this much behind the last tick, in real ms, is no noise: the exchange's time went back."""

STEP_MS: Final = 1_000
"""A wall clock that moved by this much against elapsed time was set."""


def tick_s(tick_ms: int, speed: float) -> float:
    """Real seconds between two ticks; an exchange whose clock is held (speed 0) counts as running at ×1."""
    return max(TICK_LEAST_S, tick_ms / 1000 / (speed or 1.0))


class TickTime:
    """The time that ticks tell: exchange time, which never goes back.

    Two clocks may run, and repeated ticks are harmless (DESIGN §3); so where the estimate goes back, the last tick is
    repeated until the estimate has caught up. Meanwhile nothing is closed by the clock: trades still prove bars, what
    is in progress is still told, and graces, windows and deadlines stand still.
    """

    def __init__(self, started_ms: float) -> None:
        """`started_ms` is local time, as in `may_tick`."""
        self._started_ms = started_ms
        self.last_ms = 0
        self.held = False
        """Whether ticks stand still, because the exchange's time went back."""

    def may_tick(self, now_ms: float, *, synced: bool) -> bool:
        """Whether there is a time to tell: a local clock that is wrong would run the aggregators ahead for good."""
        return synced or now_ms - self._started_ms >= UNREACHABLE_MS

    def next_ms(self, estimate_ms: int) -> int:
        """The time of the tick that is sent now, when the exchange's time is estimated so."""
        self.last_ms = max(self.last_ms, estimate_ms)
        return self.last_ms

    def went_back_ms(self, estimate_ms: int, speed: float) -> int:
        """How far the estimate is behind the last tick if that is news, −1 when it has caught up just now, else 0."""
        behind_ms = self.last_ms - estimate_ms
        if not self.held and behind_ms > BEHIND_MS * max(speed, 1.0):
            self.held = True
            return behind_ms
        if self.held and behind_ms <= 0:
            self.held = False
            return -1
        return 0


class WallClockMonitor:
    """Notices that the wall clock was set, by which APScheduler plans."""

    def __init__(self, wall_ms: float, steady_ms: float) -> None:
        self._offset_ms = wall_ms - steady_ms

    def step_ms(self, wall_ms: float, steady_ms: float) -> float:
        """How far the wall clock was moved since the last look; 0 for less than STEP_MS."""
        step_ms = wall_ms - steady_ms - self._offset_ms
        if abs(step_ms) < STEP_MS:
            return 0.0
        self._offset_ms += step_ms
        return step_ms

"""When ticks are due and which time they carry: pure, every time is an argument."""

from __future__ import annotations

from typing import Final

from ingest.timings import DEFAULT_TIMINGS, Timings

TICK_LEAST_S: Final = 0.01
"""However fast a simulated exchange runs, ticks come no more often than this (local seconds)."""

BEHIND_MS: Final = 1_000
"""An estimate this much (local ms) behind the last tick is no noise: the exchange's time went back."""

STEP_MS: Final = 1_000
"""A wall clock that moved by this much (local ms) against elapsed time was set."""


def tick_s(tick_ms: int, speed: float) -> float:
    """Local seconds between two ticks that are `tick_ms` of exchange time apart, for an exchange at ×`speed`.

    An exchange whose clock is held (speed 0) counts as running at ×1.
    """
    return max(TICK_LEAST_S, tick_ms / 1000 / (speed or 1.0))


class TickTime:
    """The time (exchange ms) of the ticks of one process. It never goes back.

    An aggregator ignores a tick that goes back, so repeated ticks, and those of a second clock process, are
    harmless. Where the estimate goes back, the last tick is repeated until the estimate has caught up. Meanwhile
    nothing is closed by the clock: trades still prove bars, bars in progress are still published, and graces, windows
    and deadlines stand still.
    """

    def __init__(self, started_ms: float, timings: Timings = DEFAULT_TIMINGS) -> None:
        """`started_ms` is when the process began (local ms)."""
        self._started_ms, self._unreachable_ms = started_ms, timings.unreachable_ms
        self.last_ms = 0
        self.held = False
        """Whether ticks stand still, because the exchange's time went back."""

    def may_tick(self, now_ms: float, *, synced: bool) -> bool:
        """Whether ticks may be sent at `now_ms` (local): a local clock that is wrong would run the aggregators ahead
        for good.

        They may once the exchange's clock was read (`synced`), or could not be read for `Timings.unreachable_ms`.
        """
        return synced or now_ms - self._started_ms >= self._unreachable_ms

    def next_ms(self, estimate_ms: int) -> int:
        """The time (exchange ms) of the tick that is sent now, from an estimate of the exchange's time."""
        self.last_ms = max(self.last_ms, estimate_ms)
        return self.last_ms

    def went_back_ms(self, estimate_ms: int, speed: float) -> int:
        """How far (exchange ms) the estimate is behind the last tick, if that is new.

        −1 when the estimate has caught up just now, else 0. `speed` is how fast the exchange's clock runs.
        """
        behind_ms = self.last_ms - estimate_ms
        if not self.held and behind_ms > BEHIND_MS * max(speed, 1.0):
            self.held = True
            return behind_ms
        if self.held and behind_ms <= 0:
            self.held = False
            return -1
        return 0


class WallClockMonitor:
    """Notices that the wall clock was set: APScheduler plans by it."""

    def __init__(self, wall_ms: float, steady_ms: float) -> None:
        self._offset_ms = wall_ms - steady_ms

    def step_ms(self, wall_ms: float, steady_ms: float) -> float:
        """How far (ms) the wall clock was moved since the last call; 0 for less than STEP_MS. Both times are local
        ms."""
        step_ms = wall_ms - steady_ms - self._offset_ms
        if abs(step_ms) < STEP_MS:
            return 0.0
        self._offset_ms += step_ms
        return step_ms

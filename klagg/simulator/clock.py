"""The exchange's clock: it may begin at any time, run at any speed, and be held until somebody listens."""

from __future__ import annotations


class MarketClock:
    """Exchange time as a function of the monotonic time `now_s` that callers pass in."""

    def __init__(self, start_ms: int, speed: float, now_s: float, *, held: bool, simulated: bool) -> None:
        """`simulated` says that this is not the real time (told to clients); `held` freezes it until `release`."""
        if not speed > 0:
            raise ValueError(f"The clock's speed must be above 0, not {speed}.")
        self.speed = speed
        self.simulated = simulated
        self.held = held
        self._start_ms = start_ms
        self._start_s = now_s

    def release(self, now_s: float) -> None:
        """Lets a held clock run from where it stands; does nothing to a running one."""
        if self.held:
            self.held = False
            self._start_s = now_s

    def ms(self, now_s: float) -> int:
        """Exchange time in ms."""
        if self.held:
            return self._start_ms
        return self._start_ms + int((now_s - self._start_s) * 1000 * self.speed)


def anchored_start_ms(real_ms: int, speed: float) -> int:
    """Where a fast clock of an endless market begins, so that a restart on the same UTC day finds the market further.

    It stands at midnight UTC when the real time does, and runs `speed` times as fast from there.
    """
    midnight_ms = real_ms // 86_400_000 * 86_400_000
    return midnight_ms + int((real_ms - midnight_ms) * speed)

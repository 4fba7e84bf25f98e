"""The exchange's time as this machine knows it: pure arithmetic, fed with round trips to the exchange's clock."""

from __future__ import annotations

import time

SMOOTHING = 0.2
"""Weight of a new observation in the moving averages."""

JUMP_MS = 5_000
"""A correction larger than this (in local ms) is a jump: it is taken over whole, not smoothed."""


def local_ms() -> float:
    """This machine's wall clock in ms since the epoch."""
    return time.time_ns() / 1e6


def _elapsed_ns() -> int:
    """Time that only ever goes on; where the system can tell, also through a suspension of the machine."""
    return time.clock_gettime_ns(_BOOT_CLOCK) if _BOOT_CLOCK is not None else time.monotonic_ns()


_BOOT_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", None)
_STEADY_START_MS = local_ms() - _elapsed_ns() / 1e6


def steady_ms() -> float:
    """Local ms that never step: `local_ms` as of the start of this process, and the time elapsed since.

    A wall clock that is set back by a minute would make every trade look a minute ahead of the exchange.
    """
    return _STEADY_START_MS + _elapsed_ns() / 1e6


class ExchangeClock:
    """Exchange time from local time: an offset and a one-way delay, both exponential moving averages (EMA).

    Local times may come from `local_ms` or `steady_ms`, but from one of them only.

    `speed` is how fast the exchange's clock runs (1 but for a simulator that plays at ×K and reports it). Before
    the first observation the local clock stands in, and `synced` is False.
    """

    def __init__(self) -> None:
        self.speed = 1.0
        self.delay_ms = 0.0
        self.synced_local_ms = 0.0
        self.set_back_ms = 0.0
        """By how much jumps have set it back, and not forward again since."""
        self._anchor_local_ms = 0.0
        self._anchor_exchange_ms = 0.0

    @property
    def synced(self) -> bool:
        """Whether the exchange's clock was observed at least once."""
        return self.synced_local_ms > 0

    def now_ms(self, local: float) -> int:
        """Exchange time at the local time `local` (ms)."""
        return int(self._anchor_exchange_ms + (local - self._anchor_local_ms) * self.speed)

    def latest_ms(self, local: float) -> int:
        """The latest that exchange time may be: as if it had never jumped back.

        The exchange's trades go on as before when only the clock that it shows went back; by this they are judged, so
        that none of them is taken for one from the future.
        """
        return self.now_ms(local) + int(self.set_back_ms)

    def offset_ms(self, local: float) -> float:
        """Exchange time minus local time."""
        return self.now_ms(local) - local

    def age_ms(self, local: float) -> float:
        """Local ms since the last observation."""
        return local - self.synced_local_ms

    def observe(self, sent_local: float, received_local: float, server_ms: int, speed: float = 1.0) -> float:
        """Take in one round trip: sent and answered at these local times (ms), with the exchange's time `server_ms`.

        The exchange is taken to have spoken midway. Returns the correction in exchange ms; the caller judges whether
        it is a jump worth an alarm.
        """
        middle = (sent_local + received_local) / 2
        delay = (received_local - sent_local) / 2
        correction = server_ms - (self._anchor_exchange_ms + (middle - self._anchor_local_ms) * self.speed)
        first = not self.synced or speed != self.speed
        jumped = abs(correction) > JUMP_MS * speed
        if first:
            self.set_back_ms = 0.0
        elif jumped:
            self.set_back_ms = max(0.0, self.set_back_ms - correction)
        weight = 1.0 if first or jumped else SMOOTHING
        self._anchor_exchange_ms = server_ms - (1 - weight) * correction
        self._anchor_local_ms = middle
        self.speed = speed
        self.delay_ms = delay if first else self.delay_ms + SMOOTHING * (delay - self.delay_ms)
        self.synced_local_ms = received_local
        return 0.0 if first else correction

"""Keeps an ExchangeClock right: round trips to `GET /fapi/v1/time`, and alarms when they fail for long or jump."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ingest.timings import DEFAULT_TIMINGS, Timings
from klagg.binance.rest_client import ExchangeRest
from klagg.clock import JUMP_MS, ExchangeClock, steady_ms
from klagg.errors import ExchangeRefused, ExchangeUnavailable
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats

PAUSE_S_MAX: Final = 600.0
LOOK_S_MAX: Final = 60.0
"""The longest until the estimate's age is checked again, also while the exchange requires a longer pause."""


class Synchroniser:
    """One clock, kept by a caller who calls `once` and then waits `wait_s` (local seconds)."""

    def __init__(
        self,
        rest: ExchangeRest,
        clock: ExchangeClock,
        *,
        sync_s: float,
        lost_s: float,
        stats: Stats,
        log: logging.Logger,
        timings: Timings = DEFAULT_TIMINGS,
        local_ms: Callable[[], float] = steady_ms,
    ) -> None:
        """`sync_s` (local) lies between two round trips; a clock that is unread for `lost_s` is an alarm."""
        self._rest, self._clock = rest, clock
        self._lost_ms, self._paused_until_ms = lost_s * 1000, 0.0
        self._sync_s, self._stats, self._log = sync_s, stats, log
        self._failing, self._timings, self._local_ms = False, timings, local_ms
        self.wait_s = 0.0
        """How long to wait before the next `once`."""

    async def once(self) -> bool:
        """One round trip; whether it worked.

        A failure leaves the clock as it is (at first, the local clock): time goes on by the last offset, however long
        that lasts. While the exchange requires a pause (`Retry-After`; Binance USDⓈ-M docs, "General Info", limits)
        there is none.
        """
        if self._local_ms() < self._paused_until_ms:
            self._check_age()
            self.wait_s = max(0.0, min(LOOK_S_MAX, (self._paused_until_ms - self._local_ms()) / 1000))
            return False
        try:
            correction_ms = await self._rest.synchronise(self._clock)
        except (ExchangeUnavailable, ExchangeRefused) as failure:
            self._fail(failure)
            return False
        if self._failing:
            self._log.info("the exchange's clock can be read again")
        self._failing = False
        self._stats.alarms.clear(AlarmKind.CLOCK_LOST)
        self._stats.show("clock_age_s", 0)
        self.wait_s = self._sync_s if self._clock.speed else self._timings.sync_held_s
        self._stats.add("syncs")
        now_ms = self._local_ms()
        self._stats.show("clock_offset_ms", round(self._clock.offset_ms(now_ms), 1))
        self._stats.show("clock_delay_ms", round(self._clock.delay_ms, 2))
        self._stats.show("clock_speed", self._clock.speed)
        if abs(correction_ms) > JUMP_MS * max(self._clock.speed, 1):
            sentence = f"the exchange's clock jumped by {correction_ms:.0f} ms against this machine's"
            self._stats.alarms.raise_(AlarmKind.CLOCK_JUMPED, sentence)
        else:
            self._stats.alarms.clear(AlarmKind.CLOCK_JUMPED)
        return True

    def _fail(self, failure: ExchangeUnavailable | ExchangeRefused) -> None:
        retry_after_s = failure.retry_after_s if isinstance(failure, ExchangeRefused) else 0.0
        pause_s = min(PAUSE_S_MAX, max(self._timings.sync_retry_s, retry_after_s))
        self._paused_until_ms = self._local_ms() + pause_s * 1000 if retry_after_s else 0.0
        self.wait_s = min(LOOK_S_MAX, pause_s)
        self._stats.add("sync_failures")
        if not self._failing:
            standing = "the last estimate" if self._clock.synced else "this machine's clock"
            self._log.warning("the exchange's clock cannot be read, %s stands in: %s", standing, failure)
        self._failing = True
        self._check_age()

    def _check_age(self) -> None:
        """An estimate that is older than `lost_s` is an alarm, once."""
        if not self._clock.synced:
            return
        age_ms = self._clock.age_ms(self._local_ms())
        self._stats.show("clock_age_s", round(age_ms / 1000, 1))
        if age_ms >= self._lost_ms:
            sentence = (
                f"the exchange's clock could not be read for {age_ms / 1000:.0f} s: time goes on by the last offset "
                "(clock.lost_s, exchange.rest_url)"
            )
            if self._stats.alarms.raise_(AlarmKind.CLOCK_LOST, sentence):
                self._stats.add("sync_lost")

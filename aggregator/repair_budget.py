"""The token bucket of requests for missing trades: a share of the exchange's REST weight. Pure.

A page of up to 1,000 trades costs as much as one trade, while a minute's kline costs a twentieth of it. So trades are
requested while that is affordable, and a loss that is too wide for it heals from klines. The bucket
is refilled in exchange time, because requests are a function of the log.
"""

from __future__ import annotations

from typing import Final

from klagg.binance.limits import AGG_TRADES_ROWS_MAX, AGG_TRADES_WEIGHT
from klagg.intervals import MINUTE_MS

PAGE_IDS: Final = AGG_TRADES_ROWS_MAX
PAGE_WEIGHT: Final = AGG_TRADES_WEIGHT
"""A request for trades: at most so many ids for so much weight."""

BURST_DIVISOR: Final = 4
"""A quarter of a minute's weight may be spent at once, so that no minute of the exchange sees more than 5/4 of it."""


def cost_of(first: int, last: int) -> int:
    """The REST weight of requesting the ids first…last."""
    return -(-(last - first + 1) // PAGE_IDS) * PAGE_WEIGHT


class TokenBucket:
    """A token bucket of REST weight: `weight_per_minute` flows in with exchange time, up to a burst.

    `held` is in weight × ms, so that nothing is rounded; it is negative after a request larger than the burst.
    """

    def __init__(self, weight_per_minute: int) -> None:
        self._rate = weight_per_minute
        self._burst = max(weight_per_minute // BURST_DIVISOR, PAGE_WEIGHT) * MINUTE_MS
        self.held = self._burst
        self.time_ms = 0

    def refill(self, time_ms: int) -> None:
        """Refill up to `time_ms` (exchange ms, never before the last call's)."""
        self.held = min(self._burst, self.held + (time_ms - self.time_ms) * self._rate)
        self.time_ms = time_ms

    def spend(self, cost: int) -> bool:
        """Spend `cost` (REST weight) if it is held; whether it was.

        A request larger than the burst is allowed when the bucket is full; the balance then goes negative.
        """
        if self.held < min(cost * MINUTE_MS, self._burst):
            return False
        self.held -= cost * MINUTE_MS
        return True

    @property
    def plenty(self) -> bool:
        """Whether half of a burst or more is held."""
        return self.held * 2 >= self._burst

    def within_a_minute(self) -> int:
        """The REST weight that can be spent from now until a minute of exchange time from now."""
        return max(0, self.held // MINUTE_MS + self._rate)

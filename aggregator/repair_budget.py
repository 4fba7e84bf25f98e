"""What requests for trades may cost: a share of the exchange's REST weight, spent in exchange time. Pure.

A page of up to 1,000 trades costs as much as one trade, while a minute's kline costs a twentieth of it. So trades are
asked for while that is affordable, and a loss that is too wide for it heals from klines.
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
    """The weight of asking for the ids first…last."""
    return -(-(last - first + 1) // PAGE_IDS) * PAGE_WEIGHT


class Budget:
    """Weight that flows in with exchange time, up to a burst. `held` is in weight × ms, so that nothing is rounded."""

    def __init__(self, weight_per_minute: int) -> None:
        self._rate = weight_per_minute
        self._burst = max(weight_per_minute // BURST_DIVISOR, PAGE_WEIGHT) * MINUTE_MS
        self.held = self._burst
        self.time_ms = 0

    def flow(self, time_ms: int) -> None:
        """It is `time_ms` now (exchange time, never back)."""
        self.held = min(self._burst, self.held + (time_ms - self.time_ms) * self._rate)
        self.time_ms = time_ms

    def take(self, cost: int) -> bool:
        """Spend `cost` if it is there. What costs more than ever is there at once is paid from a full purse, and the
        debt flows in afterwards."""
        if self.held < min(cost * MINUTE_MS, self._burst):
            return False
        self.held -= cost * MINUTE_MS
        return True

    @property
    def plenty(self) -> bool:
        """Whether half of a burst or more is there."""
        return self.held * 2 >= self._burst

    def within_a_minute(self) -> int:
        """The weight that can be spent from now until a minute from now."""
        return max(0, self.held // MINUTE_MS + self._rate)

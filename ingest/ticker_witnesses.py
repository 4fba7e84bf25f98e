"""Which tickers are worth an entry: what the exchange said of a symbol's last fill, and no trade has outdated. Pure.

A trade of a later time than the ticker proves all that the ticker could, so tickers of symbols that trade are dropped.
Those of the others become witnesses (`aggregator.witnesses`). A ticker is judged one to two periods after it came, when
the trades that were on their way are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from klagg.binance.payloads import Ticker
from klagg.wire.entries import Witness

PERIOD_MS: Final = 2_000
"""Exchange ms between two judgements, as the tickers tell them."""


class TickerWitnesses:
    """The newest ticker of each symbol in this period and in the one before; at most one of each symbol.

    `carries` says whether a symbol is carried.
    """

    def __init__(self, carries: Callable[[str], bool]) -> None:
        self._carries = carries
        self._held: dict[str, Ticker] = {}
        self._gathered: dict[str, Ticker] = {}
        self._newest_ms = self._judged_ms = 0

    def observe(self, tickers: Iterable[Ticker]) -> None:
        """Take tickers as they come. Those that name no fill say nothing."""
        for each in tickers:
            self._newest_ms = max(self._newest_ms, each.time_ms)
            if each.last_fill >= 0 and self._carries(each.symbol):
                self._gathered[each.symbol] = each

    def drain(self, latest: Mapping[str, tuple[int, str, str]]) -> list[Witness]:
        """The witnesses that are due, by symbol. `latest` has the time of each symbol's newest trade (exchange ms), and
        more. Empty within a period."""
        if self._newest_ms - self._judged_ms < PERIOD_MS:
            return []
        self._judged_ms = self._newest_ms
        due = [name for name, each in self._held.items() if name not in latest or latest[name][0] <= each.until_ms]
        witnesses = [Witness(name, self._held[name].last_fill, self._held[name].until_ms) for name in sorted(due)]
        self._held, self._gathered = self._gathered, {}
        return witnesses

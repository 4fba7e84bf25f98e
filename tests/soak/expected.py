"""The bars of a soak as plain Python folds them from the exchange's trades, a minute at a time: millions do not fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from functools import partial
from itertools import groupby
from typing import NamedTuple

from klagg.intervals import MINUTE_MS, interval
from klagg.simulator import SyntheticMarket
from klagg.wire.entries import TradeRow
from tests.aggregator.oracle import OracleBar

LATE_MS = 1_000
"""An aggregate trade happens so much before its event at most."""
ALONE_TRADES = 1_000_000
"""Fewer trades than these are folded in this process: the other cores may have other tests to run."""
FLAT = (Decimal(0), Decimal(0), 0, Decimal(0), Decimal(0))


class Market(NamedTuple):
    """What makes a synthetic market."""

    symbols: int
    rate: float
    seed: int
    floor: float | None = None

    def source(self) -> SyntheticMarket:
        """The market itself."""
        return SyntheticMarket(self.symbols, self.rate, self.seed, floor_s=self.floor)

    def arguments(self) -> list[str]:
        """The arguments of `klagg simulate` that play it."""
        given = {name: value for name, value in self._asdict().items() if value is not None}
        return [word for name, value in given.items() for word in (f"--{name}", str(value))]


Nine = tuple[Decimal | int, ...]
"""Open, high, low, close, volume, quote volume, trades, taker's volume and quote volume."""


def minute_of(market: Market, opened_ms: int) -> dict[str, tuple[Nine, int]]:
    """The nine values of every symbol that traded in a minute, and the time of its last trade."""
    bars: dict[str, OracleBar] = {}
    for each in market.source().aggregates(opened_ms - 1, opened_ms + MINUTE_MS + LATE_MS):
        if opened_ms <= each.time_ms < opened_ms + MINUTE_MS:
            row = TradeRow(each.symbol, each.id, each.price, each.qty, each.first, each.last, each.time_ms, each.maker)
            bars.setdefault(each.symbol, OracleBar()).rows[0, each.id] = row
    return {name: (bar.values()[:9], max(row.time for row in bar.rows.values())) for name, bar in bars.items()}


class Expected(NamedTuple):
    """`bars` by (symbol, interval, open time), empty ones included from a symbol's first trade on; `last_ms` is the
    time of each symbol's last trade."""

    bars: dict[tuple[str, str, int], Nine]
    last_ms: dict[str, int]


def expected(market: Market, first_ms: int, end_ms: int, longer: str = "5m") -> Expected:
    """The bars of 1m, and those of a longer interval that lie wholly in [first, end), both whole minutes."""
    minutes = range(first_ms, end_ms, MINUTE_MS)
    if len(minutes) * MINUTE_MS / 1000 * market.rate < ALONE_TRADES:
        found = [minute_of(market, each) for each in minutes]
    else:
        with ProcessPoolExecutor() as pool:
            found = list(pool.map(partial(minute_of, market), minutes))
    bars: dict[tuple[str, str, int], Nine] = {}
    closes: dict[str, Decimal | int] = {}
    last_ms: dict[str, int] = {}
    for opened_ms, traded in zip(minutes, found, strict=True):
        for name, (values, time_ms) in traded.items():
            bars[name, "1m", opened_ms] = values
            closes[name], last_ms[name] = values[3], time_ms
        for name in closes.keys() - traded.keys():
            bars[name, "1m", opened_ms] = (*[closes[name]] * 4, *FLAT)
    kind = interval(longer)
    by_bar = groupby(sorted(bars), lambda key: (key[0], kind.open_time(key[2])))
    for (name, opened_ms), keys in by_bar:
        parts = [bars[key] for key in keys]
        if len(parts) == kind.length_ms // MINUTE_MS:
            bars[name, longer, opened_ms] = joined(parts)
    return Expected(bars, last_ms)


def joined(parts: Sequence[Nine]) -> Nine:
    """The longer bar of consecutive ones. An empty part only carries a price, which is no trade's."""
    traded = [each for each in parts if each[6]] or parts[:1]
    return (
        traded[0][0],
        max(each[1] for each in traded),
        min(each[2] for each in traded),
        parts[-1][3],
        *(_total(each[at] for each in parts) for at in range(4, 9)),
    )


def _total(values: Iterable[Decimal | int]) -> Decimal | int:
    first, *others = values
    return sum(others, first)

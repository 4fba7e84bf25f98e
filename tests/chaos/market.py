"""The market of a run: recorded trades, moved to the run's time, beside synthetic symbols; it begins and ends.

A function of the shape alone, so two runs, and the witness that recomputes them, see the same trades.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from klagg.simulator import RecordedMarket, SyntheticMarket
from klagg.simulator.bars import Bar
from klagg.simulator.market import ContractListing, MarketSource, MarketTrade
from tests.chaos.shape import CANDIDATES, Shape

RECORDED_LEAD_MS = 1_000
"""Recordings begin this long after the market does."""

RECORDINGS = ("um_trade_btcusdt_2024-07-18_19.txt.gz",)
"""Files of the recordings' folder that are played: those that last as long as a run does."""


class Part(NamedTuple):
    """One source and what is added to its times, in ms."""

    source: MarketSource
    shift_ms: int


class ChaosMarket:
    """A `MarketSource` of `shape.symbols` symbols. Trades happen in `begin_ms` < event time <= `end_ms`."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        synthetic = SyntheticMarket(
            int(shape.symbols * CANDIDATES), shape.candidate_rate, shape.seed, straddle_share=0.0, history_ms=3_600_000
        )
        self._parts = [Part(synthetic, 0), *_recorded(shape)]
        self._part_of: dict[str, Part] = {}
        self._listed: tuple[ContractListing, ...] = ()
        self._choose()

    @property
    def symbols(self) -> Sequence[str]:
        """The symbols that are played."""
        return tuple(self._part_of)

    @property
    def recorded_symbols(self) -> Sequence[str]:
        """Those of them that are recordings."""
        return [symbol for symbol, part in self._part_of.items() if part is not self._parts[0]]

    def _choose(self) -> None:
        """Take the symbols that trade early in the warm-up and late in the tail: recorded ones, then the busiest, but
        leave room for some of the quietest."""
        shape, listings = self._shape, {}
        for part in reversed(self._parts):
            for each in part.source.listings(shape.begin_ms - part.shift_ms):
                if each.symbol not in self._part_of:
                    self._part_of[each.symbol], listings[each.symbol] = part, each
        early = self._trading(shape.begin_ms, shape.begin_ms + int(shape.warm_ms * 0.6))
        late = self._trading(shape.end_ms - shape.tail_ms // 2, shape.end_ms)
        able = [symbol for symbol in listings if symbol in early and symbol in late]
        quiet = shape.symbols // 20
        chosen = {*able[: shape.symbols - quiet], *able[-quiet:]}
        if len(chosen) < shape.symbols:
            raise ValueError(f"Only {len(chosen)} symbols trade at the beginning and at the end: ask for more trades.")
        self._part_of = {symbol: part for symbol, part in self._part_of.items() if symbol in chosen}
        self._listed = tuple(listings[symbol] for symbol in self._part_of)

    def _trading(self, after_ms: int, until_ms: int) -> set[str]:
        return {trade.symbol for trade in self.aggregates(after_ms, until_ms)}

    def by_symbol(self) -> Iterator[tuple[str, list[MarketTrade]]]:
        """Every symbol with all its aggregate trades, by id."""
        found: dict[str, list[MarketTrade]] = defaultdict(list)
        for trade in self.aggregates(self._shape.begin_ms, self._shape.end_ms):
            found[trade.symbol].append(trade)
        for symbol in self.symbols:
            yield symbol, sorted(found[symbol], key=lambda trade: trade.id)

    # MarketSource.

    def describe(self) -> Mapping[str, object]:
        return {"source": "chaos", "symbols": len(self._part_of), "recorded": list(self.recorded_symbols)}

    def span_ms(self) -> tuple[int, int]:
        return self._shape.begin_ms, self._shape.end_ms

    def listings(self, now_ms: int) -> Sequence[ContractListing]:
        return self._listed

    def prepare(self, now_ms: int) -> None:
        for part in self._parts:
            part.source.prepare(now_ms - part.shift_ms)

    def aggregates(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        return self._between("aggregates", after_ms, until_ms)

    def fills(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        return self._between("fills", after_ms, until_ms)

    def _between(self, kind: str, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        after_ms, until_ms = max(after_ms, self._shape.begin_ms), min(until_ms, self._shape.end_ms)
        if after_ms >= until_ms:
            return []
        found: list[MarketTrade] = []
        for part in self._parts:
            trades = getattr(part.source, kind)(after_ms - part.shift_ms, until_ms - part.shift_ms)
            found += _moved((trade for trade in trades if self._part_of.get(trade.symbol) is part), part.shift_ms)
        return sorted(found, key=lambda trade: trade.event_ms)

    def has_fills(self, symbol: str) -> bool:
        return self._part_of[symbol].source.has_fills(symbol)

    def _now(self, now_ms: int, part: Part) -> int:
        return min(now_ms, self._shape.end_ms) - part.shift_ms

    def aggregates_from(self, symbol: str, from_id: int, limit: int, now_ms: int) -> Sequence[MarketTrade]:
        part = self._part_of[symbol]
        return _moved(part.source.aggregates_from(symbol, from_id, limit, self._now(now_ms, part)), part.shift_ms)

    def aggregates_between(
        self, symbol: str, start_ms: int, end_ms: int, limit: int, now_ms: int, *, newest: bool
    ) -> Sequence[MarketTrade]:
        part = self._part_of[symbol]
        found = part.source.aggregates_between(
            symbol, start_ms - part.shift_ms, end_ms - part.shift_ms, limit, self._now(now_ms, part), newest=newest
        )
        return _moved(found, part.shift_ms)

    def fills_between(self, symbol: str, start_ms: int, end_ms: int, now_ms: int) -> Sequence[MarketTrade]:
        part = self._part_of[symbol]
        found = part.source.fills_between(
            symbol, start_ms - part.shift_ms, end_ms - part.shift_ms, self._now(now_ms, part)
        )
        return _moved(found, part.shift_ms)

    def history_start_ms(self, symbol: str, now_ms: int) -> int:
        part = self._part_of[symbol]
        return part.source.history_start_ms(symbol, self._now(now_ms, part)) + part.shift_ms

    def bar(self, symbol: str, open_ms: int, close_ms: int, now_ms: int) -> Bar | None:
        part = self._part_of[symbol]
        found = part.source.bar(symbol, open_ms - part.shift_ms, close_ms - part.shift_ms, self._now(now_ms, part))
        return None if found is None else replace(found, open_ms=open_ms, close_ms=close_ms)


def _moved(trades: Iterator[MarketTrade] | Sequence[MarketTrade], shift_ms: int) -> list[MarketTrade]:
    if not shift_ms:
        return list(trades)
    return [trade._replace(time_ms=trade.time_ms + shift_ms, event_ms=trade.event_ms + shift_ms) for trade in trades]


def _recorded(shape: Shape) -> Iterator[Part]:
    for path in shape.recordings:
        source = RecordedMarket.load([path])
        yield Part(source, shape.begin_ms + RECORDED_LEAD_MS - source.span_ms()[0])


def recordings_in(folder: Path) -> tuple[str, ...]:
    """The recordings that can be played, none where the folder is absent."""
    return tuple(str(folder / name) for name in RECORDINGS if (folder / name).is_file())

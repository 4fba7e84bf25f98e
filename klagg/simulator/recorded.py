"""A market that plays recordings: the trades of one or many files, with the klines that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from klagg.binance.serving.payloads import unit
from klagg.errors import RecordingError
from klagg.recordings import open_trades
from klagg.simulator.bars import Bar, fold
from klagg.simulator.market import ContractListing, MarketTrade
from klagg.simulator.recorded_symbol import RecordedSymbol
from klagg.simulator.synthetic_model import decimal_text

_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USD", "BTC", "ETH", "BNB")
_FIRST_CONTRACT_MS = 1_569_398_400_000
"""Onboard time of BTCUSDT, the exchange's first USDⓈ-M contract: before every recording of one."""
_CLOSED_BARS_MAX = 100_000

Ints = NDArray[np.int64]


class RecordedMarket:
    """A `MarketSource` that plays recordings. Build it with `load`.

    A symbol recorded as aggregate trades has those alone. One recorded as fills has its fills verbatim, and each fill
    that counts is an aggregate trade of its own (f = l = t) with contiguous ids from 1.
    """

    def __init__(self, symbols: Sequence[RecordedSymbol], files: Sequence[str]) -> None:
        """`symbols` are complete (`finish` was called) and not empty."""
        self._files = tuple(files)
        self._symbols = {symbol.name: symbol for symbol in symbols}
        self._order = tuple(self._symbols.values())
        self._aggregates = _Timeline([symbol.aggregate_events() for symbol in self._order])
        self._fills = _Timeline([symbol.fill_events() for symbol in self._order])
        self._listings = tuple(_listing(symbol) for symbol in self._order)
        self._closed_bar = lru_cache(maxsize=_CLOSED_BARS_MAX)(self._fold)

    @classmethod
    def load(cls, paths: Iterable[str | Path], symbol: str | None = None) -> RecordedMarket:
        """Reads recordings; rows that are in several of them are taken once. Raises RecordingError.

        `symbol` names the symbol of files that carry none.
        """
        symbols: dict[str, RecordedSymbol] = {}
        files = []
        for path in paths:
            recording = open_trades(path, symbol)
            files.append(str(path))
            for trade in recording:
                known = symbols.get(trade.symbol)
                if known is None:
                    known = symbols[trade.symbol] = RecordedSymbol(trade.symbol, recording.ids)
                elif known.ids != recording.ids:
                    raise RecordingError(str(path), 0, f"{trade.symbol} has {known.ids!r} ids in another file")
                known.add(trade)
        for name, recorded in symbols.items():
            clash = recorded.finish()
            if clash is not None:
                raise RecordingError(files[0], 0, f"{name} {clash} is recorded twice with different values")
        if not symbols:
            raise RecordingError(files[0] if files else "-", 0, "holds no trades")
        return cls(list(symbols.values()), files)

    def describe(self) -> Mapping[str, object]:
        """What is played."""
        return {"source": "recordings", "files": list(self._files), "trades": sum(len(s) for s in self._order)}

    def span_ms(self) -> tuple[int, int]:
        """First and last event time."""
        spans = [timeline.span_ms() for timeline in (self._aggregates, self._fills) if timeline]
        return min(first for first, _ in spans), max(last for _, last in spans)

    def listings(self, now_ms: int) -> Sequence[ContractListing]:
        """Every recorded symbol, listed all the time."""
        return self._listings

    def prepare(self, now_ms: int) -> None:
        """Everything is in memory already."""

    def aggregates(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        return [self._order[place].aggregate(row) for place, row in self._aggregates.between(after_ms, until_ms)]

    def fills(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        return [self._order[place].row(row) for place, row in self._fills.between(after_ms, until_ms)]

    def has_fills(self, symbol: str) -> bool:
        """As `MarketSource`."""
        return self._symbols[symbol].ids == "trade"

    def aggregates_from(self, symbol: str, from_id: int, limit: int, now_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        recorded = self._symbols[symbol]
        start = recorded.aggregate_place(from_id)
        found = []
        for place in range(start, min(start + limit, recorded.aggregate_count)):
            trade = recorded.aggregate(place)
            if trade.event_ms > now_ms:
                break
            found.append(trade)
        return found

    def aggregates_between(
        self, symbol: str, start_ms: int, end_ms: int, limit: int, now_ms: int, *, newest: bool
    ) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        recorded = self._symbols[symbol]
        found: list[MarketTrade] = []
        for place in recorded.aggregate_places(start_ms, end_ms, newest=newest):
            trade = recorded.aggregate(place)
            if start_ms <= trade.time_ms <= end_ms and trade.event_ms <= now_ms:
                found.append(trade)
                if len(found) == limit:
                    break
        return found[::-1] if newest else found

    def fills_between(self, symbol: str, start_ms: int, end_ms: int, now_ms: int) -> Sequence[MarketTrade]:
        """As `MarketSource`."""
        recorded = self._symbols[symbol]
        if recorded.ids != "trade":
            return []
        rows = (recorded.row(place) for place in recorded.rows_between(start_ms, end_ms))
        return [fill for fill in rows if start_ms <= fill.time_ms <= end_ms and fill.event_ms <= now_ms]

    def history_start_ms(self, symbol: str, now_ms: int) -> int:
        """The first recorded trade."""
        return self._symbols[symbol].first_time_ms

    def bar(self, symbol: str, open_ms: int, close_ms: int, now_ms: int) -> Bar | None:
        """As `MarketSource`; a bar is folded anew until the last of its trades is out."""
        if now_ms > close_ms and now_ms >= self._symbols[symbol].last_event_ms(close_ms):
            bar = self._closed_bar(symbol, open_ms, close_ms, None)
        else:
            bar = self._fold(symbol, open_ms, close_ms, now_ms)
        return None if bar is None else bar.copy()

    def _fold(self, symbol: str, open_ms: int, close_ms: int, now_ms: int | None) -> Bar | None:
        recorded = self._symbols[symbol]
        trades = [
            trade
            for trade in (recorded.row(place) for place in recorded.rows_between(open_ms, close_ms))
            if open_ms <= trade.time_ms <= close_ms and (now_ms is None or trade.event_ms <= now_ms)
        ]
        return fold(open_ms, close_ms, trades, recorded.price_before(open_ms))


class _Timeline:
    """The events of all symbols in the order of their event time; ties keep the order of symbols and ids."""

    def __init__(self, events_by_symbol: Sequence[Ints]) -> None:
        """`events_by_symbol`: per symbol the event times (ms) of its rows, in row order."""
        events = np.concatenate(events_by_symbol) if events_by_symbol else np.empty(0, np.int64)
        places = np.repeat(np.arange(len(events_by_symbol)), [len(times) for times in events_by_symbol])
        rows = np.concatenate([np.arange(len(times)) for times in events_by_symbol])
        order = np.argsort(events, kind="stable")
        self._events = events[order]
        self._places = places[order]
        self._rows = rows[order]

    def __bool__(self) -> bool:
        return len(self._events) > 0

    def span_ms(self) -> tuple[int, int]:
        return int(self._events[0]), int(self._events[-1])

    def between(self, after_ms: int, until_ms: int) -> Iterable[tuple[int, int]]:
        """(place of the symbol, row) of the events in the half-open range."""
        first, last = np.searchsorted(self._events, (after_ms, until_ms), side="right")
        return zip(self._places[first:last].tolist(), self._rows[first:last].tolist(), strict=True)


def _listing(symbol: RecordedSymbol) -> ContractListing:
    quote = next((quote for quote in _QUOTES if symbol.name.endswith(quote)), "")
    return ContractListing(
        symbol=symbol.name,
        base=symbol.name.removesuffix(quote) or symbol.name,
        quote=quote or symbol.name,
        price_precision=symbol.price_precision,
        quantity_precision=symbol.quantity_precision,
        tick_size=decimal_text(10 ** (symbol.price_precision - symbol.tick_precision), symbol.price_precision),
        step_size=unit(symbol.quantity_precision),
        onboard_ms=min(_FIRST_CONTRACT_MS, symbol.first_time_ms // 86_400_000 * 86_400_000),
    )

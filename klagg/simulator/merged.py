"""A synthetic market's minutes with all symbols merged into the order in which the exchange tells of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from klagg.simulator.market import MarketTrade
from klagg.simulator.synthetic_minute import EXECUTIONS, MinuteTrades
from klagg.simulator.synthetic_model import MINUTE_MS, SymbolModel, decimal_text

AGG_DELAY_MS = 150
"""`E − T` of aggregate trades, as recorded in 2026. Longer than any of their fills takes to follow the first."""
FILL_DELAY_MS = 3
"""`E − T` of fills, as recorded in 2023."""

_KEPT_MINUTES = 2

Generate = Callable[[int, int], MinuteTrades]
Columns = tuple[NDArray[np.int64], ...]


class _Merged:
    """Builds merged minutes, ahead of time if `prepare` is called, and cuts pieces out of them.

    A minute's columns are sorted by time; the first is the time, the second the symbol's index.
    """

    delay_ms = 0

    def __init__(self, models: Sequence[SymbolModel], generate: Generate) -> None:
        self._models = models
        self._generate = generate
        self._ready: OrderedDict[int, Columns] = OrderedDict()
        self._building = -1
        self._parts: list[Columns] = []

    def prepare(self, now_ms: int) -> None:
        """Has as much of the next minute ready as of this minute has passed, and a good deal more."""
        minute, passed_ms = divmod(now_ms, MINUTE_MS)
        if minute + 1 not in self._ready:
            wanted = 1 + int(len(self._models) * 1.5 * passed_ms / MINUTE_MS)
            self._build(minute + 1, min(wanted, len(self._models)))

    def between(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """Trades of all symbols whose event time lies in the half-open range."""
        after, until = after_ms - self.delay_ms, until_ms - self.delay_ms
        found: list[MarketTrade] = []
        # The last fills of a minute may fall on the first ms of the next one.
        for minute in range((after + 1) // MINUTE_MS - 1, until // MINUTE_MS + 1):
            if (minute + 1) * MINUTE_MS <= after:
                continue
            columns = self._minute(minute)
            first, last = np.searchsorted(columns[0], (after, until), side="right")
            if first < last:
                found += self._trades(tuple(column[first:last] for column in columns))
        return found

    def of(self, index: int, block: MinuteTrades, rows: slice) -> list[MarketTrade]:
        """Some `rows` of one symbol's minute, by id."""
        return self._trades(tuple(column[rows] for column in self._columns(index, block)))

    def _minute(self, minute: int) -> Columns:
        if minute not in self._ready:
            self._build(minute, len(self._models))
        return self._ready[minute]

    def _build(self, minute: int, symbols: int) -> None:
        """Adds to the minute in the making until it holds `symbols` symbols; sorts it when it holds all."""
        if minute != self._building:
            self._building, self._parts = minute, []
        while len(self._parts) < symbols:
            index = len(self._parts)
            self._parts.append(self._columns(index, self._generate(index, minute)))
        if len(self._parts) == len(self._models):
            columns = [np.concatenate(column) for column in zip(*self._parts, strict=True)]
            order = np.argsort(columns[0], kind="stable")
            self._ready[minute] = tuple(column[order] for column in columns)
            self._building, self._parts = -1, []
            while len(self._ready) > _KEPT_MINUTES + 1:
                self._ready.popitem(last=False)

    def _columns(self, index: int, block: MinuteTrades) -> Columns:
        raise NotImplementedError

    def _trades(self, columns: Columns) -> list[MarketTrade]:
        raise NotImplementedError


class MergedAggregates(_Merged):
    """Aggregate trades. Columns: time, symbol, id, price, quantity, normal quantity, first, last, maker."""

    delay_ms = AGG_DELAY_MS

    def _columns(self, index: int, block: MinuteTrades) -> Columns:
        count = len(block.agg_times)
        return (
            block.agg_times,
            np.full(count, index),
            block.agg_first_id + np.arange(count),
            block.agg_prices,
            block.agg_qtys,
            block.agg_normal_qtys,
            block.first_ids,
            block.last_ids,
            block.agg_makers.astype(np.int64),
        )

    def _trades(self, columns: Columns) -> list[MarketTrade]:
        models = self._models
        trades = []
        for time_ms, index, agg_id, price, qty, normal, first, last, maker in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            model = models[index]
            digits = model.quantity_precision
            qty_text = decimal_text(qty, digits)
            trades.append(
                MarketTrade(
                    model.name,
                    agg_id,
                    decimal_text(price, model.price_precision),
                    qty_text,
                    qty_text if normal == qty else decimal_text(normal, digits),
                    first,
                    last,
                    time_ms,
                    time_ms + AGG_DELAY_MS,
                    maker == 1,
                    "",
                )
            )
        return trades


class MergedFills(_Merged):
    """Fills. Columns: time, symbol, id, price, quantity, maker, execution."""

    delay_ms = FILL_DELAY_MS

    def _columns(self, index: int, block: MinuteTrades) -> Columns:
        count = len(block.times)
        return (
            block.times,
            np.full(count, index),
            block.first_fill_id + np.arange(count),
            block.prices,
            block.qtys,
            block.makers.astype(np.int64),
            block.executions.astype(np.int64),
        )

    def _trades(self, columns: Columns) -> list[MarketTrade]:
        models = self._models
        trades = []
        for time_ms, index, fill_id, price, qty, maker, execution in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            model = models[index]
            qty_text = decimal_text(qty, model.quantity_precision)
            trades.append(
                MarketTrade(
                    model.name,
                    fill_id,
                    decimal_text(price, model.price_precision),
                    qty_text,
                    qty_text,
                    fill_id,
                    fill_id,
                    time_ms,
                    time_ms + FILL_DELAY_MS,
                    maker == 1,
                    EXECUTIONS[execution],
                )
            )
        return trades

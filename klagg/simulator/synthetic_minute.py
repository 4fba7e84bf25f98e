"""One minute of one synthetic symbol: its aggregate trades and the fills they are made of. Vectorised and pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from klagg.simulator.bars import Bar
from klagg.simulator.synthetic_model import MINUTE_MS, SymbolModel, decimal_text

EXECUTIONS = ("MARKET", "RPI", "INSURANCE_FUND", "ADL", "NA")
"""`X` by the codes in `MinuteTrades.executions`."""
INSURANCE = 2
"""The first of those that klines do not count."""

_RPI_SHARE = 0.05
_INSURANCE_SHARE = 0.05
_SAME_MS_SHARE = 0.25
_SPREAD_OUT_SHARE = 0.3
_SPAN_MS_MAX = 90
_QTY_UNITS_MAX = 1_000_000

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MinuteTrades:
    """Columns over the aggregate trades (`agg_…`, `first_ids`, `last_ids`) and over the fills (the rest), by id.

    Prices and quantities are in units, times in ms since 1970. The last fills may fall on the first ms after the
    minute: their aggregate trade began within it, as on the real exchange.
    """

    agg_first_id: int
    agg_times: Ints
    agg_prices: Ints
    agg_qtys: Ints
    agg_normal_qtys: Ints
    agg_makers: NDArray[np.bool_]
    first_ids: Ints
    last_ids: Ints
    first_fill_id: int
    times: Ints
    prices: Ints
    qtys: Ints
    makers: NDArray[np.bool_]
    executions: NDArray[np.int8]

    @property
    def rows(self) -> int:
        """Columns' total length, for memory budgets."""
        return len(self.agg_times) + len(self.times)


def generate_minute(
    model: SymbolModel, minute: int, first_agg_id: int, count: int, seed: int, straddle_share: float
) -> MinuteTrades:
    """The `count` aggregate trades of `minute` (since 1970), the first of which has the id `first_agg_id`.

    There are exactly two fill ids for each aggregate trade of a minute, so that fill ids, too, follow from the
    minute's number. `straddle_share` is the share of minutes whose last aggregate trade fills across the minute's end;
    in no other minute does one.
    """
    rng = np.random.default_rng((seed, 2, model.index, minute))
    start_ms = minute * MINUTE_MS
    times, moves = _times(rng, model.beat_times()[:count], count)
    straddles = count > 0 and rng.random() < straddle_share and bool(moves[-1])
    if straddles:
        times[-1] = max(times[-1], MINUTE_MS - 1 - rng.integers(0, _SPAN_MS_MAX))
    insurance = int(count >= 4 and rng.random() < _INSURANCE_SHARE)
    fills = _fills_per_aggregate(rng, count, count - insurance, straddles=straddles)

    starts = np.cumsum(fills) - fills
    owner = np.repeat(np.arange(count), fills)
    position = np.arange(len(owner)) - starts[owner]
    spans = _spans(rng, times, straddles=straddles)
    fill_times = times[owner] + position * spans[owner] // np.maximum(fills[owner] - 1, 1)

    makers = rng.random(count) < 0.5
    ticks = model.price_units(start_ms + times) / model.tick_units + rng.normal(0, 1.2, count) + (0.5 - makers)
    prices = np.maximum(np.rint(ticks), 1).astype(np.int64) * model.tick_units
    sizes = rng.lognormal(np.log(model.qty_units), 1.1, len(owner))
    qtys = np.clip(np.rint(sizes), 1, _QTY_UNITS_MAX).astype(np.int64)
    rpi = rng.random(len(owner)) < _RPI_SHARE
    agg_qtys = np.add.reduceat(qtys, starts) if count else np.empty(0, np.int64)
    rpi_qtys = np.add.reduceat(np.where(rpi, qtys, 0), starts) if count else np.empty(0, np.int64)

    trades = MinuteTrades(
        agg_first_id=first_agg_id,
        agg_times=start_ms + times,
        agg_prices=prices,
        agg_qtys=agg_qtys,
        agg_normal_qtys=agg_qtys - rpi_qtys,
        agg_makers=makers,
        first_ids=2 * (first_agg_id - 1) + 1 + starts,
        last_ids=2 * (first_agg_id - 1) + starts + fills,
        first_fill_id=2 * (first_agg_id - 1) + 1,
        times=start_ms + fill_times,
        prices=prices[owner],
        qtys=qtys,
        makers=makers[owner],
        executions=rpi.astype(np.int8),
    )
    if not insurance:
        return trades
    return _with_uncounted_fill(trades, int(rng.integers(0, count - 1)), model)


def _times(rng: np.random.Generator, beats: Ints, count: int) -> tuple[Ints, NDArray[np.bool_]]:
    """The times (ms within the minute) of `count` trades, ascending, and which of them may move: `beats`, the times of
    the floor's trades, stay. Some trades share their ms with the one before."""
    times = np.sort(np.concatenate((rng.integers(0, MINUTE_MS, count - len(beats)), beats)))
    moves = ~np.isin(times, beats)
    together = np.flatnonzero((rng.random(count) < _SAME_MS_SHARE) & moves)
    times[together] = times[np.maximum(together - 1, 0)]
    return np.maximum.accumulate(times), moves


def _fills_per_aggregate(rng: np.random.Generator, count: int, extra: int, *, straddles: bool) -> Ints:
    """Fills of each aggregate trade, shape (count,): one, and for a third of them a share of the `extra` more."""
    fills = np.ones(count, np.int64)
    if straddles:
        fills[-1] += 1
        extra -= 1
    if count and extra > 0:
        heavy = rng.integers(0, count, max(count // 3, 1))
        fills += np.bincount(heavy[rng.integers(0, len(heavy), extra)], minlength=count)
    return fills


def _spans(rng: np.random.Generator, times: Ints, *, straddles: bool) -> Ints:
    """How long (ms) the fills of each aggregate trade take, shape of `times`: at most until the next one, and over the
    minute's end only if the last one straddles it."""
    count = len(times)
    gaps = np.append(times[1:], MINUTE_MS) - times
    spans = np.where(rng.random(count) < _SPREAD_OUT_SHARE, np.minimum(rng.integers(0, _SPAN_MS_MAX, count), gaps), 0)
    if count:
        spans[-1] = gaps[-1] if straddles else min(spans[-1], gaps[-1] - 1)
    return spans


def _with_uncounted_fill(trades: MinuteTrades, after: int, model: SymbolModel) -> MinuteTrades:
    """Puts a fill of the insurance fund (or ADL, NA) behind the aggregate trade `after`: it takes a fill id and counts
    nowhere.

    Its price is well off the market, so that counting it would show.
    """
    place = int(trades.last_ids[after]) - trades.first_fill_id + 1
    later = (np.arange(len(trades.agg_times)) > after).astype(np.int64)
    price = max(round(int(trades.agg_prices[after]) / model.tick_units * 1.02), 1) * model.tick_units
    return MinuteTrades(
        trades.agg_first_id,
        trades.agg_times,
        trades.agg_prices,
        trades.agg_qtys,
        trades.agg_normal_qtys,
        trades.agg_makers,
        trades.first_ids + later,
        trades.last_ids + later,
        trades.first_fill_id,
        np.insert(trades.times, place, trades.times[place - 1]),
        np.insert(trades.prices, place, price),
        np.insert(trades.qtys, place, 1),
        np.insert(trades.makers, place, values=True),
        np.insert(trades.executions, place, INSURANCE + after % (len(EXECUTIONS) - INSURANCE)),
    )


def minute_bar(model: SymbolModel, minute: int, blocks: Sequence[MinuteTrades], time_ms_max: int) -> Bar | None:
    """The bar of the counting fills within `minute` and not after `time_ms_max`; None without any.

    `blocks` are the minute before (its last fills may fall into this one) and the minute itself.
    """
    start_ms = minute * MINUTE_MS
    end_ms = min(start_ms + MINUTE_MS - 1, time_ms_max)
    parts = []
    for block in blocks:
        inside = (block.times >= start_ms) & (block.times <= end_ms) & (block.executions < INSURANCE)
        rows = np.flatnonzero(inside)
        parts.append((block.first_fill_id + rows, block.prices[rows], block.qtys[rows], block.makers[rows]))
    ids, prices, qtys, makers = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    if not len(ids):
        return None

    def price(units: int) -> str:
        return decimal_text(int(units), model.price_precision)

    def volume(of: Ints) -> Decimal:
        return Decimal(int(of.sum())).scaleb(-model.quantity_precision)

    def quote(of: Ints) -> Decimal:
        return Decimal(int(of.sum())).scaleb(-model.quantity_precision - model.price_precision)

    quotes = prices * qtys
    taker_buys = ~makers
    return Bar(
        open_ms=start_ms,
        close_ms=start_ms + MINUTE_MS - 1,
        open=price(prices[0]),
        high=price(prices.max()),
        low=price(prices.min()),
        close=price(prices[-1]),
        volume=volume(qtys),
        quote_volume=quote(quotes),
        trades=len(ids),
        taker_buy_volume=volume(qtys[taker_buys]),
        taker_buy_quote_volume=quote(quotes[taker_buys]),
        first_id=int(ids[0]),
        last_id=int(ids[-1]),
    )

"""The fold: trades become segments, segments become bars. Free functions over arrays; arrival order cannot matter.

A kline is a commutative fold (DESIGN §1.1): open is the price of the smallest order key (minute, id), close that of
the largest, high and low are extremes, the rest are sums. Trades are sorted by symbol, bucket and id, cut where symbol
or bucket changes, and folded with `reduceat`; only the few hundred segments touch the ring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from aggregator.ring import NO_ID, Ring
from klagg.errors import ArithmeticOverflow
from klagg.intervals import MINUTE_MS, Interval

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Flat = Callable[[str], Ints]

QUOTE_MAX = 2.0**62
"""One trade's quote value must stay below this; checked in float64, whose error is far smaller than the margin."""


@dataclass(slots=True)
class Rows:
    """N admitted trades: slots and integers at the symbols' scales."""

    slot: Ints
    id: Ints
    price: Ints
    qty: Ints
    quote: Ints
    first: Ints
    last: Ints
    time: Ints
    maker: Bools
    agg: Bools

    @classmethod
    def none(cls) -> Rows:
        """No rows."""
        return cls(*(np.zeros(0, np.bool_ if each.name in ("maker", "agg") else np.int64) for each in fields(cls)))

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of all parts, in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def __len__(self) -> int:
        return len(self.slot)

    def take(self, which: Ints | Bools) -> Rows:
        """Some of the rows, by index or mask."""
        return Rows(*(getattr(self, each.name)[which] for each in fields(self)))


@dataclass(slots=True)
class Segments:
    """Partial bars, one per (symbol, bucket), sorted by both. Fields are named as in the ring."""

    slot: Ints
    bucket: Ints
    open_minute: Ints
    open_id: Ints
    open: Ints
    close_minute: Ints
    close_id: Ints
    close: Ints
    high: Ints
    low: Ints
    volume: Ints
    quote_volume: Ints
    trades: Ints
    taker_buy_volume: Ints
    taker_buy_quote_volume: Ints
    first_trade_id: Ints
    last_trade_id: Ints
    agg: Bools

    def take(self, which: Bools) -> Segments:
        """Some of the segments, by mask."""
        return Segments(*(getattr(self, each.name)[which] for each in fields(self)))


def quotes_of(price: Ints, qty: Ints) -> tuple[Ints, Bools]:
    """Price × quantity, and which products do not fit (their value is meaningless)."""
    too_large = price.astype(np.float64) * qty.astype(np.float64) >= QUOTE_MAX
    with np.errstate(over="ignore"):
        return price * qty, too_large


def segments_of(rows: Rows, interval: Interval) -> Segments:
    """The rows folded into bars of an interval of at most a minute."""
    bucket = interval.buckets_of(rows.time)
    if not _sorted(rows.slot, bucket, rows.id):
        order = np.lexsort((rows.id, bucket, rows.slot))
        rows, bucket = rows.take(order), bucket[order]
    starts = _starts(rows.slot, bucket)
    ends = np.append(starts[1:], len(rows)) - 1
    taker_qty = np.where(rows.maker, 0, rows.qty)
    taker_quote = np.where(rows.maker, 0, rows.quote)
    minute = rows.time // MINUTE_MS
    return Segments(
        slot=rows.slot[starts],
        bucket=bucket[starts],
        open_minute=minute[starts],
        open_id=rows.id[starts],
        open=rows.price[starts],
        close_minute=minute[ends],
        close_id=rows.id[ends],
        close=rows.price[ends],
        high=np.maximum.reduceat(rows.price, starts),
        low=np.minimum.reduceat(rows.price, starts),
        volume=_sum(rows.qty, starts),
        quote_volume=_sum(rows.quote, starts),
        trades=np.add.reduceat(rows.last - rows.first + 1, starts),
        taker_buy_volume=np.add.reduceat(taker_qty, starts),
        taker_buy_quote_volume=np.add.reduceat(taker_quote, starts),
        first_trade_id=np.minimum.reduceat(rows.first, starts),
        last_trade_id=np.maximum.reduceat(rows.last, starts),
        agg=rows.agg[starts],
    )


def longer(minutes: Segments, bucket: Ints) -> Segments:
    """One-minute segments folded again into the longer buckets that hold them; `bucket` is each segment's."""
    starts = _starts(minutes.slot, bucket)
    if len(starts) == len(minutes.slot):
        return Segments(minutes.slot, bucket, *(getattr(minutes, each.name) for each in fields(minutes)[2:]))
    ends = np.append(starts[1:], len(bucket)) - 1
    return Segments(
        slot=minutes.slot[starts],
        bucket=bucket[starts],
        open_minute=minutes.open_minute[starts],
        open_id=minutes.open_id[starts],
        open=minutes.open[starts],
        close_minute=minutes.close_minute[ends],
        close_id=minutes.close_id[ends],
        close=minutes.close[ends],
        high=np.maximum.reduceat(minutes.high, starts),
        low=np.minimum.reduceat(minutes.low, starts),
        volume=_sum(minutes.volume, starts),
        quote_volume=_sum(minutes.quote_volume, starts),
        trades=np.add.reduceat(minutes.trades, starts),
        taker_buy_volume=np.add.reduceat(minutes.taker_buy_volume, starts),
        taker_buy_quote_volume=np.add.reduceat(minutes.taker_buy_quote_volume, starts),
        first_trade_id=np.minimum.reduceat(minutes.first_trade_id, starts),
        last_trade_id=np.maximum.reduceat(minutes.last_trade_id, starts),
        agg=minutes.agg[starts],
    )


def _sorted(slot: Ints, bucket: Ints, ids: Ints) -> bool:
    """Whether rows stand in the order of (slot, bucket, id)."""
    same_slot = slot[1:] == slot[:-1]
    in_order = (bucket[1:] > bucket[:-1]) | ((bucket[1:] == bucket[:-1]) & (ids[1:] > ids[:-1]))
    return bool((np.where(same_slot, in_order, slot[1:] > slot[:-1])).all())


def _starts(slot: Ints, bucket: Ints) -> Ints:
    """Where a new (symbol, bucket) begins."""
    change = np.empty(len(slot), np.bool_)
    change[0] = True
    np.not_equal(slot[1:], slot[:-1], out=change[1:])
    change[1:] |= bucket[1:] != bucket[:-1]
    return np.flatnonzero(change)


def _sum(values: Ints, starts: Ints) -> Ints:
    """Sums per segment; a sum that may not fit 64 bits is refused, never wrapped."""
    limited = values.dtype != np.object_
    if limited and values.sum(dtype=np.float64) >= QUOTE_MAX:
        largest = np.add.reduceat(values.astype(np.float64), starts).max()
        if largest >= QUOTE_MAX:
            raise ArithmeticOverflow("the sum of a batch of trades would not fit 64 bits")
    sums: Ints = np.add.reduceat(values, starts)
    return sums


def merge(ring: Ring, interval: int, part: Segments) -> tuple[Ints, Bools]:
    """Fold segments into the ring's bars: their flat cells, and which of those bars had no trade before.

    Segments must lie in buckets that have rows. ArithmeticOverflow rather than a wrapped sum.
    """
    cells = ring.rows_of(interval, part.bucket) * ring.capacity + part.slot

    def flat(name: str) -> Ints:
        values: Ints = getattr(ring, name).reshape(-1)
        return values

    fresh = flat("open_id")[cells] == NO_ID
    _replace_first(flat, cells, part, fresh)
    _replace_last(flat, cells, part, fresh)
    high, low = flat("high"), flat("low")
    high[cells] = np.where(fresh, part.high, np.maximum(high[cells], part.high))
    low[cells] = np.where(fresh, part.low, np.minimum(low[cells], part.low))
    first, last = flat("first_trade_id"), flat("last_trade_id")
    first[cells] = np.where(fresh, part.first_trade_id, np.minimum(first[cells], part.first_trade_id))
    last[cells] = np.maximum(last[cells], part.last_trade_id)
    for name in ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume"):
        values = flat(name)
        total = values[cells] + getattr(part, name)
        if int(total.min(initial=0)) < 0:
            raise ArithmeticOverflow(f"the {name} of a bar would not fit 64 bits")
        values[cells] = total
    flat("agg")[cells] = part.agg
    ring.touch(cells)
    return cells, fresh


def _replace_first(flat: Flat, cells: Ints, part: Segments, fresh: Bools) -> None:
    minute, ids, price = flat("open_minute"), flat("open_id"), flat("open")
    old = minute[cells]
    earlier = fresh | (part.open_minute < old) | ((part.open_minute == old) & (part.open_id < ids[cells]))
    where = cells[earlier]
    minute[where], ids[where], price[where] = part.open_minute[earlier], part.open_id[earlier], part.open[earlier]


def _replace_last(flat: Flat, cells: Ints, part: Segments, fresh: Bools) -> None:
    minute, ids, price = flat("close_minute"), flat("close_id"), flat("close")
    old = minute[cells]
    later = fresh | (part.close_minute > old) | ((part.close_minute == old) & (part.close_id > ids[cells]))
    where = cells[later]
    minute[where], ids[where], price[where] = part.close_minute[later], part.close_id[later], part.close[later]

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

from aggregator.ring import FIELD, NO_ID, SUM_MAX, SUMS, Ring
from klagg.intervals import MINUTE_MS, Interval

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FIRST = slice(FIELD["open_minute"], FIELD["open"] + 1)
LAST = slice(FIELD["close_minute"], FIELD["close"] + 1)
TOTALS = slice(FIELD[SUMS[0]], FIELD[SUMS[-1]] + 1)

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
        columns = (getattr(self, name) for name in Rows.__slots__)
        if which.dtype != np.bool_:
            return Rows(*(np.take(column, which) for column in columns))
        return Rows(*(column[which] for column in columns))


@dataclass(slots=True)
class Prepared:
    """Rows on their way to the ledger: which of them `counts` in klines, and which are `unfit` for 64 bits. None: all,
    none."""

    rows: Rows
    counts: Bools | None
    unfit: Bools | None

    def take(self, which: Ints | Bools) -> Prepared:
        """Some of the rows, by index or mask."""
        counts = None if self.counts is None else self.counts[which]
        return Prepared(self.rows.take(which), counts, None if self.unfit is None else self.unfit[which])


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

    def take(self, which: Ints | Bools) -> Segments:
        """Some of the segments, by index or mask."""
        return Segments(*(getattr(self, each.name)[which] for each in fields(self)))


def quotes_of(price: Ints, qty: Ints) -> tuple[Ints, Bools]:
    """Price × quantity, and which products do not fit (their value is meaningless)."""
    if int(price.max(initial=0)) * int(qty.max(initial=0)) < QUOTE_MAX:
        return price * qty, np.zeros(len(price), np.bool_)
    too_large = price.astype(np.float64) * qty.astype(np.float64) >= QUOTE_MAX
    with np.errstate(over="ignore"):
        return price * qty, too_large


def segments_of(rows: Rows, interval: Interval) -> Segments:
    """The rows (at least one) folded into bars of an interval of at most a minute."""
    oldest_ms, newest_ms = int(rows.time.min()), int(rows.time.max())
    bucket = None
    if interval.bucket_of(oldest_ms) != interval.bucket_of(newest_ms):
        bucket = interval.buckets_of(rows.time)
    starts = _starts(rows.slot, bucket)
    if not _sorted(rows.slot, bucket, rows.id, starts):
        order = np.lexsort((rows.id, *(() if bucket is None else (bucket,)), rows.slot))
        rows, bucket = rows.take(order), None if bucket is None else bucket[order]
        starts = _starts(rows.slot, bucket)
    ends = np.append(starts[1:], len(rows)) - 1
    taker = ~rows.maker
    return Segments(
        slot=rows.slot[starts],
        bucket=interval.buckets_of(rows.time[starts]),
        open_minute=rows.time[starts] // MINUTE_MS,
        open_id=rows.id[starts],
        open=rows.price[starts],
        close_minute=rows.time[ends] // MINUTE_MS,
        close_id=rows.id[ends],
        close=rows.price[ends],
        high=np.maximum.reduceat(rows.price, starts),
        low=np.minimum.reduceat(rows.price, starts),
        volume=_sum(rows.qty, starts),
        quote_volume=_sum(rows.quote, starts),
        trades=np.add.reduceat(rows.last - rows.first + 1, starts),
        taker_buy_volume=_sum(rows.qty * taker, starts),
        taker_buy_quote_volume=_sum(rows.quote * taker, starts),
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
        taker_buy_volume=_sum(minutes.taker_buy_volume, starts),
        taker_buy_quote_volume=_sum(minutes.taker_buy_quote_volume, starts),
        first_trade_id=np.minimum.reduceat(minutes.first_trade_id, starts),
        last_trade_id=np.maximum.reduceat(minutes.last_trade_id, starts),
        agg=minutes.agg[starts],
    )


def _sorted(slot: Ints, bucket: Ints | None, ids: Ints, starts: Ints) -> bool:
    """Whether rows stand in the order of (slot, bucket, id), by where a new (symbol, bucket) begins."""
    rising = ids[1:] > ids[:-1]
    rising[starts[1:] - 1] = True
    slots = slot[starts]
    if bucket is None:
        in_order = slots[1:] > slots[:-1]
    else:
        buckets = bucket[starts]
        in_order = (slots[1:] > slots[:-1]) | ((slots[1:] == slots[:-1]) & (buckets[1:] > buckets[:-1]))
    return bool(rising.all() and in_order.all())


def _starts(slot: Ints, bucket: Ints | None) -> Ints:
    """Where a new (symbol, bucket) begins; None: all are in one bucket."""
    change = np.empty(len(slot), np.bool_)
    change[0] = True
    np.not_equal(slot[1:], slot[:-1], out=change[1:])
    if bucket is not None:
        change[1:] |= bucket[1:] != bucket[:-1]
    return np.flatnonzero(change)


def _sum(values: Ints, starts: Ints) -> Ints:
    """Sums per segment; one that may not fit stands at its limit, never wrapped: `merge` watermarks its bar."""
    sums: Ints = np.add.reduceat(values, starts)
    if values.dtype != np.object_ and int(values.max()) * len(values) > SUM_MAX:
        beyond = np.add.reduceat(values.astype(np.float64), starts) >= QUOTE_MAX
        sums = np.where(beyond, SUM_MAX + 1, sums)
    return sums


def merge(ring: Ring, interval: int, part: Segments) -> tuple[Ints, Bools]:
    """Fold segments into the ring's bars: their flat cells, and which of those bars had no trade before.

    Segments must lie in buckets that have rows. A sum that would not fit stands at its limit and its bar is `broken`.
    """
    cells = ring.rows_of(interval, part.bucket) * ring.capacity + part.slot
    return cells, merge_cells(ring, cells[None], part)[0]


def merge_cells(ring: Ring, cells: Ints, part: Segments) -> Bools:
    """`merge` into the bars of several intervals at once: `cells` [interval, segment], the freshness likewise."""
    bars = np.moveaxis(np.take(ring.state, cells, axis=0), 2, 0)
    fresh: Bools = bars[FIELD["open_id"]] == NO_ID
    _replace(bars[FIRST], (part.open_minute, part.open_id, part.open), fresh, np.less)
    _replace(bars[LAST], (part.close_minute, part.close_id, part.close), fresh, np.greater)
    for name in SUMS:
        bars[FIELD[name]] += getattr(part, name)
    for name, better in (("high", np.maximum), ("low", np.minimum), ("first_trade_id", np.minimum)):
        values, more = bars[FIELD[name]], getattr(part, name)
        first = fresh if name != "first_trade_id" else values == NO_ID  # an official bar has trades without ids
        bars[FIELD[name]] = np.where(first, more, better(values, more))
    last = bars[FIELD["last_trade_id"]]
    np.maximum(last, part.last_trade_id, out=last)
    sums = bars[TOTALS]
    if int(sums.min(initial=0)) < 0 or int(sums.max(initial=0)) > SUM_MAX:
        beyond = (sums < 0) | (sums > SUM_MAX)
        sums[beyond] = SUM_MAX + 1
        for number, its_cells in enumerate(cells):
            ring.break_bars(its_cells[beyond[:, number].any(axis=0)])
    ring.state[cells] = np.moveaxis(bars, 0, 2)
    ring.agg.reshape(-1)[cells] = part.agg
    for its_cells in cells:
        ring.touch(its_cells)
    return fresh


def _replace(held: Ints, found: tuple[Ints, Ints, Ints], fresh: Bools, before: Callable[[Ints, Ints], Bools]) -> None:
    """Put (minute, id, price) of segments where their order key comes `before` that of the bar, or the bar is empty."""
    minute, ids, _ = held
    wins = fresh | before(found[0], minute) | ((found[0] == minute) & before(found[1], ids))
    for values, more in zip(held, found, strict=True):
        np.copyto(values, more, where=wins)

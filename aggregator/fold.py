"""The fold: trades become segments, segments become bars of the ring. Arrival order cannot matter.

A kline is a commutative fold: open is the price of the smallest order key (minute, id), close that of the largest, high
and low are extremes, the rest are sums. Trades are sorted by symbol, bucket and id, cut where symbol or bucket changes,
and folded with `reduceat`; only the few hundred segments touch the ring. All of this is free functions over arrays.

`BarFolder` folds a tick's trades into all intervals of a ring. Minutes and shorter bars get their trades at once.
Longer bars lack the trades of the minute in progress until somebody reads them, which is once a second: then they get
what that minute's bars have become since. So fifteen intervals cost little more than two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.columns import QUOTE_MAX, Trades
from aggregator.finality import Finality
from aggregator.ring import FIELD, NO_BUCKET, NO_ID, REVISION, SUM_MAX, SUMS, Ring
from klagg.intervals import MINUTE, MINUTE_MS, Interval

FIRST = slice(FIELD["open_minute"], FIELD["open"] + 1)
LAST = slice(FIELD["close_minute"], FIELD["close"] + 1)
TOTALS = slice(FIELD[SUMS[0]], FIELD[SUMS[-1]] + 1)


@dataclass(slots=True)
class Segments:
    """N partial bars, one per (slot, bucket), sorted by both. Fields are named as in the ring; each is an array [n].

    Prices, volumes and quote volumes are mantissas at the symbol's scales, as in Trades.
    """

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

    def select(self, which: Ints | Bools) -> Segments:
        """Some of the segments, by index or mask."""
        return Segments(*(getattr(self, each.name)[which] for each in fields(self)))


def segments_of(trades: Trades, interval: Interval) -> Segments:
    """Trades (at least one, in any order) folded into bars of an interval of at most a minute."""
    oldest_ms, newest_ms = int(trades.time.min()), int(trades.time.max())
    bucket = None
    if interval.bucket_of(oldest_ms) != interval.bucket_of(newest_ms):
        bucket = interval.buckets_of(trades.time)
    starts = _starts(trades.slot, bucket)
    if not _sorted(trades.slot, bucket, trades.id, starts):
        order = np.lexsort((trades.id, *(() if bucket is None else (bucket,)), trades.slot))
        trades, bucket = trades.select(order), None if bucket is None else bucket[order]
        starts = _starts(trades.slot, bucket)
    ends = np.append(starts[1:], len(trades)) - 1
    taker = ~trades.maker
    return Segments(
        slot=trades.slot[starts],
        bucket=interval.buckets_of(trades.time[starts]),
        open_minute=trades.time[starts] // MINUTE_MS,
        open_id=trades.id[starts],
        open=trades.price[starts],
        close_minute=trades.time[ends] // MINUTE_MS,
        close_id=trades.id[ends],
        close=trades.price[ends],
        high=np.maximum.reduceat(trades.price, starts),
        low=np.minimum.reduceat(trades.price, starts),
        volume=_sum(trades.qty, starts),
        quote_volume=_sum(trades.quote, starts),
        trades=np.add.reduceat(trades.last - trades.first + 1, starts),
        taker_buy_volume=_sum(trades.qty * taker, starts),
        taker_buy_quote_volume=_sum(trades.quote * taker, starts),
        first_trade_id=np.minimum.reduceat(trades.first, starts),
        last_trade_id=np.maximum.reduceat(trades.last, starts),
        agg=trades.agg[starts],
    )


def longer(minutes: Segments, bucket: Ints) -> Segments:
    """One-minute segments folded again into longer bars.

    `bucket` (int64 [n], ascending within a slot) is each segment's bucket in the longer interval.
    """
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
    """Sums per segment; one that may not fit stands at its limit, never wrapped: `merge` marks its bar as broken."""
    sums: Ints = np.add.reduceat(values, starts)
    if values.dtype != np.object_ and int(values.max()) * len(values) > SUM_MAX:
        beyond = np.add.reduceat(values.astype(np.float64), starts) >= QUOTE_MAX
        sums = np.where(beyond, SUM_MAX + 1, sums)
    return sums


def merge(ring: Ring, interval: int, part: Segments) -> tuple[Ints, Bools]:
    """Fold segments into the ring's bars of one interval; their flat cells (int64 [n]), and which of those bars had no
    trade before (boolean [n]).

    Segments must lie in buckets that have rows. A sum that would not fit stands at its limit and its bar is `broken`.
    """
    cells = ring.rows_of(interval, part.bucket) * ring.capacity + part.slot
    return cells, merge_cells(ring, cells[None], part)[0]


def merge_cells(ring: Ring, cells: Ints, part: Segments) -> Bools:
    """`merge` into the bars of several intervals at once. `cells` is int64 [interval, segment]; so is the result, which
    bars had no trade before."""
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


class BarFolder:
    """Folds trades into all intervals of a ring, and begins the bars of symbols with their trades."""

    def __init__(self, ring: Ring, finality: Finality) -> None:
        self._ring, self._finality = ring, finality
        self._minutes_at = ring.intervals.index(MINUTE) if MINUTE in ring.intervals else None
        self._longer = [(at, each) for at, each in enumerate(ring.intervals) if each.shortest_ms > MINUTE_MS]
        self._minute = NO_BUCKET
        """The minute in progress, as long as longer bars may lack something of it."""
        self._owed = np.zeros(0, np.bool_)
        """By slot, whether they do."""
        self._settled: Ints = np.zeros((0, len(SUMS)), np.int64)
        """By slot, the sums of that minute that they have."""
        self.pressing = False
        """Whether trades outside of the minute in progress came: bars may be over before the next second."""
        self.first_trades: list[tuple[int, str, int]] = []
        """Slot, interval and open time (exchange ms) of bars whose first trade is not published yet."""

    def fold(self, trades: Trades, step_ms: int) -> None:
        """Fold trades (at least one) at the tick `step_ms` (exchange ms); longer bars lack those of its minute until
        `settle`."""
        minutes, minute = segments_of(trades, MINUTE), step_ms // MINUTE_MS
        if self._minutes_at is not None and (minute != self._minute or len(self._owed) < self._ring.capacity):
            self._begin(self._minutes_at, minute)
        for at, interval in enumerate(self._ring.intervals):
            if interval is MINUTE:
                self._merge(at, minutes)
            elif interval.length_ms and interval.length_ms < MINUTE_MS:
                self._merge(at, segments_of(trades, interval))
        now = minutes.bucket == minute
        self.pressing = self._minutes_at is None or not now.all()
        if self._minutes_at is not None:
            self._owed[minutes.slot[now]] = True
        if self.pressing:
            self._merge_longer(minutes if self._minutes_at is None else minutes.select(~now))

    def _begin(self, at: int, minute: int) -> None:
        """From here on `minute` is the one in progress; what it has so far, longer bars have too."""
        self.settle()
        ring, self._minute = self._ring, minute
        first = ring.row_of(at, minute) * ring.capacity
        self._settled = ring.state[first : first + ring.capacity, TOTALS].copy()
        self._owed = np.zeros(ring.capacity, np.bool_)

    def settle(self) -> None:
        """Give longer bars the trades that they lack. When it is called does not change the outputs."""
        self.pressing = False
        minute, self._minute = self._minute, NO_BUCKET
        slots = np.flatnonzero(self._owed)
        if minute == NO_BUCKET or self._minutes_at is None or not len(slots):
            return
        ring = self._ring
        row = ring.row_of(self._minutes_at, minute)
        bars = np.take(ring.state, row * ring.capacity + slots, axis=0).T
        bars[TOTALS] -= self._settled[slots].T
        fields = {name: bars[FIELD[name]] for name in Segments.__slots__ if name in FIELD}
        part = Segments(slot=slots, bucket=np.full(len(slots), minute), agg=ring.agg[row, slots], **fields)
        self._merge_longer(part)
        broken = ring.broken[row, slots]
        if broken.any():
            self._break_longer(part.select(broken))

    def _merge_longer(self, minutes: Segments) -> None:
        """Minutes' segments into every longer bar, in one go where they are of one minute."""
        ring, minute = self._ring, minutes.bucket[:1].tolist()
        if not minute:
            return
        if (minutes.bucket != minute[0]).any():
            for at, interval in self._longer:
                self._merge(at, longer(minutes, interval.buckets_of(minutes.bucket * MINUTE_MS)))
            return
        buckets = [(at, interval.bucket_of(minute[0] * MINUTE_MS)) for at, interval in self._longer]
        buckets = [(at, bucket) for at, bucket in buckets if bucket >= ring.oldest(at)]
        if buckets:
            rows = np.array([ring.row_of(at, bucket) for at, bucket in buckets])
            cells = rows[:, None] * ring.capacity + minutes.slot
            fresh = merge_cells(ring, cells, minutes)
            for number, (at, bucket) in enumerate(buckets):
                self._finality.start(at, np.full(len(minutes.slot), bucket), minutes.slot)
                self._note_first_trades(at, cells[number], fresh[number])

    def _break_longer(self, minutes: Segments) -> None:
        """What a minute's sums do not hold, those of longer bars do not either."""
        for at, interval in enumerate(self._ring.intervals):
            if interval.shortest_ms > MINUTE_MS:
                rows = self._ring.rows_of(at, interval.buckets_of(minutes.bucket * MINUTE_MS))
                self._ring.break_bars(rows * self._ring.capacity + minutes.slot)

    def clear_slot(self, slot: int) -> None:
        """Forget what longer bars of the slot lack, and its first trades."""
        self._owed[slot : slot + 1], self._settled[slot : slot + 1] = False, 0
        self.first_trades = [each for each in self.first_trades if each[0] != slot]

    def drain_first_trades(self) -> list[tuple[int, str, int]]:
        """Slot, interval and open time (exchange ms) of the bars that got their first trade since the last call."""
        found, self.first_trades = self.first_trades, []
        return found

    def _merge(self, at: int, part: Segments) -> None:
        """Fold segments into one interval's bars; those that had no trade before are noted for the events."""
        ring = self._ring
        here = part.bucket >= ring.oldest(at)
        if not here.all():
            part = part.select(here)
        cells, fresh = merge(ring, at, part)
        self._finality.start(at, part.bucket, part.slot)
        self._note_first_trades(at, cells, fresh)

    def merge_moved(self, at: int, part: Segments) -> None:
        """Fold fills that were moved into a bar of one interval; it has the trades of all finished minutes."""
        cells, fresh = merge(self._ring, at, part)
        self._note_first_trades(at, cells, fresh)

    def _note_first_trades(self, at: int, cells: Ints, fresh: Bools) -> None:
        cells = cells[fresh]
        cells = cells[self._ring.state[cells, REVISION] == 0]
        if len(cells):
            interval, (rows, slots) = self._ring.intervals[at], np.divmod(cells, self._ring.capacity)
            opens = interval.opens_of(self._ring.row_bucket[rows]).tolist()
            self.first_trades += zip(slots.tolist(), [interval.name] * len(cells), opens, strict=True)

"""The state of all bars: struct-of-arrays over [interval, slot of the ring, symbol], one ring span for all intervals.

Open, waiting and amendable bars are the same thing at different ages, and this is the one place that holds them. An
array has a row per (interval, bucket in the ring) and a column per symbol; a cell is `row * capacity + symbol`, so a
fold over all intervals is one fancy-indexed operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aggregator.arrays import Bools, Ints
from klagg.errors import ArithmeticOverflow
from klagg.intervals import MINUTE_MS, Interval

AHEAD_MS = 60_000
"""A trade may be this far ahead of the last tick; later ones are held back until a tick comes."""
SUB_MINUTE_BUCKETS = 180
"""Buckets behind the head for intervals shorter than a minute: their window is shorter than W."""

NO_ID = -1
OFFICIAL_ID = -2
"""In place of the id of a trade that is known from the exchange's own kline alone; -1 on the wire."""
NO_BUCKET = np.iinfo(np.int64).min
_LARGEST = np.iinfo(np.int64).max
ENDLESS = _LARGEST
"""The end of a symbol that is listed."""
SUM_MAX = 1 << 62
"""No raised scale may bring a value beyond it: what is left of 64 bits is room for the trades to come."""

PRICES = ("open", "high", "low", "close")
SUMS = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
BAR_INTEGERS: dict[str, int] = {
    "open_minute": _LARGEST,
    "open_id": NO_ID,
    "open": 0,
    "close_minute": NO_ID,
    "close_id": NO_ID,
    "close": 0,
    "volume": 0,
    "quote_volume": 0,
    "trades": 0,
    "taker_buy_volume": 0,
    "taker_buy_quote_volume": 0,
    "high": 0,
    "low": 0,
    "first_trade_id": NO_ID,
    "last_trade_id": NO_ID,
    "revision": 0,
}
"""Every integer field of a bar and its value in an empty one. `open_id`/`close_id` are the ids of the first and last
trade by (minute, id); `revision` is 0 while the bar is in progress."""
BAR_FLAGS = ("agg", "waiting", "changed", "live_changed", "broken", "official", "covered")
"""`agg`: its ids are aggTrade ids. `waiting`: published, not yet proven. `changed`: by a trade since it was last
published as final. `live_changed`: since it last went to `live`. `broken`: a sum would not fit; it stands at its limit,
and the bar is never whole. `official`: it has parts that are the exchange's own klines. `covered`: official rows stand
for a part of it, also one of the same values, which changed nothing."""
EMPTY_BAR: Ints = np.array([*BAR_INTEGERS.values()])
FIELD = {name: at for at, name in enumerate(BAR_INTEGERS)}
"""The column of each integer field in `Ring.state`."""
REVISION = FIELD["revision"]

_BY_SYMBOL = {**dict.fromkeys(BAR_FLAGS, 0), "cursor": NO_BUCKET, "carry": 0, "shown": NO_BUCKET}
"""The other arrays whose columns are slots, and what stands in one that is not used."""


@dataclass(frozen=True, slots=True)
class Left:
    """Bars of one interval and bucket that left the ring unproven: slots [n], integer fields [n, field], `agg` [n]."""

    interval: int
    bucket: int
    slots: Ints
    state: Ints
    agg: Bools


class Ring:
    """Bars of all symbols. Fields are int64 arrays of shape [rows, capacity], named as in `BAR_INTEGERS`, and flags.

    `state` is all integer fields in one array [cell, field], so that a fold takes and puts back whole bars at once; the
    named fields are views of it.
    """

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
    revision: Ints
    agg: Bools
    waiting: Bools
    changed: Bools
    live_changed: Bools
    broken: Bools
    official: Bools
    covered: Bools

    def __init__(self, intervals: Sequence[Interval], window_ms: int, capacity: int) -> None:
        self.intervals = tuple(intervals)
        self.capacity = capacity
        self.span_ms = min(_window(each, window_ms) for each in self.intervals)
        """The shortest time that a bar stays in the ring after its close."""
        self.sizes = tuple(_size(each, window_ms) for each in self.intervals)
        self.bases = tuple(int(base) for base in np.cumsum((0, *self.sizes))[:-1])
        self.rows = sum(self.sizes)
        self.row_interval: Ints = np.repeat(np.arange(len(self.intervals)), self.sizes)
        self.row_bucket: Ints = np.full(self.rows, NO_BUCKET, np.int64)
        self.head: Ints = np.full(len(self.intervals), NO_BUCKET, np.int64)
        """The newest bucket of each interval that has a row."""
        self.cursor: Ints = np.full((len(self.intervals), capacity), NO_BUCKET, np.int64)
        """The oldest bucket of each interval and symbol that was not yet published as final."""
        self.carry: Ints = np.zeros((len(self.intervals), capacity), np.int64)
        """The close before the oldest row that the ring still holds."""
        self.shown: Ints = np.full((len(self.intervals), capacity), NO_BUCKET, np.int64)
        """The newest bucket of each interval and symbol that the live outputs have shown."""
        self.end_ms: Ints = np.full(capacity, ENDLESS, np.int64)
        """Each symbol's end: bars that open at or after it do not begin, the one that holds it ends there."""
        self.published: list[Ints] = []
        """Cells of published bars that were touched; finality drains them."""
        self.in_progress: list[list[Ints]] = [[] for _ in self.intervals]
        """Cells of bars in progress that were touched, by interval; the live outputs drain them."""
        self.broke: list[tuple[int, int, int]] = []
        """(interval, bucket, slot) of bars that broke and are not reported yet."""
        self.left: list[Left] = []
        """Own bars that left unproven since the last `drain_left`."""
        self.borrowed: dict[tuple[int, int, int], int] = {}
        """By (interval, bucket, slot), how many trades of an official bar longer than a minute are the exchange's."""
        self._lay_out(np.tile(EMPTY_BAR, (self.rows * capacity, 1)))
        for name in BAR_FLAGS:
            setattr(self, name, np.zeros((self.rows, capacity), np.bool_))

    def _lay_out(self, state: Ints) -> None:
        self.state = state
        for name, at in FIELD.items():
            setattr(self, name, state[:, at].reshape(self.rows, self.capacity))

    def grow(self, capacity: int) -> None:
        """Make all arrays this many symbols wide; cells keep their values."""
        more = capacity - self.capacity

        def wider(old: npt.NDArray[np.generic], fill: int) -> npt.NDArray[np.generic]:
            return np.concatenate([old, np.full((len(old), more), fill, old.dtype)], axis=1)

        for name, empty in _BY_SYMBOL.items():
            setattr(self, name, wider(getattr(self, name), empty))
        self.end_ms = np.concatenate([self.end_ms, np.full(more, ENDLESS, np.int64)])
        fields = [wider(getattr(self, name), empty).reshape(-1) for name, empty in BAR_INTEGERS.items()]
        self.published = [self._moved(cells, capacity) for cells in self.published]
        self.in_progress = [[self._moved(cells, capacity) for cells in each] for each in self.in_progress]
        self.capacity = capacity
        self._lay_out(np.stack(fields, axis=1))

    def _moved(self, cells: Ints, capacity: int) -> Ints:
        """Where these cells are when the ring has another capacity."""
        rows, slots = np.divmod(cells, self.capacity)
        moved: Ints = rows * capacity + slots
        return moved

    def clear_slot(self, slot: int) -> None:
        """Make every cell of the slot an empty bar."""
        for name, empty in (*BAR_INTEGERS.items(), *_BY_SYMBOL.items()):
            getattr(self, name)[:, slot] = empty
        self.end_ms[slot] = ENDLESS
        self.published = [cells[cells % self.capacity != slot] for cells in self.published]
        self.in_progress = [[cells[cells % self.capacity != slot] for cells in each] for each in self.in_progress]
        self.broke = [each for each in self.broke if each[2] != slot]
        self.borrowed = {key: trades for key, trades in self.borrowed.items() if key[2] != slot}

    def row_of(self, interval: int, bucket: int) -> int:
        """The row that holds `bucket` of the interval with that index."""
        return int(self.bases[interval] + bucket % self.sizes[interval])

    def rows_of(self, interval: int, buckets: Ints) -> Ints:
        """`row_of` over an array: rows [n] of buckets [n]."""
        return self.bases[interval] + buckets % self.sizes[interval]

    def bounds_of(self, rows: Ints) -> tuple[Ints, Ints]:
        """Open times of the bars of these rows [n], and of the bars behind them (exchange ms, int64 [n])."""
        opens, next_opens = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        intervals, buckets = self.row_interval[rows], self.row_bucket[rows]
        for at, kind in enumerate(self.intervals):
            here = intervals == at
            opens[here], next_opens[here] = kind.opens_of(buckets[here]), kind.opens_of(buckets[here] + 1)
        return opens, next_opens

    def oldest(self, interval: int) -> int:
        """The oldest bucket that still has a row."""
        return int(self.head[interval]) - self.sizes[interval] + 1

    @property
    def oldest_ms(self) -> int:
        """The open time (exchange ms) of the oldest bar that still has a row, over all intervals."""
        return min(kind.open_of(self.oldest(at)) for at, kind in enumerate(self.intervals))

    def advance(self, time_ms: int) -> None:
        """Make rows up to `time_ms` (exchange ms) + AHEAD_MS; the oldest rows go, and their closes become the carry.

        Rows that go must have been published, so the caller advances in steps smaller than the window.
        """
        for at, interval in enumerate(self.intervals):
            target = interval.bucket_of(time_ms + AHEAD_MS)
            first = max(int(self.head[at]) + 1, target - self.sizes[at] + 1)
            for bucket in range(first, target + 1):
                self._clear(at, bucket)
            self.head[at] = max(int(self.head[at]), target)

    def _clear(self, interval: int, bucket: int) -> None:
        row = self.row_of(interval, bucket)
        if self.row_bucket[row] != NO_BUCKET:
            passed = self.cursor[interval] > self.row_bucket[row]
            held = passed & ((self.revision[row] > 0) | (self.open_id[row] != NO_ID))
            np.copyto(self.carry[interval], self.close[row], where=held)
        for slot in np.flatnonzero(self.official[row]).tolist():
            self.borrowed.pop((interval, int(self.row_bucket[row]), slot), None)
        waiting = np.flatnonzero(self.waiting[row] & ~self.broken[row] & ~self.official[row])
        if len(waiting):
            state = self.state[row * self.capacity + waiting]
            self.left.append(Left(interval, int(self.row_bucket[row]), waiting, state, self.agg[row, waiting]))
        cells = slice(row * self.capacity, (row + 1) * self.capacity)
        self.state[cells] = EMPTY_BAR
        for name in BAR_FLAGS:
            getattr(self, name)[row].fill(False)
        self.row_bucket[row] = bucket

    def close_before(self, interval: int, buckets: Ints, slots: Ints) -> Ints:
        """The close that empty bars carry (mantissas [n] at the price scale): that of the bar before, in ring or carry.

        `buckets` and `slots` are int64 [n].
        """
        rows = self.rows_of(interval, buckets - 1)
        in_ring = (self.row_bucket[rows] == buckets - 1) & (self.revision[rows, slots] > 0)
        closes: Ints = np.where(in_ring, self.close[rows, slots], self.carry[interval, slots])
        return closes

    def touch(self, cells: Ints) -> None:
        """Note that the values of these flat cells (int64 [n], of one interval) changed: publish or show them anew."""
        if not len(cells):
            return
        self.changed.reshape(-1)[cells] = True
        out = self.state[cells, REVISION] > 0
        if out.any():
            self.published.append(cells[out])
            cells = cells[~out]
        flags = self.live_changed.reshape(-1)
        cells = cells[~flags[cells]]
        if len(cells):
            flags[cells] = True
            self.in_progress[int(self.row_interval[cells[0] // self.capacity])].append(cells)

    def break_bars(self, cells: Ints) -> None:
        """Mark bars (flat cells [n] of one interval) with a sum that would not fit: they are never whole."""
        flags = self.broken.reshape(-1)
        fresh = cells[~flags[cells]]
        flags[fresh] = True
        rows, slots = np.divmod(fresh, self.capacity)
        self.broke += zip(self.row_interval[rows].tolist(), self.row_bucket[rows].tolist(), slots.tolist(), strict=True)

    def cover(self, slot: int, starts: Ints, ends: Ints) -> None:
        """Note that official rows stand for these times (int64 [n] each, exchange ms, ends exclusive) of a symbol, in
        all of its bars that the ring holds and that are not shorter than a minute."""
        for at, kind in enumerate(self.intervals):
            if kind.shortest_ms < MINUTE_MS or self.head[at] == NO_BUCKET:
                continue
            firsts = np.maximum(kind.buckets_of(starts), self.oldest(at))
            counts = np.maximum(np.minimum(kind.buckets_of(ends - 1), self.head[at]) - firsts + 1, 0)
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            self.covered[self.rows_of(at, np.repeat(firsts, counts) + within), slot] = True

    def find_touched(self) -> None:
        """Look for touched cells by their flags, after a restart."""
        self.published = [np.flatnonzero(self.changed & (self.revision > 0))]
        cells = np.flatnonzero(self.live_changed & (self.revision == 0))
        owners = self.row_interval[cells // self.capacity]
        self.in_progress = [[cells[owners == at]] for at in range(len(self.intervals))]

    def drain_left(self) -> list[Left]:
        """The own bars that left unproven since the last call, oldest first in every interval."""
        left, self.left = self.left, []
        return left

    def drain_published(self) -> Ints:
        """Cells of published bars that changed since they were last published, ascending."""
        if not self.published:
            return np.zeros(0, np.int64)
        cells, self.published = np.unique(np.concatenate(self.published)), []
        changed: Ints = cells[(self.changed & (self.revision > 0)).reshape(-1)[cells]]
        return changed

    def drain_in_progress(self, interval: int) -> Ints:
        """Cells of an interval's bars in progress that changed since they were last shown, each once."""
        if not self.in_progress[interval]:
            return np.zeros(0, np.int64)
        cells, self.in_progress[interval] = np.concatenate(self.in_progress[interval]), []
        flags = self.live_changed.reshape(-1)
        shown: Ints = cells[flags[cells] & (self.state[cells, REVISION] == 0)]
        flags[cells] = False
        return shown

    def lacks_price(self, rows: Ints, slots: Ints) -> Bools:
        """Which bars (ring rows and slots, int64 [n]) have no trade and no own price, and so carry the close before."""
        lacking: Bools = (self.open_id[rows, slots] == NO_ID) & ~self.official[rows, slots]
        return lacking

    def set_prices(self, rows: Ints, slots: Ints, closes: Ints) -> None:
        """Set open, high, low and close of empty bars to the carried closes (mantissas [n] at the price scale)."""
        for prices in (self.open, self.high, self.low, self.close):
            prices[rows, slots] = closes

    def rescale(self, slot: int, price_decimals: int, qty_decimals: int) -> None:
        """Multiply one symbol's prices and quantities by ten to these powers, which may be negative.

        ArithmeticOverflow, and nothing is changed, if a value does not fit, or would lose a decimal.
        """
        sums = {"volume": qty_decimals, "taker_buy_volume": qty_decimals}
        quotes = dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), price_decimals + qty_decimals)
        parts = (dict.fromkeys((*PRICES, "carry"), price_decimals) | sums | quotes).items()
        columns = [(getattr(self, name)[:, slot], decimals) for name, decimals in parts]
        check_multiply(columns)
        for values, decimals in columns:
            multiply(values, decimals)


def check_multiply(columns: Iterable[tuple[Ints, int]]) -> None:
    """ArithmeticOverflow unless every column's values times ten to its power are integers of at most 62 bits."""
    for values, decimals in columns:
        if decimals < 0 and (values % 10**-decimals).any():
            raise ArithmeticOverflow(f"a bar's value needs all its decimals: {-decimals} of them cannot go")
        if decimals > 0 and int(values.max(initial=0)) * 10**decimals > SUM_MAX:
            raise ArithmeticOverflow(f"a bar's value times 10^{decimals} does not fit 62 bits: no scale can be raised")


def multiply(values: Ints, decimals: int) -> None:
    """Checked values times ten to a power, in place; the power itself may be beyond 64 bits where all are zero."""
    if values.any() and decimals < 0:
        values //= 10**-decimals
    elif values.any():
        values *= 10**decimals


def _window(interval: Interval, window_ms: int) -> int:
    """How far behind the head the interval's rows reach."""
    if interval.length_ms and interval.length_ms < MINUTE_MS:
        return min(window_ms, SUB_MINUTE_BUCKETS * interval.length_ms)
    return window_ms


def _size(interval: Interval, window_ms: int) -> int:
    return (_window(interval, window_ms) + AHEAD_MS) // interval.shortest_ms + 3

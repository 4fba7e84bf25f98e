"""Folding the exchange's own klines into the ring: a minute is replaced, longer bars get the difference.

Free functions over arrays, as in `aggregator.fold`. An official row brings values, no ids: sums are folded as the
difference to what the bar had of that time, extremes by max and min, open and close by the order of time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.fold import FIRST, LAST, TOTALS
from aggregator.official_rows import CLOSE, HIGH, LOW, OPEN, QUOTE, TAKER, TAKER_QUOTE, VOLUME, OfficialRows
from aggregator.ring import FIELD, NO_ID, OFFICIAL_ID, PRICES, SUM_MAX, Ring
from klagg.intervals import MINUTE, MINUTE_MS

OPEN_MINUTE, OPEN_ID = FIELD["open_minute"], FIELD["open_id"]
CLOSE_MINUTE = FIELD["close_minute"]
IDS = [FIELD["first_trade_id"], FIELD["last_trade_id"]]
BEYOND = 2.0**62


@dataclass(slots=True)
class Deltas:
    """N official rows, sorted by slot and open time, as differences to what they replace. All arrays are int64 but
    `flat`.

    `slot`, `open_time` (exchange ms) and `length` (ms) are [n]; `prices` [4, n] and `sums` [5, n], the latter in the
    order of SUMS and less what the row replaces, are mantissas at their symbols' scales. `borrowed` [n] is how many
    more of the bar's trades are the exchange's with the row; `flat` [n] whether it has no trades. `own_ids` [2, n] is
    the range of fill ids of own trades that the row replaces.
    """

    slot: Ints
    open_time: Ints
    length: Ints
    prices: Ints
    sums: Ints
    borrowed: Ints
    flat: Bools
    own_ids: Ints

    @classmethod
    def of(cls, rows: OfficialRows, values: Ints) -> Deltas:
        """Rows that replace nothing. `values` is [8, n], in the order of official_rows.VALUES, at the symbols'
        scales."""
        sums = np.stack([values[VOLUME], values[QUOTE], rows.trades, values[TAKER], values[TAKER_QUOTE]])
        return cls(
            rows.slot,
            rows.open_time,
            rows.length,
            values[OPEN : CLOSE + 1],
            sums,
            rows.trades,
            rows.trades == 0,
            np.full((2, len(rows)), NO_ID, np.int64),
        )

    def __len__(self) -> int:
        return len(self.slot)

    def select(self, which: Ints | Bools) -> Deltas:
        """Some of the rows, by index or mask."""
        return Deltas(*(getattr(self, each.name)[..., which] for each in fields(self)))


def replace_minutes(ring: Ring, at: int, deltas: Deltas) -> Deltas:
    """Put whole official minutes in the place of own ones, in buckets that have rows; the differences for longer bars.

    `at` is the index of the interval 1m.
    """
    minutes = deltas.open_time // MINUTE_MS
    cells = ring.rows_of(at, minutes) * ring.capacity + deltas.slot
    before = ring.state[cells]
    bars, flat = before.copy(), deltas.flat
    bars[:, OPEN_MINUTE] = np.where(flat, np.iinfo(np.int64).max, minutes)
    bars[:, CLOSE_MINUTE] = np.where(flat, NO_ID, minutes)
    bars[:, [OPEN_ID, FIELD["close_id"]]] = np.where(flat, NO_ID, OFFICIAL_ID)[:, None]
    for name, prices in zip(PRICES, deltas.prices, strict=True):
        bars[:, FIELD[name]] = prices
    bars[:, TOTALS] = deltas.sums.T
    bars[:, IDS] = NO_ID
    ring.state[cells] = bars
    was_official = ring.official.reshape(-1)[cells]
    ring.official.reshape(-1)[cells] = True
    ring.broken.reshape(-1)[cells] = False
    ring.touch(cells[(bars != before).any(axis=1)])
    already = np.where(was_official, before[:, FIELD["trades"]], 0)
    return Deltas(
        deltas.slot,
        deltas.open_time,
        deltas.length,
        deltas.prices,
        (bars - before)[:, TOTALS].T,
        deltas.borrowed - already,
        flat,
        before[:, IDS].T,
    )


def close_shorter(ring: Ring, at: int, deltas: Deltas) -> None:
    """Let the last bar of each official minute, in a shorter interval, close as the minute does.

    An official minute tells nothing else about its parts, which stay incomplete. But empty bars after it carry that
    close, and may be proven.
    """
    buckets = ring.intervals[at].buckets_of(deltas.open_time + deltas.length - 1)
    rows = ring.rows_of(at, buckets)
    here = ring.row_bucket[rows] == buckets
    cells, closes = (rows * ring.capacity + deltas.slot)[here], deltas.prices[CLOSE, here]
    bars = ring.state[cells]
    empty = bars[:, OPEN_ID] == NO_ID
    before = bars.copy()
    for name, best in (("open", None), ("high", np.maximum), ("low", np.minimum)):
        held = bars[:, FIELD[name]]
        bars[:, FIELD[name]] = np.where(empty, closes, held if best is None else best(held, closes))
    bars[:, FIELD["close"]] = closes
    changed = (bars != before).any(axis=1)
    ring.state[cells] = bars
    ring.official.reshape(-1)[cells[changed | empty]] = True
    ring.touch(cells[changed])


def fold_in(ring: Ring, at: int, deltas: Deltas) -> None:
    """Fold rows into the bars that hold them, of the interval with index `at`, in buckets that have rows."""
    buckets = ring.intervals[at].buckets_of(deltas.open_time)
    cells = ring.rows_of(at, buckets) * ring.capacity + deltas.slot
    touched = np.unique(cells)
    before = ring.state[touched]
    ring.official.reshape(-1)[touched] = True
    solid = ~deltas.flat
    if solid.any():
        _fold_solid(ring, at, cells[solid], buckets[solid], deltas.select(solid))
    if deltas.flat.any():
        _fold_flat(ring, cells[deltas.flat], deltas.prices[CLOSE, deltas.flat])
    ring.touch(touched[(ring.state[touched] != before).any(axis=1)])


def _fold_flat(ring: Ring, cells: Ints, closes: Ints) -> None:
    """A flat row gives bars without trades their price, and changes no other bar."""
    empty = ring.state[cells, OPEN_ID] == NO_ID
    for name in PRICES:
        ring.state[cells[empty], FIELD[name]] = closes[empty]


def _fold_solid(ring: Ring, at: int, cells: Ints, buckets: Ints, deltas: Deltas) -> None:
    starts = np.flatnonzero(np.append(True, cells[1:] != cells[:-1]))
    ends = np.append(starts[1:], len(cells)) - 1
    own = cells[starts]
    bars = ring.state[own]
    fresh = bars[:, OPEN_ID] == NO_ID
    minutes, last_minutes = deltas.open_time // MINUTE_MS, (deltas.open_time + deltas.length) // MINUTE_MS - 1
    earlier = fresh | (bars[:, OPEN_MINUTE] >= minutes[starts])
    later = fresh | (bars[:, CLOSE_MINUTE] <= last_minutes[ends])
    official = np.full(len(own), OFFICIAL_ID)
    firsts = np.stack([minutes[starts], official, deltas.prices[OPEN, starts]], axis=1)
    lasts = np.stack([last_minutes[ends], official, deltas.prices[CLOSE, ends]], axis=1)
    bars[:, FIRST] = np.where(earlier[:, None], firsts, bars[:, FIRST])
    bars[:, LAST] = np.where(later[:, None], lasts, bars[:, LAST])
    for name, price, best in (("high", HIGH, np.maximum), ("low", LOW, np.minimum)):
        more, values = best.reduceat(deltas.prices[price], starts), bars[:, FIELD[name]]
        bars[:, FIELD[name]] = np.where(fresh, more, best(values, more))
    _add_sums(ring, own, bars, deltas.sums, starts)
    borrowed = np.add.reduceat(deltas.borrowed, starts).tolist()
    for bucket, slot, more in zip(buckets[starts].tolist(), deltas.slot[starts].tolist(), borrowed, strict=True):
        key = at, bucket, slot
        ring.borrowed[key] = ring.borrowed.get(key, 0) + more
    ring.state[own] = bars
    for group, (start, end) in enumerate(zip(starts.tolist(), (ends + 1).tolist(), strict=True)):
        gone = deltas.own_ids[:, start:end]
        gone = gone[:, gone[0] != NO_ID]
        if gone.size:
            span = int(gone[0].min()), int(gone[1].max())
            _renew_ids(ring, at, int(buckets[start]), int(deltas.slot[start]), int(own[group]), span)


def _add_sums(ring: Ring, cells: Ints, bars: Ints, sums: Ints, starts: Ints) -> None:
    """The sums of `bars` with the differences; one that would not fit stands at its limit and its bar is broken."""
    broken = ring.broken.reshape(-1)[cells]
    rough = np.add.reduceat(sums.astype(np.float64), starts, axis=1).T + bars[:, TOTALS]
    total = bars[:, TOTALS] + np.add.reduceat(sums, starts, axis=1).T
    beyond = (np.abs(rough) >= BEYOND) | (total < 0) | (total > SUM_MAX)
    total[beyond] = SUM_MAX + 1
    bars[:, TOTALS] = np.where(broken[:, None], bars[:, TOTALS], total)
    ring.break_bars(cells[beyond.any(axis=1) & ~broken])


def _renew_ids(ring: Ring, at: int, bucket: int, slot: int, cell: int, gone: tuple[int, int]) -> None:
    """The fill ids of a bar some of whose own trades no longer count, from the minutes that the ring holds.

    Where they would be those of older minutes, they are not known any more.
    """
    bar, kind, minutes_at = ring.state[cell], ring.intervals[at], ring.intervals.index(MINUTE)
    if bar[FIELD["trades"]] == ring.borrowed[at, bucket, slot]:
        bar[IDS] = NO_ID
        return
    first = max(kind.open_of(bucket) // MINUTE_MS, ring.oldest(minutes_at))
    last = min(kind.open_of(bucket + 1) // MINUTE_MS - 1, int(ring.head[minutes_at]))
    rows = ring.rows_of(minutes_at, np.arange(first, last + 1))
    known = ring.first_trade_id[rows, slot] != NO_ID
    for at_id, name, best in ((0, "first_trade_id", np.min), (1, "last_trade_id", np.max)):
        if gone[0] <= bar[IDS[at_id]] <= gone[1]:
            left = getattr(ring, name)[rows, slot][known]
            bar[IDS[at_id]] = best(left) if len(left) else NO_ID


def same_values(ring: Ring, cells: Ints, deltas: Deltas) -> Bools:
    """Which of these bars (flat cells [n]) have trades, and the nine values of their rows."""
    bars = ring.state[cells]
    prices = np.stack([bars[:, FIELD[name]] for name in PRICES]) == deltas.prices
    same: Bools = prices.all(axis=0) & (deltas.sums == bars[:, TOTALS].T).all(axis=0) & ~deltas.flat
    return same

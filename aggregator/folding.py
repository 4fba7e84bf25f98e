"""Folding a tick's trades into the ring, intervals longer than a minute a little later than the others.

Minutes and shorter bars get their trades at once. Longer bars lack those of the minute in progress until somebody looks
at them, which is once a second: then they get what that minute's bars have become since.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aggregator.finality import Finality
from aggregator.fold import TOTALS, Rows, Segments, longer, merge, merge_cells, segments_of
from aggregator.ring import FIELD, NO_BUCKET, REVISION, SUMS, Ring
from klagg.intervals import MINUTE, MINUTE_MS

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Folder:
    """Folds into a ring, and begins the bars of symbols with their trades."""

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
        """Slot, interval and open time of bars whose first trade is to be told."""

    def fold(self, rows: Rows, step_ms: int) -> None:
        """Fold rows (at least one) at the tick `step_ms`; longer bars lack those of its minute until `settle`."""
        minutes, minute = segments_of(rows, MINUTE), step_ms // MINUTE_MS
        if self._minutes_at is not None and (minute != self._minute or len(self._owed) < self._ring.capacity):
            self._begin(self._minutes_at, minute)
        for at, interval in enumerate(self._ring.intervals):
            if interval is MINUTE:
                self._merge(at, minutes)
            elif interval.length_ms and interval.length_ms < MINUTE_MS:
                self._merge(at, segments_of(rows, interval))
        now = minutes.bucket == minute
        self.pressing = self._minutes_at is None or not now.all()
        if self._minutes_at is not None:
            self._owed[minutes.slot[now]] = True
        if self.pressing:
            self._merge_longer(minutes if self._minutes_at is None else minutes.take(~now))

    def _begin(self, at: int, minute: int) -> None:
        """From here on `minute` is the one in progress; what it has so far, longer bars have too."""
        self.settle()
        ring, self._minute = self._ring, minute
        first = ring.row_of(at, minute) * ring.capacity
        self._settled = ring.state[first : first + ring.capacity, TOTALS].copy()
        self._owed = np.zeros(ring.capacity, np.bool_)

    def settle(self) -> None:
        """Give longer bars what they lack. When that happens cannot be told from the outputs."""
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
            self._break_longer(part.take(broken))

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
        """As if the slot had never been used."""
        self._owed[slot : slot + 1], self._settled[slot : slot + 1] = False, 0
        self.first_trades = [each for each in self.first_trades if each[0] != slot]

    def take_first_trades(self) -> list[tuple[int, str, int]]:
        """Slot, interval and open time of the bars that got their first trade since the last call."""
        found, self.first_trades = self.first_trades, []
        return found

    def _merge(self, at: int, part: Segments) -> None:
        """Fold segments into one interval's bars; who had no trade before is noted for the events."""
        ring = self._ring
        here = part.bucket >= ring.oldest(at)
        if not here.all():
            part = part.take(here)
        cells, fresh = merge(ring, at, part)
        self._finality.start(at, part.bucket, part.slot)
        self._note_first_trades(at, cells, fresh)

    def _note_first_trades(self, at: int, cells: Ints, fresh: Bools) -> None:
        cells = cells[fresh]
        cells = cells[self._ring.state[cells, REVISION] == 0]
        if len(cells):
            interval, (rows, slots) = self._ring.intervals[at], np.divmod(cells, self._ring.capacity)
            opens = interval.opens_of(self._ring.row_bucket[rows]).tolist()
            self.first_trades += zip(slots.tolist(), [interval.name] * len(cells), opens, strict=True)

"""Folding a tick's trades into the ring, intervals longer than a minute a little later than the others.

Minutes and shorter bars get their trades at once. Longer ones are folded from the same minutes' segments, and may lack
those of the minute in progress for a while: nobody looks at them before they are shown, once a second.
"""

from __future__ import annotations

import numpy as np

from aggregator.finality import Finality
from aggregator.fold import Rows, Segments, joined, longer, merge, segments_of
from aggregator.ring import Ring
from klagg.intervals import MINUTE, MINUTE_MS

OWED_MAX = 8
"""Folds that the longer intervals may be behind."""


class Folder:
    """Folds into a ring, and begins the bars of symbols with their trades."""

    def __init__(self, ring: Ring, finality: Finality) -> None:
        self._ring, self._finality = ring, finality
        self._owed: list[Segments] = []
        """Minutes' segments that the longer intervals lack."""
        self.first_trades: list[tuple[int, str, int]] = []
        """Slot, interval and open time of bars whose first trade is to be told."""

    def fold(self, rows: Rows) -> None:
        """Fold rows (at least one); the longer intervals lack them until `settle`."""
        minutes = segments_of(rows, MINUTE)
        for at, interval in enumerate(self._ring.intervals):
            if interval is MINUTE:
                self._merge(at, minutes)
            elif interval.length_ms and interval.length_ms < MINUTE_MS:
                self._merge(at, segments_of(rows, interval))
        self._owed.append(minutes)

    def may_owe(self, step_ms: int) -> bool:
        """Whether the longer intervals may be left behind: while all that they lack lies in the minute of the tick,
        none of the bars that lack it can be over, or out already."""
        minute = step_ms // MINUTE_MS
        return len(self._owed) <= OWED_MAX and all(
            int(part.bucket.min()) == minute == int(part.bucket.max()) for part in self._owed
        )

    def settle(self) -> None:
        """Fold what intervals longer than a minute lack. When that happens cannot be told from the outputs."""
        if not self._owed:
            return
        owed, self._owed = joined(self._owed), []
        for at, interval in enumerate(self._ring.intervals):
            if interval.shortest_ms > MINUTE_MS:
                self._merge(at, longer(owed, interval.buckets_of(owed.bucket * MINUTE_MS)))

    def take_first_trades(self) -> list[tuple[int, str, int]]:
        """Slot, interval and open time of the bars that got their first trade since the last call."""
        found, self.first_trades = self.first_trades, []
        return found

    def _merge(self, at: int, part: Segments) -> None:
        """Fold segments into one interval's bars; who had no trade before is noted for the events."""
        ring, interval = self._ring, self._ring.intervals[at]
        here = part.bucket >= ring.oldest(at)
        if not here.all():
            part = part.take(here)
        cells, fresh = merge(ring, at, part)
        self._finality.start(at, part.bucket, part.slot)
        opened = np.flatnonzero(fresh)
        if len(opened):
            opened = opened[ring.revision.reshape(-1)[cells[opened]] == 0]
            opens = interval.opens_of(part.bucket[opened]).tolist()
            self.first_trades += zip(part.slot[opened].tolist(), [interval.name] * len(opened), opens, strict=True)

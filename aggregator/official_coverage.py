"""Times of each symbol that the exchange's own klines cover: merged, half-open ranges by slot.

In a covered minute no own trade counts any more: later ones are dropped, and ids that are missing there taint nothing.
"""

from __future__ import annotations

import numpy as np

from aggregator.arrays import Bools, Ints
from klagg.intervals import MINUTE_MS

NO_TIME = np.iinfo(np.int64).min
NEVER = np.iinfo(np.int64).max


class Coverage:
    """`ranges` are, by slot, int64 arrays [2, k] of starts and ends in exchange ms, ascending, with time between them.

    Starts and ends that methods get are int64 [n] in exchange ms. `newest_ms` is the end of the latest range that was
    ever added: nothing at or after it is covered.
    """

    def __init__(self) -> None:
        self.ranges: dict[int, Ints] = {}
        self.newest_ms = NO_TIME

    def add(self, slot: int, starts: Ints, ends: Ints) -> None:
        """Cover these ranges [start, end) too, in any order."""
        if not len(starts):
            return
        found: Ints = np.stack([starts, ends])
        if slot in self.ranges:
            found = np.concatenate([self.ranges[slot], found], axis=1)
        found = found[:, np.argsort(found[0], kind="stable")]
        reached = np.maximum.accumulate(found[1])
        heads = np.flatnonzero(np.append(True, found[0, 1:] > reached[:-1]))
        self.ranges[slot] = np.stack([found[0, heads], reached[np.append(heads[1:] - 1, len(reached) - 1)]])
        self.newest_ms = max(self.newest_ms, int(reached[-1]))

    def overlaps(self, slot: int, starts: Ints, ends: Ints) -> Bools:
        """Which of these ranges [start, end) hold a covered time."""
        if slot not in self.ranges:
            return np.zeros(len(starts), np.bool_)
        low, _ = self._next(slot, starts)
        found: Bools = low < ends
        return found

    def holds(self, slot: int, starts: Ints, ends: Ints) -> Bools:
        """Which of these ranges [start, end) are covered as a whole."""
        if slot not in self.ranges:
            return np.zeros(len(starts), np.bool_)
        low, high = self._next(slot, starts)
        found: Bools = (low <= starts) & (high >= ends)
        return found

    def _next(self, slot: int, times: Ints) -> tuple[Ints, Ints]:
        """The first ranges that end after these times; beyond the last one, none that could hold anything."""
        low, high = self.ranges[slot]
        at = np.searchsorted(high, times, side="right")
        return np.append(low, NEVER)[at], np.append(high, NO_TIME)[at]

    def around(self, slot: int, time_ms: int) -> tuple[int, int] | None:
        """The range [start, end) that holds this time (exchange ms), or None."""
        if slot in self.ranges:
            for low, high in zip(*self.ranges[slot].tolist(), strict=True):
                if low <= time_ms < high:
                    return low, high
        return None

    def holds_minutes(self, slot: int, first_ms: int, last_ms: int) -> bool:
        """Whether all minutes from that of `first_ms` to that of `last_ms` (exchange ms) are covered."""
        found = self.around(slot, first_ms)
        return found is not None and found[0] <= first_ms - first_ms % MINUTE_MS and found[1] > last_ms

    def keep(self, slot: int, which: Bools) -> None:
        """Forget the ranges of a slot for which `which` (boolean [k]) is false."""
        self.ranges[slot] = self.ranges[slot][:, which]
        if not self.ranges[slot].size:
            del self.ranges[slot]

    def forget(self, slot: int) -> None:
        """Nothing of this slot is covered any more."""
        self.ranges.pop(slot, None)

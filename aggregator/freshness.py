"""How long after its close a bar was final, and how long after it proven: histograms by interval. Pure.

Both are exchange time: from the bar's close, or from its symbol's end if that is earlier, to the tick that published
it. What is published counts, and not what a restart reads again in silence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.encoding import Snapshot
from aggregator.finality import AMENDED, CONFIRMED, Published
from aggregator.ring import Ring
from klagg.intervals import Interval
from klagg.process.histograms import BOUNDS_MS, BUCKETS, Histogram

_BOUNDS = np.array(BOUNDS_MS, np.int64)


class Freshness:
    """Histograms in the order of the intervals: `to_final` of all finals, `to_proof` of the bars that own ids proved.

    A bar for which official rows stand is never proven and is in `to_final` alone. `time_ms` is the exchange time of
    the tick that is under way: all steps of a long jump are published at its end.
    """

    def __init__(self, intervals: Sequence[Interval]) -> None:
        self.to_final = [Histogram() for _ in intervals]
        self.to_proof = [Histogram() for _ in intervals]
        self.time_ms = 0

    def note(self, ring: Ring, group: Published, bars: Snapshot) -> None:
        """Count a group that is published; `bars` are its bars as they were at the tick."""
        first = group.reason not in (AMENDED, CONFIRMED)
        proven = bars.complete if first else bars.complete & group.was_waiting
        if not first and not proven.any():
            return
        closes = np.minimum(bars.next_open, ring.end_ms[bars.slots])
        delays = np.maximum(self.time_ms - closes, 0)
        if first:
            _count(self.to_final[group.interval], delays)
        _count(self.to_proof[group.interval], delays, proven)


def _count(histogram: Histogram, delays: Ints, which: Bools | None = None) -> None:
    """Count delays (ms, int64 [n]), or `which` of them."""
    delays = delays if which is None else delays[which]
    if len(delays):
        buckets = np.searchsorted(_BOUNDS, delays)
        histogram.add(np.bincount(buckets, minlength=BUCKETS).tolist(), int(delays.sum()))

"""Histograms of durations: how many were at most so long. Pure.

The bounds are fixed, so that counts of several shards and of several moments may be added and subtracted. A process
keeps its histograms in its statistics (`klagg.process.stats`); Prometheus and the heartbeat read them from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

BOUNDS_MS: Final = (
    250,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    15_000,
    30_000,
    60_000,
    75_000,
    150_000,
    300_000,
    600_000,
    1_800_000,
    3_600_000,
    14_400_000,
)
"""The longest durations (ms) that the buckets hold; one more bucket holds what is longer."""

BUCKETS: Final = len(BOUNDS_MS) + 1


@dataclass(slots=True)
class Histogram:
    """Durations by bucket: `counts` has one number for each of BOUNDS_MS and one for what is longer; none of them holds
    what another holds. `total_ms` is the sum of all durations."""

    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    total_ms: int = 0

    def add(self, counts: Iterable[int], total_ms: int) -> None:
        """Add as many durations to each bucket; `total_ms` is their sum."""
        # One assignment, because a scrape reads the list in a thread of its own.
        self.counts = [had + more for had, more in zip(self.counts, counts, strict=True)]
        self.total_ms += total_ms


def bound_of(counts: Sequence[int], part: float) -> int | None:
    """The bound (ms) within which this part (0 to 1) of the durations lies; None if it is beyond the last bound or if
    there are no durations. ValueError if there are not as many counts as buckets."""
    if len(counts) != BUCKETS:
        raise ValueError(f"a histogram has {BUCKETS} counts, not {len(counts)}")
    needed, found = part * sum(counts), 0
    for bound, count in zip(BOUNDS_MS, counts[:-1], strict=True):
        found += count
        if found and found >= needed:
            return bound
    return None

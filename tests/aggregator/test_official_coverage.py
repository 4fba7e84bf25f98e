"""Covered times against a plain set of milliseconds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.official_coverage import Coverage
from klagg.intervals import MINUTE_MS

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)).map(lambda each: (each[0], sum(each))), max_size=12)


def covering(ranges: list[tuple[int, int]], *, at_once: bool) -> Coverage:
    coverage = Coverage()
    for part in [ranges] if at_once else [[each] for each in ranges]:
        starts, ends = (np.array([each[at] for each in part], np.int64) for at in (0, 1))
        coverage.add(7, starts, ends)
    return coverage


@given(RANGES, RANGES, st.booleans())
def test_ranges_cover_what_a_set_of_times_covers(
    ranges: list[tuple[int, int]], asked: list[tuple[int, int]], at_once: bool
) -> None:
    coverage, times = covering(ranges, at_once=at_once), {time for low, high in ranges for time in range(low, high)}
    assert coverage.newest_ms == max((high for _, high in ranges), default=np.iinfo(np.int64).min)
    starts, ends = (np.array([each[at] for each in asked], np.int64) for at in (0, 1))
    spans = [set(range(low, high)) for low, high in asked]
    assert coverage.overlaps(7, starts, ends).tolist() == [bool(span & times) for span in spans]
    assert coverage.holds(7, starts, ends).tolist() == [span <= times for span in spans]
    assert not coverage.overlaps(8, starts, ends).any(), "another slot"
    for time in range(60):
        found = coverage.around(7, time)
        assert (found is not None) == (time in times)
        if found is not None:
            assert set(range(*found)) <= times
            assert found[0] - 1 not in times
            assert found[1] not in times
    if 7 in coverage.ranges:
        low, high = coverage.ranges[7]
        assert (low[1:] > high[:-1]).all(), "ascending, with time between them"


def test_minutes_are_covered_as_a_whole_or_not() -> None:
    coverage = Coverage()
    coverage.add(0, np.array([MINUTE_MS, 2 * MINUTE_MS]), np.array([2 * MINUTE_MS, 3 * MINUTE_MS]))
    assert coverage.holds_minutes(0, MINUTE_MS + 5, 3 * MINUTE_MS - 1)
    assert not coverage.holds_minutes(0, MINUTE_MS - 1, MINUTE_MS)
    assert not coverage.holds_minutes(0, MINUTE_MS, 3 * MINUTE_MS)
    coverage.keep(0, np.array([False]))
    assert coverage.ranges == {}
    coverage.add(0, np.array([0]), np.array([1]))
    coverage.forget(0)
    assert coverage.around(0, 0) is None

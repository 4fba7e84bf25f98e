"""Tallies of a day: a bar that is looked at again counts once, as what it was last."""

from __future__ import annotations

import json

import pytest

from auditors.classify import ADOPTED, EDGE_SHIFT, EXACT, LATE
from auditors.day_counts import DayCounts, JudgedBar, by_day, union_of
from klagg.intervals import DAY_MS, INTERVALS, MINUTE, MINUTE_MS
from klagg.wire.findings import FindingKind
from tests.aggregator.kit import T0


def bars(first: int, count: int, kind: str = EXACT, place_ms: int = 0) -> list[JudgedBar]:
    return [JudgedBar(T0 + (first + n) * MINUTE_MS, kind, place_ms) for n in range(count)]


def test_again_replaces() -> None:
    counts = DayCounts(MINUTE)
    counts.add(bars(0, 10))
    counts.add(bars(10, 3, FindingKind.LOCAL_GAP, T0))
    counts.add(bars(13, 1, LATE))
    assert counts.counts == {
        "bars": 14,
        "exact": 10,
        "edge_shift": 0,
        "exchange_gap": 0,
        "local_gap": 3,
        "late": 1,
        "unexplained": 0,
        "adopted": 0,
    }
    for _ in range(2):
        counts.add([*bars(10, 2), *bars(12, 1, EDGE_SHIFT), *bars(13, 1)])
    assert counts.counts["bars"] == 14
    assert (counts.counts["exact"], counts.counts["edge_shift"]) == (13, 1)
    assert counts.ranges == [(T0, T0 + 14 * MINUTE_MS)]


def test_adopted_bars_are_exact_and_counted_by_themselves() -> None:
    counts = DayCounts(MINUTE)
    counts.add([*bars(0, 10), *bars(10, 4, EDGE_SHIFT)])
    counts.add(bars(10, 2, ADOPTED))
    again = DayCounts.of(MINUTE, counts.saved_ranges, counts.saved_different)
    for each in (counts, again):
        found = {name: each.counts[name] for name in ("bars", "exact", "adopted", "edge_shift")}
        assert found == {"bars": 14, "exact": 12, "adopted": 2, "edge_shift": 2}


def test_what_lies_between_two_looks_is_not_counted() -> None:
    counts = DayCounts(MINUTE)
    counts.add(bars(0, 2))
    counts.add(bars(5, 2))
    assert counts.counts["bars"] == 4
    assert len(counts.ranges) == 2


def test_it_is_the_same_from_what_was_saved() -> None:
    counts = DayCounts(MINUTE)
    counts.add(
        [
            *bars(0, 20),
            *bars(20, 300, FindingKind.LOCAL_GAP, T0 + 20 * MINUTE_MS),
            *bars(320, 1, FindingKind.UNEXPLAINED, 5),
        ]
    )
    texts = json.dumps([counts.saved_ranges, counts.saved_different])
    assert len(texts) < 200, "a long gap is one entry"
    again = DayCounts.of(MINUTE, *json.loads(texts))
    assert again == counts


@pytest.mark.parametrize("name", ["5m", "1d", "1w", "1M"])
def test_longer_bars_are_of_the_day_on_which_they_open(name: str) -> None:
    interval = INTERVALS[name]
    opens = [interval.open_of(interval.bucket_of(T0) + n) for n in range(3)]
    days = by_day(JudgedBar(each, EXACT) for each in opens)
    assert sum(map(len, days.values())) == 3
    assert all(each.open_time // DAY_MS == day for day, judged in days.items() for each in judged)
    counts = DayCounts(interval)
    counts.add(JudgedBar(each, EXACT) for each in opens)
    assert counts.counts["bars"] == 3


def test_unions() -> None:
    assert union_of([(5, 7), (0, 2), (2, 4), (6, 9)]) == [(0, 4), (5, 9)]
    assert union_of([]) == []

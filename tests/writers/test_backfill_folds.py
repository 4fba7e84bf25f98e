from __future__ import annotations

import itertools

import pytest

from klagg.intervals import DAY_MS, HOUR_MS, INTERVALS, MINUTE_MS
from tests.writers.backfillkit import END_MS, START_MS
from writers.backfill_folds import SPAN_BARS, divides, pairs_of, relatives, spans_of


@pytest.mark.parametrize(
    ("shorter", "longer", "whole"),
    [
        ("1m", "5m", True),
        ("3m", "5m", False),
        ("1m", "1m", False),
        ("5m", "1m", False),
        ("8h", "12h", False),
        ("1d", "1w", True),
        ("3d", "1w", False),
        ("1d", "3d", True),
        ("1d", "1M", True),
        ("12h", "1M", True),
        ("3d", "1M", False),
        ("1w", "1M", False),
        ("1s", "1M", True),
    ],
)
def test_which_bars_are_made_of_which(shorter: str, longer: str, whole: bool) -> None:
    assert divides(INTERVALS[shorter], INTERVALS[longer]) is whole


def test_each_interval_is_held_against_the_longest_that_divides_it() -> None:
    def pairs(bars: str, *there: str) -> list[tuple[str, str]]:
        return [(longer.name, shorter.name) for longer, shorter in pairs_of(INTERVALS[bars], there)]

    assert pairs("5m") == []
    assert pairs("5m", "1m") == [("5m", "1m")]
    assert pairs("1m", "5m", "15m", "1h") == [("5m", "1m")]
    assert pairs("5m", "1m", "15m", "1h") == [("5m", "1m"), ("15m", "5m")]
    assert pairs("1m", "3m", "5m") == [("3m", "1m"), ("5m", "1m")]
    assert pairs("1d", "12h", "3d", "1w", "1M") == [("1d", "12h"), ("3d", "1d"), ("1w", "1d"), ("1M", "1d")]
    assert "1w" not in relatives(INTERVALS["1M"])
    assert relatives(INTERVALS["12h"])[-4:] == ["1d", "3d", "1w", "1M"]


@pytest.mark.parametrize("names", [("5m", "1m"), ("1h", "1m"), ("1d", "1m"), ("1w", "1d"), ("1M", "1d"), ("1M", "1s")])
def test_spans_are_whole_bars_that_cover_the_range_and_are_small(names: tuple[str, str]) -> None:
    longer, shorter = (INTERVALS[name] for name in names)
    first_ms, last_ms = START_MS + HOUR_MS, END_MS - DAY_MS - MINUTE_MS
    spans = list(spans_of((longer, shorter), first_ms, last_ms))
    assert spans[0][0] == longer.open_time(first_ms)
    assert spans[-1][1] == longer.close_time(longer.open_time(last_ms - 1))
    assert all(before[1] + 1 == after[0] for before, after in itertools.pairwise(spans))
    whole = max(SPAN_BARS * shorter.shortest_ms, 31 * DAY_MS if longer.name == "1M" else longer.shortest_ms)
    assert all(last - first < whole for first, last in spans)

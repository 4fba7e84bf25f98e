"""What could not be had is named by ids and minutes."""

from __future__ import annotations

from aggregator.ledger import Gap
from aggregator.unrepaired import evidence_of, minutes_of
from klagg.intervals import MINUTE_MS
from tests.aggregator.kit import T0


def test_minutes_are_those_that_the_gaps_touch() -> None:
    gaps = [
        Gap(9, 9, T0 + 5 * MINUTE_MS, T0 + 5 * MINUTE_MS + 1),
        Gap(2, 3, T0 + 59_999, T0 + 60_000),
        Gap(5, 6, T0 + 61_000, T0 + 2 * MINUTE_MS),
    ]
    assert minutes_of(gaps) == [(T0, T0 + 2 * MINUTE_MS), (T0 + 5 * MINUTE_MS, T0 + 5 * MINUTE_MS)]


def test_the_sentence() -> None:
    assert evidence_of([Gap(2, 3, T0, T0 + 60_000), Gap(7, 7, T0 + 300_000, T0 + 300_001)]) == (
        "3 trades could not be had any more: ids 2 to 3, 7; they belong to the minutes 2023-11-14 22:00 to "
        "2023-11-14 22:01, 2023-11-14 22:05 (UTC)"
    )

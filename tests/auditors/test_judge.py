"""An hour without a fault gives no finding: a day, a week and a month begin in it, symbols come, go and are quiet."""

from __future__ import annotations

from collections import Counter

import pytest

from auditors.completeness import Completeness
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from tests.auditors.kit import NAMES, SETTINGS, clean_hour, judged, judged_with_restarts, numbered

JUDGES = pytest.mark.parametrize("kind", [Completeness, Lifecycle])


@JUDGES
def test_a_clean_hour_gives_no_finding(kind: type[Judge]) -> None:
    judge = kind(SETTINGS)
    assert judged(judge, numbered(clean_hour())) == []
    assert set(judge.expected.symbols) == set(NAMES)


def test_the_hour_holds_what_is_judged() -> None:
    """Otherwise no finding would mean nothing."""
    klines = [each.fields for each in clean_hour() if each.stream == "klines"]
    by_interval = Counter(fields["interval"] for fields in klines)
    assert by_interval["1m"] > 200
    assert all(by_interval[name] >= 3 for name in ("1d", "1w", "1M", "1h", "30m", "5m"))
    assert sum(fields["trades"] == "0" for fields in klines) > 20
    judge = Completeness(SETTINGS)
    judged(judge, numbered(clean_hour()))
    assert judge.counts["folds"] > 100
    kinds = Counter(each.fields["kind"] for each in clean_hour() if each.stream == "events")
    assert {"genesis", "first_trade", "close", "confirmed", "listed", "delisted", "tick"} <= set(kinds)


@JUDGES
@pytest.mark.parametrize("every", [97, 600])
def test_restarts_change_nothing(kind: type[Judge], every: int) -> None:
    assert judged_with_restarts(lambda: kind(SETTINGS), numbered(clean_hour()), every) == []


@JUDGES
@pytest.mark.parametrize("first", [1, 333, 5000])
def test_an_auditor_that_joins_midway_finds_nothing(kind: type[Judge], first: int) -> None:
    """Its group began with what Redis still held."""
    assert judged(kind(SETTINGS), numbered(clean_hour())[first:]) == []

"""What both judges of streams share: nothing is found in a clean hour, over restarts and from any point on; losses.

In the hour a day, a week and a month begin, and symbols come, go and are quiet.
"""

from __future__ import annotations

from collections import Counter

import pytest

from auditors.completeness import Completeness
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from klagg.wire.findings import FindingKind
from tests.auditors import plants
from tests.auditors.kit import (
    NAMES,
    SETTINGS,
    clean_hour,
    judged,
    judged_with_restarts,
    numbered,
)
from tests.auditors.plants import MIDDLE_MS

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


@pytest.mark.parametrize(
    ("kind", "stream"), [(Completeness, "klines"), (Completeness, "events"), (Lifecycle, "events")]
)
@pytest.mark.parametrize("count", [1, 40])
def test_a_trimmed_stream_is_a_loss_with_its_range(kind: type[Judge], stream: str, count: int) -> None:
    """And nothing else: what the lost entries would have said is not held against the others."""
    entries = numbered(clean_hour())
    middle = next(at for at, each in enumerate(entries) if each[2].get(b"time") == str(MIDDLE_MS + 120_000).encode())
    own = [at for at, each in enumerate(entries) if each[0] == stream and at > middle]
    gone = set(own[:count])
    found = judged(kind(SETTINGS), [each for at, each in enumerate(entries) if at not in gone])
    numbers = sorted(int(entries[at][2][b"seq"]) for at in gone)
    if count > 1:  # until the next kline comes, which tells that some are lost, they are simply not there
        found = [each for each in found if each.kind != FindingKind.ABSENT or each.time_ms > found[-1].time_ms]
    assert [each.kind for each in found] == [FindingKind.DATA_LOSS], found
    assert f"seq {numbers[0]} to {numbers[-1]}" in found[0].evidence
    assert f"{count} entries" in found[0].evidence


def test_findings_go_on_after_a_loss() -> None:
    """A loss does not make an auditor blind: a symbol that stops later is found."""
    log = numbered(plants.a_symbol_stops(list(clean_hour())))
    own = [at for at, each in enumerate(log) if each[0] == "klines"]
    del log[own[len(own) // 4]]
    found = judged(Completeness(SETTINGS), log)
    assert {FindingKind.DATA_LOSS, FindingKind.ABSENT} <= {each.kind for each in found}

from __future__ import annotations

import pytest

from auditors.consumer_groups import STALLED_MS, GroupMonitor, LagMonitor
from auditors.findings import Finding
from klagg.wire.findings import FindingKind
from tests.auditors.kit import BEGIN

GROUP = ("klines:{0}", "writers")
T = 1_700_000_000_000


def test_a_group_that_is_heard_of_again_settles_its_finding() -> None:
    monitor = GroupMonitor(silent_ms=30_000)
    assert monitor.observe({GROUP: 10}, 0, T) == []
    (silent,) = monitor.observe({GROUP: 31_000}, 40_000, T)
    assert (silent.kind, silent.closed) == (FindingKind.GROUP_SILENT, False)
    assert monitor.observe({GROUP: 41_000}, 50_000, T) == []
    (heard,) = monitor.observe({GROUP: 200}, 60_000, T + 1)
    assert (heard.id, heard.closed, heard.time_ms) == (silent.id, True, T + 1)
    assert monitor.observe({GROUP: 200}, 70_000, T) == []
    (again,) = monitor.observe({GROUP: 31_000}, 101_000, T)
    assert (again.id, again.closed) == (silent.id, False)


def test_after_a_pause_of_everything_each_group_is_given_its_time() -> None:
    monitor = GroupMonitor(silent_ms=30_000)
    assert monitor.observe({GROUP: 600_000}, 1_000, T) == []
    assert monitor.observe({GROUP: 630_000}, 31_000, T) == []
    (silent,) = monitor.observe({GROUP: 631_000}, 32_000, T)
    assert "631000 ms" in silent.evidence


def test_an_auditor_that_catches_up_settles_its_lag() -> None:
    monitor = LagMonitor("auditor-completeness", 60_000)
    (behind,) = monitor.observe(T, T + 61_000, 5, 0)
    assert monitor.observe(T + 500, T + 62_000, 5, 1_000) == []
    (caught_up,) = monitor.observe(T + 62_000, T + 62_250, 0, 2_000)
    assert (behind.kind, caught_up.id, caught_up.closed) == (FindingKind.LAGGING, behind.id, True)
    assert caught_up.evidence == "it is 250 ms behind"
    assert monitor.observe(T + 62_500, T + 62_500, 0, 3_000) == []


def test_ticks_that_come_again_settle_that_they_stayed_away() -> None:
    monitor = LagMonitor("auditor-completeness", 60_000)
    assert monitor.observe(T, T, 0, 0) == []
    (stalled,) = monitor.observe(T, T, 0, STALLED_MS + 1)
    assert monitor.observe(T, T, 0, STALLED_MS + 1_000) == []
    (moving,) = monitor.observe(T + 250, T + 250, 0, STALLED_MS + 2_000)
    assert (stalled.kind, moving.id, moving.closed, moving.time_ms) == (FindingKind.STALLED, stalled.id, True, T + 250)


@pytest.mark.parametrize("idle_ms", [None, 45_000])
def test_a_group_without_a_consumer(idle_ms: int | None) -> None:
    """A writer that was never started, and one that died."""
    monitor = GroupMonitor(silent_ms=30_000)
    found: list[Finding] = []
    for now_ms in range(0, 40_000, 1_000):
        found += monitor.observe({("klines:{0}", "writers"): idle_ms, ("klines:{0}", "other"): 200}, now_ms, BEGIN)
    assert [(each.kind, each.place) for each in found] == [(FindingKind.GROUP_SILENT, "klines:{0}/writers")]
    (settled,) = monitor.observe({("klines:{0}", "writers"): 5}, 41_000, BEGIN)
    assert (settled.id, settled.closed) == (found[0].id, True)
    monitor.observe({("klines:{0}", "writers"): None}, 42_000, BEGIN)
    assert monitor.observe({("klines:{0}", "writers"): None}, 90_000, BEGIN), "silent again is news"


def test_an_auditor_that_falls_behind_and_one_to_which_nothing_comes() -> None:
    monitor = LagMonitor("auditor-completeness", 60_000)
    assert not monitor.observe(BEGIN, BEGIN + 60_000, 10, 0)
    (behind,) = monitor.observe(BEGIN, BEGIN + 61_000, 1234, 1_000)
    assert (behind.kind, "61000 ms" in behind.evidence, "1234 entries" in behind.evidence) == ("LAGGING", True, True)
    assert not monitor.observe(BEGIN, BEGIN + 62_000, 1300, 2_000), "said once"
    (settled,) = monitor.observe(BEGIN + 62_000, BEGIN + 62_000, 0, 3_000)
    assert (settled.id, settled.closed) == (behind.id, True)
    (stalled,) = monitor.observe(BEGIN + 62_000, BEGIN + 62_000, 0, 2_000 + STALLED_MS + 1_000)
    assert stalled.kind == "STALLED"

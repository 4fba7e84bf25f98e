from __future__ import annotations

from auditors.consumer_groups import STALLED_MS, GroupMonitor, LagMonitor
from auditors.findings import bar_of
from klagg.wire.findings import FindingKind

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


def test_a_place_names_its_bar() -> None:
    assert bar_of(f"1m/{T}") == bar_of(f"1m/{T}-{T + 60_000}") == bar_of(f"1m/{T}/1.1.1") == ("1m", T)
    for other in ("klines/1-5", "7m/60000", "1m", "1m/soon", "auditor-exchange/5", ""):
        assert bar_of(other) == ("", 0)

"""Standing alarms: raised once, cleared once, bounded, and one row of the heartbeat for each kind."""

from __future__ import annotations

import pytest

from klagg.process.alarms import SUBJECTS_MAX, AlarmKind, Alarms, StandingAlarm


class Time:
    """Local wall clock in the hands of a test."""

    now_ms = 1_000_000.0

    def __call__(self) -> float:
        return self.now_ms


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(each.levelname, each.getMessage()) for each in caplog.records]


def test_an_alarm_is_logged_once_when_it_is_raised_and_once_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    time = Time()
    alarms = Alarms(time)
    assert alarms.raise_(AlarmKind.STALE_ROUTE, "nothing comes")
    time.now_ms += 5_000
    assert not alarms.raise_(AlarmKind.STALE_ROUTE, "nothing comes for 5 s")
    assert alarms.standing == [StandingAlarm(AlarmKind.STALE_ROUTE, "nothing comes for 5 s", 1_000_000, 1)]
    assert alarms.clear(AlarmKind.STALE_ROUTE)
    assert not alarms.clear(AlarmKind.STALE_ROUTE)
    assert alarms.standing == []
    assert said(caplog) == [
        ("ERROR", "ALARM: nothing comes"),
        ("WARNING", "the alarm stale_route is over after 5 s: nothing comes for 5 s"),
    ]
    assert alarms.raised[AlarmKind.STALE_ROUTE] == 1


def test_subjects_of_a_kind_stand_side_by_side_and_are_one_row() -> None:
    time = Time()
    alarms = Alarms(time)
    alarms.raise_(AlarmKind.DEAD_SYMBOL, "ETHUSDT is silent", of="ETHUSDT")
    time.now_ms += 1000
    alarms.raise_(AlarmKind.DEAD_SYMBOL, "BTCUSDT is silent", of="BTCUSDT")
    (row,) = alarms.standing
    assert row.to_json() == {
        "kind": "dead_symbol",
        "reason": "ETHUSDT is silent (and 1 more of this kind)",
        "since_ms": 1_000_000,
        "subjects": 2,
    }
    alarms.keep(AlarmKind.DEAD_SYMBOL, {"BTCUSDT"})
    assert [each.sentence for each in alarms.standing] == ["BTCUSDT is silent"]


def test_kinds_stand_in_the_order_of_the_catalogue() -> None:
    alarms = Alarms()
    for kind in reversed(AlarmKind):
        alarms.raise_(kind, f"{kind} stands")
    assert [each.kind for each in alarms.standing] == list(AlarmKind)
    assert set(alarms.raised.values()) == {1}


def test_what_is_kept_is_bounded() -> None:
    alarms = Alarms()
    for number in range(SUBJECTS_MAX + 10):
        alarms.raise_(AlarmKind.DEAD_SYMBOL, "silent", of=str(number))
    assert [each.subjects for each in alarms.standing] == [SUBJECTS_MAX]
    alarms.clear(AlarmKind.DEAD_SYMBOL, "0")
    assert alarms.raise_(AlarmKind.DEAD_SYMBOL, "silent", of="late"), "there is room again"


def test_an_alarm_about_a_moment_ends_by_itself() -> None:
    time = Time()
    alarms = Alarms(time)
    alarms.raise_(AlarmKind.CLOCK_JUMPED, "it jumped", lasting_ms=60_000)
    alarms.raise_(AlarmKind.CLOCK_LOST, "it is lost")
    time.now_ms += 59_999
    alarms.expire()
    assert [each.kind for each in alarms.standing] == [AlarmKind.CLOCK_LOST, AlarmKind.CLOCK_JUMPED]
    time.now_ms += 1
    alarms.expire()
    assert [each.kind for each in alarms.standing] == [AlarmKind.CLOCK_LOST]

"""The pulse: what is due when, and the alarm over messages that bring no trades."""

from __future__ import annotations

import json
import os

import pytest

from klagg import settings
from klagg.process.alarms import MOMENT_MS, AlarmKind, Alarms
from klagg.process.stats import SERIES_MAX, Flow, Pulse, Stats

START_MS = 1_700_000_000_000.0
CONFIG = settings.Service(statistics_s=10, heartbeat_ms=1000)


def new_pulse(stats: Stats, *, flow: bool = False) -> Pulse:
    return Pulse("ingest-币", stats, CONFIG, START_MS, Flow("messages", "trades") if flow else None)


def test_counters_grow_and_gauges_show_the_latest() -> None:
    stats = Stats()
    stats.add("messages")
    stats.add("messages", 4)
    stats.show("lag_ms", 3.5)
    stats.show("lag_ms", 2)
    assert stats.counters == {"messages": 5}
    assert stats.gauges == {"lag_ms": 2}


def test_a_labelled_counter_counts_in_its_series_and_in_the_flat_total() -> None:
    stats = Stats()
    stats.add("rejected", kind="price")
    stats.add("rejected", 3, kind="json")
    stats.add("rejected", 2, kind="price")
    stats.add("rejected")
    assert stats.counters == {"rejected": 7}
    assert stats.labelled_counters == {
        ("rejected", (("kind", "price"),)): 3,
        ("rejected", (("kind", "json"),)): 3,
    }


def test_labels_make_one_series_in_whatever_order_they_stand() -> None:
    stats = Stats()
    stats.add("gaps", connection="A1", symbol="币安人生USDT")
    stats.add("gaps", symbol="币安人生USDT", connection="A1")
    assert stats.labelled_counters == {("gaps", (("connection", "A1"), ("symbol", "币安人生USDT"))): 2}


def test_labelled_values_are_no_part_of_line_and_heartbeat_but_for_the_counters_total() -> None:
    stats = Stats()
    pulse = new_pulse(stats)
    stats.add("rejected", 2, kind="price")
    stats.show("silence_ms", 12, connection="A1")
    beat = pulse.due(START_MS + 10_000)
    assert beat.line == "statistics: rejected 2 (+2)"
    assert json.loads(beat.heartbeat)["counters"] == {"rejected": 2}
    assert json.loads(beat.heartbeat)["gauges"] == {}


def test_a_labelled_gauge_shows_the_latest_until_it_is_forgotten() -> None:
    stats = Stats()
    stats.show("silence_ms", 12, connection="A1")
    stats.show("silence_ms", 7, connection="A1")
    stats.show("silence_ms", 5, connection="A2")
    stats.show("delay_ms", 1, connection="A1", symbol="BTCUSDT")
    assert stats.labelled_gauges[("silence_ms", (("connection", "A1"),))] == 7
    stats.forget(connection="A1")
    assert stats.labelled_gauges == {("silence_ms", (("connection", "A2"),)): 5}


def test_a_labelled_gauge_is_a_number_and_forgetting_names_labels() -> None:
    stats = Stats()
    with pytest.raises(ValueError, match="must be a number"):
        stats.show("state", "up", connection="A1")
    with pytest.raises(ValueError, match="name the labels"):
        stats.forget()


def test_series_are_bounded_and_totals_go_on_counting() -> None:
    stats = Stats()
    for number in range(SERIES_MAX + 10):
        stats.add("gaps", symbol=str(number))
        stats.show("lag", number, symbol=str(number))
    stats.add("gaps", symbol="0")
    assert len(stats.labelled_counters) == len(stats.labelled_gauges) == SERIES_MAX
    assert stats.counters["gaps"] == SERIES_MAX + 11
    assert stats.labelled_counters["gaps", (("symbol", "0"),)] == 2
    assert stats.series_refused == 20


def test_a_heartbeat_is_due_at_once_and_then_every_heartbeat_ms() -> None:
    pulse = new_pulse(Stats())
    due = [offset for offset in range(0, 4000, 100) if pulse.due(START_MS + offset).heartbeat]
    assert due == [0, 1000, 2000, 3000]


def test_the_statistics_line_is_due_every_statistics_s_with_a_heartbeat() -> None:
    stats = Stats()
    pulse = new_pulse(stats)
    beats = {offset: pulse.due(START_MS + offset) for offset in range(0, 40_000, 300)}
    assert [offset for offset, beat in beats.items() if beat.line] == [10_200, 20_400, 30_600]
    assert all(beat.heartbeat for beat in beats.values() if beat.line)
    assert stats.alarms.standing == []


def test_the_line_names_counters_with_their_growth_and_gauges() -> None:
    stats = Stats()
    pulse = new_pulse(stats)
    assert pulse.due(START_MS + 10_000).line == "statistics: nothing yet"
    stats.add("trades", 30)
    stats.add("messages", 20)
    stats.show("delay_ms", 1.5)
    assert pulse.due(START_MS + 20_000).line == "statistics: messages 20 (+20), trades 30 (+30), delay_ms 1.5"
    stats.add("trades", 5)
    assert pulse.due(START_MS + 30_000).line == "statistics: messages 20 (+0), trades 35 (+5), delay_ms 1.5"


def test_the_heartbeat_is_json_that_says_everything() -> None:
    stats = Stats()
    pulse = new_pulse(stats)
    assert json.loads(pulse.due(START_MS).heartbeat) == {
        "process": "ingest-币",
        "pid": os.getpid(),
        "state": "starting",
        "alarms": [],
        "started_ms": int(START_MS),
        "time_ms": int(START_MS),
        "counters": {},
        "rates": {},
        "gauges": {},
    }
    stats.add("trades", 125)
    stats.show("symbol", "币安人生USDT")
    pulse.state = "running"
    text = pulse.due(START_MS + 10_000).heartbeat
    assert "币安人生USDT" in text
    assert json.loads(text) == {
        "process": "ingest-币",
        "pid": os.getpid(),
        "state": "running",
        "alarms": [],
        "started_ms": int(START_MS),
        "time_ms": int(START_MS) + 10_000,
        "counters": {"trades": 125},
        "rates": {"trades": 12.5},
        "gauges": {"symbol": "币安人生USDT"},
    }


def test_rates_are_those_of_the_last_whole_period() -> None:
    stats = Stats()
    pulse = new_pulse(stats)
    stats.add("trades", 100)
    pulse.due(START_MS + 20_000)
    stats.add("trades", 1_000)
    assert json.loads(pulse.due(START_MS + 21_000).heartbeat)["rates"] == {"trades": 5.0}
    assert json.loads(pulse.due(START_MS + 30_000).heartbeat)["rates"] == {"trades": 100.0}


def alarms_in(heartbeat: str) -> list[str]:
    """The reasons of the alarms in a heartbeat, which are all of the kind NO_OUTPUT."""
    alarms = json.loads(heartbeat)["alarms"]
    assert {each["kind"] for each in alarms} <= {AlarmKind.NO_OUTPUT}
    return [each["reason"] for each in alarms]


def test_messages_without_trades_raise_the_alarm(caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats()
    pulse = new_pulse(stats, flow=True)
    stats.add("messages", 7)
    beat = pulse.due(START_MS + 10_000)
    assert alarms_in(beat.heartbeat) == ["7 messages in 10 s and no trades: the log says why"]
    assert "ALARM: 7 messages in 10 s and no trades" in caplog.text


def test_the_alarm_stands_in_the_heartbeat_until_a_period_is_well_again(caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats()
    pulse = new_pulse(stats, flow=True)
    stats.add("messages", 7)
    pulse.due(START_MS + 10_000)
    stats.add("messages")
    stats.add("trades")
    assert alarms_in(pulse.due(START_MS + 15_000).heartbeat)
    assert alarms_in(pulse.due(START_MS + 20_000).heartbeat) == []
    assert [each.levelname for each in caplog.records] == ["ERROR", "WARNING"], "raised once, over once"


def test_trades_long_ago_do_not_silence_the_alarm(caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats()
    pulse = new_pulse(stats, flow=True)
    stats.add("messages", 10)
    stats.add("trades", 10)
    assert alarms_in(pulse.due(START_MS + 10_000).heartbeat) == []
    for number, messages in enumerate((3, 2), 2):
        stats.add("messages", messages)
        (reason,) = alarms_in(pulse.due(START_MS + number * 10_000).heartbeat)
        assert reason.startswith(f"{messages} messages in 10 s and no trades")
    assert len(caplog.records) == 1, "one that stands is not said again"


@pytest.mark.parametrize(("messages", "trades"), [(0, 0), (5, 1), (0, 3)])
def test_no_alarm_otherwise(messages: int, trades: int) -> None:
    stats = Stats()
    pulse = new_pulse(stats, flow=True)
    stats.add("messages", messages)
    stats.add("trades", trades)
    assert pulse.due(START_MS + 10_000).line
    assert stats.alarms.standing == []


def test_without_a_flow_set_no_alarm_is_raised() -> None:
    stats = Stats()
    pulse = new_pulse(stats)
    stats.add("messages", 7)
    pulse.due(START_MS + 10_000)
    assert stats.alarms.standing == []


def test_alarms_about_a_moment_end_by_the_pulse() -> None:
    now_ms = START_MS
    stats = Stats(alarms=Alarms(lambda: now_ms))
    pulse = new_pulse(stats)
    stats.alarms.raise_(AlarmKind.WALL_CLOCK_SET, "the clock was set", lasting_ms=MOMENT_MS)
    assert json.loads(pulse.due(now_ms).heartbeat)["alarms"] == [
        {"kind": "wall_clock_set", "reason": "the clock was set", "since_ms": int(START_MS), "subjects": 1}
    ]
    now_ms += MOMENT_MS
    assert json.loads(pulse.due(now_ms).heartbeat)["alarms"] == []

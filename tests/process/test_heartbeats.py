"""What all heartbeats say together. How `klagg status` shows it is in tests/cli/test_status.py."""

from __future__ import annotations

import pytest
import ujson

from klagg.process.alarms import AlarmKind
from klagg.process.heartbeats import StatusReport, alarm_sentences, report, sentences
from klagg.process.stats import Pulse, Stats
from klagg.settings import Service
from klagg.wire.keys import heartbeat_key

NOW_MS = 1_800_000_000_000.0
EXPECTED = ("gateway", "clock", "ingest-A", "ingest-B")


def beat(process: str, *kinds: AlarmKind, age_ms: float = 0.0) -> str:
    """A heartbeat as a process with these alarms writes it."""
    stats = Stats()
    for kind in kinds:
        stats.alarms.raise_(kind, f"{kind} stands")
    pulse = Pulse(process, stats, Service(), NOW_MS - 3_600_000)
    pulse.state = "running"
    return pulse.due(NOW_MS - age_ms).heartbeat


def judged(**alarms: AlarmKind) -> StatusReport:
    """The report over EXPECTED, where some (ingest_A is ingest-A) have an alarm."""
    kinds = {name.replace("_", "-"): [kind] for name, kind in alarms.items()}
    texts = {heartbeat_key(name): beat(name, *kinds.get(name, [])) for name in EXPECTED}
    return report(texts, EXPECTED, NOW_MS, 10_000)


def test_that_no_market_data_come_is_the_first_sentence() -> None:
    found = judged(gateway=AlarmKind.NO_MARKET_DATA, clock=AlarmKind.CLOCK_LOST)
    assert not found.ok
    assert sentences(found) == [
        "no market data comes: no_market_data stands",
        "ALARM gateway: no_market_data: no_market_data stands",
        "ALARM clock: clock_lost: clock_lost stands",
    ]


def test_the_lines_say_it_where_the_gateway_cannot() -> None:
    assert judged(ingest_A=AlarmKind.LINE_SILENT).market == "", "the other line brings trades"
    both = judged(ingest_A=AlarmKind.LINE_SILENT, ingest_B=AlarmKind.LINE_SILENT)
    assert both.market == "no market data comes: ingest-A: line_silent stands"


def test_a_line_that_is_frozen_brings_nothing_either() -> None:
    texts = {heartbeat_key(name): beat(name) for name in ("gateway", "clock")}
    texts[heartbeat_key("ingest-A")] = beat("ingest-A", AlarmKind.LINE_SILENT)
    texts[heartbeat_key("ingest-B")] = beat("ingest-B", age_ms=60_000)
    found = report(texts, EXPECTED, NOW_MS, 10_000)
    assert found.silent == ["ingest-B"]
    assert found.market == "no market data comes: ingest-A: line_silent stands"


def test_what_a_silent_process_said_before_is_old() -> None:
    texts = {heartbeat_key("gateway"): beat("gateway", AlarmKind.NO_MARKET_DATA, age_ms=60_000)}
    found = report(texts, ["gateway"], NOW_MS, 10_000)
    assert found.market == ""
    assert [each.kind for each in found.alarms] == [AlarmKind.PROCESS_SILENT]


def test_who_is_silent_is_judged_here_and_said_once() -> None:
    found = judged(gateway=AlarmKind.PROCESS_SILENT)
    assert found.ok
    assert alarm_sentences(found) == []


def test_a_heartbeat_of_an_older_version_has_no_list_of_alarms() -> None:
    old = ujson.loads(beat("clock"))
    del old["alarms"]
    found = report({heartbeat_key("clock"): ujson.dumps({**old, "alarm": ""})}, ["clock"], NOW_MS, 10_000)
    assert found.ok


@pytest.mark.parametrize("alarms", [[{}], [{"kind": "silent"}], "silent", [7], 7])
def test_alarms_that_cannot_be_read_are_a_heartbeat_that_cannot(alarms: object) -> None:
    text = ujson.dumps({**ujson.loads(beat("clock")), "alarms": alarms})
    found = report({heartbeat_key("clock"): text}, ["clock"], NOW_MS, 10_000)
    assert found.silent == ["clock"]
    assert found.to_json()["ok"] is False

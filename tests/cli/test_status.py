"""`klagg status`: heartbeats judged and shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import ujson
from rich.console import Console

from klagg.cli import status
from klagg.cli.main import main as klagg
from klagg.clock import local_ms
from klagg.drivers.redis_streams import Streams
from klagg.process.catalogue import processes
from klagg.process.heartbeats import StatusReport, report, sentences, silent_after_ms
from klagg.process.histograms import Histogram
from klagg.process.stats import Flow, Pulse, Stats
from klagg.settings import Service, Settings
from klagg.wire.keys import heartbeat_key
from tests.conftest import ROOT

NOW_MS = 1_800_000_000_000.0
EXPECTED = ["aggregator-0", "writer-final", "repair", "clock", "ingest-A"]


def heartbeat(process: str, now_ms: float = NOW_MS, *, silent_parser: bool = False, **counters: int) -> str:
    """A heartbeat as a process writes it that has run for an hour, its counters those of the last ten seconds."""
    stats = Stats()
    flow = Flow("messages", "trades") if silent_parser else None
    pulse = Pulse(process, stats, Service(), now_ms - 3_600_000, flow)
    pulse.state = "running"
    pulse.due(now_ms - 10_000)
    stats.counters.update(counters)
    return pulse.due(now_ms).heartbeat


def beats(*names: str, **changed: str) -> dict[str, str]:
    """Heartbeats by key; `changed` replaces those of some processes (aggregator_0 is aggregator-0)."""
    texts = {name: heartbeat(name) for name in names} | {name.replace("_", "-"): text for name, text in changed.items()}
    return {heartbeat_key(name): text for name, text in texts.items()}


def judged(texts: dict[str, str], now_ms: float = NOW_MS) -> StatusReport:
    return report(texts, EXPECTED, now_ms, silent_ms=5_000)


def test_all_is_well() -> None:
    found = judged(beats(*reversed(EXPECTED)))
    assert found.ok
    assert [each.name for each in found.seen] == EXPECTED
    assert sentences(found) == ["all 5 processes are alive, and no alarm stands"]
    assert {each.uptime_s for each in found.seen} == {3600}


def test_what_is_missing_is_named() -> None:
    found = judged(beats("clock", "writer-final"))
    assert not found.ok
    assert found.missing == ["aggregator-0", "repair", "ingest-A"]
    assert sentences(found) == ["missing: aggregator-0, repair, ingest-A"]


def test_an_alarm_of_a_process_is_one_of_the_whole() -> None:
    found = judged(beats(*EXPECTED, ingest_A=heartbeat("ingest-A", silent_parser=True, messages=70)))
    assert not found.ok
    assert found.missing == []
    assert sentences(found) == [
        "ALARM ingest-A: no_output: 70 messages in 10 s and no trades: the log says why",
    ]


def test_a_process_that_fell_silent_is_not_alive() -> None:
    found = judged(beats(*EXPECTED, clock=heartbeat("clock", NOW_MS - 6_500)))
    assert not found.ok
    assert found.silent == ["clock"]
    assert sentences(found) == [
        "ALARM clock: process_silent: its last heartbeat is 6.5 s old: it is dead or frozen (service.silent_s)"
    ]
    assert [each.state for each in found.seen] == ["running", "running", "running", "silent", "running"]


def test_a_heartbeat_from_a_clock_ahead_is_no_age() -> None:
    assert judged(beats(*EXPECTED), NOW_MS - 300).ok


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": "running", "time_ms": "x", "started_ms": 1}'])
def test_a_heartbeat_that_cannot_be_read_is_said(text: str) -> None:
    found = judged(beats(*EXPECTED, clock=text))
    assert not found.ok
    assert sentences(found) == ["ALARM clock: process_silent: its heartbeat cannot be read"]
    assert any("unreadable" in line for line in status.lines(found))


def test_others_are_shown_behind_and_are_not_asked_for() -> None:
    found = judged(beats(*EXPECTED, "ingest-B"))
    assert found.ok
    assert [each.name for each in found.seen] == [*EXPECTED, "ingest-B"]
    assert [each.expected for each in found.seen] == [True] * 5 + [False]


def test_lines_fit_eighty_columns_and_show_the_main_rates() -> None:
    busy = heartbeat("ingest-A", messages=900_000, trades=800_000, entries=10_000, refused=3)
    lines = status.lines(judged(beats(*EXPECTED, ingest_A=busy)))
    assert lines[0].split() == ["process", "state", "pid", "up", "beat", "per", "second"]
    assert max(map(len, lines)) <= 80
    row = lines[-1]
    assert row.startswith("ingest-A")
    assert f" {os.getpid()} " in row
    assert " 1h00m " in row
    assert row.endswith("  messages 90,000  trades 80,000")


def test_silence_is_shorter_than_the_life_of_a_heartbeat() -> None:
    service = Service()
    assert service.heartbeat_ms * 2 < silent_after_ms(service) < service.heartbeat_ttl_s * 1000
    assert silent_after_ms(service) <= 15_000


def alive(redis_url: str, *names: str) -> None:
    streams = Streams(redis_url)
    for name in names:
        streams.set_with_ttl(heartbeat_key(name), heartbeat(name, local_ms(), trades=5), 60)
    streams.close()


@pytest.mark.servers
def test_the_exit_code_and_json_of_a_real_redis(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KLAGG_REDIS__URL", redis_url)
    names = [each.name for each in processes(Settings())]
    alive(redis_url, *names[:-1])
    assert klagg(["status", "--json"]) == 1
    said: dict[str, Any] = ujson.loads(capsys.readouterr().out)
    assert (said["ok"], said["missing"], said["alarms"]) == (False, [names[-1]], [])
    alive(redis_url, names[-1])
    assert klagg(["status", "--json"]) == 0
    said = ujson.loads(capsys.readouterr().out)
    assert [each["process"] for each in said["processes"]] == names
    assert said["processes"][0]["counters"] == {"trades": 5}
    assert klagg(["status"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert text.splitlines()[-1] == f"all {len(names)} processes are alive, and no alarm stands"


@pytest.mark.servers
def test_without_a_database_no_writer_is_missed(redis_url: str, tmp_path: Path) -> None:
    config = tmp_path / "klagg.toml"
    config.write_text(f'[redis]\nurl = "{redis_url}"\n[database]\nenabled = false\n', encoding="utf-8")
    auditors = ("auditor-completeness", "auditor-lifecycle")
    alive(redis_url, "aggregator-0", *auditors, "gateway", "repair", "clock", "ingest-A", "ingest-B")
    assert klagg(["status", "--config", str(config)]) == 0


def test_a_redis_that_is_away_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KLAGG_REDIS__URL", "redis://127.0.0.1:1/0")
    assert klagg(["status"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("klagg: Redis does not answer")
    assert said.err.count("\n") == 1


def test_a_terminal_sees_colours() -> None:
    console = Console(force_terminal=True, width=80, color_system="standard")
    with console.capture() as captured:
        console.print(status.table(judged(beats(*EXPECTED[:3], clock=""))))
    text = captured.get()
    assert "\x1b[1;31munreadable" in text
    assert "\x1b[32mrunning" in text


def test_every_process_of_the_production_set_is_expected() -> None:
    text = (ROOT / "config" / "supervisord.conf").read_text(encoding="utf-8")
    names = {line[len("[program:klagg-") : -1] for line in text.splitlines() if line.startswith("[program:klagg-")}
    assert names == {each.name.removesuffix("-0") for each in processes(Settings())}


def test_freshness_is_shown_by_interval_over_all_shards() -> None:
    stats = Stats()
    final, proof = Histogram(), Histogram()
    stats.keep("close_to_final_ms", "interval", {"1m": final, "1h": Histogram()})
    stats.keep("close_to_proof_ms", "interval", {"1m": proof, "1h": Histogram()})
    final.add([0, 0, 0, 3, *[0] * 12, 1], 0)
    proof.add([0, 0, 0, 1, *[0] * 13], 0)
    pulse = Pulse("aggregator-0", stats, Service(), NOW_MS - 1000)
    pulse.state = "running"
    text = pulse.due(NOW_MS).heartbeat
    found = judged(beats(*EXPECTED, aggregator_0=text, aggregator_1=text))
    assert status.fresh_rows(found) == [("1m", "8", "2s", "over 14400s", "25.00%", "2s", "2s")]
    assert status.fresh_rows(judged(beats(*EXPECTED))) == []
    assert status.fresh_table(status.fresh_rows(found)).row_count == 1
    silent = report(beats(aggregator_0=text), EXPECTED, NOW_MS + 60_000, silent_ms=5_000)
    assert status.fresh_rows(silent) == []

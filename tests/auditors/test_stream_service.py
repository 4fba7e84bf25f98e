"""The shell of auditors of streams on a real Redis: all is settled once, whatever ends it, and no loss is silent."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from auditors import completeness_service, lifecycle_service, stream_service
from auditors.stream_service import AuditorKind, ShardAuditor
from klagg import settings
from klagg.drivers.redis_streams import Append, Streams
from klagg.errors import CommitConflict, RedisUnavailable
from klagg.process import group_consumer
from klagg.process.stats import Stats
from klagg.settings import Settings, to_toml
from klagg.wire.fields import texts_of
from klagg.wire.keys import Keys, heartbeat_key
from tests.auditors.kit import SETTINGS, Said, clean_hour, numbered
from tests.auditors.plants import drop_a_bar, one_row
from tests.conftest import ROOT
from tests.kit import eventually, trim_before

pytestmark = pytest.mark.servers

KEYS = Keys(0)
CALM = replace(SETTINGS, audit=settings.Audit(lag_ms_max=3_600_000))
"""An hour that is read in a second is behind by an hour at first."""
COMPLETENESS, LIFECYCLE = completeness_service.KIND, lifecycle_service.KIND
BY_NAME = {each.name: each for each in (COMPLETENESS, LIFECYCLE)}
KINDS = pytest.mark.parametrize("kind", [COMPLETENESS, LIFECYCLE], ids=["completeness", "lifecycle"])
BEHIND_A_TICK = next(at for at in range(3000, 4000) if clean_hour()[at].fields.get("kind") == "tick") + 1


@dataclass
class FakeContext:
    """What a shard's auditor asks of klagg.process.service.Context."""

    process: str
    settings: Settings = SETTINGS
    writer: str = "auditor@1"
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("auditor"))
    stats: Stats = field(default_factory=Stats)

    def beat(self) -> None:
        pass


@pytest.fixture
def streams(redis_url: str) -> Iterator[Streams]:
    made = Streams(redis_url)
    yield made
    made.close()


def auditor(streams: Streams, kind: AuditorKind, config: Settings = CALM) -> ShardAuditor:
    """A started one."""
    context: Any = FakeContext(f"auditor-{kind.name}", config)
    made = ShardAuditor(context, streams, 0, kind)
    made.start()
    return made


def put(streams: Streams, said: list[Said], first: int = 0, last: int | None = None) -> None:
    """Write a part of a log as commits do: a tick's klines, then its events."""
    entries = numbered(said)[first:last]
    for at in range(0, len(entries), 1000):
        streams.write([Append(f"{name}:{{0}}", texts_of(fields)) for name, _, fields in entries[at : at + 1000]])


def drain(one: ShardAuditor) -> None:
    """Turns until nothing new comes."""
    before = None
    while before != (before := dict(one.judge.counts)):
        one.turn(1)


def findings(streams: Streams) -> list[dict[str, str]]:
    return [texts_of(entry.fields) for entry in streams.range(KEYS.findings)]


def a_fault(kind: AuditorKind, said: list[Said]) -> list[Said]:
    """One fault for each kind of auditor."""
    if kind is COMPLETENESS:
        return drop_a_bar(said)
    return one_row(said, "close", lambda row: [{**row, "after": "waiting"}], trigger="trade", symbol="AAAUSDT")


@KINDS
def test_a_clean_hour_is_settled_and_acknowledged(streams: Streams, kind: AuditorKind) -> None:
    put(streams, list(clean_hour()))
    one = auditor(streams, kind)
    drain(one)
    one.settle()
    assert findings(streams) == []
    assert one.judge.time_ms > 0
    for name in one.judge.streams:
        assert streams.group_lag(f"{name}:{{0}}", kind.group) == 0
        assert streams.pending_count(f"{name}:{{0}}", kind.group) == 0

    def caught_up() -> bool:
        one.turn(1)
        return one.lag_ms == 0

    eventually(caught_up)


@KINDS
def test_what_is_found_goes_out_once_over_restarts(streams: Streams, kind: AuditorKind) -> None:
    """Auditors that are killed at any time, with entries read and not settled."""
    said = a_fault(kind, list(clean_hour()))
    step = len(said) // 7
    for part in range(0, len(said), step):
        put(streams, said, part, part + step)
        one = auditor(streams, kind)
        one.turn(1)
        one.turn(1)
    drain(auditor(streams, kind))
    found = findings(streams)
    assert len({each["id"] for each in found}) == len(found)
    assert {each["kind"] for each in found} <= ({"MISSING_KLINE", "ABSENT"} if kind is COMPLETENESS else {"TRIGGER"})
    assert found


@KINDS
def test_a_lost_acknowledgement_doubles_nothing(
    streams: Streams, kind: AuditorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(streams, a_fault(kind, list(clean_hour())))
    one = auditor(streams, kind)

    def lost(*_: object) -> None:
        raise RedisUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(streams, "ack", lost)
        with pytest.raises(RedisUnavailable):
            drain(one)
    said = findings(streams)
    assert said
    assert streams.pending_count(KEYS.events, kind.group) > 0
    again = auditor(streams, kind)
    drain(again)
    again.settle()
    assert streams.pending_count(KEYS.events, kind.group) == 0
    ids = [each["id"] for each in findings(streams)]
    assert len(ids) == len(set(ids))


@KINDS
def test_a_stream_trimmed_past_an_auditor_is_a_loss(streams: Streams, kind: AuditorKind) -> None:
    said = list(clean_hour())
    middle = len(said) // 3
    put(streams, said, 0, middle)
    one = auditor(streams, kind)
    drain(one)
    one.settle()
    key = KEYS.klines if kind is COMPLETENESS else KEYS.events
    read = streams.length(key)
    put(streams, said, middle)
    unread = streams.range(key)[read : read + 5]
    trim_before(streams, key, streams.range(key)[read + 5].id)
    drain(auditor(streams, kind))
    first, last = (texts_of(each.fields)["seq"] for each in (unread[0], unread[-1]))
    (loss,) = [each for each in findings(streams) if each["kind"] == "DATA_LOSS"]
    assert f"5 entries of {key[:6]} were gone" in loss["evidence"]
    assert f"seq {first} to {last}" in loss["evidence"]


def test_an_auditor_that_is_behind_says_by_how_much(streams: Streams) -> None:
    put(streams, list(clean_hour()))
    one = auditor(streams, LIFECYCLE, SETTINGS)
    one.turn(1)
    (behind,) = findings(streams)
    assert behind["kind"] == "LAGGING"
    assert f"{one.lag_ms} ms of exchange time behind" in behind["evidence"]
    assert one.lag_ms > 60_000


def test_each_shard_has_its_own(streams: Streams) -> None:
    """Another shard's streams, memory and findings."""
    entries = numbered(drop_a_bar(list(clean_hour())))
    streams.write([Append(f"{name}:{{1}}", texts_of(fields)) for name, _, fields in entries])
    context: Any = FakeContext("auditor-completeness", CALM)
    one = ShardAuditor(context, streams, 1, COMPLETENESS)
    one.start()
    drain(one)
    one.close()
    kinds = {texts_of(each.fields)["kind"] for each in streams.range(Keys(1).findings)}
    assert {"MISSING_KLINE"} <= kinds <= {"MISSING_KLINE", "ABSENT"}
    assert streams.hash_of(Keys(1).audit("completeness"))
    assert findings(streams) == []


def test_of_two_auditors_one_ends(streams: Streams) -> None:
    put(streams, list(clean_hour()), 0, BEHIND_A_TICK)
    one, other = auditor(streams, COMPLETENESS), auditor(streams, COMPLETENESS)
    drain(one)
    one.settle()
    with pytest.raises(CommitConflict):
        other.settle()


def test_other_intervals_begin_anew(streams: Streams) -> None:
    put(streams, list(clean_hour()), 0, BEHIND_A_TICK)
    one = auditor(streams, LIFECYCLE)
    drain(one)
    one.settle()
    held = len(streams.hash_of(KEYS.audit("lifecycle")))
    other = auditor(streams, LIFECYCLE, replace(SETTINGS, aggregator=settings.Aggregator()))
    assert other.judge.time_ms == 0
    other.settle()
    assert len(streams.hash_of(KEYS.audit("lifecycle"))) < held


def test_a_group_that_nobody_reads_for(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer was never started; the lifecycle auditor is there."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(stream_service, "time", SimpleNamespace(monotonic=lambda: now.s))
    put(streams, list(clean_hour()), 0, 200)
    streams.ensure_group(KEYS.klines, "writers")
    one, other = auditor(streams, COMPLETENESS), auditor(streams, LIFECYCLE)
    for _ in range(8):
        one.turn(1)
        other.turn(1)
        now.s += 6
    silent = {each["evidence"].split()[2] for each in findings(streams) if each["kind"] == "GROUP_SILENT"}
    assert silent == {"writers", "history", "repair"}
    assert [each for each in findings(streams) if each["kind"] == "STALLED"], "and no tick comes"


@pytest.mark.parametrize("name", ["completeness", "lifecycle"])
def test_the_process(streams: Streams, redis_url: str, tmp_path: Path, name: str) -> None:
    """It lives, judges, and ends in order when it is asked to."""
    config = tmp_path / "klagg.toml"
    chosen = replace(SETTINGS, redis=settings.Redis(url=redis_url), audit=settings.Audit(settle_ms=100))
    config.write_text(to_toml(chosen), encoding="utf-8")
    put(streams, list(clean_hour()), 0, BEHIND_A_TICK)
    command = [sys.executable, "-m", f"auditors.{name}_service", "--config", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    key = heartbeat_key(f"auditor-{name}")
    try:
        eventually(lambda: '"ticks":' in streams.values_like(key).get(key, ""), 30)
        group = BY_NAME[name].group
        eventually(
            lambda: (streams.group_lag(KEYS.events, group), streams.pending_count(KEYS.events, group)) == (0, 0), 90
        )
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 0, said.decode()
    assert "summary: 5 symbols" in said.decode()
    assert streams.values_like(key) == {}


@pytest.mark.parametrize("name", ["completeness", "lifecycle", "exchange"])
def test_an_auditor_that_is_switched_off_rests_and_nothing_is_kept_for_it(
    redis_url: str, tmp_path: Path, streams: Streams, name: str
) -> None:
    config = tmp_path / "klagg.toml"
    config.write_text(f'[redis]\nurl = "{redis_url}"\n[audit]\nfull = false\n', encoding="utf-8")
    command = [sys.executable, "-m", f"auditors.{name}_service", "--config", str(config)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        key = heartbeat_key(f"auditor-{name}")
        eventually(lambda: "off (audit.full is false)" in streams.values_like(key).get(key, ""), 20)
        assert streams.length(KEYS.klines) == streams.length(KEYS.events) == 0
        assert streams.groups(KEYS.klines) == streams.groups(KEYS.events) == {}
        process.terminate()
        _, said = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert process.returncode == 0, said.decode()


@KINDS
def test_what_another_consumer_was_given_is_let_go(
    streams: Streams, kind: AuditorKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds back the trimming of the stream; the auditor has passed it and said so."""
    monkeypatch.setattr(group_consumer, "IDLE_MS", 0)
    monkeypatch.setattr(group_consumer, "RECLAIM_EVERY_S", 0.0)
    put(streams, list(clean_hour()), 0, 3_000)
    streams.ensure_group(KEYS.events, kind.group)
    streams.read_group([KEYS.events], kind.group, "gone", count=20)
    one = auditor(streams, kind)
    put(streams, list(clean_hour()), 3_000)
    drain(one)
    one.settle()
    drain(one)
    assert streams.pending_of_others(KEYS.events, kind.group, f"auditor-{kind.name}", count=100) == []
    assert streams.pending_count(KEYS.events, kind.group) == 0

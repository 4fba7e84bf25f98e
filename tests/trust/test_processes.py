"""What `klagg status` and `klagg up` say when all is well, each with a fault that ends it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ujson

from klagg.cli.main import main as klagg
from klagg.cli.up import screen
from klagg.cli.up.command import Up
from klagg.cli.up.signals import ShutdownRequests
from klagg.cli.up.source import Source
from klagg.clock import local_ms
from klagg.drivers.redis_streams import Append, Streams
from klagg.process.alarms import AlarmKind
from klagg.process.catalogue import processes
from klagg.settings import Settings, from_tree
from klagg.wire.fields import stamp
from klagg.wire.keys import Keys, heartbeat_key
from tests.gateway.kit import kline
from tests.trust.catalogue import Sentence

pytestmark = pytest.mark.servers

NAMES = [each.name for each in processes(Settings())]
WHOLE = f"all {len(NAMES)} processes are alive, and no alarm stands\nexit code 0"

ALARMS = {
    AlarmKind.NO_MARKET_DATA: ("gateway", "no trade of any symbol has come for 75 s"),
    AlarmKind.LINE_SILENT: ("ingest-A", "no trade of any symbol has come for 75 s"),
    AlarmKind.NO_OUTPUT: ("aggregator-0", "70 entries in 10 s and no klines"),
}


def beat(name: str, *, age_ms: float = 0, alarms: tuple[AlarmKind, ...] = (), **changes: Any) -> str:
    """A heartbeat so old, with these alarms."""
    told = [{"kind": kind, "reason": ALARMS[kind][1], "since_ms": 1} for kind in alarms]
    said = {"process": name, "pid": 1, "state": "running", "started_ms": 1, "time_ms": int(local_ms() - age_ms)}
    return ujson.dumps({**said, "alarms": told, "counters": {}, "rates": {}, "gauges": {}, **changes})


Plant = Callable[[Streams], None]


def says(name: str, **changes: Any) -> Plant:
    """A process says something else."""
    return lambda streams: streams.set_with_ttl(heartbeat_key(name), beat(name, **changes), 60)


def lines_without_a_trade(streams: Streams) -> None:
    for name in ("ingest-A", "ingest-B"):
        says(name, alarms=(AlarmKind.LINE_SILENT,))(streams)


class Status(NamedTuple):
    """A row of the catalogue: what `klagg status` says, and its exit code."""

    sentence: Sentence
    plant: Plant


def status(fault: str, plant: Plant, then: str) -> Status:
    return Status(Sentence("klagg status", WHOLE, fault, f"{then}\nexit code 1"), plant)


STATUS = [
    status("a process is gone", lambda streams: streams.delete(heartbeat_key("clock")), "missing: clock"),
    status(
        "a process is frozen",
        says("repair", age_ms=20_000),
        " s old: it is dead or frozen (service.silent_s)",
    ),
    status(
        "a heartbeat cannot be read",
        lambda streams: streams.set_with_ttl(heartbeat_key("clock"), "{", 60),
        "ALARM clock: process_silent: its heartbeat cannot be read",
    ),
    status(
        "no trade comes, the gateway says",
        says("gateway", alarms=(AlarmKind.NO_MARKET_DATA,)),
        "ALARM gateway: no_market_data: no trade of any symbol has come for 75 s",
    ),
    status(
        "no trade comes, the lines say",
        lines_without_a_trade,
        "ALARM ingest-B: line_silent: no trade of any symbol has come for 75 s",
    ),
    status(
        "a process makes nothing of its input",
        says("aggregator-0", alarms=(AlarmKind.NO_OUTPUT,)),
        "ALARM aggregator-0: no_output: 70 entries in 10 s and no klines",
    ),
]


@pytest.fixture
def streams(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Streams]:
    """A Redis in which every process beats, and which `klagg status` looks at."""
    monkeypatch.setenv("KLAGG_REDIS__URL", redis_url)
    streams = Streams(redis_url)
    for name in NAMES:
        says(name)(streams)
    yield streams
    streams.close()


@pytest.mark.parametrize("row", STATUS, ids=lambda row: row.sentence.fault)
def test_the_last_line_of_klagg_status_and_its_exit_code_are_true(
    streams: Streams, capsys: pytest.CaptureFixture[str], row: Status
) -> None:
    def said() -> str:
        code = klagg(["status"])
        return f"{capsys.readouterr().out.rstrip()}\nexit code {code}"

    without_fault = said()
    row.plant(streams)
    with_fault = said()
    assert row.sentence.wrong(without_fault, with_fault) == []
    market = "no market data comes: "
    assert (market in with_fault) == ("no trade comes" in row.sentence.fault)


# --- the screen of `klagg up` ---


@dataclass
class Running:
    """A child that runs, as far as the screen sees it."""

    name: str
    pid: int | None = 1
    restarts: int = 0
    started_s: float = 0.0


@dataclass
class Shown:
    """The real screen of `klagg up` over a real Redis, with children that the test plays."""

    up: Up
    streams: Streams
    children: dict[str, Running] = field(default_factory=dict)

    def look(self) -> str:
        """What the lines say now."""
        return "\n".join(screen.plain(self.up._snapshot()))

    def trades(self, number: int) -> None:
        """The line has brought so many trades."""
        says("ingest-A", counters={"trades": number})(self.streams)


@pytest.fixture
def shown(redis_url: str, tmp_path: Path, streams: Streams) -> Iterator[Shown]:
    settings = from_tree({"redis": {"url": redis_url}})
    source = Source("live", None, "", "the exchange")
    up = Up(argparse.Namespace(plain=True), settings, source, tmp_path, ShutdownRequests())
    up._streams = streams
    shown = Shown(up, streams, {name: Running(name) for name in NAMES})
    up._children.update(shown.children)  # type: ignore[arg-type]
    yield shown
    up._log.close()


def down(shown: Shown) -> None:
    shown.children["clock"].pid = None


def started_anew(shown: Shown) -> None:
    shown.children["clock"].pid = 2


def frozen(shown: Shown) -> None:
    says("clock", age_ms=20_000)(shown.streams)


def alarmed(shown: Shown) -> None:
    says("gateway", alarms=(AlarmKind.NO_MARKET_DATA,))(shown.streams)


def heartbeats_lost(shown: Shown) -> None:
    shown.streams.delete(*(heartbeat_key(name) for name in NAMES))


def publishes(**changes: Any) -> Callable[[Shown], None]:
    """A newer final of the minute."""
    final = kline(**{"revision": 2, **changes})
    return lambda shown: _publish(shown.streams, stamp(final.to_fields(), "aggregator-0@1", 2))


def _publish(streams: Streams, fields: dict[str, str]) -> None:
    streams.write([Append(Keys(0).klines, fields)])


class Line(NamedTuple):
    """A row of the catalogue: what a line of `klagg up` says."""

    sentence: Sentence
    plant: Callable[[Shown], None]


def line(said: str, fault: str, plant: Callable[[Shown], None], then: str) -> Line:
    return Line(Sentence("klagg up", said, fault, then), plant)


LINES = [
    line("clock running", "a process has ended", down, "clock down"),
    line("clock running", "a process is frozen", frozen, "clock silent"),
    line("clock running", "a process starts again", started_anew, "clock starting"),
    line("clock running", "Redis lost the heartbeats", heartbeats_lost, "clock silent"),
    line("gateway running", "no trade comes", alarmed, "gateway ALARM"),
    line(
        "gateway running",
        "no trade comes",
        alarmed,
        "\nno market data comes: no trade of any symbol has come for 75 s\nALARM gateway: no_market_data: ",
    ),
    line("500 trades/s", "no line says anything", heartbeats_lost, " 0 trades/s"),
    line("trades 321 complete", "a version of it may lack trades", publishes(complete=0), "trades 321 waiting"),
    line("trades 321 complete", "its row is the exchange's", publishes(complete=0, official=1), "trades 321 official"),
]


@pytest.mark.parametrize("row", LINES, ids=lambda row: f"{row.sentence.fault}: {row.sentence.said}")
def test_the_lines_of_klagg_up_are_true(shown: Shown, monkeypatch: pytest.MonkeyPatch, row: Line) -> None:
    now_s = 100.0
    monkeypatch.setattr("klagg.cli.up.command.time.monotonic", lambda: now_s)
    _publish(shown.streams, stamp(kline().to_fields(), "aggregator-0@1", 1))
    shown.trades(1000)
    shown.look()
    now_s += 2
    shown.trades(2000)
    without_fault = shown.look()
    row.plant(shown)
    now_s += 2
    assert row.sentence.wrong(without_fault, shown.look()) == []

"""Metrics: names, ports, and a real Prometheus that fires the alert over malformed frames."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import ujson

from klagg.drivers.postgres import Database
from klagg.embedded import bring_prefix
from klagg.errors import ConfigError
from klagg.process.metrics import PORTS, MetricsServer, StatsCollector, port_of
from klagg.process.stats import Stats
from tests import kit
from tests.ingest.kit import SmallExchange, agg_trade, frame_of
from tests.kit import eventually_async as eventually
from writers.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "config" / "prometheus"
TARGETS = "127.0.0.1:9460"
RULES = (FILES / "klagg.rules.yml").read_text(encoding="utf-8")
CASES = (FILES / "klagg.rules.test.yml").read_text(encoding="utf-8")

EXPRESSIONS: dict[str, str] = {
    alert.partition("\n")[0]: alert.partition("expr:")[2].partition("labels: {")[0]
    for alert in RULES.split("- alert: ")[1:]
}
"""What each alert looks at, by the alert's name."""

NAME = re.compile(r"klagg_[a-z_]+")
GROWING = {name for expression in EXPRESSIONS.values() for name in re.findall(r"increase\((klagg_[a-z_]+)", expression)}
"""The counters whose growth some rule looks at."""


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return int(some.getsockname()[1])


def free_base() -> int:
    """A base above which the port of every process is free. It lies below the ports that systems give to whoever asks
    for any (from 32768 on Linux), so that no other test gets one of them meanwhile."""
    for base in range(20_000 + os.getpid() % 100 * 100, 32_000, len(PORTS)):
        with ExitStack() as held:
            try:
                for offset in range(len(PORTS)):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", base + offset))
            except OSError:
                continue
        return base
    raise AssertionError("no row of ports is free")


def page_of(stats: Stats) -> list[str]:
    """What a scrape of these statistics says, without comments."""
    port = free_port()
    collector = StatsCollector("ingest-A", stats, lambda: "running", 1_000.0)
    url = f"http://127.0.0.1:{port}/metrics"
    with MetricsServer(collector, port), urllib.request.urlopen(url, timeout=10) as answer:
        return [line for line in answer.read().decode().splitlines() if not line.startswith("#")]


def test_counters_and_gauges_by_prometheus_names() -> None:
    stats = Stats()
    stats.add("messages", 7)
    stats.add("rejected", 2, kind="price")
    stats.add("rejected")
    stats.show("connection_silence_ms", 1500, connection="A1")
    stats.show("weight_of_minute", 240)
    stats.show("text", "no number")
    page = page_of(stats)
    assert 'klagg_ingest_messages_total{process="ingest-A"} 7.0' in page
    assert 'klagg_ingest_rejected_total{kind="price",process="ingest-A"} 2.0' in page
    assert 'klagg_ingest_rejected_total{kind="",process="ingest-A"} 1.0' in page
    assert 'klagg_ingest_connection_silence_seconds{connection="A1",process="ingest-A"} 1.5' in page
    assert 'klagg_ingest_weight_of_minute{process="ingest-A"} 240.0' in page
    assert 'klagg_process_start_time_seconds{process="ingest-A"} 1.0' in page
    assert 'klagg_process_running{process="ingest-A"} 1.0' in page
    assert not any("text" in line for line in page)


def test_every_process_has_a_port_of_its_own() -> None:
    names = [*PORTS, *(f"ingest-{line}" for line in "CDZ"), *(f"aggregator-{shard}" for shard in (0, 1, 2))]
    ports = {port_of(name, 9460) for name in names if name != "aggregator"}
    assert len(ports) == len(names) - 1
    assert (port_of("ingest-A", 9460), port_of("aggregator-0", 9460), port_of("clock", 0)) == (9460, 9464, 0)
    for name, base in (("nobody", 9460), ("aggregator-900", 65_000)):
        with pytest.raises(ConfigError, match=r"metrics\.port_base"):
            port_of(name, base)


def test_a_taken_port_is_a_clear_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        collector = StatsCollector("clock", Stats(), lambda: "running", 0.0)
        with pytest.raises(ConfigError, match=f"cannot be served at 127.0.0.1:{port}"), MetricsServer(collector, port):
            pass


def program(name: str) -> str:
    """A program of Debian's prometheus; where it cannot be had the test fails, and says why."""
    return str(bring_prefix("prometheus") / "bin" / name)


@pytest.mark.servers
def test_the_rules_and_the_example_are_valid() -> None:
    for words in (
        ("check", "rules", "klagg.rules.yml"),
        ("check", "config", "klagg.prometheus.yml"),
        ("test", "rules", "klagg.rules.test.yml"),
    ):
        done = subprocess.run([program("promtool"), *words], cwd=FILES, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_fires_in_a_case_and_is_silent_over_a_calm_day() -> None:
    """promtool proves the cases; here, that there are some for every rule, and that calm is no lack of series."""
    trouble, calm = CASES.split("  - name: ")[1:]
    assert (trouble.partition("\n")[0], calm.partition("\n")[0]) == ("trouble", "calm")
    case = r"alertname: (\w+)(?:,|\n)\s*eval_time: \w+(?:,|\n)\s*exp_alerts:\s*(\[\]|\[\{|- exp_labels)"
    assert {name for name, expected in re.findall(case, trouble) if expected != "[]"} == set(EXPRESSIONS)
    quiet = re.findall(case, calm)
    assert {expected for _, expected in quiet} == {"[]"}
    assert {name for name, _ in quiet} == set(EXPRESSIONS)
    for alert, expression in EXPRESSIONS.items():
        names = NAME.findall(expression) or re.findall(r"\bup\b", expression)
        assert names, f"{alert} looks at nothing"
        missing = [name for name in names if f"'{name}{{" not in calm]
        assert not missing, f"{alert} is silent over the calm day because it lacks {missing}"


@contextmanager
def running(module: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of klagg; killed at the end if it is still there."""
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def samples_at(port: int) -> dict[str, list[float]]:
    """The values of every metric at a port, by name; empty if nobody serves there."""
    found: dict[str, list[float]] = {}
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    except OSError:
        return {}
    for line in lines:
        if not line.startswith("#"):
            found.setdefault(re.split("[{ ]", line)[0], []).append(float(line.rpartition(" ")[2]))
    return found


@pytest.mark.servers
def test_a_blocking_process_serves_its_metrics_until_it_ends(redis_url: str) -> None:
    base = free_base()
    port = port_of("aggregator-0", base)
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "KLAGG_REDIS__URL": redis_url,
        "KLAGG_METRICS__PORT_BASE": str(base),
    }
    with running("aggregator.service", environment) as process:
        found = kit.eventually(lambda: (page := samples_at(port)).get("klagg_process_running") == [1.0] and page, 30)
        assert found
        assert found["klagg_aggregator_open_gaps"] == found["klagg_aggregator_oldest_gap_seconds"] == [0.0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert samples_at(port) == {}


@pytest.mark.servers
async def test_what_rules_look_at_is_there_from_the_start_and_counts_from_0(redis_url: str, database_url: str) -> None:
    """increase() misses the first sample of a series: a counter born at 5 would have lost 5 that nobody hears of."""
    base = free_base()
    modules = {
        "ingest-A": "ingest.service",
        "repair": "ingest.repair_service",
        "aggregator-0": "aggregator.service",
        "auditor-completeness": "auditors.completeness_service",
        "auditor-exchange": "auditors.exchange_service",
    }
    database = Database(database_url)
    migrate(database)
    database.close()
    wanted = {name for expression in EXPRESSIONS.values() for name in NAME.findall(expression)}
    assert {name.split("_")[1] for name in wanted} == {"ingest", "repair", "aggregator", "auditor", "process"}
    async with SmallExchange().running() as exchange:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "KLAGG_REDIS__URL": redis_url,
            "KLAGG_METRICS__PORT_BASE": str(base),
            "KLAGG_EXCHANGE__WEBSOCKET_URL": exchange.websocket_url,
            "KLAGG_EXCHANGE__REST_URL": exchange.rest_url,
            "KLAGG_DATABASE__URL": database_url,
        }
        found: dict[str, list[float]] = {}
        with ExitStack() as stack:
            processes = {name: stack.enter_context(running(module, environment)) for name, module in modules.items()}
            deadline = time.monotonic() + 120
            while wanted - set(found):
                ended = {name: process.returncode for name, process in processes.items() if process.poll() is not None}
                assert not ended, "a process has ended"
                assert time.monotonic() < deadline, f"never shown: {wanted - set(found)}"
                for process in modules:
                    found |= await asyncio.to_thread(samples_at, port_of(process, base))
    assert {name: set(found[name]) for name in GROWING} == {name: {0.0} for name in GROWING}


def alerts_of(port: int) -> dict[str, str]:
    """State of every active alert."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=5) as answer:
            found: Any = ujson.loads(answer.read())
    except OSError:
        return {}
    return {each["labels"]["alertname"]: each["state"] for each in found["data"]["alerts"]}


def scrapes_of(port: int) -> float:
    """How often Prometheus has seen ingest-A's rejections."""
    query = "min(count_over_time(klagg_ingest_rejected_total[5m]))"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={query}", timeout=5) as answer:
            found: Any = ujson.loads(answer.read())["data"]["result"]
    except OSError:
        return 0.0
    return float(found[0]["value"][1]) if found else 0.0


@pytest.mark.servers
async def test_more_than_10_parse_errors_in_a_minute_fire(redis_url: str, tmp_path: Path) -> None:
    base, port = free_base(), free_port()
    for name in ("klagg.rules.yml", "klagg.prometheus.yml"):
        text = (FILES / name).read_text(encoding="utf-8").replace(TARGETS, f"127.0.0.1:{base}")
        (tmp_path / name).write_text(text.replace(" 15s", " 1s"), encoding="utf-8")  # intervals alone, no rule has 15s
    prometheus = subprocess.Popen(  # noqa: ASYNC220 - starts at once, and nothing else runs here
        [
            program("prometheus"),
            f"--config.file={tmp_path}/klagg.prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    async with SmallExchange().running() as exchange:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "KLAGG_REDIS__URL": redis_url,
            "KLAGG_METRICS__PORT_BASE": str(base),
            "KLAGG_EXCHANGE__WEBSOCKET_URL": exchange.websocket_url,
            "KLAGG_EXCHANGE__REST_URL": exchange.rest_url,
        }
        command = [sys.executable, "-m", "ingest.service"]
        ingest = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
        try:
            await eventually(lambda: exchange.connections, deadline_s=30)
            deadline = time.monotonic() + 90
            while await asyncio.to_thread(scrapes_of, port) < 2:
                assert time.monotonic() < deadline, "Prometheus does not see the process"
            assert "KlaggParseErrors" not in await asyncio.to_thread(alerts_of, port)
            for number in range(20):
                await exchange.send(frame_of(agg_trade(number)), frame_of(agg_trade(number, p="abc")))
            while (await asyncio.to_thread(alerts_of, port)).get("KlaggParseErrors") != "firing":
                assert time.monotonic() < deadline, "the alert does not fire"
        finally:
            for process in (ingest, prometheus):
                process.terminate()
                process.wait(30)

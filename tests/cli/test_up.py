"""`klagg up` with everything real: servers of its own, the local exchange, all processes, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ujson

from klagg.contract import HEARTBEAT_PATTERN, Keys
from klagg.database import Database
from klagg.redisio import Streams
from klagg.settings import load
from tests.endtoend.kit import table
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]

ROOT = Path(__file__).resolve().parents[2]
MARKET = ("--source", "sim", "--symbols", "5", "--rate", "100", "--plain")
FOLDER = "sim-5-100-1-x20"
"""Where a market of another shape than the usual keeps its data."""
BANNER = "THE MARKET IS SIMULATED"


class Running:
    """A `klagg up` in a process of its own."""

    def __init__(self, data: Path, *words: str) -> None:
        self.log = data / f"up-{len(list(data.glob('up-*.log')))}.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "klagg", "up", "--data-dir", str(data), *words],
                stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def says(self, sentence: str, deadline_s: float = 60) -> None:
        def there() -> bool:
            if sentence in self.said():
                return True
            if self.process.poll() is not None:
                raise RuntimeError(f"klagg up ended with {self.process.returncode}:\n{self.said()[-3000:]}")
            return False

        eventually(there, deadline_s, 0.1)

    def end(self, number: signal.Signals = signal.SIGINT, deadline_s: float = 40) -> int:
        self.process.send_signal(number)
        return self.process.wait(deadline_s)


@contextmanager
def up(data: Path, *words: str) -> Iterator[Running]:
    running = Running(data, *words)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.end(signal.SIGTERM)


@pytest.fixture
def data(servers_directory: Path, request: pytest.FixtureRequest) -> Path:
    """A data directory that PostgreSQL's user can reach."""
    folder = servers_directory / request.node.name
    folder.mkdir(mode=0o755)
    return folder


def beats(streams: Streams) -> dict[str, dict[str, object]]:
    return {each["process"]: each for each in map(ujson.loads, streams.values_like(HEARTBEAT_PATTERN).values())}


@pytest.mark.timeout(300)
def test_it_shows_restarts_drains_and_goes_on(data: Path) -> None:
    with up(data, *MARKET, "--speed", "20") as running:
        running.says(BANNER)
        running.says("last kline")
        settings = load(data / FOLDER / "klagg.toml", {})
        assert (data / FOLDER / "klagg.toml").stat().st_mode & 0o077 == 0
        streams, database = Streams(settings.redis.url), Database(settings.database.url)
        first = eventually(lambda: table(database), 60, 0.2)

        second = Running(data, *MARKET, "--speed", "20")
        assert second.process.wait(30) == 1
        assert "klagg is already up with the data directory" in second.said()

        victim = beats(streams)["aggregator-0"]["pid"]
        assert isinstance(victim, int)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: beats(streams)["aggregator-0"]["pid"] != victim, 30, 0.1)
        eventually(lambda: len(table(database)) > len(first), 60, 0.2)
        epoch = int(streams.hash_of(Keys(0).commit)[b"epoch"])
        assert epoch == 2
        assert running.end() == 0
        for part in ("ingest-A", "clock", "aggregator-0", "writer-final", "exchange"):
            assert f"klagg: {part} drained" in running.said()
        database.close()
        streams.close()

    with up(data, *MARKET, "--speed", "20") as again:
        again.says("started aggregator-0")
        settings = load(data / FOLDER / "klagg.toml", {})
        streams, database = Streams(settings.redis.url), Database(settings.database.url)
        eventually(lambda: int(streams.hash_of(Keys(0).commit).get(b"epoch", 0)) == epoch + 1, 60, 0.1)
        assert set(first) <= set(table(database)), "what was there is still there"
        children = [
            each["pid"] for each in eventually(lambda: len(beats(streams)) == 4 and beats(streams).values(), 30)
        ]
        database.close()
        streams.close()
        again.process.kill()  # the hard way: nobody is left to end the children
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 60, 0.1)
        again.process.wait(10)

    with up(data, *MARKET, "--speed", "20") as after:
        after.says("started aggregator-0")
        after.says("exchange time 2")
        assert after.end(signal.SIGTERM) == 0


@pytest.mark.timeout(120)
def test_without_a_database_and_with_the_exchange_out_of_reach(data: Path) -> None:
    config = data / "config.toml"
    config.write_text('[exchange]\nrest_url = "http://127.0.0.1:9"\n', encoding="utf-8")
    live = Running(data, "--config", str(config), "--plain")
    assert live.process.wait(30) == 1
    assert "klagg: the exchange cannot be reached at http://127.0.0.1:9" in live.said()
    words = ("--config", str(config), "--no-database", "--plain", "--source", "auto", "--symbols", "5", "--rate", "100")
    with up(data, *words) as running:
        running.says(BANNER)
        running.says("exchange time 2")
        assert "writer-final" not in running.said()
        assert running.end() == 0


def test_a_redis_that_cannot_be_reached_is_one_sentence(data: Path) -> None:
    config = data / "config.toml"
    config.write_text('[redis]\nurl = "redis://127.0.0.1:9/0"\n[database]\nenabled = false\n', encoding="utf-8")
    running = Running(data, "--config", str(config), *MARKET)
    assert running.process.wait(60) == 1
    assert "Redis does not answer" in running.said()
    assert "Traceback" not in running.said()

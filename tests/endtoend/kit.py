"""The whole path with its real processes: simulator → ingest and clock → aggregator → writer, on real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import ujson

from klagg import settings
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.settings import Audit, Settings, to_toml
from klagg.wire.entries import TradeRow
from tests.kit import eventually
from writers.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]

SILENT_S = 1500
"""In so many seconds of exchange time every symbol of a synthetic market without a floor trades: the quietest do so
once in 150 of them on average. What came before, and may have been lost, is proven by a symbol's next trade."""
FLOOR_S = 10
FLOOR = ("--floor", str(FLOOR_S))
"""Arguments of a market in which nobody waits for a quiet symbol: every symbol trades at least once in FLOOR_S."""
PROVEN_S = 120
"""Real seconds in which the last bars of a market with a floor are proven, on a machine that is busy, too."""
T = TypeVar("T")

MODULES = {
    "clock": ["ingest.clock_service"],
    "repair": ["ingest.repair_service"],
    "aggregator": ["aggregator.service", "--shard", "0"],
    "ingest": ["ingest.service", "--line", "A"],
    "ingest-b": ["ingest.service", "--line", "B"],
    "writer": ["writers.final_service"],
    "snapshot": ["writers.snapshot_service"],
    "gateway": ["gateway.service"],
    "auditor-exchange": ["auditors.exchange_service"],
}


@dataclass
class Child:
    """One process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def end(self, number: signal.Signals = signal.SIGTERM, deadline_s: float = 30) -> int:
        """Send a signal and wait; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(deadline_s)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@dataclass
class Stack:
    """The running path. `children` are by name; `rest_url` is the simulator's."""

    folder: Path
    settings: Settings
    rest_url: str
    exchange: Child
    children: dict[str, Child] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        """Start these processes (again)."""
        config = self.folder / "klagg.toml"
        config.write_text(to_toml(self.settings), encoding="utf-8")
        for name in names:
            command = [sys.executable, "-m", *MODULES[name], "--config", str(config)]
            self.children[name] = spawn(name, command, self.folder)

    def stop(self, *names: str) -> dict[str, int]:
        """End these processes in this order; their exit codes."""
        return {name: self.children[name].end() for name in names}

    def alive(self) -> None:
        """Fail with the log of a process that died."""
        for child in (self.exchange, *self.children.values()):
            if child.process.poll() is not None:  # no AssertionError: `eventually` would go on asking
                raise RuntimeError(f"{child.name} ended with {child.process.returncode}:\n{child.text()[-3000:]}")

    def wait_until(self, condition: Callable[[], T], deadline_s: float = 30.0, every_s: float = 0.01) -> T:
        """`eventually`, given up as soon as a process has died."""

        def with_all_alive() -> T:
            self.alive()
            return condition()

        return eventually(with_all_alive, deadline_s, every_s)

    def ask(self, path: str) -> Any:
        """The simulator's answer."""
        with urllib.request.urlopen(self.rest_url + path, timeout=60) as answer:
            return ujson.loads(answer.read())

    def recorded(self, symbol: str, first_ms: int, last_ms: int) -> list[TradeRow]:
        """The simulator's own record: its aggregate trades of these times."""
        query = f"symbol={quote(symbol)}&from={first_ms}&to={last_ms}"
        with urllib.request.urlopen(f"{self.rest_url}/klagg/trades?{query}", timeout=30) as answer:
            trades = [ujson.loads(line) for line in answer.read().splitlines()]
        return [
            TradeRow(symbol, *(each[name] for name in ("id", "price", "qty", "first", "last", "time_ms", "maker")))
            for each in trades
        ]

    def streams(self) -> Streams:
        return Streams(self.settings.redis.url)


def spawn(name: str, command: Sequence[str], folder: Path) -> Child:
    """A process of its own group, logging into `folder`."""
    log = folder / f"{name}.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=folder, start_new_session=True
        )
    return Child(name, process, log)


TABLE = """
SELECT *, (extract(epoch FROM open_time) * 1000)::bigint AS open_ms FROM klines WHERE "interval" = %(interval)s
"""


def table(database: Database, interval: str = "1m") -> dict[tuple[str, int], dict[str, Any]]:
    """The klines of an interval in the table, by symbol and open time in ms."""
    with database.transaction():
        rows = database.query(TABLE, {"interval": interval})
    return {(row["symbol"], row["open_ms"]): row for row in rows}


def is_whole(row: Mapping[str, Any]) -> bool:
    """Whether nothing is missing in a row, and it says by its source whose word that is."""
    assert row["complete"] <= (row["source"] == "own"), row
    assert row["official"] <= (row["source"] != "own"), row
    return bool(row["complete"] or row["official"])


def migrated(database_url: str) -> Database:
    """A connection to the database, its schema in place."""
    database = Database(database_url)
    migrate(database)
    return database


@contextmanager
def stack(
    folder: Path, redis_url: str, database_url: str, market: Sequence[str], **sections: dict[str, Any]
) -> Iterator[Stack]:
    """A simulator with these arguments, and settings that point at it; the processes are started by the test."""
    simulator = spawn("exchange", [sys.executable, "-m", "klagg.cli.simulate", *market], folder)

    def announced() -> str:
        assert simulator.process.poll() is None, simulator.text()
        return next((line for line in simulator.text().splitlines() if line.startswith("the simulator at ")), "")

    words = eventually(announced, 30).split()
    rest_url, socket_url = words[3], words[4].strip("()")
    base = Settings(audit=Audit(full=False))
    changed = {
        "redis": {"url": redis_url},
        "database": {"url": database_url},
        "exchange": {"rest_url": rest_url, "websocket_url": socket_url},
    }
    for name, values in sections.items():
        changed[name] = {**changed.get(name, {}), **values}
    parts = {name: replace(getattr(base, name), **values) for name, values in changed.items()}
    chosen = settings.from_tree({}) if not parts else replace(base, **parts)
    running = Stack(folder, chosen, rest_url, simulator)
    try:
        yield running
    finally:
        for child in (*running.children.values(), simulator):
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait(10)

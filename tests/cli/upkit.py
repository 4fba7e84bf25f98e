"""`klagg up` as a process of its own, and what it leaves to look at."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ujson

from klagg.drivers.redis_streams import Streams
from klagg.embedded import cache_directory
from klagg.embedded.traces import recorded_process
from klagg.kline import Kline
from klagg.settings import Settings, load
from klagg.wire.fields import texts_of
from klagg.wire.keys import HEARTBEAT_PATTERN, Keys
from tests.conftest import ROOT
from tests.kit import eventually

MARKET = ("--source", "sim", "--symbols", "5", "--rate", "200", "--speed", "20")
"""A market whose minutes take three seconds."""

PIPELINE = {
    "aggregator-0",
    "auditor-completeness",
    "auditor-lifecycle",
    "gateway",
    "repair",
    "clock",
    "ingest-A",
    "ingest-B",
}


def command(data: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "klagg", "up", "--data-dir", str(data), *options]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "KLAGG_CACHE": str(cache_directory())}


def refused(data: Path, *options: str) -> tuple[int, str]:
    """The exit code of a `klagg up` that cannot run, and the last thing it said."""
    done = subprocess.run(
        command(data, "--plain", *options), env=environment(), capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stderr.strip()


@dataclass
class Running:
    """A `klagg up` with its data in `data` and what it prints in `output`."""

    process: subprocess.Popen[bytes]
    data: Path
    output: Path

    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    @property
    def folder(self) -> Path:
        return next(self.data.glob("*/up.lock")).parent

    def settings(self) -> Settings:
        return load(self.folder / "klagg.toml", environment={})

    def streams(self) -> Streams:
        return Streams(self.settings().redis.url)

    def wait_until(self, step: str) -> None:
        def told() -> bool:
            if self.process.poll() is not None:
                raise RuntimeError(f"klagg up ended with {self.process.returncode}:\n{self.said()}")
            return step in self.said()

        eventually(told, 60)

    def beats(self) -> dict[str, dict[str, Any]]:
        """The heartbeats by process."""
        texts = self.streams().values_like(HEARTBEAT_PATTERN).values()
        return {beat["process"]: beat for beat in map(ujson.loads, texts)}

    def pids(self, names: set[str]) -> dict[str, int]:
        """The process ids from the heartbeats of these processes, once all run."""

        def running() -> dict[str, int]:
            found = {name: beat["pid"] for name, beat in self.beats().items() if beat["state"] == "running"}
            return found if names <= set(found) else {}

        return eventually(running, 30)

    def newest(self) -> Kline | None:
        entries = self.streams().newest(Keys(0).klines)
        return Kline.from_fields(texts_of(entries[0].fields)) if entries else None

    def kline(self, behind: int = 0, after: Kline | None = None) -> Kline:
        """The newest kline, once one of an epoch behind this one is there that closes later than `after`."""

        def wanted() -> Kline | None:
            kline = self.newest()
            later = kline is not None and (after is None or kline.close_time > after.close_time)
            return kline if kline and later and kline.epoch > behind else None

        found = eventually(wanted, 30, every_s=0.1)
        assert found
        return found

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal as a terminal does, to the whole group, and wait; the exit code."""
        os.killpg(self.process.pid, number)
        return self.process.wait(40)


@contextmanager
def up(data: Path, *options: str, terminal: int | None = None, until: str = "klagg: started ") -> Iterator[Running]:
    """A `klagg up` in a process group of its own that has said `until` when the block begins.

    With `terminal` its output goes there, and nothing is waited for.
    """
    data.mkdir(exist_ok=True)
    output = data / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(
            command(data, *options),
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=terminal or out,
            stderr=terminal or out,
            start_new_session=True,
        )
    running = Running(process, data, output)
    try:
        if terminal is None:
            running.wait_until(until)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)


@contextmanager
def data_directory() -> Iterator[Path]:
    """A place for data that PostgreSQL's user can reach; servers that a killed klagg left there end with it."""
    with tempfile.TemporaryDirectory(prefix="klagg-up-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder / "data"
        for mark in folder.glob("data/*/*/server.pid"):
            pid = recorded_process(mark.parent)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

"""A whole pipeline that clients meet: a history in the table, a market, and a gateway that begins again on its port.

A client is a program of its own that prints JSON, a bar or a list of bars a line (`Spoken`), with the names that events
of Binance's have. Its libraries are installed once, exactly as a lock file says, into klagg's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest
import ujson

from klagg.drivers.postgres import Database
from klagg.embedded import cache_directory
from klagg.embedded.traces import free_port
from klagg.intervals import INTERVALS, MINUTE_MS
from klagg.kline import Kline
from tests.endtoend.kit import FLOOR, Stack, migrated, stack, table
from tests.endtoend.test_gateway import COLUMNS, symbols_of
from writers.kline_table import upsert

HERE: Final = Path(__file__).parent
SPEED: Final = 20
"""Seconds of the exchange a second: a bar of 15m takes 45 s."""
MARKET: Final = ("--symbols", "8", "--rate", "30", *FLOOR)
SYMBOL: Final = "BTCUSDT"
SERVED: Final = ("1m", "15m", "1h")
COMPARED: Final = ("1m", "15m")
"""Intervals that each client asks for and listens to."""
OLDER: Final = 600
"""Bars of each interval that are in the table before the market begins: more than an answer has by default."""
WAIT_S: Final = 240
"""Real seconds in which a client hears a whole bar of 15m, on a machine that is busy, too."""

Bar = dict[str, Any]
"""A bar as a client gives it: `t` its open time (UTC ms), and some of COLUMNS, as texts or floats."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A line that a client printed. `closed` is None where the client does not say it."""

    what: str
    interval: str
    bars: list[Bar]
    closed: bool | None


@dataclass
class Program:
    """A client's program that runs. Its output is in `folder`."""

    name: str
    folder: Path
    process: subprocess.Popen[bytes]

    def said(self) -> list[Spoken]:
        """What it has printed up to now."""
        *lines, _ = (self.folder / f"{self.name}.out").read_text(encoding="utf-8").split("\n")
        found = [ujson.loads(line) for line in lines if line.startswith('{"what":')]
        return [Spoken(each["what"], each["interval"], each["bars"], each.get("closed")) for each in found]

    def alive(self) -> None:
        """Fail with what it complained of if it has ended."""
        if self.process.poll() is not None:  # no AssertionError: `eventually` would go on asking
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.complaints()}")

    def complaints(self) -> str:
        return "".join((self.folder / f"{self.name}.{kind}").read_text("utf-8")[-3000:] for kind in ("out", "err"))

    def history(self) -> dict[str, list[Bar]]:
        """The newest answer of each interval that it asked for."""
        return {each.interval: each.bars for each in self.said() if each.what == "history"}

    def closed(self, interval: str, first: int = 0, last: int | None = None) -> dict[int, Bar]:
        """The last word of each closed bar by open time, in these lines. Where the client does not say that a bar is
        closed, it is so once the next one has come."""
        spoken = [each for each in self.said()[first:last] if each.what == "live" and each.interval == interval]
        found = {bar["t"]: bar for each in spoken for bar in each.bars if each.closed is not False}
        if all(each.closed is None for each in spoken):
            found.pop(max(found, default=0), None)
        return found


@dataclass
class Pipeline:
    """A running pipeline: the gateway's host and port, and the table behind it."""

    address: str
    stack: Stack
    database: Database

    def finals(self, interval: str) -> dict[int, dict[str, Any]]:
        """The finals of SYMBOL by open time (UTC ms)."""
        found = table(self.database, interval)
        return {at: row for (symbol, at), row in found.items() if symbol == SYMBOL and row["revision"]}

    @contextmanager
    def client(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Program]:
        """Run a client's program with the gateway's address as its last argument; it is killed in the end."""
        folder = self.stack.folder
        with (folder / f"{name}.out").open("wb") as out, (folder / f"{name}.err").open("wb") as err:
            process = subprocess.Popen(
                [*command, self.address],
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        try:
            yield Program(name, folder, process)
        finally:
            process.kill()
            process.wait(10)

    def follow(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        history: Sequence[str] = COMPARED,
        live: Sequence[str] = COMPARED,
    ) -> None:
        """A client's history is the table's, and so are the bars that it hears before and after a restart.

        It must hear minutes close before it, and bars of all of `live` after it; nothing is restarted for none.
        """
        before = {interval: self.finals(interval) for interval in COMPARED}
        with self.client(name, command, environment) as program:

            def until(condition: Any) -> None:
                def with_all_alive() -> Any:
                    program.alive()
                    return condition()

                try:
                    self.stack.wait_until(with_all_alive, WAIT_S, 0.2)
                except AssertionError as late:
                    raise AssertionError(f"{late}; it said:\n{program.complaints()}") from late

            until(lambda: program.history().keys() >= set(history))
            for interval in history:
                self.compare_history(interval, program.history()[interval], before[interval])
            if not live:
                return
            until(lambda: program.closed("1m"))
            assert self.stack.stop("gateway") == {"gateway": 0}
            self.stack.start("gateway")
            heard = len(program.said())  # a bar that was cut off stays as it was: it is no closed one
            until(lambda: all(program.closed(interval, heard) for interval in live))
            for interval in live:
                self.compare(interval, program.closed(interval, 0, heard) | program.closed(interval, heard))

    def compare_history(self, interval: str, bars: list[Bar], before: Mapping[int, Mapping[str, Any]]) -> None:
        """An answer's bars are those of the table: none is missing between the first and the last."""
        times = [bar["t"] for bar in bars]
        assert times == sorted(set(times))
        assert len(bars) >= 300, (interval, len(bars))
        now = self.finals(interval)  # a bar may have been amended between the two looks
        for bar in bars:
            if (at := bar["t"]) in before:
                assert bar in (row_like(bar, before[at]), row_like(bar, now[at])), (interval, at)
        missing = [at for at in before if times[0] <= at <= times[-1] and at not in set(times)]
        assert missing == [], interval

    def compare(self, interval: str, bars: Mapping[int, Bar]) -> None:
        """Each of these bars is what the table holds, as soon as it does."""
        self.stack.wait_until(lambda: bars.keys() <= self.finals(interval).keys(), 60, 0.2)
        finals = self.finals(interval)
        for at, bar in bars.items():
            assert bar == row_like(bar, finals[at]), (interval, at)


def row_like(bar: Bar, row: Mapping[str, Any]) -> Bar:
    """What the client had to give for a row of the table, in the form in which it gave the bar."""
    assert {"t", *"ohlcv"} <= bar.keys()
    return {letter: like(row["open_ms" if letter == "t" else COLUMNS[letter]], given) for letter, given in bar.items()}


def like(value: Any, given: Any) -> Any:
    """A value of the table as the client gives it: a text with the same digits, or the nearest float."""
    if not isinstance(given, str):
        return float(value)
    return given if Decimal(given) == value else str(value)


def older(end_ms: int) -> Iterator[Kline]:
    """OLDER bars of each interval up to the bar of a time (UTC ms), such as a backfill writes: the exchange's word."""
    for name in SERVED:
        interval = INTERVALS[name]
        for number in range(OLDER):
            open_time = interval.open_time(end_ms) - (number + 1) * interval.length_ms
            low, volume = 85_000 + number, 2 + number
            yield Kline(
                symbol=SYMBOL,
                interval=name,
                open_time=open_time,
                close_time=interval.close_time(open_time),
                open=f"{low}.10",
                high=f"{low}.90",
                low=f"{low}.00",
                close=f"{low}.70",
                volume=f"{volume}.125",
                quote_volume=f"{low * volume + volume}.12500",
                trades=3 + number,
                taker_buy_volume="1.001",
                taker_buy_quote_volume=f"{low + 1}.00100",
                first_agg_id=-1,
                last_agg_id=-1,
                first_trade_id=-1,
                last_trade_id=-1,
                complete=0,
                official=1,
                epoch=0,
                revision=1,
                source="exchange",
                edge="",
            )


@contextmanager
def pipeline(folder: Path, redis_url: str, database_url: str, speed: int = SPEED) -> Iterator[Pipeline]:
    """A pipeline with a history and some finals of its own."""
    port = free_port()
    sections: dict[str, dict[str, Any]] = {"aggregator": {"intervals": SERVED}, "gateway": {"port": port}}
    with stack(folder, redis_url, database_url, (*MARKET, "--speed", str(speed)), **sections) as running:
        database = migrated(database_url)
        now_ms = running.ask("/fapi/v1/time")["serverTime"]
        running.start("aggregator", "writer", "gateway", "clock", "repair", "ingest")
        found = Pipeline(f"127.0.0.1:{port}", running, database)
        running.wait_until(lambda: SYMBOL in symbols_of(f"http://{found.address}"), 60, 0.2)
        running.wait_until(lambda: max(found.finals("1m"), default=0) > now_ms + MINUTE_MS, 60 + 180 / speed, 0.2)
        upsert(database, older(min(found.finals("1m"))))
        try:
            yield found
        finally:
            database.close()


def installed(name: str, lock: Path, install: Callable[[Path], None]) -> Path:
    """The folder in klagg's cache with what a lock file says, made by INSTALL unless it is there already."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = cache_directory() / "clients" / f"{name}-{digest}"
    done = folder / "installed.stamp"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install(folder)
        done.touch()
    return folder


def _npm_ci(npm: str, folder: Path) -> None:
    """Exactly what package-lock.json says; nothing of the packages is run."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--loglevel", "error")
    subprocess.run([npm, "ci", *options], cwd=folder, check=True, timeout=600)


def node() -> dict[str, str]:
    """The environment in which Node finds the clients of package-lock.json. Skips where npm is missing."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("Node 20 or newer with npm is missing here")
    lock = HERE / "package-lock.json"
    folder = installed("npm", lock, lambda place: _npm_ci(npm, place))
    return {"NODE_PATH": str(folder / "node_modules")}


def python(name: str, version: tuple[int, int] = (3, 11)) -> Path:
    """The Python of an environment with what requirements-NAME.txt says, exactly; at least of this version.

    Skips where no such Python is found: this one, one on the PATH, or one that pyenv keeps.
    """
    base = interpreter(version)
    lock = HERE / f"requirements-{name}.txt"
    return installed(name, lock, lambda place: _pip_install(base, lock, place)) / "bin" / "python"


def programs(name: str) -> list[str]:
    """The arguments of Python that run a client's program of this folder."""
    return ["-m", f"tests.long.clients.{name}"]


def interpreter(version: tuple[int, int]) -> str:
    """A Python of at least this version. Skips where there is none."""
    if sys.version_info >= version:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(version[1], version[1] + 4)]
    kept = [str(each) for name in names for each in Path.home().glob(f".pyenv/versions/{name[6:]}.*/bin/{name}")]
    for each in (*names, *kept):
        try:
            if subprocess.run([each, "-c", ""], capture_output=True, check=False, timeout=60).returncode == 0:
                return each
        except OSError:
            continue
    pytest.skip(f"Python {version[0]}.{version[1]} or newer is missing here")


def _pip_install(base: str, lock: Path, folder: Path) -> None:
    """An environment of that Python, with exactly what the file says."""
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", f"{folder}/bin/python"]
    subprocess.run([*pip, "install", "--no-deps", "-r", str(lock)], check=True, timeout=1_800)

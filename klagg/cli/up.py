"""`klagg up`: brings everything up on this machine, shows it, and drains it at Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

import ujson
from rich.console import Console
from rich.live import Live

from klagg.cli import market, screen
from klagg.cli.children import Child, drain
from klagg.contract import HEARTBEAT_PATTERN, Keys, heartbeat_key, texts_of
from klagg.database import Database
from klagg.embedded import PostgresServer, RedisServer, usable_data_directory
from klagg.embedded.traces import free_port, lock
from klagg.errors import ConfigError, KlaggError
from klagg.kline import Kline
from klagg.processes import processes
from klagg.redisio import Streams
from klagg.service import Deadline
from klagg.settings import Settings, load, to_toml
from writers.migrate import TIMEOUT_MS, migrate

PLAIN_S = 5.0
SCREEN_S = 1.0
SIMULATOR_S = 60.0
NEWEST = 500
"""Klines to choose from for the screen: of those that closed last, the busiest."""
SERVERS_S = 8.0
"""Of the shutdown's deadline, what is kept for the servers."""


class Interrupted(Exception):
    """Asked to end while still starting."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `up` command to the main parser."""
    parser = commands.add_parser(
        "up",
        help="run everything on this machine and watch it",
        description="Brings up servers (unless the configuration names some), every process, and shows them. Ctrl-C "
        "drains and ends everything; the next start goes on from what is there.",
    )
    parser.add_argument("--config", help="TOML file with settings (see config/klagg.toml)")
    parser.add_argument("--no-database", action="store_true", help="without PostgreSQL and writers")
    parser.add_argument("--data-dir", metavar="DIR", help="where data, logs and effective settings go")
    parser.add_argument("--plain", action="store_true", help="lines instead of a screen")
    market.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs until Ctrl-C; 0 if everything drained."""
    settings = load(args.config)
    if args.no_database:
        settings = replace(settings, database=replace(settings.database, enabled=False))
    chosen = market.choose(args, settings)
    folder = _folder(args, settings) / chosen.folder
    with _signals() as asked, _owned(folder):
        up = Up(args, settings, chosen, folder, asked)
        try:
            up.start()
            up.watch()
        except Interrupted:
            pass
        finally:
            clean = up.end()
    return 0 if clean else 1


def _folder(args: argparse.Namespace, settings: Settings) -> Path:
    if args.data_dir:
        return Path(args.data_dir).resolve()
    return (
        usable_data_directory(settings.data_dir)
        if settings.data_dir == Settings().data_dir
        else Path(settings.data_dir)
    )


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """One `klagg up` a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as bad:
        raise ConfigError(f"the data directory {folder} cannot be made: {bad.strerror}") from None
    held = lock(folder / "up.lock", 1.0)
    if held is None:
        raise KlaggError(f"klagg is already up with the data directory {folder}")
    try:
        yield
    finally:
        os.close(held)


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], int]]:
    """Counts SIGINT, SIGTERM and SIGHUP instead of dying of them."""
    count = 0

    def note(_number: int, _frame: FrameType | None) -> None:
        nonlocal count
        count += 1

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield lambda: count
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Up:
    """Servers, children and the screen of one run. `asked` counts the wishes to end."""

    def __init__(
        self,
        args: argparse.Namespace,
        settings: Settings,
        chosen: market.Market,
        folder: Path,
        asked: Callable[[], int],
    ) -> None:
        self._args, self._settings, self._market, self._folder, self._asked = args, settings, chosen, folder, asked
        self._logs = folder / "logs"
        self._messages: deque[str] = deque(maxlen=50)
        self._simulator: Child | None = None
        self._children: dict[str, Child] = {}
        self._servers: list[RedisServer | PostgresServer] = []
        self._said: list[str] = []
        self._streams: Streams | None = None
        self._plain = args.plain or not sys.stdout.isatty()
        self._trades = (0.0, 0, 0)
        self._trades_per_s = 0.0

    def _hear(self, line: str) -> None:
        """A warning or an error of a child."""
        self._messages.append(line)
        if self._plain:
            print(line, flush=True)

    def _step(self, sentence: str) -> None:
        print(f"klagg: {sentence}", flush=True)
        if self._asked():
            raise Interrupted

    def start(self) -> None:
        """Servers, schema, local exchange, processes, in this order."""
        if self._market.banner:
            print(f"*** {self._market.banner} ***", flush=True)
        self._logs.mkdir(exist_ok=True)
        self._step(f"{self._market.title}; data in {self._folder}")
        self._start_redis()
        self._start_database()
        if self._market.simulator is not None:
            self._start_simulator(self._market.simulator)
        config = self._folder / "klagg.toml"
        config.touch(0o600)
        config.chmod(0o600)  # it holds the database's password
        config.write_text(to_toml(replace(self._settings, data_dir=str(self._folder.parent))), encoding="utf-8")
        self._streams = Streams(self._settings.redis.url, timeout_ms=self._settings.redis.timeout_ms)
        self._streams.ping()
        stages = processes(self._settings)
        for each in stages:
            arguments = ["--config", str(config), *each.arguments]
            child = Child(each.name, each.module, arguments, self._logs, self._hear)
            self._children[each.name] = child
            child.start()
        self._step(f"started {', '.join(self._children)}")

    def _start_redis(self) -> None:
        if self._settings.redis.url:
            return
        server = RedisServer(self._folder, maxmemory_mb=self._settings.redis.maxmemory_mb)
        self._servers.append(server)
        self._settings = replace(self._settings, redis=replace(self._settings.redis, url=server.start().url))
        self._said.append(f"Redis       127.0.0.1:{server.port}, append-only file on")
        self._step(f"Redis runs on 127.0.0.1:{server.port}")

    def _start_database(self) -> None:
        if not self._settings.database.enabled:
            self._said.append("no database: klines stay in Redis")
            return
        if not self._settings.database.url:
            server = PostgresServer(self._folder)
            self._servers.append(server)
            url = server.start().url
            self._settings = replace(self._settings, database=replace(self._settings.database, url=url))
            kind = "with TimescaleDB" if server.hypertables else "WITHOUT TimescaleDB: hypertables are off"
            self._said += [f"PostgreSQL  127.0.0.1:{server.port}, {kind}", *server.notes]
            self._step(f"PostgreSQL runs on 127.0.0.1:{server.port}, {kind}")
        database = Database(self._settings.database.url, application="klagg-up", timeout_ms=TIMEOUT_MS)
        try:
            report = migrate(database)
        finally:
            database.close()
        for off in report.off:
            self._said.append(off)
        self._step("the schema is up to date")

    def _start_simulator(self, arguments: tuple[str, ...]) -> None:
        """The local exchange keeps its port over restarts, so that everybody finds it again."""
        port = str(free_port())
        child = Child("exchange", "klagg.cli.simulate", [*arguments, "--port", port], self._logs, self._hear)
        self._simulator = child
        child.start()
        end = time.monotonic() + SIMULATOR_S
        while not (line := next((each for each in child.last_lines if each.startswith("local exchange at ")), "")):
            if self._asked():
                raise Interrupted
            if child.exit_code is not None:
                child.wait(1)
                raise KlaggError(f"the local exchange cannot run: {child.last_words()}")
            if time.monotonic() > end:
                raise KlaggError(f"the local exchange was not ready within {SIMULATOR_S:.0f} s")
            time.sleep(0.05)
        rest_url, socket_url = line.split()[3], line.split()[4].strip("()")
        self._settings = market.pointed_at(self._settings, rest_url, socket_url, self._args.trades)
        self._step(f"the local exchange runs at {rest_url}")

    def watch(self) -> None:
        """Tend the children and show them until asked to end."""
        if self._plain:
            self._watch(PLAIN_S, lambda snapshot: print("\n".join(screen.plain(snapshot)), flush=True))
            return
        console = Console()
        with Live(console=console, screen=True, auto_refresh=False) as live:
            self._watch(
                SCREEN_S,
                lambda snapshot: live.update(screen.picture(snapshot, console.width, console.height), refresh=True),
            )

    def _watch(self, every_s: float, show: Callable[[screen.Snapshot], None]) -> None:
        due = time.monotonic()
        while not self._asked():
            for child in filter(None, (self._simulator, *self._children.values())):
                child.tend()
            for server in self._servers:
                if not server.is_running():
                    raise KlaggError(f"a server ended by itself: see {server.log_file}")
            if time.monotonic() >= due:
                show(self._snapshot())
                due = time.monotonic() + every_s
            time.sleep(0.1)

    def _snapshot(self) -> screen.Snapshot:
        beats, klines = {}, []
        try:
            assert self._streams is not None
            beats = {key: ujson.loads(text) for key, text in self._streams.values_like(HEARTBEAT_PATTERN).items()}
            for shard in range(self._settings.shards):
                klines += [
                    Kline.from_fields(texts_of(each.fields))
                    for each in self._streams.newest(Keys(shard).klines, count=NEWEST)
                ]
        except KlaggError as trouble:
            self._messages.append(str(trouble))
        best = {kline.key: kline for kline in sorted(klines, key=lambda kline: kline.version)}
        klines = sorted(best.values(), key=lambda kline: (-kline.close_time, -kline.trades))
        now = time.monotonic()
        lines = [
            screen.ProcessLine(
                each.name, each.pid, each.restarts, now - each.started_s, beats.get(heartbeat_key(each.name))
            )
            for each in self._children.values()
        ]
        if self._simulator:
            silent = {"state": "running"}  # the local exchange is no process of klagg's pipeline and has no heartbeat
            pid, restarts = self._simulator.pid, self._simulator.restarts
            lines.append(screen.ProcessLine("exchange", pid, restarts, now - self._simulator.started_s, silent))
        gauges = [beat["gauges"].get("exchange_ms", 0) for beat in beats.values()]
        self._measure(beats.get(heartbeat_key("ingest-A"), {}), now)
        return screen.Snapshot(
            self._market.banner, self._market.title, max(gauges, default=0), self._trades_per_s, lines, klines,
            self._said, tuple(self._messages),
        )  # fmt: skip

    def _measure(self, beat: dict[str, object], now: float) -> None:
        """Trades a second from the counter of one run of ingest; its own rates change only every ten seconds."""
        counters, pid = beat.get("counters"), beat.get("pid")
        if not isinstance(counters, dict) or not isinstance(pid, int):
            return
        at, of, before = self._trades
        trades = int(counters.get("trades", 0))
        if of != pid or trades < before or not at:
            self._trades = now, pid, trades
        elif now - at >= 2:
            self._trades_per_s = (trades - before) / (now - at)
            self._trades = now, pid, trades

    def end(self) -> bool:
        """Drain everything within one deadline; whether nothing was left and nobody had to be killed."""
        wishes = self._asked()
        total_s = float(self._settings.service.shutdown_s)
        deadline = Deadline(max(1.0, total_s - SERVERS_S))
        stages: dict[int, list[Child]] = {}
        for each in processes(self._settings):
            if each.name in self._children:
                stages.setdefault(each.stage, []).append(self._children[each.name])
        ordered = [stages[stage] for stage in sorted(stages)] + ([[self._simulator]] if self._simulator else [])
        said = drain(ordered, deadline, lambda: self._asked() > max(1, wishes))
        for server in reversed(self._servers):
            name = type(server).__name__.removesuffix("Server")
            in_time = server.stop(max(1.0, min(SERVERS_S, deadline.remaining_s + SERVERS_S)))
            said.append(f"{name} stopped" if in_time else f"! {name} had to be killed")
        for sentence in said:
            print(f"klagg: {sentence}", flush=True)
        return not any(sentence.startswith("!") for sentence in said)

"""`klagg up`: brings everything up on this machine, shows it, and drains it at Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import logging.handlers
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from klagg.cli import locate
from klagg.cli.up import screen, source
from klagg.cli.up.children import LOG_BYTES, LOG_FILES, NOT_AGAIN, Child, drain
from klagg.cli.up.sign_of_life import SignOfLife
from klagg.cli.up.signals import Interrupted, ShutdownRequests
from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.embedded import PostgresServer, RedisServer
from klagg.embedded.account import make_folder
from klagg.embedded.traces import can_listen, free_port, lock
from klagg.errors import ConfigError, KlaggError, RedisRefused, RedisUnavailable
from klagg.kline import Kline
from klagg.process.catalogue import processes
from klagg.process.freeze import MARGIN_S, FreezeWatch
from klagg.process.heartbeats import StatusReport, alarm_sentences, decoded, report, silent_after_ms
from klagg.process.service import Deadline
from klagg.process.silence import SilenceWatch
from klagg.settings import Settings, load, to_toml
from klagg.wire.fields import texts_of
from klagg.wire.keys import HEARTBEAT_PATTERN, Keys, heartbeat_key
from writers.migrate import TIMEOUT_MS, migrate

PLAIN_S = 5.0
SCREEN_S = 1.0
SIMULATOR_S = 60.0
NEWEST = 500
"""The newest klines from which the screen shows the busiest of those that closed last."""
SERVERS_S = 8.0
"""The seconds of the shutdown's deadline that are reserved for the servers; of a shorter deadline half."""
HURRY_S = 1.0
FREEZE_LOOK_S = 1.0
AHEAD_S = 2
"""Seconds before `klagg up` would kill a process at which the process itself gives up and logs what is left."""


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
    source.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs until Ctrl-C; 0 if everything drained."""
    settings = load(args.config)
    if args.no_database:
        settings = replace(settings, database=replace(settings.database, enabled=False))
    chosen = source.choose(args, settings)
    folder = locate.data_directory(settings, args.data_dir) / chosen.folder
    with ShutdownRequests() as shutdown, _owned(folder):
        up = Up(args, settings, chosen, folder, shutdown)
        try:
            up.start()
            up.watch()
        except Interrupted:
            pass
        except OSError as gone:
            if gone.errno != errno.EIO:
                raise
            # The terminal was closed, which also sends SIGHUP: end.
        finally:
            clean = up.end()
    return 0 if clean else 1


@contextlib.contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """Lock the folder: one `klagg up` at a time."""
    make_folder(folder)
    held = lock(folder / "up.lock", 1.0)
    if held is None:
        raise KlaggError(f"klagg is already up with the data directory {folder}")
    try:
        yield
    finally:
        os.close(held)


class Up:
    """Servers, children and the screen of one run."""

    def __init__(
        self,
        args: argparse.Namespace,
        settings: Settings,
        chosen: source.Source,
        folder: Path,
        shutdown: ShutdownRequests,
    ) -> None:
        self._args, self._settings, self._source = args, settings, chosen
        self._folder, self._shutdown = folder, shutdown
        self._logs = folder / "logs"
        make_folder(self._logs)
        self._log = logging.handlers.RotatingFileHandler(
            self._logs / "up.log", maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"
        )
        style = logging.Formatter("%(asctime)sZ %(message)s", "%Y-%m-%dT%H:%M:%S")
        style.converter = time.gmtime
        self._log.setFormatter(style)
        self._messages: deque[str] = deque(maxlen=50)
        self._simulator: Child | None = None
        self._children: dict[str, Child] = {}
        self._servers: list[RedisServer | PostgresServer] = []
        self._server_lines: list[str] = []
        self._streams: Streams | None = None
        self._ending = False
        self._freeze = FreezeWatch(settings.service)
        self._exchange: SignOfLife | None = None
        self._still = SilenceWatch((settings.service.freeze_s + MARGIN_S) * 1000)
        self._look_s = 0.0
        self._plain = args.plain or not sys.stdout.isatty()
        self._trades = (0.0, 0, 0)
        self._trades_per_s = 0.0
        self._beaten: dict[str, int] = {}  # the run of a process whose heartbeat was seen

    def _note(self, line: str) -> None:
        self._log.handle(logging.LogRecord("up", logging.INFO, "", 0, line, None, None))

    def _on_child_warning(self, line: str) -> None:
        """Log and show a warning or an error of a child; called in the threads that read the children's output."""
        self._note(line)
        self._messages.append(line)
        if self._plain:
            with contextlib.suppress(OSError):  # the main thread gets the same error, and ends
                print(line, flush=True)

    def _report(self, sentence: str) -> None:
        self._note(sentence)
        self._print(f"klagg: {sentence}")

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except OSError:
            if not self._ending:
                raise
            # The terminal or the pipe is closed: what has to be done is done all the same.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _step(self, sentence: str) -> None:
        self._report(sentence)
        if self._shutdown.count:
            raise Interrupted

    def start(self) -> None:
        """Simulator, servers, schema, processes, in this order."""
        if self._source.banner:
            self._note(self._source.banner)
            self._print(f"*** {self._source.banner} ***")
        self._step(f"{self._source.title}; data in {self._folder}")
        if self._source.simulator is not None:
            self._start_simulator(self._source.simulator)
        self._start_redis()
        self._start_database()
        self._choose_port()
        config = self._write_settings()
        self._streams = Streams(self._settings.redis.url, timeout_ms=self._settings.redis.timeout_ms)
        self._streams.ping()
        stages = processes(self._settings)
        for each in stages:
            arguments = ["--config", str(config), *each.arguments]
            child = Child(each.name, each.module, arguments, self._logs, self._on_child_warning)
            self._children[each.name] = child
            child.start()
        self._step(f"started {', '.join(self._children)}")

    def _choose_port(self) -> None:
        """The gateway's port: the configured one, or a free one where that is taken, as by another `klagg up`."""
        gateway = self._settings.gateway
        if not gateway.port or not can_listen(gateway.host, gateway.port):
            taken = f" (port {gateway.port} is taken)" if gateway.port else ""
            gateway = replace(gateway, port=free_port())
            self._settings = replace(self._settings, gateway=gateway)
            self._note(f"the gateway uses port {gateway.port}{taken}")
        self._server_lines.append(f"Gateway     http://{gateway.host}:{gateway.port}")
        self._step(f"the gateway serves at http://{gateway.host}:{gateway.port}")

    def _write_settings(self) -> Path:
        """The settings as the processes get them."""
        children_s = max(1, int(self._shutdown_s[0]) - AHEAD_S)
        service = replace(self._settings.service, shutdown_s=children_s)
        effective = replace(self._settings, data_dir=str(self._folder.parent), service=service)
        config = self._folder / locate.EFFECTIVE
        config.touch(0o600)
        config.chmod(0o600)  # it holds the database's password
        config.write_text(to_toml(effective), encoding="utf-8")
        return config

    @property
    def _shutdown_s(self) -> tuple[float, float]:
        """How long a shutdown may take: its processes, its servers."""
        total_s = float(self._settings.service.shutdown_s)
        servers_s = min(SERVERS_S, total_s / 2)
        return total_s - servers_s, servers_s

    def _start_redis(self) -> None:
        if self._settings.redis.url:
            given = Streams(self._settings.redis.url, timeout_ms=self._settings.redis.timeout_ms)
            given.ping()
            given.close()
            return
        server = RedisServer(self._folder, maxmemory_mb=self._settings.redis.maxmemory_mb)
        self._servers.append(server)
        with self._shutdown.interruptible():
            server.start()
        self._settings = replace(self._settings, redis=replace(self._settings.redis, url=server.url))
        self._server_lines.append(f"Redis       127.0.0.1:{server.port}, append-only file on")
        self._step(f"Redis runs on 127.0.0.1:{server.port}")

    def _start_database(self) -> None:
        if not self._settings.database.enabled:
            self._server_lines.append("no database: klines stay in Redis")
            return
        if not self._settings.database.url:
            server = PostgresServer(self._folder)
            self._servers.append(server)
            with self._shutdown.interruptible():
                server.start()
            self._settings = replace(self._settings, database=replace(self._settings.database, url=server.url))
            kind = "with TimescaleDB" if server.hypertables else "WITHOUT TimescaleDB: hypertables are off"
            self._server_lines += [f"PostgreSQL  127.0.0.1:{server.port}, {kind}", *server.notes]
            self._step(f"PostgreSQL runs on 127.0.0.1:{server.port}, {kind}")
        database = Database(self._settings.database.url, application="klagg-up", timeout_ms=TIMEOUT_MS)
        try:
            report = migrate(database)
        finally:
            database.close()
        for off in report.off:
            self._server_lines.append(off)
        self._step("the schema is up to date")

    def _start_simulator(self, arguments: tuple[str, ...]) -> None:
        """The simulator keeps its port over restarts, so that everybody finds it again."""
        port = str(free_port())
        child = Child(
            "exchange", "klagg.cli.simulate", [*arguments, "--port", port], self._logs, self._on_child_warning
        )
        self._simulator = child
        child.start()
        end = time.monotonic() + SIMULATOR_S
        while not (line := next((each for each in child.last_lines if each.startswith("the simulator at ")), "")):
            if self._shutdown.count:
                raise Interrupted
            if child.exit_code is not None:
                child.wait(1)
                child.close()
                self._simulator = None
                kind = ConfigError if child.exit_code == NOT_AGAIN else KlaggError
                raise kind(f"the simulator cannot run: {child.last_words()}")
            if time.monotonic() > end:
                raise KlaggError(f"the simulator was not ready within {SIMULATOR_S:.0f} s")
            time.sleep(0.05)
        rest_url, socket_url = line.split()[3], line.split()[4].strip("()")
        self._settings = source.simulator_settings(self._settings, rest_url, socket_url, self._args.trades)
        self._exchange = SignOfLife(rest_url)
        self._step(f"the simulator runs at {rest_url}")

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

    def _watch(self, every_s: float, show: Callable[[screen.ScreenState], None]) -> None:
        due = time.monotonic()
        while not self._shutdown.count:
            for child in filter(None, (self._simulator, *self._children.values())):
                child.tend()
            self._end_frozen()
            for server in self._servers:
                if not server.is_running():
                    raise KlaggError(f"a server ended by itself: see {server.log_file}")
            if time.monotonic() >= due:
                show(self._snapshot())
                due = time.monotonic() + every_s
            time.sleep(0.1)

    def _end_frozen(self) -> None:
        """End the children whose heartbeat is lost for long, and a simulator that does not answer for as long. While
        Redis is away no heartbeat is judged."""
        now = time.monotonic()
        if now < self._look_s or self._streams is None:
            return
        self._look_s = now + FREEZE_LOOK_S
        if self._exchange and self._simulator and self._still.check(self._exchange.seen_s, now * 1000):
            self._exchange.seen_s = now  # what is started anew gets its time
            self._simulator.end_frozen()
        pids = {name: child.pid for name, child in self._children.items() if child.pid is not None}
        try:
            beats = self._streams.values_like(HEARTBEAT_PATTERN)
        except (RedisUnavailable, RedisRefused):
            return
        for name in self._freeze.look(beats, pids, time.monotonic() * 1000):
            self._children[name].end_frozen()

    def _heard(self, texts: Mapping[str, str]) -> StatusReport:
        """What the heartbeats of the children that run now say; one of an earlier run says nothing of them."""
        own = {
            heartbeat_key(name): text
            for name, child in self._children.items()
            if decoded(text := texts.get(heartbeat_key(name), "")).get("pid") == child.pid is not None
        }
        return report(own, list(self._children), local_ms(), silent_after_ms(self._settings.service))

    def _snapshot(self) -> screen.ScreenState:
        texts, klines = {}, []
        try:
            assert self._streams is not None
            texts = self._streams.values_like(HEARTBEAT_PATTERN)
            for shard in range(self._settings.shards):
                klines += [
                    Kline.from_fields(texts_of(each.fields))
                    for each in self._streams.newest(Keys(shard).klines, count=NEWEST)
                ]
        except KlaggError as trouble:
            self._messages.append(str(trouble))
        best = {kline.key: kline for kline in sorted(klines, key=lambda kline: kline.version)}
        klines = sorted(best.values(), key=lambda kline: (-kline.close_time, -kline.trades))
        now, found = time.monotonic(), self._heard(texts)
        beats = {each.name: dict(each.beat) for each in found.seen}
        self._beaten |= {name: pid for name in beats if (pid := self._children[name].pid) is not None}
        lost = {name for name, child in self._children.items() if self._beaten.get(name) == child.pid} - set(beats)
        lines = [
            screen.ProcessLine(
                each.name,
                each.pid,
                each.restarts,
                now - each.started_s,
                beats.get(each.name),
                each.name in lost.union(found.silent),
            )
            for each in self._children.values()
        ]
        if self._simulator:
            without = {"state": "running"}  # the simulator is no process of klagg's pipeline and has no heartbeat
            pid, restarts, up_s = self._simulator.pid, self._simulator.restarts, now - self._simulator.started_s
            silent = self._exchange is not None and self._exchange.silent_s > self._settings.service.silent_s
            lines.append(screen.ProcessLine("exchange", pid, restarts, up_s, without, silent))
        gauges = [beat.get("gauges", {}).get("exchange_ms", 0) for beat in beats.values()]
        lines_beats = (beats.get(f"ingest-{line}", {}) for line in self._settings.ingest.lines)
        self._measure(next(filter(None, lines_beats), {}), now)
        return screen.ScreenState(
            self._source.banner,
            self._source.title,
            max(gauges, default=0),
            self._trades_per_s,
            lines,
            klines,
            self._server_lines,
            tuple(self._messages),
            tuple(alarm_sentences(found)),
        )

    def _measure(self, beat: dict[str, object], now: float) -> None:
        """Trades a second from the counter of one run of ingest; its own rates change only every ten seconds."""
        counters, pid = beat.get("counters"), beat.get("pid")
        if not isinstance(counters, dict) or not isinstance(pid, int):
            self._trades, self._trades_per_s = (0.0, 0, 0), 0.0  # no line says anything: an old rate is no rate
            return
        at, of, before = self._trades
        trades = int(counters.get("trades", 0))
        if of != pid or trades < before or not at:
            self._trades = now, pid, trades
        elif now - at >= 2:
            self._trades_per_s = (trades - before) / (now - at)
            self._trades = now, pid, trades

    def end(self) -> bool:
        """Drain everything within one deadline; returns whether everything ended in order.

        Processes that write a stream end before those that read it, so that the readers can finish all entries.
        """
        self._ending = True
        if self._exchange:
            self._exchange.close()
        requests_before = max(1, self._shutdown.count)
        processes_s, servers_s = self._shutdown_s
        deadline = Deadline(processes_s)
        stages: dict[int, list[Child]] = {}
        for each in processes(self._settings):
            if each.name in self._children:
                stages.setdefault(each.stage, []).append(self._children[each.name])
        ordered = [stages[stage] for stage in sorted(stages)] + ([[self._simulator]] if self._simulator else [])
        clean = True
        for sentence in drain(ordered, deadline, lambda: self._shutdown.count > requests_before):
            clean = clean and not sentence.startswith("!")
            self._report(sentence)
        deadline = Deadline(deadline.remaining_s + servers_s)
        for left, server in zip(range(len(self._servers), 0, -1), reversed(self._servers), strict=True):
            if not self._stop(server, deadline.remaining_s / left, requests_before):
                clean = False
        self._log.close()
        return clean

    def _stop(self, server: RedisServer | PostgresServer, seconds: float, requests_before: int) -> bool:
        """Stop a server within `seconds` (HURRY_S after a further signal); returns whether it ended in order.

        Servers end in order even in a hurry if they can, because the next start then needs no recovery.
        """
        in_hurry = self._shutdown.count > requests_before
        try:
            with self._shutdown.interruptible(self._shutdown.count):
                in_order = server.stop(min(seconds, HURRY_S) if in_hurry else seconds)
        except Interrupted:
            in_order = server.stop(0.0)
        self._report(f"{server.title} stopped" if in_order else f"! {server.title} did not end in order")
        return in_order

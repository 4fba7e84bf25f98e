"""The shell that every process runs in: arguments, settings, logging, signals, pulse, one deadline, one exit code.

A blocking process is a function of `Context`, and calls `running()` once a turn. An asyncio process is a coroutine
function of `AsyncContext`; its background tasks have names, and the death of one ends the process.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import klagg
from klagg import log
from klagg.clock import local_ms
from klagg.drivers.redis_streams import AsyncStreams, Streams
from klagg.errors import KlaggError, RedisRefused, RedisUnavailable
from klagg.process.metrics import MetricsServer, StatsCollector, port_of
from klagg.process.stats import Flow, Pulse, Stats
from klagg.process.watchdog import Watchdog
from klagg.settings import Settings, load
from klagg.wire.keys import heartbeat_key

FEED_S = 0.5
"""How often the event loop of an asyncio process feeds its watchdog."""


class Deadline:
    """One time by which everything of a shutdown has to be done."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, 0 once it has passed."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the deadline has passed."""
        return self.remaining_s == 0.0


class _Shell:
    """What both kinds of context share."""

    def __init__(self, process: str, settings: Settings, arguments: argparse.Namespace, flow: Flow | None) -> None:
        self.process = process
        self.settings = settings
        self.arguments = arguments
        self.log = logging.getLogger(process)
        self.stats = Stats()
        self.pulse = Pulse(process, self.stats, settings.service, local_ms(), flow)
        collector = StatsCollector(process, self.stats, lambda: self.pulse.state, local_ms())
        self.metrics = MetricsServer(collector, port_of(process, settings.metrics.port_base))
        self.writer = f"{process}@{int(local_ms())}"
        """Names this run of this process in every entry that it writes."""
        self.position: Callable[[], str] = lambda: "nothing was read"
        """A sentence of what was read last and what is left, for the last line of the log. It does no I/O."""
        self._began_s = time.monotonic()

    def say_beginning(self) -> None:
        """The first line of a run."""
        config = self.arguments.config or "the defaults and the environment"
        self.log.info("begins: klagg %s, pid %d, settings of %s", klagg.__version__, os.getpid(), config)

    def say_end(self) -> None:
        """The last line of a run, whatever ended it."""
        passed_s = time.monotonic() - self._began_s
        self.log.info("ends after %.0f s: %s", passed_s, self.position())

    def _lost(self, lost: KlaggError) -> None:
        """Warn only: at maxmemory Redis refuses a heartbeat, and a reader that died of it could free no memory."""
        self.log.warning("the heartbeat could not be written: %s", lost)


class Context(_Shell):
    """The shell of a blocking process."""

    def __init__(self, process: str, settings: Settings, arguments: argparse.Namespace, flow: Flow | None) -> None:
        super().__init__(process, settings, arguments, flow)
        self._stop_requested = False
        self.watchdog = Watchdog(process, settings.service.freeze_s, lambda: self._stop_requested)
        self._stop_deadline: Deadline | None = None
        self._heart = self.connect()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def connect(self) -> Streams:
        """A Redis connection of its own; a blocking reader needs one."""
        return Streams(self.settings.redis.url, timeout_ms=self.settings.redis.timeout_ms)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stop_requested = True

    def stop(self) -> None:
        """Let this process end after the current turn."""
        self._stop_requested = True

    @property
    def stopping(self) -> bool:
        """Whether a signal or `stop` ends this process."""
        return self._stop_requested

    @property
    def stop_deadline(self) -> Deadline:
        """The one deadline of the shutdown, service.shutdown_s after the first question for it."""
        if self._stop_deadline is None:
            self._stop_deadline = Deadline(self.settings.service.shutdown_s)
        return self._stop_deadline

    def wait(self, seconds: float) -> bool:
        """Wait with a beating heart, but no longer than until this process has to stop; whether the process goes on."""
        end = time.monotonic() + seconds
        while not self._stop_requested and (left := end - time.monotonic()) > 0:
            self.beat()
            time.sleep(min(left, 0.1))
        return not self._stop_requested

    def running(self) -> bool:
        """Whether to take another turn; also writes the heartbeat and the statistics line when due.

        A signal may come at any line of it: the answer is the state that the heartbeat shows.
        """
        goes_on = not self._stop_requested
        self.pulse.state = "running" if goes_on else "stopping"
        self.beat()
        return goes_on

    def beat(self) -> None:
        """Write the heartbeat and the statistics line if they are due; a Redis that is away is logged, no error."""
        self.watchdog.feed()
        beat = self.pulse.due(local_ms())
        if beat.line:
            self.log.info(beat.line)
        if beat.heartbeat:
            try:
                ttl_s = self.settings.service.heartbeat_ttl_s
                self._heart.set_with_ttl(heartbeat_key(self.process), beat.heartbeat, ttl_s)
            except (RedisUnavailable, RedisRefused) as lost:
                self._lost(lost)

    def farewell(self) -> None:
        """Take the heartbeat away: this process ended on request."""
        try:
            self._heart.delete(heartbeat_key(self.process))
        except (RedisUnavailable, RedisRefused) as lost:
            self._lost(lost)


class AsyncContext(_Shell):
    """The shell of an asyncio process. `stopping` is set once the process has to end."""

    def __init__(self, process: str, settings: Settings, arguments: argparse.Namespace, flow: Flow | None) -> None:
        super().__init__(process, settings, arguments, flow)
        self.stopping = asyncio.Event()
        self.watchdog = Watchdog(process, settings.service.freeze_s, self.stopping.is_set)
        self._heart = self.connect()

    def connect(self) -> AsyncStreams:
        """A Redis connection of its own. ConfigError if redis.url cannot be used."""
        return AsyncStreams(self.settings.redis.url, timeout_ms=self.settings.redis.timeout_ms)

    async def sleep(self, seconds: float) -> bool:
        """Wait, but no longer than until this process has to stop; whether the process goes on."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False

    async def feed_for_ever(self) -> None:
        """The task that tells the watchdog that the event loop turns."""
        while True:
            self.watchdog.feed()
            await asyncio.sleep(FEED_S)

    async def beat_for_ever(self) -> None:
        """The heartbeat task."""
        self.pulse.state = "running"
        while await self.sleep(self.settings.service.heartbeat_ms / 2000):
            beat = self.pulse.due(local_ms())
            if beat.line:
                self.log.info(beat.line)
            if beat.heartbeat:
                try:
                    ttl_s = self.settings.service.heartbeat_ttl_s
                    await self._heart.set_with_ttl(heartbeat_key(self.process), beat.heartbeat, ttl_s)
                except (RedisUnavailable, RedisRefused) as lost:
                    self._lost(lost)

    async def farewell(self) -> None:
        """Take the heartbeat away: this process ended on request."""
        try:
            await self._heart.delete(heartbeat_key(self.process))
            await self._heart.close()
        except (RedisUnavailable, RedisRefused) as lost:
            self._lost(lost)

    async def together(self, tasks: dict[str, Coroutine[Any, Any, None]]) -> None:
        """Run named tasks until all are done; the first that fails cancels the others and its error is raised."""
        running = {asyncio.create_task(each, name=name) for name, each in tasks.items()}
        try:
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def until_stopping(context: AsyncContext, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or the process has to stop, which cancels it; its errors are raised."""
    task = asyncio.create_task(work)
    stop = asyncio.create_task(context.stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for each in (task, stop):
            each.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)


Configure = Callable[[argparse.ArgumentParser], None]
Name = Callable[[argparse.Namespace], str]


def _read_arguments(
    process: str, description: str, argv: Sequence[str] | None, configure: Configure | None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"klagg-{process}", description=description)
    parser.add_argument("--config", help="TOML file with settings (see config/klagg.toml)")
    if configure:
        configure(parser)
    return parser.parse_args(argv)


def _guarded(process: str, body: Callable[[], None]) -> int:
    """Run `body`; a KlaggError is one clear sentence and its exit code, anything else a traceback and exit code 70."""
    try:
        body()
    except KlaggError as known:
        logging.getLogger(process).critical("%s", known)
        return known.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:  # the outermost frame of a process: say what happened and end
        logging.getLogger(process).critical("unexpected error, the process ends", exc_info=True)
        return 70
    return 0


def run(
    process: str,
    description: str,
    body: Callable[[Context], None],
    *,
    argv: Sequence[str] | None = None,
    configure: Configure | None = None,
    name: Name | None = None,
    flow: Flow | None = None,
) -> int:
    """Run a blocking process; the exit code. `name` derives the process name from its arguments (line A, shard 1)."""
    arguments = _read_arguments(process, description, argv, configure)
    process = name(arguments) if name else process
    log.set_up(process)

    def shell() -> None:
        settings = load(arguments.config)
        log.set_up(process, settings.service.log_level)
        context = Context(process, settings, arguments, flow)
        context.say_beginning()
        try:
            with context.metrics, context.watchdog:
                body(context)
        finally:
            context.say_end()
        context.farewell()

    return _guarded(process, shell)


def run_async(
    process: str,
    description: str,
    body: Callable[[AsyncContext], Awaitable[None]],
    *,
    argv: Sequence[str] | None = None,
    configure: Configure | None = None,
    name: Name | None = None,
    flow: Flow | None = None,
) -> int:
    """Run an asyncio process; the exit code."""
    arguments = _read_arguments(process, description, argv, configure)
    process = name(arguments) if name else process
    log.set_up(process)

    async def shell() -> None:
        settings = load(arguments.config)
        log.set_up(process, settings.service.log_level)
        context = AsyncContext(process, settings, arguments, flow)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, context.stopping.set)

        async def main() -> None:
            await body(context)
            context.stopping.set()

        context.say_beginning()
        feeder = asyncio.create_task(context.feed_for_ever(), name="watchdog")
        try:
            with context.metrics, context.watchdog:
                await context.together({process: main(), "heartbeat": context.beat_for_ever()})
        finally:
            feeder.cancel()
            context.say_end()
        await context.farewell()

    return _guarded(process, lambda: asyncio.run(shell()))

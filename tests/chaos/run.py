"""One run: real servers, the simulator, the real processes, and a plan's faults until the market ends."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ujson

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.embedded import RedisServer
from klagg.errors import RedisRefused, RedisUnavailable
from klagg.settings import Audit, Settings, to_toml
from klagg.wire.entries import EVENT_AMENDED, EVENT_GAP_CLOSED, EVENT_GAP_OPENED
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.chaos import table
from tests.chaos.aof import TailWatch
from tests.chaos.cutter import Cutter
from tests.chaos.exchange import HARM, WEIGHT_PER_MINUTE
from tests.chaos.plan import (
    AGGREGATOR,
    BLACKOUT,
    CLOCK,
    CUT_EXEC,
    CUT_REPLY,
    CUT_TAIL,
    INGEST_A,
    INGEST_B,
    KILL,
    REDIS,
    REPAIR,
    SECOND,
    SNAPSHOT,
    WRITER,
    Fault,
)
from tests.chaos.processes import ChaosFailed, Kept, end, log_tail, report, spawn
from tests.chaos.shape import INTERVALS, Shape
from writers.migrate import migrate

TURN_S = 0.01
ASK_S = 0.5
START_S = 60.0
SETTLE_S = 900.0
"""The longest wait at the end; `STUCK_S` without any change ends it sooner. A busy machine needs its time."""
STUCK_S = 120.0
SETTLED_COMMITS = 12
"""Ticks that must be committed after everything is there: an amendment goes out with the tick after its trade."""
SECOND_S_MAX = 10.0
CHECKPOINT_S = 8
PORTS = range(20_000, 30_000)
"""Below those that the system gives to clients: one that dials a dead Redis could otherwise meet itself there."""

MODULES = {
    CLOCK: ["ingest.clock_service"],
    AGGREGATOR: ["aggregator.service", "--shard", "0", "--checkpoint-s", str(CHECKPOINT_S)],
    WRITER: ["writers.final_service"],
    SNAPSHOT: ["writers.snapshot_service"],
    REPAIR: ["ingest.repair_service"],
    INGEST_A: ["ingest.service", "--line", "A"],
    INGEST_B: ["ingest.service", "--line", "B"],
}
"""In the order of their start."""

KEYS = Keys(0)

CLOSED, FINDING = f"{EVENT_GAP_CLOSED} ", "finding "
"""What names of counts begin with: gaps ended by their reason, findings by their kind."""


@dataclass
class Result:
    """What one run left behind and what happened in it."""

    bars: table.Table
    last_ids: dict[str, int]
    exchange_ids: dict[str, int]
    unsettled: str
    """Why it was not settled within its time; empty if it was."""
    seconds: float
    kills: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    ended: str = ""

    @property
    def wrong_ids(self) -> list[str]:
        """Symbols whose last id is not the exchange's."""
        return sorted(symbol for symbol, last in self.exchange_ids.items() if self.last_ids.get(symbol) != last)


class Run:
    """`with Run(…) as run: run.play()`; everything that it starts ends with it."""

    def __init__(
        self,
        shape: Shape,
        folder: Path,
        database_url: str,
        *,
        speed: float,
        faults: Sequence[Fault] = (),
        seed: int = 0,
    ) -> None:
        """`folder` gets servers, settings and logs. Without `faults` one line and no harm; `seed` is of the harm."""
        self._shape, self._folder, self._speed = shape, folder, speed
        self._faults, self._seed = deque(faults), seed
        self._disturbed = bool(faults)
        self._database_url = database_url
        folder.mkdir(parents=True)
        self._redis = RedisServer(folder)
        self._redis_thread: threading.Thread | None = None
        self._redis_error = ""
        self._kept: dict[str, Kept] = {}
        self._seconds: list[tuple[float, subprocess.Popen[bytes]]] = []
        self._beats: dict[int, dict[str, Any]] = {}
        """By process id, the latest heartbeat of each aggregator."""
        self._open_gaps: int | None = None
        self._state: dict[str, Any] = {}
        self._state_s = 0.0
        self._ending = threading.Event()
        self._result = Result({}, {}, {}, "", 0.0)

    def __enter__(self) -> Run:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._redis_thread is not None:
            self._redis_thread.join(60)
        left = [process for _, process in self._seconds]
        for process in left:
            if process.poll() is None:
                process.kill()
                process.wait()
        for kept in self._kept.values():
            if kept.is_running:
                kept.kill()
        if hasattr(self, "_exchange") and self._exchange.poll() is None:
            self._exchange.kill()
            self._exchange.wait()
        if hasattr(self, "_cutter"):
            self._cutter.close()
        if hasattr(self, "_database"):
            self._database.close()
        self._redis.stop()

    # The start.

    def _start(self) -> None:
        self._started_s = time.monotonic()
        self._redis.home.mkdir(parents=True)
        (self._redis.home / "port").write_text(f"{_free_port()}\n", encoding="utf-8")
        self._redis.start()
        self._port = self._redis.port
        self._url = self._redis.url
        self._watch = TailWatch(self._redis.home)
        self._cutter = Cutter(self._port)
        self._database = Database(self._database_url)
        migrate(self._database)
        command = ["tests.chaos.exchange", self._shape.to_json(), "--speed", str(self._speed)]
        if self._disturbed:
            command += ["--faults", str(self._seed)]
        self._exchange = spawn(command, self._folder / "exchange.log")
        words = self._announced()
        self._rest_url, socket_url = words[3], words[4]
        self._write_settings(socket_url)
        threading.Thread(target=self._listen, name="heartbeats", daemon=True).start()
        names = [name for name in MODULES if self._disturbed or name != INGEST_B]
        for name in names:
            if name == INGEST_A:
                self._until(lambda: len(self._beating) >= 4, START_S, "the processes do not begin to work")
            self._keep(name)

    def _announced(self) -> list[str]:
        log, deadline_s = self._folder / "exchange.log", time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("the simulator")]
            if lines:
                return lines[0].split()
            if self._exchange.poll() is not None:
                break
            time.sleep(TURN_S)
        raise ChaosFailed(f"the exchange did not start:\n{log_tail(log)}")

    def _write_settings(self, socket_url: str) -> None:
        base = Settings(audit=Audit(full=False))
        chosen = replace(
            base,
            exchange=replace(base.exchange, rest_url=self._rest_url, websocket_url=socket_url),
            redis=replace(base.redis, url=self._url),
            database=replace(base.database, url=self._database_url),
            aggregator=replace(base.aggregator, intervals=INTERVALS, ask_weight_per_minute=WEIGHT_PER_MINUTE),
            rest=replace(base.rest, weight_per_minute=WEIGHT_PER_MINUTE),
        )
        through_cutter = replace(chosen, redis=replace(chosen.redis, url=self._cutter.url))
        (self._folder / "klagg.toml").write_text(to_toml(chosen), encoding="utf-8")
        (self._folder / "aggregator.toml").write_text(to_toml(through_cutter), encoding="utf-8")

    def _command(self, name: str, config: str) -> list[str]:
        return [*MODULES[name], "--config", str(self._folder / config)]

    def _keep(self, name: str) -> None:
        config = "aggregator.toml" if name == AGGREGATOR else "klagg.toml"
        self._kept[name] = Kept(name, self._command(name, config), self._folder)

    # The run.

    def play(self) -> Result:
        """Play the market to its end, do the faults, wait until everything is in the table. ChaosFailed if a process
        cannot run; a run that does not settle in time is a result (`unsettled`)."""
        result, shape = self._result, self._shape
        real_s = (shape.end_ms - shape.begin_ms) / 1000 / self._speed
        self._until(lambda: bool(self._state.get("ended")), real_s + 90, "the market does not come to its end")
        self._until(lambda: not self._faults, 30, "faults are left")
        self._until(lambda: not self._redis_busy, 60, "Redis does not come back")
        self._settle()
        result.exchange_ids = dict(self._state["lastAggTradeIds"])
        result.last_ids = table.last_ids(self._database)
        result.bars = table.window_of(self._database, shape)
        self._count_events()
        self._end_in_order()
        result.seconds = time.monotonic() - self._started_s
        return result

    def _until(self, condition: Callable[[], bool], deadline_s: float, otherwise: str) -> None:
        deadline_s += time.monotonic()
        while not condition():
            if time.monotonic() > deadline_s:
                raise ChaosFailed(f"{otherwise}; logs are in {self._folder}")
            self._turn()
            time.sleep(TURN_S)

    def _turn(self) -> None:
        now_s = time.monotonic()
        if self._exchange.poll() is not None:
            raise ChaosFailed(f"the exchange ended:\n{log_tail(self._folder / 'exchange.log')}")
        if self._redis_error:
            raise ChaosFailed(self._redis_error)
        if not self._redis_busy:
            self._watch.look(now_s)
        for each in self._kept.values():
            each.tend(now_s)
        for started_s, process in self._seconds:
            if process.poll() is None and now_s - started_s > SECOND_S_MAX:
                self._result.faults["second aggregator that had to be killed"] += 1
                process.kill()
        if now_s - self._state_s >= ASK_S:
            with urllib.request.urlopen(self._rest_url + "/klagg/state", timeout=30) as answer:
                self._state = ujson.loads(answer.read())
            self._state_s = time.monotonic()
        passed_ms = self._exchange_ms - self._shape.window_from_ms
        while self._faults and self._faults[0].at_ms <= passed_ms and self._do(self._faults[0]):
            self._faults.popleft()

    @property
    def _exchange_ms(self) -> float:
        if not self._state or self._state["held"]:
            return 0.0
        return float(self._state["serverTime"] + (time.monotonic() - self._state_s) * 1000 * self._speed)

    @property
    def _redis_busy(self) -> bool:
        return self._redis_thread is not None and self._redis_thread.is_alive()

    @property
    def _beating(self) -> set[int]:
        return {pid for pid, beat in self._beats.items() if beat["state"] == "running"}

    def _listen(self) -> None:
        """Keep the heartbeats of everybody, in a thread: a Redis that is away makes this wait."""
        streams = Streams(self._url, timeout_ms=1000)
        while not self._ending.wait(0.3):
            with suppress(RedisUnavailable, RedisRefused):
                for text in streams.values_like("heartbeat:*").values():
                    beat = ujson.loads(text)
                    self._beats[beat["pid"]] = beat
        streams.close()

    # Faults.

    def _do(self, fault: Fault) -> bool:
        """Do a fault; False if it has to wait for Redis."""
        if fault.kind == CUT_TAIL and self._redis_busy:
            return False
        if fault.kind in {KILL, BLACKOUT}:
            self._kill(fault.target)
        elif fault.kind == CUT_TAIL:
            self._restart_redis(fault.amount_ms)
        elif fault.kind in {CUT_EXEC, CUT_REPLY}:
            self._cutter.arm(fault.kind, deliver=fault.kind == CUT_REPLY)
        elif fault.kind == SECOND:
            process = spawn(self._command(AGGREGATOR, "klagg.toml"), self._folder / "second.log")
            self._seconds.append((time.monotonic(), process))
            self._result.faults[SECOND] += 1
        return True

    def _kill(self, target: str) -> None:
        """Kill `target` or, if that is dead at the moment, the next one that is not."""
        names = [*self._kept, REDIS]
        place = names.index(target)
        for name in names[place:] + names[:place]:
            if name == REDIS and not self._redis_busy:
                self._restart_redis()
            elif name != REDIS and self._kept[name].is_running:
                self._kept[name].kill()
            else:
                continue
            self._result.kills[name] += 1
            return
        raise ChaosFailed("nothing is left to be killed")

    def _restart_redis(self, cut_ms: int = 0) -> None:
        os.kill(self._redis.pid, signal.SIGKILL)
        self._redis_thread = threading.Thread(target=self._bring_redis_back, args=(cut_ms,), name="redis")
        self._redis_thread.start()

    def _bring_redis_back(self, cut_ms: int) -> None:
        try:
            self._redis.stop()
            if cut_ms:
                lost = self._watch.cut(time.monotonic(), cut_ms)
                self._result.faults[CUT_TAIL] += 1
                self._result.faults["bytes cut off tails"] += lost
            self._redis.start()
            if self._redis.port != self._port:
                self._redis_error = "Redis did not get its port again"
        except Exception as failure:
            self._redis_error = f"Redis did not come back: {failure}"

    # The end.

    def _settle(self) -> None:
        """Wait until the table has the exchange's last ids, no gap is open and nothing pending, for some ticks."""
        steady_from, problem = None, "not looked yet"
        end_s, stuck_s = time.monotonic() + SETTLE_S, time.monotonic() + STUCK_S
        streams = Streams(self._url)
        while time.monotonic() < min(end_s, stuck_s):
            self._turn()
            before, problem = problem, self._unsettled(streams)
            if problem != before:
                stuck_s = time.monotonic() + STUCK_S
            seq = int(streams.hash_of(KEYS.commit).get(b"seq", b"0"))
            if problem or steady_from is None or seq < steady_from:
                steady_from = None if problem else seq
            elif seq >= steady_from + SETTLED_COMMITS:
                break
            self._until_s(0.3)
        self._result.unsettled = problem
        streams.close()

    def _until_s(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            self._turn()
            time.sleep(TURN_S)

    def _unsettled(self, streams: Streams) -> str:
        """What is still missing; empty if nothing is."""
        found, wanted = table.last_ids(self._database), self._state["lastAggTradeIds"]
        wrong = [symbol for symbol in wanted if found.get(symbol) != wanted[symbol]]
        if wrong:
            return f"{len(wrong)} symbols have another last id than at the exchange, such as {wrong[0]}"
        aggregator = self._beats.get(self._kept[AGGREGATOR].pid)
        if aggregator is None:
            return "the aggregator does not say how it is"
        if aggregator["gauges"].get("open_gaps") != 0:
            return f"{aggregator['gauges'].get('open_gaps')} gaps are open"
        if streams.group_lag(KEYS.klines, GROUP_WRITERS) or streams.pending_count(KEYS.klines, GROUP_WRITERS):
            return "the writer has klines before it"
        return ""

    def _count_events(self) -> None:
        counts, streams, last = self._result.counts, Streams(self._url), "-"
        while page := streams.range(KEYS.events, last, count=2000):
            for entry in page:
                kind = entry.fields[b"kind"].decode()
                if kind in {EVENT_AMENDED, EVENT_GAP_OPENED, EVENT_GAP_CLOSED}:
                    counts[kind] += int(entry.fields[b"n"])
                if kind == EVENT_GAP_CLOSED:
                    for reason in entry.fields[b"reason"].decode().split(","):
                        counts[CLOSED + reason] += 1
            last = f"({page[-1].id}"
        for beat in self._beats.values():
            if beat["process"].startswith("aggregator"):
                counts["duplicates"] += beat["counters"].get("duplicates", 0)
        for entry in streams.range(KEYS.findings):
            counts[FINDING + entry.fields[b"kind"].decode()] += 1
        counts["dead entries"] = streams.length(KEYS.dead)
        streams.close()

    def _end_in_order(self) -> None:
        for name in reversed(list(self._kept)):
            self._kept[name].end()
            self._result.ended = report(self._kept)
        for _, process in self._seconds:
            end(process, 5)
        end(self._exchange)
        text = (self._folder / "exchange.log").read_text(encoding="utf-8")
        for line in text.splitlines():
            if line.startswith(HARM):
                self._result.faults.update(ujson.loads(line.removeprefix(HARM)))
        self._result.faults.update(self._cutter.done)


def _free_port() -> int:
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ChaosFailed("no free port was found")

"""A shard's whole world in virtual time: an exchange, lines, a clock, repair, a writer, and the real aggregator.

One seed decides everything: what is traded, what gets lost, doubled, late or out of order, who is killed when, how far
back Redis comes. In the end the world calms down, and what the table holds must be what an oracle says that saw every
trade. The aggregator is aggregator.service.Service itself, over a Redis that is virtual (virtualredis.py).
"""

from __future__ import annotations

import argparse
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

from aggregator.service import Service
from klagg import contract
from klagg.contract import Fields, Keys, TradeRow
from klagg.errors import CommitConflict, CommitDoubt, KlaggError, RedisRefused, RedisUnavailable
from klagg.intervals import interval
from klagg.kline import Kline
from klagg.settings import Settings
from klagg.stats import Stats
from tests.aggregator.kit import T0
from tests.aggregator.oracle import fold
from tests.aggregator.test_core import market
from tests.simulation.virtualredis import Crash, State, VirtualRedis, VirtualStreams

KEYS = Keys(0)
INTERVALS = ("15s", "1m", "5m")
STEP_MS = 1_000
MARKET_MS = 150_000
PROOF_MS = 330_000
"""The last trade of every symbol comes this much after the market's end: it proves the bars before it."""
CALM_STEP_MS = 5_000
CALM_MS_MAX = 1_800_000
LINE_LATE_MS = 1_000

FAULTS = (
    "kill", "cut before a call", "cut after a call", "commit lost before EXEC", "commit lost after EXEC",
    "Redis away", "Redis older", "Redis full", "second aggregator", "line killed", "writer killed", "repair killed",
    "clock silent", "reply to a line lost", "Redis older than a start",
)  # fmt: skip


class Clock:
    """Virtual time in place of the module `time`, for the aggregator's shell."""

    def __init__(self) -> None:
        self.now_ms = 0.0

    def monotonic(self) -> float:
        return self.now_ms / 1000

    def local_ms(self) -> float:
        return self.now_ms


class Context:
    """What the aggregator's shell asks of klagg.service.Context."""

    def __init__(self, world: World, number: int) -> None:
        self.settings = world.settings
        self.writer = f"aggregator-0@{number}"
        self.log = logging.getLogger("simulation")
        self.stats = Stats()
        self.arguments = argparse.Namespace(checkpoint_s=world.rng.choice((3.0, 15.0, 1e9)))
        self._world = world

    def connect(self) -> VirtualStreams:
        return VirtualStreams(self._world.redis)

    def beat(self) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        self._world.clock.now_ms += seconds * 1000
        return True


@dataclass
class Sender:
    """A process that writes to the feed: it numbers its entries and keeps what Redis did not take."""

    world: World
    name: str
    runs: int = 0
    seq: int = 0
    waiting: list[Fields] = field(default_factory=list)
    lose_reply: bool = False

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new run of the process: what was not written is gone."""
        self.runs += 1
        self.seq = 0
        self.waiting = []
        self.streams = VirtualStreams(self.world.redis)

    def send(self, entries: list[Fields]) -> None:
        for each in entries:
            self.seq += 1
            self.waiting.append(contract.stamp(each, f"{self.name}@{self.runs}", self.seq))
        try:
            while self.waiting:
                self.streams.append(KEYS.feed, self.waiting[0])
                if self.lose_reply:
                    self.lose_reply = False
                    return  # it is there, and comes again
                self.waiting.pop(0)
        except (RedisUnavailable, RedisRefused):
            return


class Line(Sender):
    """A line of ingest: loses, doubles, delays; says what it carries."""

    def __init__(self, world: World, name: str) -> None:
        self.held: list[tuple[int, TradeRow]] = []
        self.dead_until_ms = 0
        super().__init__(world, name)

    def step(self, rows: list[TradeRow], now_ms: int) -> None:
        rng, out = self.world.rng, []
        if now_ms < self.dead_until_ms:
            return
        for row in rows:
            if row.id not in self.world.certain[row.symbol] and rng.random() < self.world.loss:
                self.world.seen["message lost"] += 1
                continue
            if rng.random() < 0.1:
                self.world.seen["message late"] += 1
                self.held.append((now_ms + rng.randrange(LINE_LATE_MS), row))
                continue
            out.append(row)
            if rng.random() < 0.05:
                self.world.seen["message doubled"] += 1
                out.append(row)
        out += [row for due, row in self.held if due <= now_ms]
        self.held = [each for each in self.held if each[0] > now_ms]
        rng.shuffle(out)
        entries = [
            contract.trades_entry_of_rows(out[at : at + 20], line=self.name, ids="agg", recv_ms=now_ms)
            for at in range(0, len(out), 20)
        ]
        if rng.random() < 0.7:
            entries.append(contract.mark_entry(self.name, sorted(self.world.certain), now_ms))
        self.send(entries)

    def kill(self, until_ms: int) -> None:
        self.held, self.dead_until_ms = [], until_ms
        self.restart()


class Repair(Sender):
    """klagg-repair: answers requests from the truth, a little later, sometimes in part, sometimes twice."""

    def __init__(self, world: World) -> None:
        self.due: dict[str, tuple[int, contract.Request]] = {}
        super().__init__(world, "repair")

    def step(self, now_ms: int) -> None:
        rng = self.world.rng
        try:
            found = self.streams.read_pending(KEYS.requests, "repair")
            found += self.streams.read_group(KEYS.requests, "repair", count=100)
            for entry in found:
                if entry.id not in self.due:
                    request = contract.request_of(entry.fields)
                    self.due[entry.id] = (now_ms + rng.randrange(self.world.repair_ms), request)
            for entry_id in [each for each, (due_ms, _) in self.due.items() if due_ms <= now_ms]:
                self._answer(self.due.pop(entry_id)[1], now_ms)
                if rng.random() < 0.9 or self.world.calm:
                    self.streams.ack(KEYS.requests, "repair", [entry_id])
        except (RedisUnavailable, RedisRefused):
            return

    def _answer(self, request: contract.Request, now_ms: int) -> None:
        self.world.seen[f"request for {request.kind}"] += 1
        if request.kind == contract.REQUEST_KLINES and self.world.official:
            self.send([self._official(request, now_ms)])
            return
        rows = [row for row in self.world.rows if row.symbol == request.symbol and row.time <= now_ms]
        if request.kind == contract.REQUEST_TRADES:
            rows = [row for row in rows if request.first <= row.id <= request.last]
        else:
            rows = [row for row in rows if request.first <= row.time < request.last]
        if not self.world.calm and self.world.rng.random() < 0.2:
            rows = self.world.rng.sample(rows, len(rows) // 2)
        self.send([
            contract.trades_entry_of_rows(rows[at : at + 50], line="rest", ids="agg", recv_ms=now_ms)
            for at in range(0, len(rows), 50)
        ])  # fmt: skip

    def _official(self, request: contract.Request, now_ms: int) -> Fields:
        """The exchange's own closed klines, which begin with a symbol's first trade."""
        kind = interval(request.interval)
        over_ms = min(request.last, kind.open_time(now_ms))
        bars = self.world.klines(request.symbol, request.interval)
        rows = [
            (
                opening,
                *(f"{value:f}" for value in bars[opening][:6]),
                bars[opening][6],
                *map("{:f}".format, bars[opening][7:9]),
            )
            for opening in sorted(bars)
            if request.first <= opening < over_ms
        ]
        return contract.official_entry(request.symbol, request.interval, request.first, over_ms, rows, request.id)

    def kill(self) -> None:
        self.due = {}
        self.restart()


class Writer:
    """writer-final: keeps the highest version of every bar; acknowledges later, sometimes never."""

    def __init__(self, world: World) -> None:
        self.world, self.table = world, dict[tuple[str, str, int], Kline]()
        self.restart()

    def restart(self) -> None:
        self.streams = VirtualStreams(self.world.redis)
        self.recovered = False

    def step(self) -> None:
        try:
            entries = [] if self.recovered else self.streams.read_pending(KEYS.klines, "writers")
            self.recovered = True
            entries += self.streams.read_group(KEYS.klines, "writers", count=500)
            for entry in entries:
                kline = Kline.from_fields(contract.texts_of(entry.fields))
                if kline.key not in self.table or kline.version > self.table[kline.key].version:
                    self.table[kline.key] = kline
            if self.world.calm or self.world.rng.random() < 0.8:
                self.streams.ack(KEYS.klines, "writers", [entry.id for entry in entries])
        except (RedisUnavailable, RedisRefused):
            self.recovered = False


class World:
    """Everything. `run` plays the seed to its end; `seen` counts what happened."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.born = rng.random() < 0.3
        """Whether the symbols are listed while klagg watches: then their ids begin at 1."""
        self.official = rng.random() < 0.5
        """Whether requests for klines are answered with the exchange's own; else with the trades in them."""
        self.loss = rng.choice((0.0, 0.01, 0.1))
        self.repair_ms = rng.choice((1, 2_000, 20_000))
        self.rows = self._market(seed)
        self._klines: dict[tuple[str, str], dict[int, tuple[Any, ...]]] = {}
        self.certain = {
            name: {ids[0], ids[-1]}
            for name in sorted({row.symbol for row in self.rows})
            for ids in [[row.id for row in self.rows if row.symbol == name]]
        }
        """By symbol, ids that no line loses: without a first trade nothing begins, without a last one nothing ends."""
        base = Settings()
        self.settings = replace(base, aggregator=replace(base.aggregator, intervals=INTERVALS, window_minutes=60))
        self.seen: Counter[str] = Counter()
        self.clock, self.redis = Clock(), VirtualRedis()
        self.calm = False
        self.aggregators: list[Service] = []
        self.started = 0
        self.dead_until_ms = 0
        self.clock_silent_until_ms = 0
        self.lines = [Line(self, name) for name in ("A", "B")[: rng.choice((1, 1, 2))]]
        self.ticker, self.repair, self.writer = Sender(self, "clock"), Repair(self), Writer(self)
        self._later: list[tuple[int, Callable[[], None]]] = []
        self._plan(rng.choice((0, 3, 8, 20)))

    def klines(self, symbol: str, name: str) -> dict[int, tuple[Any, ...]]:
        """The exchange's own klines of an interval, by open time: nine values and ids; quiet ones as well."""
        key = symbol, name
        if key not in self._klines:
            rows = [row for row in self.rows if row.symbol == symbol]
            folded = fold(rows, [name], rows[-1].time + CALM_MS_MAX)
            self._klines[key] = {opening: bar for (_, _, opening), bar in folded.items()}
        return self._klines[key]

    def _market(self, seed: int) -> list[TradeRow]:
        rng = self.rng
        rows = market(seed, rng.randrange(1, 4), rng.choice((40, 300, 900)), MARKET_MS)
        first = {row.symbol: row.id for row in reversed(rows)}
        rows = [replace(row, time=row.time + 3_000) for row in rows]
        if self.born:
            rows = [replace(row, id=row.id - first[row.symbol] + 1) for row in rows]
        for name in first:
            last = next(row for row in reversed(rows) if row.symbol == name)
            rows.append(replace(
                last, id=last.id + 1, first=last.last + 1, last=last.last + 1, time=T0 + MARKET_MS + PROOF_MS
            ))  # fmt: skip
        return sorted(rows, key=lambda row: (row.time, row.symbol, row.id))

    def _plan(self, count: int) -> None:
        for _ in range(count):
            at_ms, fault = T0 + self.rng.randrange(MARKET_MS), self.rng.choice(FAULTS)
            self._later.append((at_ms, lambda fault=fault: self._do(fault)))  # type: ignore[misc]
            if fault == "Redis older":
                ago_ms = self.rng.randrange(1, 1_000)
                box: list[State] = []
                self._later[-1] = (at_ms, lambda box=box: self._older(box))  # type: ignore[misc]
                self._later.append((at_ms - ago_ms, lambda box=box: self._remember(box)))  # type: ignore[misc]

    # --- faults ---

    def _do(self, fault: str) -> None:
        rng, now_ms = self.rng, int(self.clock.now_ms)
        self.seen[fault] += 1
        streams = [service._streams for service in self.aggregators]
        if fault == "kill":
            self.aggregators.clear()
            self.dead_until_ms = now_ms + rng.randrange(5_000)
        elif fault.startswith("cut"):
            for each in streams:
                each.fuse, each.fuse_after = rng.randrange(40), "after" in fault  # type: ignore[attr-defined]
        elif fault.startswith("commit"):
            for each in streams:
                each.doubt, each.doubt_after = rng.randrange(3), "after" in fault  # type: ignore[attr-defined]
        elif fault == "Redis away":
            self.redis.down = True
            self._later.append((now_ms + rng.randrange(4_000), self.redis.restart))
        elif fault == "Redis full":
            self.redis.full = True
            self._later.append((now_ms + rng.randrange(3_000), lambda: setattr(self.redis, "full", False)))
        elif fault == "second aggregator":
            self._start()
        elif fault == "line killed":
            rng.choice(self.lines).kill(now_ms + rng.randrange(3_000))
        elif fault == "writer killed":
            self.writer.restart()
        elif fault == "repair killed":
            self.repair.kill()
        elif fault == "Redis older than a start":
            before = self.redis.state.copy()
            self.aggregators.clear()
            self._start()
            self._later.append((now_ms + rng.randrange(1, 1_000), lambda: self.redis.restart(before)))
        elif fault == "clock silent":
            self.clock_silent_until_ms = now_ms + rng.randrange(10_000)
        else:
            rng.choice(self.lines).lose_reply = True

    def _remember(self, box: list[State]) -> None:
        box.append(self.redis.state.copy())

    def _older(self, box: list[State]) -> None:
        if box:
            self.seen["Redis older"] += 1
            self.redis.restart(box[0])

    # --- the aggregator ---

    def _start(self) -> None:
        self.started += 1
        service = Service(Context(self, self.started), 0)  # type: ignore[arg-type]
        try:
            service.start()
        except (RedisUnavailable, RedisRefused, CommitConflict, CommitDoubt):
            self.seen["start failed"] += 1
            return
        self.aggregators.append(service)

    def _aggregate(self, now_ms: int) -> None:
        if not self.aggregators and now_ms >= self.dead_until_ms:
            self._start()
        for service in list(self.aggregators):
            try:
                service.turn()
                continue
            except Crash:
                self.seen["crashed within a call"] += 1
            except KlaggError as error:
                self.seen[type(error).__name__] += 1
                if not isinstance(error, (CommitConflict, CommitDoubt, RedisUnavailable, RedisRefused)):
                    raise
                try:
                    if isinstance(error, (RedisUnavailable, CommitDoubt)):
                        service.look_back()
                except (KlaggError, Crash) as older:
                    self.seen[type(older).__name__] += 1
            self.aggregators.remove(service)
            self.dead_until_ms = now_ms + self.rng.randrange(2_000)

    # --- time ---

    def _step(self, now_ms: int, rows: list[TradeRow]) -> None:
        self.clock.now_ms = max(self.clock.now_ms, now_ms)
        self.redis.now_ms = now_ms
        for due in sorted((each for each in self._later if each[0] <= now_ms), key=lambda each: each[0]):
            self._later.remove(due)
            due[1]()
        for line in self.lines:
            line.step(rows, now_ms)
        if now_ms >= self.clock_silent_until_ms:
            self.ticker.send([contract.tick_entry(now_ms)])
            if self.rng.random() < 0.1:  # another clock, a little behind
                self.ticker.send([contract.tick_entry(now_ms - self.rng.randrange(1, 1_000))])
        self._aggregate(now_ms)
        self.repair.step(now_ms)
        self.writer.step()

    def run(self) -> None:
        """From the first listing to the calm after the last trade."""
        with self._virtual_time():
            generation = T0 + 1 if self.born else T0 - 10**9
            listings = [contract.Listing(name, generation, 0, 0, "TRADING", 10**13) for name in self.certain]
            self._step(T0, [])
            self.ticker.send(contract.listing_entries(listings))
            at, now_ms = 0, T0
            while now_ms < T0 + MARKET_MS:
                now_ms += STEP_MS
                first = at
                while at < len(self.rows) and self.rows[at].time <= now_ms:
                    at += 1
                self._step(now_ms, self.rows[first:at])
            self._calm(now_ms, at)

    def _calm(self, now_ms: int, at: int) -> None:
        """No more faults; what is missing comes, what is late is said."""
        for due in sorted(self._later, key=lambda each: each[0]):
            if "restart" in repr(due[1]) or self.redis.full:
                due[1]()
        self._later, self.calm, self.loss = [], True, 0.0
        self.redis.down = self.redis.full = False
        self.repair_ms = 1
        self.ticker.send(contract.listing_entries([
            contract.Listing(name, T0 + 1 if self.born else T0 - 10**9, 0, 0, "TRADING", 10**13)
            for name in self.certain
        ]))  # fmt: skip
        end_ms = now_ms + CALM_MS_MAX
        while now_ms < end_ms:
            now_ms += CALM_STEP_MS
            first = at
            while at < len(self.rows) and self.rows[at].time <= now_ms:
                at += 1
            self._step(now_ms, self.rows[first:at])
            if at == len(self.rows) and self._quiet(now_ms):
                return
        raise AssertionError(f"no calm after {CALM_MS_MAX} ms: {self._holes()}")

    def _holes(self) -> dict[int, object]:
        return dict(self.aggregators[0]._core.ledger.holes) if self.aggregators else {}

    def _quiet(self, now_ms: int) -> bool:
        """Whether every trade is in, and every bar that is over is out."""
        if not self.aggregators or self._holes() or now_ms < self.rows[-1].time + 30_000:
            return False
        core = self.aggregators[0]._core
        reached = {name: int(core.ledger.last_id[slot]) for slot, name in enumerate(core.symbols.names)}
        return all(reached.get(name) == max(ids) for name, ids in self.certain.items())

    @contextmanager
    def _virtual_time(self) -> Iterator[None]:
        fake = SimpleNamespace(monotonic=self.clock.monotonic, perf_counter=self.clock.monotonic)
        with (
            mock.patch("aggregator.service.time", fake),
            mock.patch("aggregator.trimming.time", fake),
            mock.patch("aggregator.service.local_ms", self.clock.local_ms),
        ):
            yield

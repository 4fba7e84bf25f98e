"""A shard's whole world in virtual time: an exchange, lines, clocks, repair, a writer, and the real aggregator.

One seed decides everything: what is traded, what gets lost, doubled, late or out of order, who is killed when, how far
back Redis comes. In the end the world calms down, and what the table holds must be what an oracle says that saw every
trade. The aggregator is aggregator.service.Service itself, over a Redis that is virtual (virtualredis.py).
"""

from __future__ import annotations

import argparse
import functools
import logging
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from types import SimpleNamespace
from unittest import mock

from aggregator.commit import split_outputs
from aggregator.core import Core
from aggregator.service import Service
from klagg import settings
from klagg.errors import CommitConflict, CommitDoubt, KlaggError, RedisOlder, RedisRefused, RedisUnavailable
from klagg.process.stats import Stats
from klagg.settings import Settings
from klagg.wire.entry_id import next_id
from tests.simulation.actors import KEYS, Clocks, Line, Repair, Tickers, TickerStream, Writer
from tests.simulation.market import Shape, market_of
from tests.simulation.virtualredis import Crash, State, VirtualRedis, VirtualStreams

CALM_STEP_MS = 5_000
CALM_MS_MAX = 2_400_000
RESTARTS_MAX = 200
START_MS = 1
"""The least time that a start takes, so that no two have one epoch (docs/adr/0008-epochs-by-time.md)."""
UNREAD_MAX = 4

FAULTS = (
    "kill",
    "cut before a call",
    "cut after a call",
    "cut within a start",
    "commit lost before EXEC",
    "commit lost after EXEC",
    "Redis away",
    "Redis older",
    "Redis full",
    "failover",
    "second aggregator",
    "line killed",
    "writer killed",
    "repair killed",
    "clock killed",
    "clock silent",
    "reply to a line lost",
    "Redis older than a start",
    "aggregator slow",
)


class Clock:
    """Virtual time in place of the module `time`, for the aggregator's shell."""

    def __init__(self, now_ms: float) -> None:
        self.now_ms = now_ms

    def monotonic(self) -> float:
        return self.now_ms / 1000

    def local_ms(self) -> float:
        return self.now_ms


class Context:
    """What the aggregator's shell asks of klagg.process.service.Context."""

    def __init__(self, world: World, number: int) -> None:
        self.settings = world.settings
        self.writer = f"aggregator-0@{number}"
        self.log = logging.getLogger("simulation")
        self.stats = Stats()
        self.arguments = argparse.Namespace(checkpoint_s=world.rng.choice((0.5, 3.0, 15.0, 1e9)))
        self._world = world

    def connect(self) -> VirtualStreams:
        streams = VirtualStreams(self._world.redis)
        if self._world.start_fuse is not None:
            streams.fuse, after = divmod(self._world.start_fuse, 2)
            streams.fuse_after = bool(after)
            self._world.start_fuse = None
        return streams

    def beat(self) -> None:
        pass

    def wait(self, seconds: float) -> bool:
        self._world.clock.now_ms += seconds * 1000
        return True


class World:
    """Everything. `run` plays the seed to its end; `seen` counts what happened.

    `calm`: faults are over. `official`: repair answers with the exchange's klines where it is asked for them.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.shape = Shape.of(rng)
        self.market = market_of(self.shape, rng)
        self.official = find_spec("aggregator.official") is not None and rng.random() < 0.7
        self.loss = rng.choice((0.0, 0.01, 0.1, 0.4))
        self.repair_ms = rng.choice((1, 2_000, 20_000))
        base = Settings()
        self.settings = replace(
            base,
            audit=settings.Audit(full=False),
            aggregator=replace(base.aggregator, intervals=self.shape.intervals, window_minutes=60),
        )
        self.seen: Counter[str] = Counter()
        self.clock, self.redis = Clock(self.shape.begun_ms), VirtualRedis()
        self.redis.now_ms = self.shape.begun_ms
        self.calm = False
        self.aggregators: list[Service] = []
        self.started = 0
        self._started_ms = 0.0
        self.start_fuse: int | None = None
        self.dead_until_ms = self.slow_until_ms = 0
        self.lines = [Line(self, name, rng.choice((0, 0, 0, 7_000))) for name in ("A", "B")[: rng.choice((1, 1, 2))]]
        self.clocks, self.repair, self.writer = Clocks(self), Repair(self), Writer(self)
        self.tickers = Tickers(self, random.Random(f"tickers of {seed}"))
        self.ticker_stream = TickerStream(self, random.Random(f"ticker stream of {seed}"), self.tickers)
        self._at = 0
        self._times = [row.time for row in self.market.rows]
        self._later: list[tuple[int, Callable[[], None]]] = []
        for _ in range(rng.choice((0, 3, 8, 20))):
            self._later.append((self._some_time(), functools.partial(self._do, rng.choice(FAULTS))))

    def _some_time(self) -> int:
        """A time at which the market is not silent for long."""
        low, high = self.market.silence
        at_ms = self.rng.randrange(self.shape.begun_ms, self.market.end_ms - self.shape.leap_ms)
        return at_ms if at_ms < low else at_ms + high - low

    # --- faults ---

    def _do(self, fault: str) -> None:
        self.seen[fault] += 1
        rng, now_ms = self.rng, int(self.clock.now_ms)
        wait_ms = rng.randrange(1, 5_000)
        streams: list[VirtualStreams] = [each._streams for each in self.aggregators]  # type: ignore[misc]
        if fault == "kill":
            self._lose_all(wait_ms)
        elif fault == "cut within a start":
            self._lose_all(0)
            self.start_fuse = rng.randrange(40)
        elif fault.startswith("cut"):
            for each in streams:
                each.fuse, each.fuse_after = rng.randrange(60), "after" in fault
        elif fault.startswith("commit"):
            for each in streams:
                each.doubt, each.doubt_after = rng.randrange(3), "after" in fault
        elif fault == "Redis away":
            self.redis.down = True
            self._after(wait_ms, self.redis.restart)
        elif fault == "Redis full":
            self.redis.full = True
            self._after(wait_ms, lambda: setattr(self.redis, "full", False))
        elif fault in {"Redis older", "Redis older than a start", "failover"}:
            before = self.redis.state.copy()
            if fault == "Redis older than a start":
                self._lose_all(0)
                self._start()
            self._after(rng.randrange(1, 1_000), functools.partial(self._older, before, fault))
        elif fault == "second aggregator":
            self._start()
        elif fault == "aggregator slow":
            self.slow_until_ms = now_ms + 2 * wait_ms
        elif fault == "clock silent":
            self.clocks.silent_until_ms = now_ms + 2 * wait_ms
        elif fault == "line killed":
            rng.choice(self.lines).kill(now_ms + wait_ms)
        elif fault == "reply to a line lost":
            rng.choice(self.lines).lose_reply = True
        else:
            restarts: dict[str, Callable[[], object]] = {
                "writer killed": self.writer.restart,
                "repair killed": self.repair.restart,
                "clock killed": self.clocks.restart,
            }
            restarts[fault]()

    def _after(self, wait_ms: int, action: Callable[[], None]) -> None:
        self._later.append((int(self.clock.now_ms) + wait_ms, action))

    def _lose_all(self, wait_ms: int) -> None:
        """Every aggregator is gone; the next start is `wait_ms` from now."""
        self.aggregators.clear()
        self.dead_until_ms = int(self.clock.now_ms) + wait_ms

    def _older(self, state: State, fault: str) -> None:
        if fault == "failover":
            self.redis.fail_over(state, self.rng.choice((0, 100, 900)))
        else:
            self.redis.restart(state)

    # --- the aggregator ---

    def _start(self) -> None:
        self.started += 1
        self.clock.now_ms = max(self.clock.now_ms, self._started_ms + START_MS)
        self._started_ms = self.clock.now_ms
        if self.started > RESTARTS_MAX:
            raise AssertionError("the aggregator starts and ends for ever")
        service = Service(Context(self, self.started), 0)  # type: ignore[arg-type]
        try:
            service.start()
        except Crash as crash:
            self.seen[f"crash {crash}"] += 1
            self.seen["crashed within a start"] += 1
        except (RedisUnavailable, RedisRefused, CommitConflict, CommitDoubt):
            self.seen["start failed"] += 1
        else:
            self.seen["started from a checkpoint"] += service._read_id != "0-0"
            self.aggregators.append(service)

    def _aggregate(self, now_ms: int) -> None:
        if not self.aggregators and now_ms >= self.dead_until_ms:
            self._start()
        for service in list(self.aggregators):
            try:
                for _ in range(self.rng.randrange(1, 4)):
                    service.turn()
            except Crash as crash:
                self.seen[f"crash {crash}"] += 1
                self.seen["crashed within a call"] += 1
            except (RedisUnavailable, RedisRefused, CommitConflict, CommitDoubt) as error:
                self.seen[type(error).__name__] += 1
                self._look_back(service, error)
                if type(error) is CommitConflict and not self.calm and self.rng.random() < 0.3:
                    self._after(1, self._start)  # a supervisor starts it again, and so the two fight
            else:
                continue
            self.aggregators.remove(service)
            self.dead_until_ms = now_ms + self.rng.randrange(2_000)

    def _look_back(self, service: Service, error: KlaggError) -> None:
        """What the process does before it ends (aggregator.service._body)."""
        if isinstance(error, (RedisUnavailable, CommitDoubt)):
            try:
                service.look_back()
            except RedisOlder:
                self.seen["RedisOlder"] += 1
            except (RedisUnavailable, RedisRefused, Crash):
                self.seen["no look back"] += 1

    @property
    def core(self) -> Core | None:
        """What the one aggregator has."""
        return self.aggregators[0]._core if len(self.aggregators) == 1 else None

    # --- time ---

    def _step(self, now_ms: int) -> None:
        self.clock.now_ms = max(self.clock.now_ms, now_ms)
        self.redis.now_ms = now_ms
        for due in sorted((each for each in self._later if each[0] <= now_ms), key=lambda each: each[0]):
            self._later.remove(due)
            due[1]()
        first, self._at = self._at, bisect_right(self._times, now_ms)
        for line in self.lines:
            line.step(self.market.rows[first : self._at], now_ms)
        self.tickers.step(now_ms)
        self.ticker_stream.step(now_ms)
        self.clocks.step(now_ms)
        if self.calm or now_ms >= self.slow_until_ms:
            self._aggregate(now_ms)
        self.repair.step(now_ms)
        self.writer.step()

    def run(self) -> None:
        """From the first listing to the calm after the last trade."""
        with self._virtual():
            now_ms = self.shape.begun_ms
            self._at = bisect_right(self._times, now_ms)
            self._step(now_ms)
            self.clocks.send_listings()
            while now_ms < self.market.end_ms:
                now_ms += self.shape.step_ms
                low, high = self.market.silence
                if low <= now_ms < high:
                    self.seen["leap"] += 1
                    now_ms = high
                self._step(now_ms)
            self._calm_down(now_ms)

    def _calm_down(self, now_ms: int) -> None:
        """No more faults; what is missing comes, what is late is said."""
        self._later, self.calm, self.loss, self.repair_ms = [], True, 0.0, 1
        self.slow_until_ms = self.dead_until_ms = self.clocks.silent_until_ms = 0
        self.redis.full, self.start_fuse = False, None
        if self.redis.down:
            self.redis.restart()
        for line in self.lines:
            line.dead_until_ms = 0
        for service in self.aggregators:
            streams: VirtualStreams = service._streams  # type: ignore[assignment]
            streams.fuse = streams.doubt = None
        self.clocks.send_listings()
        end_ms = now_ms + CALM_MS_MAX
        while now_ms < end_ms:
            now_ms += CALM_STEP_MS
            self._step(now_ms)
            if now_ms > self._times[-1] + 30_000 and self._quiet():
                return
        raise AssertionError(f"no calm after {CALM_MS_MAX} ms: {self.core and self.core.ledger.gaps}")

    def _quiet(self) -> bool:
        """Whether every trade is in, and everything that was said is in the table."""
        core = self.core
        if core is None or core.open_gaps or self._unread() > UNREAD_MAX:
            return False
        if self.writer.streams.group_lag(KEYS.klines, "writers"):
            return False
        reached = {name: int(core.ledger.last_id[slot]) for slot, name in enumerate(core.symbols.names)}
        return reached == self.market.last_ids()

    def _unread(self) -> int:
        """Entries of the feed that the one aggregator has not read yet."""
        return len(self.aggregators[0]._streams.range(KEYS.feed, next_id(self.aggregators[0]._read_id)))

    @contextmanager
    def _virtual(self) -> Iterator[None]:
        """Virtual time for the aggregator's modules, and limits so small that this market meets them."""
        rng, fake = self.rng, SimpleNamespace(monotonic=self.clock.monotonic, perf_counter=self.clock.monotonic)
        cuts = functools.partial(split_outputs, klines_max=rng.choice((2, 10, 500)))
        with ExitStack() as stack:
            for name, value in (
                ("aggregator.service.time", fake),
                ("aggregator.trimming.time", fake),
                ("aggregator.service.local_ms", self.clock.local_ms),
                ("aggregator.service.split_outputs", cuts),
                ("aggregator.service.READ_ENTRIES", rng.choice((4, 30, 256))),
                ("aggregator.checkpoint.BLOCK_SYMBOLS", rng.choice((1, 2, 24))),
                ("aggregator.trimming.KEPT_MS", rng.choice((0, 5_000, 600_000))),
            ):
                stack.enter_context(mock.patch(name, value))
            yield

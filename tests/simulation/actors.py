"""The processes around the aggregator: lines, clocks, repair and a writer, each with its ways to fail.

Where a process has a pure part (pages and waiting room of repair, codec and choice of versions of the writer), that is
the real one.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ingest.repair_pages import NotYet
from ingest.repair_queue import Job, RepairQueue, queued_request
from klagg.errors import RedisRefused, RedisUnavailable
from klagg.kline import Kline
from klagg.wire.entries import (
    BY_STREAM,
    BY_TICKER,
    REQUEST_BEHIND,
    REQUEST_KLINES,
    TRADE_IDS,
    Request,
    TradeRow,
    Witness,
    listing_entries,
    request_of,
    tick_entry,
    trades_entry_of_rows,
    watermark_entry,
    witness_entries,
)
from klagg.wire.fields import Fields, stamp
from klagg.wire.keys import Keys
from tests.simulation.virtualredis import VirtualStreams
from writers.batch import Accepted, resolve
from writers.kline_entries import kline_of

if TYPE_CHECKING:
    from tests.simulation.world import World

KEYS = Keys(0)
WITHIN_MS = 1_000
"""Messages change their order within this time."""
WAITING_MAX = 20
"""Requests that repair holds at once."""
RETRY_MS = 2_000
KEPT_MS = 5_000
AWAY = (RedisUnavailable, RedisRefused)


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

    def send(self, entries: Iterable[Fields]) -> bool:
        """Write these behind what waits; whether Redis has taken everything."""
        for each in entries:
            self.seq += 1
            self.waiting.append(stamp(each, f"{self.name}@{self.runs}", self.seq))
        try:
            while self.waiting:
                self.streams.append(KEYS.feed, self.waiting[0])
                if self.lose_reply:
                    self.lose_reply = False
                    return False  # it is there, and comes again
                self.waiting.pop(0)
        except AWAY:
            return False
        return True


class Line(Sender):
    """A line of ingest: loses, doubles, delays; says what it carries. A late one brings everything `late_ms` late."""

    def __init__(self, world: World, name: str, late_ms: int) -> None:
        self.held: list[tuple[int, int, TradeRow]] = []
        self.late_ms = late_ms
        self.dead_until_ms = 0
        super().__init__(world, name)

    def step(self, rows: Iterable[TradeRow], now_ms: int) -> None:
        """Bring what was traded since the last step."""
        world, rng = self.world, self.world.rng
        if now_ms < self.dead_until_ms:
            return
        for row in rows:
            if rng.random() < world.loss:
                world.seen["message lost"] += 1
                continue
            due_ms = now_ms + (self.late_ms if not world.calm else 0)
            if rng.random() < 0.1:
                world.seen["message late"] += 1
                due_ms += rng.randrange(WITHIN_MS)
            self.held.append((due_ms, row.id, row))
            if rng.random() < 0.05:
                world.seen["message doubled"] += 1
                self.held.append((due_ms + rng.randrange(5_000), row.id, row))
        out = [row for due_ms, _, row in self.held if due_ms <= now_ms]
        self.held = [each for each in self.held if each[0] > now_ms]
        rng.shuffle(out)
        entries = list(self._batches(out, now_ms))
        if rng.random() < 0.7:
            carried = world.market.names
            carried = carried if world.calm or rng.random() < 0.8 else rng.sample(carried, len(carried) // 2)
            if carried:
                entries.append(watermark_entry(self.name, carried, now_ms))
        self.send(entries)

    def _batches(self, rows: list[TradeRow], now_ms: int) -> Iterator[Fields]:
        at = 0
        while at < len(rows):
            size = self.world.rng.randrange(1, 51)
            yield trades_entry_of_rows(
                rows[at : at + size], line=self.name, ids=self.world.market.shape.ids, recv_ms=now_ms
            )
            at += size

    def kill(self, until_ms: int) -> None:
        """Gone with everything it held, until then."""
        self.held, self.dead_until_ms = [], until_ms
        self.restart()


class Clocks:
    """One clock process, sometimes two: ticks that come, are missing, come again, are late."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.silent_until_ms = 0
        self.one, self.other = Sender(world, "clock"), Sender(world, "clock-other")
        self.lag_ms = world.rng.choice((-1, 0, 130, 3_000))
        """How far the other clock is behind; −1: there is none."""

    def step(self, now_ms: int) -> None:
        """A tick of each."""
        rng = self.world.rng
        if now_ms < self.silent_until_ms:
            return
        if self.world.calm or rng.random() > 0.03:
            self.one.send([tick_entry(now_ms)])
        if self.lag_ms >= 0 and rng.random() < 0.3:
            self.world.seen["second clock"] += 1
            self.other.send([tick_entry(now_ms - self.lag_ms)])

    def restart(self) -> None:
        self.one.restart()

    def send_listings(self) -> None:
        """All symbols again, as at start and hourly."""
        self.one.send(listing_entries(self.world.market.listings()))


class Tickers(Sender):
    """What the exchange says of last ids: true, a little late, too low, too high, or not at all; a lying one may be
    late by more than any margin."""

    def __init__(self, world: World, rng: random.Random) -> None:
        super().__init__(world, "tickers")
        self.rng = rng
        self.every_ms = rng.choice((0, 1_000, 5_000, 20_000))
        self.lying = rng.random() < 0.3
        self.due_ms = 0

    def step(self, now_ms: int) -> None:
        """Say it, if it is time."""
        world, rng = self.world, self.rng
        if not self.every_ms or now_ms < self.due_ms:
            return
        self.due_ms = now_ms + self.every_ms
        late_ms = 0 if world.calm else rng.choice((0, 0, 1_000, 2_900, *([20_000, 60_000] if self.lying else [])))
        last = {row.symbol: row.last for row in world.market.rows if row.time <= now_ms - late_ms}
        witnesses = []
        for name, last_id in sorted(last.items()):
            if not world.calm and rng.random() < 0.1:
                world.seen["ticker left out"] += 1
                continue
            claimed = last_id if world.calm or rng.random() > 0.1 else self._wrong(name, last_id)
            said = "too low" if claimed < last_id else "too high" if claimed > last_id else "right"
            world.seen[f"ticker {said}"] += 1
            witnesses.append(Witness(name, claimed, now_ms))
        self.send(witness_entries(witnesses, ids=TRADE_IDS, source=BY_TICKER))

    def _wrong(self, name: str, last_id: int) -> int:
        """Another id than the last one: of a fill without an aggTrade; a lying ticker says anything."""
        if self.lying:
            return max(0, last_id + self.rng.choice((-1, 1, 3)))
        behind = (row.first for row in self.world.market.rows if row.symbol == name and row.first > last_id)
        return next(behind, last_id + 1) - 1


class TickerStream(Sender):
    """The same over the lines, every two seconds: two say it of the symbols that traded since, in either order, and one
    of them may miss what the other got. It lies where REST lies."""

    EVERY_MS = 2_000

    def __init__(self, world: World, rng: random.Random, tickers: Tickers) -> None:
        super().__init__(world, "ticker-stream")
        self.rng, self._tickers = rng, tickers
        self.on = rng.random() < 0.5
        self.due_ms = 0
        self._said: dict[str, int] = {}

    def step(self, now_ms: int) -> None:
        """Say it, if it is time."""
        world, rng = self.world, self.rng
        if not self.on or now_ms < self.due_ms:
            return
        self.due_ms = now_ms + self.EVERY_MS
        late_ms = 0 if world.calm else rng.choice((0, 0, 1_000, 2_900, *([20_000] if self._tickers.lying else [])))
        last = {row.symbol: row.last for row in world.market.rows if row.time <= now_ms - late_ms}
        changed = [Witness(name, each, now_ms) for name, each in sorted(last.items()) if self._said.get(name) != each]
        self._said.update((each.symbol, each.id) for each in changed)
        for _ in range(2):
            heard = changed if world.calm else [each for each in changed if rng.random() < 0.9]
            world.seen["ticker streamed"] += len(heard)
            self.send(witness_entries(heard, ids=TRADE_IDS, source=BY_STREAM))


class Repair(Sender):
    """klagg-repair: answers from the truth, a little later, sometimes in part, sometimes twice, sometimes never."""

    def __init__(self, world: World) -> None:
        super().__init__(world, "repair")

    def restart(self) -> None:
        super().restart()
        self.queue = RepairQueue(WAITING_MAX)
        self.recovered = False

    def step(self, now_ms: int) -> None:
        """Read requests and serve what is due."""
        world = self.world
        try:
            if not self.recovered:
                pending = self.streams.read_pending(
                    KEYS.requests, "repair", "repair", after="0-0", count=WAITING_MAX
                ).entries
                self.recovered = not pending
                self._take(pending, now_ms)
            elif self.queue.free:
                found = self.streams.read_group([KEYS.requests], "repair", "repair", count=self.queue.free)
                self._take(found.get(KEYS.requests, ()), now_ms)
            late = [each.entry_id for each in self.queue.expire(now_ms, now_ms)]
            world.seen["request too late"] += len(late)
            self._ack(late)
            while job := self.queue.next(now_ms, now_ms):
                if not job.not_before_ms and world.repair_ms > 1:
                    self.queue.postpone(job, now_ms + world.rng.randrange(1, world.repair_ms))
                elif self._serve(job, now_ms):
                    self.queue.done(job)
                    self._ack(each.entry_id for each in job.requests)
                else:
                    self.queue.postpone(job, now_ms + RETRY_MS)
        except AWAY:
            self.recovered = False

    def _take(self, entries: Iterable[object], now_ms: int) -> None:
        for entry in entries:
            request = request_of(entry.fields)  # type: ignore[attr-defined]
            queued = queued_request(0, entry.id, entry.fields, request, now_ms + KEPT_MS)  # type: ignore[attr-defined]
            self.queue.add(queued)

    def _ack(self, ids: Iterable[str]) -> None:
        self.streams.ack(KEYS.requests, "repair", list(ids))

    def _serve(self, job: Job, now_ms: int) -> bool:
        """Ask the exchange and write what it says; whether that is done."""
        world, rng = self.world, self.world.rng
        request = job.requests[0].request
        world.seen[f"request for {request.kind}"] += 1
        if not world.calm and rng.random() < 0.1:
            world.seen["request never answered"] += 1
            return True
        if request.kind == REQUEST_KLINES and not world.official:
            return self.send(self._trades_of(request, now_ms))
        entries: list[Fields] = []
        try:
            while call := job.pages.call(now_ms):
                answer = world.market.answer(call, now_ms)
                whole = request.kind == REQUEST_BEHIND and not world.tickers.lying
                if not world.calm and answer and not whole and rng.random() < 0.15:
                    world.seen["answer in part"] += 1
                    answer = self._part(answer, request)
                entries += job.pages.receive(answer, now_ms)
        except NotYet:
            world.seen["not yet"] += 1
            return False
        if not world.calm and rng.random() < 0.1:
            world.seen["answer twice"] += 1
            entries += entries
        return self.send(entries)

    def _part(self, answer: list[object], request: Request) -> list[object]:
        """Trades that the exchange no longer has; the newest klines, which it does not show yet."""
        if request.kind == REQUEST_KLINES:
            return answer[:-1]
        return sorted(self.world.rng.sample(answer, len(answer) // 2), key=lambda row: row["a"])  # type: ignore[index]

    def _trades_of(self, request: Request, now_ms: int) -> Iterator[Fields]:
        """The trades of a request for klines, where the aggregator does not take official rows yet."""
        rows = [
            row
            for row in self.world.market.rows
            if row.symbol == request.symbol and request.first <= row.time < min(request.last, now_ms)
        ]
        for at in range(0, len(rows), 50):
            yield trades_entry_of_rows(rows[at : at + 50], line="rest", ids=self.world.market.shape.ids, recv_ms=now_ms)


class Writer:
    """writer-final: keeps the highest version of every bar, and acknowledges then; what it did not is given again."""

    def __init__(self, world: World) -> None:
        self.world, self.table = world, dict[tuple[str, str, int], Kline]()
        self.restart()

    def restart(self) -> None:
        """A new run; what it had read and not written comes again."""
        self.streams = VirtualStreams(self.world.redis)
        self.after = "0-0"
        self.recovered = False

    def step(self) -> None:
        """One batch."""
        world = self.world
        try:
            if not self.recovered:
                entries = self.streams.read_pending(KEYS.klines, "writers", "writer", after="0-0", count=100).entries
                self.recovered = not entries
                world.seen["kline given again"] += len(entries)
            else:
                entries = self.streams.read_group([KEYS.klines], "writers", "writer", count=100).get(KEYS.klines, [])
            if not world.calm and world.rng.random() < 0.02:
                self.recovered = False  # killed before it wrote
                return
            taken = [Accepted(KEYS.klines, each.id, each.fields, kline_of(each.fields)) for each in entries]
            for each in resolve(taken):
                held = self.table.get(each.kline.key)
                if held is None or each.kline.version > held.version:
                    self.table[each.kline.key] = each.kline
            if not world.calm and world.rng.random() < 0.05:
                self.recovered = False  # killed before it acknowledged
                return
            self.streams.ack(KEYS.klines, "writers", [each.id for each in entries])
        except AWAY:
            self.recovered = False

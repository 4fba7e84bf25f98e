"""klagg-repair: what the aggregators and auditors miss, asked for at the exchange and put into the feed. A thin shell.

A request is acknowledged only after its answer is in the feed. What a crash leaves:

1. Read, not served: the entry is pending; the next start reads its own pending entries first.
2. Some or all answers written, not acknowledged: the same, and what comes twice the ledger drops.
3. Acknowledged: done with.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final

from ingest.feed_capacity import FeedFull, FeedRoom
from ingest.repair_pages import Call, NotYet
from ingest.repair_queue import Job, WaitingRoom, Wanted, wanted_of
from ingest.sequenced_writer import Pen
from ingest.synchroniser import Synchroniser
from ingest.unrepaired import given_up, gone
from klagg.backoff import Backoff
from klagg.binance.kline_rows import Malformed
from klagg.binance.rest_client import ExchangeRest
from klagg.binance.weight_account import ROLE_CLOCK, ROLE_REPAIR, HastyGate, PatientGate
from klagg.clock import ExchangeClock, steady_ms
from klagg.drivers.redis_streams import Append, AsyncStreams, Entry
from klagg.errors import (
    ContractError,
    ExchangeRefused,
    ExchangeUnavailable,
    KlaggError,
    RedisRefused,
    RedisUnavailable,
    UnknownInterval,
)
from klagg.process.service import AsyncContext, run_async, until_stopping
from klagg.process.stats import Alarm
from klagg.wire.entries import DEAD_ENTRIES, REQUEST_TRADES, dead_entry, request_of
from klagg.wire.entry_id import BEFORE_FIRST
from klagg.wire.fields import Fields, upgraded
from klagg.wire.keys import GROUP_REPAIR, Keys

PROCESS: Final = "repair"

READ_ENTRIES: Final = 200
"""The most entries of one read of one stream."""

RECLAIM_IDLE_MS: Final = 120_000
"""An entry that another consumer holds for this long is taken over. A living one that only waits for weight then serves
it too, which changes nothing."""

RECLAIM_EVERY_S: Final = 30.0
SWEEP_S: Final = 0.25
"""How often requests past their deadline are looked for, and at the latest whether one is due."""

FULL_S: Final = 0.2
"""How long reading pauses while the waiting room is full."""

NOT_YET_S: Final = 1.0
NOT_YET_S_MAX: Final = 16.0
"""After an answer that lacks the end of the range; twice as long each time."""

RETRY_FIRST_S: Final = 0.2
RETRY_CAP_S: Final = 30.0

REST_TIMEOUT_MS: Final = 20_000

TIME_S_MIN: Final = 1.0
"""However soon the synchroniser would look again: a clock that is held for others matters little here."""

WORTH_RETRYING: Final = frozenset({403, 408, 418, 429})
"""Answers below 500 that say something about this address or this moment, and nothing about the request."""


class Outage:
    """One thing that may be away: what is said about it, once for each status, and how long to leave it alone."""

    def __init__(self, context: AsyncContext, what: str) -> None:
        self._context, self._what = context, what
        self._backoff = Backoff(RETRY_FIRST_S, RETRY_CAP_S, random.random)
        self._until_ms = 0.0
        self._said: set[int] = set()

    def failed(self, trouble: KlaggError) -> None:
        """It did not work. Several that fail while it is left alone count as one."""
        now_ms = steady_ms()
        status = trouble.status if isinstance(trouble, ExchangeRefused) else 0
        if status not in self._said:  # after a 429 a 418 is news
            self._said.add(status)
            self._context.log.warning("%s; requests wait meanwhile", trouble)
        if now_ms < self._until_ms:
            return
        self._until_ms = now_ms + self._backoff.next_s() * 1000

    def worked(self) -> None:
        """It works."""
        if self._backoff.tries:
            self._context.log.warning("%s again after %d tries", self._what, self._backoff.tries)
        self._backoff.reset()
        self._said.clear()
        self._until_ms = 0.0

    async def over(self) -> None:
        """Wait until it is worth another try."""
        while (wait_ms := self._until_ms - steady_ms()) > 0:
            await asyncio.sleep(wait_ms / 1000)


class Repair:
    """The parts of the process: a reader that fills the waiting room, and workers that empty it."""

    def __init__(
        self,
        context: AsyncContext,
        reading: AsyncStreams,
        writing: AsyncStreams,
        rest: ExchangeRest,
        clock: ExchangeClock,
    ) -> None:
        settings = context.settings
        self._context, self._stats, self._log = context, context.stats, context.log
        self._reading, self._writing, self._rest, self._clock = reading, writing, rest, clock
        self._shards = {Keys(shard).requests: shard for shard in range(settings.shards)}
        self._agg_ids = settings.exchange.source == "aggTrade"
        self._room = WaitingRoom(settings.repair.waiting_max)
        self._pen = Pen(writing, context.writer)
        self._feeds = FeedRoom(writing, settings, stats=context.stats, log=context.log)
        self._exchange_outage = Outage(context, "the exchange answers")
        self._redis_outage = Outage(context, "Redis answers")
        self._wake = asyncio.Event()
        self._reclaim_ms = 0.0
        self._stats.add("unrepaired", 0)  # Prometheus sees growth only in what it saw before
        self._stats.show("waiting", 0)

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The background tasks by name; none of them ends by itself."""
        workers = {f"worker {number}": self._work() for number in range(self._context.settings.repair.calls_max)}
        return {"reader": self._read(), "sweeper": self._sweep(), **workers}

    # Reading.

    async def _read(self) -> None:
        """After every failure of Redis pending entries are read again: a reply that was lost may have held some."""
        while True:
            try:
                for stream in self._shards:
                    await self._reading.ensure_group(stream, GROUP_REPAIR)
                await self._recover()
                self._redis_outage.worked()
                while True:
                    await self._read_new()
            except RedisUnavailable as lost:
                self._redis_outage.failed(lost)
            except RedisRefused as refused:
                if not any(word in str(refused) for word in ("NOGROUP", "OOM")):
                    raise
                self._redis_outage.failed(refused)
            await self._redis_outage.over()

    async def _read_new(self) -> None:
        if steady_ms() >= self._reclaim_ms:
            await self._reclaim()
        room = await self._some_room()
        found = await self._reading.read_group(
            list(self._shards), GROUP_REPAIR, PROCESS, count=room, block_ms=self._context.settings.redis.block_ms
        )
        for stream, entries in found.items():
            await self._admit(stream, entries)

    async def _some_room(self) -> int:
        """How many entries may be read of every stream; waits until it is at least one."""
        while (room := self._room.room // len(self._shards)) < 1:
            await asyncio.sleep(FULL_S)
        return min(room, READ_ENTRIES)

    async def _recover(self) -> None:
        """What this consumer was given before and never acknowledged, then what dead consumers left."""
        for stream in self._shards:
            after = BEFORE_FIRST
            while entries := await self._reading.read_pending(
                stream, GROUP_REPAIR, PROCESS, after=after, count=await self._some_room()
            ):
                after = entries[-1].id
                await self._admit(stream, entries)
        await self._reclaim()

    async def _reclaim(self) -> None:
        self._reclaim_ms = steady_ms() + RECLAIM_EVERY_S * 1000
        for stream in self._shards:
            start = ""
            while start != BEFORE_FIRST:
                start, entries = await self._reading.claim_idle(
                    stream,
                    GROUP_REPAIR,
                    PROCESS,
                    idle_ms=RECLAIM_IDLE_MS,
                    count=await self._some_room(),
                    start=start or BEFORE_FIRST,
                )
                await self._admit(stream, entries)

    async def _admit(self, stream: str, entries: Iterable[Entry]) -> None:
        """Take entries into the waiting room; what is no usable request is buried."""
        shard = self._shards[stream]
        for entry in entries:
            if self._room.holds(shard, entry.id):
                continue
            self._stats.add("requests")
            try:
                request = request_of(upgraded(entry.fields))
                if request.kind == REQUEST_TRADES and not self._agg_ids:
                    raise ContractError("trades are asked for by aggregate ids, which exchange.source = trade has not")
                wanted = wanted_of(shard, entry.id, entry.fields, request)
            except (ContractError, UnknownInterval) as bad:
                await self._bury(shard, [entry], str(bad))
                continue
            self._room.add(wanted)
            self._wake.set()

    # Serving.

    async def _work(self) -> None:
        while True:
            job = await self._next_job()
            try:
                await self._serve(job)
            except NotYet:
                self._stats.add("answers")
                self._room.rest(job, steady_ms() + min(NOT_YET_S_MAX, NOT_YET_S * 2.0**job.early) * 1000)
                job.early += 1
            except (Malformed, ExchangeRefused) as refused:
                if isinstance(refused, ExchangeRefused):
                    self._stats.add("refused")
                if isinstance(refused, ExchangeRefused) and _worth_retrying(refused.status):
                    self._postpone(job, self._exchange_outage, refused)
                else:
                    await self._give_up(job, str(refused))
            except ExchangeUnavailable as lost:
                self._stats.add("failures")
                self._postpone(job, self._exchange_outage, lost)
            except (RedisUnavailable, RedisRefused, FeedFull) as lost:
                self._postpone(job, self._redis_outage, lost)

    def _postpone(self, job: Job, outage: Outage, trouble: KlaggError) -> None:
        outage.failed(trouble)
        self._room.rest(job, steady_ms())

    async def _next_job(self) -> Job:
        """The next job that is due, while neither the exchange nor Redis is to be left alone."""
        while True:
            await self._exchange_outage.over()
            await self._redis_outage.over()
            if self._clock.synced:
                job = self._room.next(self._now_ms(), steady_ms())
                if job:
                    return job
            self._wake.clear()
            try:
                async with asyncio.timeout(SWEEP_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _serve(self, job: Job) -> None:
        """All calls of a job that are left, each answer into the feed; then its requests are acknowledged."""
        await self._deliver(job)
        while call := job.pages.call(self._now_ms()):
            if job.deadline_ms < self._now_ms():
                await self._expire(job.wanted)
                self._room.done(job)
                return
            answer = await self._ask(call)
            job.undelivered = self._read_answer(job, answer)
            await self._deliver(job)
        if job.pages.gone:
            await self._tell(job, gone(job.wanted[0].request, job.pages.gone, self._now_ms()))
        await self._ack(job.wanted)
        self._room.done(job)
        self._stats.add("served", len(job.wanted))

    async def _tell(self, job: Job, *findings: Fields) -> None:
        """What could not be had: into the log, and to the findings."""
        for each in findings:
            self._log.warning("%s: %s", each["symbol"], each["evidence"])
        key = Keys(job.wanted[0].shard).findings
        await self._pen.write(lambda: [Append(key, each) for each in findings])
        self._stats.add("unrepaired", len(findings))

    def _read_answer(self, job: Job, answer: Any) -> list[Fields]:
        """The entries that an answer gives, and what they hold counted."""
        pages = job.pages
        before = pages.trades, pages.klines, pages.missing
        entries = pages.take(answer, self._now_ms())
        self._stats.add("answers")
        after = pages.trades, pages.klines, pages.missing
        for name, old, new in zip(("trades", "klines", "missing"), before, after, strict=True):
            self._stats.add(name, new - old)
        return entries

    async def _deliver(self, job: Job) -> None:
        """What the last answer gave, into the feed. If Redis does not take it, or the feed is at its cap (FeedFull),
        the job keeps it."""
        if job.undelivered:
            feed = Keys(job.wanted[0].shard).feed
            await self._feeds.look()
            if feed in self._feeds.full:
                raise self._feeds.full[feed]
            await self._pen.write(lambda: [Append(feed, fields) for fields in job.undelivered])
            job.undelivered = []
        self._redis_outage.worked()

    async def _ask(self, call: Call) -> Any:
        answer = await self._rest.get(call.path, call.weight, **call.query)
        self._exchange_outage.worked()
        return answer

    async def _ack(self, wanted: Sequence[Wanted]) -> None:
        stream = Keys(wanted[0].shard).requests
        await self._writing.ack(stream, GROUP_REPAIR, [each.entry_id for each in wanted])

    async def _expire(self, wanted: Sequence[Wanted]) -> None:
        """Acknowledge requests for which nobody waits any more; who asked asks again."""
        for each in wanted:
            await self._ack([each])
        self._stats.add("expired", len(wanted))

    async def _give_up(self, job: Job, reason: str) -> None:
        """The exchange will never answer this as it should: to `dead`, and acknowledged."""
        try:
            await self._tell(job, *(given_up(each.request, reason, self._now_ms()) for each in job.wanted))
            await self._bury(job.wanted[0].shard, [Entry(each.entry_id, each.raw) for each in job.wanted], reason)
        except (RedisUnavailable, RedisRefused) as lost:
            self._postpone(job, self._redis_outage, lost)
            return
        self._room.done(job)

    async def _bury(self, shard: int, entries: Sequence[Entry], reason: str) -> None:
        keys = Keys(shard)
        self._log.error("request %s of %s goes to %s: %s", entries[0].id, keys.requests, keys.dead, reason)
        await self._pen.write(
            lambda: [
                Append(keys.dead, dead_entry(keys.requests, each.id, GROUP_REPAIR, reason, each.fields), DEAD_ENTRIES)
                for each in entries
            ]
        )
        await self._writing.ack(keys.requests, GROUP_REPAIR, [each.id for each in entries])
        self._stats.add("dead", len(entries))

    async def _sweep(self) -> None:
        """Lets go of requests past their deadline, and shows how many wait."""
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._clock.synced and (late := self._room.expire(self._now_ms())):
                try:
                    await self._expire(late)
                except (RedisUnavailable, RedisRefused) as lost:
                    # They stay pending; once Redis is back they are read again and expire again.
                    self._redis_outage.failed(lost)
            self._stats.show("waiting", len(self._room))

    def _now_ms(self) -> int:
        return self._clock.now_ms(steady_ms())


def _worth_retrying(status: int) -> bool:
    return status >= 500 or status in WORTH_RETRYING


async def _keep_time(synchroniser: Synchroniser) -> None:
    while True:
        await synchroniser.once()
        await asyncio.sleep(max(TIME_S_MIN, synchroniser.wait_s))


async def repair(context: AsyncContext) -> None:
    """Body of the process: until asked to stop. What is being served then stays pending for the next start."""
    settings = context.settings
    reading, writing = context.connect(), context.connect()
    await writing.ping()
    clock = ExchangeClock()
    patient = PatientGate(writing, ROLE_REPAIR, settings.rest, context.stats)
    hasty = HastyGate(writing, ROLE_CLOCK, settings.rest, context.stats)
    url, proxy = settings.exchange.rest_url, settings.exchange.proxy
    async with (
        ExchangeRest(url, gate=hasty, proxy=proxy) as time_rest,
        ExchangeRest(url, timeout_ms=REST_TIMEOUT_MS, gate=patient, proxy=proxy) as rest,
    ):
        synchroniser = Synchroniser(
            time_rest,
            clock,
            sync_s=settings.clock.sync_s,
            lost_s=settings.clock.lost_s,
            stats=context.stats,
            log=context.log,
        )
        body = Repair(context, reading, writing, rest, clock)
        await until_stopping(context, context.together({**body.tasks(), "time": _keep_time(synchroniser)}))
    await reading.close()
    await writing.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Console script klagg-repair; the exit code."""
    return run_async(
        PROCESS,
        "Serves requests for missing trades and klines from the exchange's REST API.",
        repair,
        argv=argv,
        alarm=Alarm("calls", "answers"),
    )


if __name__ == "__main__":
    sys.exit(main())

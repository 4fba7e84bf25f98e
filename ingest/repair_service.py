"""klagg-repair: gets from the exchange what aggregators and auditors request, and writes it to the feed. A thin shell.

A request is acknowledged only after its answer is in the feed (`klagg.process.group_consumer` says why none is lost).
What a crash leaves:

1. Read, not served: the entry is pending; the next start reads its own pending entries first.
2. Some or all answers written, not acknowledged: the same; the ledger drops what comes twice.
3. Acknowledged: done with.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, Final

from ingest.feed_capacity import FeedCapacity, FeedFull
from ingest.repair_pages import Call, NotYet, given_up_finding, gone_finding, refused_finding
from ingest.repair_queue import Job, QueuedRequest, RepairQueue, queued_request
from ingest.sequenced_writer import SequencedWriter
from ingest.synchroniser import Synchroniser
from ingest.timings import DEFAULT_TIMINGS, Timings
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
from klagg.process.group_consumer import AsyncGroupConsumer, Rejected
from klagg.process.service import AsyncContext, run_async, until_stopping
from klagg.process.stats import Flow
from klagg.wire.entries import REQUEST_KLINES, request_of
from klagg.wire.fields import Fields, upgraded
from klagg.wire.keys import GROUP_REPAIR, Keys

PROCESS: Final = "repair"

READ_ENTRIES: Final = 200
"""The most entries of one read of one stream."""


REST_TIMEOUT_MS: Final = 20_000

WORTH_RETRYING: Final = frozenset({403, 408, 418, 429})
"""Statuses below 500 that are about this address or this moment, not about the request: 403 is the firewall, 418 a ban
and 429 the limit on requests, 408 a timeout (Binance USDⓈ-M docs, "General Info", HTTP return codes)."""


class Outage:
    """One server that may be away: its failures are logged once for each status, and calls wait meanwhile."""

    def __init__(self, context: AsyncContext, what: str, timings: Timings) -> None:
        self._context, self._what = context, what
        self._backoff = Backoff(timings.repair_retry_first_s, timings.repair_retry_cap_s, random.random)
        self._until_ms = 0.0
        self._logged: set[int] = set()

    def failed(self, trouble: KlaggError) -> None:
        """A call failed. Several calls that fail while it is away count as one failure."""
        now_ms = steady_ms()
        status = trouble.status if isinstance(trouble, ExchangeRefused) else 0
        if status not in self._logged:  # after a 429 a 418 is news
            self._logged.add(status)
            self._context.log.warning("%s; requests wait meanwhile", trouble)
        if now_ms < self._until_ms:
            return
        self._until_ms = now_ms + self._backoff.next_s() * 1000

    def worked(self) -> None:
        """A call worked."""
        if self._backoff.tries:
            self._context.log.warning("%s again after %d tries", self._what, self._backoff.tries)
        self._backoff.reset()
        self._logged.clear()
        self._until_ms = 0.0

    async def over(self) -> None:
        """Wait until another call is worth a try."""
        while (wait_ms := self._until_ms - steady_ms()) > 0:
            await asyncio.sleep(wait_ms / 1000)


class Repair:
    """The parts of the process: a reader that fills the queue, and workers that empty it."""

    def __init__(
        self,
        context: AsyncContext,
        reading: AsyncStreams,
        writing: AsyncStreams,
        rest: ExchangeRest,
        clock: ExchangeClock,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        settings = context.settings
        self._timings = timings
        self._context, self._stats, self._log = context, context.stats, context.log
        self._rest, self._clock = rest, clock
        self._shards = {Keys(shard).requests: shard for shard in range(settings.shards)}
        self._consumer = AsyncGroupConsumer(
            context,
            reading,
            writing,
            GROUP_REPAIR,
            {stream: Keys(shard) for stream, shard in self._shards.items()},
            idle_ms=timings.reclaim_idle_ms,
        )
        self._agg_ids = settings.exchange.source == "aggTrade"
        self._queue = RepairQueue(settings.repair.waiting_max)
        self._writer = SequencedWriter(writing, context.writer)
        self._capacity = FeedCapacity(writing, settings, stats=context.stats)
        self._exchange_outage = Outage(context, "the exchange answers", timings)
        self._redis_outage = Outage(context, "Redis answers", timings)
        self._wake = asyncio.Event()
        self._stats.add("rows_refused", 0)
        self._stats.add("unrepaired", 0)  # Prometheus sees growth only in what it saw before
        self._stats.show("waiting", 0)
        context.position = lambda: (
            f"{self._stats.counters.get('requests', 0)} requests were read and {self._stats.counters.get('served', 0)} "
            f"served; {len(self._queue)} are left, which the next start reads again"
        )

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The background tasks by name; none of them ends by itself."""
        workers = {f"worker {number}": self._work() for number in range(self._context.settings.repair.calls_max)}
        return {"reader": self._read(), "sweeper": self._sweep(), **workers}

    # Reading.

    async def _read(self) -> None:
        """After every failure of Redis pending entries are read again: a reply that was lost may have held some."""
        while True:
            try:
                await self._consumer.ensure()
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
        if self._consumer.reclaim_due:
            await self._reclaim()
        room = await self._some_room()
        found = await self._consumer.read(count=room, block_ms=self._context.settings.redis.block_ms)
        for stream, entries in found.items():
            await self._admit(stream, entries)

    async def _some_room(self) -> int:
        """How many entries may be read of every stream; waits until it is at least one."""
        while (room := self._queue.free // len(self._shards)) < 1:
            await asyncio.sleep(self._timings.full_s)
        return min(room, READ_ENTRIES)

    async def _recover(self) -> None:
        """What this consumer was given before and never acknowledged, then what dead consumers left."""
        async for page in self._consumer.pending(self._some_room):
            await self._admit(page.stream, page.entries)
        await self._reclaim()

    async def _reclaim(self) -> None:
        async for page in self._consumer.idle(self._some_room):
            await self._admit(page.stream, page.entries)

    async def _admit(self, stream: str, entries: Iterable[Entry]) -> None:
        """Queue the requests of entries. What is no usable request goes to the dead entries."""
        shard = self._shards[stream]
        for entry in entries:
            if self._queue.holds(shard, entry.id):
                continue
            self._stats.add("requests")
            try:
                request = request_of(upgraded(entry.fields))
                if request.kind != REQUEST_KLINES and not self._agg_ids:
                    raise ContractError("trades are requested by aggregate ids, which exchange.source = trade has not")
                queued = queued_request(shard, entry.id, entry.fields, request, steady_ms() + self._timings.kept_ms)
            except (ContractError, UnknownInterval) as bad:
                await self._bury([Rejected(stream, entry.id, entry.fields, str(bad))])
                continue
            self._queue.add(queued)
            self._wake.set()

    # Serving.

    async def _work(self) -> None:
        while True:
            job = await self._next_job()
            try:
                await self._serve(job)
            except NotYet:
                self._log.debug("the exchange does not show the end of %s yet", job.requests[0].request.symbol)
                self._stats.add("answers")
                rest_s = min(self._timings.not_yet_s_max, self._timings.not_yet_s * 2.0**job.early)
                self._queue.postpone(job, steady_ms() + rest_s * 1000)
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
        self._log.debug("%d requests are postponed: %s", len(job.requests), trouble)
        self._queue.postpone(job, steady_ms())

    async def _next_job(self) -> Job:
        """The next job that is due, once neither the exchange nor Redis is away."""
        while True:
            await self._exchange_outage.over()
            await self._redis_outage.over()
            if self._clock.synced:
                job = self._queue.next(self._now_ms(), steady_ms())
                if job:
                    return job
            self._wake.clear()
            try:
                async with asyncio.timeout(self._timings.sweep_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _serve(self, job: Job) -> None:
        """All calls of a job that are left, each answer into the feed; then its requests are acknowledged."""
        await self._deliver(job)
        while call := job.pages.call(self._now_ms()):
            if job.is_late(self._now_ms(), steady_ms()):
                await self._expire(job.requests)
                self._queue.done(job)
                return
            answer = await self._request(call)
            job.undelivered = self._read_answer(job, answer)
            await self._deliver(job)
        if job.pages.gone:
            await self._report(job, gone_finding(job.requests[0].request, job.pages.gone, self._now_ms()))
        if job.pages.refused:
            refused = refused_finding(job.requests[0].request, job.pages.refused, self._now_ms())
            await self._report(job, refused, counter="rows_refused", count=len(job.pages.refused))
        await self._ack(job.requests)
        self._queue.done(job)
        self._log.debug("%d requests of %s are served", len(job.requests), job.requests[0].request.symbol)
        self._stats.add("served", len(job.requests))

    async def _report(self, job: Job, *findings: Fields, counter: str = "unrepaired", count: int | None = None) -> None:
        """Report what the exchange did not give, or what cannot be used: in the log, and as findings."""
        for each in findings:
            self._log.warning("%s: %s", each["symbol"], each["evidence"])
        key = Keys(job.requests[0].shard).findings
        await self._writer.write(lambda: [Append(key, each) for each in findings])
        self._stats.add(counter, len(findings) if count is None else count)

    def _read_answer(self, job: Job, answer: Any) -> list[Fields]:
        """The entries of an answer; what they hold is counted."""
        pages = job.pages
        before = pages.trades, pages.klines, pages.missing
        entries = pages.receive(answer, self._now_ms())
        self._stats.add("answers")
        after = pages.trades, pages.klines, pages.missing
        for name, old, new in zip(("trades", "klines", "missing"), before, after, strict=True):
            self._stats.add(name, new - old)
        return entries

    async def _deliver(self, job: Job) -> None:
        """Write the entries of the last answer to the feed. If that fails, or the feed is at its cap (FeedFull), the
        job keeps them."""
        if job.undelivered:
            feed = Keys(job.requests[0].shard).feed
            await self._capacity.measure()
            if feed in self._capacity.full:
                raise self._capacity.full[feed]
            await self._writer.write(lambda: [Append(feed, fields) for fields in job.undelivered])
            job.undelivered = []
        self._redis_outage.worked()

    async def _request(self, call: Call) -> Any:
        answer = await self._rest.get(call.path, call.weight, **call.query)
        self._exchange_outage.worked()
        return answer

    async def _ack(self, requests: Sequence[QueuedRequest]) -> None:
        stream = Keys(requests[0].shard).requests
        await self._consumer.acknowledge({stream: [each.entry_id for each in requests]})

    async def _expire(self, requests: Sequence[QueuedRequest]) -> None:
        """Acknowledge requests that are late: whoever still misses something requests it again."""
        for each in requests:
            await self._ack([each])
        self._stats.add("expired", len(requests))

    async def _give_up(self, job: Job, reason: str) -> None:
        """The exchange will never answer this as it should: to `dead`, and acknowledged."""
        try:
            await self._report(job, *(given_up_finding(each.request, reason, self._now_ms()) for each in job.requests))
            stream = Keys(job.requests[0].shard).requests
            await self._bury([Rejected(stream, each.entry_id, each.raw, reason) for each in job.requests])
        except (RedisUnavailable, RedisRefused) as lost:
            self._postpone(job, self._redis_outage, lost)
            return
        self._queue.done(job)

    async def _bury(self, rejected: Sequence[Rejected]) -> None:
        """Requests of one stream to `dead`, and acknowledged."""
        await self._consumer.bury(rejected)
        await self._consumer.acknowledge({rejected[0].stream: [each.id for each in rejected]})

    async def _sweep(self) -> None:
        """Drop requests that are late, and show how many wait."""
        while True:
            await asyncio.sleep(self._timings.sweep_s)
            if self._clock.synced and (late := self._queue.expire(self._now_ms(), steady_ms())):
                try:
                    await self._expire(late)
                except (RedisUnavailable, RedisRefused) as lost:
                    # They stay pending; once Redis is back they are read again and expire again.
                    self._redis_outage.failed(lost)
            self._stats.show("waiting", len(self._queue))

    def _now_ms(self) -> int:
        return self._clock.now_ms(steady_ms())


def _worth_retrying(status: int) -> bool:
    return status >= 500 or status in WORTH_RETRYING


async def _keep_time(synchroniser: Synchroniser, timings: Timings) -> None:
    while True:
        await synchroniser.once()
        await asyncio.sleep(max(timings.sync_s_min, synchroniser.wait_s))


async def repair(context: AsyncContext, timings: Timings = DEFAULT_TIMINGS) -> None:
    """Body of the process: until it is to stop. Requests that are being served stay pending for the next start."""
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
            timings=timings,
        )
        body = Repair(context, reading, writing, rest, clock, timings)
        await until_stopping(context, context.together({**body.tasks(), "time": _keep_time(synchroniser, timings)}))
    await reading.close()
    await writing.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Console script klagg-repair; the exit code."""
    return run_async(
        PROCESS,
        "Serves requests for missing trades and klines from the exchange's REST API.",
        repair,
        argv=argv,
        flow=Flow("calls", "answers"),
    )


if __name__ == "__main__":
    sys.exit(main())

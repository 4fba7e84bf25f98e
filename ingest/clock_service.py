"""klagg-clock: ticks of the exchange's time, listings and triggers, planned by APScheduler. A thin shell.

Jobs are coroutines on one event loop. APScheduler hides an error of a job (it only logs it); here any error ends the
process.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, JobExecutionEvent, JobSubmissionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

from ingest.clock import TickTime, WallClockMonitor, tick_s
from ingest.control_connection import ControlConnection
from ingest.exchange_info import ExchangeInfoKeeper, Hashes
from ingest.listed import note_words
from ingest.sequenced_writer import SequencedWriter
from ingest.session import ConnectionOptions
from ingest.synchroniser import Synchroniser
from ingest.timings import DEFAULT_TIMINGS, Timings
from ingest.universe import CONTRACT_TYPE, STATUS, Answer, Doubts, Universe, chosen_news
from klagg.backoff import Backoff
from klagg.binance.endpoints import CONTRACT_INFO
from klagg.binance.payloads import ContractNews, last_fills_of
from klagg.binance.rest_client import ExchangeRest
from klagg.binance.weight_account import ROLE_CLOCK, HastyGate
from klagg.clock import ExchangeClock, local_ms, steady_ms
from klagg.drivers.redis_streams import Append
from klagg.errors import ExchangeRefused, ExchangeUnavailable, KlaggError, RedisRefused, RedisUnavailable
from klagg.intervals import MINUTE_MS
from klagg.process.alarms import MOMENT_MS, AlarmKind
from klagg.process.service import AsyncContext, run_async
from klagg.process.unknown_words import UnknownWords
from klagg.wire.entries import (
    BY_TICKER,
    TRADE_IDS,
    TRIGGER_DAYS,
    TRIGGER_RETENTION,
    TRIGGER_SNAPSHOT,
    Listing,
    Witness,
    listing_entries,
    tick_entry,
    trigger_entry,
    witness_entries,
)
from klagg.wire.keys import CLOCK_KEY, Keys, shard_of

SYNC: Final = "sync"
TICK: Final = "tick"
LISTINGS: Final = "listings"
STATUSES: Final = "statuses"
EXCHANGE_INFO: Final = "exchange_info"
WITNESSES: Final = "witnesses"

TRIGGERS_KEPT: Final = 1000


class ClockJobs:
    """The jobs of the clock process and their schedule."""

    def __init__(
        self,
        context: AsyncContext,
        rest: ExchangeRest,
        writer: SequencedWriter,
        hashes: Hashes,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        self._context, self._rest, self._writer, self._timings = context, rest, writer, timings
        self._settings, self._stats, self._log = context.settings, context.stats, context.log
        self._clock = ExchangeClock()
        self._exchange_info = ExchangeInfoKeeper(hashes, context.writer, self._clock)
        self._tick_time = TickTime(steady_ms(), timings)
        self._synchroniser = Synchroniser(
            rest,
            self._clock,
            sync_s=self._settings.clock.sync_s,
            lost_s=self._settings.clock.lost_s,
            stats=self._stats,
            log=self._log,
            timings=timings,
        )
        self._backoff = Backoff(timings.listings_retry_first_s, timings.listings_retry_cap_s, random.random)
        self._ticking_s = tick_s(self._settings.clock.tick_ms, 1.0)
        self._dropping = False
        self._unsynced_logged = False
        self._universe = Universe(timings)
        self._publishing: set[asyncio.Task[None]] = set()
        self._doubts = Doubts(timings)
        self._control = ControlConnection(
            "clock0",
            self._settings,
            ConnectionOptions("klagg-clock", self._settings.exchange.proxy, timings=timings),
            (CONTRACT_INFO,),
            on_news=self.news,
            stats=self._stats,
            log=self._log,
        )
        self._listed = False
        self._witnessed_minute = 0
        self._witnessed_s = -timings.witnesses_s
        self._written: dict[str, Listing] = {}
        self._malformed: frozenset[str] = frozenset()
        self._words = UnknownWords(self._stats, self._log, STATUS, CONTRACT_TYPE)
        context.position = self._position
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # A tick that is late is still the newest one; several that are late are one.
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
        )

    def _position(self) -> str:
        ticks, names = self._stats.counters.get("ticks", 0), len(self._universe.names)
        return (
            f"{ticks} ticks were written, the last of {self._tick_time.last_ms} (exchange ms); the last exchangeInfo "
            f"lists {names} symbols, and nothing is left"
        )

    async def run(self) -> None:
        """Run the schedule until asked to stop; the first unexpected error of a job, or a KlaggError, is raised."""
        clock = self._settings.clock
        self._scheduler.add_listener(self._on_error, EVENT_JOB_ERROR)
        self._scheduler.add_listener(self._on_skipped, EVENT_JOB_MAX_INSTANCES)
        self._plan(SYNC, self.sync, clock.sync_s, at_once=True)
        self._plan(LISTINGS, self.listings, clock.listings_s, at_once=True)
        self._plan(STATUSES, self.statuses, clock.statuses_s)
        self._plan(TRIGGER_SNAPSHOT, self.snapshot, clock.snapshot_s)
        self._plan(TRIGGER_RETENTION, self.retention, clock.retention_s, at_once=True)
        self._plan(TRIGGER_DAYS, self.days, clock.days_s)
        self._plan(EXCHANGE_INFO, self.exchange_info, self._timings.restore_s)
        if clock.witness_after_ms:
            self._plan(WITNESSES, self.witnesses, self._timings.supervise_s)
        self._plan(TICK, self.tick, self._ticking_s)
        self._scheduler.start()
        try:
            await self._supervise()
        finally:
            self._scheduler.shutdown(wait=False)
            await asyncio.sleep(0)  # APScheduler shuts down in the loop's next turn

    async def sync(self) -> None:
        """One round trip to the exchange's clock; then the interval of ticks follows the speed of that clock."""
        await self._synchroniser.once()
        if self._synchroniser.wait_s != self._settings.clock.sync_s:
            self._again(SYNC, self._synchroniser.wait_s)
        ticking_s = tick_s(self._settings.clock.tick_ms, self._clock.speed)
        if ticking_s != self._ticking_s:
            self._ticking_s = ticking_s
            self._scheduler.reschedule_job(TICK, trigger=IntervalTrigger(seconds=ticking_s, timezone=UTC))
            self._log.info("the exchange's clock runs at ×%g: a tick every %.1f ms", self._clock.speed, ticking_s * 1e3)

    async def tick(self) -> None:
        """Write the exchange's time to every shard. A tick that Redis does not accept is dropped: the next one is
        newer."""
        if not self._may_tick():
            return
        try:
            await self._writer.write(self._tick_entries)
        except (RedisUnavailable, RedisRefused) as trouble:
            self._drop("ticks_dropped", trouble)
            return
        self._stats.add("ticks")
        if self._dropping:
            self._log.warning("Redis takes ticks again")
            self._dropping = False

    async def snapshot(self) -> None:
        """Write the trigger for writers of bars in progress; dropped like a tick if Redis does not accept it."""
        await self._trigger(TRIGGER_SNAPSHOT)

    async def retention(self) -> None:
        """Write the trigger for dropping old rows, for the first time as soon as ticks may be sent."""
        if not await self._trigger(TRIGGER_RETENTION):
            self._again(TRIGGER_RETENTION, self._timings.retention_retry_s)

    async def days(self) -> None:
        """Write the trigger for counting days anew. If it is dropped, the next one does the same work."""
        await self._trigger(TRIGGER_DAYS)

    async def _trigger(self, name: str) -> bool:
        """Write a trigger; whether that could be done."""
        if not self._may_tick():
            return False
        try:
            await self._writer.write(
                lambda: [Append(CLOCK_KEY, trigger_entry(name, self._next_ms()), maxlen=TRIGGERS_KEPT)]
            )
        except (RedisUnavailable, RedisRefused) as trouble:
            self._drop("triggers_dropped", trouble)
            return False
        self._stats.add("triggers")
        return True

    async def listings(self) -> None:
        """Write all symbols to their shards; tried again until both the exchange and Redis answer."""
        await self._list(LISTINGS, everything=True)

    async def statuses(self) -> None:
        """Write the symbols whose listing is another one than was written last, so that a halt is known soon."""
        if self._listed:
            await self._list(STATUSES, everything=False)

    async def _list(self, job: str, *, everything: bool) -> None:
        exchange = self._settings.exchange
        try:
            asked_ms = steady_ms()
            info, body = await self._rest.exchange_info_as_sent()
            self._doubts.requested(monotonic())
            answer = self._universe.read(info, exchange, steady_ms())
            self._doubts.answered(self._universe, exchange)
            self._note_answer(answer)
            listings = [*self._doubts.with_news(answer.chosen.listings), *self._universe.gone.values()]
            changed = listings if everything else [each for each in listings if self._written.get(each.symbol) != each]
            await self._writer.write(lambda: self._listing_entries(changed))
            await self._exchange_info.keep(body, self._universe.listed, asked_ms)
        except (ExchangeUnavailable, ExchangeRefused, RedisUnavailable, RedisRefused) as trouble:
            retry_after_s = trouble.retry_after_s if isinstance(trouble, ExchangeRefused) else 0.0
            delay_s = max(self._backoff.next_s(), min(retry_after_s, self._timings.listings_retry_cap_s))
            self._log.warning("no listings, next try in %.1f s: %s", delay_s, trouble)
            self._again(job, delay_s)
            return
        self._listed = True
        self._written = {each.symbol: each for each in listings}
        self._backoff.reset()
        self._stats.add("listings")
        self._stats.show("symbols", len(answer.chosen.listings))
        if self._universe.doubtful:
            self._again(LISTINGS, min(self._settings.clock.listings_s, self._timings.confirm_s))

    async def exchange_info(self) -> None:
        """Write the last exchangeInfo again where Redis has lost it: the next one may be an hour away."""
        try:
            await self._exchange_info.restore()
        except (RedisUnavailable, RedisRefused):
            self._stats.add("exchange_info_dropped")  # `tick` logs why

    async def witnesses(self) -> None:
        """Once a minute of the exchange, `witness_after_ms` after its beginning: write which fill was the last one of
        every symbol. If that cannot be done, the next minute's answer says more."""
        now_ms, now_s = self._clock.now_ms(steady_ms()), monotonic()
        minute, within_ms = divmod(now_ms, MINUTE_MS)
        early = within_ms < self._settings.clock.witness_after_ms or minute == self._witnessed_minute
        if early or not (self._clock.synced and self._listed) or now_s - self._witnessed_s < self._timings.witnesses_s:
            return
        self._witnessed_minute, self._witnessed_s = minute, now_s
        try:
            # The time is that of the request, because a fill that came later need not be in the answer.
            found = last_fills_of(await self._rest.day_tickers())
            listed = [Witness(name, last, now_ms) for name, last in sorted(found.items()) if name in self._written]
            await self._writer.write(lambda: self._witness_entries(listed))
        except (ExchangeUnavailable, ExchangeRefused, RedisUnavailable, RedisRefused) as trouble:
            self._stats.add("witness_failures")
            self._log.debug("no witnesses for this minute: %s", trouble)
            return
        self._stats.add("witnesses", len(listed))

    def news(self, news: ContractNews) -> None:
        """The exchange published news of a contract: the news of a known one are written at once.

        exchangeInfo is requested a moment later, and again while its answers do not confirm the news.
        """
        if not chosen_news(news, self._universe, self._settings.exchange):
            return
        self._log.info("the exchange says that %s is %s now", news.symbol, news.status)
        self._doubts.news(news, monotonic())
        for listing in self._doubts.with_news(filter(None, [self._universe.known.get(news.symbol)])):
            task = asyncio.create_task(self._publish(listing), name=f"listing of {listing.symbol}")
            self._publishing.add(task)
            task.add_done_callback(self._on_published)

    async def _publish(self, listing: Listing) -> None:
        try:
            await self._writer.write(lambda: self._listing_entries([listing]))
        except (RedisUnavailable, RedisRefused) as trouble:
            self._log.warning("the news of %s could not be written yet: %s", listing.symbol, trouble)

    def _on_published(self, task: asyncio.Task[None]) -> None:
        self._publishing.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._failure.done():
            self._failure.set_exception(error)

    def _raise_halts(self) -> None:
        """Raise and clear the alarms of the last answer: symbols that are halted, and a choice that is not there."""
        alarms, halted = self._stats.alarms, self._universe.halted
        for name, status in halted.items():
            sentence = f"the exchange lists {name} as {status}: it stays as it is, its bars go on, also without trades"
            alarms.raise_(AlarmKind.HALTED, sentence, name)
        alarms.keep(AlarmKind.HALTED, halted)
        self._stats.show("halted_symbols", len(halted))
        if why := self._universe.waits:
            sentence = f"{why}: klagg waits for what is not there, and carries it when it comes"
            alarms.raise_(AlarmKind.WAITING, sentence)
        else:
            alarms.clear(AlarmKind.WAITING)

    def _note_answer(self, answer: Answer) -> None:
        """Tell what an answer of exchangeInfo has that a person should know."""
        for name in answer.vanished:
            self._stats.add("vanished_listings")
            self._log.warning("%s is no longer listed, and the exchange never said that it is over: it ends now", name)
        for problem in answer.chosen.malformed:
            if problem not in self._malformed:
                self._stats.add("malformed_listings")
                self._log.warning("left out: %s", problem)
        self._malformed = frozenset(answer.chosen.malformed)
        self._raise_halts()
        note_words(self._words, answer.words)

    def _may_tick(self) -> bool:
        may = self._tick_time.may_tick(steady_ms(), synced=self._clock.synced)
        if may and not self._clock.synced and not self._unsynced_logged:
            self._log.warning("the exchange's clock cannot be read: ticks follow this machine's clock")
            self._unsynced_logged = True
        return may

    def _next_ms(self) -> int:
        estimate_ms = self._clock.now_ms(steady_ms())
        behind_ms = self._tick_time.went_back_ms(estimate_ms, self._clock.speed)
        if behind_ms > 0:
            self._stats.add("time_went_back")
            sentence = (
                f"the exchange's time went back by {behind_ms} ms: ticks stand still, and nothing is closed by the "
                "clock until it has caught up"
            )
            self._stats.alarms.raise_(AlarmKind.TIME_WENT_BACK, sentence)
        elif behind_ms:
            self._stats.alarms.clear(AlarmKind.TIME_WENT_BACK)
            self._log.warning("the exchange's time has caught up: ticks go on")
        time_ms = self._tick_time.next_ms(estimate_ms)
        self._stats.show("ticks_held_ms", time_ms - estimate_ms)
        return time_ms

    def _tick_entries(self) -> list[Append]:
        fields = tick_entry(self._next_ms())
        return [Append(Keys(shard).feed, fields) for shard in range(self._settings.shards)]

    def _listing_entries(self, listings: Sequence[Listing]) -> list[Append]:
        shards = self._settings.shards
        return [
            Append(Keys(shard).feed, fields)
            for shard in range(shards)
            for fields in listing_entries([each for each in listings if shard_of(each.symbol, shards) == shard])
        ]

    def _witness_entries(self, witnesses: Sequence[Witness]) -> list[Append]:
        shards = self._settings.shards
        return [
            Append(Keys(shard).feed, fields)
            for shard in range(shards)
            for fields in witness_entries(
                [each for each in witnesses if shard_of(each.symbol, shards) == shard], ids=TRADE_IDS, source=BY_TICKER
            )
        ]

    def _drop(self, counter: str, trouble: KlaggError) -> None:
        self._stats.add(counter)
        if not self._dropping:
            self._log.warning("%s; ticks and triggers are dropped meanwhile", trouble)
        self._dropping = True

    def _plan(self, name: str, job: Callable[[], Awaitable[None]], every_s: float, *, at_once: bool = False) -> None:
        first = {"next_run_time": datetime.now(UTC)} if at_once else {}
        trigger = IntervalTrigger(seconds=every_s, timezone=UTC)
        self._scheduler.add_job(job, trigger, id=name, name=name, **first)

    def _again(self, name: str, delay_s: float) -> None:
        """Run a job earlier than planned; from then on its interval counts anew."""
        self._scheduler.modify_job(name, next_run_time=datetime.now(UTC) + timedelta(seconds=delay_s))

    def _on_error(self, event: JobExecutionEvent) -> None:
        if not self._failure.done() and isinstance(event.exception, Exception):
            self._failure.set_exception(event.exception)

    def _on_skipped(self, event: JobSubmissionEvent) -> None:
        """A job was due while its last run was not done: Redis or the exchange takes its time."""
        self._stats.add(f"{event.job_id}_skipped")

    async def _supervise(self) -> None:
        """Wait for the end, and watch over the wall clock meanwhile: APScheduler plans by it and would sleep on.

        A wall clock set back by an hour would otherwise stop all ticks for that hour.
        """
        stop = asyncio.create_task(self._context.stopping.wait())
        watch = asyncio.create_task(self._control.run(), name="news")
        ends: set[asyncio.Future[Any]] = {stop, self._failure, watch}
        wall = WallClockMonitor(local_ms(), steady_ms())
        try:
            while not stop.done():
                await asyncio.wait(ends, timeout=self._timings.supervise_s, return_when=asyncio.FIRST_COMPLETED)
                if self._failure.done():
                    self._failure.result()
                if watch.done():
                    watch.result()
                for name in self._doubts.overdue(monotonic()):
                    self._log.warning("exchangeInfo does not confirm what the exchange published about %s", name)
                if self._doubts.due(monotonic()):
                    self._doubts.requested(monotonic())
                    self._again(LISTINGS, 0.0)
                step_ms = wall.step_ms(local_ms(), steady_ms())
                if step_ms:
                    sentence = f"this machine's clock was set by {step_ms:.0f} ms; all jobs begin anew"
                    self._stats.alarms.raise_(AlarmKind.WALL_CLOCK_SET, sentence, lasting_ms=MOMENT_MS)
                    for name in (SYNC, TICK, LISTINGS, STATUSES, TRIGGER_SNAPSHOT, TRIGGER_RETENTION, TRIGGER_DAYS):
                        self._again(name, 0.0)
        finally:
            for task in (stop, watch, *self._publishing):
                task.cancel()
            await asyncio.gather(stop, watch, *self._publishing, return_exceptions=True)


async def clock(context: AsyncContext, timings: Timings = DEFAULT_TIMINGS) -> None:
    """Body of the process: until it is asked to stop. KlaggError, or an unexpected error of a job, ends it."""
    # The listeners report a job's error and skipped runs better than what these two would log.
    logging.getLogger("apscheduler.executors").setLevel(logging.CRITICAL)
    logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
    streams = context.connect()
    await streams.ping()
    exchange = context.settings.exchange
    gate = HastyGate(streams, ROLE_CLOCK, context.settings.rest, context.stats)
    async with ExchangeRest(exchange.rest_url, gate=gate, proxy=exchange.proxy, agent="klagg-clock") as rest:
        await ClockJobs(context, rest, SequencedWriter(streams, context.writer), streams, timings).run()
    await streams.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Console script klagg-clock; the exit code."""
    return run_async("clock", "Writes ticks, listings and triggers to Redis.", clock, argv=argv)


if __name__ == "__main__":
    sys.exit(main())

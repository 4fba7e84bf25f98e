"""klagg-auditor-exchange: every closed kline of every listed symbol against the exchange's own. A thin shell.

One call after the other, paced to use no more than audit.weight_per_minute of the REST weight. What a crash leaves
after each step of a look:

1. The exchange has answered, nothing is written: the next start repeats the look.
2. Findings, requests and claims about edges are in Redis: the next start repeats the look and publishes the same
   findings, with the same ids; a second request for the same rows, and a second claim, change nothing.
3. The day counts are in the database and say how far the series was audited: done.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from auditors.classify import ADOPTED, VERDICTS, puzzling
from auditors.exchange import DATABASE, EXCHANGE, PROCESS, ExchangeAudit, LookResult
from auditors.exchange_store import ExchangeStore
from auditors.findings import FINDING_ENTRIES, Finding, count, count_from_zero
from auditors.schedule import Look
from auditors.stream_service import wait_until_stopped_async
from klagg.backoff import Backoff
from klagg.binance.kline_rows import KLINES_PATH, Malformed, RefusedRow, klines_of, values_of_row
from klagg.binance.payloads import contracts_of
from klagg.binance.rest_client import ExchangeRest
from klagg.binance.weight_account import ROLE_AUDIT, PatientGate, audit_share
from klagg.clock import ExchangeClock, steady_ms
from klagg.drivers.redis_streams import Append, AsyncStreams
from klagg.errors import ConfigError, DatabaseUnavailable, ExchangeRefused, ExchangeUnavailable, KlaggError
from klagg.process.service import AsyncContext, run_async, until_stopping
from klagg.process.stats import Flow
from klagg.wire.entries import BarKey, Request, again_entries, edges_entry, request_entry
from klagg.wire.fields import Fields, stamp
from klagg.wire.findings import Severity
from klagg.wire.keys import Keys, shard_of

REST_TIMEOUT_MS: Final = 20_000

CLOCK_S: Final = 60.0
"""Time between two requests of the exchange's clock (weight 1)."""
HELD_S: Final = 2.0
"""The same while a simulator holds its clock."""
LISTINGS_S: Final = 120.0
"""Time between two requests of the listings (weight 1): shorter than HEAL_MS, so that the end of a symbol is known
before its missing bars would be reported."""
STORED_S: Final = 5.0
PLACE_MS: Final = 30_000
"""Exchange time between two queries of the table for the beginnings of series."""
AMENDED_REACH_MS: Final = 40 * 24 * 3_600_000
IDLE_S: Final = 0.5
"""How long to wait when nothing is due."""

STORED_REACH_MS: Final = 24 * 3_600_000
"""How far back the newest final minute is searched for in the table."""

RETRY_FIRST_S: Final = 1.0
RETRY_CAP_S: Final = 60.0
TRIES_REPORTED: Final = 3
"""The number of failures in a row at which a finding is published."""

TEMPORARY_STATUSES: Final = frozenset({403, 408, 418, 429})
"""HTTP statuses below 500 that refuse every request for now, not this one request."""
INVALID_SYMBOL: Final = -1121

LEVELS: Final = {Severity.INFO: logging.INFO, Severity.ERROR: logging.ERROR}

T = TypeVar("T")


class ExchangeAuditor:
    """The loop. `run` until cancelled; errors of Redis end it, while the exchange or the database is away it waits."""

    def __init__(self, context: AsyncContext, streams: AsyncStreams, rest: ExchangeRest, store: ExchangeStore) -> None:
        self._context, self._streams, self._rest, self._store = context, streams, rest, store
        self._settings, self._stats = context.settings, context.stats
        self.audit = ExchangeAudit(context.settings)
        self._clock = ExchangeClock()
        self._executor = ThreadPoolExecutor(1, "auditor-database")
        self._outages = {what: SourceOutage(self, what) for what in (EXCHANGE, DATABASE)}
        self._numbers: Counter[str] = Counter()
        self._restored = False
        self._stored_ms: int | None = None
        self._clock_s = self._listings_s = self._stored_s = 0.0
        self._place_ms = 0
        self._summary_s = time.monotonic()
        count_from_zero(self._stats)
        for kind in (*VERDICTS, ADOPTED):  # Prometheus sees growth only of a series that it has scraped before
            self._stats.add("verdicts", 0, verdict=kind)
        self._last = "none"
        """The last look, for the last line of the log."""
        context.position = lambda: (
            f"{self._stats.counters.get('looks', 0)} looks were taken, the last at {self._last}; "
            f"{self._stats.gauges.get('open_findings', 0)} findings are open, and the next start goes on from the table"
        )

    @property
    def now_ms(self) -> int:
        """Exchange time in ms."""
        return self._clock.now_ms(steady_ms())

    async def run(self) -> None:
        """One look after the other, at the pace that audit.weight_per_minute allows."""
        while True:
            began_s = time.monotonic()
            try:
                pause_s = await self._turn()
            except (ExchangeUnavailable, ExchangeRefused) as lost:
                pause_s = await self._outages[EXCHANGE].failed(lost)
            except DatabaseUnavailable as lost:
                pause_s = await self._outages[DATABASE].failed(lost)
            self._show_stats()
            await asyncio.sleep(max(0.0, pause_s - (time.monotonic() - began_s)))

    async def _turn(self) -> float:
        """Do what is due and one look; returns how long all of it should take (s)."""
        now_s = time.monotonic()
        if now_s >= self._clock_s:
            await self._rest.synchronise(self._clock)
            self.audit.speed = self._clock.speed
            self._stats.add("answers")
            self._clock_s = now_s + (CLOCK_S if self._clock.speed else HELD_S)
            await self._outages[EXCHANGE].worked()
        if not self._restored:
            await self._restore()
        if now_s >= self._listings_s:
            await self._update_listings()
            self._listings_s = now_s + LISTINGS_S
        if now_s >= self._stored_s:
            since_ms = self._stored_ms or self.now_ms - STORED_REACH_MS
            self._stored_ms = await self._query(lambda: self._store.newest_minute(since_ms)) or self._stored_ms
            self._stored_s = now_s + (STORED_S if self._clock.speed <= 1 else IDLE_S)
            await self._amended()
            await self._outages[DATABASE].worked()
        await self._place()
        look = self.audit.next(self.now_ms, self._stored_ms) if self._stored_ms else None
        if look is None:
            return IDLE_S
        await self._look(look)
        return look.weight * 60 / self._settings.audit.weight_per_minute

    async def _restore(self) -> None:
        """Restore the day counts and the open findings from before this start."""
        for symbol, interval, counts in await self._query(lambda: self._store.day_counts(self.now_ms)):
            self.audit.restore(symbol, interval, counts)
        ids = {f"0:{name}": what for name, what in self.audit.own_finding_ids().items()}
        still_open = await self._query(lambda: self._store.open_of(ids))
        self.audit.restore_own_findings(ids[each] for each in still_open)
        self._restored = True

    async def _update_listings(self) -> None:
        choice = self._settings.exchange
        info = await self._rest.exchange_info()
        self._stats.add("answers")
        listed = contracts_of(info)
        chosen = [
            each.listing
            for name, each in listed.by_name.items()
            if (not choice.symbols or name in choice.symbols) and each.fits(choice.quote_assets, choice.contract_types)
        ]
        self.audit.update_listings(sorted(chosen, key=lambda each: each.symbol), self.now_ms, listed.names)

    async def _amended(self) -> None:
        """Take in recent amendments, as far back as an aggregator can amend the longest bars."""
        amended, oldest_ms = self.audit.amended, self.now_ms - AMENDED_REACH_MS
        found = await self._query(lambda: self._store.amended(self.audit.intervals, oldest_ms, amended.since_ms))
        amended.note(found, self.audit.schedule)

    async def _place(self) -> None:
        if self.now_ms < self._place_ms or not self.audit.unplaced:
            return
        unplaced, now_ms = self.audit.unplaced, self.now_ms
        since_ms = [self.audit.reach_ms(each.symbol, now_ms) for each in unplaced]
        found = await self._query(lambda: self._store.first_bars(unplaced, since_ms))
        self.audit.place(found, now_ms)
        self._place_ms = now_ms + PLACE_MS

    async def _look(self, look: Look) -> None:
        """One look, in the steps of the module's docstring."""
        now_ms = self.now_ms
        self._last = f"{look.symbol} {look.interval.name} {look.start_ms}"
        try:
            answer = await self._rest.get(
                KLINES_PATH,
                look.weight,
                symbol=look.symbol,
                interval=look.interval.name,
                startTime=look.start_ms,
                endTime=look.end_ms - 1,
                limit=look.rows,
            )
            found = klines_of(answer, look.interval, look.start_ms, look.rows)
        except Malformed as bad:
            self._stats.add("malformed")
            self._refused(look, str(bad), unknown=False)
            return
        except ExchangeRefused as refused:
            if refused.status >= 500 or refused.status in TEMPORARY_STATUSES:
                raise
            self._stats.add("refused")
            self._refused(look, str(refused), unknown=refused.code == INVALID_SYMBOL)
            return
        self._stats.add("answers")
        await self._outages[EXCHANGE].worked()
        ours = await self._query(lambda: self._store.klines(look))
        theirs = {row[0]: values_of_row(row) for row in found.rows}
        impossible = self._note_refused(look, found.refused)
        puzzles = puzzling(look.interval, ours, theirs)
        minutes = await self._query(lambda: self._store.minutes_of(look, puzzles)) if puzzles else None
        outcome = self.audit.judge(look, ours, theirs, now_ms, minutes, impossible)
        rows = {row[0]: row for row in found.rows}
        edges = [edges_entry(look.symbol, [rows[opening] for opening in opens]) for opens in outcome.edges]
        await self._write(outcome.findings, outcome.requests, outcome.again, {look.symbol: edges})
        await self._query(lambda: self._store.record(look, outcome.judged, now_ms))
        self._count(look, outcome)

    def _note_refused(self, look: Look, rows: Sequence[RefusedRow]) -> dict[int, str]:
        """Count and log rows that cannot be klines; why, by the open times (exchange ms) that are known."""
        for each in rows:
            self._stats.add("rows_refused")
            self._context.log.warning("%s %s: a row of the exchange is refused: %s", *look.key, each.reason)
        return {each.open_ms: each.reason for each in rows if each.open_ms is not None}

    def _refused(self, look: Look, why: str, *, unknown: bool) -> None:
        self._context.log.warning("%s %s is not compared for a while: %s", *look.key, why)
        self.audit.refused(look, self.now_ms, unknown=unknown)

    async def _write(
        self,
        findings: Sequence[Finding],
        requests: Sequence[Request],
        again: Sequence[BarKey] = (),
        edges: Mapping[str, Sequence[Fields]] | None = None,
    ) -> None:
        """Append findings and requests to the streams of their symbols' shards, and to the feeds what is to be said
        again and the claims about `edges` (entries by symbol); findings of no symbol go to the first shard's."""
        lost: dict[str, list[BarKey]] = {}
        for bar in again:
            lost.setdefault(self._keys(bar[0]).feed, []).append(bar)
        writes = [
            *(self._append(self._keys(each.symbol).findings, each.to_fields(), FINDING_ENTRIES) for each in findings),
            *(self._append(feed, fields, 0) for feed, bars in lost.items() for fields in again_entries(bars)),
            *(self._append(self._keys(name).feed, each, 0) for name, some in (edges or {}).items() for each in some),
            *(self._append(self._keys(each.symbol).requests, request_entry(each), 0) for each in requests),
        ]
        if writes:
            await self._streams.append_all(writes)
        count(self._stats, findings)
        for each in findings:
            level = logging.INFO if each.closed else LEVELS.get(each.severity, logging.WARNING)
            what = "closed" if each.closed else each.severity
            self._context.log.log(level, "%s %s %s %s: %s", what, each.kind, each.symbol, each.place, each.evidence)
        self._stats.add("requests", len(requests))
        self._stats.add("asked_again", len(again))
        self._stats.add("edges_claimed", sum(map(len, (edges or {}).values())))

    def _keys(self, symbol: str) -> Keys:
        return Keys(shard_of(symbol, self._settings.shards) if symbol else 0)

    def _append(self, key: str, fields: Fields, maxlen: int) -> Append:
        self._numbers[key] += 1
        return Append(key, stamp(fields, self._context.writer, self._numbers[key]), maxlen)

    async def report_unreachable(self, what: str, why: str) -> None:
        """Publish once that `what` cannot be reached (`why`), or can be reached again (an empty `why`)."""
        await self._write(self.audit.unreachable(what, why, self.now_ms), ())

    async def _query(self, question: Callable[[], T]) -> T:
        """Run a query in the database's thread, so that the heartbeat goes on."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, question)

    def _count(self, look: Look, outcome: LookResult) -> None:
        self._stats.add("looks")
        for each in outcome.judged:
            self._stats.add("looks_again" if look.again else "bars")
            self._stats.add("verdicts", verdict=each.kind)

    def _show_stats(self) -> None:
        now_ms, schedule = self.now_ms, self.audit.schedule
        self._stats.show("oldest_ms", schedule.oldest_ms(now_ms))
        self._stats.show("lap_ms", schedule.lap_ms)
        self._stats.show("lap_percent", schedule.lap_percent)
        self._stats.show("laps", schedule.laps)
        self._stats.show("series", len(schedule.series))
        self._stats.show("open_findings", len(self.audit.open_findings))
        for name, age_ms in schedule.ages_ms(now_ms).items():
            self._stats.show("unaudited_ms", age_ms, interval=name)
        now_s = time.monotonic()
        if now_s - self._summary_s >= self._settings.audit.summary_s:
            self._summary_s = now_s
            self.summarise()

    def summarise(self) -> None:
        """Log the summary."""
        weight = self._stats.counters.get("weight", 0)
        self._context.log.info("summary: %s; weight %d", self.audit.summary(self.now_ms), weight)

    def close(self) -> None:
        """Close the connection to the database, after the query that runs."""
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._store.close()


class SourceOutage:
    """Retries of something that may be away: how long to wait, and when to publish a finding about it."""

    def __init__(self, auditor: ExchangeAuditor, what: str) -> None:
        self._auditor, self._what = auditor, what
        self._backoff = Backoff(RETRY_FIRST_S, RETRY_CAP_S, random.random)

    async def failed(self, trouble: KlaggError) -> float:
        """It failed; returns how long to wait (s). The gate keeps the pauses that the exchange itself demands."""
        pause_s = self._backoff.next_s()
        if self._backoff.tries == TRIES_REPORTED:
            await self._auditor.report_unreachable(self._what, str(trouble))
        return pause_s

    async def worked(self) -> None:
        """It works: reset the retries and close the finding."""
        self._backoff.reset()
        await self._auditor.report_unreachable(self._what, "")


async def body(context: AsyncContext) -> None:
    """Audit until asked to stop."""
    settings = context.settings
    if not settings.audit.full:
        await wait_until_stopped_async(context)
        return
    if not settings.database.enabled:
        raise ConfigError("database.enabled is false, so there are no klines to compare: do not start this process")
    streams = context.connect()
    await streams.ping()
    gate = PatientGate(
        streams, ROLE_AUDIT, settings.rest, context.stats, share=audit_share(settings.rest, settings.audit)
    )
    store = ExchangeStore(settings.database.url, f"klagg-{context.process}")
    async with ExchangeRest(
        settings.exchange.rest_url, timeout_ms=REST_TIMEOUT_MS, gate=gate, proxy=settings.exchange.proxy
    ) as rest:
        auditor = ExchangeAuditor(context, streams, rest, store)
        try:
            await until_stopping(context, auditor.run())
        finally:
            auditor.summarise()
            auditor.close()
    await streams.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; the exit code."""
    what = "Compare every closed kline with the exchange's own, and explain what differs."
    return run_async(PROCESS, what, body, argv=argv, flow=Flow("calls", "answers"))


if __name__ == "__main__":
    sys.exit(main())

"""klagg-writer-final: every kline of `klines:{n}` into the table, acknowledged only after its commit.

One batch is settled in three steps. `klagg.process.group_consumer` says why none of them loses an entry. What a crash
after each of them leaves:

1. The rows are committed. Before that, the entries are pending in Redis and nothing is in the table. After it, they
   are still pending: the next start reads them again, and the upsert finds their versions already there.
2. Poison entries are appended to `dead:{n}`. A crash after it leaves them pending as well, so a second copy may follow.
3. Everything is acknowledged.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from klagg.backoff import Backoff
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Entry
from klagg.errors import ConfigError, ContractError, DatabaseUnavailable, RedisRefused, RedisUnavailable
from klagg.process import service
from klagg.process.group_consumer import PAGE_ENTRIES, GroupConsumer, Rejected
from klagg.process.service import Context
from klagg.process.stats import Flow
from klagg.wire.entry_id import BEFORE_FIRST, next_id
from klagg.wire.keys import GROUP_WRITERS, Keys
from writers.batch import Accepted, KlineBatch
from writers.kline_entries import kline_of
from writers.klines_sequence import KlinesSequence, SequenceGap
from writers.lost_klines import LostKlines
from writers.store import Store

PROCESS: Final = "writer-final"

REDIS_FIRST_S: Final = 0.2
REDIS_CAP_S: Final = 5.0
REDIS_FAILURES_MAX: Final = 8
"""Failures in a row after which the writer ends: about 15 s."""

LAG_EVERY_MS: Final = 1_000
AHEAD_EVERY_MS: Final = 20
"""How long nothing more is read ahead after a read that came back short."""

LEFT_MAX: Final = 10_000
"""Up to here entries are counted that another writer was given."""

EXIT_LEFT: Final = 3
"""The exit code of a clean end that left entries unwritten; they are still in Redis."""


def _now_ms() -> float:
    return time.monotonic() * 1000


class FinalWriter:
    """Consumes `klines:{n}` of every shard in the group `writers`; the consumer is named after the process."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context = context
        self._streams = context.connect()
        shards = [Keys(shard) for shard in range(settings.shards)]
        self._consumer = GroupConsumer(context, self._streams, GROUP_WRITERS, {keys.klines: keys for keys in shards})
        self._block_ms = settings.redis.block_ms
        self._batch, self._ahead = self._new_batch(), self._new_batch()
        database = Database(
            settings.database.url, application=f"klagg-{context.process}", while_waiting=self._while_waiting
        )
        self._store = Store(context, database)
        self._lag_at_ms = self._ahead_at_ms = 0.0
        self._sequence = KlinesSequence()
        self._lost = LostKlines(context, self._streams, self._store, {keys.klines: keys for keys in shards})
        self._begun = False
        self._resumed: dict[str, str] = {}
        """By stream, the id that the group was given last, where nothing is left of the stream up to it."""
        self._usable = False
        self._reading_ahead = False
        self._left: int | None = None
        context.position = self._position

    def _position(self) -> str:
        stats = self._context.stats
        read, last = stats.counters.get("entries", 0), stats.gauges.get("last", "none")
        left = "how many entries are left is not known" if self._left is None else f"{self._left} entries are left"
        return f"{read} entries were read, the last kline stored is {last}; {left} in Redis"

    def _new_batch(self) -> KlineBatch:
        persistence = self._context.settings.persistence
        return KlineBatch(persistence.finalized_buffer_size, persistence.finalized_flush_interval_ms)

    def run(self) -> int:
        """Work until asked to stop, then write what is left; how many entries nobody has settled.

        RedisUnavailable when Redis stays away; the errors of `Store.put`.
        """
        self._consume()
        if self._usable:
            self._drain()
        self._consumer.ensure()
        left = self._left = self._consumer.unsettled()
        if left:
            self._context.log.warning("%d entries are left unwritten; they are still in Redis", left)
        return left

    def _consume(self) -> None:
        """Turn after turn until asked to stop. After a failure of Redis, pending entries are read again."""
        backoff = Backoff(REDIS_FIRST_S, REDIS_CAP_S, random.random)
        while not self._context.stopping:
            try:
                self._consumer.ensure()
                self._usable = self._usable or self._store.wait_until_usable()
                if self._usable:
                    self._recover()
                while self._context.running():
                    self._turn()
                    backoff.reset()
            except (RedisUnavailable, RedisRefused) as lost:
                if isinstance(lost, RedisRefused) and "NOGROUP" not in str(lost):
                    raise
                pause_s = backoff.next_s()
                if backoff.tries == REDIS_FAILURES_MAX:
                    raise RedisUnavailable(
                        f"Redis failed {backoff.tries} times in a row, so the writer ends: {lost}"
                    ) from lost
                self._context.log.warning("%s; next attempt in %.1f s", lost, pause_s)
                self._context.pulse.state = "waiting for Redis"
                self._batch, self._ahead = self._new_batch(), self._new_batch()
                self._context.wait(pause_s)

    def _turn(self) -> None:
        now_ms = _now_ms()
        if self._consumer.reclaim_due and self._flush() and self._flush():
            self._reclaim()  # behind both batches, or it would find what they hold
        self._find_lost()
        _, short = self._take_new(self._batch, block_ms=None if len(self._batch) else self._block_ms)
        if self._batch.due(_now_ms(), short=short):
            self._flush_and_read_ahead()
        if now_ms >= self._lag_at_ms:
            self._lag_at_ms = now_ms + LAG_EVERY_MS
            self._show_lag()

    def _take_new(self, batch: KlineBatch, *, block_ms: int | None) -> tuple[int, bool]:
        """Read new entries into a batch: how many, and whether every stream gave fewer than were asked for."""
        asked = max(1, min(PAGE_ENTRIES, batch.room // len(self._consumer.streams)))
        found = self._consumer.read(count=asked, block_ms=block_ms)
        for stream, entries in found.items():
            if entries and (delivered := self._resumed.pop(stream, None)) is not None:
                self._lost.lost_unread(stream, delivered, entries[0].id)
            for gap in self._sequence.note(stream, entries):
                self._examine(stream, gap)
            self._take(batch, stream, entries)
        sizes = [len(entries) for entries in found.values()]
        return sum(sizes), max(sizes, default=0) < asked

    def _find_lost(self) -> None:
        """What was cut while others held it, what they were given and did not store, and what was asked for again."""
        if self._consumer.gone_due:
            self._find_gone()
        for stream, entries in self._lost.strays():
            self._store_strays(stream, entries)
        self._lost.turn()

    def _find_gone(self) -> None:
        for page in self._consumer.gone_elsewhere():
            self._lost.lost_ids(page.stream, page.gone)

    def _store_strays(self, stream: str, entries: Sequence[Entry]) -> None:
        self._context.log.warning(
            "%d entries of %s that the group was given are not in the table: they are stored now", len(entries), stream
        )
        self._context.stats.add("reclaimed", len(entries))
        self._take(self._batch, stream, entries)

    def _begin(self) -> None:
        """Compare the newest entries that the group was given with the table, once: a consumer that left the group with
        entries in its hands, while this process was away, has left no other trace."""
        for stream in self._consumer.streams:
            delivered = self._streams.delivered_id(stream, GROUP_WRITERS)
            tail = self._lost.begin(stream, delivered)
            if not tail and delivered != BEFORE_FIRST:
                self._resumed[stream] = delivered
            for gap in self._sequence.note(stream, tail):
                self._examine(stream, gap)
            if strays := self._lost.unstored(stream, tail):
                self._store_strays(stream, strays)
                self._flush()
        self._begun = True

    def _examine(self, stream: str, gap: SequenceGap) -> None:
        """Say what is gone. What is left of it in the stream, another writer was given."""
        self._find_gone()
        left = len(self._streams.range(stream, next_id(gap.after), f"({gap.before}", count=min(gap.count, LEFT_MAX)))
        if left:
            self._lost.given_to_another(stream, gap)
            return
        self._lost.lost_between(stream, gap.after, gap.before)
        if self._lost.known_between(stream, gap) >= gap.count:
            return
        self._report_lost(
            gap.count - self._lost.known_between(stream, gap),
            f"entries of {stream} were gone before this writer was given them: seq {gap.first} to "
            f"{gap.last} of {gap.writer}, behind {gap.after} and before {gap.before}",
        )

    def _report_lost(self, count: int, what: str) -> None:
        self._context.stats.add("lost", count)
        self._context.log.error("%d %s; whoever cut them says so in findings (DATA_LOSS)", count, what)

    def _take(self, batch: KlineBatch, stream: str, entries: Sequence[Entry]) -> None:
        stats, now_ms, rejected_before = self._context.stats, _now_ms(), len(batch.rejected)
        for entry in entries:
            try:
                kline = kline_of(entry.fields)
            except ContractError as bad:
                batch.add(Rejected(stream, entry.id, entry.fields, str(bad)), now_ms)
            else:
                batch.add(Accepted(stream, entry.id, entry.fields, kline), now_ms)
        stats.add("entries", len(entries))
        stats.add("klines", len(entries) - (len(batch.rejected) - rejected_before))

    def _recover(self) -> None:
        """What this consumer was given before and never acknowledged, then what dead consumers left."""
        for page in self._consumer.pending():
            if page.entries:
                self._context.log.info("%d entries of %s were pending from before", len(page.entries), page.stream)
            self._lost.lost_ids(page.stream, page.gone)
            self._take(self._batch, page.stream, page.entries)
            if not self._batch.room and not self._flush():
                return
        if self._flush():
            self._reclaim()
            if not self._begun:
                self._begin()

    def _reclaim(self) -> None:
        for page in self._consumer.idle():
            self._lost.lost_ids(page.stream, page.gone)
            self._take(self._batch, page.stream, page.entries)
            if not self._flush():
                return

    def _flush_and_read_ahead(self) -> bool:
        """As `_flush`; while the database works, the next batch is read, which halves the time that a backlog takes.

        Not while pending entries are looked through: those that were read ahead would be found among them.
        """
        self._reading_ahead = True
        try:
            return self._flush()
        finally:
            self._reading_ahead = False

    def _flush(self) -> bool:
        """Settle the batch in the steps above; whether that is done. It is not if the process has to stop before."""
        batch, stats = self._batch, self._context.stats
        if not len(batch):
            return True
        rows_before = stats.counters.get("rows", 0)
        settlement = self._store.put(batch.accepted)
        if settlement is None:
            return False
        rows = stats.counters.get("rows", 0) - rows_before
        self._context.log.debug(
            "settled %d entries: %d rows changed the table, %d values were refused",
            len(batch.accepted),
            rows,
            len(settlement.poison),
        )
        stats.add("duplicates", len(batch.accepted) - len(settlement.poison) - rows)
        self._consumer.bury([*batch.rejected, *settlement.poison])
        self._consumer.acknowledge(batch.ids())
        if batch.accepted:
            last = batch.accepted[-1].kline
            opened = datetime.fromtimestamp(last.open_time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            stats.show("last", f"{last.symbol} {last.interval} {opened}")
        self._batch, self._ahead = self._ahead, self._new_batch()
        return True

    def _drain(self) -> None:
        """After the request to stop: write what is there, until nothing is left or the deadline passes."""
        while not self._context.stop_deadline.passed and self._flush_and_read_ahead():
            taken, _ = self._take_new(self._batch, block_ms=None)
            if not taken and not len(self._batch):
                return

    def _while_waiting(self) -> None:
        """Use the time that the database takes: beat, and read the next batch. It ends with the deadline of a shutdown.

        What Redis raises here ends the transaction as well, which undoes it; the entries are pending and come again.

        A thread that reads ahead would say the same more openly. It was tried and drained the backlog of an outage 16 %
        slower (median of three pairs of `klagg bench writer --json --rows 60000 --rounds 1 --outage 8 --rate 3000`),
        because both threads need the interpreter.
        """
        self._context.beat()
        if self._context.stopping and self._context.stop_deadline.passed:
            raise DatabaseUnavailable("the database did not answer before the deadline of the shutdown")
        now_ms = _now_ms()
        if self._reading_ahead and self._ahead.room and now_ms >= self._ahead_at_ms:
            _, short = self._take_new(self._ahead, block_ms=None)
            self._ahead_at_ms = now_ms + AHEAD_EVERY_MS if short else now_ms

    def _show_lag(self) -> None:
        lag = self._consumer.lag()
        self._context.stats.show("lag", "unknown" if lag is None else lag)


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--instance", default="", help="a name, where several of these run: B makes writer-final-B")


def _name(arguments: argparse.Namespace) -> str:
    return f"{PROCESS}-{arguments.instance}" if arguments.instance else PROCESS


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; 0 when all was written, EXIT_LEFT when entries were left in Redis, else the error's code."""
    # A batch is thousands of mappings that all go at once; looking through them for cycles costs a third of the rate.
    gc.set_threshold(200_000, 50, 100)
    left = 0

    def body(context: Context) -> None:
        nonlocal left
        if not context.settings.database.enabled:
            raise ConfigError("database.enabled is false, so there is nothing to write to: do not start this process")
        left = FinalWriter(context).run()

    code = service.run(
        PROCESS,
        "Write klines from the streams to the database; acknowledge them only after their commit.",
        body,
        argv=argv,
        configure=_configure,
        name=_name,
        flow=Flow("entries", "klines"),
    )
    return code or (EXIT_LEFT if left else 0)


if __name__ == "__main__":
    sys.exit(main())

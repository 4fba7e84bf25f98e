"""klagg-writer-final: every kline of `klines:{n}` into the table, acknowledged only after its commit.

The way of a kline, in the order of this file. `KlineReader` runs in a thread of its own: it reads entries of the
consumer group, decodes them (`kline_of`) and collects them in a batch. `FinalWriter`, in the main thread, asks for a
batch, stores it (`Store.put`, which ends in `kline_table.upsert`), buries what cannot be stored and acknowledges all of
it. It asks for the next batch only when the one before is settled, and the reader reads no further than one full batch:
the two threads hold at most two batches, one that is being stored and one that is being read.

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
import queue
import random
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from klagg.backoff import Backoff
from klagg.drivers.redis_streams import Entry, Streams
from klagg.errors import ConfigError, ContractError, KlaggError, RedisRefused, RedisUnavailable
from klagg.process import service
from klagg.process.group_consumer import PAGE_ENTRIES, GroupConsumer, Page, Rejected
from klagg.process.service import Context
from klagg.process.stats import Alarm
from klagg.wire.entry_id import next_id
from klagg.wire.keys import GROUP_WRITERS, Keys
from writers.batch import Accepted, Batch
from writers.kline_entries import kline_of
from writers.klines_sequence import KlinesSequence, SequenceGap
from writers.store import Store, open_database

PROCESS: Final = "writer-final"

REDIS_FIRST_S: Final = 0.2
REDIS_CAP_S: Final = 5.0
REDIS_FAILURES_MAX: Final = 8
"""Failures in a row after which the writer ends: about 15 s."""

LAG_EVERY_S: Final = 1.0

WAIT_S: Final = 0.1
"""How often a thread that waits for the other one looks whether it has to end; the main thread's heart beats so too."""

READ_AGAIN_S: Final = 0.02
"""How long nothing is read after a read that came back short, unless the batch is asked for meanwhile."""

EXIT_LEFT: Final = 3
"""The exit code of a clean end that left entries unwritten; they are still in Redis."""


def _now_ms() -> float:
    return time.monotonic() * 1000


def _consumer_of(context: Context, streams: Streams) -> GroupConsumer:
    """The consumer over a Redis connection, for one thread; it is named after the process."""
    shards = [Keys(shard) for shard in range(context.settings.shards)]
    return GroupConsumer(context, streams, GROUP_WRITERS, {keys.klines: keys for keys in shards})


class ReaderDied(KlaggError):
    """The thread that reads klines ended by an unexpected error; its traceback stands above."""


class KlineReader:
    """Reads klines in a thread of its own and hands them over batch by batch: first what this consumer was given before
    and did not acknowledge, then what dead consumers left, then new entries.

    It ends when the process is asked to stop and nothing is left to read, when it is closed, or with an error of
    `Streams`, which `receive` raises. A reader is used once, as a context manager.
    """

    def __init__(self, context: Context, sequence: KlinesSequence) -> None:
        self._context = context
        self._streams = context.connect()
        self._consumer = _consumer_of(context, self._streams)
        self._sequence = sequence
        self._batch = self._new_batch()
        self._requests = threading.Semaphore(0)
        self._requested = False
        self._handed: queue.SimpleQueue[Batch | KlaggError | None] = queue.SimpleQueue()
        self._may_read = threading.Event()
        self._closing = threading.Event()
        self.ended = False
        """Whether nothing is left to read for a process that was asked to stop."""
        self.has_read = False
        """Whether Redis has answered, so that a failure of it is the first in a row."""
        self._thread = threading.Thread(target=self._run, name="kline-reader", daemon=True)

    # The main thread's side.

    def __enter__(self) -> KlineReader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread, at the latest when its call to Redis ends; what it holds is pending in Redis."""
        self._closing.set()
        while self._thread.is_alive():
            self._context.beat()
            self._thread.join(WAIT_S)
        self._streams.close()

    def request(self) -> None:
        """Ask for the next batch: all that were handed over are settled."""
        self._requests.release()
        self._may_read.set()

    def receive(self) -> Batch | None:
        """The batch that was asked for, which takes up to WAIT_S; None if there is none yet, or `ended` says never.

        An error that ended the thread is raised here.
        """
        try:
            handed = self._handed.get(timeout=WAIT_S)
        except queue.Empty:
            return None
        if isinstance(handed, KlaggError):
            raise handed
        self.ended = handed is None
        return handed

    def read_ahead(self) -> None:
        """Allow the thread to read the next batch while the one that was received is being stored."""
        self._may_read.set()

    # The thread's side.

    def _run(self) -> None:
        end: KlaggError | None = ReaderDied()
        try:
            self._read_all()
            end = None
        except KlaggError as error:
            end = error
        finally:
            self._handed.put(end)

    def _read_all(self) -> None:
        if not self._read_pending():
            return
        short = False
        while not self._closing.is_set():
            if not self._may_read.wait(WAIT_S):
                continue
            stopping = self._context.stopping
            if self._consumer.reclaim_due and not stopping and not self._read_idle():
                return
            if self._batch.room:
                found, short = self._read_new(wait=not len(self._batch) and not stopping)
                if stopping and not found and not len(self._batch):
                    return
            if self._batch.due(_now_ms(), short=short):
                self._hand_over_if_requested(READ_AGAIN_S if short or not self._batch.room else 0)

    def _read_pending(self) -> bool:
        """What this consumer was given before; whether to go on, as for all that follow."""
        for page in self._consumer.pending():
            if page.entries:
                self._context.log.info("%d entries of %s were pending from before", len(page.entries), page.stream)
            self._add_page(page)
            if not self._batch.room and not self._hand_over():
                return False
        return True

    def _read_idle(self) -> bool:
        """What dead consumers left. Before it all is settled, or Redis would give again what this writer holds."""
        if not self._settled():
            return False
        for page in self._consumer.idle():
            self._add_page(page)
            if not self._settled():
                return False
        return True

    def _read_new(self, *, wait: bool) -> tuple[int, bool]:
        """Read new entries into the batch: how many, and whether every stream gave fewer than were asked for."""
        asked = max(1, min(PAGE_ENTRIES, self._batch.room // len(self._consumer.streams)))
        block_ms = self._context.settings.redis.block_ms if wait else None
        found = self._consumer.read(count=asked, block_ms=block_ms)
        self.has_read = True
        for stream, entries in found.items():
            for gap in self._sequence.note(stream, entries):
                self._report_gap(stream, gap)
            self._add(stream, entries)
        sizes = [len(entries) for entries in found.values()]
        return sum(sizes), max(sizes, default=0) < asked

    def _add_page(self, page: Page) -> None:
        if page.gone:
            self._report_lost(
                len(page.gone),
                f"pending entries of {page.stream} were gone before they were stored, with ids from {page.gone[0]} to "
                f"{page.gone[-1]}",
            )
        self._add(page.stream, page.entries)

    def _add(self, stream: str, entries: Sequence[Entry]) -> None:
        """Decode entries into the batch: a good one with its kline, another one with the reason why it is none."""
        stats, now_ms, rejected_before = self._context.stats, _now_ms(), len(self._batch.rejected)
        for entry in entries:
            try:
                kline = kline_of(entry.fields)
            except ContractError as bad:
                self._batch.add(Rejected(stream, entry.id, entry.fields, str(bad)), now_ms)
            else:
                self._batch.add(Accepted(stream, entry.id, entry.fields, kline), now_ms)
        stats.add("entries", len(entries))
        stats.add("klines", len(entries) - (len(self._batch.rejected) - rejected_before))

    def _report_gap(self, stream: str, gap: SequenceGap) -> None:
        """Report numbers that did not come. Where one of them is still in the stream, another writer was given it."""
        if self._streams.range(stream, next_id(gap.after), f"({gap.before}", count=1):
            return
        self._report_lost(
            gap.count,
            f"entries of {stream} were gone before this writer was given them: seq {gap.first} to "
            f"{gap.last} of {gap.writer}, behind {gap.after} and before {gap.before}",
        )

    def _report_lost(self, count: int, what: str) -> None:
        self._context.stats.add("lost", count)
        self._context.log.error("%d %s; whoever cut them says so in findings (DATA_LOSS)", count, what)

    def _settled(self) -> bool:
        """Hand over what is held and wait until it is settled; whether to go on."""
        if len(self._batch) and not self._hand_over():
            return False
        return self._wait_for_request()

    def _hand_over(self) -> bool:
        """Hand over the batch as soon as it is requested; whether to go on."""
        return self._wait_for_request() and self._hand_over_if_requested(0)

    def _wait_for_request(self) -> bool:
        while not self._is_requested(WAIT_S):
            if self._closing.is_set():
                return False
        return True

    def _hand_over_if_requested(self, wait_s: float) -> bool:
        if not self._is_requested(wait_s):
            return False
        self._requested = False
        self._may_read.clear()
        self._handed.put(self._batch)
        self._batch = self._new_batch()
        return True

    def _is_requested(self, wait_s: float) -> bool:
        """Whether the next batch is requested, so that all before are settled; waits for it up to `wait_s`."""
        self._requested = self._requested or self._requests.acquire(timeout=wait_s)
        return self._requested

    def _new_batch(self) -> Batch:
        persistence = self._context.settings.persistence
        return Batch(persistence.finalized_buffer_size, persistence.finalized_flush_interval_ms)


class FinalWriter:
    """Consumes `klines:{n}` of every shard in the group `writers`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._consumer = _consumer_of(context, context.connect())
        self._sequence = KlinesSequence()
        self._store = Store(context, open_database(context))
        self._usable = False
        self._lag_s = 0.0

    def run(self) -> int:
        """Work until asked to stop, then write what is left; how many entries nobody has settled.

        RedisUnavailable when Redis stays away, RedisRefused when it refuses; the errors of `Store`.
        """
        backoff = Backoff(REDIS_FIRST_S, REDIS_CAP_S, random.random)
        while True:
            last_try = self._context.stopping
            try:
                self._consume(backoff)
                break
            except (RedisUnavailable, RedisRefused) as lost:
                if last_try or (isinstance(lost, RedisRefused) and "NOGROUP" not in str(lost)):
                    raise
                self._wait_for_redis(lost, backoff)
        self._consumer.ensure()
        left = self._consumer.unsettled()
        if left:
            self._context.log.warning("%d entries are left unwritten; they are still in Redis", left)
        return left

    def _consume(self, backoff: Backoff) -> None:
        """Settle batch after batch, until asked to stop and nothing is left, or the deadline of the shutdown passes."""
        context = self._context
        self._consumer.ensure()
        self._usable = self._usable or self._store.wait_until_usable()
        if not self._usable:
            return
        with KlineReader(context, self._sequence) as reader:
            reader.request()
            while not reader.ended:
                context.running()
                batch = reader.receive()
                if batch is not None:
                    if not self._settle(batch, reader):
                        return
                    reader.request()
                if context.stopping and context.stop_deadline.passed:
                    return
                if reader.has_read:
                    backoff.reset()
                self._show_lag()

    def _wait_for_redis(self, lost: KlaggError, backoff: Backoff) -> None:
        pause_s = backoff.next_s()
        if backoff.tries == REDIS_FAILURES_MAX:
            raise RedisUnavailable(f"Redis failed {backoff.tries} times in a row, so the writer ends: {lost}") from lost
        self._context.log.warning("%s; next attempt in %.1f s", lost, pause_s)
        self._context.pulse.state = "waiting for Redis"
        self._context.wait(pause_s)

    def _settle(self, batch: Batch, reader: KlineReader) -> bool:
        """The steps above; whether they are done. They are not if the process has to stop before.

        The next batch is read meanwhile, but only once the database answers: while it is away, nothing is read.
        """
        stats = self._context.stats
        if not self._store.wait_until_it_answers():
            return False
        reader.read_ahead()
        rows_before = stats.counters.get("rows", 0)
        settlement = self._store.put(batch.accepted)
        if settlement is None:
            return False
        rows = stats.counters.get("rows", 0) - rows_before
        stats.add("duplicates", len(batch.accepted) - len(settlement.poison) - rows)
        self._consumer.bury([*batch.rejected, *settlement.poison])
        self._consumer.acknowledge(batch.ids())
        if batch.accepted:
            last = batch.accepted[-1].kline
            opened = datetime.fromtimestamp(last.open_time / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            stats.show("last", f"{last.symbol} {last.interval} {opened}")
        return True

    def _show_lag(self) -> None:
        """Once a second, how many entries wait to be read."""
        now_s = time.monotonic()
        if now_s >= self._lag_s:
            self._lag_s = now_s + LAG_EVERY_S
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
        alarm=Alarm("entries", "klines"),
    )
    return code or (EXIT_LEFT if left else 0)


if __name__ == "__main__":
    sys.exit(main())

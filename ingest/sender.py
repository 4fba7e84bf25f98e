"""The task that writes the outbox to Redis: in order, in pipelines, and again until Redis has acknowledged it.

A write whose reply was lost may have taken place. It is sent again: the ledger drops what comes twice, and nothing
could bring back what is lost. An entry keeps its `seq`, so a reader sees that the second is the first again. The
entries of one stream in a pipeline are one MULTI (Redis docs, "Transactions"): Redis appends all or none, so no entry
overtakes one that was refused, which to a reader would look like a loss.

Receiving never waits for the sender. While Redis is away, or a feed is at its cap, entries are held as long as the
outbox may hold them; then the oldest are dropped. What was dropped is reported when Redis accepts entries again: the
ledger sees the same ids as gaps and requests them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

from ingest.dropped import sentence_of
from ingest.outbox import Outbox
from ingest.timings import DEFAULT_TIMINGS, Timings
from klagg.backoff import Backoff
from klagg.clock import steady_ms
from klagg.drivers.redis_streams import Append
from klagg.errors import KlaggError, RedisRefused, RedisUnavailable
from klagg.process.alarms import AlarmKind
from klagg.process.service import Deadline
from klagg.process.stats import Stats

PIPELINE_ENTRIES: Final = 64
PIPELINE_BYTES: Final = 2 << 20

HELD_S: Final = 0.1
"""How long to wait while all entries are for feeds that are full."""

REPORT_MS, REPORT_MS_MAX = 1_000, 10_000
"""What was dropped is reported when nothing was dropped for the first time (local); while that goes on, after the
second."""

BUSY: Final = "entries come faster than Redis takes them"


class Leftover(KlaggError):
    """Entries could not be written before the process had to end."""

    def __init__(self, entries: int, reason: str) -> None:
        super().__init__(f"{entries} entries could not be written before the end of the shutdown: {reason}")
        self.entries = entries


class Writer(Protocol):
    """What the sender needs of klagg.drivers.redis_streams.AsyncStreams."""

    async def append_all(self, entries: Sequence[Append]) -> None:
        """Append entries in order, of each stream all or none; RedisUnavailable or RedisRefused if that fails."""


class Capacity(Protocol):
    """What the sender needs of `FeedCapacity`: streams that are full, and where findings about a feed go."""

    @property
    def full(self) -> Mapping[str, KlaggError]:
        """The streams that nothing may be written to now, each with the error that says why."""

    @property
    def findings(self) -> Mapping[str, str]:
        """By feed, the stream for findings about it."""

    async def measure(self) -> None:
        """Measure again if that is due; RedisUnavailable or RedisRefused if it fails."""


class Sender:
    """Owns the outbox of one process. `run` ends after `finish`, when everything is written.

    `bytes_max` and `age_s_max` (local) bound the outbox; `shutdown_s` is the time that `finish` leaves.
    """

    def __init__(
        self,
        streams: Writer,
        capacity: Capacity,
        *,
        writer: str,
        bytes_max: int,
        age_s_max: float,
        shutdown_s: float,
        stats: Stats,
        log: logging.Logger,
        timings: Timings = DEFAULT_TIMINGS,
    ) -> None:
        self._streams, self._capacity, self._stats, self._log = streams, capacity, stats, log
        self._writer, self._shutdown_s = writer, shutdown_s
        self._wake = asyncio.Event()
        self._deadline: Deadline | None = None
        self._backoff = Backoff(timings.write_retry_first_s, timings.write_retry_cap_s, random.random)
        self._dropping, self._reported_ms = False, 0.0
        for feed in capacity.findings:  # Prometheus sees growth only in what it saw before
            stats.add("dropped_trades", 0, stream=feed)
        self.outbox = Outbox(writer, bytes_max, age_s_max, stats, on_put=self._wake.set)

    def finish(self) -> None:
        """Nothing more will be put: write what is left within `shutdown_s`, then end."""
        self._deadline = Deadline(self._shutdown_s)
        self._wake.set()

    async def run(self) -> None:
        """Write entries to Redis; Leftover if some remain when the deadline of `finish` has passed."""
        while not (self._deadline and not self.outbox and not self.outbox.dropped):
            if self._deadline and self._deadline.passed:
                left = Leftover(len(self.outbox), self.outbox.trouble)
                self.outbox.abandon()
                self._log_dropped()
                raise left
            self._tell_dropping()
            if self.outbox:
                await self._write_some()
            elif self.outbox.dropped:
                self._report_dropped()
            else:
                self._wake.clear()
                await self._wake.wait()

    def _tell_dropping(self) -> None:
        """An alarm stands from the first trade that is dropped until none was for REPORT_MS."""
        if self.outbox.dropped and not self._dropping:
            self._dropping = True
            sentence = (
                f"the buffer is full and drops its oldest trades: {self.outbox.trouble} (ingest.buffer_mb_max, "
                "ingest.buffer_s_max)"
            )
            self._stats.alarms.raise_(AlarmKind.BUFFER_FULL, sentence)
        elif not self.outbox.dropped and steady_ms() >= self.outbox.dropped_ms + REPORT_MS:
            self._stats.alarms.clear(AlarmKind.BUFFER_FULL)

    async def _write_some(self) -> None:
        """Write one pipeline; wait a while if Redis does not accept it."""
        try:
            async with asyncio.timeout(self._deadline.remaining_s if self._deadline else None):
                await self._capacity.measure()
                batch = self.outbox.head(PIPELINE_ENTRIES, PIPELINE_BYTES, self._capacity.full)
                await self._streams.append_all([Append(key, fields) for key, fields in batch])
        except TimeoutError:
            return
        except (RedisUnavailable, RedisRefused) as trouble:
            await self._wait_out(trouble)
            return
        if not batch:
            await self._hold(self._capacity.full)
            return
        self.outbox.acknowledge()
        self._stats.add("entries", len(batch))
        if self._backoff.tries:
            self._log.warning("Redis takes entries again after %d tries", self._backoff.tries)
            self._backoff.reset()
        if not self._capacity.full:
            self.outbox.trouble = BUSY
        now_ms = steady_ms()
        quiet = now_ms >= self.outbox.dropped_ms + REPORT_MS
        if self.outbox.dropped and (quiet or now_ms >= self._reported_ms + REPORT_MS_MAX):
            self._report_dropped()

    def _report_dropped(self) -> None:
        """Report what was dropped: a sentence in the log, and a finding for every symbol."""
        reason = self._log_dropped()
        for feed, dropped in self.outbox.drain_dropped().items():
            newest_ms = max(each.last_ms for each in dropped.symbols.values())
            for finding in dropped.findings(self._writer, reason, newest_ms):
                self.outbox.put(self._capacity.findings[feed], finding)
        self._dropping, self._reported_ms = False, steady_ms()

    def _log_dropped(self) -> str:
        """Log the sentence alone; the reason why entries were dropped."""
        reason = self.outbox.dropped_because
        if self.outbox.dropped:
            self._log.error("%s", sentence_of(list(self.outbox.dropped.values()), reason))
        return reason

    async def _hold(self, full: Collection[str]) -> None:
        """All entries are for feeds at their cap: wait."""
        self.outbox.trouble = "; ".join(str(self._capacity.full[key]) for key in full)
        await asyncio.sleep(min(HELD_S, self._deadline.remaining_s) if self._deadline else HELD_S)

    async def _wait_out(self, trouble: KlaggError) -> None:
        if not self._backoff.tries:
            self._log.warning("%s; trades are held back meanwhile", trouble)
        self.outbox.trouble = str(trouble)
        self._stats.add("write_failures")
        delay_s = self._backoff.next_s()
        if self._deadline:
            delay_s = min(delay_s, self._deadline.remaining_s)
        await asyncio.sleep(delay_s)

"""The task that carries the outbox to Redis: in order, in pipelines, and again until Redis has taken it.

A write whose reply was lost may have taken place. It is sent again: the ledger drops what comes twice, while nothing
could bring back what is lost. An entry keeps its `seq`, so a reader sees that the second is the first again. Of a
stream's entries in a pipeline Redis takes all or none: no entry overtakes one that was refused, which a reader would
have to take for lost.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from typing import Final, Protocol

from ingest.outbox import Outbox
from klagg.backoff import Backoff
from klagg.errors import KlaggError, RedisRefused, RedisUnavailable
from klagg.redisio import Append
from klagg.service import Deadline
from klagg.stats import Stats

PIPELINE_ENTRIES: Final = 64
PIPELINE_BYTES: Final = 2 << 20

RETRY_FIRST_S: Final = 0.05
RETRY_CAP_S: Final = 2.0


class Leftover(KlaggError):
    """Entries could not be written before the process had to end."""

    def __init__(self, entries: int, reason: str) -> None:
        super().__init__(f"{entries} entries could not be written before the end of the shutdown: {reason}")
        self.entries = entries


class Writer(Protocol):
    """What the sender needs of klagg.redisio.AsyncStreams."""

    async def append_all(self, entries: Sequence[Append]) -> None: ...


class Sender:
    """Owns the outbox of one process. `run` ends after `finish`, when everything is written."""

    def __init__(
        self, streams: Writer, *, writer: str, bytes_max: int, shutdown_s: float, stats: Stats, log: logging.Logger
    ) -> None:
        self._streams, self._stats, self._log = streams, stats, log
        self._shutdown_s = shutdown_s
        self._wake = asyncio.Event()
        self._deadline: Deadline | None = None
        self._backoff = Backoff(RETRY_FIRST_S, RETRY_CAP_S, random.random)
        self.outbox = Outbox(writer, bytes_max, on_put=self._wake.set)

    def finish(self) -> None:
        """Nothing more will be put: write what is there within `shutdown_s`, then end."""
        self._deadline = Deadline(self._shutdown_s)
        self._wake.set()

    async def run(self) -> None:
        """Carry entries to Redis; Leftover if some remain when the deadline of `finish` has passed."""
        while not (self._deadline and not self.outbox):
            if self._deadline and self._deadline.passed:
                raise Leftover(len(self.outbox), self.outbox.trouble)
            if self.outbox:
                await self._write_some()
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _write_some(self) -> None:
        """One pipeline; if Redis does not take it, wait a while instead."""
        batch = self.outbox.head(PIPELINE_ENTRIES, PIPELINE_BYTES)
        try:
            async with asyncio.timeout(self._deadline.remaining_s if self._deadline else None):
                await self._streams.append_all([Append(key, fields) for key, fields in batch])
        except TimeoutError:
            return
        except (RedisUnavailable, RedisRefused) as trouble:
            await self._wait_out(trouble)
            return
        self.outbox.drop(len(batch))
        self._stats.add("entries", len(batch))
        if self._backoff.tries:
            self._log.warning("Redis takes entries again after %d tries", self._backoff.tries)
            self._backoff.reset()
            self.outbox.trouble = "entries come faster than Redis takes them"

    async def _wait_out(self, trouble: KlaggError) -> None:
        if not self._backoff.tries:
            self._log.warning("%s; trades are held back meanwhile", trouble)
        self.outbox.trouble = str(trouble)
        self._stats.add("write_failures")
        delay_s = self._backoff.next_s()
        if self._deadline:
            delay_s = min(delay_s, self._deadline.remaining_s)
        await asyncio.sleep(delay_s)

"""One worker of a Redis consumer group, for blocking and for asyncio processes: read, hand over, bury, acknowledge.

Redis holds every entry that it gave to a consumer as pending until that consumer acknowledges it. That is the whole of
the durability: an entry is acknowledged only after what it causes is durable somewhere else. A user of this module
settles entries in three steps, and a crash after each of them leaves:

1. The user commits (rows in a database, entries in another stream, a position). Before the commit the entries are
   pending and nothing is done. After it they are still pending: the next start reads them again, so the commit must
   recognise what it has already (an upsert by version, a ledger of ids, a position).
2. `bury` appends what cannot be processed to the stream `dead:{n}`. The entries are still pending, so a second copy may
   follow.
3. `acknowledge` ends it: Redis forgets that the entries were given out.

A start goes through three sources in this order: `pending` (what this consumer was given and did not acknowledge),
`idle` (what another consumer was given and has held for too long: it is dead), `read` (new entries). `idle` is repeated
every RECLAIM_EVERY_S. It also finds entries of this very consumer that have waited for so long; whoever must not
process an entry twice settles everything before it asks.

An entry may be cut from its stream while it is pending. Such ids come as `Page.gone`, because nobody can process them
any more, and are counted (`lost`) and logged here. Redis 7.0 and later drop them from the pending list in XAUTOCLAIM
and name them in its third element (Redis docs, XAUTOCLAIM); those found by `pending` are acknowledged here, or they
would hold back the trimming of the stream. `gone_elsewhere` finds those that another consumer holds, without waiting
for that consumer to be idle for long enough.

A consumer that holds nothing and has not read for DEAD_CONSUMER_S leaves the group: its process does not come back
under that name, and a name that stays for ever hides those that matter.

The two classes differ only in `await`: what is decided stands in the base class above them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from klagg.drivers.redis_streams import Append, AsyncStreams, Entry, Streams
from klagg.process.stats import Stats
from klagg.wire.entries import DEAD_ENTRIES, dead_entry
from klagg.wire.entry_id import BEFORE_FIRST
from klagg.wire.fields import RawFields, stamp
from klagg.wire.keys import Keys

PAGE_ENTRIES: Final = 500
"""The most entries of one read of one stream, so that the heart beats while a backlog drains."""

IDLE_MS: Final = 60_000
"""Entries that another consumer holds for this long without acknowledging them are taken over. A living consumer that
only waits for its database then processes them too, which changes nothing."""

RECLAIM_EVERY_S: Final = 30.0

GONE_EVERY_S: Final = 5.0
"""How often it is looked for entries that were cut while another consumer held them."""
GONE_IDS_MAX: Final = 10_000
"""Ids that were found gone while another consumer holds them, so that each is reported once."""

DEAD_CONSUMER_S: Final = 3_600
"""A consumer that holds no entry leaves the group when it has not read for so long."""

BURIALS_LOGGED: Final = 5
"""How many buried entries of one call are named in the log; `dead:{n}` has them all."""

UNREAD_COUNTED_MAX: Final = 10_000
"""Unread entries of a stream are counted up to here where Redis does not know their number."""


@dataclass(frozen=True, slots=True)
class Page:
    """Entries of one stream that were given out before, in the order of the stream; `gone` are ids that were cut."""

    stream: str
    entries: list[Entry]
    gone: list[str]


@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry that cannot be processed, and why: its stream, its id there, its fields as Redis holds them."""

    stream: str
    id: str
    raw: RawFields
    reason: str


class Shell(Protocol):
    """What a consumer needs of its process, which `Context` and `AsyncContext` have."""

    process: str
    writer: str
    log: logging.Logger
    stats: Stats


class _Consumer:
    """What both consumers share: who they are, when to look for idle entries, what a burial looks like. No I/O."""

    def __init__(self, shell: Shell, group: str, shards: Mapping[str, Keys], idle_ms: int | None) -> None:
        self.streams = list(shards)
        self._group, self._consumer = group, shell.process
        self._shell, self._shards = shell, shards
        self._idle_ms = IDLE_MS if idle_ms is None else idle_ms
        self._reclaim_s = self._gone_s = 0.0
        self._gone_elsewhere: dict[tuple[str, str], None] = {}
        shell.stats.add("lost", 0)  # Prometheus sees growth only in what it saw before
        self._dead_seq: dict[str, int] = {}

    @property
    def reclaim_due(self) -> bool:
        """Whether it is time for `idle` again."""
        return time.monotonic() >= self._reclaim_s

    def _begin_claiming(self) -> None:
        self._reclaim_s = time.monotonic() + RECLAIM_EVERY_S

    def _claimed(self, stream: str, entries: list[Entry], gone: list[str]) -> Page:
        if entries:
            self._shell.stats.add("reclaimed", len(entries))
            self._shell.log.info("%d idle entries of %s are taken over", len(entries), stream)
        return self._page(stream, entries, [each for each in gone if (stream, each) not in self._gone_elsewhere])

    def _page(self, stream: str, entries: list[Entry], gone: list[str]) -> Page:
        """A page; what is gone is counted and logged."""
        if gone:
            self._shell.stats.add("lost", len(gone))
            self._shell.log.error(
                "%d pending entries of %s were gone before the group %s processed them, with ids from %s to %s",
                len(gone),
                stream,
                self._group,
                gone[0],
                gone[-1],
            )
        return Page(stream, entries, gone)

    @property
    def gone_due(self) -> bool:
        """Whether it is time for `gone_elsewhere` again."""
        return time.monotonic() >= self._gone_s

    def _gone_of_others(self, stream: str, gone: list[str]) -> Page:
        """A page of ids that were cut while others held them, each once."""
        new = [each for each in gone if (stream, each) not in self._gone_elsewhere]
        self._gone_elsewhere.update(((stream, each), None) for each in new)
        while len(self._gone_elsewhere) > GONE_IDS_MAX:
            del self._gone_elsewhere[next(iter(self._gone_elsewhere))]
        return self._page(stream, [], new)

    def _dropped(self, stream: str, names: list[str]) -> None:
        for name in names:
            self._shell.log.info("the consumer %s of %s held nothing and was gone: it has left", name, stream)

    def _burial(self, rejected: Sequence[Rejected]) -> tuple[list[Append], dict[str, int]]:
        """The entries of `dead:{n}`, and the numbers of these streams once Redis has taken them. Each is logged."""
        numbers, appends = dict(self._dead_seq), []
        for each in rejected:
            dead = self._shards[each.stream].dead
            numbers[dead] = numbers.get(dead, 0) + 1
            fields = dead_entry(each.stream, each.id, self._group, each.reason, each.raw)
            appends.append(Append(dead, stamp(fields, self._shell.writer, numbers[dead]), DEAD_ENTRIES))
            if len(appends) <= BURIALS_LOGGED:
                self._shell.log.error("entry %s of %s goes to %s: %s", each.id, each.stream, dead, each.reason)
        if len(appends) > BURIALS_LOGGED:
            self._shell.log.error("%d entries at once cannot be processed", len(appends))
        return appends, numbers

    def _buried(self, count: int, numbers: dict[str, int]) -> None:
        self._dead_seq = numbers
        self._shell.stats.add("dead", count)


class GroupConsumer(_Consumer):
    """For a blocking process. `shards` are the streams with the keys of their shards; errors are those of `Streams`.

    The consumer is named after the process. `idle_ms` replaces IDLE_MS.
    """

    def __init__(
        self, shell: Shell, redis: Streams, group: str, shards: Mapping[str, Keys], *, idle_ms: int | None = None
    ) -> None:
        super().__init__(shell, group, shards, idle_ms)
        self._redis = redis

    def ensure(self) -> None:
        """Create the group where it is missing, at the very first entry of each stream."""
        for stream in self.streams:
            self._redis.ensure_group(stream, self._group)

    def pending(self) -> Iterator[Page]:
        """Pages of what this consumer was given before and did not acknowledge, stream after stream.

        Ids that are gone are acknowledged once the page is done with.
        """
        for stream in self.streams:
            after = BEFORE_FIRST
            while True:
                entries, gone, after = self._redis.read_pending(
                    stream, self._group, self._consumer, after=after, count=PAGE_ENTRIES
                )
                if not after:
                    break
                yield self._page(stream, entries, gone)
                self._redis.ack(stream, self._group, gone)

    def idle(self) -> Iterator[Page]:
        """Pages of what other consumers hold for too long; they belong to this consumer now, and are logged."""
        self._begin_claiming()
        for stream in self.streams:
            start = ""
            while start != BEFORE_FIRST:
                start, entries, gone = self._redis.claim_idle(
                    stream,
                    self._group,
                    self._consumer,
                    idle_ms=self._idle_ms,
                    count=PAGE_ENTRIES,
                    start=start or BEFORE_FIRST,
                )
                if entries or gone:
                    yield self._claimed(stream, entries, gone)
            names = self._redis.drop_consumers(stream, self._group, self._consumer, DEAD_CONSUMER_S * 1000)
            self._dropped(stream, names)

    def gone_elsewhere(self) -> Iterator[Page]:
        """Pages of ids alone: entries that were cut while another consumer held them. They stay pending there until
        `idle` takes that consumer's place."""
        self._gone_s = time.monotonic() + GONE_EVERY_S
        for stream in self.streams:
            held = self._redis.pending_of_others(stream, self._group, self._consumer, count=PAGE_ENTRIES)
            gone = self._redis.absent(stream, held) if held else []
            if gone and (page := self._gone_of_others(stream, gone)).gone:
                yield page

    def read(
        self, streams: Sequence[str] | None = None, *, count: int = PAGE_ENTRIES, block_ms: int | None = None
    ) -> dict[str, list[Entry]]:
        """New entries, at most `count` of each stream; waits up to `block_ms` for the first (None: not at all)."""
        return self._redis.read_group(
            self.streams if streams is None else streams, self._group, self._consumer, count=count, block_ms=block_ms
        )

    def bury(self, rejected: Sequence[Rejected]) -> None:
        """Append entries that cannot be processed to `dead:{n}`, and log them. They are not acknowledged by that."""
        if rejected:
            appends, numbers = self._burial(rejected)
            self._redis.write(appends)
            self._buried(len(appends), numbers)

    def acknowledge(self, ids: Mapping[str, Sequence[str]]) -> None:
        """The entries with these ids, by stream, are done with."""
        for stream, each in ids.items():
            self._redis.ack(stream, self._group, each)

    def lag(self) -> int | None:
        """How many entries of all streams the group was not given yet; None where Redis does not know."""
        lags = [self._redis.group_lag(stream, self._group) for stream in self.streams]
        known = [lag for lag in lags if lag is not None]
        return sum(known) if len(known) == len(lags) else None

    def unsettled(self) -> int:
        """How many entries the group has not acknowledged: given out or not, to whatever consumer.

        Redis does not know how many are unread after some were cut; they are counted then, UNREAD_COUNTED_MAX a stream.
        """
        return sum(map(self._unsettled, self.streams))

    def _unsettled(self, stream: str) -> int:
        pending = self._redis.pending_count(stream, self._group)
        unread = self._redis.group_lag(stream, self._group)
        if unread is not None:
            return unread + pending
        needed = self._redis.groups(stream)[self._group]
        return max(pending, len(self._redis.range(stream, needed, count=UNREAD_COUNTED_MAX)))


Room = Callable[[], Awaitable[int]]
"""How many entries may be read of a stream; waits until it is at least one."""


class AsyncGroupConsumer(_Consumer):
    """For an asyncio process, as `GroupConsumer`. It reads over one connection and writes over another, so that a read
    that waits holds nothing up; errors are those of `AsyncStreams`."""

    def __init__(
        self,
        shell: Shell,
        reading: AsyncStreams,
        writing: AsyncStreams,
        group: str,
        shards: Mapping[str, Keys],
        *,
        idle_ms: int | None = None,
    ) -> None:
        super().__init__(shell, group, shards, idle_ms)
        self._reading, self._writing = reading, writing
        self._burying = asyncio.Lock()

    async def ensure(self) -> None:
        """As `GroupConsumer.ensure`."""
        for stream in self.streams:
            await self._reading.ensure_group(stream, self._group)

    async def pending(self, room: Room) -> AsyncIterator[Page]:
        """As `GroupConsumer.pending`, with as many entries to a page as there is room for."""
        for stream in self.streams:
            after = BEFORE_FIRST
            while True:
                entries, gone, after = await self._reading.read_pending(
                    stream, self._group, self._consumer, after=after, count=await room()
                )
                if not after:
                    break
                yield self._page(stream, entries, gone)
                await self._writing.ack(stream, self._group, gone)

    async def idle(self, room: Room) -> AsyncIterator[Page]:
        """As `GroupConsumer.idle`, with as many entries to a page as there is room for."""
        self._begin_claiming()
        for stream in self.streams:
            start = ""
            while start != BEFORE_FIRST:
                start, entries, gone = await self._reading.claim_idle(
                    stream,
                    self._group,
                    self._consumer,
                    idle_ms=self._idle_ms,
                    count=await room(),
                    start=start or BEFORE_FIRST,
                )
                if entries or gone:
                    yield self._claimed(stream, entries, gone)
            names = await self._writing.drop_consumers(stream, self._group, self._consumer, DEAD_CONSUMER_S * 1000)
            self._dropped(stream, names)

    async def read(self, *, count: int, block_ms: int | None = None) -> dict[str, list[Entry]]:
        """As `GroupConsumer.read`."""
        return await self._reading.read_group(self.streams, self._group, self._consumer, count=count, block_ms=block_ms)

    async def bury(self, rejected: Sequence[Rejected]) -> None:
        """As `GroupConsumer.bury`. Several tasks may call it: one writes at a time, so that numbers stay in order."""
        if rejected:
            async with self._burying:
                appends, numbers = self._burial(rejected)
                await self._writing.append_all(appends)
                self._buried(len(appends), numbers)

    async def acknowledge(self, ids: Mapping[str, Sequence[str]]) -> None:
        """As `GroupConsumer.acknowledge`."""
        for stream, each in ids.items():
            await self._writing.ack(stream, self._group, each)

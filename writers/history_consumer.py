"""The shell around the history: `events:{n}` and `findings:{n}` into the tables, acknowledged after the commit.

One page is settled in three steps. What a crash after each of them leaves:

1. The rows are committed. The entries are pending in Redis, the next start reads them again, and nothing changes.
2. Poison entries are appended to `dead:{n}`. They stay pending as well, so a second copy may follow.
3. Everything is acknowledged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, Entry, Streams
from klagg.errors import ContractError, DatabaseRefused
from klagg.process.service import Context
from klagg.wire.entries import AGG_IDS, DEAD_ENTRIES, TRADE_IDS, dead_entry
from klagg.wire.entry_id import BEFORE_FIRST
from klagg.wire.fields import stamp
from klagg.wire.keys import GROUP_HISTORY, Keys
from writers.history import Event, events_of
from writers.history_findings import Finding, finding_of
from writers.history_table import keep
from writers.kline_table import value_is_to_blame
from writers.reclaim import idle_pages
from writers.settlement import TooManyRefused

PAGE_ENTRIES: Final = 500
"""The most entries of one read of one stream."""

RECLAIM_EVERY_S: Final = 30.0
LAG_EVERY_S: Final = 1.0

LEFT_COUNTED: Final = 1000

POISON_MAX: Final = 100
"""More refused entries than this in one page are not single bad ones."""

BURIALS_SAID: Final = 5
"""How many poison entries of a page are named in the log; `dead:{n}` has them all."""


@dataclass(frozen=True, slots=True)
class Told:
    """An entry and what it says."""

    stream: str
    entry: Entry
    events: Sequence[Event] = ()
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Poison:
    """An entry that cannot be kept, and why."""

    stream: str
    entry: Entry
    reason: str


class Historian:
    """Consumes the streams of every shard in the group `history`; the consumer is named after the process.

    Errors are those of `Streams` and `Database`; what was read is then still pending, and `recover` reads it again.
    """

    def __init__(self, context: Context, streams: Streams, database: Database) -> None:
        self._context, self._streams, self._database = context, streams, database
        settings = context.settings
        self._consumer = context.process
        self._ids = TRADE_IDS if settings.exchange.source == "trade" else AGG_IDS
        keys = [Keys(shard) for shard in range(settings.shards)]
        self._shards = {stream: each for each in keys for stream in (each.events, each.findings)}
        self._dead_seq: Counter[str] = Counter()
        self._reclaim_s = self._lag_s = 0.0

    def ensure_groups(self) -> None:
        """The group on every stream, at the very beginning."""
        for stream in self._shards:
            self._streams.ensure_group(stream, GROUP_HISTORY)

    def recover(self) -> None:
        """Settle what this consumer was given before and never acknowledged."""
        for stream in self._shards:
            while entries := self._streams.read_pending(
                stream, GROUP_HISTORY, self._consumer, after=BEFORE_FIRST, count=PAGE_ENTRIES
            ):
                self._context.log.info("%d entries of %s were pending from before", len(entries), stream)
                self._settle({stream: entries})
                self._context.beat()

    def turn(self) -> bool:
        """Settle a page of every stream; whether there is more to read."""
        self._reclaim()
        found = self._streams.read_group(list(self._shards), GROUP_HISTORY, self._consumer, count=PAGE_ENTRIES)
        self._settle(found)
        self._show_lag()
        return any(len(entries) == PAGE_ENTRIES for entries in found.values())

    def left(self) -> int:
        """How many entries nobody has settled: read or not, by whatever consumer."""
        return sum(map(self._unsettled, self._shards))

    def _unsettled(self, stream: str) -> int:
        """Redis does not know how many are unread after some were cut; they are counted then, LEFT_COUNTED at most."""
        pending = self._streams.pending_count(stream, GROUP_HISTORY)
        unread = self._streams.group_lag(stream, GROUP_HISTORY)
        if unread is not None:
            return unread + pending
        needed = self._streams.groups(stream)[GROUP_HISTORY]
        return max(pending, len(self._streams.range(stream, needed, count=LEFT_COUNTED)))

    def _show_lag(self) -> None:
        """Once a second, how many entries wait to be read."""
        now_s = time.monotonic()
        if now_s >= self._lag_s:
            self._lag_s = now_s + LAG_EVERY_S
            lags = [self._streams.group_lag(stream, GROUP_HISTORY) for stream in self._shards]
            known = [lag for lag in lags if lag is not None]
            self._context.stats.show("lag", sum(known) if len(known) == len(lags) else "unknown")

    def _reclaim(self) -> None:
        """Now and then, take over a page of what consumers left that are gone."""
        now_s = time.monotonic()
        if now_s < self._reclaim_s:
            return
        self._reclaim_s = now_s + RECLAIM_EVERY_S
        for stream in self._shards:
            for entries in idle_pages(
                self._context, self._streams, stream, GROUP_HISTORY, self._consumer, PAGE_ENTRIES
            ):
                self._settle({stream: entries})
                self._context.beat()

    def _settle(self, found: dict[str, list[Entry]]) -> None:
        """Keep, bury, acknowledge: the steps above."""
        told: list[Told] = []
        poison: list[Poison] = []
        for stream, entries in found.items():
            for entry in entries:
                try:
                    told.append(self._read(stream, entry))
                except ContractError as bad:
                    poison.append(Poison(stream, entry, str(bad)))
        poison += self._keep([each for each in told if each.events or each.finding])
        self._bury(poison)
        for stream, entries in found.items():
            self._streams.ack(stream, GROUP_HISTORY, [entry.id for entry in entries])
            self._context.stats.add("entries", len(entries))

    def _read(self, stream: str, entry: Entry) -> Told:
        keys = self._shards[stream]
        if stream == keys.findings:
            return Told(stream, entry, finding=finding_of(entry.fields, keys.shard, entry.id))
        return Told(stream, entry, events=events_of(entry.fields))

    def _keep(self, told: Sequence[Told]) -> list[Poison]:
        """Write what these say, in halves if the database refuses a value among them; those that it refused.

        TooManyRefused if these are more than single bad entries.
        """
        events = [event for each in told for event in each.events]
        findings = [each.finding for each in told if each.finding]
        try:
            kept = keep(self._database, events, findings, self._ids)
        except DatabaseRefused as refused:
            if not value_is_to_blame(refused):
                raise
            if len(told) == 1:
                return [Poison(told[0].stream, told[0].entry, str(refused))]
            self._context.beat()
            middle = len(told) // 2
            poison = [*self._keep(told[:middle]), *self._keep(told[middle:])]
            if len(poison) > POISON_MAX:
                raise TooManyRefused(len(poison), poison[-1].reason) from refused
            return poison
        self._context.stats.add("history", kept)
        return []

    def _bury(self, poison: Sequence[Poison]) -> None:
        """Append poison entries to `dead:{n}`, and say so."""
        writes = []
        for each in poison:
            dead = self._shards[each.stream].dead
            self._dead_seq[dead] += 1
            fields = dead_entry(each.stream, each.entry.id, GROUP_HISTORY, each.reason, each.entry.fields)
            writes.append(Append(dead, stamp(fields, self._context.writer, self._dead_seq[dead]), DEAD_ENTRIES))
            if len(writes) <= BURIALS_SAID:
                self._context.log.error("entry %s of %s goes to %s: %s", each.entry.id, each.stream, dead, each.reason)
        if writes:
            self._streams.write(writes)
            self._context.stats.add("dead", len(writes))

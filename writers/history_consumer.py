"""The shell around the history: `events:{n}` and `findings:{n}` into the tables, acknowledged after the commit.

One page is settled in three steps. `klagg.process.group_consumer` says why none of them loses an entry. What a crash
after each of them leaves:

1. The rows are committed. The entries are pending in Redis, the next start reads them again, and nothing changes.
2. Poison entries are appended to `dead:{n}`. They stay pending as well, so a second copy may follow.
3. Everything is acknowledged.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Entry, Streams
from klagg.errors import ContractError, DatabaseRefused
from klagg.process.group_consumer import PAGE_ENTRIES, GroupConsumer, Page, Rejected
from klagg.process.service import Context
from klagg.wire.entries import AGG_IDS, TRADE_IDS
from klagg.wire.keys import GROUP_HISTORY, Keys
from writers.history import Event, events_of
from writers.history_findings import FindingRow, finding_of
from writers.history_table import keep
from writers.kline_table import value_is_to_blame
from writers.settlement import TooManyRefused

LAG_EVERY_S: Final = 1.0

POISON_MAX: Final = 100
"""More refused entries than this in one page are not single bad ones."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An entry of events or findings, and what it says."""

    stream: str
    entry: Entry
    events: Sequence[Event] = ()
    finding: FindingRow | None = None


class HistoryConsumer:
    """Consumes the streams of every shard in the group `history`; the consumer is named after the process.

    Errors are those of `Streams` and `Database`; what was read is then still pending, and `recover` reads it again.
    """

    def __init__(self, context: Context, streams: Streams, database: Database) -> None:
        self._context, self._database = context, database
        settings = context.settings
        self._ids = TRADE_IDS if settings.exchange.source == "trade" else AGG_IDS
        keys = [Keys(shard) for shard in range(settings.shards)]
        self._shards = {stream: each for each in keys for stream in (each.events, each.findings)}
        self._consumer = GroupConsumer(context, streams, GROUP_HISTORY, self._shards)
        self._lag_s = 0.0

    def ensure_groups(self) -> None:
        """The group on every stream, at the very beginning."""
        self._consumer.ensure()

    def recover(self) -> None:
        """Settle what this consumer was given before and never acknowledged."""
        for page in self._consumer.pending():
            if page.entries:
                self._context.log.info("%d entries of %s were pending from before", len(page.entries), page.stream)
            self._settle_page(page)

    def turn(self) -> bool:
        """Settle a page of every stream; whether there is more to read."""
        if self._consumer.gone_due:
            for page in self._consumer.gone_elsewhere():
                self._settle_page(page)
        if self._consumer.reclaim_due:
            for page in self._consumer.idle():
                self._settle_page(page)
        found = self._consumer.read()
        self._settle(found)
        self._show_lag()
        return any(len(entries) == PAGE_ENTRIES for entries in found.values())

    def left(self) -> int:
        """How many entries nobody has settled: read or not, by whatever consumer."""
        return self._consumer.unsettled()

    def _show_lag(self) -> None:
        """Once a second, how many entries wait to be read."""
        now_s = time.monotonic()
        if now_s >= self._lag_s:
            self._lag_s = now_s + LAG_EVERY_S
            lag = self._consumer.lag()
            self._context.stats.show("lag", "unknown" if lag is None else lag)

    def _settle_page(self, page: Page) -> None:
        """Settle entries that were given out before."""
        self._settle({page.stream: page.entries})
        self._context.beat()

    def _settle(self, found: dict[str, list[Entry]]) -> None:
        """Keep, bury, acknowledge: the steps above."""
        decoded: list[Decoded] = []
        poison: list[Rejected] = []
        for stream, entries in found.items():
            for entry in entries:
                try:
                    decoded.append(self._decode(stream, entry))
                except ContractError as bad:
                    poison.append(Rejected(stream, entry.id, entry.fields, str(bad)))
        poison += self._keep([each for each in decoded if each.events or each.finding])
        self._consumer.bury(poison)
        self._consumer.acknowledge({stream: [entry.id for entry in entries] for stream, entries in found.items()})
        self._context.stats.add("entries", sum(map(len, found.values())))

    def _decode(self, stream: str, entry: Entry) -> Decoded:
        keys = self._shards[stream]
        if stream == keys.findings:
            return Decoded(stream, entry, finding=finding_of(entry.fields, keys.shard, entry.id))
        return Decoded(stream, entry, events=events_of(entry.fields))

    def _keep(self, decoded: Sequence[Decoded]) -> list[Rejected]:
        """Write what these say, in halves if the database refuses a value among them; those that it refused.

        TooManyRefused if these are more than single bad entries.
        """
        events = [event for each in decoded for event in each.events]
        findings = [each.finding for each in decoded if each.finding]
        try:
            kept = keep(self._database, events, findings, self._ids)
        except DatabaseRefused as refused:
            if not value_is_to_blame(refused):
                raise
            if len(decoded) == 1:
                return [Rejected(decoded[0].stream, decoded[0].entry.id, decoded[0].entry.fields, str(refused))]
            self._context.beat()
            middle = len(decoded) // 2
            poison = [*self._keep(decoded[:middle]), *self._keep(decoded[middle:])]
            if len(poison) > POISON_MAX:
                raise TooManyRefused(len(poison), poison[-1].reason) from refused
            return poison
        self._context.stats.add("history", kept)
        return []

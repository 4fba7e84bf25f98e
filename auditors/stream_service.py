"""The shell of the auditors of streams: reads in a consumer group, judges, writes findings and the judge's state.

Entries are settled together, right after a tick, because then the judge's state covers all of them. What a crash after
each step leaves:

1. Findings, state and position are committed in one transaction. Before it, nothing is published and the entries are
   pending: the next start restores the state of the previous settlement and reads them again. After it, they are still
   pending, but at or before the position: the next start acknowledges them without judging them.
2. The entries are acknowledged.

The transaction is WATCHed: two auditors of the same kind, or a Redis that came back older, end the process.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from auditors.consumer_groups import GroupMonitor, LagMonitor
from auditors.findings import FINDING_ENTRIES, Finding, count, count_from_zero
from auditors.judge import Judge
from auditors.stream_merge import StreamMerge
from klagg.drivers.redis_streams import Append, Delete, Entry, HashUpdate, Streams, Write
from klagg.errors import ContractError
from klagg.process.group_consumer import GroupConsumer
from klagg.process.service import AsyncContext, Context
from klagg.settings import Settings
from klagg.wire.entries import EVENT_TICK
from klagg.wire.entry_id import BEFORE_FIRST, EntryId
from klagg.wire.fields import integer_of, stamp
from klagg.wire.groups import groups_of
from klagg.wire.keys import Keys

READ_ENTRIES: Final = 500
"""The most entries of one read of one stream."""
HELD_MAX: Final = 5_000
"""With more entries than this waiting, a stream is not read until the other one has caught up."""
LOOK_EVERY_S: Final = 1.0
NICENESS: Final = 19
"""On a core that others keep busy this still gives 1.5 % of it, which is more than an auditor needs."""
GROUPS_EVERY_S: Final = 5.0
OFF: Final = "off (audit.full is false)"
"""The state in the heartbeat of an auditor that is switched off."""
OFF_CHECK_S: Final = 1.0
_OFF_MESSAGE: Final = "audit.full is false: this process does nothing until it is asked to stop"


@dataclass(frozen=True, slots=True)
class AuditorKind:
    """What makes an auditor: its name (also that of its state in Redis), its consumer group and its judge.

    `groups`: whether it monitors the configured consumer groups of all streams.
    """

    name: str
    group: str
    judge: Callable[[Settings], Judge]
    groups: bool = False


class ShardAuditor:
    """One auditor of one shard."""

    def __init__(self, context: Context, streams: Streams, shard: int, kind: AuditorKind) -> None:
        self._context, self._streams, self._kind = context, streams, kind
        self._settings, self._keys = context.settings, Keys(shard)
        self.judge = kind.judge(context.settings)
        self._names: dict[str, str] = {
            getattr(self._keys, name): name for name in ("events", "klines") if name in self.judge.streams
        }
        self._consumer = GroupConsumer(context, streams, kind.group, dict.fromkeys(self._names, self._keys))
        self._memory, self._place = self._keys.audit(kind.name), f"{self._keys.audit(kind.name)}:at"
        self._merge = StreamMerge()
        self._believed: dict[bytes, bytes] = {}
        self._discard_memory = False
        self._at = dict.fromkeys(self._names, BEFORE_FIRST)
        self._done: dict[str, list[str]] = {key: [] for key in self._names}
        self._settled_s = time.monotonic()
        self._behind_tick = False
        self._numbers: Counter[str] = Counter()
        self._lag = LagMonitor(f"{context.process}/{shard}", context.settings.audit.lag_ms_max)
        self._groups = GroupMonitor(context.settings.audit.group_silent_s * 1000)
        self._look_s = self._groups_s = 0.0

    @property
    def lag_ms(self) -> int:
        """How far behind the newest event this auditor is (exchange ms)."""
        return self._lag.lag_ms

    @property
    def position(self) -> str:
        """Up to where the streams were judged, and how many entries were read and are not settled."""
        read = ", ".join(f"{key} up to {entry_id}" for key, entry_id in self._at.items())
        return f"judged {read}; {sum(map(len, self._done.values()))} entries are left for the next start to judge again"

    def start(self) -> None:
        """Create the groups, restore the state, and read the entries that are pending."""
        self._consumer.ensure()
        self._restore()
        self._take_pending()

    def _restore(self) -> None:
        self._believed = self._streams.hash_of(self._place)
        saved = {name.decode(): text.decode() for name, text in self._streams.hash_of(self._memory).items()}
        terms = self._believed.get(b"terms", self._terms.encode()).decode()
        self._discard_memory = terms != self._terms
        if self._discard_memory:
            self._context.log.warning("the intervals or the window are others now: the saved state is discarded")
        elif saved:
            self.judge.restore(saved)
        for key, name in self._names.items():
            self._at[key] = self._believed.get(name.encode(), BEFORE_FIRST.encode()).decode()

    @property
    def _terms(self) -> str:
        config = self._settings.aggregator
        return json.dumps([sorted(config.intervals), config.window_minutes])

    def _take_pending(self) -> None:
        """Read the entries that are pending for this consumer; acknowledge those that are settled or gone."""
        for page in self._consumer.pending():
            at = EntryId.of(self._at[page.stream])
            settled = [each.id for each in page.entries if EntryId.of(each.id) <= at]
            self._add(page.stream, page.entries[len(settled) :], klines_at_end=False)
            self._consumer.acknowledge({page.stream: settled})

    def _add(self, key: str, entries: Sequence[Entry], *, klines_at_end: bool) -> None:
        if self._names[key] == "klines":
            self._merge.add_klines(entries, klines_at_end=klines_at_end)
        else:
            self._merge.add_events(entries)

    def turn(self, block_ms: int) -> None:
        """Read new entries, judge them, and settle when that is due."""
        held: dict[str, deque[Entry]] = {"klines": self._merge.klines, "events": self._merge.events}
        keys = [key for key, name in self._names.items() if len(held[name]) < HELD_MAX]
        found = self._consumer.read(keys, count=READ_ENTRIES, block_ms=block_ms)
        for key in keys:  # one command reads all streams at one moment, so klines up to any event in it are in it too
            entries = found.get(key, [])
            self._add(key, entries, klines_at_end=len(entries) < READ_ENTRIES)
        if "klines" not in self.judge.streams:
            self._merge.klines_at_end = True
        self._judge()
        if self._due:
            self.settle()
        self._release_strays()
        self._look()

    def _release_strays(self) -> None:
        """Entries that another consumer of the group was given. This auditor has passed them and reported them as lost
        (DATA_LOSS); they are acknowledged, because a stream is not trimmed beyond what a group holds."""
        if self._consumer.gone_due:
            deque(self._consumer.gone_elsewhere(), maxlen=0)
        if not self._consumer.reclaim_due:
            return
        for page in self._consumer.idle():
            at, held = EntryId.of(self._at[page.stream]), {*self._done[page.stream], *self._waiting(page.stream)}
            strays = [each.id for each in page.entries if each.id not in held and EntryId.of(each.id) <= at]
            self._consumer.acknowledge({page.stream: strays})

    def _waiting(self, key: str) -> set[str]:
        """The ids of the entries of a stream that were read and not judged."""
        held = self._merge.klines if self._names[key] == "klines" else self._merge.events
        return {each.id for each in held}

    def _judge(self) -> None:
        stats, keys = self._context.stats, {name: key for key, name in self._names.items()}
        for name, entry in self._merge.drain_ready():
            key = keys[name]
            self.judge.receive(name, entry.id, entry.fields)
            self._at[key] = entry.id
            self._done[key].append(entry.id)
            stats.add("entries")
            self._behind_tick = entry.fields.get(b"kind") == EVENT_TICK.encode()
            if not self._behind_tick:
                continue
            stats.add("ticks")
            if self._due:
                self.settle()
                self._context.beat()

    @property
    def _due(self) -> bool:
        """Whether to settle: findings at once, other state every audit.settle_ms, but only right after a tick."""
        if not self._behind_tick or not any(self._done.values()):
            return False
        waited_ms = (time.monotonic() - self._settled_s) * 1000
        return bool(self.judge.findings) or waited_ms >= self._settings.audit.settle_ms

    def close(self) -> None:
        """Settle what can be settled; the rest stays pending and is read again at the next start."""
        if self._behind_tick:
            self.settle()

    def settle(self) -> None:
        """Commit and acknowledge, in the steps of the module's docstring; only right after a tick."""
        self._settled_s = time.monotonic()
        found = self.judge.drain_findings()
        put, gone = self.judge.dump()
        writes: list[Write] = [Delete([self._memory])] if self._discard_memory else []
        writes += [self._finding(each) for each in found]
        writes.append(HashUpdate(self._memory, put, gone))
        place = {name: self._at[key] for key, name in self._names.items()} | {"terms": self._terms}
        self._streams.commit(self._place, self._believed, place, writes)
        self._believed = {name.encode(): value.encode() for name, value in place.items()}
        self._discard_memory = False
        self._consumer.acknowledge(self._done)
        self._done = {key: [] for key in self._names}
        self._count(found)
        self._context.log.debug("settled %s, with %d findings", place, len(found))

    def _finding(self, finding: Finding) -> Append:
        self._numbers[self._keys.findings] += 1
        stamped = stamp(finding.to_fields(), self._context.writer, self._numbers[self._keys.findings])
        return Append(self._keys.findings, stamped, FINDING_ENTRIES)

    def _count(self, found: Sequence[Finding]) -> None:
        count(self._context.stats, found)
        for each in found:
            if each.closed:
                self._context.log.info("closed %s %s: %s", each.kind, each.place, each.evidence)
            else:
                self._context.log.error("%s %s %s: %s", each.severity, each.kind, each.symbol, each.evidence)

    def _look(self) -> None:
        """What needs a clock: lag, ticks that do not come, groups without a consumer."""
        now_s = time.monotonic()
        if now_s < self._look_s:
            return
        self._look_s = now_s + LOOK_EVERY_S
        newest = self._streams.newest(self._keys.events)
        newest_ms = 0
        if newest:
            try:
                newest_ms = integer_of(newest[0].fields, "time")
            except ContractError:
                newest_ms = self.judge.time_ms  # reported as MALFORMED when it is read
        unread = self._streams.group_lag(self._keys.events, self._kind.group)
        found = self._lag.observe(self.judge.time_ms, newest_ms, unread, now_s * 1000)
        if self._kind.groups and now_s >= self._groups_s:
            self._groups_s = now_s + GROUPS_EVERY_S
            idle = {
                (getattr(self._keys, name), group): self._streams.consumers_idle_ms(getattr(self._keys, name), group)
                for name, groups in groups_of(self._settings).items()
                for group in groups
            }
            found += self._groups.observe(idle, now_s * 1000, self.judge.time_ms)
        if found:  # they are about no entry, so nothing is settled with them
            self._streams.write([self._finding(each) for each in found])
            self._count(found)


class StreamAuditors:
    """One kind of auditor over all shards, in one process."""

    def __init__(self, context: Context, kind: AuditorKind) -> None:
        self._context = context
        self._streams = context.connect()
        shards = context.settings.shards
        self._all = [ShardAuditor(context, self._streams, shard, kind) for shard in range(shards)]
        self._block_ms = max(1, context.settings.redis.block_ms // shards)
        self._pauses = 100 / context.settings.audit.core_percent - 1
        self._summary_s = time.monotonic()
        count_from_zero(context.stats)
        context.position = lambda: "; ".join(each.position for each in self._all)

    def run(self) -> None:
        """Audit until asked to stop. Errors of Redis end the process: the next start continues after the last
        settlement.

        The process has the lowest priority and pauses after each turn for several times the CPU time of the turn, so
        that its backlog does not slow the writers of the streams.
        """
        os.nice(NICENESS)
        for each in self._all:
            each.start()
        while self._context.running():
            began_s = time.process_time()
            for each in self._all:
                each.turn(self._block_ms)
            self._show_stats()
            self._context.wait((time.process_time() - began_s) * self._pauses)
        for each in self._all:
            each.close()
        self._summary()
        self._streams.close()

    def _show_stats(self) -> None:
        self._context.stats.show("lag_ms", max(each.lag_ms for each in self._all))
        now_s = time.monotonic()
        if now_s - self._summary_s >= self._context.settings.audit.summary_s:
            self._summary_s = now_s
            self._summary()

    def _summary(self) -> None:
        for each in self._all:
            self._context.log.info("summary: %s", each.judge.summary)


def audit(context: Context, kind: AuditorKind) -> None:
    """The body of a process: audit until asked to stop. If audit.full is false, only wait."""
    if context.settings.audit.full:
        StreamAuditors(context, kind).run()
    else:
        wait_until_stopped(context)


def wait_until_stopped(context: Context) -> None:
    """What a switched-off auditor does: it reads nothing, and its heartbeat says that it is off.

    So supervisord starts the same processes whatever `audit.full` is.
    """
    context.log.warning(_OFF_MESSAGE)
    context.pulse.state = OFF
    while context.wait(OFF_CHECK_S):
        pass


async def wait_until_stopped_async(context: AsyncContext) -> None:
    """The same in an asyncio process, whose heartbeat runs beside it."""
    context.log.warning(_OFF_MESSAGE)
    while await context.sleep(OFF_CHECK_S):
        context.pulse.state = OFF

"""Reads a shard's `bars` and then its `live` stream into live state, pulled on an interval, without a gap.

If the stream's sequence has a gap (an entry was trimmed before it was read, or Redis lost data) the shard is loaded
again from `bars` and the newest `klines`. The differences go to the subscribers like any other change, so that nobody
misses a final that was written meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from gateway.live import Change, LiveState
from gateway.market import Shard
from gateway.survey import oldest_unwritten_ms
from klagg.drivers.redis_streams import AsyncStreams, Entry, Streams
from klagg.errors import ContractError, RedisRefused, RedisUnavailable
from klagg.kline import Kline
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats
from klagg.wire.entries import BARS_POSITION
from klagg.wire.entry_id import BEFORE_FIRST, milliseconds_of
from klagg.wire.fields import integer_of, texts_of, upgraded
from klagg.wire.keys import Keys
from klagg.wire.klines import kline_of

NAME: Final = "gateway"
"""The name under which the position is published."""

PULL_ENTRIES: Final = 200
"""Entries of one pull; after a full one the next follows at once."""

TAIL_PAGE: Final = 1000
TAIL_ENTRIES_MAX: Final = 200_000
"""How many entries of `klines` a load reads at most."""

POSITION_MS: Final = 1000
POSITION_TTL_S: Final = 60
"""How long the aggregator keeps entries that a silent gateway has not read."""

WRITTEN_MARGIN_MS: Final = 1000
"""Entries of one commit may have ids whose times differ by a few ms."""

STILL_MS: Final = 500
"""After so long without a `live` entry the aggregator's commit is checked: a quiet market is no stall."""

Publish = Callable[[list[Change]], None]


class ShardReader:
    """Keeps one shard's live state. `turn` pulls once; errors of Redis are counted there and never raised."""

    def __init__(
        self,
        shard: Shard,
        keys: Keys,
        streams: AsyncStreams,
        blocking: Streams,
        publish: Publish,
        kept_ms: int,
        stats: Stats,
        log: logging.Logger,
    ) -> None:
        self._shard, self._keys, self._publish, self._kept_ms = shard, keys, publish, kept_ms
        self._streams, self._blocking = streams, blocking
        self._stats, self._log = stats, log
        self._loaded = False
        self._writer = b""
        self._seq: int | None = None
        self._commit: dict[bytes, bytes] = {}
        self._checked_ms = self._published_ms = 0.0
        self._lost = ""

    async def turn(self, now_ms: float) -> bool:
        """Pull once at `now_ms` (monotonic); returns whether there may be more to read."""
        health = self._shard.health
        more = moved = False
        try:
            if not self._loaded:
                await self._load()
                moved = True
            read = await self._pull()
            more, moved = len(read) >= PULL_ENTRIES, moved or bool(read)
            if not moved and now_ms - health.moved_ms >= STILL_MS <= now_ms - self._checked_ms:
                self._checked_ms = now_ms
                moved = await self._aggregator_moves()
            await self._publish_position(now_ms)
            self._lost = ""
        except (RedisUnavailable, RedisRefused) as lost:
            self._stats.add("pulls_failed")
            if str(lost) != self._lost:
                self._log.warning("%s; the last good state is served until it is back", lost)
                self._lost = str(lost)
        if moved:
            health.moved(now_ms)
            self._stats.alarms.clear(AlarmKind.LIVE_STALLED, self._keys.live)
        return more

    def check_health(self, now_ms: float) -> None:
        """Count timeouts; raise an alarm after ALARM_AFTER in a row. `now_ms` is monotonic."""
        health, name = self._shard.health, self._keys.live
        if health.check(now_ms):
            still_ms = now_ms - health.moved_ms
            sentence = (
                f"{name} has not moved on for {still_ms:.0f} ms ({health.timeouts} timeouts in a row): the aggregator "
                "or Redis stands still (gateway.pull_timeout_ms)"
            )
            self._stats.alarms.raise_(AlarmKind.LIVE_STALLED, sentence, name)
        self._stats.show("timeouts", health.timeouts_total, stream=name)
        self._stats.show("stale_ms", health.stale_for_ms(now_ms), stream=name)

    async def _pull(self) -> list[Entry]:
        """Read and apply the entries after the position; after a sequence gap the next turn loads the shard again."""
        found = await self._streams.read({self._keys.live: self._shard.position}, count=PULL_ENTRIES)
        entries = found.get(self._keys.live, [])
        changes: list[Change] = []
        for entry in entries:
            if not self._follows(entry):
                self._loaded = False
                break
            changes += self._applied(entry)
            self._shard.position = entry.id
        self._publish(changes)
        return entries

    def _applied(self, entry: Entry) -> list[Change]:
        try:
            changes = self._shard.state.apply_entry(texts_of(upgraded(entry.fields)), milliseconds_of(entry.id))
        except ContractError as bad:
            self._stats.add("rejected")
            self._log.error("an entry of %s is left out: %s: %s", self._keys.live, entry.id, bad)
            return []
        self._stats.add("entries")
        self._stats.add("bars", len(changes))
        return changes

    def _follows(self, entry: Entry) -> bool:
        """Whether an entry is the next one: `seq` grows by one, over all runs of the aggregator."""
        try:
            seq = integer_of(entry.fields, "seq")
        except ContractError:
            return True  # `_applied` rejects it
        expected, self._seq = self._seq, seq
        if expected is None or seq == expected + 1:
            return True
        self._stats.add("sequence_gaps")
        self._log.warning("%s goes on at seq %d after %d: the shard is loaded again", self._keys.live, seq, expected)
        return False

    async def _load(self) -> None:
        """Load bars in progress from `bars` and finals from the newest `klines`; `live` is read on from the position of
        `bars`."""
        values = texts_of(await self._streams.hash_of(self._keys.bars))
        position = values.get(BARS_POSITION, BEFORE_FIRST)
        finals = await asyncio.to_thread(self._finals)
        newest = await asyncio.to_thread(self._blocking.range, self._keys.live, position, position)
        state, old = LiveState(), self._shard.state
        for entry_id, kline in finals:
            state.apply_final(kline, milliseconds_of(entry_id))
        try:
            state.apply_values(values, old.time_ms, milliseconds_of(position))
        except ContractError as bad:
            self._stats.add("rejected")
            self._log.error("%s is left out: %s", self._keys.bars, bad)
        changes = state.changes_since(old)
        old.replace_with(state)
        self._seq = integer_of(newest[0].fields, "seq") if newest else None
        self._shard.position = position
        self._loaded = True
        self._log.debug("%s is loaded up to %s: %d bars are others now", self._keys.live, position, len(changes))
        self._stats.add("loads")
        self._publish(changes)

    def _finals(self) -> list[tuple[str, Kline]]:
        """Entry id and kline of the newest finals, oldest first, from the oldest that the table may lack."""
        entries: list[Entry] = []
        last, floor = "+", 0
        while len(entries) < TAIL_ENTRIES_MAX:
            page = self._blocking.newest(self._keys.klines, count=TAIL_PAGE, last=last)
            if page and not entries:
                unwritten = oldest_unwritten_ms(self._blocking, self._keys)
                floor = floor_ms(milliseconds_of(page[0].id), self._kept_ms, unwritten)
            entries += (entry for entry in page if milliseconds_of(entry.id) >= floor)
            if len(page) < TAIL_PAGE or milliseconds_of(page[-1].id) < floor:
                break
            last = f"({page[-1].id}"
        return list(self._readable(reversed(entries)))

    def _readable(self, entries: Iterable[Entry]) -> Iterable[tuple[str, Kline]]:
        for entry in entries:
            try:
                yield entry.id, kline_of(entry.fields)
            except ContractError as bad:
                self._stats.add("rejected")
                self._log.error("an entry of %s is left out: %s: %s", self._keys.klines, entry.id, bad)

    async def _aggregator_moves(self) -> bool:
        """Whether the aggregator has committed since the last check; in a quiet market it publishes nothing."""
        before, self._commit = self._commit, await self._streams.hash_of(self._keys.commit)
        return bool(before) and self._commit != before

    async def _publish_position(self, now_ms: float) -> None:
        """Publish the position, so that the aggregator trims nothing that was not read."""
        if now_ms - self._published_ms >= POSITION_MS and self._loaded:
            self._published_ms = now_ms
            await self._streams.set_with_ttl(self._keys.reader(NAME), self._shard.position, POSITION_TTL_S)


def floor_ms(newest_ms: int, kept_ms: int, unwritten_ms: int | None) -> int:
    """The time (ms by the clock of Redis) before which live state keeps no finals: they are in the table and older than
    `kept_ms`."""
    floor = newest_ms - kept_ms
    return floor if unwritten_ms is None else min(floor, unwritten_ms - WRITTEN_MARGIN_MS)

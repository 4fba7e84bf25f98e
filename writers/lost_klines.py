"""Klines that the group of writers lost: which they were, and how they come after all.

An entry of `klines:{n}` is lost where it was deleted or trimmed before its row was committed, or where Redis no longer
holds it as pending although nobody stored it (XGROUP DELCONSUMER, XCLAIM of an entry that is gone). The id or the
missing numbers say that something is lost, and not which bar. The events of the same commit say that: the aggregator
writes the klines of a tick and their events in one transaction, at one time of Redis' clock. So the events around the
loss are read, the table is asked which of their bars it lacks, and the aggregator is asked for these again by an
`again` entry in the feed. It answers from what it holds, in the same version, so asking for too much changes nothing.

What is still in the stream is not asked for: it is read again and stored (`strays`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from klagg.drivers.redis_streams import Append, Entry, Streams
from klagg.errors import ContractError
from klagg.intervals import INTERVALS
from klagg.process.service import Context
from klagg.wire.entries import (
    EVENT_AMENDED,
    EVENT_CLOSE,
    EVENT_CONFIRMED,
    BarKey,
    again_entries,
    event_rows,
)
from klagg.wire.entry_id import EntryId, next_id
from klagg.wire.fields import stamp, text_of, texts_of, upgraded
from klagg.wire.findings import backfill_command
from klagg.wire.keys import Keys, shard_of
from writers.kline_entries import kline_of
from writers.kline_table import KlineVersion
from writers.klines_sequence import SequenceGap
from writers.store import Store

AROUND_MS: Final = 1_000
"""Events of a lost kline are looked for so long (Redis' clock) before and behind it."""
SPANS_MAX: Final = 1_000
"""Losses and strays that wait to be looked at, of each; of more, the oldest are passed over, a loss with a line in the
log."""
KNOWN_MAX: Final = 10_000
PAGE: Final = 500
"""Entries of one read."""
AWAITED_MAX: Final = 20_000
"""Bars that were asked for and have not come; of more, no more are asked for."""
LOOK_AFTER_S: Final = 1.0
"""A loss is looked at after this time: what was read with it is stored by then."""
STRAYS_AFTER_S: Final = 15.0
"""What another consumer was given is looked at after this time."""
AGAIN_AFTER_S: Final = 10.0
"""How long the aggregator has for its answer, the first time; twice as long each time after."""
TRIES_MAX: Final = 4
"""How often it is asked for a bar."""

TAIL_ENTRIES: Final = 5_000
TAIL_MS: Final = 3_600_000
"""How many of the newest entries are compared with the table at the start, and how old they may be (Redis' clock)."""
DEAD_LOOKED_AT: Final = 1_000
"""How many of the newest dead entries are looked at for what must not be stored."""
OPEN_TIME_MAX: Final = 4_102_444_800_000
"""2100-01-01 (ms): a bar that opens later is none."""

_PUBLISHED: Final = frozenset({EVENT_CLOSE, EVENT_CONFIRMED, EVENT_AMENDED})


@dataclass(slots=True)
class Span:
    """A part of a stream to be looked at when it is due (monotonic s): from the id `first` on, up to `last`. For
    strays, `gap` is what another consumer was given there."""

    stream: str
    first: str
    last: str
    due_s: float
    gap: SequenceGap | None = None
    counted: bool = True
    """Whether what is lost here was counted before; else what the table lacks is."""


@dataclass(slots=True)
class Awaited:
    """A version that was asked for `tries` times; looked for again when due (monotonic s)."""

    version: KlineVersion
    tries: int
    due_s: float


def finals_of(entry: Entry) -> list[KlineVersion]:
    """The finals that an entry of `events:{n}` tells of; none if it is of another kind, or cannot be read."""
    try:
        raw = upgraded(entry.fields)
        if text_of(raw, "kind") not in _PUBLISHED:
            return []
        return [
            KlineVersion(
                row["symbol"],
                row["interval"],
                int(row["open_time"]),
                0,
                int(row["revision"]),
                int(row["after"] == "final"),
                0,
            )
            for row in event_rows(texts_of(raw))
            if row["interval"] in INTERVALS
        ]
    except (ContractError, ValueError):
        return []


class LostKlines:
    """What was lost, until the table has it. Errors are those of `Streams` and `Store`."""

    def __init__(self, context: Context, streams: Streams, store: Store, shards: Mapping[str, Keys]) -> None:
        self._context, self._streams, self._store, self._shards = context, streams, store, shards
        self._losses: deque[Span] = deque()
        self._strays: deque[Span] = deque(maxlen=SPANS_MAX)
        self._awaited: dict[BarKey, Awaited] = {}
        self._known: deque[tuple[str, EntryId]] = deque(maxlen=KNOWN_MAX)
        """Ids that are known to be lost."""
        self._numbers: dict[str, int] = {}
        for name in ("asked_again", "lost_again"):
            context.stats.add(name, 0)

    def lost_between(self, stream: str, after: str, before: str) -> None:
        """Entries between these two ids are lost."""
        low, high = EntryId.of(after).ms - AROUND_MS, EntryId.of(before).ms + AROUND_MS
        last = self._losses[-1] if self._losses else None
        if (
            last is not None and last.counted and last.stream == stream and EntryId.of(last.last).ms >= low
        ):  # mostly many in a row
            last.last = f"{max(high, EntryId.of(last.last).ms)}-{2**64 - 1}"
            return
        span = Span(stream, f"{max(0, low)}-0", f"{high}-{2**64 - 1}", time.monotonic() + LOOK_AFTER_S)
        self._note_loss(span)

    def lost_unread(self, stream: str, delivered: str, first: str) -> None:
        """Nothing is left of the stream up to the id that the group was given last, and `first` is the first entry
        behind it: what was between, if anything was, is in no number that this process has seen. It may be of the
        same millisecond as `first`, whose own klines are stored by the time that this is looked at."""
        low, high = EntryId.of(delivered).ms - AROUND_MS, EntryId.of(first).ms
        due_s = time.monotonic() + LOOK_AFTER_S
        self._note_loss(Span(stream, f"{max(0, low)}-0", f"{high}-{2**64 - 1}", due_s, counted=False))

    def _note_loss(self, span: Span) -> None:
        self._losses.append(span)
        if len(self._losses) > SPANS_MAX:
            passed = self._losses.popleft()
            self._context.log.error(
                "too much was lost at once: what was lost of %s from %s to %s is left to the auditor of the exchange",
                passed.stream,
                passed.first,
                passed.last,
            )

    def lost_ids(self, stream: str, ids: Sequence[str]) -> None:
        """Entries with these ids (in the order of the stream) are lost."""
        for each in ids:
            self._known.append((stream, EntryId.of(each)))
            self.lost_between(stream, each, each)

    def given_to_another(self, stream: str, gap: SequenceGap) -> None:
        """Entries that another consumer was given, as far as is known: they are looked at later."""
        span = Span(stream, next_id(gap.after), f"({gap.before}", time.monotonic() + STRAYS_AFTER_S, gap)
        self._strays.append(span)

    def turn(self) -> None:
        """A step: a page of events of the oldest loss that is due, and the bars whose answer is due."""
        now_s = time.monotonic()
        if self._losses and self._losses[0].due_s <= now_s:
            self._look_at(self._losses[0])
        if due := [each for each in self._awaited.values() if each.due_s <= now_s]:
            self._look_again(due[:PAGE])

    def _look_at(self, span: Span) -> None:
        """The next page of the events around a loss: the bars that the table lacks are asked for."""
        keys = self._shards[span.stream]
        entries = self._streams.range(keys.events, span.first, span.last, count=PAGE)
        wanted: dict[BarKey, KlineVersion] = {}
        for version in (each for entry in entries for each in finals_of(entry)):
            known = wanted.get(version.bar, version)
            wanted[version.bar] = max(known, version, key=attrgetter("revision", "complete"))
        found = self._store.lacking(list(wanted.values()))
        if found is None:
            return
        lacking = [each for each in found if not self._awaits(each)]
        if lacking and not span.counted:
            self._context.stats.add("lost", len(lacking))
            self._context.log.error("%d entries of %s were gone before they were read", len(lacking), span.stream)
        self._ask([Awaited(each, 0, 0.0) for each in lacking])
        if len(entries) < PAGE:
            self._losses.popleft()
        else:
            span.first = next_id(entries[-1].id)

    def _awaits(self, version: KlineVersion) -> bool:
        """Whether this version or a higher one was asked for, and counted, already."""
        asked = self._awaited.get(version.bar)
        if asked is None:
            return False
        return (asked.version.revision, asked.version.complete) >= (version.revision, version.complete)

    def _look_again(self, due: Sequence[Awaited]) -> None:
        lacking = self._store.lacking([each.version for each in due])
        if lacking is None:
            return
        left = set(lacking)
        came = [each for each in due if each.version not in left]
        for each in came:
            del self._awaited[each.version.bar]
        self._context.stats.add("lost_again", len(came))
        if came:
            self._context.log.info("%d lost klines came when they were asked for again", len(came))
        given_up = [each for each in due if each.version in left and each.tries >= TRIES_MAX]
        for each in given_up:
            del self._awaited[each.version.bar]
        if given_up:
            self._context.log.error(
                "%d lost klines did not come although the aggregator was asked for them %d times: %s",
                len(given_up),
                TRIES_MAX,
                backfill_command([each.version.bar for each in given_up]),
            )
        self._ask([each for each in due if each.version in left and each.tries < TRIES_MAX])

    def _ask(self, wanted: Sequence[Awaited]) -> None:
        """Ask the aggregators of the bars' shards for them, and await the answers."""
        now_s = time.monotonic()
        by_feed: dict[str, list[BarKey]] = {}
        for each in wanted:
            if each.version.bar not in self._awaited and len(self._awaited) >= AWAITED_MAX:
                self._context.log.error("%d klines are awaited already: no more are asked for", AWAITED_MAX)
                break
            each.tries, each.due_s = each.tries + 1, now_s + AGAIN_AFTER_S * 2**each.tries
            self._awaited[each.version.bar] = each
            by_feed.setdefault(self._feed_of(each.version.symbol), []).append(each.version.bar)
        for feed, bars in by_feed.items():
            self._context.log.warning("%d klines that were lost are asked for again, the first: %s", len(bars), bars[0])
            appends = []
            for fields in again_entries(bars):
                self._numbers[feed] = self._numbers.get(feed, 0) + 1
                appends.append(Append(feed, stamp(fields, self._context.writer, self._numbers[feed])))
            self._streams.write(appends)
            self._context.stats.add("asked_again", len(bars))

    def _feed_of(self, symbol: str) -> str:
        return Keys(shard_of(symbol, len(self._shards))).feed

    def strays(self) -> Iterator[tuple[str, list[Entry]]]:
        """What other consumers were given a while ago and the table lacks, by stream: pages to be stored. Numbers that
        are not in the stream any more are lost."""
        now_s = time.monotonic()
        while self._strays and self._strays[0].due_s <= now_s:
            span = self._strays.popleft()
            found = 0
            while True:
                entries = self._streams.range(span.stream, span.first, span.last, count=PAGE)
                found += len(entries)
                if lacking := self.unstored(span.stream, entries):
                    yield span.stream, lacking
                if len(entries) < PAGE:
                    break
                span.first = next_id(entries[-1].id)
            if span.gap is not None and found < span.gap.count:
                self._lost_of(span.stream, span.gap, span.gap.count - found)

    def known_between(self, stream: str, gap: SequenceGap) -> int:
        """How many of these numbers were counted as lost by their ids."""
        after, before = EntryId.of(gap.after), EntryId.of(gap.before)
        return sum(each == stream and after < entry_id < before for each, entry_id in self._known)

    def _lost_of(self, stream: str, gap: SequenceGap, count: int) -> None:
        """Some entries that another consumer was given are not in the stream any more."""
        self.lost_between(stream, gap.after, gap.before)
        unknown = count - self.known_between(stream, gap)
        if unknown > 0:
            self._context.stats.add("lost", unknown)
            self._context.log.error(
                "%d entries of %s that another consumer was given are gone: of seq %d to %d of %s, between %s and %s",
                unknown,
                stream,
                gap.first,
                gap.last,
                gap.writer,
                gap.after,
                gap.before,
            )

    def begin(self, stream: str, delivered: str) -> list[Entry]:
        """The newest entries up to the id that the group was given last, in the order of the stream: what is lost of
        them, this process cannot have seen."""
        oldest_ms = EntryId.of(delivered).ms - TAIL_MS
        newest = self._streams.newest(stream, count=TAIL_ENTRIES, last=delivered)
        return [entry for entry in reversed(newest) if EntryId.of(entry.id).ms >= oldest_ms]

    def unstored(self, stream: str, entries: Sequence[Entry]) -> list[Entry]:
        """Those of these entries whose klines the table lacks. Those that went to `dead` are not among them, nor are
        those that cannot be read: the group was given them, and whoever had them buried them."""
        versions: dict[str, KlineVersion] = {}
        for entry in entries:
            try:
                kline = kline_of(entry.fields)
            except ContractError:
                continue
            if 0 <= kline.open_time <= OPEN_TIME_MAX:
                versions[entry.id] = KlineVersion(*kline.key, *kline.version)
        lacking = set(self._store.lacking(list(versions.values())) or ())
        if not lacking:
            return []
        dead = self._streams.newest(self._shards[stream].dead, count=DEAD_LOOKED_AT)
        buried = {each.fields.get(b"id", b"").decode(errors="replace") for each in dead}
        return [entry for entry in entries if versions.get(entry.id) in lacking and entry.id not in buried]

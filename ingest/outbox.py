"""Entries on their way to Redis: a queue bounded by bytes and by age. When it is full, the oldest are dropped. Pure.

An entry gets its `seq` when it is about to be sent for the first time, and keeps it however often it is sent. What is
dropped was never numbered, and what is numbered is never dropped: so a gap in the numbers means an entry that was lost
behind this process (DATA_LOSS), while this process reports itself what it dropped, once, by the ids of the trades.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ingest.dropped import Dropped
from klagg.clock import steady_ms
from klagg.process.stats import Stats
from klagg.wire.entries import TRADES, WATERMARK, WITNESS
from klagg.wire.fields import Fields, stamp

ENTRY_OVERHEAD_BYTES = 1024
"""Roughly what a queued entry takes beside its texts: the mapping, its keys and places."""

_DROPPED_FIRST = (WATERMARK, WITNESS, TRADES)
_DROPPED_COUNTERS = {WATERMARK: "dropped_watermarks", WITNESS: "dropped_witnesses"}


@dataclass(slots=True)
class Queued:
    """An entry that waits since `put_ms` (local). `stamped` is the entry as it was sent: then it may be in Redis."""

    key: str
    fields: Fields
    size: int
    put_ms: float
    stamped: Fields | None = None


class Outbox:
    """Entries in order, at most `bytes_max` bytes of them, and at most `age_s_max` (local) old.

    Watermarks and witnesses are dropped before trades: an old one has no use. Other kinds are never dropped; callers
    must keep them rare. `on_put` is called after every put: it wakes the sender. `now_ms` reads the local clock.
    """

    def __init__(
        self,
        writer: str,
        bytes_max: int,
        age_s_max: float,
        stats: Stats,
        *,
        on_put: Callable[[], None] = lambda: None,
        now_ms: Callable[[], float] = steady_ms,
    ) -> None:
        self._writer, self._bytes_max, self._age_ms_max = writer, bytes_max, age_s_max * 1000
        self._stats, self._on_put, self._now_ms = stats, on_put, now_ms
        self._entries: OrderedDict[int, Queued] = OrderedDict()
        self._droppable: dict[str, deque[int]] = {each: deque() for each in _DROPPED_FIRST}
        self._last = 0
        self._seq: dict[str, int] = {}
        self._in_flight: list[int] = []
        self.bytes = 0
        self.dropped: dict[str, Dropped] = {}
        """By feed, what was dropped and is not reported yet."""
        self.dropped_ms = 0.0
        """When something was dropped last (local ms)."""
        self.dropped_because = ""
        self.trouble = "entries come faster than Redis takes them"
        """Why entries wait: the sender keeps the latest error of Redis here."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, fields: Fields) -> None:
        """Queue an entry for the stream `key`. What is then too much or too old is dropped, oldest first."""
        size = ENTRY_OVERHEAD_BYTES + sum(map(sys.getsizeof, fields.values()))
        now_ms = self._now_ms()
        self._last += 1
        self._entries[self._last] = Queued(key, fields, size, now_ms)
        self.bytes += size
        places = self._droppable.get(fields.get("kind", ""))
        if places is not None:
            places.append(self._last)
        self._drop_excess(now_ms)
        self._on_put()

    def head(self, count: int, bytes_max: int, without: Collection[str] = ()) -> list[tuple[str, Fields]]:
        """The oldest entries, except those of the streams `without`: at most `count`, and about `bytes_max` of them.

        At least one is among them, if there is any. They get their numbers, and stay queued until `acknowledge`.
        """
        head: list[tuple[str, Fields]] = []
        self._in_flight, total = [], 0
        for place, each in self._entries.items():
            if each.key in without:
                continue
            total += each.size
            if len(head) == count or (head and total > min(bytes_max, self._bytes_max // 2)):
                break
            if each.stamped is None:
                self._seq[each.key] = self._seq.get(each.key, 0) + 1
                each.stamped = stamp(each.fields, self._writer, self._seq[each.key])
            head.append((each.key, each.stamped))
            self._in_flight.append(place)
        return head

    def acknowledge(self) -> None:
        """Remove what `head` returned last: it is written."""
        for place in self._in_flight:
            self._forget(place)
        self._in_flight = []
        for places in self._droppable.values():
            while places and places[0] not in self._entries:
                places.popleft()

    def drain_dropped(self) -> dict[str, Dropped]:
        """What was dropped since the last call, by feed. The caller must report it: it is forgotten here."""
        dropped, self.dropped = self.dropped, {}
        return dropped

    def abandon(self) -> None:
        """Nothing will be written any more: drop all trades that wait."""
        for place, each in list(self._entries.items()):
            if each.fields.get("kind") == TRADES:
                self._drop_entry(TRADES, place, self._now_ms())

    def _forget(self, place: int) -> Queued:
        gone = self._entries.pop(place)
        self.bytes -= gone.size
        return gone

    def _drop_excess(self, now_ms: float) -> None:
        for kind in _DROPPED_FIRST:
            while self.bytes > self._bytes_max and (place := self._oldest(kind)):
                self._drop_entry(kind, place, now_ms)
            while (place := self._oldest(kind)) and now_ms - self._entries[place].put_ms > self._age_ms_max:
                self._drop_entry(kind, place, now_ms)

    def _oldest(self, kind: str) -> int:
        """The place of the oldest entry of a kind that was never sent; 0 if there is none."""
        for place in self._droppable[kind]:
            queued = self._entries.get(place)
            if queued and queued.stamped is None:
                return place
        return 0

    def _drop_entry(self, kind: str, place: int, now_ms: float) -> None:
        self._droppable[kind].remove(place)
        gone = self._forget(place)
        self.dropped_ms = now_ms
        if kind in _DROPPED_COUNTERS:
            self._stats.add(_DROPPED_COUNTERS[kind])
            return
        self.dropped_because = self.trouble
        counts = self.dropped.setdefault(gone.key, Dropped()).add(gone.fields)
        self._stats.add("dropped_trades", sum(counts.values()), stream=gone.key)

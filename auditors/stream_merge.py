"""Two streams of one shard in the order of the log: of a tick first the klines, then the events. Pure.

One commit appends a tick's klines and then its events, so klines have no higher id than the events they belong to. An
event is yielded when every kline up to its id has been; klines after the newest event wait for their own event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from klagg.drivers.commands import Entry
from klagg.wire.entry_id import milliseconds_of


class StreamMerge:
    """`klines_at_end`: the last XREADGROUP of klines, issued with or after that of events, reached the end."""

    def __init__(self) -> None:
        self.klines: deque[Entry] = deque()
        self.events: deque[Entry] = deque()
        self.klines_at_end = False

    def add_events(self, entries: Sequence[Entry]) -> None:
        """Add the next events; klines must be read again after this."""
        self.events += entries
        self.klines_at_end = self.klines_at_end and not entries

    def add_klines(self, entries: Sequence[Entry], *, klines_at_end: bool) -> None:
        """Add the next klines; `klines_at_end`: the read reached the end of the stream."""
        self.klines += entries
        self.klines_at_end = klines_at_end

    def drain_ready(self) -> Iterator[tuple[str, Entry]]:
        """Remove and yield, as (stream, entry), all entries whose order is known."""
        while self.events:
            until_ms = _milliseconds(self.events[0])
            while self.klines and _milliseconds(self.klines[0]) <= until_ms:
                yield "klines", self.klines.popleft()
            if not self.klines and not self.klines_at_end:
                return
            yield "events", self.events.popleft()

    def clear(self) -> None:
        """Drop everything that was read."""
        self.klines.clear()
        self.events.clear()
        self.klines_at_end = False


def _milliseconds(entry: Entry) -> int:
    return milliseconds_of(entry.id)

"""Two streams of one shard in the order of the log: of a tick first the klines, then the events. Pure.

One commit appends a tick's klines and then its events, so klines have no higher id than the events they belong to. An
event is given out when every kline up to its id is; klines behind the newest event wait for theirs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from klagg.drivers.commands import Entry
from klagg.wire.entry_id import milliseconds_of


class Weave:
    """`drained` is whether the last look for klines, taken behind that for events, found all that there were."""

    def __init__(self) -> None:
        self.klines: deque[Entry] = deque()
        self.events: deque[Entry] = deque()
        self.drained = False

    def add_events(self, entries: Sequence[Entry]) -> None:
        """The next events; klines must be looked for after this."""
        self.events += entries
        self.drained = self.drained and not entries

    def add_klines(self, entries: Sequence[Entry], *, drained: bool) -> None:
        """The next klines; `drained`: there are no more."""
        self.klines += entries
        self.drained = drained

    def take(self) -> Iterator[tuple[str, Entry]]:
        """Stream and entry of all that can be judged now."""
        while self.events:
            until_ms = _milliseconds(self.events[0])
            while self.klines and _milliseconds(self.klines[0]) <= until_ms:
                yield "klines", self.klines.popleft()
            if not self.klines and not self.drained:
                return
            yield "events", self.events.popleft()

    def clear(self) -> None:
        """Nothing was read."""
        self.klines.clear()
        self.events.clear()
        self.drained = False


def _milliseconds(entry: Entry) -> int:
    return milliseconds_of(entry.id)

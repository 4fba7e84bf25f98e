"""Entries on their way to Redis: a queue bounded by bytes, from which nothing leaves unwritten. Pure."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from itertools import islice

from klagg.contract import Fields, stamp
from klagg.errors import KlaggError

ENTRY_OVERHEAD_BYTES = 1024
"""What a queued entry takes beside its texts, roughly: the mapping, its keys and places."""


class OutboxFull(KlaggError):
    """The buffer for trades is full.

    `waiting` entries of `waiting_bytes` are held and will be lost with this process.
    """

    def __init__(self, waiting: int, waiting_bytes: int, reason: str) -> None:
        megabytes = waiting_bytes / (1 << 20)
        super().__init__(
            f"the buffer between exchange and Redis is full ({waiting} entries, {megabytes:.0f} MB, see "
            f"ingest.buffer_mb_max) and trades can no longer be held: {reason}"
        )
        self.waiting = waiting
        self.waiting_bytes = waiting_bytes


class Outbox:
    """Stamped entries in order. An entry gets its `seq` (+1 per stream) here, once, however often it is sent.

    `on_put` is called after every put: the sender's wake-up call.
    """

    def __init__(self, writer: str, bytes_max: int, on_put: Callable[[], None] = lambda: None) -> None:
        self._writer, self._bytes_max, self._on_put = writer, bytes_max, on_put
        self._entries: deque[tuple[str, Fields, int]] = deque()
        self._seq: dict[str, int] = {}
        self.bytes = 0
        self.trouble = "entries come faster than Redis takes them"
        """Why entries wait: the sender keeps the latest trouble with Redis here."""

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: str, fields: Fields) -> None:
        """Queue an entry for the stream `key`; OutboxFull if it does not fit, and then it is not taken."""
        size = ENTRY_OVERHEAD_BYTES + sum(map(sys.getsizeof, fields.values()))
        if self.bytes + size > self._bytes_max:
            raise OutboxFull(len(self), self.bytes, self.trouble)
        seq = self._seq.get(key, 0) + 1
        self._seq[key] = seq
        self._entries.append((key, stamp(fields, self._writer, seq), size))
        self.bytes += size
        self._on_put()

    def head(self, count: int, bytes_max: int) -> list[tuple[str, Fields]]:
        """The oldest entries, at most `count` and about `bytes_max` (but at least one); they stay queued."""
        taken: list[tuple[str, Fields]] = []
        total = 0
        for key, fields, size in islice(self._entries, count):
            total += size
            if taken and total > bytes_max:
                break
            taken.append((key, fields))
        return taken

    def drop(self, count: int) -> None:
        """Forget the `count` oldest entries: they are written."""
        for _ in range(count):
            self.bytes -= self._entries.popleft()[2]

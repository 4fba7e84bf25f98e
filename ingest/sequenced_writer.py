"""Writes entries of one process in turn, each stamped at the last moment. A thin shell over Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ingest.sender import Writer
from klagg.drivers.redis_streams import Append
from klagg.wire.fields import stamp


class SequencedWriter:
    """Numbers entries by stream. A `seq` is used up when Redis has acknowledged the entry.

    So an entry that was dropped leaves no gap in the numbers, which would look like a loss. That also holds where a
    write has several entries for a stream: Redis appends all of them or none (Redis docs, "Transactions"). An entry
    whose reply was lost may share its `seq` with the next one, and so may one that went to another stream than the one
    that refused. Readers of ticks and listings need no more.
    """

    def __init__(self, streams: Writer, writer: str) -> None:
        self._streams, self._writer = streams, writer
        self._turn = asyncio.Lock()
        self._seq: dict[str, int] = {}

    async def write(self, compose: Callable[[], Sequence[Append]]) -> None:
        """Stamp and write what `compose` returns; it is called when it is this write's turn.

        RedisUnavailable or RedisRefused if that fails; then no number is used up.
        """
        async with self._turn:
            seq = dict(self._seq)
            appends = []
            for entry in compose():
                seq[entry.key] = seq.get(entry.key, 0) + 1
                appends.append(Append(entry.key, stamp(entry.fields, self._writer, seq[entry.key]), entry.maxlen))
            await self._streams.append_all(appends)
            self._seq = seq

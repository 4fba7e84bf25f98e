"""ProgressBars in progress into the table: the shell around `progress`.

A snapshot is never in the way of finals: it waits until writer-final has settled what it was given, goes in small
batches sorted by key, each committed by itself, and leaves the rest to the next trigger as soon as finals wait again.
It is never over them either: both writers go through `kline_table.upsert`, whose guard lets no bar in progress replace
a final, whatever their epochs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.errors import DatabaseRefused
from klagg.process.service import Context
from klagg.wire.fields import integer_of
from klagg.wire.keys import GROUP_WRITERS, Keys
from writers.kline_table import upsert, value_is_to_blame
from writers.progress import ProgressBar, ShownBars, bars_of

BATCH_ROWS: Final = 500
"""Rows of one transaction: a final that meets it waits for so many at most."""

FINALS_WAITING_MAX: Final = 1000
"""More entries than this that writer-final has not settled, and it is behind: a snapshot then waits."""

BAD_LOGGED: Final = 3
"""How many bars of a snapshot that cannot be stored are named in the log."""


class Snapshots:
    """Writes snapshots of every shard. Errors are those of `Streams` and `Database`; what was not written then, is by
    the next snapshot."""

    def __init__(self, context: Context, streams: Streams, database: Database) -> None:
        self._context, self._streams, self._database = context, streams, database
        settings = context.settings
        self._intervals = frozenset(settings.persistence.snapshot_intervals)
        self._shards = {Keys(shard): ShownBars() for shard in range(settings.shards)}

    def finals_wait(self) -> bool:
        """Whether writer-final is behind; also where Redis does not know how far it is.

        It may know by the end of the next batch: it is certain of a group that has read to the end of its stream.
        """
        waiting = 0
        for keys in self._shards:
            unread = self._streams.group_lag(keys.klines, GROUP_WRITERS)
            if unread is None:
                return True
            waiting += unread + self._streams.pending_count(keys.klines, GROUP_WRITERS)
        return waiting > FINALS_WAITING_MAX

    def write(self) -> bool:
        """Write what changed since the last snapshot; False if finals had to be let through before all was written."""
        stats = self._context.stats
        for keys, shown in self._shards.items():
            epoch = self._epoch(keys)
            raw = self._streams.hash_of(keys.bars)
            if epoch is None or epoch != self._epoch(keys):
                continue  # nothing was ever committed, or the shard changes hands: the next trigger sees clearer
            bars = bars_of(shown.changed(raw, epoch, self._intervals), epoch)
            shown.values.update((name, raw[name]) for name in bars.over)
            for number, batch in enumerate(bars.batches(BATCH_ROWS)):
                if self._context.stopping or (number and self.finals_wait()):
                    stats.add("snapshots_cut_short")
                    return False
                bars.bad += self._write(batch)
                shown.values.update((bar.name, bar.value) for bar in batch)
                self._context.beat()
            self._report_bad(keys, bars.bad)
        stats.add("snapshots")
        return True

    def _epoch(self, keys: Keys) -> int | None:
        """The epoch of the aggregator that has the shard; None if there never was one."""
        position = self._streams.hash_of(keys.commit)
        return integer_of(position, "epoch") if position else None

    def _write(self, batch: Sequence[ProgressBar]) -> list[str]:
        """Store a batch, row by row if the database refuses a value in it; sentences about rows that it refused."""
        try:
            written = upsert(self._database, [bar.kline for bar in batch])
        except DatabaseRefused as refused:
            if not value_is_to_blame(refused):
                raise
            if len(batch) == 1:
                return [f"{batch[0].name!r}: {refused}"]
            return [sentence for bar in batch for sentence in self._write([bar])]
        self._context.stats.add("rows", written)
        self._context.stats.add("bars", len(batch))
        return []

    def _report_bad(self, keys: Keys, bad: Sequence[str]) -> None:
        if bad:
            self._context.stats.add("bad_bars", len(bad))
            named = "; ".join(bad[:BAD_LOGGED])
            self._context.log.error("%d bars of %s cannot be stored: %s", len(bad), keys.bars, named)

"""Finals that somebody lost and that are published again, as the ring holds them. Pure.

A consumer of `klines:{n}` that lost an entry writes an `again` entry into the feed, which names the bars. So what is
published stays a function of the log: a restart that reads the feed on says the same again. A bar goes out in the
version that it has, which changes nothing where it did come; with `again` = 1, so that nobody takes it for the work
of a second aggregator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from aggregator.publisher import Outputs, Publisher
from aggregator.ring import Ring
from aggregator.symbols import SymbolTable
from klagg.errors import ContractError
from klagg.wire.entries import BarKey, again_of
from klagg.wire.fields import RawFields
from klagg.wire.findings import FindingKind, Severity, backfill_command, finding_entry

AGAIN_MAX: Final = 20_000
"""Bars that may be asked for between two ticks; an entry with more goes to `dead`."""


class Again:
    """What was asked for since the last tick, and how it is answered."""

    def __init__(self, ring: Ring, symbols: SymbolTable, publisher: Publisher) -> None:
        self._ring, self._symbols, self._publisher = ring, symbols, publisher
        self._at = {kind.name: at for at, kind in enumerate(ring.intervals)}
        self._asked: dict[BarKey, None] = {}

    def gather(self, raw: RawFields) -> None:
        """Take in an `again` entry; ContractError if it cannot be one, or asks for too much."""
        bars = again_of(raw)
        if len(self._asked) + len(bars) > AGAIN_MAX:
            raise ContractError(f"more than {AGAIN_MAX} bars are asked for again between two ticks")
        self._asked.update(dict.fromkeys(bars))

    def publish(self, outputs: Outputs, epoch: int) -> int:
        """Publish the finals that were asked for and are held; how many. A finding names those that are not held any
        more. A bar that is still to be published comes by itself, and one that never was is nobody's."""
        asked, self._asked = self._asked, {}
        held: dict[int, list[tuple[int, int]]] = {}
        gone: dict[str, list[BarKey]] = {}
        for name, interval, opening in sorted(asked):
            at = self._at.get(interval)
            if at is None or self._ring.intervals[at].open_time(opening) != opening:
                continue
            bucket, slot = self._ring.intervals[at].bucket_of(opening), self._symbols.index.get(name.encode())
            row = self._ring.row_of(at, bucket)
            if bucket < self._ring.oldest(at) or (slot is None and bucket < int(self._ring.head[at])):
                gone.setdefault(name, []).append((name, interval, opening))
            elif slot is not None and self._is_held(row, bucket, slot):
                held.setdefault(at, []).append((row, slot))
        for at, cells in held.items():
            rows, slots = np.array(cells, np.int64).T
            self._publisher.publish_again(outputs, at, rows, slots, epoch)
        outputs.findings += [
            finding_entry(
                FindingKind.UNREPAIRED, Severity.ERROR, evidence_of(bars), symbol=name, time_ms=outputs.time_ms
            )
            for name, bars in gone.items()
        ]
        return sum(map(len, held.values()))

    def _is_held(self, row: int, bucket: int, slot: int) -> bool:
        """Whether the row holds this bar as it was published last. One that changed since comes as an amendment."""
        there = self._ring.row_bucket[row] == bucket and self._ring.revision[row, slot] > 0
        return bool(there and not self._ring.changed[row, slot])


def evidence_of(bars: Sequence[BarKey]) -> str:
    """Why these bars of one symbol (at least one) are not published again, and what a person does."""
    return (
        f"{len(bars)} finals were lost by their reader and are older than what the aggregator holds: "
        f"{backfill_command(bars)} loads them"
    )

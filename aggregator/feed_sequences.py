"""Whether the feed is whole: every writer numbers its entries, so a number that is missing is an entry that is lost.

Pure. The ledger sees missing trades by their ids. This module sees missing entries of any kind, also ticks, watermarks
and listings, and those that were trimmed before this process read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from klagg.wire.fields import Fields, RawFields, integer_of, text_of
from klagg.wire.findings import FindingKind, Severity, finding_entry

WRITERS_MAX = 1_000
"""Runs of writers that are remembered; beyond it the one unseen for longest is forgotten."""

FORGET_MS = 86_400_000
"""A run unseen for this long (exchange time) is forgotten, once a later run of the same process has been seen."""

FIRST_SEQ = 1
"""The number of every writer's first entry."""


@dataclass(slots=True)
class LastEntry:
    """The last entry of one writer: its number, its stream id, and the exchange time (ms) of the tick before it."""

    seq: int
    time_ms: int
    entry_id: str


class FeedSequences:
    """The last number of every writer of the feed. `lost` entries never came, `repeated` ones came again.

    A repetition is harmless: a writer that never got the reply to its append appends again, and the ledger drops trades
    that come twice.
    """

    def __init__(self) -> None:
        self.writers: dict[str, LastEntry] = {}
        self.lost = 0
        self.repeated = 0

    def note(self, entry_id: str, raw: RawFields, time_ms: int) -> Fields | None:
        """Note an entry that came after the tick at `time_ms` (exchange ms); a finding if earlier ones are missing.

        ContractError if the entry names no writer, or no number.
        """
        writer, seq = text_of(raw, "writer"), integer_of(raw, "seq")
        seen = self.writers.pop(writer, None)
        expected = seen.seq + 1 if seen else FIRST_SEQ
        if seen and seq <= seen.seq:
            self.repeated += 1
            self.writers[writer] = LastEntry(seen.seq, time_ms, entry_id)
            return None
        self.writers[writer] = LastEntry(seq, time_ms, entry_id)
        if not seen and len(self.writers) > WRITERS_MAX:
            del self.writers[next(iter(self.writers))]
        if seq <= expected:
            return None
        self.lost += seq - expected
        since = f"after {seen.entry_id} ({seen.time_ms} ms)" if seen else "its first one"
        evidence = (
            f"{seq - expected} entries of the feed were never read: seq {expected} to {seq - 1} of {writer}, "
            f"{since} and before {entry_id} ({time_ms} ms)"
        )
        return finding_entry(FindingKind.DATA_LOSS, Severity.ERROR, evidence, time_ms=time_ms)

    def forget(self, time_ms: int) -> None:
        """Forget runs that were unseen for FORGET_MS before `time_ms`, if a later run of the same process was seen. The
        newest run of a process is kept, because it may merely be quiet."""
        if not self.writers or next(iter(self.writers.values())).time_ms >= time_ms - FORGET_MS:
            return
        newest = {_process(writer): writer for writer in self.writers}  # they stand in the order of their last entries
        for writer in [
            writer
            for writer, seen in self.writers.items()
            if seen.time_ms < time_ms - FORGET_MS and newest[_process(writer)] != writer
        ]:
            del self.writers[writer]

    def to_rows(self) -> list[list[str | int]]:
        """The state for a checkpoint, oldest first."""
        return [[writer, seen.seq, seen.time_ms, seen.entry_id] for writer, seen in self.writers.items()]

    def restore(self, rows: Sequence[tuple[str, int, int, str]]) -> None:
        """Put the state of a checkpoint back."""
        self.writers = {writer: LastEntry(seq, time_ms, entry_id) for writer, seq, time_ms, entry_id in rows}


def _process(writer: str) -> str:
    """The process of a run: `ingest-A` of `ingest-A@1700000000000`."""
    return writer.partition("@")[0]

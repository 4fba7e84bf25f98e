"""Whether a stream is complete as an auditor reads it: the aggregator numbers a shard's entries, +1 each. Pure.

The numbers of an output stream continue over all runs of a shard's aggregator (the commit hash keeps them). So a
missing number is an entry that was trimmed or deleted before this auditor read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from klagg.wire.fields import RawFields, integer_of


@dataclass(frozen=True, slots=True)
class LostEntries:
    """The entries with the numbers `first` to `last` are gone; their places were between the entry ids `after` and
    `before`."""

    first: int
    last: int
    after: str
    before: str

    @property
    def count(self) -> int:
        """How many entries were lost."""
        return self.last - self.first + 1


class EntrySequence:
    """The last number and entry id of one stream; 0 and "" before the first entry. `since_start`: the auditor has read
    the stream from its first entry (number 1) on."""

    def __init__(self) -> None:
        self.number, self.entry_id, self.since_start = 0, "", False

    def note(self, entry_id: str, raw: RawFields) -> LostEntries | None:
        """Take in the next entry; returns the entries lost right before it. ContractError if it has no number.

        Entries before the first one that this auditor reads are not lost: it had not begun to read.
        """
        number = integer_of(raw, "seq")
        lost = None
        if not self.number:
            self.since_start = number == 1
        elif number > self.number + 1:
            lost = LostEntries(self.number + 1, number - 1, self.entry_id, entry_id)
        self.number, self.entry_id = max(number, self.number), entry_id
        return lost

    def to_list(self) -> list[int | str | bool]:
        """The state for JSON."""
        return [self.number, self.entry_id, self.since_start]

    def restore(self, saved: list[int | str | bool]) -> None:
        """Put back the state that `to_list` gave."""
        self.number, self.entry_id, self.since_start = int(saved[0]), str(saved[1]), bool(saved[2])

"""Whether a stream is whole as an auditor reads it: the aggregator numbers a shard's entries, +1 each. Pure.

The numbers of an output stream go on over all aggregators of a shard (its commit hash keeps them), so a number that is
left out is an entry that was trimmed, or deleted, before this auditor was given it.
"""

from __future__ import annotations

from dataclasses import dataclass

from klagg.wire.fields import RawFields, integer_of


@dataclass(frozen=True, slots=True)
class Jump:
    """The numbers `first` to `last` are gone; they stood behind the entry `after` and before the entry `before`."""

    first: int
    last: int
    after: str
    before: str

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Continuity:
    """The last number and id of one stream; 0 and "" before the first entry. `since_start` is whether the auditor has
    read the stream from its very first entry on."""

    def __init__(self) -> None:
        self.number, self.entry_id, self.since_start = 0, "", False

    def note(self, entry_id: str, raw: RawFields) -> Jump | None:
        """Take in the next entry; the jump before it, if there is one. ContractError if it tells no number.

        What came before the very first entry that this auditor sees is no loss: it was not there to be read to it.
        """
        number = integer_of(raw, "seq")
        jump = None
        if not self.number:
            self.since_start = number == 1
        elif number > self.number + 1:
            jump = Jump(self.number + 1, number - 1, self.entry_id, entry_id)
        self.number, self.entry_id = max(number, self.number), entry_id
        return jump

    def to_list(self) -> list[int | str | bool]:
        """What a restart needs."""
        return [self.number, self.entry_id, self.since_start]

    def restore(self, saved: list[int | str | bool]) -> None:
        """As it was when `to_list` was called."""
        self.number, self.entry_id, self.since_start = int(saved[0]), str(saved[1]), bool(saved[2])

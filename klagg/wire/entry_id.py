"""The id of a stream entry, `ms-number`, parsed, compared and written in this one place. Pure.

An id is a time of Redis' clock in ms and a number that counts the entries of that millisecond. Both are 64 bits without
a sign, and ids of one stream only rise (Redis docs, "XADD"). Entries carry their ids as text, because most readers only
hand them back to Redis; whoever compares ids makes an EntryId of them, because texts do not compare as numbers do.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from klagg.errors import ContractError

PART_MAX: Final = (1 << 64) - 1
"""The largest value of either part."""

BEFORE_FIRST: Final = "0-0"
"""The id before every entry's: a reader that has read nothing stands here. XADD never gives it (Redis docs, "XADD")."""


class EntryId(NamedTuple):
    """An id that compares as Redis orders entries. `ms` is the time of Redis' clock, `number` counts within it."""

    ms: int
    number: int

    @classmethod
    def of(cls, text: str) -> EntryId:
        """The id in `text`; ContractError unless the text is two decimal numbers joined by `-`."""
        ms, _, number = text.partition("-")
        if not (ms.isdecimal() and number.isdecimal() and text.isascii()):
            raise ContractError(f"{text[:60]!r} is no id of a stream entry")
        return cls(int(ms), int(number))

    def __str__(self) -> str:
        return f"{self.ms}-{self.number}"

    @property
    def next(self) -> EntryId:
        """The lowest id behind this one."""
        return EntryId(self.ms + 1, 0) if self.number == PART_MAX else EntryId(self.ms, self.number + 1)


def next_id(text: str) -> str:
    """The lowest id behind the one in `text`, as text; ContractError if `text` is no id."""
    return str(EntryId.of(text).next)


def milliseconds_of(text: str) -> int:
    """The time of Redis' clock (ms) in the id `text`; ContractError if `text` is no id."""
    return EntryId.of(text).ms

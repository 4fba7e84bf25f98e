"""Numbers that are left out are entries that were lost, to the last one."""

from __future__ import annotations

import json

import pytest

from auditors.entry_sequence import EntrySequence, LostEntries
from klagg.errors import ContractError


def note(one: EntrySequence, number: int) -> LostEntries | None:
    return one.note(f"{number}-0", {b"seq": str(number).encode()})


def test_a_stream_without_a_gap() -> None:
    one = EntrySequence()
    assert [note(one, number) for number in range(1, 50)] == [None] * 49
    assert one.since_start


def test_what_was_before_the_first_entry_is_no_loss() -> None:
    one = EntrySequence()
    assert note(one, 77) is None
    assert not one.since_start
    assert note(one, 78) is None


def test_a_jump_is_told_exactly_also_over_a_restart() -> None:
    one, other = EntrySequence(), EntrySequence()
    note(one, 1)
    other.restore(json.loads(json.dumps(one.to_list())))
    lost = note(other, 5)
    assert lost == LostEntries(2, 4, "1-0", "5-0")
    assert lost.count == 3
    assert note(other, 6) is None
    assert other.since_start


def test_an_entry_without_a_number_is_refused() -> None:
    with pytest.raises(ContractError):
        EntrySequence().note("1-0", {b"seq": b"x"})

"""Ids of stream entries: parsed, compared and written in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.errors import ContractError
from klagg.wire.entry_id import BEFORE_FIRST, PART_MAX, EntryId, milliseconds_of, next_id
from tests.test_architecture import MODULES, ROOT

PARTS = st.integers(0, PART_MAX)
IDS = st.builds(EntryId, PARTS, PARTS)


@given(IDS)
def test_it_is_read_as_it_was_written(entry_id: EntryId) -> None:
    assert EntryId.of(str(entry_id)) == entry_id
    assert milliseconds_of(str(entry_id)) == entry_id.ms


@given(IDS, IDS)
def test_ids_compare_as_redis_orders_them(one: EntryId, other: EntryId) -> None:
    assert (one < other) == ((one.ms, one.number) < (other.ms, other.number))
    assert EntryId.of("10-0") > EntryId.of("9-99")
    assert EntryId.of(BEFORE_FIRST) <= one


@given(IDS)
def test_nothing_lies_between_an_id_and_the_next(entry_id: EntryId) -> None:
    following = entry_id.next
    assert following > entry_id
    assert (following.ms - entry_id.ms, following.number) in ((0, entry_id.number + 1), (1, 0))
    assert next_id(str(entry_id)) == str(following)


def test_a_full_millisecond_is_followed_by_the_next_one() -> None:
    assert next_id("5-9") == "5-10"
    assert next_id(f"5-{2**64 - 1}") == "6-0"


@pytest.mark.parametrize(
    "text", ["", "-", "5", "5-", "-5", "5-6-7", "5-x", " 5-6", "5-6 ", "+5-6", "1_0-1", "٥-1", "-1-2", "$"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="no id of a stream entry"):
        EntryId.of(text)


BY_HAND = re.compile(r"""\bid\w*\.(?:r?partition|split)\(["']-|entry_id\.(?:r?partition|split)\(["']-""")


def test_ids_are_taken_apart_nowhere_else() -> None:
    found = [
        f"{path}:{number} {line.strip()}"
        for path in MODULES
        if path != "klagg/wire/entry_id.py"
        for number, line in enumerate(Path(ROOT, path).read_text(encoding="utf-8").splitlines(), 1)
        if BY_HAND.search(line)
    ]
    assert found == []
    assert BY_HAND.search('    return int(entry.id.partition("-")[0])')
    assert BY_HAND.search("    milliseconds, _, number = entry_id.partition('-')")

"""Which connection carries which symbol, as the universe changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.pool import placed

NAMES = [f"S{number}" for number in range(12)]


def test_new_symbols_fill_connections_with_room_before_there_is_another() -> None:
    first = placed([], list("abcde"), 2)
    assert first == [{"a", "b"}, {"c", "d"}, {"e"}]
    assert placed(first, list("bcdefgh"), 2) == [{"b", "f"}, {"c", "d"}, {"e", "g"}, {"h"}]


def test_a_connection_without_symbols_keeps_its_place() -> None:
    assert placed([frozenset("a"), frozenset("b")], ["b"], 1) == [set(), {"b"}]


@given(st.lists(st.sets(st.sampled_from(NAMES))), st.integers(1, 5))
def test_every_symbol_has_one_place_and_keeps_it(universes: list[set[str]], size: int) -> None:
    parts: list[frozenset[str]] = []
    for wanted in universes:
        before, parts = parts, placed(parts, wanted, size)
        assert sorted(name for part in parts for name in part) == sorted(wanted)
        assert all(len(part) <= size for part in parts)
        assert all(old & wanted <= new for old, new in zip(before, parts, strict=False))
        room = [number for number, part in enumerate(parts) if len(part) < size]
        grown = len(parts) - len(before)
        assert grown <= 0 or not [number for number in room if number < len(parts) - 1]

"""The symbol table: slots do not depend on arrival order, freed ones are used again, the lowest first."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from aggregator.symbols import FIRST_CAPACITY, NO_STATUS, SymbolTable


@given(st.lists(st.sampled_from([b"A", b"B", b"C", "Ä币".encode()]), min_size=1, max_size=9), st.integers(0, 99))
def test_new_names_get_slots_in_the_order_of_the_names(names: list[bytes], seed: int) -> None:
    one, other = SymbolTable(), SymbolTable()
    slots = one.new_slots_of(names)
    assert [one.names[slot].encode() for slot in slots.tolist()] == names
    assert one.new_slots_of(names).tolist() == one.slots_of(names).tolist() == slots.tolist(), "they stay"
    shuffled = names[:]
    random.Random(seed).shuffle(shuffled)
    other.new_slots_of(shuffled)
    assert other.names == one.names == sorted(one.names, key=str.encode)


def test_the_table_grows_and_keeps_what_it_knows() -> None:
    table = SymbolTable()
    for number in range(FIRST_CAPACITY + 1):
        slot = table.add(f"S{number}")
        table.price_scale[slot], table.qty_scale[slot], table.generation[slot] = number, number + 1, number + 2
    assert (table.count, table.capacity) == (FIRST_CAPACITY + 1, 2 * FIRST_CAPACITY)
    assert len(table.price_scale) == len(table.qty_scale) == len(table.generation) == table.capacity
    assert table.generation[: table.count].tolist() == [number + 2 for number in range(table.count)]
    assert set(table.statuses) == {NO_STATUS}


def test_a_freed_slot_is_empty_and_the_lowest_one_is_used_first() -> None:
    table = SymbolTable()
    table.add_all([b"A", b"B", b"C"])
    table.price_scale[:3] = 5
    for slot in (2, 0):
        table.clear_slot(slot)
    assert (table.names, table.free, dict(table.index)) == (["", "B", ""], [0, 2], {b"B": 1})
    assert table.price_scale[:3].tolist() == [0, 5, 0]
    table.add_all([b"E", b"D"])
    assert (table.names, table.free) == (["D", "B", "E"], [])


def test_a_table_is_loaded_with_its_free_slots() -> None:
    table = SymbolTable()
    table.load(["A", "", "C"], ["TRADING", NO_STATUS, "CLOSE"])
    assert (table.free, dict(table.index), table.statuses[2]) == ([1], {b"A": 0, b"C": 2}, "CLOSE")
    table.add_all([b"B"])
    assert table.names == ["A", "B", "C"]

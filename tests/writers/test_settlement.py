from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.kline import Kline
from tests.writers.support import accepted, kline, minutes
from writers.batch import Accepted
from writers.settlement import Settlement, TooManyRefused


class Table:
    """A database that refuses every attempt with a poison row in it (its `edge` says so)."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, int], Kline] = {}
        self.attempts = 0

    def settle(self, settlement: Settlement) -> None:
        while rows := settlement.attempt():
            self.attempts += 1
            keys = [entry.kline.key for entry in rows]
            assert keys == sorted(keys)
            if any(entry.kline.edge == "poison" for entry in rows):
                settlement.refused("it is poison")
                continue
            settlement.stored()
            for entry in rows:
                held = self.rows.get(entry.kline.key)
                if held is None or entry.kline.version > held.version:
                    self.rows[entry.kline.key] = entry.kline


def settled(entries: list[Accepted], poison_max: int = 1000) -> tuple[Table, Settlement]:
    table, settlement = Table(), Settlement(entries, poison_max=poison_max)
    table.settle(settlement)
    return table, settlement


def test_an_empty_batch_needs_no_attempt() -> None:
    assert settled([])[0].attempts == 0


def test_a_good_batch_is_one_attempt() -> None:
    table, settlement = settled(accepted(minutes(100)))
    assert table.attempts == 1
    assert len(table.rows) == 100
    assert settlement.poison == []


@pytest.mark.parametrize("place", [0, 1, 2500, 4999])
def test_one_poison_row_among_many_costs_few_attempts(place: int) -> None:
    klines = minutes(5000)
    klines[place] = kline(open_time=klines[place].open_time, edge="poison")
    table, settlement = settled(accepted(klines))
    assert len(table.rows) == 4999
    assert [entry.id for entry in settlement.poison] == [f"{place + 1}-0"]
    assert settlement.poison[0].reason == "it is poison"
    assert table.attempts <= 2 * math.ceil(math.log2(5000)) + 1


versions = st.builds(
    lambda minute, revision, poison: kline(open_time=minute, revision=revision, edge="poison" if poison else ""),
    st.integers(0, 5),
    st.integers(1, 4),
    st.booleans(),
)


@given(st.lists(versions, max_size=40))
def test_the_table_gets_the_highest_good_version_of_each_kline(klines: list[Kline]) -> None:
    entries = accepted(klines)
    table, settlement = settled(entries)
    good = [each for each in klines if not each.edge]
    assert set(table.rows) == {each.key for each in good}
    for key, row in table.rows.items():
        assert row.version == max(each.version for each in good if each.key == key)
    bad = {entry.id for entry in entries if entry.kline.edge}
    assert {entry.id for entry in settlement.poison} <= bad
    assert len({entry.id for entry in settlement.poison}) == len(settlement.poison)


def test_a_wave_of_refusals_ends_the_attempts() -> None:
    with pytest.raises(TooManyRefused, match=r"refused 11 rows.*still in Redis.*it is poison"):
        settled(accepted(minutes(5000, edge="poison")), poison_max=10)

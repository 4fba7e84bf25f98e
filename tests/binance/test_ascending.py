"""The most rows that ascend, against all subsets."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.binance.ascending import ascending_places


@given(st.lists(st.none() | st.integers(0, 9), max_size=9))
def test_no_other_choice_keeps_more(keys: list[int | None]) -> None:
    def ascends(places: tuple[int, ...]) -> bool:
        chosen = [keys[place] for place in places]
        return None not in chosen and all(low < high for low, high in pairwise(chosen))  # type: ignore[operator]

    kept = ascending_places(keys)
    assert ascends(tuple(sorted(kept)))
    assert not any(ascends(each) for each in combinations(range(len(keys)), len(kept) + 1))


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("wrong", [-1, 10**9])
def test_one_wrong_key_costs_one_row(place: int, wrong: int) -> None:
    keys = [100, 101, 102, 103, 104, 105]
    keys[place] = wrong
    others = set(range(6)) - {place}
    # At an end the wrong key may ascend as well; what is right is kept in any case.
    assert others <= ascending_places(keys)

"""Klines compared as numbers, field by field."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.kline import NINE_VALUES, SUMS, Difference, Values, differences, float_sum_error

OURS: Values = {
    "open": Decimal("1.10"),
    "high": Decimal(2),
    "low": Decimal("0.5"),
    "close": Decimal("1.5"),
    "volume": Decimal("1000.123"),
    "quote_volume": Decimal("2000.5"),
    "trades": 17,
    "taker_buy_volume": Decimal(400),
    "taker_buy_quote_volume": Decimal("800.25"),
}


def test_equal_klines_have_no_differences() -> None:
    assert set(OURS) == set(NINE_VALUES)
    assert differences(OURS, dict(OURS)) == []


def test_decimals_are_compared_as_numbers_not_as_texts() -> None:
    assert differences(OURS, {**OURS, "open": Decimal("1.1000"), "high": Decimal("2E0"), "trades": Decimal(17)}) == []


@pytest.mark.parametrize("name", NINE_VALUES)
@pytest.mark.parametrize("step", [Decimal("1E-20"), -1])
def test_any_field_that_differs_is_found(name: str, step: Decimal) -> None:
    other = Decimal(OURS[name] or 0) + step
    assert differences(OURS, {**OURS, name: other}) == [Difference(name, OURS[name] or 0, other)]


def test_differences_come_in_the_order_of_the_values() -> None:
    theirs = {name: Decimal(value or 0) + 1 for name, value in reversed(list(OURS.items()))}
    assert [each.name for each in differences(OURS, theirs)] == list(NINE_VALUES)


def test_what_a_side_does_not_have_is_not_compared() -> None:
    assert differences({**OURS, "trades": None}, OURS) == []
    assert differences(OURS, {**OURS, "volume": None}) == []
    assert differences(OURS, {"open": Decimal("1.1"), "close": Decimal(9)}) == [
        Difference("close", Decimal("1.5"), Decimal(9))
    ]


@pytest.mark.parametrize("name", sorted(SUMS))
@pytest.mark.parametrize("terms", [1, 60, 10_080])
def test_sums_of_floats_are_compared_to_what_such_a_sum_can_hold(name: str, terms: int) -> None:
    value = Decimal(OURS[name] or 0)
    error = (terms + 1) * Decimal(2) ** -53
    near, far = value * (1 + error * Decimal("0.9")), value * (1 + error * Decimal("1.1") + Decimal("1E-15"))
    assert differences(OURS, {**OURS, name: near}, float_terms={name: terms}) == []
    assert [each.name for each in differences(OURS, {**OURS, name: near})] == [name]
    assert [each.name for each in differences(OURS, {**OURS, name: far}, float_terms={name: terms})] == [name]


@given(st.lists(st.decimals(0, 10**9, places=8), min_size=1, max_size=300))
def test_a_float_sum_of_any_terms_is_within_its_error(terms: list[Decimal]) -> None:
    exact = sum(terms, Decimal(0))
    for text in (repr(sum(map(float, terms), 0.0)), f"{sum(map(float, terms), 0.0):.15g}"):
        assert abs(Decimal(text) - exact) <= float_sum_error(Decimal(text), len(terms)) or not exact


@pytest.mark.parametrize("name", sorted(set(NINE_VALUES) - SUMS))
def test_prices_and_counts_are_exact_even_beside_sums_of_floats(name: str) -> None:
    other = Decimal(OURS[name] or 0) * (1 + Decimal("1E-15"))
    terms = dict.fromkeys(SUMS, 10_080)
    assert [each.name for each in differences(OURS, {**OURS, name: other}, float_terms=terms)] == [name]


def test_a_sum_of_zero_is_only_zero() -> None:
    ours, theirs = {**OURS, "volume": Decimal("1E-30")}, {**OURS, "volume": Decimal(0)}
    assert differences(ours, theirs, float_terms={"volume": 60}) != []

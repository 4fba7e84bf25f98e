"""Decimals as integers against decimal.Decimal; what is no plain decimal is refused, by scalars and columns alike."""

from __future__ import annotations

import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.decimals import (
    DIGITS_MAX,
    POWERS,
    checked,
    decimals_of,
    parse_column,
    parse_integers,
    to_mantissa,
    to_text,
)
from klagg.errors import BadDecimal, ContractError

INT64 = np.iinfo(np.int64)


def digits(most: int) -> st.SearchStrategy[str]:
    return st.text("0123456789", min_size=1, max_size=most)


@st.composite
def plain(draw: st.DrawFn) -> str:
    """A plain decimal of at most 18 digits."""
    whole = draw(digits(DIGITS_MAX))
    most = DIGITS_MAX - len(whole)
    return f"{whole}.{draw(digits(most))}" if most and draw(st.booleans()) else whole


noise = st.text("0019.,,-+e_ \t\n\x00x٣", max_size=8)
"""Texts that come close to a column of decimals; the last letter is a digit, though not one of ASCII's."""


def is_plain(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)) and len(text.replace(".", "")) <= DIGITS_MAX


@given(plain(), st.integers(0, 18))
def test_a_mantissa_is_exact_or_refused(text: str, scale: int) -> None:
    exact = Decimal(text).scaleb(scale)
    if exact == exact.to_integral_value():
        assert to_mantissa(text, scale) == int(exact)
    else:
        with pytest.raises(BadDecimal, match=f"more than {scale} decimals"):
            to_mantissa(text, scale)


@given(plain())
def test_the_decimals_that_a_text_needs(text: str) -> None:
    needed = decimals_of(text)
    assert Decimal(text) == Decimal(text).quantize(Decimal(1).scaleb(-needed))
    to_mantissa(text, needed)
    if needed:
        with pytest.raises(BadDecimal):
            to_mantissa(text, needed - 1)


@given(st.integers(-(10**25), 10**25), st.integers(0, 18))
def test_text_and_back(mantissa: int, scale: int) -> None:
    text = to_text(mantissa, scale)
    assert Decimal(text) == Decimal(mantissa).scaleb(-scale)
    assert re.fullmatch(rf"-?[0-9]+\.[0-9]{{{scale}}}" if scale else r"-?[0-9]+", text)
    assert not re.match(r"-?0[0-9]", text)
    if 0 <= mantissa < 10**DIGITS_MAX and len(text) - 1 <= DIGITS_MAX:
        assert to_mantissa(text, scale) == mantissa


@pytest.mark.parametrize(
    ("mantissa", "scale", "text"), [(0, 0, "0"), (0, 3, "0.000"), (5, 3, "0.005"), (-5, 1, "-0.5"), (120, 1, "12.0")]
)
def test_texts_as_binance_prints_them(mantissa: int, scale: int, text: str) -> None:
    assert to_text(mantissa, scale) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-1", "negative"),
        ("-0", "negative"),
        ("abc", "not a plain decimal number"),
        ("", "not a plain decimal number"),
        ("1e5", "not a plain decimal number"),
        ("NaN", "not a plain decimal number"),
        ("Infinity", "not a plain decimal number"),
        (" 1", "not a plain decimal number"),
        ("1\n", "not a plain decimal number"),
        ("1.", "not a plain decimal number"),
        (".5", "not a plain decimal number"),
        ("1,5", "not a plain decimal number"),
        ("1_0", "not a plain decimal number"),
        ("+1", "not a plain decimal number"),
        ("٣", "not a plain decimal number"),
        ("1.2.3", "not a plain decimal number"),
        ("1234567890123456789", "not a plain decimal number"),
        ("123456789012.1234567", "more than 18 digits"),
    ],
)
def test_a_malformed_text_is_refused_with_the_reason(text: str, reason: str) -> None:
    for read in (checked, decimals_of, lambda bad: to_mantissa(bad, 18)):
        with pytest.raises(BadDecimal) as raised:
            read(text)
        assert str(raised.value) == f"{text!r} is not a usable decimal: {reason}"
        assert (raised.value.text, raised.value.reason) == (text, reason)


@given(noise)
def test_a_text_is_taken_if_it_is_plain_and_only_then(text: str) -> None:
    if is_plain(text):
        assert checked(text) == text
    else:
        with pytest.raises(BadDecimal):
            checked(text)


@given(st.lists(plain(), min_size=1))
def test_a_column_is_exact(texts: list[str]) -> None:
    mantissas, decimals = parse_column(",".join(texts).encode(), len(texts))
    assert mantissas.dtype == decimals.dtype == np.int64
    assert [
        Decimal(mantissa).scaleb(-places)
        for mantissa, places in zip(mantissas.tolist(), decimals.tolist(), strict=True)
    ] == [Decimal(text) for text in texts]
    assert decimals.tolist() == [len(text.partition(".")[2]) for text in texts]


@given(noise)
def test_a_column_is_taken_if_every_value_is_plain_and_only_then(text: str) -> None:
    parts = text.split(",")
    if all(map(is_plain, parts)):
        assert len(parse_column(text.encode(), len(parts))[0]) == len(parts)
    else:
        with pytest.raises(ContractError):
            parse_column(text.encode(), len(parts))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_column_of_another_length_is_refused(count: int) -> None:
    for parse in (parse_column, parse_integers):
        with pytest.raises(ContractError, match=f"a column holds 2 values instead of {count}"):
            parse(b"1,2", count)


@given(st.lists(st.integers(INT64.min, INT64.max), min_size=1))
def test_a_column_of_integers_is_exact(values: list[int]) -> None:
    column = parse_integers(",".join(map(str, values)).encode(), len(values))
    assert column.dtype == np.int64
    assert column.tolist() == values


@given(noise)
def test_a_column_of_integers_is_taken_if_each_is_one_and_only_then(text: str) -> None:
    parts = text.split(",")
    if all(re.fullmatch("-?[0-9]+", part) for part in parts):
        assert parse_integers(text.encode(), len(parts)).tolist() == [int(part) for part in parts]
    else:
        with pytest.raises(ContractError, match="not a column of integers"):
            parse_integers(text.encode(), len(parts))


@pytest.mark.parametrize("value", [INT64.max + 1, INT64.min - 1, 10**30])
def test_an_integer_beyond_64_bits_is_refused_not_cut(value: int) -> None:
    with pytest.raises(ContractError, match="does not fit 64 bits"):
        parse_integers(f"1,{value}".encode(), 2)


def test_powers_of_ten() -> None:
    assert POWERS.tolist() == [10**power for power in range(19)]

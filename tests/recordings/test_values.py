from __future__ import annotations

import pytest

from klagg.recordings import values
from klagg.recordings.values import BadValue


@pytest.mark.parametrize("text", ["0", "1", "28145.10", "0.00001", "23.00000000", 7])
def test_plain_decimals_are_kept_as_written(text: object) -> None:
    assert values.decimal_text("price", text) == str(text)


@pytest.mark.parametrize(
    "text", ["abc", "", "1.", ".5", "1e5", "+1", " 1", "1,5", "NaN", "Infinity", "١", None, True, 1.5]
)
def test_anything_else_is_no_decimal(text: object) -> None:
    with pytest.raises(BadValue, match="is not a decimal"):
        values.decimal_text("price", text)


def test_negative_decimals_are_refused() -> None:
    with pytest.raises(BadValue, match="quantity '-1' is negative"):
        values.decimal_text("quantity", "-1")
    with pytest.raises(BadValue, match="volume '-1e3' is negative"):
        values.kline_decimal_text("volume", "-1e3")


def test_kline_tables_may_hold_exponents() -> None:
    assert values.kline_decimal_text("volume", "1e-05") == "1e-05"
    with pytest.raises(BadValue):
        values.kline_decimal_text("volume", "e5")


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (1_680_652_700_452, 1_680_652_700_452),
        (1_680_652_700_452_999, 1_680_652_700_452),
        (1_680_652_700_452_999_999, 1_680_652_700_452),
        ("1735689600000999", 1_735_689_600_000),
    ],
)
def test_times_are_floored_to_ms_whatever_their_unit(value: object, ms: int) -> None:
    assert values.epoch_ms("trade time", value) == ms


@pytest.mark.parametrize("value", [0, -5, 1_680_652_700, 10**25, "12a", None, 1.5])
def test_implausible_times_are_refused(value: object) -> None:
    with pytest.raises(BadValue):
        values.epoch_ms("trade time", value)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1626992741.06217", 1_626_992_741_062),
        ("1626992741", 1_626_992_741_000),
        ("1680652700441", 1_680_652_700_441),
        ("1680652700441533", 1_680_652_700_441),
        ("1721347021434994132", 1_721_347_021_434),
    ],
)
def test_receive_times_come_in_four_units(text: str, ms: int) -> None:
    assert values.received_ms(text) == ms


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2018-04-17", 1_523_923_200_000),
        ("2018-04-17 04:00:00", 1_523_937_600_000),
        ("2017-08-17 11:00:00+07:00", 1_502_942_400_000),
        ("1725148800000", 1_725_148_800_000),
        (1_725_148_800_000_000, 1_725_148_800_000),
    ],
)
def test_open_times_are_numbers_or_iso_texts(text: object, ms: int) -> None:
    assert values.open_time_ms(text) == ms


def test_an_open_time_that_is_none_is_named() -> None:
    with pytest.raises(BadValue, match="open time 'yesterday' is not a time"):
        values.open_time_ms("yesterday")


def test_booleans() -> None:
    assert [values.boolean("m", x) for x in (True, "true", "True", "1")] == [True] * 4
    assert [values.boolean("m", x) for x in (False, "false", "False", "0")] == [False] * 4
    for bad in ("yes", 1, 0, None, ""):
        with pytest.raises(BadValue, match="neither true nor false"):
            values.boolean("m", bad)

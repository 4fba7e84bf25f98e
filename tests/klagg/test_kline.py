"""The kline record and its codec."""

from __future__ import annotations

import pytest

from klagg.errors import ContractError
from klagg.kline import DECIMAL_FIELDS, FIELDS, INTEGER_FIELDS, NINE_VALUES, Kline

ENTRY = {
    "symbol": "币安人生USDT",
    "interval": "1m",
    "open_time": "1700000040000",
    "close_time": "1700000099999",
    "open": "0.10",
    "high": "0.30",
    "low": "0.09",
    "close": "0.20",
    "volume": "12",
    "quote_volume": "2.40",
    "trades": "5",
    "taker_buy_volume": "7",
    "taker_buy_quote_volume": "1.40",
    "first_agg_id": "-1",
    "last_agg_id": "-1",
    "first_trade_id": "20",
    "last_trade_id": "24",
    "complete": "1",
    "official": "0",
    "epoch": "3",
    "revision": "2",
    "source": "own",
    "edge": "4,5",
}


def test_the_fields_on_the_wire_are_the_contract_s_in_its_order() -> None:
    assert " ".join(FIELDS) == (
        "symbol interval open_time close_time open high low close volume quote_volume trades taker_buy_volume "
        "taker_buy_quote_volume first_agg_id last_agg_id first_trade_id last_trade_id complete official epoch revision "
        "source edge"
    )


def test_an_entry_comes_back_as_it_was() -> None:
    kline = Kline.from_fields(ENTRY)
    assert kline.to_fields() == ENTRY
    assert list(kline.to_fields()) == list(FIELDS)
    assert Kline.from_fields(kline.to_fields()) == kline


def test_integers_are_integers_and_decimals_stay_texts() -> None:
    kline = Kline.from_fields(ENTRY)
    for name in FIELDS:
        assert type(getattr(kline, name)) is (int if name in INTEGER_FIELDS else str)
    assert kline.open == "0.10"
    assert not INTEGER_FIELDS & set(DECIMAL_FIELDS)
    assert set(NINE_VALUES) == {*DECIMAL_FIELDS, "trades"}


def test_its_key_and_the_order_of_versions() -> None:
    kline = Kline.from_fields(ENTRY)
    assert kline.key == ("币安人生USDT", "1m", 1700000040000)
    assert kline.version == (3, 2, 1, 0)
    waiting, official = {"complete": "0"}, {"complete": "0", "official": "1", "source": "mixed"}
    older = [waiting, official, {"revision": "1", "complete": "1"}, {"epoch": "2", "revision": "9"}]
    assert all(Kline.from_fields({**ENTRY, **changes}).version < kline.version for changes in older)
    assert Kline.from_fields({**ENTRY, **waiting}).version < Kline.from_fields({**ENTRY, **official}).version


@pytest.mark.parametrize(("complete", "official", "whole"), [("0", "0", False), ("1", "0", True), ("0", "1", True)])
def test_a_kline_is_whole_on_own_proof_or_on_the_exchange_s_word(complete: str, official: str, whole: bool) -> None:
    assert Kline.from_fields({**ENTRY, "complete": complete, "official": official}).whole == whole


def test_what_travels_along_is_not_part_of_the_record() -> None:
    assert Kline.from_fields({"v": "1", "writer": "w", "seq": "7", **ENTRY}) == Kline.from_fields(ENTRY)


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(ContractError, match=f"^a kline entry lacks the field {name}$"):
        Kline.from_fields({each: value for each, value in ENTRY.items() if each != name})


@pytest.mark.parametrize("name", sorted(INTEGER_FIELDS))
@pytest.mark.parametrize("value", ["", "x", "1.0", "1e3"])
def test_a_number_that_is_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(ContractError, match="a kline entry has a field that is not an integer"):
        Kline.from_fields({**ENTRY, name: value})

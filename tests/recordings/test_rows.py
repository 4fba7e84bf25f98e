from __future__ import annotations

from typing import Any

import pytest

from klagg.recordings.rows import KLINE_COLUMNS, BadKline, agg_trade, closed_kline_event, fill, kline_row, rest_fill
from klagg.recordings.values import BadValue
from tests.rows import OPEN_TIME, ROW_CASES, RowCase

AGG = {"a": 7, "p": "1.50", "q": "3", "nq": "1", "f": 20, "l": 22, "T": 1_700_000_000_000, "m": True}
FILL = {"t": 9, "p": "1.50", "q": "3", "T": 1_700_000_000_000, "X": "MARKET", "m": False}


def test_an_aggregate_trade_keeps_strings_and_ignores_nq() -> None:
    trade = agg_trade(AGG, "BTCUSDT", recv_ms=5)
    assert (trade.id, trade.first, trade.last, trade.price, trade.qty) == (7, 20, 22, "1.50", "3")
    assert (trade.time_ms, trade.maker, trade.counts, trade.recv_ms) == (1_700_000_000_000, True, True, 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"p": "abc"}, "price 'abc' is not a decimal"),
        ({"q": "-1"}, "quantity '-1' is negative"),
        ({"q": "5.5e-7"}, "quantity '5.5e-7' is not a decimal"),
        ({"p": "0"}, "price of the trade 7: zero"),
        ({"l": 19}, "number of the trade 7: f is above l"),
        ({"a": -1}, "number of the trade -1: an id or the time"),
        ({"f": -1, "l": -1}, "number of the trade 7: an id or the time"),
        ({"a": "x"}, "aggregate trade id 'x' is not a whole number"),
        ({"m": "maybe"}, "neither true nor false"),
        ({"T": 12}, "not a plausible time"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadValue, match=reason):
        agg_trade(AGG | change, "BTCUSDT")


@pytest.mark.parametrize("key", ["a", "p", "q", "f", "l", "T", "m"])
def test_a_missing_field_is_named(key: str) -> None:
    with pytest.raises(BadValue, match=f"the field '{key}' is missing"):
        agg_trade({name: value for name, value in AGG.items() if name != key}, "BTCUSDT")


def test_a_struck_out_aggregate_and_one_of_quantity_0_do_not_count() -> None:
    assert not agg_trade(AGG | {"f": -1, "l": -1, "p": "0.00", "q": "0"}, "BTCUSDT").counts
    assert not agg_trade(AGG | {"q": "0.000"}, "BTCUSDT").counts


@pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: case.name)
def test_a_row_of_each_kind_is_a_kline_or_refused(case: RowCase) -> None:
    cells = {name: case.row.get(name, "") for name in KLINE_COLUMNS} | {
        "open_time_ms": str(OPEN_TIME),
        "close_time_ms": str(OPEN_TIME + 59_999),
        "trades": str(case.row["trades"]),
    }
    if case.taken:
        assert kline_row(list(cells.values()), KLINE_COLUMNS).low == case.row["low"]
        return
    with pytest.raises(BadKline) as refused:
        kline_row(list(cells.values()), KLINE_COLUMNS)
    assert refused.value.kline.open_time_ms == OPEN_TIME


def test_a_fill_is_its_own_first_and_last() -> None:
    trade = fill(FILL, "BTCUSDT")
    assert (trade.id, trade.first, trade.last, trade.counts, trade.execution) == (9, 9, 9, True, "MARKET")
    assert fill({key: value for key, value in FILL.items() if key != "X"}, "BTCUSDT").counts
    assert not fill(FILL | {"X": "INSURANCE_FUND"}, "BTCUSDT").counts
    assert not fill(FILL | {"X": "NA", "p": "0", "q": "0"}, "BTCUSDT").counts
    assert fill(FILL | {"X": 5}, "BTCUSDT").counts, "a word that nobody has seen, as in a live trade"


@pytest.mark.parametrize("qty", ["0", "0E-8", "5.5e-17", "0.000000000000000055"])
def test_a_quantity_of_nothing_keeps_the_id_and_does_not_count(qty: str) -> None:
    trade = agg_trade(AGG | {"q": qty}, "BTCUSDT")
    assert (trade.id, trade.qty, trade.counts) == (7, "0", False)


@pytest.mark.parametrize(("count", "trades"), [("9", 9), ("9.0", 9), ("9.000", 9)])
def test_a_count_that_passed_through_floats(count: str, trades: int) -> None:
    cells = ["1.0", "1.0", "1.0", "1.0", "9", "9", "4", "4"]
    row = ["1700000040000", *cells[:5], "1700000099999", cells[5], count, *cells[6:]]
    assert kline_row(row, KLINE_COLUMNS).trades == trades
    row[8] = "9.5"
    with pytest.raises(BadValue, match=r"trade count '9\.5'"):
        kline_row(row, KLINE_COLUMNS)


def test_a_fill_with_long_names() -> None:
    row = {"id": 4, "price": "2", "qty": "1", "quoteQty": "2", "time": 1_700_000_000_000, "isBuyerMaker": True}
    assert rest_fill(row, "X").id == 4
    with pytest.raises(BadValue, match="the field 'qty' is missing"):
        rest_fill({"id": 4, "price": "2"}, "X")


def test_a_kline_row_that_is_too_short() -> None:
    with pytest.raises(BadValue, match="the row has 3 columns"):
        kline_row(["1725148800000", "1", "1"], KLINE_COLUMNS)


def test_only_closed_kline_events_are_rows() -> None:
    k = {"t": 1_626_992_700_000, "T": 1_626_992_759_999, "s": "A", "i": "1m", "o": "1", "c": "2", "h": "3", "l": "1"}
    k |= {"v": "5", "n": 2, "q": "9", "V": "1", "Q": "2"}
    assert closed_kline_event({"k": k | {"x": False}}) is None
    closed = closed_kline_event({"k": k | {"x": True}})
    assert closed is not None
    symbol, interval, kline = closed
    assert (symbol, interval, kline.close, kline.trades, kline.taker_buy_quote_volume) == ("A", "1m", "2", 2, "2")
    with pytest.raises(BadValue, match="no object 'k'"):
        closed_kline_event({"k": 1})

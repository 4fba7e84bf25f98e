"""What can be a kline and what can be a trade: the recorded rows of the exchange all can, altered ones cannot, and the
rule over columns decides as the one over texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.decimals import parse_column, to_text
from klagg.intervals import INTERVALS, MINUTE
from klagg.kline import DECIMAL_FIELDS, NINE_VALUES
from klagg.recordings import open_klines, open_trades
from klagg.row_rules import (
    NUMBER,
    PRICE,
    QUANTITY,
    Column,
    is_counted_kind,
    kline_problem,
    possible_klines,
    trade_counts,
    trade_problem,
    without_residue,
)
from tests.rows import OPEN_TIME, ROW_CASES, Row, RowCase

each_case = pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: case.name)


def columns_of(rows: list[Row]) -> tuple[dict[str, Column], Any]:
    columns = {name: parse_column(",".join(each[name] for each in rows).encode(), len(rows)) for name in DECIMAL_FIELDS}
    return columns, np.array([each["trades"] for each in rows], np.int64)


@each_case
def test_a_row_can_be_a_kline_or_not(case: RowCase) -> None:
    problem = kline_problem(case.row, bars=MINUTE, open_ms=OPEN_TIME, close_ms=OPEN_TIME + 59_999)
    assert (problem == "") is case.taken, problem


def test_columns_decide_as_texts_do_in_one_go() -> None:
    good = possible_klines(*columns_of([case.row for case in ROW_CASES]))
    assert good.tolist() == [case.taken for case in ROW_CASES]


@pytest.mark.parametrize(
    ("open_ms", "close_ms", "problem"),
    [
        (OPEN_TIME + 1, None, "open time 1795900080001 is not where a bar of 1m opens"),
        (OPEN_TIME, OPEN_TIME + 59_999, ""),
        (
            OPEN_TIME,
            OPEN_TIME + 60_000,
            "close time 1795900140000 is not that of a bar of 1m which opens at 1795900080000",
        ),
    ],
)
def test_a_kline_is_on_its_grid(open_ms: int, close_ms: int | None, problem: str) -> None:
    assert kline_problem(ROW_CASES[0].row, bars=MINUTE, open_ms=open_ms, close_ms=close_ms) == problem


def test_what_a_source_does_not_have_is_not_judged() -> None:
    row = {name: ROW_CASES[0].row[name] for name in ("open", "high", "low", "close", "volume")}
    assert kline_problem(row) == ""
    assert kline_problem({**row, "trades": 0}) == "there are 0 trades and a volume of 9.000"
    assert kline_problem({**row, "volume": "0"}) == "there is no trade, and high 100.30 is not low 100.00"
    assert kline_problem({**row, "volume": None}) == "volume None is not a decimal number"
    assert kline_problem({**row, "open": "NaN"}) == "open 'NaN' is not a decimal number"
    assert kline_problem({**row, "trades": -1}) == "trade count -1 cannot be"


def test_sums_of_floats_are_held_to_what_floats_can_hold() -> None:
    """1.1 + 2.2 is 3.3000000000000003 in floats, at a price of 1 that all trades had."""
    flat = dict.fromkeys(("open", "high", "low", "close"), "1")
    assert kline_problem({**flat, "volume": "3.3", "quote_volume": "3.3000000000000003"}) == ""
    assert kline_problem({**flat, "volume": "3.3000000000000003e2", "quote_volume": "330"}) == ""
    assert kline_problem({**flat, "volume": "3.3", "quote_volume": "3.5000000000000003"}) != ""
    sold = {"volume": "5.5", "quote_volume": "5.5", "taker_buy_volume": "2.2"}
    assert kline_problem({**flat, **sold, "taker_buy_quote_volume": "2.2000000000000003"}) == ""


@st.composite
def klines(draw: st.DrawFn) -> Row:
    """The kline of some trades, one value of it altered now and then; texts at scales of their own."""
    price_scale, qty_scale = draw(st.integers(0, 6)), draw(st.integers(0, 4))
    trade = st.tuples(st.integers(1, 10**6), st.integers(1, 10**4), st.booleans())
    trades = draw(st.lists(trade, max_size=4))
    prices = [price for price, _, _ in trades] or [draw(st.integers(1, 10**6))] * 2
    taken = [(price, qty) for price, qty, taker in trades if taker]
    values = {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[-1],
        "volume": sum(qty for _, qty, _ in trades),
        "quote_volume": sum(price * qty for price, qty, _ in trades),
        "taker_buy_volume": sum(qty for _, qty in taken),
        "taker_buy_quote_volume": sum(price * qty for price, qty in taken),
    }
    altered = draw(st.none() | st.sampled_from(sorted(values)))
    if altered:
        values[altered] = max(0, values[altered] + draw(st.integers(-3, 3)) * draw(st.sampled_from((1, 10**3))))
    scales = {name: qty_scale if "volume" in name else price_scale for name in values}
    scales |= dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), price_scale + qty_scale)
    count = len(trades) if draw(st.booleans()) else draw(st.integers(0, 4))
    return {name: to_text(value, scales[name]) for name, value in values.items()} | {
        "trades": count,
        "of_trades": altered is None and count == len(trades),
    }


@given(st.lists(klines(), min_size=1, max_size=8))
def test_the_kline_of_any_trades_can_be_one_and_both_rules_agree(rows: list[Row]) -> None:
    problems = [kline_problem(row) for row in rows]
    assert possible_klines(*columns_of(rows)).tolist() == [not problem for problem in problems]
    for row, problem in zip(rows, problems, strict=True):
        if row["of_trades"]:
            assert problem == ""


@each_case
@pytest.mark.parametrize("more", [0, 3, 8])
def test_the_rule_holds_at_any_scale(case: RowCase, more: int) -> None:
    """The same row with prices 10^more times as small: beyond 64 bits the products are Python's integers."""
    columns, trades = columns_of([case.row])
    for name in ("open", "high", "low", "close", "quote_volume", "taker_buy_quote_volume"):
        values, decimals = columns[name]
        columns[name] = values, decimals + more
    assert possible_klines(columns, trades).tolist() == [case.taken]


def official_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("official*.csv"), *folder.glob("official*/*")])


def interval_of(path: Path) -> str:
    return next((name for name in INTERVALS if f"_{name}." in path.name or f"-{name}-" in path.name), "1m")


def test_every_recorded_row_of_the_exchange_can_be_a_kline(realdata: Path) -> None:
    """Close times are left out for the spot market: 19 of its 4h rows close where the exchange halted."""
    count = 0
    for path in official_files(realdata):
        bars = INTERVALS[interval_of(path)]
        for number, kline in open_klines(path).numbered():
            values = {name: getattr(kline, name) for name in NINE_VALUES}
            close_ms = None if "spot" in path.parent.name else kline.close_time_ms
            problem = kline_problem(values, bars=bars, open_ms=kline.open_time_ms, close_ms=close_ms)
            assert problem == "", f"{path.name}: {number}"
            count += 1
    assert count > 390_000


def test_every_recorded_trade_can_be_one(realdata: Path) -> None:
    for path in sorted(
        [*realdata.glob("*aggtrades*"), *realdata.glob("um_ws_combined*"), *realdata.glob("um_trade_*")]
    ):
        for trade in open_trades(path, "BTCUSDT"):
            found = trade_problem(
                trade.id,
                trade.price,
                trade.qty,
                trade.first,
                trade.last,
                trade.time_ms,
                trade.maker,
                counted_kind=trade.counts,
            )
            assert found is None, f"{path.name}: {trade}"


GOOD: tuple[Any, ...] = (7, "100.10", "0.500", 70, 72, OPEN_TIME, True)


@pytest.mark.parametrize(
    ("altered", "what", "counts"),
    [
        ({}, None, True),
        ({"qty": "0.000"}, None, False),
        ({"qty": "0"}, None, False),
        ({"price": "0.00", "qty": "0"}, None, False),
        ({"price": "0", "qty": "0", "first": -1, "last": -1}, None, False),
        ({"qty": "0.000", "first": -1, "last": -1}, None, False),
        ({"price": "0.00"}, PRICE, True),
        ({"price": 100.1}, PRICE, True),
        ({"price": "1e2"}, PRICE, True),
        ({"price": "-1"}, PRICE, True),
        ({"qty": "5.5e-17"}, QUANTITY, True),
        ({"qty": None}, QUANTITY, True),
        ({"first": -1, "last": -1}, NUMBER, True),
        ({"first": -1, "qty": "0"}, NUMBER, False),
        ({"first": 73}, NUMBER, True),
        ({"id": -1}, NUMBER, True),
        ({"id": 1 << 63}, NUMBER, True),
        ({"time": -1}, NUMBER, True),
        ({"last": "72"}, NUMBER, True),
        ({"maker": 1}, NUMBER, True),
    ],
)
def test_a_row_can_be_a_trade_or_not(altered: dict[str, Any], what: str | None, counts: bool) -> None:
    names = ("id", "price", "qty", "first", "last", "time", "maker")
    values = {**dict(zip(names, GOOD, strict=True)), **altered}
    found = trade_problem(*(values[name] for name in names))
    assert (found and found.what) == what
    if isinstance(values["qty"], str):
        assert trade_counts(values["qty"]) is counts


def test_what_floats_leave_of_nothing_is_nothing() -> None:
    residues = ["5.5e-17", "5.551115123125783e-17", "0.00000000000000005551115123125783", "5.5e-100", "9e-13"]
    for nothing in (*residues, "0E-8", "0" * 19, "0.00000000000005", "0.0000000000009"):
        assert without_residue(nothing) == "0"
    figures = ["0.00000000", "0.00000001", "0.000000000001", "1e-12", "5.5e-7", "-1e-17", "0e9", "0.0e92"]
    for something in (*figures, "e", "abc" * 9, 0, None):
        assert without_residue(something) == something


def test_a_fill_of_a_kind_that_klines_leave_out_may_have_no_price() -> None:
    assert trade_problem(7, "0", "0.1", 7, 7, OPEN_TIME, False, counted_kind=False) is None
    assert not trade_counts("0.1", counted_kind=False)


def test_all_fills_count_but_those_that_are_known_to_be_left_out() -> None:
    assert [is_counted_kind(x) for x in (None, "MARKET", "RPI", "BLOCK_2027", "")] == [True] * 5
    assert [is_counted_kind(x) for x in ("NA", "INSURANCE_FUND", "ADL")] == [False] * 3
    assert [is_counted_kind(x, "0.00") for x in (None, "MARKET", "BLOCK_2027")] == [True, True, False]

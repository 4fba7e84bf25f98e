"""Splits of aggTrades at a close: what is proven by ids and amounts, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from klagg.edge_splits import edges_of, made, run_from, runs, values_of
from klagg.errors import ContractError
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.kline import NINE_VALUES, Kline, Values, differences
from tests.aggregator.kit import T0
from tests.auditors.test_classify import folded, market, official

CLOSE = T0 + MINUTE_MS
IDS = ("first_agg_id", "last_agg_id", "first_trade_id", "last_trade_id")


def bar(opening: int = T0, **changes: Any) -> Kline:
    """The minute that ends with aggTrade 7, fills 20 to 23 of 4.0 at 100.0, bought by takers."""
    kline = Kline(
        symbol="XUSDT",
        interval="1m",
        open_time=opening,
        close_time=opening + MINUTE_MS - 1,
        open="99.0",
        high="101.0",
        low="98.0",
        close="100.0",
        volume="10.0",
        quote_volume="1000.00",
        trades=9,
        taker_buy_volume="5.0",
        taker_buy_quote_volume="500.00",
        first_agg_id=5,
        last_agg_id=7,
        first_trade_id=15,
        last_trade_id=23,
        complete=1,
        official=0,
        epoch=1,
        revision=1,
        source="own",
        edge=f"7:20:23:{opening + MINUTE_MS - 40}:100.0:4.0:0",
    )
    return replace(kline, **changes)


def following(**changes: Any) -> Kline:
    """The minute after it."""
    prices = {"open": "100.5", "high": "101.0", "low": "100.5", "close": "100.5"}
    ids = {"first_agg_id": 8, "last_agg_id": 9, "first_trade_id": 24, "last_trade_id": 32}
    return bar(CLOSE, **{**prices, **ids, "edge": "", **changes})


def empty() -> Kline:
    """The minute after it, without a trade: it carries the close."""
    prices = dict.fromkeys(("open", "high", "low", "close"), "100.0")
    none = {"volume": "0.0", "quote_volume": "0.00", "taker_buy_volume": "0.0", "taker_buy_quote_volume": "0.00"}
    return following(trades=0, **prices, **none, **dict.fromkeys(IDS, -1))


def rows(later: Kline, fills: int = 2, qty: str = "1.5") -> dict[int, Values]:
    """The exchange's rows of `bar` and `later`, where so many fills of aggTrade 7 count in the later one."""
    moved, quote = Decimal(qty), Decimal(qty) * 100
    first, second = values_of(bar()), values_of(later)
    for name, amount in (("volume", moved), ("taker_buy_volume", moved), ("trades", fills)):
        first[name], second[name] = first[name] - amount, second[name] + amount  # type: ignore[operator]
    for name in ("quote_volume", "taker_buy_quote_volume"):
        first[name], second[name] = first[name] - quote, second[name] + quote  # type: ignore[operator]
    second["open"] = Decimal(100)
    second["low"] = Decimal(100)
    return {T0: first, CLOSE: second}


@pytest.mark.parametrize("later", [following(), empty()])
def test_a_split_is_found_and_made(later: Kline) -> None:
    theirs = rows(later)
    (run,) = runs(MINUTE, {T0: bar(), CLOSE: later}, theirs)
    assert all(not differences(values_of(each), theirs[each.open_time]) for each in run.klines)
    earlier, later = run.klines
    assert (earlier.last_trade_id, later.first_trade_id, later.first_agg_id) == (21, 22, 7)
    assert (earlier.volume, earlier.quote_volume, earlier.trades) == ("8.5", "850.00", 7)
    assert earlier.edge == f">7:2:1.5:100.0;{bar().edge}"
    assert later.edge == "<7:2:1.5:100.0"
    assert edges_of(earlier) == edges_of(bar())


def test_a_split_that_was_made_is_not_found_again() -> None:
    theirs = rows(following())
    (run,) = runs(MINUTE, {T0: bar(), CLOSE: following()}, theirs)
    held = {each.open_time: each for each in run.klines}
    assert list(runs(MINUTE, held, theirs)) == []
    assert list(runs(MINUTE, held, rows(following(), 3, "2.0"))) == []


@pytest.mark.parametrize("name", NINE_VALUES)
@pytest.mark.parametrize("opening", [T0, CLOSE])
@pytest.mark.parametrize("by", ["0.01", "-0.01", "1"])
def test_one_digit_off_is_no_split(name: str, opening: int, by: str) -> None:
    theirs = rows(following())
    held = theirs[opening][name]
    assert held is not None
    off = {**theirs, opening: {**theirs[opening], name: held + Decimal(by)}}
    assert list(runs(MINUTE, {T0: bar(), CLOSE: following()}, off)) == []


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        pytest.param(bar(last_trade_id=25), following(), id="other fills came behind it"),
        pytest.param(bar(last_agg_id=8), following(), id="another aggTrade came behind it"),
        pytest.param(bar(edge=""), following(), id="no evidence"),
        pytest.param(bar(complete=0), following(), id="the earlier bar is not proven"),
        pytest.param(bar(), following(complete=0), id="the later bar is not proven"),
        pytest.param(bar(complete=0, official=1, source="mixed"), following(), id="official rows stand for a part"),
        pytest.param(bar(), replace(following(), first_agg_id=9), id="an aggTrade is missing between them"),
        pytest.param(bar(), replace(following(), first_trade_id=23), id="the fill ids overlap"),
        pytest.param(bar(edge=bar().edge[:-1] + "1"), following(), id="the other side"),
    ],
)
def test_what_ids_do_not_prove_is_no_split(earlier: Kline, later: Kline) -> None:
    assert list(runs(MINUTE, {T0: earlier, CLOSE: later}, rows(following()))) == []


@pytest.mark.parametrize(("fills", "qty"), [(4, "3.0"), (3, "4.0"), (1, "0.05")])
def test_the_first_fill_stays_and_quantities_have_the_decimals_of_the_symbol(fills: int, qty: str) -> None:
    assert list(runs(MINUTE, {T0: bar(), CLOSE: following()}, rows(following(), fills, qty))) == []


def test_a_row_without_all_nine_values_proves_nothing() -> None:
    theirs = {opening: {**row, "taker_buy_volume": None} for opening, row in rows(following()).items()}
    assert list(runs(MINUTE, {T0: bar(), CLOSE: following()}, theirs)) == []


def test_both_sides_must_be_there() -> None:
    theirs = rows(following())
    assert run_from(MINUTE, T0, {T0: bar()}, theirs) is None
    assert run_from(MINUTE, T0, {T0: bar(), CLOSE: following()}, {T0: theirs[T0]}) is None
    assert made([bar()], []) == [bar()]


def test_evidence_that_is_none_is_told() -> None:
    with pytest.raises(ContractError, match="has 2 parts"):
        edges_of(bar(edge="1:2"))


@pytest.mark.parametrize("seed", range(12))
def test_a_market_full_of_splits_is_the_exchange_s_in_the_end(seed: int) -> None:
    aggregates, fills = market(seed)
    ours, theirs = folded(aggregates), official(fills)
    differ = {each for each in theirs if differences(values_of(ours[each]), theirs[each])}
    adopted = {each.open_time: each for run in runs(MINUTE, ours, theirs) for each in run.klines}
    left = [each for each in theirs if differences(values_of({**ours, **adopted}[each]), theirs[each])]
    assert left == [each for each in theirs if left and each >= left[0]]  # a run that goes on behind the last bar
    assert len(left) < 5 < len(differ - set(left))
    assert differ - set(left) <= adopted.keys()

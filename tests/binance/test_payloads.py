"""What the exchange's REST answers say, and which answers are refused."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.binance.contracts import is_halted, is_open
from klagg.binance.payloads import (
    ContractNews,
    ServerTime,
    Ticker,
    contract_of,
    event_in,
    listings_of,
    names_of,
    server_time_of,
    tickers_of,
)
from klagg.errors import ConfigError, ExchangeUnavailable
from klagg.wire.entries import Listing

QUOTES, TYPES = ("USDT",), ("PERPETUAL",)


def row(symbol: Any = "BTCUSDT", **changes: Any) -> dict[str, Any]:
    """A symbol of exchangeInfo."""
    return {
        "symbol": symbol,
        "status": "TRADING",
        "quoteAsset": "USDT",
        "contractType": "PERPETUAL",
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "onboardDate": 1569398400000,
        "deliveryDate": 4133404800000,
    } | changes


def test_a_listing_takes_scales_generation_and_delivery() -> None:
    chosen = listings_of({"symbols": [row()]}, QUOTES, TYPES)
    assert chosen.listings == [Listing("BTCUSDT", 1569398400000, 2, 3, "TRADING", 4133404800000)]
    assert chosen.malformed == []


def test_quote_asset_and_contract_type_select() -> None:
    rows = [
        row(),
        row("ETHUSDC", quoteAsset="USDC"),
        row("BTCUSDT_261225", contractType="CURRENT_QUARTER"),
        row("A币USDT"),
    ]
    assert [each.symbol for each in listings_of({"symbols": rows}, QUOTES, TYPES).listings] == ["A币USDT", "BTCUSDT"]
    both = listings_of({"symbols": rows}, ("USDT", "USDC"), TYPES)
    assert [each.symbol for each in both.listings] == ["A币USDT", "BTCUSDT", "ETHUSDC"]


def test_a_type_that_nobody_has_seen_is_a_perpetual_unless_time_and_name_say_otherwise() -> None:
    rows = [
        row("AUSDT", contractType="CROSS_2027", deliveryDate=1_900_000_000_000),
        row("BUSDT_270625", contractType="CROSS_2027"),
        row("CUSDT_270625", contractType="NEXT_YEAR", deliveryDate=1_813_881_600_000),
        row("DUSDT", quoteAsset=None),
        row("DUSDC", quoteAsset=None),
    ]
    found = listings_of({"symbols": rows}, QUOTES, TYPES).listings
    assert [each.symbol for each in found] == ["AUSDT", "BUSDT_270625", "DUSDT"]


def test_named_symbols_are_taken_alone_and_must_be_there() -> None:
    info = {"symbols": [row(), row("ETHUSDT"), row("ETHUSDC", quoteAsset="USDC")]}
    assert [each.symbol for each in listings_of(info, QUOTES, TYPES, ("ETHUSDT",)).listings] == ["ETHUSDT"]
    with pytest.raises(ConfigError, match="names 'ETHUSD', which the exchange does not list"):
        listings_of(info, QUOTES, TYPES, ("ETHUSDT", "ETHUSD"))
    with pytest.raises(ConfigError, match=r"names 'ETHUSDC', which exchange\.quote_assets"):
        listings_of(info, QUOTES, TYPES, ("ETHUSDC",))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "BTCUSDT",
        row(symbol=5),
        row(symbol=""),
        row(symbol="A,B"),
        row(symbol="A:B"),
        row(symbol="A B"),
        row(symbol="\ud800"),
        row(symbol="X" * 65),
        row(pricePrecision=-1),
        row(pricePrecision=18),
        row(pricePrecision="2"),
        row(pricePrecision=True),
        row(quantityPrecision=2.0),
        row(onboardDate=None),
        row(onboardDate=-1),
        row(deliveryDate=2**63),
        row("GOODUSDT"),
    ],
)
def test_a_malformed_row_is_reported_and_the_others_stay(bad: Any) -> None:
    chosen = listings_of({"symbols": [row("GOODUSDT"), bad]}, QUOTES, TYPES)
    assert [each.symbol for each in chosen.listings] == ["GOODUSDT"]
    (sentence,) = chosen.malformed
    assert sentence.startswith("exchangeInfo symbol 2 ")


@pytest.mark.parametrize("answer", [None, [], {}, {"symbols": None}, {"symbols": []}, {"symbols": [row(symbol="")]}])
def test_an_answer_without_anything_usable_is_an_error(answer: Any) -> None:
    with pytest.raises(ExchangeUnavailable, match="exchangeInfo"):
        listings_of(answer, QUOTES, TYPES)


def test_a_choice_that_leaves_nothing_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"exchange\.quote_assets EUR"):
        listings_of({"symbols": [row()]}, ("EUR",), TYPES)


def test_what_has_opened_and_not_ended_is_subscribed_to_whatever_its_status() -> None:
    over = ("SETTLING", "CLOSE", "DELIVERING", "DELIVERED", "PENDING_TRADING")
    alive = ("TRADING", "TRADING_HALT", "TRADING_CANCEL_ONLY", "BREAK_2027", "PRE_SETTLE", "PRE_DELIVERING")
    rows = [row(f"{status.replace('_', '')}USDT", status=status) for status in (*over, *alive)]
    names = [f"{status.replace('_', '')}USDT" for status in alive]
    chosen = listings_of({"symbols": rows}, QUOTES, TYPES).listings
    assert [each.symbol for each in chosen if is_open(each.status)] == sorted(names)
    halted = ("TRADING_HALT", "TRADING_CANCEL_ONLY", "BREAK_2027")
    assert {each.status for each in chosen if is_halted(each.status)} == set(halted)


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (None, "UNREADABLE"),
        (5, "UNREADABLE"),
        ("", "UNREADABLE"),
        ("A,B", "A_B"),
        ("X" * 99, "X" * 64),
        ("休市", "休市"),
    ],
)
def test_a_status_of_any_kind_leaves_the_row_usable(status: object, word: str) -> None:
    chosen = listings_of({"symbols": [row(status=status)]}, QUOTES, TYPES)
    assert ([each.status for each in chosen.listings], chosen.malformed) == ([word], [])
    assert is_halted(chosen.listings[0].status)


FAR, NEAR = 4_133_404_800_000, 1_800_000_000_000


@pytest.mark.parametrize(
    ("kind", "delivery", "types", "is_there"),
    [
        ("TRADIFI_PERPETUAL", FAR, TYPES, False),
        ("TRADIFI_PERPETUAL", FAR, ("TRADIFI_PERPETUAL",), True),
        ("CURRENT_QUARTER", NEAR, TYPES, False),
        ("PERPETUAL_DELIVERING", NEAR, TYPES, True),
        ("PERPETUAL_2027", FAR, TYPES, True),
        ("PERPETUAL_2027", FAR, ("CURRENT_QUARTER",), False),
        ("YEARLY_2027", NEAR, TYPES, True),
        ("", NEAR, TYPES, True),
        (None, NEAR, TYPES, True),
        (5, FAR, TYPES, True),
    ],
)
def test_a_contract_type_that_nobody_has_seen_is_a_perpetual_where_no_date_is_in_its_name(
    kind: object, delivery: int, types: tuple[str, ...], is_there: bool
) -> None:
    rows = [row("ZUSDT", contractType=types[0]), row(contractType=kind, deliveryDate=delivery)]
    names = [each.symbol for each in listings_of({"symbols": rows}, QUOTES, types).listings]
    assert ("BTCUSDT" in names) is is_there


def test_recorded_exchange_information(realdata: Path) -> None:
    text = gzip.decompress((realdata / "um_exchangeInfo_2021-07-21.txt.gz").read_bytes()).decode()
    info, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
    chosen = listings_of(info, QUOTES, TYPES)
    assert chosen.malformed == []
    assert len(chosen.listings) == 118
    pending = Listing("BTCSTUSDT", 1614754800000, 3, 1, "PENDING_TRADING", 4133404800000)
    assert [each for each in chosen.listings if each.status != "TRADING"] == [pending]
    assert Listing("BTCUSDT", 1569398400000, 2, 3, "TRADING", 4133404800000) in chosen.listings


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(list(row())) | st.text(), inner),
        max_leaves=20,
    )
)
def test_any_row_is_taken_or_reported(anything: Any) -> None:
    chosen = listings_of({"symbols": [row("GOODUSDT"), anything]}, QUOTES, TYPES)
    assert "GOODUSDT" in [each.symbol for each in chosen.listings]
    assert len(chosen.malformed) == 1 or set(row()) - {"status", "quoteAsset", "contractType"} <= set(anything)


@given(st.data())
def test_one_damaged_field_damages_only_its_row(data: st.DataObject) -> None:
    damaged = row("BADUSDT")
    name = data.draw(st.sampled_from(["symbol", "pricePrecision", "quantityPrecision", "onboardDate"]))
    damaged[name] = data.draw(st.sampled_from([None, [], {}, -1, 1.5, True, "a,b", 10**30]))
    rows = [row("AUSDT"), damaged, row("ZUSDT")]
    random.Random(1).shuffle(rows)
    chosen = listings_of({"symbols": rows}, QUOTES, TYPES)
    assert [each.symbol for each in chosen.listings] == ["AUSDT", "ZUSDT"]
    assert len(chosen.malformed) == 1


def test_server_time() -> None:
    assert server_time_of({"serverTime": 1700000000000}) == ServerTime(1700000000000)
    simulated = {"serverTime": 5, "klaggSimulated": True, "klaggSpeed": 20}
    assert server_time_of(simulated) == ServerTime(5, 20.0, True)
    assert server_time_of(simulated | {"klaggSpeed": 0}).speed == 0.0
    # A speed without the word that it is a simulation is nobody's.
    assert server_time_of({"serverTime": 5, "klaggSpeed": 20}) == ServerTime(5)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"serverTime": "5"},
        {"serverTime": 0},
        {"serverTime": True},
        {"serverTime": 2**63},
        {"serverTime": 5, "klaggSimulated": True, "klaggSpeed": -1},
        {"serverTime": 5, "klaggSimulated": True, "klaggSpeed": "fast"},
        {"serverTime": 5, "klaggSimulated": True, "klaggSpeed": True},
        {"serverTime": 5, "klaggSimulated": True, "klaggSpeed": float("nan")},
    ],
)
def test_an_unusable_time_is_an_error(answer: Any) -> None:
    with pytest.raises(ExchangeUnavailable):
        server_time_of(answer)


def test_the_names_of_an_answer_are_there_also_where_their_rows_cannot_be_used() -> None:
    assert names_of({"symbols": [row(), row(symbol="ETHUSDT", status=5), 7, {"symbol": 1}, {}]}) == {
        "BTCUSDT",
        "ETHUSDT",
    }
    assert names_of([]) == names_of({}) == names_of({"symbols": 5}) == frozenset()


def test_tradfi_perpetuals_are_there_by_option() -> None:
    rows = [row(), row("TSLAUSDT", contractType="TRADIFI_PERPETUAL")]
    assert [each.symbol for each in listings_of({"symbols": rows}, QUOTES, TYPES).listings] == ["BTCUSDT"]
    both = listings_of({"symbols": rows}, QUOTES, ("PERPETUAL", "TRADIFI_PERPETUAL"))
    assert [each.symbol for each in both.listings] == ["BTCUSDT", "TSLAUSDT"]


def ticker(symbol: str = "币安人生USDT", **changes: Any) -> dict[str, Any]:
    """A row of !ticker@arr."""
    return {"e": "24hrTicker", "E": 1791271560500, "s": symbol, "c": "1.5", "v": "10.25", "st": 1} | changes


def test_tickers_of_coin_margined_symbols_and_rows_that_are_none_are_left_out() -> None:
    rows = [
        ticker(),
        ticker("BTCUSD_PERP", st=2),
        ticker("A,B"),
        ticker(E="1"),
        ticker(v=None),
        ticker(v="x"),
        ticker(c=1),
        ticker(e="kline"),
        7,
        None,
    ]
    told = event_in({"stream": "!ticker@arr", "data": rows})
    expected = Ticker("币安人生USDT", 1791271560500, "1.5", 10.25)
    assert tickers_of(told) == [expected]
    assert tickers_of([ticker(st=3), ticker(st=None)]) == [expected] * 2, "what is not said to be COIN-M is USDⓈ-M"
    assert tickers_of(event_in({"result": None, "id": 1})) == tickers_of({"e": "24hrTicker"}) == []


def test_a_ticker_names_its_last_fill_and_until_when_it_was_the_last() -> None:
    until_ms = 1791271560498
    (told,) = tickers_of([ticker(L=101704076, C=until_ms, F=101251824, n=452236)])
    assert (told.last_fill, told.until_ms) == (101704076, until_ms)
    unusable: list[dict[str, Any]] = [
        {"L": -1, "C": until_ms},
        {"L": "5", "C": until_ms},
        {"L": 5},
        {"C": until_ms},
        {"L": 5, "C": 0},
    ]
    for changes in (*unusable, {"L": 5, "C": 1791271560501}, {"L": True, "C": until_ms}):
        (told,) = tickers_of([ticker(**changes)])
        assert (told.last_fill, told.until_ms, told.volume) == (-1, 0, 10.25), "it still shows that there are trades"


def news(**changes: Any) -> dict[str, Any]:
    """A contractInfo event."""
    return {
        "e": "contractInfo",
        "E": 1,
        "s": "新USDT",
        "ps": "新USDT",
        "ct": "PERPETUAL",
        "dt": 4133404800000,
        "ot": 1791271560000,
        "cs": "PENDING_TRADING",
        "st": 1,
    } | changes


def test_news_of_a_contract() -> None:
    expected = ContractNews("新USDT", "PERPETUAL", "PENDING_TRADING", 1791271560000, 4133404800000)
    assert contract_of(event_in({"stream": "!contractInfo", "data": news()})) == expected
    assert contract_of(news(ct="")) == replace(expected, contract_type=""), "one that has not opened has no type yet"
    assert contract_of(news(cs="PAUSE, LUNCH")) == replace(expected, status="PAUSE__LUNCH")
    assert contract_of(news(st=3)) == contract_of(news(st="UM")) == expected


@pytest.mark.parametrize(
    "changes",
    [{"st": 2}, {"s": ""}, {"s": "A,B"}, {"cs": None}, {"cs": ""}, {"ct": 5}, {"ot": -1}, {"dt": "1"}, {"e": "trade"}],
)
def test_what_is_no_news_of_a_contract_is_none(changes: dict[str, Any]) -> None:
    assert contract_of(news(**changes)) is None
    assert contract_of([news()]) is None

"""exchangeInfo of a simulated market: every field of a recorded one, and filters that fit the trades."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from klagg.simulator.exchange_info import exchange_info
from klagg.simulator.market import ContractListing, MarketSource
from klagg.simulator.recorded import RecordedMarket
from klagg.simulator.synthetic import SyntheticMarket

LISTING = ContractListing("AUSDT", "A", "USDT", 2, 3, "0.10", "0.001", 5)


def filters_of(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["filterType"]: each for each in row["filters"]}


def recorded_info(realdata: Path) -> dict[str, Any]:
    """The answer of 21 July 2021."""
    text = gzip.decompress((realdata / "um_exchangeInfo_2021-07-21.txt.gz").read_bytes()).decode()
    info: dict[str, Any] = json.loads(text.splitlines()[0].partition(": ")[2])
    return info


def test_a_symbol_is_described_by_its_listing() -> None:
    info = exchange_info([LISTING], 77, 2400)
    assert (info["serverTime"], info["rateLimits"][0]["limit"]) == (77, 2400)
    (symbol,) = info["symbols"]
    expected = {"symbol": "AUSDT", "pricePrecision": 2, "quantityPrecision": 3, "quoteAsset": "USDT", "onboardDate": 5}
    expected |= {"contractType": "PERPETUAL", "status": "TRADING", "deliveryDate": 4_133_404_800_000}
    assert expected.items() <= symbol.items()
    filters = filters_of(symbol)
    assert (filters["PRICE_FILTER"]["tickSize"], filters["LOT_SIZE"]["stepSize"]) == ("0.10", "0.001")
    assert filters["PRICE_FILTER"]["maxPrice"] == "100000000"


def test_no_field_of_the_recorded_answer_is_lacking_and_all_have_its_types(realdata: Path) -> None:
    real, made = recorded_info(realdata), exchange_info([LISTING], 77, 2400)
    theirs, ours = real["symbols"][0], made["symbols"][0]
    for name, example, value in [
        *((name, real[name], made.get(name)) for name in real),
        *((name, theirs[name], ours.get(name)) for name in theirs),
        *((name, real["assets"][0][name], made["assets"][0].get(name)) for name in real["assets"][0]),
    ]:
        assert type(value) is type(example), name
    assert [set(each) for each in made["rateLimits"]] == [set(each) for each in real["rateLimits"]]
    assert set(ours["orderTypes"]) >= set(theirs["orderTypes"])
    assert set(ours["timeInForce"]) >= set(theirs["timeInForce"])
    real_filters, made_filters = filters_of(theirs), filters_of(ours)
    assert set(made_filters) == set(real_filters)
    for name, example in real_filters.items():
        assert {key: type(each) for key, each in made_filters[name].items()} == {
            key: type(each) for key, each in example.items()
        }


def markets(realdata: Path) -> list[tuple[MarketSource, int, int]]:
    """Markets with a span (ms) of their trades."""
    recordings = (
        "um_trade_btcusdt_2024-07-18_19.txt.gz",
        "um_ws_combined_2021-07-22_sushi_akro_keep_ctk.txt.gz",
        "um_rest_aggtrades_clusdt_2026-05-01.json.gz",
    )
    recorded = [RecordedMarket.load([realdata / name]) for name in recordings]
    start_ms = 1_794_000_000_000
    return [
        *((market, market.span_ms()[0] - 1, market.span_ms()[1]) for market in recorded),
        (SyntheticMarket(40, 2000, seed=3), start_ms, start_ms + 60_000),
    ]


@pytest.mark.parametrize("place", range(4))
def test_every_trade_is_one_that_the_filters_allow(realdata: Path, place: int) -> None:
    market, after_ms, until_ms = markets(realdata)[place]
    rows = {row["symbol"]: row for row in exchange_info(market.listings(until_ms), 1, 2400)["symbols"]}
    seen = set()
    for trade in market.aggregates(after_ms, until_ms):
        row = rows[trade.symbol]
        filters = filters_of(row)
        price, lot = filters["PRICE_FILTER"], filters["LOT_SIZE"]
        assert Decimal(trade.price) % Decimal(price["tickSize"]) == 0
        assert Decimal(price["minPrice"]) <= Decimal(trade.price) <= Decimal(price["maxPrice"])
        assert Decimal(trade.qty) % Decimal(lot["stepSize"]) == 0
        assert Decimal(lot["minQty"]) <= Decimal(trade.qty) <= Decimal(lot["maxQty"])
        assert len(price["tickSize"].partition(".")[2]) == row["pricePrecision"]
        seen.add(trade.symbol)
    assert seen == set(rows) or place == 3


def test_the_tick_of_a_recording_is_what_the_exchange_listed_then(realdata: Path) -> None:
    """As the answer of the day before has them: CTKUSDT trades in steps of 0.00100 and has five decimals."""
    market = RecordedMarket.load([realdata / "um_ws_combined_2021-07-22_sushi_akro_keep_ctk.txt.gz"])
    theirs = {row["symbol"]: filters_of(row)["PRICE_FILTER"]["tickSize"] for row in recorded_info(realdata)["symbols"]}
    made = {
        row["symbol"]: filters_of(row)["PRICE_FILTER"]["tickSize"]
        for row in exchange_info(market.listings(0), 1, 2400)["symbols"]
    }
    assert made == {symbol: theirs[symbol] for symbol in made}
    assert made["CTKUSDT"] == "0.00100"

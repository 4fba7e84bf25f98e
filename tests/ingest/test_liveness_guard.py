"""What the exchange told and its answers do not bear out: when to ask again, what to go by meanwhile, when to worry."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ingest.universe import (
    FORGOTTEN_S,
    OVERDUE_S,
    READ_LEAST_S,
    READ_MOST_S,
    Doubts,
    Universe,
    chosen_news,
    finer_than_listed,
    fits,
)
from klagg import settings
from klagg.binance.payloads import ContractNews, Ticker
from klagg.wire.entries import Listing

EXCHANGE = settings.Exchange()
FAR = 4_133_404_800_000


def answer(universe: Universe, names: Iterable[str], **statuses: str) -> None:
    """An answer of exchangeInfo that lists `names`."""
    row = {
        "quoteAsset": "USDT",
        "contractType": "PERPETUAL",
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "onboardDate": 1_000,
        "deliveryDate": FAR,
    }
    rows = [row | {"symbol": name, "status": statuses.get(name, "TRADING")} for name in names]
    universe.read({"symbols": rows}, EXCHANGE, 0.0)


@pytest.fixture
def universe() -> Universe:
    made = Universe()
    answer(made, ["AUSDT", "BUSDT"])
    return made


def news(name: str, status: str = "TRADING", generation: int = 1_000) -> ContractNews:
    return ContractNews(name, "PERPETUAL", status, generation, FAR)


def moved(*names: str) -> list[Ticker]:
    return [Ticker(name, 5, "1", 1.0) for name in names]


def asks(doubts: Doubts, universe: Universe, names: Iterable[str], until_s: int) -> list[int]:
    """The seconds at which it asks, if every answer lists `names`."""
    asked = []
    for now_s in range(1, until_s):
        if doubts.due(now_s):
            asked.append(now_s)
            doubts.asked(now_s)
            answer(universe, names)
            doubts.answered(universe)
    return asked


def test_an_unknown_symbol_that_trades_is_asked_about_in_longer_and_longer_pauses(universe: Universe) -> None:
    doubts = Doubts()
    doubts.traded(moved("AUSDT", "CUSDT", "CUSDC"), universe, EXCHANGE, 0.0)
    asked = asks(doubts, universe, ["AUSDT", "BUSDT"], 200)
    assert asked == [2, 6, 14, 30, 62, 122, 182]
    assert (asked[0], asked[-1] - asked[-2]) == (READ_LEAST_S, READ_MOST_S)
    assert doubts.overdue(OVERDUE_S) == ["CUSDT"]
    assert doubts.overdue(OVERDUE_S + 1) == []
    assert not doubts.due(FORGOTTEN_S)


def test_an_answer_that_lists_it_settles_the_doubt_chosen_or_not(universe: Universe) -> None:
    doubts = Doubts()
    doubts.traded(moved("CUSDT"), universe, EXCHANGE, 0.0)
    assert asks(doubts, universe, ["AUSDT", "BUSDT", "CUSDT"], 100) == [2]
    assert universe.carried == ["AUSDT", "BUSDT", "CUSDT"]
    doubts.traded(moved("CUSDT"), universe, EXCHANGE, 100.0)
    assert not doubts.due(200.0)


def test_news_stand_until_an_answer_bears_them_out_or_they_are_an_alarm(universe: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("AUSDT", "SETTLING"), 0.0)
    known = list(universe.known.values())
    assert [each.status for each in doubts.as_told(known)] == ["SETTLING", "TRADING"]
    answer(universe, ["AUSDT", "BUSDT"])
    doubts.answered(universe)
    assert [each.status for each in doubts.as_told(known)] == ["SETTLING", "TRADING"]
    assert doubts.overdue(OVERDUE_S) == ["AUSDT"]
    assert [each.status for each in doubts.as_told(known)] == ["TRADING", "TRADING"], "after a minute the answer counts"
    answer(universe, ["AUSDT", "BUSDT"], AUSDT="SETTLING")
    doubts.answered(universe)
    assert not doubts.due(OVERDUE_S + READ_MOST_S)
    assert universe.carried == ["BUSDT"]


def test_who_was_announced_is_wanted_and_who_is_over_needs_no_listing(universe: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("CUSDT", "PENDING_TRADING"), 0.0)
    doubts.news(news("DUSDT", "SETTLING"), 0.0)
    assert doubts.wanted == ["CUSDT"]
    doubts.answered(universe)
    assert doubts.wanted == ["CUSDT"]
    assert doubts.overdue(OVERDUE_S) == ["CUSDT"]


def test_a_name_listed_anew_takes_its_new_generation_from_the_news(universe: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("AUSDT", generation=2_000), 0.0)
    assert [each.generation for each in doubts.as_told([universe.known["AUSDT"]])] == [2_000]
    doubts.answered(universe)
    assert doubts.due(READ_LEAST_S)


def test_what_fits_the_choice(universe: Universe) -> None:
    assert fits("新USDT", EXCHANGE)
    assert not fits("BTCUSDC", EXCHANGE)
    named = settings.Exchange(symbols=("AUSDT",))
    assert (fits("AUSDT", named), fits("BUSDT", named)) == (True, False)
    assert chosen_news(news("CUSDT"), universe, EXCHANGE)
    assert not chosen_news(ContractNews("CUSDT", "CURRENT_QUARTER", "TRADING", 1, 2), universe, EXCHANGE)
    assert chosen_news(ContractNews("AUSDT", "CURRENT_QUARTER", "TRADING", 1, 2), universe, EXCHANGE)


@pytest.mark.parametrize(
    ("price", "qty", "finer"),
    [("85266.00", "0.158", False), ("85266.0000", "0.1580", False), ("85266.001", "1", True), ("1", "0.0001", True)],
)
def test_decimals_beyond_the_listing_are_seen(price: str, qty: str, finer: bool) -> None:
    known = {"AUSDT": Listing("AUSDT", 1_000, 2, 3, "TRADING", FAR)}
    latest = {"AUSDT": (5, price, qty), "XUSDT": (5, "1.123456", "1")}
    assert finer_than_listed(latest, known, latest.keys()) == (["AUSDT"] if finer else [])

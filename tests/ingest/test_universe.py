"""What vanishes from the exchange's answers, which answers are not believed, and what they do not bear out yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ingest.timings import DEFAULT_TIMINGS
from ingest.universe import (
    VANISHED,
    Doubts,
    Universe,
    chosen_news,
    finer_than_listed,
    fits,
)
from klagg import settings
from klagg.binance.payloads import ContractNews, Ticker
from klagg.errors import ExchangeUnavailable
from klagg.wire.entries import Listing

T = DEFAULT_TIMINGS
NAMES = ("AUSDT", "BUSDT", "CUSDT", "DUSDT")


def listing(name: str, status: str = "TRADING", generation: int = 1_000) -> Listing:
    return Listing(name, generation, 2, 3, status, 4_133_404_800_000)


def listings(names: Iterable[str]) -> list[Listing]:
    return [listing(name) for name in names]


def answered(universe: Universe, names: Iterable[str], now_ms: float) -> list[str]:
    """An answer of which everything is chosen."""
    present = frozenset(names)
    universe.check(present)
    return universe.update(listings(sorted(present)), present, now_ms)


@pytest.fixture
def universe() -> Universe:
    """One that has seen NAMES at 0 ms."""
    made = Universe()
    assert answered(made, NAMES, 0) == []
    return made


def test_a_name_ends_when_answers_have_lacked_it_for_long_enough(universe: Universe) -> None:
    assert answered(universe, NAMES[1:], 5) == []
    assert (bool(universe.doubtful), universe.gone) == (True, {})
    assert answered(universe, NAMES[1:], 4 + T.confirm_ms) == []
    assert universe.gone == {}
    assert answered(universe, NAMES[1:], 5 + T.confirm_ms) == ["AUSDT"]
    assert universe.gone == {"AUSDT": replace(listing("AUSDT"), status=VANISHED)}
    assert not universe.doubtful
    assert answered(universe, NAMES[1:], 10 * T.confirm_ms) == []
    assert list(universe.gone) == ["AUSDT"], "it is said with every listing"


def test_one_answer_that_has_it_in_between_begins_the_wait_anew(universe: Universe) -> None:
    answered(universe, NAMES[1:], 5)
    answered(universe, NAMES, 6)
    assert not universe.doubtful
    assert answered(universe, NAMES[1:], 5 + T.confirm_ms) == []
    assert answered(universe, NAMES[1:], 5 + 2 * T.confirm_ms) == ["AUSDT"]


def test_a_name_that_comes_back_is_no_longer_gone_and_may_vanish_again(universe: Universe) -> None:
    for now_ms in (1, 1 + T.confirm_ms):
        answered(universe, NAMES[1:], now_ms)
    again = [listing("AUSDT", generation=2_000), *listings(NAMES[1:])]
    assert universe.update(again, frozenset(NAMES), 10 * T.confirm_ms) == []
    assert universe.gone == {}
    answered(universe, NAMES[1:], 11 * T.confirm_ms)
    assert answered(universe, NAMES[1:], 12 * T.confirm_ms) == ["AUSDT"]
    assert universe.gone["AUSDT"].generation == 2_000


def test_what_the_exchange_ended_itself_is_not_ended_again(universe: Universe) -> None:
    universe.update([listing("AUSDT", "SETTLING"), *listings(NAMES[1:])], frozenset(NAMES), 1)
    for now_ms in (2, 2 + T.confirm_ms):
        assert answered(universe, NAMES[1:], now_ms) == []
        assert not universe.doubtful
    assert universe.gone == {}


def test_a_name_that_is_there_and_no_longer_chosen_has_not_vanished(universe: Universe) -> None:
    for now_ms in (1, 1 + T.confirm_ms):
        assert universe.update(listings(NAMES[1:]), frozenset(NAMES), now_ms) == []
        assert not universe.doubtful


@pytest.mark.parametrize(("present", "believed"), [(NAMES[:2], True), (NAMES[:1], False), ((), False)])
def test_an_answer_that_lacks_most_names_is_refused_and_changes_nothing(
    universe: Universe, present: tuple[str, ...], believed: bool
) -> None:
    if believed:
        assert answered(universe, present, 1) == []
        return
    with pytest.raises(ExchangeUnavailable, match=rf"lacks {4 - len(present)} of the 4 symbols .* restart klagg-clock"):
        answered(universe, [*present, "XUSDT", "YUSDT", "ZUSDT"], 1)
    assert not universe.doubtful
    assert answered(universe, NAMES, 2) == []


def test_a_first_answer_is_believed_whatever_it_holds() -> None:
    assert answered(Universe(), ["AUSDT"], 0) == []


def test_what_the_configuration_names_must_be_there_until_it_has_been(universe: Universe) -> None:
    names = frozenset(NAMES[1:])
    assert universe.expected(["AUSDT", "BUSDT", "NEVERUSDT"], names) == ["BUSDT", "NEVERUSDT"]
    for now_ms in (1, 1 + T.confirm_ms):
        answered(universe, names, now_ms)
    assert universe.expected(["AUSDT", "BUSDT"], names) == ["BUSDT"]
    assert universe.expected(["AUSDT"], frozenset(NAMES)) == ["AUSDT"]


# What the exchange published and its answers do not bear out.

EXCHANGE = settings.Exchange()
FAR = 4_133_404_800_000


def answer(two_listed: Universe, names: Iterable[str], **statuses: str) -> None:
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
    two_listed.read({"symbols": rows}, EXCHANGE, 0.0)


@pytest.fixture
def two_listed() -> Universe:
    made = Universe()
    answer(made, ["AUSDT", "BUSDT"])
    return made


def news(name: str, status: str = "TRADING", generation: int = 1_000) -> ContractNews:
    return ContractNews(name, "PERPETUAL", status, generation, FAR)


def moved(*names: str) -> list[Ticker]:
    return [Ticker(name, 5, "1", 1.0) for name in names]


def asks(doubts: Doubts, two_listed: Universe, names: Iterable[str], until_s: int) -> list[int]:
    """The seconds at which it asks, if every answer lists `names`."""
    asked = []
    for now_s in range(1, until_s):
        if doubts.due(now_s):
            asked.append(now_s)
            doubts.requested(now_s)
            answer(two_listed, names)
            doubts.answered(two_listed)
    return asked


def test_an_unknown_symbol_that_trades_is_asked_about_in_longer_and_longer_pauses(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.traded(moved("AUSDT", "CUSDT", "CUSDC"), two_listed, EXCHANGE, 0.0)
    asked = asks(doubts, two_listed, ["AUSDT", "BUSDT"], 200)
    assert asked == [2, 6, 14, 30, 62, 122, 182]
    assert (asked[0], asked[-1] - asked[-2]) == (T.request_least_s, T.request_most_s)
    assert doubts.overdue(T.overdue_s) == ["CUSDT"]
    assert doubts.overdue(T.overdue_s + 1) == []
    assert not doubts.due(T.forgotten_s)


def test_an_answer_that_lists_it_settles_the_doubt_chosen_or_not(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.traded(moved("CUSDT"), two_listed, EXCHANGE, 0.0)
    assert asks(doubts, two_listed, ["AUSDT", "BUSDT", "CUSDT"], 100) == [2]
    assert two_listed.carried == ["AUSDT", "BUSDT", "CUSDT"]
    doubts.traded(moved("CUSDT"), two_listed, EXCHANGE, 100.0)
    assert not doubts.due(200.0)


def test_news_stand_until_an_answer_bears_them_out_or_they_are_an_alarm(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("AUSDT", "SETTLING"), 0.0)
    known = list(two_listed.known.values())
    assert [each.status for each in doubts.with_news(known)] == ["SETTLING", "TRADING"]
    answer(two_listed, ["AUSDT", "BUSDT"])
    doubts.answered(two_listed)
    assert [each.status for each in doubts.with_news(known)] == ["SETTLING", "TRADING"]
    assert doubts.overdue(T.overdue_s) == ["AUSDT"]
    assert [each.status for each in doubts.with_news(known)] == ["TRADING", "TRADING"], (
        "after a minute the answer counts"
    )
    answer(two_listed, ["AUSDT", "BUSDT"], AUSDT="SETTLING")
    doubts.answered(two_listed)
    assert not doubts.due(T.overdue_s + T.request_most_s)
    assert two_listed.carried == ["BUSDT"]


def test_who_was_announced_is_wanted_and_who_is_over_needs_no_listing(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("CUSDT", "PENDING_TRADING"), 0.0)
    doubts.news(news("DUSDT", "SETTLING"), 0.0)
    assert doubts.wanted == ["CUSDT"]
    doubts.answered(two_listed)
    assert doubts.wanted == ["CUSDT"]
    assert doubts.overdue(T.overdue_s) == ["CUSDT"]


def test_a_name_listed_anew_takes_its_new_generation_from_the_news(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("AUSDT", generation=2_000), 0.0)
    assert [each.generation for each in doubts.with_news([two_listed.known["AUSDT"]])] == [2_000]
    doubts.answered(two_listed)
    assert doubts.due(T.request_least_s)


def test_what_fits_the_choice(two_listed: Universe) -> None:
    assert fits("新USDT", EXCHANGE)
    assert not fits("BTCUSDC", EXCHANGE)
    named = settings.Exchange(symbols=("AUSDT",))
    assert (fits("AUSDT", named), fits("BUSDT", named)) == (True, False)
    assert chosen_news(news("CUSDT"), two_listed, EXCHANGE)
    assert not chosen_news(ContractNews("CUSDT", "CURRENT_QUARTER", "TRADING", 1, 2), two_listed, EXCHANGE)
    assert chosen_news(ContractNews("AUSDT", "CURRENT_QUARTER", "TRADING", 1, 2), two_listed, EXCHANGE)


@pytest.mark.parametrize(
    ("price", "qty", "finer"),
    [("85266.00", "0.158", False), ("85266.0000", "0.1580", False), ("85266.001", "1", True), ("1", "0.0001", True)],
)
def test_decimals_beyond_the_listing_are_seen(price: str, qty: str, finer: bool) -> None:
    known = {"AUSDT": Listing("AUSDT", 1_000, 2, 3, "TRADING", FAR)}
    latest = {"AUSDT": (5, price, qty), "XUSDT": (5, "1.123456", "1")}
    assert finer_than_listed(latest, known, latest.keys()) == (["AUSDT"] if finer else [])

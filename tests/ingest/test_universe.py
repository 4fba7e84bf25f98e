"""What vanishes from the exchange's answers, which answers are not believed, and what they do not bear out yet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ingest.timings import DEFAULT_TIMINGS
from ingest.universe import (
    CONTRACT_TYPE,
    STATUS,
    VANISHED,
    Answer,
    Doubts,
    NewWord,
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


EXCHANGE = settings.Exchange()
FAR = 4_133_404_800_000


def answer(
    universe: Universe,
    names: Iterable[str],
    now_ms: float = 0.0,
    *,
    exchange: settings.Exchange = EXCHANGE,
    quotes: dict[str, str] | None = None,
    types: dict[str, str] | None = None,
    **statuses: str,
) -> Answer:
    """An answer of exchangeInfo that lists `names`."""
    row = {
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "onboardDate": 1_000,
        "deliveryDate": FAR,
    }
    rows = [
        row
        | {
            "symbol": name,
            "status": statuses.get(name, "TRADING"),
            "quoteAsset": (quotes or {}).get(name, "USDT"),
            "contractType": (types or {}).get(name, "PERPETUAL"),
        }
        for name in names
    ]
    return universe.read({"symbols": rows}, exchange, now_ms)


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


def test_what_the_configuration_names_and_nobody_lists_is_said_and_waited_for() -> None:
    universe = Universe()
    exchange = settings.Exchange(symbols=("AUSDT", "BUSDT", "NEVERUSDT", "CUSDC"))
    answer(universe, ["AUSDT", "BUSDT", "CUSDC"], exchange=exchange, quotes={"CUSDC": "USDC"})
    assert universe.unmet == [
        "exchange.symbols names 'NEVERUSDT', which the exchange does not list",
        "exchange.symbols names 'CUSDC', which exchange.quote_assets and exchange.contract_types leave out",
    ]
    assert universe.waits == "; ".join(universe.unmet)
    assert universe.carried == ["AUSDT", "BUSDT"]
    answer(universe, ["AUSDT", "BUSDT", "NEVERUSDT", "CUSDC"], exchange=exchange)
    assert (universe.unmet, universe.waits) == ([], "")


def test_what_was_listed_once_and_has_ended_is_not_waited_for() -> None:
    universe, exchange = Universe(), settings.Exchange(symbols=("AUSDT", "BUSDT"))
    answer(universe, ["AUSDT", "BUSDT", "CUSDT"], exchange=exchange)
    for now_ms in (1, 1 + T.confirm_ms):
        answer(universe, ["BUSDT", "CUSDT"], now_ms, exchange=exchange)
    assert (list(universe.gone), universe.unmet) == (["AUSDT"], [])
    answer(universe, ["BUSDT", "CUSDT"], exchange=exchange, BUSDT="SETTLING")
    assert (universe.carried, universe.waits) == ([], "none of the chosen symbols trades (BUSDT is SETTLING)")


@pytest.mark.parametrize("status", ["SETTLING", "CLOSE", "PENDING_TRADING"])
def test_a_choice_of_which_nothing_trades_is_said(status: str) -> None:
    universe = Universe()
    answer(universe, ["AUSDT"], AUSDT=status)
    assert (universe.carried, universe.waits) == ([], f"none of the chosen symbols trades (AUSDT is {status})")
    answer(universe, ["AUSDT"])
    assert (universe.carried, universe.waits) == (["AUSDT"], "")


def test_a_choice_that_fits_nothing_is_said() -> None:
    universe = Universe()
    answer(universe, ["AUSDT"], exchange=settings.Exchange(quote_assets=("EUR",)))
    assert universe.waits.startswith("the exchange lists no symbol with exchange.quote_assets EUR and ")


# What the exchange published and its answers do not bear out.


@pytest.fixture
def two_listed() -> Universe:
    made = Universe()
    answer(made, ["AUSDT", "BUSDT"])
    return made


def news(name: str, status: str = "TRADING", generation: int = 1_000) -> ContractNews:
    return ContractNews(name, "PERPETUAL", status, generation, FAR)


def ticker(name: str, volume: float) -> Ticker:
    return Ticker(name, 5, "1", volume)


def asks(doubts: Doubts, two_listed: Universe, names: Iterable[str], until_s: int) -> list[int]:
    """The seconds at which it asks, if every answer lists `names`."""
    asked = []
    for now_s in range(1, until_s):
        if doubts.due(now_s):
            asked.append(now_s)
            doubts.requested(now_s)
            answer(two_listed, names)
            doubts.answered(two_listed, EXCHANGE)
    return asked


def test_an_unknown_symbol_that_trades_is_asked_about_in_longer_and_longer_pauses(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.traded(["AUSDT", "CUSDT", "CUSDC"], two_listed, EXCHANGE, 0.0)
    asked = asks(doubts, two_listed, ["AUSDT", "BUSDT"], 200)
    assert asked == [2, 6, 14, 30, 62, 122, 182]
    assert (asked[0], asked[-1] - asked[-2]) == (T.request_least_s, T.request_most_s)
    assert doubts.overdue(T.overdue_s) == ["CUSDT"]
    assert doubts.overdue(T.overdue_s + 1) == []
    assert not doubts.due(T.forgotten_s)


def test_an_answer_that_lists_it_settles_the_doubt_chosen_or_not(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.traded(["CUSDT"], two_listed, EXCHANGE, 0.0)
    assert asks(doubts, two_listed, ["AUSDT", "BUSDT", "CUSDT"], 100) == [2]
    assert two_listed.carried == ["AUSDT", "BUSDT", "CUSDT"]
    doubts.traded(["CUSDT"], two_listed, EXCHANGE, 100.0)
    assert not doubts.due(200.0)


def test_news_stand_until_an_answer_bears_them_out_or_they_are_an_alarm(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("AUSDT", "SETTLING"), 0.0)
    known = list(two_listed.known.values())
    assert [each.status for each in doubts.with_news(known)] == ["SETTLING", "TRADING"]
    answer(two_listed, ["AUSDT", "BUSDT"])
    doubts.answered(two_listed, EXCHANGE)
    assert [each.status for each in doubts.with_news(known)] == ["SETTLING", "TRADING"]
    assert doubts.overdue(T.overdue_s) == ["AUSDT"]
    assert [each.status for each in doubts.with_news(known)] == ["TRADING", "TRADING"], (
        "after a minute the answer counts"
    )
    answer(two_listed, ["AUSDT", "BUSDT"], AUSDT="SETTLING")
    doubts.answered(two_listed, EXCHANGE)
    assert not doubts.due(T.overdue_s + T.request_most_s)
    assert two_listed.carried == ["BUSDT"]


def test_who_was_announced_is_wanted_and_who_is_over_needs_no_listing(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("CUSDT", "TRADING"), 0.0)
    doubts.news(news("DUSDT", "SETTLING"), 0.0)
    doubts.news(news("EUSDT", "PENDING_TRADING"), 0.0)
    assert doubts.wanted(two_listed, 0.0) == ["CUSDT"]
    doubts.answered(two_listed, EXCHANGE)
    assert doubts.wanted(two_listed, 0.0) == ["CUSDT"]
    doubts.news(news("EUSDT", "TRADING"), 1.0)
    assert doubts.wanted(two_listed, 1.0) == ["CUSDT", "EUSDT"]
    answer(two_listed, ["AUSDT", "BUSDT", "EUSDT"])
    doubts.answered(two_listed, EXCHANGE)
    assert doubts.overdue(T.overdue_s) == ["CUSDT"]


def test_a_name_listed_anew_takes_its_new_generation_from_the_news(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.news(news("AUSDT", generation=2_000), 0.0)
    assert [each.generation for each in doubts.with_news([two_listed.known["AUSDT"]])] == [2_000]
    doubts.answered(two_listed, EXCHANGE)
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


# Words that nobody has seen, and symbols that are traded and not carried.


def test_an_unknown_status_changes_nothing_and_is_told_when_it_comes(two_listed: Universe) -> None:
    for status, words in (
        ("TRADING_HALT", []),
        ("BREAK_2027", [NewWord(STATUS, "BREAK_2027", "AUSDT", 1)]),
        ("BREAK_2027", [NewWord(STATUS, "BREAK_2027", "AUSDT", 0)]),
    ):
        assert answer(two_listed, ["AUSDT", "BUSDT"], AUSDT=status).words == words
        assert two_listed.carried == ["AUSDT", "BUSDT"]
        assert two_listed.halted == {"AUSDT": status}
    assert answer(two_listed, ["AUSDT", "BUSDT"]).words == []
    assert two_listed.halted == {}


def test_what_was_carried_stays_so_whatever_its_contract_type_becomes(two_listed: Universe) -> None:
    for kind, times in (("PERPETUAL_2027", 1), ("PERPETUAL_2027", 0), ("CURRENT_QUARTER", None), ("", 1)):
        said = answer(two_listed, ["AUSDT", "BUSDT"], types={"AUSDT": kind})
        assert said.words == ([] if times is None else [NewWord(CONTRACT_TYPE, kind, "AUSDT", times)])
        assert two_listed.carried == ["AUSDT", "BUSDT"]
    answer(two_listed, ["AUSDT", "BUSDT"], types={"AUSDT": "CURRENT_QUARTER"}, AUSDT="SETTLING")
    assert two_listed.carried == ["BUSDT"], "what it says of its end counts all the same"


def test_a_new_contract_type_is_told_and_its_symbol_carried() -> None:
    universe = Universe()
    said = answer(universe, ["AUSDT", "BUSDT"], types={"AUSDT": "PERPETUAL_2027", "BUSDT": "CURRENT_QUARTER"})
    assert (said.words, universe.carried) == ([NewWord(CONTRACT_TYPE, "PERPETUAL_2027", "AUSDT", 1)], ["AUSDT"])


def test_a_new_type_is_told_where_no_quote_asset_is_named() -> None:
    types, quotes = {"AUSDT": "X_2027", "AUSDC": "Y_2027"}, {"AUSDT": "", "AUSDC": ""}
    said = answer(Universe(), ["AUSDT", "AUSDC"], types=types, quotes=quotes)
    assert said.words == [NewWord(CONTRACT_TYPE, "X_2027", "AUSDT", 1)]


def test_a_chosen_name_whose_row_cannot_be_used_stays_listed(two_listed: Universe) -> None:
    row = {"symbol": "BUSDT", "pricePrecision": 2, "quantityPrecision": 3, "onboardDate": 1_000, "deliveryDate": FAR}
    rows = [row | {"quoteAsset": "USDT", "contractType": "PERPETUAL", "status": "TRADING"}, {"symbol": "AUSDT"}]
    said = two_listed.read({"symbols": rows}, EXCHANGE, 0.0)
    assert [each.symbol for each in said.chosen.listings] == ["BUSDT"]
    assert len(said.chosen.malformed) == 1
    assert two_listed.listed == two_listed.carried == ["AUSDT", "BUSDT"]
    two_listed.read({"symbols": rows[:1]}, EXCHANGE, 0.0)
    assert two_listed.listed == ["BUSDT"]


@pytest.mark.parametrize(("status", "kind"), [("PENDING_TRADING", ""), ("SETTLING", "PERPETUAL"), ("CLOSE", "")])
def test_a_listed_symbol_that_is_traded_is_asked_about_at_once_and_then_carried_anyway(status: str, kind: str) -> None:
    universe, doubts = Universe(), Doubts()
    names, types = ["AUSDT", "SOLUSDT"], {"SOLUSDT": kind}
    answer(universe, names, types=types, SOLUSDT=status)
    assert universe.carried == ["AUSDT"]
    doubts.requested(100.0)
    assert not doubts.due(300.0)
    doubts.traded(["SOLUSDT"], universe, EXCHANGE, 300.0)
    assert doubts.due(300.0)
    doubts.requested(300.0)
    answer(universe, names, types=types, SOLUSDT=status)
    doubts.answered(universe, EXCHANGE)
    assert doubts.wanted(universe, 300.0) == []
    assert doubts.wanted(universe, 300.0 + T.insist_s) == ["SOLUSDT"]
    assert doubts.overdue(300.0 + T.overdue_s) == ["SOLUSDT"]
    doubts.traded(["SOLUSDT"], universe, EXCHANGE, 800.0)
    assert not doubts.due(0.0)
    assert doubts.wanted(universe, 1000.0) == ["SOLUSDT"], "for as long as it trades"
    answer(universe, names)
    doubts.answered(universe, EXCHANGE)
    assert (universe.carried, doubts.wanted(universe, 1000.0)) == (names, [])


def test_a_carried_anyway_symbol_that_no_longer_trades_is_let_go() -> None:
    universe, doubts = Universe(), Doubts()
    answer(universe, ["AUSDT"], AUSDT="PENDING_TRADING")
    doubts.traded(["AUSDT"], universe, EXCHANGE, 100.0)
    assert doubts.wanted(universe, 200.0) == ["AUSDT"]
    doubts.due(100.0 + T.forgotten_s)
    assert doubts.wanted(universe, 100.0 + T.forgotten_s) == []


def test_a_first_ticker_with_a_volume_shows_that_a_symbol_has_opened() -> None:
    universe, doubts = Universe(), Doubts()
    answer(universe, ["AUSDT", "SOLUSDT", "XEMUSDT"], SOLUSDT="PENDING_TRADING", XEMUSDT="SETTLING")
    doubts.opened([ticker("SOLUSDT", 0.0), ticker("XEMUSDT", 9.0), ticker("AUSDT", 9.0)], universe, EXCHANGE, 300.0)
    assert not doubts.due(300.0)
    doubts.opened([ticker("SOLUSDT", 0.5)], universe, EXCHANGE, 300.0)
    assert doubts.due(300.0)
    assert doubts.wanted(universe, 300.0 + T.insist_s) == ["SOLUSDT"]


def test_a_new_doubt_does_not_wait_for_the_pause_of_an_old_one(two_listed: Universe) -> None:
    doubts = Doubts()
    doubts.traded(["CUSDT"], two_listed, EXCHANGE, 0.0)
    assert asks(doubts, two_listed, ["AUSDT", "BUSDT"], 130)[-1] == 122
    assert not doubts.due(130.0)
    doubts.traded(["DUSDT"], two_listed, EXCHANGE, 130.0)
    assert doubts.due(130.0)


def test_contracts_of_other_types_and_other_names_are_no_doubts() -> None:
    universe, doubts = Universe(), Doubts()
    answer(universe, ["AUSDT", "TSLAUSDT"], types={"TSLAUSDT": "TRADIFI_PERPETUAL"})
    doubts.traded(["TSLAUSDT", "AUSDT", "BTCUSDC"], universe, EXCHANGE, 300.0)
    named = settings.Exchange(symbols=("AUSDT",))
    other = Universe()
    answer(other, ["AUSDT", "SOLUSDT"], exchange=named, SOLUSDT="PENDING_TRADING")
    doubts.traded(["SOLUSDT"], other, named, 300.0)
    assert not doubts.due(300.0)
    assert doubts.wanted(other, 400.0) == []


def test_a_row_that_cannot_be_used_is_a_doubt_when_its_symbol_trades() -> None:
    universe, doubts = Universe(), Doubts()
    good = {"symbol": "AUSDT", "quoteAsset": "USDT", "contractType": "PERPETUAL", "pricePrecision": 2}
    good |= {"quantityPrecision": 3, "onboardDate": 1, "deliveryDate": FAR, "status": "TRADING"}
    universe.read({"symbols": [good, good | {"symbol": "BUSDT", "onboardDate": None}]}, EXCHANGE, 0.0)
    doubts.traded(["BUSDT"], universe, EXCHANGE, 300.0)
    assert doubts.wanted(universe, 300.0 + T.insist_s) == ["BUSDT"]

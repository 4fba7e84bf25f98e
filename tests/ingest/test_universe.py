"""What vanishes from the exchange's answers, and which answers are not believed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from ingest.universe import CONFIRM_MS, VANISHED, Universe
from klagg.errors import ExchangeUnavailable
from klagg.wire.entries import Listing

NAMES = ("AUSDT", "BUSDT", "CUSDT", "DUSDT")


def listing(name: str, status: str = "TRADING", generation: int = 1_000) -> Listing:
    return Listing(name, generation, 2, 3, status, 4_133_404_800_000)


def listings(names: Iterable[str]) -> list[Listing]:
    return [listing(name) for name in names]


def take(universe: Universe, names: Iterable[str], now_ms: float) -> list[str]:
    """An answer of which everything is chosen."""
    present = frozenset(names)
    universe.check(present)
    return universe.take(listings(sorted(present)), present, now_ms)


@pytest.fixture
def universe() -> Universe:
    """One that has seen NAMES at 0 ms."""
    made = Universe()
    assert take(made, NAMES, 0) == []
    return made


def test_a_name_ends_when_answers_have_lacked_it_for_long_enough(universe: Universe) -> None:
    assert take(universe, NAMES[1:], 5) == []
    assert universe.doubtful
    assert take(universe, NAMES[1:], 4 + CONFIRM_MS) == []
    assert universe.gone == {}
    assert take(universe, NAMES[1:], 5 + CONFIRM_MS) == ["AUSDT"]
    assert universe.gone == {"AUSDT": replace(listing("AUSDT"), status=VANISHED)}
    assert not universe.doubtful
    assert take(universe, NAMES[1:], 10 * CONFIRM_MS) == []
    assert list(universe.gone) == ["AUSDT"], "it is said with every listing"


def test_one_answer_that_has_it_in_between_begins_the_wait_anew(universe: Universe) -> None:
    take(universe, NAMES[1:], 5)
    take(universe, NAMES, 6)
    assert not universe.doubtful
    assert take(universe, NAMES[1:], 5 + CONFIRM_MS) == []
    assert take(universe, NAMES[1:], 5 + 2 * CONFIRM_MS) == ["AUSDT"]


def test_a_name_that_comes_back_is_no_longer_gone_and_may_vanish_again(universe: Universe) -> None:
    for now_ms in (1, 1 + CONFIRM_MS):
        take(universe, NAMES[1:], now_ms)
    again = [listing("AUSDT", generation=2_000), *listings(NAMES[1:])]
    assert universe.take(again, frozenset(NAMES), 10 * CONFIRM_MS) == []
    assert universe.gone == {}
    take(universe, NAMES[1:], 11 * CONFIRM_MS)
    assert take(universe, NAMES[1:], 12 * CONFIRM_MS) == ["AUSDT"]
    assert universe.gone["AUSDT"].generation == 2_000


def test_what_the_exchange_ended_itself_is_not_ended_again(universe: Universe) -> None:
    universe.take([listing("AUSDT", "SETTLING"), *listings(NAMES[1:])], frozenset(NAMES), 1)
    for now_ms in (2, 2 + CONFIRM_MS):
        assert take(universe, NAMES[1:], now_ms) == []
        assert not universe.doubtful
    assert universe.gone == {}


def test_a_name_that_is_there_and_no_longer_chosen_has_not_vanished(universe: Universe) -> None:
    for now_ms in (1, 1 + CONFIRM_MS):
        assert universe.take(listings(NAMES[1:]), frozenset(NAMES), now_ms) == []
        assert not universe.doubtful


@pytest.mark.parametrize(("present", "believed"), [(NAMES[:2], True), (NAMES[:1], False), ((), False)])
def test_an_answer_that_lacks_most_names_is_refused_and_changes_nothing(
    universe: Universe, present: tuple[str, ...], believed: bool
) -> None:
    if believed:
        assert take(universe, present, 1) == []
        return
    with pytest.raises(ExchangeUnavailable, match=rf"lacks {4 - len(present)} of the 4 symbols .* restart klagg-clock"):
        take(universe, [*present, "XUSDT", "YUSDT", "ZUSDT"], 1)
    assert not universe.doubtful
    assert take(universe, NAMES, 2) == []


def test_a_first_answer_is_believed_whatever_it_holds() -> None:
    assert take(Universe(), ["AUSDT"], 0) == []


def test_what_the_configuration_names_must_be_there_until_it_has_been(universe: Universe) -> None:
    names = frozenset(NAMES[1:])
    assert universe.expected(["AUSDT", "BUSDT", "NEVERUSDT"], names) == ["BUSDT", "NEVERUSDT"]
    for now_ms in (1, 1 + CONFIRM_MS):
        take(universe, names, now_ms)
    assert universe.expected(["AUSDT", "BUSDT"], names) == ["BUSDT"]
    assert universe.expected(["AUSDT"], frozenset(NAMES)) == ["AUSDT"]

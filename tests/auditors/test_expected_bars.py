"""Who owes which bar: symbols that begin, end, go on, are listed again, or are met midway."""

from __future__ import annotations

from auditors.expected_bars import ABSENT, BEHIND, PASSED, Deadlines, ExpectedBars, MissingBars
from klagg.intervals import MINUTE_MS, ordered
from klagg.wire.entries import EVENT_DELISTED, EVENT_GENESIS, EVENT_LISTED
from tests.aggregator.kit import T0

DUE_MS = 15_000
A = "AUSDT"


def expected(*intervals: str) -> ExpectedBars:
    made = ExpectedBars(ordered(intervals or ("1m",)), Deadlines(DUE_MS, 180 * MINUTE_MS))
    made.watched = True
    made.tick(T0)
    return made


def minute(number: int) -> int:
    return T0 + number * MINUTE_MS


def genesis(one: ExpectedBars, time_ms: int, generation: int = 1) -> None:
    row = {"symbol": A, "generation": str(generation), "id": "1", "trade_time": str(time_ms)}
    one.apply_event(EVENT_GENESIS, row)


def listing(one: ExpectedBars, kind: str, status: str = "TRADING", generation: int = 1) -> None:
    one.apply_event(kind, {"symbol": A, "generation": str(generation), "status": status})


def say(one: ExpectedBars, *numbers: int) -> list[bool]:
    return [one.observe(A, "1m", minute(number)) for number in numbers]


def test_nothing_is_owed_before_the_first_trade() -> None:
    one = expected()
    listing(one, EVENT_LISTED)
    assert one.tick(minute(600)) == []


def test_from_its_genesis_on_a_symbol_owes_every_interval_once() -> None:
    one = expected("1m", "5m")
    genesis(one, minute(2) + 5)
    assert one.tick(minute(3) + DUE_MS - 1) == []
    assert one.tick(minute(3) + DUE_MS) == [MissingBars(A, "1m", minute(2), minute(2), ABSENT)]
    assert one.tick(minute(4)) == [], "said once"
    assert one.tick(minute(5) + DUE_MS) == [MissingBars(A, "5m", T0, T0, ABSENT)]
    assert say(one, 2, 3) == [True, True]
    assert one.tick(minute(5) + DUE_MS) == [MissingBars(A, "1m", minute(4), minute(4), ABSENT)]


def test_bars_passed_over() -> None:
    one = expected()
    genesis(one, minute(0))
    say(one, 0, 1, 5)
    assert one.tick(minute(6)) == [MissingBars(A, "1m", minute(2), minute(4), PASSED)]
    assert say(one, 3, 6) == [False, True]


def test_a_first_bar_behind_the_genesis_is_a_gap_and_one_before_it_is_none() -> None:
    late, early = expected(), expected()
    genesis(late, minute(2))
    say(late, 4)
    assert late.tick(minute(5)) == [MissingBars(A, "1m", minute(2), minute(3), PASSED)]
    genesis(early, minute(2))
    say(early, 1, 2)
    assert early.tick(minute(3)) == []


def test_bars_that_reach_back_must_come_up_to_where_the_series_began() -> None:
    one = expected()
    genesis(one, minute(5))
    assert say(one, 5, 6, 3, 4, 7) == [True] * 5
    assert one.tick(minute(8)) == [MissingBars(A, "1m", minute(3), minute(4), BEHIND)], "whoever holds the bars looks"
    assert one.tick(minute(8) + 1) == []


def test_what_reached_back_is_looked_at_when_it_must_be_there() -> None:
    one = expected()
    genesis(one, minute(5))
    say(one, 5, 6, 3)
    one.tick(T0)
    found = one.tick(minute(7))
    assert MissingBars(A, "1m", minute(3), minute(4), BEHIND) in found
    assert say(one, 4) == [False], "too late"


def test_a_delisted_symbol_owes_what_was_due_before() -> None:
    one, other = expected(), expected()
    for each in (one, other):
        genesis(each, minute(0))
        say(each, 0, 1)
    one.tick(minute(2) + 30_000)
    listing(one, EVENT_DELISTED, "SETTLING")
    assert one.tick(minute(50)) == []
    other.tick(minute(3) + 14_000)
    other.tick(minute(3) + 20_000)
    listing(other, EVENT_DELISTED, "SETTLING")
    assert other.symbols[A].series["1m"].reported == minute(2), "it was due and is said"


def test_a_symbol_that_goes_on_owes_again_and_what_lay_between_is_excused() -> None:
    one = expected()
    genesis(one, minute(0))
    say(one, 0, 1)
    one.tick(minute(2))
    listing(one, EVENT_DELISTED, "SETTLING")
    one.tick(minute(60))
    listing(one, EVENT_LISTED)
    say(one, 58, 59)
    assert one.tick(minute(60)) == []
    assert one.tick(minute(61) + DUE_MS) == [MissingBars(A, "1m", minute(60), minute(60), ABSENT)]
    say(one, 62)
    assert one.tick(minute(63)) == [MissingBars(A, "1m", minute(60), minute(61), PASSED)], "that is a gap of its own"


def test_a_new_generation_owes_from_its_own_genesis_on() -> None:
    one = expected()
    genesis(one, minute(0))
    say(one, 0, 1)
    one.tick(minute(2))
    listing(one, EVENT_DELISTED, "SETTLING")
    one.tick(minute(90))
    listing(one, EVENT_LISTED, generation=2)
    assert one.tick(minute(95)) == []
    genesis(one, minute(95) + 1, generation=2)
    say(one, 95, 96)
    assert one.tick(minute(97)) == []
    assert one.tick(minute(98) + DUE_MS) == [MissingBars(A, "1m", minute(97), minute(97), ABSENT)]


def test_who_is_met_midway_owes_the_bars_in_progress() -> None:
    one = ExpectedBars(ordered(("1m", "1h")), Deadlines(DUE_MS, 180 * MINUTE_MS))
    assert say(one, 7, 3, 4) == [True] * 3, "new versions of bars that are not known"
    assert one.tick(minute(8) + 1) == []
    assert say(one, 5, 8) == [True, True]
    assert one.tick(minute(10) + DUE_MS) == [MissingBars(A, "1m", minute(9), minute(9), ABSENT)]
    assert one.tick(minute(60) + DUE_MS) == [MissingBars(A, "1h", T0, T0, ABSENT)]


def test_behind_a_loss_everything_is_met_anew() -> None:
    one = expected()
    genesis(one, minute(0))
    say(one, 0, 1)
    one.forget_progress()
    say(one, 1, 5)
    assert one.tick(minute(6)) == []
    assert one.tick(minute(7) + DUE_MS) == [MissingBars(A, "1m", minute(6), minute(6), ABSENT)]

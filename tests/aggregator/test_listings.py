"""Listings: symbols that begin, end and come back."""

from __future__ import annotations

import pytest

from aggregator.ring import ENDLESS
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS, interval
from klagg.wire.entries import EVENT_DELISTED, EVENT_GAP_OPENED, EVENT_GENESIS, EVENT_LISTED
from tests.aggregator.kit import T0, feed, klines, new_core, steps, tick, trade
from tests.aggregator.listingkit import NAME, brief, events, list_, listed

# What begins.


def test_the_first_trade_of_a_generation_is_its_genesis() -> None:
    core = new_core("1m")
    tick(core, T0)
    list_(core, listed(generation=T0 + 1000))
    outputs = tick(core, T0 + 500)
    assert events(outputs, EVENT_LISTED) == [
        {"symbol": NAME, "generation": str(T0 + 1000), "status": "TRADING", "price_scale": "2", "qty_scale": "3"}
    ]
    assert events(outputs, EVENT_GENESIS) == []
    feed(core, [trade(2, T0 + 2000), trade(1, T0 + 1500)])
    genesis = {"symbol": NAME, "generation": str(T0 + 1000), "id": "1", "trade_time": str(T0 + 1500)}
    assert events(tick(core, T0 + 2000), EVENT_GENESIS) == [genesis]
    feed(core, [trade(3, T0 + 3000)])
    assert events(tick(core, T0 + 3000), EVENT_GENESIS) == []
    list_(core, listed(generation=T0 + 1000))
    assert events(tick(core, T0 + 3500), EVENT_LISTED) == []


def test_what_is_missed_at_the_front_of_a_new_generation_is_a_gap() -> None:
    core = new_core("1m")
    tick(core, T0)
    list_(core, listed(generation=T0 + 1000))
    feed(core, [trade(4, T0 + 70_000)])
    outputs = tick(core, T0 + 70_000)
    assert events(outputs, EVENT_GAP_OPENED) == [
        {"symbol": NAME, "from_id": "1", "to_id": "3", "before_time": str(T0 + 1000), "after_time": str(T0 + 70_000)}
    ]
    feed(core, [trade(at, T0 + 30_000 + at) for at in (1, 2, 3)] + [trade(5, T0 + 125_000)])
    assert brief(klines(tick(core, T0 + 125_000))) == [("1m", 0, 3, 1, 1), ("1m", 1, 1, 1, 1)]


def test_nothing_is_known_of_generations_older_than_klagg() -> None:
    core = new_core("1m")
    list_(core, listed(generation=T0 - 1))
    tick(core, T0)
    feed(core, [trade(4, T0 + 1000), trade(5, T0 + 61_000)])
    outputs = tick(core, T0 + 61_000)
    assert events(outputs, EVENT_GAP_OPENED) == []
    assert brief(klines(tick(core, T0 + 62_000 + 20_000))) == [("1m", 0, 1, 1, 0)]


def test_trades_before_their_first_listing_stay_where_they_are() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0 + 1000, "1.25")])
    assert events(tick(core, T0 + 1000), EVENT_GENESIS)[0]["generation"] == "0"
    list_(core, listed(generation=T0 + 500))
    feed(core, [trade(2, T0 + 61_000)])
    outputs = tick(core, T0 + 61_000)
    assert core.symbols.generation[0] == T0 + 500
    assert brief(klines(outputs)) == [("1m", 0, 1, 1, 1)]
    assert klines(outputs)[0].volume == "1.000"


def test_an_onboard_time_that_is_corrected_begins_nothing_anew() -> None:
    core = new_core("1m")
    list_(core, listed(generation=T0))
    feed(core, [trade(1, T0 + 5000)])
    tick(core, T0 + 5000)
    list_(core, listed(generation=T0 + 4000))
    feed(core, [trade(2, T0 + 61_000)])
    outputs = tick(core, T0 + 61_000)
    assert core.symbols.generation[0] == T0 + 4000
    assert brief(klines(outputs)) == [("1m", 0, 1, 1, 1)]
    assert not core.ledger.gaps


# What ends.


@pytest.mark.parametrize(("status", "over"), [("SETTLING", 1), ("CLOSE", 1), ("PRE_SETTLE", 0), ("PENDING_TRADING", 0)])
@pytest.mark.parametrize("passed", [False, True])
def test_a_status_or_its_delivery_time_ends_a_symbol(status: str, over: int, passed: bool) -> None:
    core = new_core("1m")
    list_(core, listed())
    feed(core, [trade(1, T0 + 1000)])
    tick(core, T0 + 1000)
    list_(core, listed(status, delivery=T0 + 2000 if passed else T0 + 10_000_000))
    outputs = tick(core, T0 + 5000)
    ended = over or (passed and status == "PRE_SETTLE")
    assert bool(events(outputs, EVENT_DELISTED)) == ended
    assert bool(events(outputs, EVENT_LISTED)) != ended
    assert core.ring.end_ms[0] == ((T0 + 2000 if passed else T0 + 5000) if ended else ENDLESS)


def test_all_open_bars_end_with_the_symbol_and_nothing_more_is_said() -> None:
    core = new_core("1m", "1h", "1w")
    feed(core, [trade(7, T0 + 1000, "5"), trade(8, T0 + 61_000, "6")])
    assert tick(core, T0 + 61_000).bars.keys() == {f"{NAME}:1m", f"{NAME}:1h", f"{NAME}:1w"}
    list_(core, listed("SETTLING", delivery=T0 + 90_000))
    assert brief(klines(tick(core, T0 + 90_000))) == [("1m", 0, 1, 1, 0)]
    outputs = tick(core, T0 + 100_000)
    week = (interval("1w").open_time(T0) - T0) // MINUTE_MS
    assert brief(klines(outputs)) == [("1m", 1, 1, 1, 0), ("1h", 0, 2, 1, 0), ("1w", week, 2, 1, 0)]
    assert sorted(outputs.bars_gone) == [f"{NAME}:{each}" for each in ("1h", "1m", "1w")]
    assert not outputs.bars.keys() & set(outputs.bars_gone)
    for later in (T0 + 100_250, T0 + 4 * HOUR_MS, T0 + 8 * DAY_MS):
        said = tick(core, later)
        assert not any((said.klines, said.live, said.bars, said.bars_gone))


def test_a_delivery_time_that_passes_ends_a_symbol_whose_status_stays() -> None:
    core = new_core("1m")
    for time_ms, over in ((T0 + 1000, False), (T0 + 5000, True), (T0 + 6000, False)):
        list_(core, listed("PRE_SETTLE", delivery=T0 + 4000))
        assert bool(events(tick(core, time_ms), EVENT_DELISTED)) == over


def test_early_closes_hold_what_longer_bars_would_get_once_a_second() -> None:
    core = new_core("1m", "1h", live_long_ms=3_600_000)
    tick(core, T0)
    feed(core, [trade(7, T0 + 2000), trade(9, T0 + 10_000)])
    tick(core, T0 + 10_000)
    list_(core, listed("CLOSE", delivery=T0 + 11_000))
    assert brief(klines(tick(core, T0 + 30_000))) == [("1m", 0, 2, 1, 0), ("1h", 0, 2, 1, 0)]
    feed(core, [trade(8, T0 + 3000)])
    assert brief(klines(tick(core, T0 + 31_000))) == [("1m", 0, 3, 2, 0), ("1h", 0, 3, 2, 0)]


def test_an_amendment_does_not_show_what_was_open_when_the_symbol_left() -> None:
    core = new_core("1m")
    feed(core, [trade(7, T0 + 1000, "5")])
    tick(core, T0 + 1000)
    shown = [
        name for each in tick(core, T0 + 70_000).live for name, value in each.items() if f"{T0 + 60_000}," in value
    ]
    assert shown == [f"{NAME}:1m"]
    list_(core, listed("CLOSE", delivery=T0 + 60_000))
    assert tick(core, T0 + 71_000).bars_gone == [f"{NAME}:1m"]
    feed(core, [trade(8, T0 + 2000, "6")])
    outputs = tick(core, T0 + 75_000)
    assert brief(klines(outputs)) == [("1m", 0, 2, 2, 0)]
    assert not outputs.bars
    assert [value.split(",")[0] for each in outputs.live for name, value in each.items() if name.startswith(NAME)] == [
        str(T0)
    ]


def test_an_end_between_the_bars_begins_no_empty_one() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0 + 1000)])
    tick(core, T0 + 1000)
    list_(core, listed("CLOSE", delivery=T0 + 60_000))
    assert brief(klines(steps(core, T0 + HOUR_MS))) == [("1m", 0, 1, 1, 0)]


def test_a_late_trade_amends_at_once_what_was_closed_early() -> None:
    core = new_core("1m", "1d")
    feed(core, [trade(1, T0 + 1000), trade(3, T0 + 3000)])
    tick(core, T0 + 3000)
    list_(core, listed("CLOSE", delivery=T0 + 4000))
    tick(core, T0 + 20_000)
    feed(core, [trade(2, T0 + 2000)])
    day = (interval("1d").open_time(T0) - T0) // MINUTE_MS
    outputs = tick(core, T0 + 25_000)
    assert brief(klines(outputs)) == [("1m", 0, 3, 2, 0), ("1d", day, 3, 2, 0)]
    assert not outputs.bars_gone


def test_a_symbol_that_trades_on_lives_on() -> None:
    """Nothing is lost: the end moves behind the trades."""
    core = new_core("1m")
    feed(core, [trade(1, T0 + 1000)])
    tick(core, T0 + 1000)
    list_(core, listed("CLOSE", delivery=T0 + 2000))
    assert brief(klines(tick(core, T0 + 20_000))) == [("1m", 0, 1, 1, 0)]
    feed(core, [trade(2, T0 + 190_000), trade(3, T0 + 241_000)])
    outputs = tick(core, T0 + 241_000)
    assert brief(klines(outputs)) == [("1m", 0, 1, 1, 1), ("1m", 1, 0, 1, 1), ("1m", 2, 0, 1, 1), ("1m", 3, 1, 1, 1)]
    assert core.ring.end_ms[0] == T0 + 241_001
    outputs = tick(core, T0 + 260_000)
    assert brief(klines(outputs)) == [("1m", 4, 1, 1, 0)]
    assert outputs.bars_gone == [f"{NAME}:1m"]
    list_(core, listed("CLOSE", delivery=T0 + 2000))
    assert not tick(core, T0 + 270_000).klines


def test_trading_again_under_the_same_generation_goes_on_where_it_stopped() -> None:
    core = new_core("1m", "1h")
    feed(core, [trade(7, T0 + 1000, "5")])
    tick(core, T0 + 1000)
    list_(core, listed("CLOSE"))
    tick(core, T0 + 2000)
    assert brief(klines(tick(core, T0 + 30_000))) == [("1m", 0, 1, 1, 0), ("1h", 0, 1, 1, 0)]
    list_(core, listed())
    outputs = tick(core, T0 + 200_000)
    assert events(outputs, EVENT_LISTED)
    assert brief(klines(outputs)) == [("1m", 1, 0, 1, 0), ("1m", 2, 0, 1, 0)]
    assert klines(outputs)[0].close == "5.00"
    # The hour was closed early: its trades are told once more when it is over, not at every tick.
    feed(core, [trade(8, T0 + 201_000, "6")])
    outputs = tick(core, T0 + 201_000)
    assert "1h" not in {each.interval for each in klines(outputs)}
    feed(core, [trade(9, T0 + HOUR_MS + 1000, "6")])
    said = [each for each in klines(tick(core, T0 + HOUR_MS + 1000)) if each.interval == "1h"]
    assert brief(said) == [("1h", 0, 2, 2, 0)]
    assert said[0].close == "6.00"


def test_after_a_long_halt_bars_go_on_as_far_back_as_the_ring_holds() -> None:
    core = new_core("1m", "1w")  # the week keeps the slot
    feed(core, [trade(7, T0 + 1000, "5")])
    tick(core, T0 + 1000)
    list_(core, listed("CLOSE"))
    tick(core, T0 + 2000)
    steps(core, T0 + 40 * HOUR_MS)
    list_(core, listed())
    now = T0 + 40 * HOUR_MS + 250
    said = [each for each in klines(steps(core, now)) if each.interval == "1m"]
    assert said
    last = T0 + 40 * HOUR_MS - 2 * MINUTE_MS  # the next one waits for its grace
    assert [each.open_time for each in said] == list(range(said[0].open_time, last + 1, MINUTE_MS))
    assert said[0].open_time > now - 180 * MINUTE_MS
    assert {(each.close, each.trades) for each in said} == {("5.00", 0)}

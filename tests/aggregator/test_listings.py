"""Listings: symbols that begin, end, come again under another generation, and leave their slot to others."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator import parking
from aggregator.checkpoint import Checkpoint, restore
from aggregator.core import Core
from aggregator.outputs import Outputs
from aggregator.ring import ENDLESS
from klagg import contract, settings
from klagg.contract import Fields, Listing, TradeRow
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS, interval
from klagg.kline import Kline
from tests.aggregator.kit import T0, feed, klines, mark, new_core, newest, raw, steps, tick, trade, values
from tests.aggregator.oracle import fold

NAME = "BTCUSDT"
FAR = 4_133_404_800_000
LONG = T0 - 1_000 * DAY_MS
"""Listed long before klagg began."""


def list_(core: Core, *listings: Listing) -> None:
    """Listings as one entry."""
    for entry in contract.listing_entries(listings):
        assert not list(core.apply("1-1", raw(entry)))


def listed(status: str = "TRADING", generation: int = LONG, delivery: int = FAR, symbol: str = NAME) -> Listing:
    return Listing(symbol, generation, 2, 3, status, delivery)


def events(outputs: Outputs | Iterable[Outputs], kind: str) -> list[dict[str, str]]:
    every = [outputs] if isinstance(outputs, Outputs) else outputs
    return [
        row for each in every for fields in each.events if fields["kind"] == kind for row in contract.event_rows(fields)
    ]


def findings(outputs: Outputs, kind: str) -> list[str]:
    return [each["symbol"] for each in outputs.findings if each["kind"] == kind]


def copy_of(core: Core, *intervals: str) -> Core:
    """A fresh core with the checkpoint of another."""
    checkpoint, other = Checkpoint(core), new_core(*intervals)
    restore(other, checkpoint.header, [checkpoint.block(number) for number in range(checkpoint.blocks)])
    return other


def brief(found: Iterable[Kline]) -> list[tuple[str, int, int, int, int]]:
    """interval, minutes since T0, trades, revision, complete"""
    return [
        (each.interval, (each.open_time - T0) // MINUTE_MS, each.trades, each.revision, each.complete) for each in found
    ]


# What begins.


def test_the_first_trade_of_a_generation_is_its_genesis() -> None:
    core = new_core("1m")
    tick(core, T0)
    list_(core, listed(generation=T0 + 1000))
    outputs = tick(core, T0 + 500)
    assert events(outputs, contract.EVENT_LISTED) == [
        {"symbol": NAME, "generation": str(T0 + 1000), "status": "TRADING", "price_scale": "2", "qty_scale": "3"}
    ]
    assert events(outputs, contract.EVENT_GENESIS) == []
    feed(core, [trade(2, T0 + 2000), trade(1, T0 + 1500)])
    genesis = {"symbol": NAME, "generation": str(T0 + 1000), "id": "1", "trade_time": str(T0 + 1500)}
    assert events(tick(core, T0 + 2000), contract.EVENT_GENESIS) == [genesis]
    feed(core, [trade(3, T0 + 3000)])
    assert events(tick(core, T0 + 3000), contract.EVENT_GENESIS) == []
    list_(core, listed(generation=T0 + 1000))
    assert events(tick(core, T0 + 3500), contract.EVENT_LISTED) == []


def test_what_is_missed_at_the_front_of_a_new_generation_is_a_hole() -> None:
    core = new_core("1m")
    tick(core, T0)
    list_(core, listed(generation=T0 + 1000))
    feed(core, [trade(4, T0 + 70_000)])
    outputs = tick(core, T0 + 70_000)
    assert events(outputs, contract.EVENT_HOLE_OPENED) == [{
        "symbol": NAME, "from_id": "1", "to_id": "3", "before_time": str(T0 + 1000), "after_time": str(T0 + 70_000)
    }]  # fmt: skip
    feed(core, [trade(at, T0 + 30_000 + at) for at in (1, 2, 3)] + [trade(5, T0 + 125_000)])
    assert brief(klines(tick(core, T0 + 125_000))) == [("1m", 0, 3, 1, 1), ("1m", 1, 1, 1, 1)]


def test_nothing_is_known_of_generations_older_than_klagg() -> None:
    core = new_core("1m")
    list_(core, listed(generation=T0 - 1))
    tick(core, T0)
    feed(core, [trade(4, T0 + 1000), trade(5, T0 + 61_000)])
    outputs = tick(core, T0 + 61_000)
    assert events(outputs, contract.EVENT_HOLE_OPENED) == []
    assert brief(klines(tick(core, T0 + 62_000 + 20_000))) == [("1m", 0, 1, 1, 0)]


def test_trades_before_their_first_listing_stay_where_they_are() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0 + 1000, "1.25")])
    assert events(tick(core, T0 + 1000), contract.EVENT_GENESIS)[0]["generation"] == "0"
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
    assert not core.ledger.holes


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
    ended = over or passed
    assert bool(events(outputs, contract.EVENT_DELISTED)) == ended
    assert bool(events(outputs, contract.EVENT_LISTED)) != ended
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
        assert bool(events(tick(core, time_ms), contract.EVENT_DELISTED)) == over


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
    ]  # fmt: skip


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
    assert events(outputs, contract.EVENT_LISTED)
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


# What comes again.


def relisted(core: Core) -> int:
    """A core whose BTCUSDT traded from T0, ended two minutes later and is listed anew an hour later: the new onboard
    time."""
    list_(core, listed())
    feed(core, [trade(500 + at, T0 + 1000 + at * 30_000, "5") for at in range(4)])
    tick(core, T0 + 95_000)
    list_(core, listed("CLOSE", delivery=T0 + 100_000))
    tick(core, T0 + 101_000)
    tick(core, T0 + 120_000)
    generation = T0 + HOUR_MS + 10_000
    list_(core, listed("PENDING_TRADING", generation=generation))
    tick(core, T0 + HOUR_MS)
    list_(core, listed("TRADING", generation=generation))
    return generation


def test_a_new_generation_begins_at_id_1_in_the_same_slot() -> None:
    core = new_core("1m", "1d")
    generation = relisted(core)
    feed(core, [trade(1, generation + 1000, "7"), trade(2, generation + 2000, "8"), trade(3, generation + 60_000)])
    outputs = tick(core, generation + 60_000)
    assert events(outputs, contract.EVENT_GENESIS)[0]["id"] == "1"
    # No empty bar between the generations, and the first bar of the new one is whole.
    assert brief(klines(outputs)) == [("1m", 60, 2, 1, 1)]
    assert core.symbols.names == [NAME]
    assert core.counts.duplicates == 0
    # The day holds both: no trade of the new generation proves what the old one left open.
    said = [each for each in klines(steps(core, T0 + DAY_MS)) if each.interval == "1d"]
    assert [(each.trades, each.revision, each.complete) for each in said] == [(7, 2, 0)]
    assert (said[0].open, said[0].close) == ("5.00", "1.00")


def test_late_trades_of_the_generation_before_are_told_apart_by_their_time() -> None:
    core = new_core("1m")
    generation = relisted(core)
    feed(core, [trade(1, generation + 1000), trade(501, T0 + 31_000, "5"), trade(504, T0 + 99_000)])
    outputs = tick(core, generation + 1000)
    assert core.counts.duplicates == 1
    assert findings(outputs, "OLD_GENERATION") == [NAME]
    assert core.ledger.last_id[0] == 1
    assert not core.ledger.holes


def test_open_holes_of_the_generation_before_are_lost() -> None:
    core = new_core("1m")
    feed(core, [trade(10, T0 + 1000), trade(13, T0 + 2000)])
    tick(core, T0 + 2000)
    list_(core, listed())
    tick(core, T0 + 2500)
    list_(core, listed(generation=T0 + 3000))
    outputs = tick(core, T0 + 3000)
    closed = {"symbol": NAME, "from_id": "11", "to_id": "12", "reason": "lost"}
    assert events(outputs, contract.EVENT_HOLE_CLOSED) == [closed]
    # The generation before had not ended: bars go on without a gap, and what it left open taints.
    feed(core, [trade(1, T0 + 61_000), trade(2, T0 + 121_000)])
    assert brief(klines(tick(core, T0 + 121_000))) == [("1m", 0, 2, 1, 0), ("1m", 1, 1, 1, 1)]
    assert brief(klines(steps(core, T0 + HOUR_MS)))[0] == ("1m", 2, 1, 1, 0)


def test_the_id_space_may_change_with_the_generation() -> None:
    core = new_core("1m")
    generation = relisted(core)
    feed(core, [trade(1, generation + 1000), trade(2, generation + 61_000)], ids="trade")
    outputs = tick(core, generation + 61_000)
    assert not outputs.findings
    assert brief(klines(outputs)) == [("1m", 60, 1, 1, 1)]
    assert klines(outputs)[0].first_agg_id == -1


def test_what_follows_an_early_close_is_not_there_before_its_time() -> None:
    """The successor of a bar closed early lies in the future and has no row: nothing may be written at its place."""
    core = new_core("1m", "1h", window_minutes=10)
    list_(core, listed())
    feed(core, [trade(500, T0 + 1000, "5")])
    tick(core, T0 + 1000)
    list_(core, listed("CLOSE", delivery=T0 + 2000))
    tick(core, T0 + 20_000)
    list_(core, listed(generation=T0 + 30_000))
    feed(core, [trade(1, T0 + 30_000, "6")])
    for time_ms in (T0 + 30_000, T0 + 31_000, T0 + 1_800_000):
        for outputs in steps(core, time_ms):
            assert f"{NAME}:1h" not in outputs.bars
            assert not [entry for entry in outputs.live if f"{NAME}:1h" in entry]
    feed(core, [trade(2, T0 + HOUR_MS, "7")])
    said = steps(core, T0 + HOUR_MS)
    assert said[-1].bars[f"{NAME}:1h"].startswith(f"{T0 + HOUR_MS},7.")


# Trades before their listing entry.


@pytest.mark.parametrize("ids", ["agg", "trade"])
@pytest.mark.parametrize("stored", [False, True])
def test_trades_of_a_new_generation_wait_for_their_listing(ids: str, stored: bool) -> None:
    core = new_core("1m")
    list_(core, listed())
    feed(core, [trade(500, T0 + 1000)], ids)
    tick(core, T0 + 1000)
    rows = [trade(1, T0 + 20_000, "7.125", "3"), trade(2, T0 + 40_000, "8"), trade(500, T0 + 1000)]
    feed(core, rows, ids)
    tick(core, T0 + 40_000)
    feed(core, rows[:2], ids)
    tick(core, T0 + 41_000)
    assert core.counts.duplicates == 1
    assert len(core.listings.parking.rows) == 2
    core = copy_of(core, "1m") if stored else core
    list_(core, listed(generation=T0 + 20_000))
    feed(core, [trade(4, T0 + 42_000)], ids)
    outputs = tick(core, T0 + 42_000)
    assert events(outputs, contract.EVENT_GENESIS)[0]["trade_time"] == str(T0 + 20_000)
    assert [(each["from_id"], each["to_id"]) for each in events(outputs, contract.EVENT_HOLE_OPENED)] == [("3", "3")]
    assert not core.listings.parking.rows
    feed(core, [trade(3, T0 + 41_000), trade(5, T0 + 61_000)], ids)
    (bar,) = klines(tick(core, T0 + 75_000))
    assert (bar.trades, bar.high, bar.volume) == (5, "8.000", "7.000")


def test_trades_wait_a_bounded_time_and_then_are_refused_aloud() -> None:
    core = new_core("1m")
    feed(core, [trade(500, T0 + 1000)])
    tick(core, T0 + 1000)
    feed(core, [trade(1, T0 + 20_000)])
    tick(core, T0 + 20_000)
    assert not tick(core, T0 + 20_000 + parking.PARKED_MS - 1).findings
    outputs = tick(core, T0 + 20_000 + parking.PARKED_MS)
    assert findings(outputs, "UNLISTED") == [NAME]
    assert not core.listings.parking.rows
    assert core.counts.refused == 1


def test_a_bounded_number_of_trades_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_MAX", 3)
    core = new_core("1m")
    feed(core, [trade(500, T0 + 1000)])
    tick(core, T0 + 1000)
    feed(core, [trade(at, T0 + 20_000 + at) for at in (5, 2, 4, 1, 3)])
    outputs = tick(core, T0 + 20_000)
    assert outputs.findings[0]["evidence"].startswith("2 trades, ids 4 to 5: ")
    assert sorted(key[1] for key in core.listings.parking.rows) == [1, 2, 3]


def test_parked_trades_of_a_large_checkpoint_have_blocks_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.checkpoint.BLOCK_PARKED", 10)
    core = new_core("1m")
    feed(core, [trade(500, T0 + 1000)])
    tick(core, T0 + 1000)
    feed(core, [trade(at, T0 + 20_000 + at) for at in range(1, 36)])
    tick(core, T0 + 20_000)
    assert Checkpoint(core).blocks == 1 + 4
    assert copy_of(core, "1m").listings.parking.rows == core.listings.parking.rows


# Slots.


def flat(value: object) -> list[int]:
    """Every integer of nested lists and arrays of them."""
    if isinstance(value, np.ndarray):
        return [int(each) for each in value]
    if isinstance(value, list):
        return [number for each in value for number in flat(each)]
    return [value] if isinstance(value, int) else []


def slot_state(core: Core, slot: int) -> dict[str, object]:
    """Everything that any part of a core holds for a slot, found by looking, not by a list: arrays with a dimension of
    the capacity, lists with an entry a slot, and dicts and lists of keys or values that name the slot."""
    found: dict[str, object] = {}
    for part_name, part in {"core": core, **vars(core)}.items():
        for name, value in getattr(part, "__dict__", {}).items():
            where = f"{part_name}.{name}"
            if isinstance(value, np.ndarray) and core.symbols.capacity in value.shape:
                axis = value.shape.index(core.symbols.capacity)
                found[where] = np.take(value, slot, axis).tolist()
            elif where == "edges.found":
                found[where] = [table[:, table[0] == slot].tolist() for table in value.values() if slot in table[0]]
            elif isinstance(value, dict):
                keys = [key for key in value if key == slot or (isinstance(key, tuple) and key[:1] == (slot,))]
                keys += [key for key, inner in value.items() if isinstance(key, bytes) and inner == slot]
                found[where] = {str(key): value[key] for key in keys}
            elif where in ("symbols.names", "symbols.statuses"):
                found[where] = value[slot] if slot < len(value) else ""
            elif where == "symbols.free":
                continue
            elif isinstance(value, list) or where == "finality._waiting":
                # Cells (row * capacity + slot) and slots, in arrays, tuples and deeper lists.
                found[where] = [each for each in flat(value) if each % core.symbols.capacity == slot]
    return found


def test_a_cleared_slot_holds_nothing_of_its_symbol() -> None:
    core = new_core("15s", "1m", "1w")
    generation = relisted(core)
    mark(core, generation + 1000)
    edge = generation // MINUTE_MS * MINUTE_MS + MINUTE_MS - 10
    feed(core, [trade(3, generation + 1000), trade(6, edge, first=6, last=9)])
    tick(core, edge)
    list_(core, listed("CLOSE", generation=generation))
    tick(core, edge + 250)
    for part in (core, *vars(core).values()):
        for value in getattr(part, "__dict__", {}).values():
            if isinstance(value, np.ndarray) and core.symbols.capacity in value.shape:
                by_slot = np.moveaxis(value, value.shape.index(core.symbols.capacity), -1)
                by_slot[..., 0] = ~by_slot[..., 1] if value.dtype == np.bool_ else 12_345  # 1 is not in use
    before = slot_state(core, 0)
    core.clear_slot(0)
    after, empty = slot_state(core, 0), slot_state(core, 1)
    assert after == empty
    # Nothing is proven by clearing what was empty: arrays were poisoned above, these must have held the slot.
    differs = {name for name, value in before.items() if value != empty[name]}
    assert differs >= {name for name, value in before.items() if not isinstance(value, list | dict)}
    assert differs >= {
        "ledger.holes", "ledger.lost", "edges.found", "listings.before", "symbols.index", "finality._waiting",
        "ring.published", "ring.end_ms", "listings.genesis_due", "core.agg_ids",
    }  # fmt: skip


def test_a_slot_is_freed_when_the_ring_holds_nothing_of_it_and_another_symbol_takes_it() -> None:
    core = new_core("1m", "1d")
    feed(core, [trade(1, T0, "5"), trade(1, T0, "7", symbol="ETHUSDT")])
    tick(core, T0)
    list_(core, listed("CLOSE"))
    tick(core, T0 + 1000)
    tick(core, T0 + 60_000)
    steps(core, T0 + DAY_MS)
    assert core.symbols.names[0] == NAME
    steps(core, T0 + 4 * DAY_MS)
    assert core.symbols.names == ["", "ETHUSDT"]
    assert core.symbols.free == [0]
    core = copy_of(core, "1m", "1d")
    # The exchange goes on listing what is over, and a line may go on marking it: neither takes a slot.
    list_(core, listed("CLOSE"))
    mark(core, T0 + 4 * DAY_MS)
    outputs = tick(core, T0 + 4 * DAY_MS + 1000)
    assert core.symbols.names == ["", "ETHUSDT"]
    assert events(outputs, contract.EVENT_DELISTED) == []
    feed(core, [trade(9, T0 + 4 * DAY_MS + 2000, "3", symbol="XRPUSDT")])
    outputs = tick(core, T0 + 4 * DAY_MS + 2000)
    assert core.symbols.names == ["XRPUSDT", "ETHUSDT"]
    assert {name.partition(":")[0] for each in outputs.live for name in each} >= {"XRPUSDT"}
    assert NAME not in str(outputs)
    outputs = tick(core, T0 + 4 * DAY_MS + 80_000)
    (bar,) = [each for each in klines(outputs) if each.symbol == "XRPUSDT"]
    assert (bar.open, bar.trades, bar.first_agg_id, bar.complete) == ("3", 1, 9, 0)


def test_a_name_freed_and_listed_anew_begins_at_id_1_and_an_old_generation_does_not() -> None:
    for generation, holes in ((T0 + 4 * DAY_MS + 500, [("1", "2")]), (LONG, [])):
        core = new_core("1m")
        list_(core, listed())
        feed(core, [trade(100, T0)])
        tick(core, T0)
        list_(core, listed("CLOSE"))
        tick(core, T0 + 1000)
        steps(core, T0 + 4 * DAY_MS)
        assert core.symbols.names == [""]
        list_(core, listed(generation=generation))
        feed(core, [trade(3, T0 + 4 * DAY_MS + 1000)])
        outputs = tick(core, T0 + 4 * DAY_MS + 1000)
        assert [(each["from_id"], each["to_id"]) for each in events(outputs, contract.EVENT_HOLE_OPENED)] == holes


def test_a_month_delisted_freed_and_listed_again_keeps_its_revisions() -> None:
    """The slot stays while the ring holds the month, so that a symbol listed again in it amends it."""
    core = new_core("1m", "1M")
    start = interval("1M").open_of(interval("1M").bucket_of(T0)) + DAY_MS
    feed(core, [trade(50, start, "5")])
    said = [tick(core, start)]
    list_(core, listed("CLOSE"))
    said += [tick(core, start + 1000), tick(core, start + 20_000)]
    said += steps(core, start + 3 * DAY_MS)
    generation = start + 3 * DAY_MS + 1000
    list_(core, listed(generation=generation))
    feed(core, [trade(1, generation, "6")])
    said += [tick(core, generation + 1000)]
    said += steps(core, start + 40 * DAY_MS)
    months = [each for each in klines(said) if each.interval == "1M"]
    assert [(each.revision, each.trades, each.close) for each in months[:2]] == [(1, 1, "5.00"), (2, 2, "6.00")]
    assert core.symbols.names == [NAME]


# All of it at once, against a plain oracle.


INTERVALS = ("1m", "5m")
NAMES = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT")


@dataclass
class Life:
    """One generation of a symbol as the exchange knows it. Times in ms; `listed_at`, `closed_at` are those of the first
    tick after its listing entries."""

    symbol: str
    generation: int
    rows: list[TradeRow]
    end_ms: int
    listed_at: int
    closed_at: int | None
    halt: tuple[int, int] | None
    """Ticks between which the exchange says that it is closed, and after which it trades on."""


@dataclass
class World:
    """Lives, and what the feed says of them: per tick its time and the entries before it, in any order."""

    lives: list[Life]
    ticks: list[tuple[int, list[Fields]]]
    ids: str


def lives_of(rng: random.Random, symbol: str, step_ms: int) -> list[Life]:
    """Generations one after the other; the first is older than klagg, with ids from anywhere."""
    lives: list[Life] = []
    begin = T0 - 400 * DAY_MS
    at = T0 + rng.randrange(60_000)
    for number in range(rng.randrange(1, 4)):
        count, first_id = rng.randrange(30, 60), rng.randrange(1000, 9000) if number == 0 else 1
        pace = rng.choice((2_000, 9_000, 25_000))
        times = [at := at + rng.randrange(1, pace) for _ in range(count)]
        halt = None
        if rng.random() < 0.4:
            last, pause_ms = rng.randrange(26, count - 1), rng.choice((60_000, 200_000))
            times[last + 1 :] = [time + pause_ms for time in times[last + 1 :]]
            at = times[-1]
            again = _tick_after(times[last + 1], step_ms) + rng.choice((-1, 0, 2)) * step_ms
            halt = _tick_after(times[last], step_ms) + step_ms, again
        rows = [
            trade(first_id + n, time, f"{rng.randrange(1, 999) / 10:.1f}", f"{rng.randrange(1, 99) / 100:.2f}",
                  symbol=symbol, maker=rng.randrange(2))
            for n, time in enumerate(times)
        ]  # fmt: skip
        end_ms = at + rng.randrange(1, 30_000)
        # Fewer trades come before their listing than the generation before had: their ids tell that it is another.
        listed_ms = rng.choice((begin, times[0] - step_ms, times[rng.randrange(1, 25)]))
        closed_ms = end_ms + rng.choice((0, step_ms, 60_000)) if rng.random() < 0.8 else None
        if halt and closed_ms:
            closed_ms = max(closed_ms, halt[1] + step_ms)
        lives.append(Life(symbol, begin, rows, end_ms, _tick_after(listed_ms, step_ms), None, halt))
        lives[-1].closed_at = closed_ms and _tick_after(closed_ms, step_ms)
        at = end_ms + rng.choice((130_000, 400_000, 3_000_000))  # longer than the ring holds: the slot is freed
        begin = at - rng.randrange(1_000)
    return lives


def _tick_after(time_ms: int, step_ms: int) -> int:
    return max(T0, T0 + -(-(time_ms - T0) // step_ms) * step_ms)


def world_of(seed: int) -> World:
    """A seeded world: trades come late by some ticks, twice and in any order; listing entries late and again; some
    symbols are halted for a while."""
    rng = random.Random(seed)
    step_ms, ids = rng.choice((5_000, 15_000)), rng.choice(("agg", "trade"))
    lives = [life for name in NAMES for life in lives_of(rng, name, step_ms)]
    said: dict[int, list[Fields]] = {}
    for life in lives:
        for number, row in enumerate(life.rows):
            late = rng.choice((0, 0, 0, 1, 3)) if number else 0
            due = _tick_after(row.time, step_ms) + late * step_ms
            for again in (0, *[rng.randrange(1, 20)] * (rng.random() < 0.3)):
                entry = contract.trades_entry_of_rows([row], line="A", ids=ids, recv_ms=row.time)
                said.setdefault(due + again * step_ms, []).append(entry)
        for at, status in ((life.listed_at, "TRADING"), (life.closed_at, "CLOSE")):
            delivery = FAR if status == "TRADING" else life.end_ms
            listing = Listing(life.symbol, life.generation, 1, 2, status, delivery)
            again = rng.choice((0, 0, 40, 300)) * step_ms if status == "CLOSE" else rng.choice((0, 1, 2)) * step_ms
            if status == "TRADING" and life.closed_at and at + again >= life.closed_at:
                again = 0  # it would trade again
            for when in {at, at + again} if at else ():
                said.setdefault(when, []).extend(contract.listing_entries([listing]))
        for at, status in zip(life.halt or (), ("CLOSE", "TRADING"), strict=False):
            listing = Listing(life.symbol, life.generation, 1, 2, status, FAR)
            said.setdefault(at, []).extend(contract.listing_entries([listing]))
    last = max(said)
    return World(lives, [(time, said.get(time, [])) for time in range(T0, last + 1_500_000, step_ms)], ids)


def run(world: World, shuffle: random.Random | None = None, cut: int = -1) -> list[Outputs]:
    """What a core says to a world, its entries in some order, put back from a checkpoint after tick `cut`."""
    config = settings.Aggregator(intervals=INTERVALS, window_minutes=10)
    core, said = Core(config, epoch=1), []
    for number, (time_ms, entries) in enumerate(world.ticks):
        part = shuffle.sample(entries, len(entries)) if shuffle else entries
        for entry in part:
            assert not list(core.apply("1-1", raw(entry)))
        said.append(tick(core, time_ms))
        if number == cut:
            checkpoint, core = Checkpoint(core), Core(config, epoch=1)
            restore(core, checkpoint.header, [checkpoint.block(at) for at in range(checkpoint.blocks)])
    assert len(core.symbols.names) <= len(NAMES)
    assert not core.listings.parking.rows
    return said


@hypothesis_settings(max_examples=12)
@given(seed=st.integers(0, 2**32))
def test_any_lives_give_the_bars_of_an_oracle(seed: int) -> None:
    world = world_of(seed)
    said = run(world)
    found = newest(klines(said))
    revisions: dict[tuple[str, str, int], int] = {}
    for kline in klines(said):
        assert kline.revision >= revisions.get(kline.key, 0), kline
        revisions[kline.key] = kline.revision
    rows = [row for life in world.lives for row in life.rows]
    expected = fold(rows, INTERVALS, world.ticks[-1][0])
    traded = {(row.symbol, name, interval(name).open_time(row.time)) for row in rows for name in INTERVALS}
    assert traded <= found.keys()
    for key, kline in found.items():
        wanted = expected[key] if world.ids == "agg" else (*expected[key][:9], -1, -1, *expected[key][11:])
        assert values(kline) == wanted, key
        if kline.trades:
            assert key in traded
    assert not [each for outputs in said for each in outputs.findings]
    for name in NAMES:
        lives = [life for life in world.lives if life.symbol == name]
        genesis = [each for each in events(said, contract.EVENT_GENESIS) if each["symbol"] == name]
        assert [int(each["id"]) for each in genesis] == [life.rows[0].id for life in lives]
        for number, life in enumerate(lives):
            _check_life(found, life, lives[number + 1] if number + 1 < len(lives) else None, first=not number)


def _check_life(found: dict[tuple[str, str, int], Kline], life: Life, then: Life | None, *, first: bool) -> None:
    """A generation's bars follow one another, are complete where that can be proven, and end when it ends."""
    for name in INTERVALS:
        kind = interval(name)
        for bucket in range(kind.bucket_of(life.rows[0].time), kind.bucket_of(life.rows[-1].time) + 1):
            opening, ending = kind.open_of(bucket), kind.open_of(bucket + 1)
            bar = found[life.symbol, name, opening]
            if ending > life.rows[-1].time:
                assert not bar.complete
            elif opening > (life.rows[0].time if first else life.generation):
                assert bar.complete
        silent = then is None or (life.closed_at or FAR) + 30_000 < then.listed_at
        if life.closed_at and silent:
            until = then.rows[0].time if then else FAR
            quiet = [key for key in found if key[:2] == (life.symbol, name) and life.closed_at < key[2] < until]
            assert not [key for key in quiet if then is None or key[2] < kind.open_time(until)]


@hypothesis_settings(max_examples=8)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_order_within_a_tick_and_restarts_change_nothing(seed: int, data: st.DataObject) -> None:
    world = world_of(seed)
    plain = run(world)
    cut = data.draw(st.integers(0, len(world.ticks) - 1))
    for one, other in zip(plain, run(world, random.Random(seed), cut), strict=True):
        assert (one.klines, one.events, one.findings) == (other.klines, other.events, other.findings)
        assert one.bars_gone == other.bars_gone

"""Generations: a name that is listed anew, trades that wait for their listing, and slots that others take."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator import parking
from aggregator.checkpoint import Checkpoint
from aggregator.core import Core
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS, interval
from klagg.wire.entries import EVENT_DELISTED, EVENT_GAP_CLOSED, EVENT_GAP_OPENED, EVENT_GENESIS
from tests.aggregator.kit import T0, feed, klines, new_core, steps, tick, trade, watermark
from tests.aggregator.listingkit import LONG, NAME, brief, copy_of, events, findings, list_, listed, relisted

# What comes again.


def test_a_new_generation_begins_at_id_1_in_the_same_slot() -> None:
    core = new_core("1m", "1d")
    generation = relisted(core)
    feed(core, [trade(1, generation + 1000, "7"), trade(2, generation + 2000, "8"), trade(3, generation + 60_000)])
    outputs = tick(core, generation + 60_000)
    assert events(outputs, EVENT_GENESIS)[0]["id"] == "1"
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
    assert not core.ledger.gaps


def test_open_gaps_of_the_generation_before_are_lost() -> None:
    core = new_core("1m")
    feed(core, [trade(10, T0 + 1000), trade(13, T0 + 2000)])
    tick(core, T0 + 2000)
    list_(core, listed())
    tick(core, T0 + 2500)
    list_(core, listed(generation=T0 + 3000))
    outputs = tick(core, T0 + 3000)
    closed = {"symbol": NAME, "from_id": "11", "to_id": "12", "reason": "lost"}
    assert events(outputs, EVENT_GAP_CLOSED) == [closed]
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
    assert events(outputs, EVENT_GENESIS)[0]["trade_time"] == str(T0 + 20_000)
    assert [(each["from_id"], each["to_id"]) for each in events(outputs, EVENT_GAP_OPENED)] == [("3", "3")]
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
    watermark(core, generation + 1000)
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
        "ledger.gaps",
        "ledger.lost",
        "edges.found",
        "listings.before",
        "symbols.index",
        "finality._waiting",
        "ring.published",
        "ring.end_ms",
        "listings.genesis_due",
        "core.agg_ids",
    }


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
    watermark(core, T0 + 4 * DAY_MS)
    outputs = tick(core, T0 + 4 * DAY_MS + 1000)
    assert core.symbols.names == ["", "ETHUSDT"]
    assert events(outputs, EVENT_DELISTED) == []
    feed(core, [trade(9, T0 + 4 * DAY_MS + 2000, "3", symbol="XRPUSDT")])
    outputs = tick(core, T0 + 4 * DAY_MS + 2000)
    assert core.symbols.names == ["XRPUSDT", "ETHUSDT"]
    assert {name.partition(":")[0] for each in outputs.live for name in each} >= {"XRPUSDT"}
    assert NAME not in str(outputs)
    outputs = tick(core, T0 + 4 * DAY_MS + 80_000)
    (bar,) = [each for each in klines(outputs) if each.symbol == "XRPUSDT"]
    assert (bar.open, bar.trades, bar.first_agg_id, bar.complete) == ("3", 1, 9, 0)


def test_a_name_freed_and_listed_anew_begins_at_id_1_and_an_old_generation_does_not() -> None:
    for generation, gaps in ((T0 + 4 * DAY_MS + 500, [("1", "2")]), (LONG, [])):
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
        assert [(each["from_id"], each["to_id"]) for each in events(outputs, EVENT_GAP_OPENED)] == gaps


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

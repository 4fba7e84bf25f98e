"""Witnesses: what the exchange's word about last ids proves, what it makes the core request, and how one is denied."""

from __future__ import annotations

import pytest

from aggregator.checkpoint import Checkpoint, restore
from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg.kline import Kline
from klagg.wire.entries import AGG_IDS, BY_ANSWER, BY_TICKER, TRADE_IDS, TradeRow, Witness, witness_entries
from tests.aggregator.kit import T0, feed, klines, new_core, newest, raw, tick, trade, watermark

MINUTE = 60_000
MARGIN = 3_000
FILL = 1_000_000


def agg(number: int, time_ms: int, price: str = "5") -> TradeRow:
    """An aggTrade of two fills, whose ids are far from its own."""
    return trade(number, time_ms, price, first=FILL + 2 * number, last=FILL + 2 * number + 1)


def say(core: Core, last: int, time_ms: int, *, ids: str = TRADE_IDS, symbol: str = "BTCUSDT") -> None:
    """A ticker (or an answer, with ids=agg) says that `last` was the last id."""
    source = BY_TICKER if ids == TRADE_IDS else BY_ANSWER
    for entry in witness_entries([Witness(symbol, last, time_ms)], ids=ids, source=source):
        assert not list(core.apply("1-1", raw(entry)))


def quiet(core: Core) -> Outputs:
    """Trades 1 and 2 in the first minute, then silence: the minute is closed by the clock, and not proven."""
    feed(core, [agg(1, T0 + 1_000), agg(2, T0 + 30_000, "6")])
    watermark(core, T0 + MINUTE + 2_000)
    said = tick(core, T0 + MINUTE + 2_000)
    assert [(each.open_time, each.complete) for each in klines(said)] == [(T0, 0)]
    return said


def states(*said: Outputs) -> dict[int, tuple[int, int]]:
    """Revision and `complete` of the highest version of every minute."""
    best: dict[tuple[str, str, int], Kline] = newest(klines(said))
    return {opened: (kline.revision, kline.complete) for (_, _, opened), kline in best.items()}


def restarted(core: Core) -> Core:
    checkpoint, other = Checkpoint(core), new_core()
    restore(other, checkpoint.header, [checkpoint.block(number) for number in range(checkpoint.blocks)])
    assert Checkpoint(other).header == checkpoint.header
    return other


@pytest.mark.parametrize("restart", [False, True])
def test_a_witness_of_the_frontier_proves_what_ends_before_its_time_less_the_margin(restart: bool) -> None:
    core = new_core()
    quiet(core)
    say(core, FILL + 5, T0 + MINUTE + MARGIN - 1)
    assert not klines(tick(core, T0 + MINUTE + 4_000)), "one millisecond too early"
    if restart:
        core = restarted(core)
    say(core, FILL + 5, T0 + MINUTE + MARGIN)
    assert states(tick(core, T0 + MINUTE + 5_000)) == {T0: (1, 1)}, "confirmed under its revision"


def test_a_witness_proves_empty_bars_and_those_that_have_left_the_ring() -> None:
    core = new_core(window_minutes=5)
    said = [quiet(core)]
    for minute in range(2, 30):
        watermark(core, T0 + minute * MINUTE + 2_000)
        said.append(tick(core, T0 + minute * MINUTE + 2_000))
    assert not any(complete for _, complete in states(*said).values())
    say(core, FILL + 5, T0 + 29 * MINUTE + MARGIN)
    said.append(tick(core, T0 + 29 * MINUTE + 5_000))
    found = states(*said)
    assert len(found) == 29
    assert set(found.values()) == {(1, 1)}
    assert not core.silences.runs


def test_a_part_of_a_minute_waits_for_the_next_trade() -> None:
    core = new_core("15s", "1m")
    feed(core, [agg(1, T0 + 1_000)])
    watermark(core, T0 + MINUTE + 5_000)
    say(core, FILL + 3, T0 + MINUTE + 5_000)
    found = newest(klines(tick(core, T0 + MINUTE + 5_000)))
    assert {kind: kline.complete for (_, kind, _), kline in found.items()} == {"15s": 0, "1m": 1}


def test_a_late_witness_says_nothing() -> None:
    core = new_core()
    quiet(core)
    say(core, FILL + 3, T0 + 2 * MINUTE)
    later = tick(core, T0 + 2 * MINUTE)
    assert not any(each.complete for each in klines(later))
    assert not later.requests
    assert not tick(core, T0 + 2 * MINUTE + 5_000).requests


def test_a_higher_witness_waits_for_trades_that_are_on_their_way() -> None:
    core = new_core()
    said = quiet(core)
    say(core, FILL + 7, T0 + MINUTE + 8_000)
    assert not tick(core, T0 + MINUTE + 8_000).requests, "ask_after_ms is not over"
    feed(core, [agg(3, T0 + 59_000, "4")])
    said = tick(core, T0 + MINUTE + 8_500)
    assert states(said) == {T0: (2, 1)}, "amended, and proven by the same witness"
    assert not tick(core, T0 + MINUTE + 20_000).requests


def test_newer_witnesses_of_a_symbol_whose_trades_do_not_arrive_neither_put_off_a_request_nor_repeat_it() -> None:
    core = new_core()
    quiet(core)
    requests = []
    for second in range(20):
        now_ms = T0 + MINUTE + 3_000 + second * 1_000
        say(core, FILL + 7 + second, now_ms)
        requests += [(second, each["kind"]) for each in tick(core, now_ms).requests]
    assert requests == [(1, "behind")]


def test_a_higher_witness_makes_the_last_trade_before_a_silence_known() -> None:
    core = new_core()
    quiet(core)
    say(core, FILL + 7, T0 + MINUTE + 5_000)
    assert not tick(core, T0 + MINUTE + 5_000).requests
    (request,) = tick(core, T0 + MINUTE + 6_000).requests
    assert (request["kind"], request["symbol"], request["from_id"], request["to_id"]) == (
        "behind",
        "BTCUSDT",
        "3",
        "1002",
    )
    feed(core, [agg(3, T0 + 59_000, "4")])
    say(core, 3, T0 + MINUTE + 7_000, ids=AGG_IDS)
    found = tick(core, T0 + MINUTE + 7_000)
    assert states(found) == {T0: (2, 1)}
    assert not found.findings


def test_an_empty_answer_is_a_witness_and_excuses_the_fill() -> None:
    core = new_core()
    quiet(core)
    say(core, FILL + 6, T0 + MINUTE + 5_000)
    tick(core, T0 + MINUTE + 5_000)
    assert tick(core, T0 + MINUTE + 6_000).requests
    say(core, 2, T0 + MINUTE + 6_500, ids=AGG_IDS)
    assert states(tick(core, T0 + MINUTE + 7_000)) == {T0: (1, 1)}
    say(core, FILL + 6, T0 + 2 * MINUTE + 5_000)
    watermark(core, T0 + 2 * MINUTE + 5_000)
    assert states(tick(core, T0 + 2 * MINUTE + 5_000)) == {T0 + MINUTE: (1, 1)}, "the fill is known to have no aggTrade"
    assert not tick(core, T0 + 2 * MINUTE + 9_000).requests


def test_what_is_not_answered_is_requested_again_after_its_deadline() -> None:
    core = new_core()
    quiet(core)
    say(core, FILL + 7, T0 + MINUTE + 5_000)
    tick(core, T0 + MINUTE + 5_000)
    (first,) = tick(core, T0 + MINUTE + 6_000).requests
    core = restarted(core)
    assert not tick(core, int(first["deadline"]) - 1).requests
    (second,) = tick(core, int(first["deadline"])).requests
    assert second["id"] != first["id"]
    assert second["from_id"] == "3"


def test_a_witness_that_a_trade_denies_is_a_finding_and_the_margin_grows() -> None:
    core = new_core()
    said = [quiet(core)]
    say(core, FILL + 5, T0 + MINUTE + MARGIN)
    said.append(tick(core, T0 + MINUTE + 5_000))
    assert states(*said) == {T0: (1, 1)}
    feed(core, [agg(3, T0 + 58_500, "9")])
    denied = tick(core, T0 + MINUTE + 6_000)
    (finding,) = denied.findings
    assert (finding["kind"], finding["symbol"]) == ("WITNESS_WRONG", "BTCUSDT")
    assert str(T0 + MINUTE) in finding["evidence"]
    assert str(T0 + 58_500) in finding["evidence"]
    assert states(*said, denied) == {T0: (2, 0)}, "amended, and no longer called complete"
    assert core.witnesses.margin_ms == MARGIN + 1_500
    say(core, FILL + 7, T0 + MINUTE + MARGIN + 1_499)
    assert not klines(tick(core, T0 + MINUTE + 7_000))
    say(core, FILL + 7, T0 + MINUTE + MARGIN + 1_500)
    assert states(tick(core, T0 + MINUTE + 8_000)) == {T0: (2, 1)}
    assert restarted(core).witnesses.margin_ms == MARGIN + 1_500


def test_a_witness_leaves_gaps_as_they_are() -> None:
    core = new_core()
    feed(core, [agg(1, T0 + 1_000), agg(4, T0 + 30_000)])
    watermark(core, T0 + MINUTE + 5_000)
    say(core, FILL + 9, T0 + MINUTE + 5_000)
    assert states(tick(core, T0 + MINUTE + 5_000)) == {T0: (1, 0)}
    say(core, 4, T0 + MINUTE + 6_000, ids=AGG_IDS)
    assert not any(each.complete for each in klines(tick(core, T0 + MINUTE + 6_000)))
    assert core.open_gaps == 1
    feed(core, [agg(2, T0 + 2_000), agg(3, T0 + 3_000)])
    late = tick(core, T0 + MINUTE + 7_000)
    assert states(late) == {T0: (2, 1)}
    assert not late.findings, "trades of a gap deny no witness"


def test_ids_of_fills_are_their_own_witnesses() -> None:
    core = new_core()
    feed(core, [trade(1, T0 + 1_000), trade(2, T0 + 2_000)], ids="trade")
    watermark(core, T0 + MINUTE + 3_000)
    say(core, 2, T0 + MINUTE + MARGIN)
    assert states(tick(core, T0 + MINUTE + 3_000)) == {T0: (1, 1)}
    say(core, 3, T0 + 2 * MINUTE)
    tick(core, T0 + 2 * MINUTE)
    assert not tick(core, T0 + 2 * MINUTE + 2_000).requests, "fills cannot be requested by id"


def test_what_nobody_knows_says_nothing_and_a_bad_entry_is_dead() -> None:
    core = new_core()
    say(core, 7, T0, symbol="OTHERUSDT")
    assert not tick(core, T0).dead
    assert "OTHERUSDT" not in core.symbols.names
    (entry,) = witness_entries([Witness("BTCUSDT", 1, T0)], ids=TRADE_IDS, source=BY_TICKER)
    bad = [{**entry, "id": "x"}, {**entry, "time": "1,2"}, {**entry, "ids": "other"}, {**entry, "symbol": ""}]
    for fields in bad:
        core.apply("1-1", raw(fields))
    assert len(tick(core, T0 + 1).dead) == len(bad)


@pytest.mark.parametrize("restart", [False, True])
def test_a_repaired_trade_denies_what_was_believed_before_the_symbol_went_on(restart: bool) -> None:
    """The trade 3 was lost on all lines, a ticker left it out, and behind trade 4 another witness was believed."""
    core = new_core()
    quiet(core)
    say(core, FILL + 5, T0 + 2 * MINUTE + MARGIN)
    assert states(tick(core, T0 + 2 * MINUTE + 4_000))[T0 + MINUTE] == (1, 1), "an empty minute, as it seems"
    feed(core, [agg(4, T0 + 3 * MINUTE)])
    say(core, FILL + 9, T0 + 3 * MINUTE + 10_000)
    assert not tick(core, T0 + 3 * MINUTE + 11_000).findings
    if restart:
        core = restarted(core)
    feed(core, [agg(3, T0 + MINUTE + 1_000, "7")])
    said = tick(core, T0 + 3 * MINUTE + 12_000)
    assert [each["kind"] for each in said.findings] == ["WITNESS_WRONG"]
    assert states(said)[T0 + MINUTE] == (2, 1), "amended, and whole as the next trade proves"
    assert core.witnesses.margin_ms == MARGIN + MINUTE - 1_000

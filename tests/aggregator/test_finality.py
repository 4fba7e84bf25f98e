"""When a bar is final, when it is complete, and when it never may be called so."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator.publisher import Outputs
from klagg.intervals import interval
from klagg.kline import Kline
from klagg.wire.entries import (
    EVENT_AMENDED,
    EVENT_CLOSE,
    EVENT_CONFIRMED,
    EVENT_GAP_CLOSED,
    EVENT_GAP_OPENED,
    EVENT_TICK,
    TradeRow,
    event_rows,
    live_value_of,
)
from tests.aggregator.kit import T0, feed, klines, new_core, newest, steps, tick, trade, values, watermark
from tests.aggregator.oracle import fold
from tests.aggregator.test_core import market

MINUTE = 60_000
HOUR = 3_600_000


def test_a_bar_with_a_gap_that_expired_is_never_complete() -> None:
    """Not the minute, whose row outlives the gap a little, nor the hour and the day, which end after it."""
    core, said = new_core("1m", "1h", "1d", window_minutes=30), []
    feed(core, [trade(1, T0), trade(3, T0 + 1000)])
    for minute in range(26 * 60):
        feed(core, [trade(4 + minute, T0 + minute * MINUTE + 2000)])
        said.append(tick(core, T0 + minute * MINUTE + 3000))
    lacking = [each for each in klines(said) if each.open_time <= T0 + 500 <= each.close_time]
    assert {each.interval for each in lacking} == {"1m", "1h", "1d"}
    assert not any(each.complete for each in lacking)
    whole = [each for each in newest(klines(said)).values() if each.open_time > T0 + 1000]
    assert whole
    assert all(each.complete for each in whole)
    assert core.open_gaps == 0


def test_a_bar_that_lacks_a_refused_old_trade_is_never_complete() -> None:
    """Ids far ahead in time first, so that the old trades are no gap when they come."""
    core, said = new_core("1m", "1d", window_minutes=30), []
    feed(core, [trade(1, T0)])
    said += [tick(core, T0 + minute * MINUTE) for minute in range(60)]
    feed(core, [trade(2, T0 + 1000), trade(3, T0 + HOUR)])
    said.append(tick(core, T0 + HOUR))
    assert [each["kind"] for each in said[-1].findings] == ["TOO_OLD"]
    for hour in range(1, 30):
        feed(core, [trade(3 + hour, T0 + hour * HOUR + 1)])
        said.append(tick(core, T0 + hour * HOUR + 1))
    (day,) = [each for each in klines(said) if each.interval == "1d" and each.open_time <= T0 + 1000 <= each.close_time]
    assert not day.complete


def lossy_run(seed: int, minutes: int) -> tuple[list[TradeRow], set[tuple[str, int]], list[Outputs]]:
    """A market with losses, some repaired late or too late; the trades, those never used, and what was said."""
    rng = random.Random(seed)
    rows = market(seed, 3, 6 * minutes, minutes * MINUTE)
    core, said, late = new_core("1m", "5m", "1h", window_minutes=10), [], []
    at = 0
    for time_ms in range(T0, T0 + minutes * MINUTE + 30_000, rng.choice((3000, 7000, 45_000))):
        part = []
        while at < len(rows) and rows[at].time <= time_ms:
            part.append(rows[at])
            at += 1
        lost = [row for row in part if rng.random() < 0.04]
        late += lost
        feed(core, [row for row in part if row not in lost])
        if late and rng.random() < 0.02:
            rng.shuffle(late)
            feed(core, late[: len(late) // 2 + 1])
            late = late[len(late) // 2 + 1 :]
        if rng.random() < 0.5:
            watermark(core, time_ms, *rng.sample(["S0USDT", "S1USDT", "S2USDT"], 2))
        said += steps(core, time_ms)
    return rows, {(row.symbol, row.id) for row in late}, said


@hypothesis_settings(max_examples=25)
@given(seed=st.integers(0, 2**32), minutes=st.integers(5, 90))
def test_complete_is_never_claimed_of_a_bar_that_lacks_a_trade(seed: int, minutes: int) -> None:
    rows, _, said = lossy_run(seed, minutes)
    expected = fold(rows, ("1m", "5m", "1h"), rows[-1].time + MINUTE)
    for kline in klines(said):
        if kline.complete:
            assert values(kline) == expected[kline.key], kline


@hypothesis_settings(max_examples=25)
@given(seed=st.integers(0, 2**32), minutes=st.integers(5, 60))
def test_versions_rise_and_every_bar_comes_at_most_once_a_reason_and_tick(seed: int, minutes: int) -> None:
    _, _, said = lossy_run(seed, minutes)
    best: dict[tuple[str, str, int], Kline] = {}
    for outputs in said:
        here = [each.key for each in klines(outputs)]
        assert len(here) == len(set(here)), "one version of a bar at a tick"
        for kline in klines(outputs):
            before = best.get(kline.key)
            if before is None:
                assert kline.revision == 1
            elif kline.revision == before.revision:
                assert (before.complete, kline.complete) == (0, 1)
                assert values(kline) == values(before)
            else:
                assert kline.revision == before.revision + 1
            best[kline.key] = kline
    for symbol, name in {key[:2] for key in best}:
        opens = sorted(key[2] for key in best if key[:2] == (symbol, name))
        kind = interval(name)
        assert [kind.bucket_of(each) for each in opens] == list(
            range(kind.bucket_of(opens[0]), kind.bucket_of(opens[-1]) + 1)
        ), "no bar is missing between the first and the last"
        for one, other in itertools.pairwise(opens):
            if best[symbol, name, other].first_trade_id == -1:
                carried, close = best[symbol, name, other].open, best[symbol, name, one].close
                assert Decimal(carried) == Decimal(close), "the last versions carry on"


@hypothesis_settings(max_examples=25)
@given(seed=st.integers(0, 2**32), minutes=st.integers(5, 40))
def test_gaps_end_as_they_opened_and_events_name_the_state_before(seed: int, minutes: int) -> None:
    _, _, said = lossy_run(seed, minutes)
    states: dict[tuple[str, str, str], str] = {}
    gaps: Counter[tuple[str, str, str]] = Counter()
    for entry in (each for outputs in said for each in outputs.events):
        if entry["kind"] == EVENT_TICK:  # the last of its tick
            assert set(gaps.values()) <= {0, 1}
        for row in event_rows(entry):
            if entry["kind"] in (EVENT_CLOSE, EVENT_CONFIRMED, EVENT_AMENDED):
                key = row["symbol"], row["interval"], row["open_time"]
                before = states.get(key, "none")
                assert row["before"] == before or (before == "none" and row["before"] == "open")
                states[key] = row["after"]
            elif entry["kind"] == EVENT_GAP_OPENED:
                gaps[row["symbol"], row["from_id"], row["to_id"]] += 1
            elif entry["kind"] == EVENT_GAP_CLOSED:
                gaps[row["symbol"], row["from_id"], row["to_id"]] -= 1


def test_trades_before_a_symbols_first_bar_move_its_beginning_back() -> None:
    core = new_core("1m")
    feed(core, [trade(5, T0 + 3 * MINUTE, "5")])
    tick(core, T0 + 3 * MINUTE)
    feed(core, [trade(6, T0 + MINUTE, "3")])
    said = klines(tick(core, T0 + 3 * MINUTE + 1000)) + klines(tick(core, T0 + 4 * MINUTE + 10_000))
    assert [(each.open_time - T0, each.close) for each in said] == [(MINUTE, "3"), (2 * MINUTE, "3"), (3 * MINUTE, "5")]


def test_a_watermark_must_reach_the_close_to_shorten_the_grace() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0)])
    watermark(core, T0 + MINUTE - 1)
    assert klines(tick(core, T0 + MINUTE + 2000)) == []
    watermark(core, T0 + MINUTE)
    assert len(klines(tick(core, T0 + MINUTE + 2001))) == 1


def test_a_changed_close_runs_through_a_chain_and_stops_at_the_first_trade() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "5"), trade(3, T0 + 3 * MINUTE, "9"), trade(4, T0 + 6 * MINUTE, "2")])
    tick(core, T0 + 6 * MINUTE)
    feed(core, [trade(2, T0 + 30_000, "7")])
    amended = [each for each in klines(tick(core, T0 + 6 * MINUTE + 1)) if each.revision == 2]
    assert [(each.open_time - T0, each.open, each.close, each.complete) for each in amended] == [
        (0, "5", "7", 1),
        (MINUTE, "7", "7", 1),
        (2 * MINUTE, "7", "7", 1),
    ]


def test_an_open_empty_bar_shows_the_amended_close() -> None:
    core = new_core("1m", live_long_ms=0)
    feed(core, [trade(1, T0, "5"), trade(3, T0 + 1000, "5")])
    tick(core, T0 + MINUTE + 20_000)
    feed(core, [trade(2, T0 + 500, "4"), trade(4, T0 + 2000, "8")])
    outputs = tick(core, T0 + MINUTE + 21_000)
    shown = live_value_of(outputs.bars["BTCUSDT:1m"])
    assert (shown["open_time"], shown["close"], shown["trades"]) == (str(T0 + MINUTE), "8", "0")


def test_seconds_go_on_over_a_long_silence() -> None:
    core, jump = new_core("1s", "1m"), 20 * MINUTE
    feed(core, [trade(1, T0, "5")])
    tick(core, T0)
    feed(core, [trade(2, T0 + jump, "6")])
    said = klines(tick(core, T0 + jump))
    seconds = sorted(each.open_time for each in said if each.interval == "1s")
    assert seconds == list(range(T0, T0 + jump, 1000))
    assert {each.close for each in said} == {"5"}


def test_a_fill_that_counts_nowhere_does_not_prove_the_price_behind_a_gap() -> None:
    """What the missing fill before it did to the close, the empty bars carry on."""
    core, said = new_core("15s", "1m"), []
    rows = [trade(7, T0 + 1_000, "5"), trade(8, T0 + 2_000, "6"), trade(9, T0 + 2_001, "9")]
    insurance, later = replace(rows[2], counts=False), trade(10, T0 + 50_000, "7")
    feed(core, [trade(6, T0 - 70_000), rows[0], insurance, later, trade(11, T0 + 61_000, "7")], ids="trade")
    said.append(tick(core, T0 + 80_000))
    empty = T0 + 15_000, T0 + 30_000
    shown = {each.open_time: each for each in klines(said) if each.interval == "15s" and each.open_time in empty}
    assert [(shown[each].close, shown[each].complete) for each in empty] == [("5", 0), ("5", 0)]
    feed(core, [rows[1]], ids="trade")
    said.append(tick(core, T0 + 80_250))
    anew = newest(each for each in klines(said) if each.interval == "15s")
    assert [(each.close, each.complete) for each in (anew["BTCUSDT", "15s", at] for at in empty)] == [("6", 1)] * 2


@pytest.mark.parametrize("between", [70, 200])
def test_the_same_holds_where_the_gap_has_left_the_ring(between: int) -> None:
    """Bars of 15 seconds are held for 45 minutes, a minute's for an hour; the gap is given up, and taints none of
    those that wait, but their price is that before the gap."""
    core, insurance, end = new_core("15s", "1m"), replace(trade(9, T0 + 2_001, "9"), counts=False), between * MINUTE
    feed(core, [trade(6, T0 - 70_000), trade(7, T0 + 1_000, "5"), insurance], ids="trade")
    said = [tick(core, T0 + 3_000), tick(core, T0 + end)]
    feed(core, [trade(10, T0 + end + 1_000, "7"), trade(11, T0 + end + 2 * MINUTE, "8")], ids="trade")
    said += [tick(core, T0 + end + 2 * MINUTE), tick(core, T0 + end + 3 * MINUTE)]
    bars = newest(klines(said)).values()
    carried = [each for each in bars if T0 + MINUTE <= each.open_time < T0 + end]
    assert len(carried) == 5 * (between - 1)
    assert {(each.close, each.complete) for each in carried} == {("5", 0)}
    behind = [each for each in bars if each.open_time >= T0 + end + 15_000 and each.close == "7"]
    assert {each.complete for each in behind} == {1}


def test_a_trade_behind_a_lost_gap_shows_the_price_even_when_both_have_left_the_ring() -> None:
    core, end = new_core("15s", "1m", "1h"), 200 * MINUTE
    feed(core, [trade(6, T0 - 70_000), trade(7, T0 + 1_000, "5"), trade(9, T0 + 2_001, "9")])
    said = [tick(core, T0 + 3_000), tick(core, T0 + end)]
    feed(core, [trade(10, T0 + end, "7")])
    said.append(tick(core, T0 + end + 3_000))
    last = [each for each in newest(klines(said)).values() if T0 + end - 10 * MINUTE <= each.open_time < T0 + end]
    assert len(last) == 50
    assert {(each.close, each.complete) for each in last} == {("9", 1)}

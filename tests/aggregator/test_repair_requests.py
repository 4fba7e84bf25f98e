"""What is missing is asked for: when, how, how often, and never too much at once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator.checkpoint import Checkpoint, restore
from aggregator.core import Core
from aggregator.repair_budget import PAGE_WEIGHT, cost_of
from aggregator.repair_requests import REQUESTS_MAX, START, start_ranges
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS, ordered
from klagg.settings import Aggregator
from klagg.wire.entries import (
    REQUEST_KLINES,
    REQUEST_TRADES,
    TICK,
    Listing,
    Request,
    listing_entries,
    request_of,
    tick_entry,
)
from tests.aggregator.kit import T0, feed, new_core, raw, tick, trade, watermark
from tests.aggregator.officialkit import send
from tests.aggregator.test_checkpoint import entries_of

PLENTY = 1_000_000
"""Weight for missing trades that never runs out."""
TRADES_MAX = Aggregator().ask_trades_max
FLAT = ("1", "1", "1", "1", "0", "0", 0, "0", "0")
"""Values of a minute without trades."""
FIRST = 1
"""Id 1 is a symbol's first trade: with it there is no past to ask for."""


def asked(core: Core, time_ms: int) -> list[Request]:
    return [request_of(raw(each)) for each in tick(core, time_ms).requests]


def trades_of(core: Core, ids: Iterable[int], time_ms: int, symbol: str = "BTCUSDT", space: str = "agg") -> None:
    feed(core, [trade(number, time_ms, symbol=symbol) for number in ids], ids=space)


def spans(found: Sequence[Request]) -> list[tuple[str, int, int]]:
    return [(each.kind, each.first, each.last) for each in found]


def with_gap(*ids: int, space: str = "agg", **changes: int) -> Core:
    """A core that saw, at T0, id 1 and these."""
    core = new_core("1m", "1h", **changes)
    trades_of(core, [FIRST, *ids], T0 + 10_000, space=space)
    assert asked(core, T0 + 10_000) == []
    return core


def test_a_gap_is_asked_for_when_it_is_old_enough_and_again_after_each_deadline() -> None:
    core, now = with_gap(5), T0 + 10_000
    assert asked(core, now + 999) == []
    (first,) = asked(core, now + 1000)
    assert first == Request(REQUEST_TRADES, "BTCUSDT/trades/2-4/1", "BTCUSDT", "", 2, 4, now + 31_000)
    assert asked(core, now + 30_999) == []
    (second,) = asked(core, now + 31_000)
    assert (second.id, second.deadline_ms) == ("BTCUSDT/trades/2-4/2", now + 91_000)
    assert asked(core, now + 90_999) == []
    (third,) = asked(core, now + 91_000)
    assert (third.id, third.deadline_ms) == ("BTCUSDT/trades/2-4/3", now + 211_000)
    assert asked(core, now + 210_999) == []
    (fourth,) = asked(core, now + 211_000)
    assert fourth == Request(
        REQUEST_KLINES, f"BTCUSDT/1m/{T0}-{T0 + MINUTE_MS}/4", "BTCUSDT", "1m", T0, T0 + MINUTE_MS, now + 451_000
    )
    (fifth,) = asked(core, fourth.deadline_ms)
    assert fifth.deadline_ms - fourth.deadline_ms == 300_000
    assert core.counts.requests == 5


def test_what_ended_is_not_asked_for_and_what_is_left_of_a_gap_goes_on_in_its_schedule() -> None:
    core, now = with_gap(9), T0 + 10_000
    assert spans(asked(core, now + 1000)) == [("trades", 2, 8)]
    trades_of(core, [4], now)
    assert asked(core, now + 5000) == []
    assert spans(asked(core, now + 31_000)) == [("trades", 2, 8)], "both parts in one request"
    trades_of(core, [2, 3, 5, 6, 7, 8], now)
    assert asked(core, now + 91_000) == []
    assert core.repair_requests.needs == {}


def test_a_gap_too_old_for_the_window_is_lost_and_no_longer_asked_for() -> None:
    core = with_gap(5, window_minutes=20)
    times = [T0 + 10_000 + at * 1000 for at in range(1, 40 * 60)]
    found = [(time_ms, each) for time_ms in times for each in asked(core, time_ms)]
    assert found
    assert max(time_ms for time_ms, _ in found) <= T0 + 10_000 + 20 * MINUTE_MS
    assert core.repair_requests.needs == {}


@pytest.mark.parametrize(("second", "expected"), [(1001, [(2, 1001)]), (1002, [(2, 2), (1002, 1002)])])
def test_near_gaps_are_asked_for_together_and_far_ones_apart(second: int, expected: list[tuple[int, int]]) -> None:
    core = with_gap(*range(3, second), second + 1)
    found = asked(core, T0 + 11_000)
    assert [(each.first, each.last) for each in found] == expected


def test_a_gap_that_waits_for_its_answer_is_not_asked_for_with_its_neighbours() -> None:
    core, now = with_gap(3), T0 + 10_000
    asked(core, now + 1000)
    trades_of(core, [5], now)
    assert asked(core, now + 2000) == []
    assert spans(asked(core, now + 3000)) == [("trades", 4, 4)]


def test_a_wide_gap_and_fill_ids_are_asked_for_as_klines_at_once() -> None:
    wide, narrow = with_gap(TRADES_MAX + 3), with_gap(TRADES_MAX + 2)
    assert spans(asked(narrow, T0 + 11_000)) == [("trades", 2, TRADES_MAX + 1)]
    assert asked(wide, T0 + 11_000) == [], "its minute is not over"
    assert asked(wide, T0 + 62_999) == []
    assert spans(asked(wide, T0 + 63_000)) == [("klines", T0, T0 + MINUTE_MS)]
    fills = with_gap(5, 7, space="trade")
    assert asked(fills, T0 + 62_999) == []
    assert spans(asked(fills, T0 + 63_000)) == [("klines", T0, T0 + MINUTE_MS)], "one request for both"


def test_minutes_still_open_are_asked_for_when_they_are_over() -> None:
    core = new_core("1m")
    trades_of(core, [1], T0 + 10_000, space="trade")
    tick(core, T0 + 10_000)
    trades_of(core, [5], T0 + 130_000, space="trade")
    tick(core, T0 + 165_000)
    assert spans(asked(core, T0 + 166_000)) == [("klines", T0, T0 + 2 * MINUTE_MS)]
    assert asked(core, T0 + 182_999) == []
    assert spans(asked(core, T0 + 183_000)) == [("klines", T0 + 2 * MINUTE_MS, T0 + 3 * MINUTE_MS)]
    again = asked(core, T0 + 400_000)
    assert spans(again) == [("klines", T0, T0 + 3 * MINUTE_MS)]


def test_a_tick_asks_for_so_much_and_the_rest_comes_oldest_first() -> None:
    core, names = new_core("1m", ask_weight_per_minute=PLENTY), [f"S{at:04}USDT" for at in range(2 * REQUESTS_MAX + 50)]
    for at in (0, 1):
        for name in names[at::2]:
            trades_of(core, [1, 3], T0 + at, symbol=name)
        tick(core, T0 + at * 100)
    found = [asked(core, T0 + 2000 + at) for at in range(4)]
    assert [len(each) for each in found] == [REQUESTS_MAX, REQUESTS_MAX, 50, 0]
    order = [each.symbol for part in found for each in part]
    assert sorted(order) == names
    assert set(order[: len(names) // 2]) == set(names[0::2]), "those seen first"


def test_a_loss_of_many_symbols_is_beyond_the_budget_and_heals_from_klines() -> None:
    """600 symbols miss 5 s: their trades would cost 12,000 of weight, which is more than eight minutes of repair's."""
    config, names = Aggregator(), [f"S{at:04}USDT" for at in range(600)]
    core = new_core("1m")
    for name in names:
        trades_of(core, [1, 42], T0 + 20_000, symbol=name)
    tick(core, T0 + 20_000)
    found = []
    for time_ms in range(T0 + 20_250, T0 + 150_000, 250):
        for each in asked(core, time_ms):
            found.append((time_ms, each))
            if each.kind == REQUEST_TRADES:
                trades_of(core, range(each.first, each.last + 1), T0 + 20_000, symbol=each.symbol)
    cost = sum(PAGE_WEIGHT for _, each in found if each.kind == REQUEST_TRADES)
    assert PAGE_WEIGHT <= cost <= config.ask_weight_per_minute * 5 // 4
    klines = {each.symbol: (at, each) for at, each in reversed(found) if each.kind == REQUEST_KLINES}
    by_trades = {each.symbol for _, each in found if each.kind == REQUEST_TRADES}
    assert set(klines) | by_trades == set(names)
    assert len(klines) > 500
    assert max(at for at, _ in klines.values()) <= T0 + MINUTE_MS + 4_000, "as soon as their minute is over"
    assert {(each.first, each.last) for _, each in klines.values()} == {(T0, T0 + MINUTE_MS)}


def test_klines_that_do_not_help_are_followed_by_trades_after_all() -> None:
    core, names = new_core("1m"), [f"S{at:04}USDT" for at in range(200)]
    for name in names:
        trades_of(core, [1, 3], T0 + 20_000, symbol=name)
    tick(core, T0 + 20_000)
    kinds: dict[str, list[str]] = {}
    for time_ms in range(T0 + 20_250, T0 + 40 * MINUTE_MS, 1000):
        for each in asked(core, time_ms):
            kinds.setdefault(each.symbol, []).append(each.kind)
    dear = [each for each in kinds.values() if each[0] == REQUEST_KLINES]
    assert len(dear) > 100
    assert {tuple(each[:2]) for each in dear} == {(REQUEST_KLINES, REQUEST_KLINES)}
    assert [each for each in dear if REQUEST_TRADES in each]
    assert all(each.count(REQUEST_TRADES) <= 1 for each in dear)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_percent_of_loss_on_one_line_heals_within_the_limit(seed: int) -> None:
    """500 trades/s of 20 symbols for ten minutes: neighbouring gaps share a page, and no minute costs too much."""
    chance = random.Random(seed)
    core, names = new_core("1m"), [f"S{at:04}USDT" for at in range(20)]
    shares = [1 / (at + 3) for at in range(20)]
    newest = dict.fromkeys(names, 0)
    spent: dict[int, int] = {}
    answers: list[tuple[int, Request]] = []
    lost = {name: dict[int, int]() for name in names}
    slowest = 0
    for time_ms in range(T0, T0 + 10 * MINUTE_MS, 250):
        rows = []
        for name in chance.choices(names, shares, k=125) if time_ms < T0 + 9 * MINUTE_MS else names:
            newest[name] += 1
            if time_ms < T0 + 9 * MINUTE_MS and chance.random() < 0.01 and newest[name] > 1:
                lost[name][newest[name]] = time_ms
            else:
                rows.append(trade(newest[name], time_ms, symbol=name))
        for _, each in [each for each in answers if each[0] <= time_ms]:
            back = [number for number in range(each.first, each.last + 1) if number in lost[each.symbol]]
            slowest = max([slowest, *(time_ms - lost[each.symbol].pop(number) for number in back)])
            rows += [trade(number, time_ms, symbol=each.symbol) for number in back]
        answers = [each for each in answers if each[0] > time_ms]
        feed(core, rows)
        for each in asked(core, time_ms):
            if each.kind == REQUEST_TRADES:
                answers.append((time_ms + 1000, each))
                minute = time_ms // MINUTE_MS
                spent[minute] = spent.get(minute, 0) + cost_of(each.first, each.last)
    assert max(spent.values()) <= 1440, "repair's share of a minute"
    assert not any(lost.values()), f"{sum(map(len, lost.values()))} are still missing"
    assert core.open_gaps == 0
    assert slowest < 120_000


def test_what_is_lost_for_good_is_named_with_its_ids_and_minutes() -> None:
    core = with_gap(5, 9, window_minutes=20)
    findings = [each for at in range(1, 40) for each in tick(core, T0 + at * MINUTE_MS).findings]
    (finding,) = findings
    assert (finding["kind"], finding["severity"], finding["symbol"]) == ("UNREPAIRED", "error", "BTCUSDT")
    assert finding["evidence"] == (
        "6 trades could not be had any more: ids 2 to 4, 6 to 8; they belong to the minutes 2023-11-14 22:00 (UTC)"
    )


ALL = ("1m", "5m", "30m", "1h", "4h", "1d", "1w")
SUNDAY = 1_700_352_000_000 // DAY_MS * DAY_MS
WEEK = SUNDAY - 6 * DAY_MS


@pytest.mark.parametrize(
    ("intervals", "minute", "expected"),
    [
        (("1m",), SUNDAY + HOUR_MS, [("1m", 0, MINUTE_MS)]),
        (("1m", "5m"), SUNDAY + 7 * MINUTE_MS, [("1m", -2 * MINUTE_MS, MINUTE_MS)]),
        (("1m", "1h"), SUNDAY + 59 * MINUTE_MS, [("1m", -59 * MINUTE_MS, MINUTE_MS)]),
        (("1m", "4h"), SUNDAY + 6 * HOUR_MS, [("1m", 0, MINUTE_MS), ("1h", -2 * HOUR_MS, 0)]),
        (("1m", "1d"), SUNDAY, [("1m", 0, MINUTE_MS)]),
        (ALL, SUNDAY, [("1m", 0, MINUTE_MS), ("1d", WEEK - SUNDAY, 0)]),
        (ALL, SUNDAY + DAY_MS, [("1m", 0, MINUTE_MS)]),
        (
            ("1m", "1w"),
            SUNDAY + 5 * HOUR_MS,
            [("1m", 0, MINUTE_MS), ("1h", -5 * HOUR_MS, 0), ("1d", WEEK - SUNDAY - 5 * HOUR_MS, -5 * HOUR_MS)],
        ),
    ],
)
def test_the_past_of_a_minute(
    intervals: tuple[str, ...], minute: int, expected: list[tuple[str, int, int]]
) -> None:  # times from the minute on
    found = start_ranges(minute, ordered(intervals))
    assert found == [(name, minute + first, minute + last) for name, first, last in expected]


@given(minute=st.integers(0, 60 * 24 * 365 * 60), names=st.sets(st.sampled_from([*ALL, "3d", "1M", "2h"]), min_size=1))
def test_the_past_is_without_gaps_and_reaches_the_earliest_open_bar(minute: int, names: set[str]) -> None:
    minute_ms, intervals = minute * MINUTE_MS, ordered(tuple(names))
    found = start_ranges(minute_ms, intervals)
    earliest = min(each.open_time(minute_ms) for each in intervals)
    assert found[0][2] == minute_ms + MINUTE_MS
    assert found[-1][1] == earliest
    assert [each[1] for each in found[:-1]] == [each[2] for each in found[1:]]
    for name, first, last in found:
        (kind,) = ordered((name,))
        assert kind.open_time(first) == first
        assert kind.open_time(last) == last


def test_a_symbol_joined_midway_asks_for_its_past_until_it_is_covered() -> None:
    core = new_core(*ALL)
    trades_of(core, [7], T0 + 10_000)
    assert asked(core, T0 + 10_000) == []
    assert asked(core, T0 + 62_999) == []
    found = asked(core, T0 + 63_000)
    assert [each.interval for each in found] == ["1m", "1h", "1d"]
    assert {each.deadline_ms for each in found} == {T0 + 183_000}
    assert asked(core, T0 + 182_999) == []
    core.ledger.start_time[0] = T0 - 1
    again = asked(core, T0 + 183_000)
    assert [each.interval for each in again] == ["1h", "1d"], "the minutes are there"
    assert again[0].deadline_ms == T0 + 183_000 + 240_000
    core.ledger.start_time[0] = found[-1].first - 1
    assert asked(core, T0 + 183_000 + 240_000) == []
    assert core.repair_requests.needs == {}


def test_the_first_trade_ever_has_no_past() -> None:
    core = with_gap()
    assert asked(core, T0 + 63_000) == []
    assert START not in core.repair_requests.needs.get(0, {})


def test_a_listed_and_marked_symbol_without_trades_asks_too_and_anew_with_its_first_trade() -> None:
    core = new_core("1m", "1h")
    watermark(core, T0 + 5000, "AUSDT", "BUSDT")
    for name, status in (("AUSDT", "TRADING"), ("BUSDT", "SETTLING"), ("CUSDT", "TRADING")):
        for each in listing_entries([Listing(name, T0, 2, 2, status, 4 * 10**12)]):
            assert not list(core.apply("1-1", raw(each)))
    assert asked(core, T0 + 5000) == []
    found = asked(core, T0 + 63_000)
    assert [(each.symbol, each.interval) for each in found] == [("AUSDT", "1m")]
    trades_of(core, [7], T0 + 130_000, symbol="AUSDT")
    assert asked(core, T0 + 130_000) == []
    (later,) = asked(core, T0 + 183_000)
    assert (later.first, later.last) == (T0, T0 + 3 * MINUTE_MS)


def test_a_symbol_that_does_not_trade_is_asked_for_again_from_where_its_minutes_are_known_until() -> None:
    core = new_core("1m", "1h")
    for each in listing_entries([Listing("BTCUSDT", T0 - DAY_MS, 2, 2, "TRADING", 4 * 10**12)]):
        assert not list(core.apply("1-1", raw(each)))
    watermark(core, T0 + 5000)
    assert asked(core, T0 + 5000) == []
    (first,) = asked(core, T0 + 63_000)
    assert (first.first, first.last) == (T0, T0 + MINUTE_MS)
    send(core, "BTCUSDT", "1m", [(T0, *FLAT)])
    seen = []
    for second in range(64, 3600, 2):
        watermark(core, T0 + second * 1000)
        for request in asked(core, T0 + second * 1000):
            seen.append((second, request.first - T0, request.last - T0))
            minutes_of_it = range(request.first, request.last, MINUTE_MS)
            send(core, "BTCUSDT", "1m", [(open_ms, *FLAT) for open_ms in minutes_of_it])
    minutes = [(first_ms // MINUTE_MS, last_ms // MINUTE_MS) for _, first_ms, last_ms in seen]
    assert minutes[0][0] == 1
    assert [low for low, _ in minutes[1:]] == [high for _, high in minutes[:-1]], "each minute once"
    assert [late - early for (early, *_), (late, *_) in pairwise(seen)] == [240, 480, 600, 600, 600, 600], seen


def test_a_symbol_that_does_not_trade_any_more_is_left_alone() -> None:
    core = new_core("1m")
    for status in ("TRADING", "SETTLING"):
        for each in listing_entries([Listing("BTCUSDT", T0 - DAY_MS, 2, 2, status, 4 * 10**12)]):
            assert not list(core.apply("1-1", raw(each)))
        watermark(core, T0 + 5000)
        assert asked(core, T0 + 5000) == []
    assert asked(core, T0 + 63_000) == []
    assert core.repair_requests.needs == {}


def test_whoever_replays_does_not_ask() -> None:
    for asks in (True, False):
        core = Core(Aggregator(intervals=("1m",)), requests_repairs=asks)
        trades_of(core, [7, 9], T0)
        tick(core, T0)
        assert len(asked(core, T0 + 63_000)) == (2 if asks else 0)


LOSSY = st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(1, 60), max_size=8)), min_size=1, max_size=60)
"""Ticks: seconds since the one before, and the ids that arrive before it."""


def run_of(core: Core, log: Sequence[tuple[int, list[int]]], from_ms: int) -> Iterator[tuple[int, list[Request]]]:
    for seconds, ids in log:
        from_ms += seconds * 1000
        trades_of(core, ids, T0)
        yield from_ms, asked(core, from_ms)


@hypothesis_settings(max_examples=60)
@given(log=LOSSY)
def test_every_gap_is_asked_for_in_time_and_no_gap_twice_before_its_deadline(
    log: list[tuple[int, list[int]]],
) -> None:
    core = new_core("1m")
    trades_of(core, [FIRST], T0)
    seen: dict[int, int] = {}
    until: dict[int, int] = {}
    for time_ms, found in run_of(core, log, T0):
        missing = {number for gap in core.ledger.gaps.get(0, []) for number in range(gap.from_id, gap.to_id + 1)}
        seen = {number: seen.get(number, time_ms) for number in missing}
        for each in (each for each in found if each.kind == REQUEST_TRADES):
            for number in missing & set(range(each.first, each.last + 1)):
                assert until.get(number, time_ms) <= time_ms, "asked twice before its deadline"
                until[number] = each.deadline_ms
        for number in missing:
            assert number in until or time_ms < seen[number] + 1000
        assert core.repair_requests.needs.get(0, {}).keys() == {gap.from_id for gap in core.ledger.gaps.get(0, [])}


@hypothesis_settings(max_examples=15)
@given(seed=st.integers(0, 2**32), ticks=st.integers(2, 60), data=st.data())
def test_restored_at_any_tick_it_asks_for_the_same(seed: int, ticks: int, data: st.DataObject) -> None:
    entries = entries_of(seed, 3, ticks)
    places = [at for at, each in enumerate(entries) if each["kind"] == TICK]
    cut = data.draw(st.sampled_from(places)) + 1
    core, other = new_core("1m", "1h"), new_core("1m", "1h")
    for each in entries[:cut]:
        list(core.apply("1-1", raw(each)))
    copied = Checkpoint(core)
    restore(other, copied.header, [copied.block(number) for number in range(copied.blocks)])
    for each in [*entries[cut:], tick_entry(T0 + 2 * HOUR_MS)]:
        for one, two in zip(core.apply("1-1", raw(each)), other.apply("1-1", raw(each)), strict=True):
            assert one.requests == two.requests
    assert core.repair_requests.state() == other.repair_requests.state()


@hypothesis_settings(max_examples=40)
@given(log=LOSSY, seed=st.integers(0, 2**32))
def test_batches_between_two_ticks_do_not_matter(log: list[tuple[int, list[int]]], seed: int) -> None:
    one, two, rng, now = new_core("1m"), new_core("1m"), random.Random(seed), T0
    for seconds, ids in log:
        now += seconds * 1000
        trades_of(one, ids, T0)
        for number in rng.sample(ids, len(ids)):
            trades_of(two, [number], T0)
        assert asked(one, now) == asked(two, now)
    assert one.repair_requests.state() == two.repair_requests.state()

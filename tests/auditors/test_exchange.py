"""The auditor of the exchange: planted faults, each found as what it is within one lap, and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from auditors.classify import EDGE_SHIFT, EXACT, LATE
from klagg.intervals import HOUR_MS, INTERVALS, MINUTE_MS
from klagg.kline import Kline
from klagg.settings import Aggregator, Audit, Settings
from klagg.wire.entries import REQUEST_KLINES
from klagg.wire.findings import FindingKind, Severity
from tests.aggregator.kit import T0
from tests.auditors.exchangekit import END, NAMES, SOUND_MS, World, clean, exact_of, listing, put, tell
from tests.auditors.test_classify import FLAT, LASTING

NAME = NAMES[1]


def busy(world: World, name: str = NAME) -> int:
    """A minute of ours in the middle with several trades; the exchange says the same of it and of its neighbours."""
    bars = world.ours[name, "1m"]
    return next(at for at in sorted(bars) if at >= T0 + 9 * MINUTE_MS and bars[at].trades > 3)


@pytest.mark.parametrize("seed", range(4))
def test_a_clean_market_gives_no_finding_and_counts_every_bar_once(seed: int) -> None:
    """In one lap, and minute by minute, and minute by minute with a restart before each."""
    whole = clean(seed)
    assert whole.lap(SOUND_MS) == []
    counts = whole.counts
    bars = sum(len(each) for each in whole.ours.values())
    assert counts["bars"] == counts["exact"] + counts["edge_shift"] == bars
    assert counts["edge_shift"] > 20
    for restarts in (False, True):
        world = clean(seed)
        for now_ms in range(T0 + 30_000, SOUND_MS, MINUTE_MS):
            if restarts:
                world.restart()
            past = replace(world, ours={}, theirs={})
            past.audit, past.day_counts = world.audit, world.day_counts
            for key in world.ours:
                past.ours[key] = {at: bar for at, bar in world.ours[key].items() if bar.close_time < now_ms - 2_000}
                past.theirs[key] = {at: row for at, row in world.theirs[key].items() if at + MINUTE_MS < now_ms - 2_000}
            assert past.lap(now_ms) == []
            assert past.lags == []
        counts = world.counts
        assert counts["bars"] >= bars - len(NAMES), "the newest shift may wait for the bar behind it"
        assert counts["bars"] == counts["exact"] + counts["edge_shift"]


# --- the catalogue ---


def lost_trade(world: World, at: int) -> None:
    """One trade fewer in a bar that was not proven: nothing healed it."""
    bar = world.ours[NAME, "1m"][at]
    put(world, NAME, at, trades=bar.trades - 1, volume=str(Decimal(bar.volume) / 2), complete=0)


def lost_trade_in_a_proven_bar(world: World, at: int) -> None:
    bar = world.ours[NAME, "1m"][at]
    put(world, NAME, at, trades=bar.trades - 1)


def double_trade(world: World, at: int) -> None:
    bar = world.ours[NAME, "1m"][at]
    put(world, NAME, at, trades=bar.trades + 1, volume=str(Decimal(bar.volume) + Decimal("0.5")))


def float_rounding(world: World, at: int) -> None:
    """The last digits of a sum that somebody made with floats."""
    bar = world.ours[NAME, "1m"][at]
    put(world, NAME, at, quote_volume=str(Decimal(bar.quote_volume) + Decimal("0.00000000001")))


def changed_in_the_table(world: World, at: int) -> None:
    bar = world.ours[NAME, "1m"][at]
    put(world, NAME, at, high=str(Decimal(bar.high) + 1))


def wrong_taker(world: World, at: int) -> None:
    """Maker and taker confounded."""
    bar = world.ours[NAME, "1m"][at]
    rest = Decimal(bar.volume) - Decimal(bar.taker_buy_volume)
    put(world, NAME, at, taker_buy_volume=str(rest if rest != Decimal(bar.taker_buy_volume) else rest + 1))


def close_not_carried(world: World, at: int) -> None:
    bar = world.ours[NAME, "1m"][at]
    put(world, NAME, at, open="0.01", low="0.01", close=bar.close)


def bar_missing(world: World, at: int) -> None:
    del world.ours[NAME, "1m"][at]


def bars_swapped(world: World, at: int) -> None:
    """Two minutes in each other's place."""
    bars = world.ours[NAME, "1m"]
    one, other = bars[at], bars[at + MINUTE_MS]
    times = {"open_time", "close_time"}
    bars[at] = replace(other, **{each: getattr(one, each) for each in times})
    bars[at + MINUTE_MS] = replace(one, **{each: getattr(other, each) for each in times})


def trade_a_minute_late(world: World, at: int) -> None:
    """A trade in the wrong minute, by the clock of whoever received it."""
    one, other = (world.ours[NAME, "1m"][each] for each in (at, at + MINUTE_MS))
    put(world, NAME, at, trades=one.trades - 1)
    put(world, NAME, at + MINUTE_MS, trades=other.trades + 1)


def flat_row(world: World, at: int) -> None:
    tell(world, NAME, at, trades=0, **FLAT)


def no_row(world: World, at: int) -> None:
    del world.theirs[NAME, "1m"][at]


def a_row_of_another_symbol(world: World, at: int) -> None:
    world.theirs[NAME, "1m"][at] = world.theirs[NAMES[0], "1m"][at]


@dataclass(frozen=True)
class Fault:
    plant: Callable[[World, int], None]
    kind: FindingKind
    severity: str


CATALOGUE = [
    Fault(lost_trade, FindingKind.LOCAL_GAP, Severity.WARNING),
    Fault(bar_missing, FindingKind.LOCAL_GAP, Severity.WARNING),
    Fault(lost_trade_in_a_proven_bar, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(double_trade, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(float_rounding, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(changed_in_the_table, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(wrong_taker, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(close_not_carried, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(bars_swapped, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(trade_a_minute_late, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(a_row_of_another_symbol, FindingKind.UNEXPLAINED, Severity.ERROR),
    Fault(flat_row, FindingKind.EXCHANGE_GAP, Severity.INFO),
    Fault(no_row, FindingKind.EXCHANGE_GAP, Severity.INFO),
]


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda each: each.plant.__name__)
def test_a_planted_fault_is_found_in_one_lap(fault: Fault) -> None:
    world = clean(edges=False)
    at = busy(world)
    fault.plant(world, at)
    (found,) = world.lap(SOUND_MS)
    assert (found.kind, found.severity, found.symbol, found.interval) == (fault.kind, fault.severity, NAME, "1m")
    assert found.open_time == at
    assert found.evidence
    assert not found.closed
    assert found.to_fields()["id"] == found.id
    assert world.lap(SOUND_MS) == [], "said once"
    wrong = world.counts[fault.kind.lower()]
    assert wrong == (2 if fault.plant in (bars_swapped, trade_a_minute_late) else 1)
    assert world.counts["bars"] == world.counts["exact"] + wrong
    assert [each.kind for each in world.requests] == ([REQUEST_KLINES] if fault.kind == FindingKind.LOCAL_GAP else [])


def test_faults_among_shifts_are_found() -> None:
    """In a market full of shifts, one value off is within a few minutes of what is found."""
    world = clean(5)
    at = busy(world)
    changed_in_the_table(world, at)
    found = world.lap(SOUND_MS)
    assert {(each.kind, each.symbol) for each in found} == {(FindingKind.UNEXPLAINED, NAME)}
    assert abs(found[0].open_time - at) <= 3 * MINUTE_MS


def test_a_shift_without_its_evidence_is_unexplained() -> None:
    world = clean(5)
    world.ours[NAME, "1m"] = {at: replace(bar, edge="") for at, bar in world.ours[NAME, "1m"].items()}
    assert {(each.kind, each.symbol) for each in world.lap(SOUND_MS)} == {(FindingKind.UNEXPLAINED, NAME)}
    assert world.counts["edge_shift"] > 10, "those of the others are proven"


def test_a_row_that_comes_late_is_waited_for() -> None:
    """LATE is no finding; nothing behind it is judged before it is there."""
    world = clean(edges=False)
    last = max(world.ours[NAME, "1m"])
    row = world.theirs[NAME, "1m"].pop(last)
    now_ms = END + 35_000
    assert world.lap(now_ms) == []
    assert (world.counts["late"], world.audit.counts[LATE]) == (1, 1)
    world.restart()
    world.theirs[NAME, "1m"][last] = row
    assert world.lap(now_ms + 20_000) == []
    assert (world.counts["late"], world.counts["exact"]) == (0, world.counts["bars"])


def test_a_row_that_stays_late_is_a_gap_of_the_exchange() -> None:
    world = clean(edges=False)
    last = max(world.ours[NAME, "1m"])
    del world.theirs[NAME, "1m"][last]
    assert world.lap(SOUND_MS) == [] or world.findings[0].kind == FindingKind.EXCHANGE_GAP
    assert world.counts["exchange_gap"] + world.counts["late"] <= 1


def test_a_young_gap_is_not_said_before_repair_had_its_time() -> None:
    world = clean(edges=False)
    last = max(world.ours[NAME, "1m"])
    put(world, NAME, last, complete=0, trades=0, volume="0")
    assert world.lap(END + 60_000) == []
    assert [each.kind for each in world.lap(END + 4 * MINUTE_MS)] == [FindingKind.LOCAL_GAP]


# --- requests ---


# --- symbols ---


def test_a_symbol_of_which_we_have_nothing_is_a_gap() -> None:
    world = clean(edges=False)
    del world.ours[NAME, "1m"]
    assert world.lap(T0 + 10_000) == []
    found = world.lap(SOUND_MS)
    assert {(each.kind, each.symbol) for each in found} == {(FindingKind.LOCAL_GAP, NAME)}
    assert f"{LASTING - 1} bars" in found[0].evidence


def test_the_end_of_a_symbol_is_no_gap() -> None:
    """Neither bars that nobody owes any more, nor rows that the exchange stops to give."""
    world = clean(edges=False)
    end = T0 + 20 * MINUTE_MS
    for side in (world.ours, world.theirs):
        for at in [each for each in side[NAME, "1m"] if each > end]:
            del side[NAME, "1m"][at]
    flat = {**exact_of(world.ours[NAME, "1m"][end]), "trades": 0, **FLAT}
    world.theirs[NAME, "1m"][end + MINUTE_MS] = flat
    world.listings = [each for each in world.listings if each.symbol != NAME]
    world.listings.append(listing(NAME, status="SETTLING", delivery=end + MINUTE_MS + 1))
    world.listings[-1] = listing(NAME)
    assert world.lap(end + MINUTE_MS + 40_000) == []
    world.listings[-1] = listing(NAME, status="SETTLING", delivery=end + MINUTE_MS + 30_000)
    assert world.lap(end + 3 * MINUTE_MS) == []
    assert world.lap(SOUND_MS) == []
    assert (NAME, "1m") not in world.audit.schedule.series, "it is over"
    assert (NAMES[0], "1m") in world.audit.schedule.series


def test_a_symbol_that_is_listed_midway_and_one_that_comes_again() -> None:
    world = clean(edges=False)
    born = T0 + 8 * MINUTE_MS
    for side in (world.ours, world.theirs):
        for at in [each for each in side[NAME, "1m"] if each < born]:
            del side[NAME, "1m"][at]
    world.listings = [each for each in world.listings if each.symbol != NAME]
    assert world.lap(T0 + 5 * MINUTE_MS) == []
    world.listings.append(listing(NAME, generation=born))
    assert world.lap(SOUND_MS) == []
    assert world.day_counts[NAME, "1m"].counts["bars"] == len(world.ours[NAME, "1m"])
    world.listings[-1] = listing(NAME, status="CLOSE", delivery=END)
    assert world.lap(SOUND_MS) == []
    assert world.lap(SOUND_MS + MINUTE_MS) == []
    world.listings[-1] = listing(NAME, generation=SOUND_MS)
    assert world.lap(SOUND_MS + 2 * MINUTE_MS) == []
    assert world.audit.schedule.series[NAME, "1m"].next_ms is None, "its bars begin anew"


def test_a_refused_symbol_is_left_alone_for_a_while() -> None:
    world = clean(edges=False)
    world.audit.update_listings(world.listings, SOUND_MS)
    world.audit.place({(each, "1m"): T0 for each in NAMES}, SOUND_MS)
    look = world.audit.next(SOUND_MS, END)
    assert look is not None
    world.audit.refused(look, SOUND_MS, unknown=True)
    second = world.audit.next(SOUND_MS, END)
    assert second is not None
    assert second.symbol != look.symbol
    assert world.lap(SOUND_MS + HOUR_MS) == []
    assert world.counts["bars"] == sum(len(each) for each in world.ours.values())


# --- longer bars ---


def test_longer_bars_are_compared_too() -> None:
    world = clean(edges=False)
    world.settings = Settings(aggregator=Aggregator(intervals=("1s", "1m", "5m")))
    world.restart()
    five = INTERVALS["5m"]
    for name in NAMES:
        longer: dict[int, Kline] = {}
        for at in range(five.open_time(T0) + five.length_ms, END - five.length_ms, five.length_ms):
            longer[at] = replace(
                world.ours[name, "1m"][at], interval="5m", close_time=five.close_time(at), volume="7", trades=9
            )
        world.ours[name, "5m"] = longer
        world.theirs[name, "5m"] = {at: exact_of(bar) for at, bar in longer.items()}
    at = sorted(world.ours[NAME, "5m"])[1]
    world.ours[NAME, "5m"][at] = replace(world.ours[NAME, "5m"][at], volume="8", complete=0)
    (found,) = world.lap(SOUND_MS)
    assert (found.kind, found.interval, found.open_time) == (FindingKind.LOCAL_GAP, "5m", at)
    assert world.requests == [], "its minutes are asked for by themselves"
    assert world.day_counts[NAME, "5m"].counts["bars"] == len(world.ours[NAME, "5m"])
    assert not any(look.interval.name == "1s" for look in world.looks)


# --- the auditor itself ---


def test_an_auditor_that_falls_behind_says_by_how_much_and_when_it_has_caught_up() -> None:
    world = clean(edges=False)
    world.settings = replace(world.settings, audit=Audit(weight_per_minute=24))
    world.restart()
    world.audit.update_listings(world.listings, T0)
    world.audit.place({(each, "1m"): T0 for each in NAMES}, SOUND_MS)
    look = world.audit.next(SOUND_MS, END)
    assert look is not None
    world.take(look, SOUND_MS)
    (behind,) = world.lags
    assert (behind.kind, behind.closed, f"{(SOUND_MS - T0 - MINUTE_MS) // 1000} s" in behind.evidence) == (
        FindingKind.LAGGING,
        False,
        True,
    )
    assert world.audit.own_finding_ids()[behind.id] == FindingKind.LAGGING
    again = clean(edges=False)
    again.audit.restore_own_findings([FindingKind.LAGGING])
    again.lap(END + MINUTE_MS)
    (caught_up,) = again.lags
    assert (caught_up.kind, caught_up.closed, caught_up.id) == (FindingKind.LAGGING, True, behind.id)


def test_where_the_clock_runs_faster_than_the_weight_grows_an_auditor_may_be_further_behind() -> None:
    world = clean(edges=False)
    slow_ms = world.audit.lag_ms_max
    world.audit.speed = 20.0
    assert world.audit.lag_ms_max == 20 * slow_ms
    world.audit.speed = 0.0
    assert world.audit.lag_ms_max == slow_ms, "a clock that is held"


def test_what_cannot_be_asked_is_said_once() -> None:
    audit = clean().audit
    (away,) = audit.unreachable("the database", "no answer", T0)
    assert (away.kind, away.severity, away.closed) == (FindingKind.UNREACHABLE, Severity.WARNING, False)
    assert audit.unreachable("the database", "no answer", T0) == []
    assert audit.unreachable("the exchange's REST API", "", T0) == []
    (back,) = audit.unreachable("the database", "", T0)
    assert (back.id, back.closed) == (away.id, True)
    assert audit.own_finding_ids()[away.id] == "the database"


def test_evidence_in_the_table_that_is_none_does_not_end_the_audit() -> None:
    world = clean(5)
    bars = world.ours[NAME, "1m"]
    for at in bars:
        put(world, NAME, at, edge="1:2")
    assert [(each.kind, each.symbol) for each in world.lap(SOUND_MS)] == [("MALFORMED", NAME)]
    assert world.counts["bars"] >= (len(NAMES) - 1) * (LASTING - 1)


def test_the_summary_says_what_was_done() -> None:
    world = clean()
    world.lap(SOUND_MS)
    said = world.audit.summary(SOUND_MS)
    counts = world.audit.counts
    assert f"{world.audit.bars} bars compared ({counts[EXACT]} exact, {counts[EDGE_SHIFT]} edge_shift" in said
    assert "1 laps" in said

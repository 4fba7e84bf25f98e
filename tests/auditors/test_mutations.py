"""The catalogue of planted faults: each is found by the auditor that must find it, as what it is, within one bar.

Every fault is planted into the clean hour (test_clean.py: it gives no finding), so what is found is the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from auditors.completeness import Completeness
from auditors.consumer_groups import STALLED_MS, GroupMonitor, LagMonitor
from auditors.findings import FOUND_BY_AUDITORS, Finding
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from klagg.intervals import MINUTE_MS
from klagg.wire.findings import FindingKind
from tests.auditors import plants
from tests.auditors.kit import BEGIN, ENDED_MS, LASTING_MS, SETTINGS, clean_hour, judged, numbered
from tests.auditors.plants import BUSY, MIDDLE_MS, Log
from tests.auditors.test_exchange import CATALOGUE as OF_THE_EXCHANGE


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, who must find it, and as what."""

    plant: Callable[[Log], Log]
    judge: type[Judge]
    kind: FindingKind


CATALOGUE = [
    Fault(plants.drop_a_bar, Completeness, FindingKind.MISSING_KLINE),
    Fault(plants.drop_a_five_minute_bar, Completeness, FindingKind.MISSING_KLINE),
    Fault(plants.double_a_bar, Completeness, FindingKind.DUPLICATE),
    Fault(plants.shift_a_bar_by_one_interval, Completeness, FindingKind.MISSING_KLINE),
    Fault(plants.swap_two_bars, Completeness, FindingKind.ORDER),
    Fault(plants.carry_a_wrong_close, Completeness, FindingKind.CARRY),
    Fault(plants.carry_a_wrong_close_into_an_hour, Completeness, FindingKind.CARRY),
    Fault(plants.high_below_open, Completeness, FindingKind.INVARIANT),
    Fault(plants.low_above_close, Completeness, FindingKind.INVARIANT),
    Fault(plants.takers_buy_more_than_all, Completeness, FindingKind.INVARIANT),
    Fault(plants.quote_that_no_price_gives, Completeness, FindingKind.INVARIANT),
    Fault(plants.trades_without_ids, Completeness, FindingKind.INVARIANT),
    Fault(plants.more_trades_than_ids, Completeness, FindingKind.INVARIANT),
    Fault(plants.volume_in_an_empty_bar, Completeness, FindingKind.INVARIANT),
    Fault(plants.lose_a_trade_in_a_minute, Completeness, FindingKind.FOLD),
    Fault(plants.lose_the_last_trade_of_a_minute_everywhere, Completeness, FindingKind.IDS),
    Fault(plants.count_a_trade_twice, Completeness, FindingKind.FOLD),
    Fault(plants.fold_a_trade_into_two_minutes, Completeness, FindingKind.IDS),
    Fault(plants.sum_in_floats, Completeness, FindingKind.SCALE),
    Fault(plants.round_a_sum, Completeness, FindingKind.FOLD),
    Fault(plants.skip_a_revision, Completeness, FindingKind.VERSION),
    Fault(plants.begin_with_the_second_revision, Completeness, FindingKind.VERSION),
    Fault(plants.go_back_in_versions, Completeness, FindingKind.VERSION),
    Fault(plants.amend_a_minute_and_not_its_hour, Completeness, FindingKind.FOLD),
    Fault(plants.week_from_thursday, Completeness, FindingKind.ALIGNMENT),
    Fault(plants.month_of_thirty_days, Completeness, FindingKind.ALIGNMENT),
    Fault(plants.month_that_ends_a_day_late, Completeness, FindingKind.ALIGNMENT),
    Fault(plants.close_time_of_the_next_bar, Completeness, FindingKind.ALIGNMENT),
    Fault(plants.write_a_price_as_nan, Completeness, FindingKind.MALFORMED),
    Fault(plants.publish_an_interval_that_nobody_wants, Completeness, FindingKind.MALFORMED),
    Fault(plants.a_symbol_stops, Completeness, FindingKind.ABSENT),
    Fault(plants.an_interval_is_never_published, Completeness, FindingKind.ABSENT),
    Fault(plants.a_new_symbol_begins_late, Completeness, FindingKind.MISSING_KLINE),
    Fault(plants.time_goes_back, Completeness, FindingKind.TIME_BACK),
    Fault(plants.confirm_what_is_final, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.amend_before_the_close, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.close_twice, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.close_from_a_state_that_was_not, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.skip_a_revision_in_the_events, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.confirm_into_waiting, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.close_by_a_trade_and_wait, Lifecycle, FindingKind.TRIGGER),
    Fault(plants.close_by_nobody, Lifecycle, FindingKind.TRIGGER),
    Fault(plants.fill_a_gap_that_is_none, Lifecycle, FindingKind.GAP_FILL),
    Fault(plants.final_without_a_first_trade, Lifecycle, FindingKind.NO_FIRST_TRADE),
    Fault(plants.a_first_trade_twice, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.a_close_is_missing, Lifecycle, FindingKind.MISSING_KLINE),
    Fault(plants.a_close_is_one_interval_off, Lifecycle, FindingKind.MISSING_KLINE),
    Fault(plants.a_bar_opens_off_the_grid, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.bars_never_close, Lifecycle, FindingKind.NEVER_CLOSED),
    Fault(plants.a_symbol_without_genesis, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.two_geneses, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.close_a_gap_that_never_was, Lifecycle, FindingKind.ILLEGAL),
    Fault(plants.time_goes_back, Lifecycle, FindingKind.TIME_BACK),
    Fault(plants.an_event_without_a_column, Lifecycle, FindingKind.MALFORMED),
]

ALSO: dict[Callable[[Log], Log], set[FindingKind]] = {
    plants.drop_a_bar: {FindingKind.ABSENT},
    plants.drop_a_five_minute_bar: {FindingKind.ABSENT},
    plants.a_close_is_missing: {FindingKind.NEVER_CLOSED},
    plants.bars_never_close: {FindingKind.ILLEGAL},
    plants.shift_a_bar_by_one_interval: {FindingKind.DUPLICATE, FindingKind.VERSION, FindingKind.IDS, FindingKind.FOLD},
    plants.swap_two_bars: {FindingKind.MISSING_KLINE},
    plants.lose_a_trade_in_a_minute: {FindingKind.INVARIANT},
    plants.lose_the_last_trade_of_a_minute_everywhere: {FindingKind.FOLD},
    plants.fold_a_trade_into_two_minutes: {FindingKind.FOLD},
    plants.sum_in_floats: {FindingKind.FOLD},
    plants.high_below_open: {FindingKind.FOLD},
    plants.low_above_close: {FindingKind.FOLD},
    plants.takers_buy_more_than_all: {FindingKind.FOLD},
    plants.quote_that_no_price_gives: {FindingKind.FOLD},
    plants.trades_without_ids: {FindingKind.FOLD},
    plants.more_trades_than_ids: {FindingKind.FOLD},
    plants.volume_in_an_empty_bar: {FindingKind.FOLD},
    plants.carry_a_wrong_close: {FindingKind.FOLD},
    plants.carry_a_wrong_close_into_an_hour: {FindingKind.FOLD},
    plants.go_back_in_versions: set(),
    plants.amend_a_minute_and_not_its_hour: {FindingKind.CARRY},
    plants.week_from_thursday: {FindingKind.ABSENT, FindingKind.MISSING_KLINE},
    plants.month_of_thirty_days: {FindingKind.ABSENT, FindingKind.MISSING_KLINE},
    plants.write_a_price_as_nan: {FindingKind.MISSING_KLINE, FindingKind.ABSENT},
    plants.publish_an_interval_that_nobody_wants: {FindingKind.ALIGNMENT},
    plants.a_new_symbol_begins_late: {FindingKind.ABSENT},
    plants.a_close_is_one_interval_off: {FindingKind.ILLEGAL, FindingKind.NO_FIRST_TRADE},
    plants.a_bar_opens_off_the_grid: {FindingKind.MISSING_KLINE, FindingKind.NEVER_CLOSED},
    plants.an_event_without_a_column: {FindingKind.MISSING_KLINE, FindingKind.ILLEGAL, FindingKind.NEVER_CLOSED},
    plants.skip_a_revision_in_the_events: set(),
    plants.fill_a_gap_that_is_none: set(),
    plants.amend_before_the_close: set(),
}
"""What else a fault makes wrong: its neighbours, or the longer bars that hold it."""


def times_of(log: Log, planted: Log) -> int:
    """The exchange time of the first tick behind the first entry that differs."""
    at = next((at for at, (one, other) in enumerate(zip(log, planted, strict=False)) if one != other), len(log) - 1)
    return next(int(each.fields["time"]) for each in log[at:] if each.fields.get("kind") == "tick")


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda fault: f"{fault.plant.__name__}-{fault.judge.__name__}")
def test_a_planted_fault_is_found_as_what_it_is(fault: Fault) -> None:
    log = list(clean_hour())
    planted = fault.plant(log)
    assert planted != log
    judge = fault.judge(SETTINGS)
    found = judged(judge, numbered(planted))
    kinds = {each.kind for each in found}
    assert fault.kind in kinds, found
    assert kinds <= {fault.kind} | ALSO.get(fault.plant, set()), found
    right = [each for each in found if each.kind == fault.kind]
    assert all(each.evidence and each.time_ms for each in right)
    assert right[0].time_ms <= times_of(log, planted) + longest_wait(fault, log, planted)


def longest_wait(fault: Fault, log: Log, planted: Log) -> int:
    """One bar, and until the bar behind it is owed; where a bar is never published, that bar."""
    bar_ms = 5 * MINUTE_MS
    if fault.plant is plants.an_interval_is_never_published:
        bar_ms = 30 * MINUTE_MS
    return bar_ms + Completeness(SETTINGS).due_ms + 2_000


def test_a_fault_is_only_found_where_it_is() -> None:
    """The neighbours of a dropped bar, and all other symbols, stay without a finding."""
    log = list(clean_hour())
    opening = log[plants.first(log)].fields["open_time"]
    found = judged(Completeness(SETTINGS), numbered(plants.drop_a_bar(log)))
    assert {(each.kind, each.symbol) for each in found} <= {
        (FindingKind.MISSING_KLINE, BUSY),
        (FindingKind.ABSENT, BUSY),
    }
    assert opening in found[0].place


@pytest.mark.parametrize(
    ("kind", "stream"), [(Completeness, "klines"), (Completeness, "events"), (Lifecycle, "events")]
)
@pytest.mark.parametrize("count", [1, 40])
def test_a_trimmed_stream_is_a_loss_with_its_range(kind: type[Judge], stream: str, count: int) -> None:
    """And nothing else: what the lost entries would have said is not held against the others."""
    entries = numbered(clean_hour())
    middle = next(at for at, each in enumerate(entries) if each[2].get(b"time") == str(MIDDLE_MS + 120_000).encode())
    own = [at for at, each in enumerate(entries) if each[0] == stream and at > middle]
    gone = set(own[:count])
    found = judged(kind(SETTINGS), [each for at, each in enumerate(entries) if at not in gone])
    numbers = sorted(int(entries[at][2][b"seq"]) for at in gone)
    if count > 1:  # until the next kline comes, which tells that some are lost, they are simply not there
        found = [each for each in found if each.kind != FindingKind.ABSENT or each.time_ms > found[-1].time_ms]
    assert [each.kind for each in found] == [FindingKind.DATA_LOSS], found
    assert f"seq {numbers[0]} to {numbers[-1]}" in found[0].evidence
    assert f"{count} entries" in found[0].evidence


def test_findings_go_on_after_a_loss() -> None:
    """A loss does not make an auditor blind: a symbol that stops later is found."""
    log = numbered(plants.a_symbol_stops(list(clean_hour())))
    own = [at for at, each in enumerate(log) if each[0] == "klines"]
    del log[own[len(own) // 4]]
    found = judged(Completeness(SETTINGS), log)
    assert {FindingKind.DATA_LOSS, FindingKind.ABSENT} <= {each.kind for each in found}


@pytest.mark.parametrize("idle_ms", [None, 45_000])
def test_a_group_without_a_consumer(idle_ms: int | None) -> None:
    """A writer that was never started, and one that died."""
    monitor = GroupMonitor(silent_ms=30_000)
    found: list[Finding] = []
    for now_ms in range(0, 40_000, 1_000):
        found += monitor.observe({("klines:{0}", "writers"): idle_ms, ("klines:{0}", "other"): 200}, now_ms, BEGIN)
    assert [(each.kind, each.place) for each in found] == [(FindingKind.GROUP_SILENT, "klines:{0}/writers")]
    (settled,) = monitor.observe({("klines:{0}", "writers"): 5}, 41_000, BEGIN)
    assert (settled.id, settled.closed) == (found[0].id, True)
    monitor.observe({("klines:{0}", "writers"): None}, 42_000, BEGIN)
    assert monitor.observe({("klines:{0}", "writers"): None}, 90_000, BEGIN), "silent again is news"


def test_an_auditor_that_falls_behind_and_one_to_which_nothing_comes() -> None:
    monitor = LagMonitor("auditor-completeness", 60_000)
    assert not monitor.observe(BEGIN, BEGIN + 60_000, 10, 0)
    (behind,) = monitor.observe(BEGIN, BEGIN + 61_000, 1234, 1_000)
    assert (behind.kind, "61000 ms" in behind.evidence, "1234 entries" in behind.evidence) == ("LAGGING", True, True)
    assert not monitor.observe(BEGIN, BEGIN + 62_000, 1300, 2_000), "said once"
    (settled,) = monitor.observe(BEGIN + 62_000, BEGIN + 62_000, 0, 3_000)
    assert (settled.id, settled.closed) == (behind.id, True)
    (stalled,) = monitor.observe(BEGIN + 62_000, BEGIN + 62_000, 0, 2_000 + STALLED_MS + 1_000)
    assert stalled.kind == "STALLED"


def test_the_catalogue_is_large_enough_and_names_each_kind() -> None:
    assert len(CATALOGUE) >= 25
    assert len(OF_THE_EXCHANGE) >= 12
    elsewhere: set[FindingKind] = {
        FindingKind.DATA_LOSS,
        FindingKind.LAGGING,
        FindingKind.STALLED,
        FindingKind.GROUP_SILENT,
        FindingKind.UNREACHABLE,
    }
    elsewhere |= {fault.kind for fault in OF_THE_EXCHANGE}
    assert {fault.kind for fault in CATALOGUE} | elsewhere == set(FOUND_BY_AUDITORS)


def test_ids_are_stable() -> None:
    """The same fault found by another run, later, has the same id."""
    log = numbered(plants.drop_a_bar(list(clean_hour())))
    first_run, second_run = (judged(Completeness(SETTINGS), entries) for entries in (log, log[200:]))
    assert {each.id for each in first_run} == {each.id for each in second_run}
    assert first_run[0].to_fields()["id"] == first_run[0].id
    assert ENDED_MS < BEGIN + LASTING_MS

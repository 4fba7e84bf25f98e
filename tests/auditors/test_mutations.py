"""The catalogue of planted faults: each is found by the auditor that must find it, as what it is, within one bar.

Every fault is planted into the clean hour (test_judge.py: it gives no finding), so what is found is the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from auditors.completeness import Completeness
from auditors.findings import FOUND_BY_AUDITORS
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from klagg.intervals import MINUTE_MS
from klagg.wire.findings import FindingKind
from tests.auditors import plants
from tests.auditors.kit import SETTINGS, clean_hour, judged, numbered
from tests.auditors.plants import Log
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


def check_planted(fault: Fault) -> None:
    """The fault is found as what it is, in time, and nothing is found beside it but what ALSO names."""
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

"""The catalogue of planted faults: each is found by the auditor that must find it, as what it is, within one bar.

Every fault is planted into the clean hour (test_clean.py: it gives no finding), so what is found is the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from auditors import findings as found_as
from auditors.completeness import Completeness
from auditors.findings import Finding
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from auditors.watch import STALLED_MS, GroupWatch, LagWatch
from klagg import contract
from klagg.contract import Fields
from klagg.intervals import DAY_MS, INTERVALS, MINUTE_MS
from tests.auditors.kit import BEGIN, BORN, ENDED_MS, LASTING_MS, QUIET, SETTINGS, Said, clean_hour, judged, numbered
from tests.auditors.test_exchange import CATALOGUE as OF_THE_EXCHANGE

BUSY = "AAAUSDT"
MIDDLE_MS = BEGIN + 20 * MINUTE_MS
"""A minute in which the busy symbol trades; nothing of it is special."""

Log = list[Said]
Row = dict[str, str]


# --- finding a place in the log ---


def klines(log: Log, interval: str = "1m", symbol: str = BUSY, **wanted: str) -> list[int]:
    """Where klines of a series stand, behind the middle of the hour."""
    return [
        at
        for at, said in enumerate(log)
        if said.stream == "klines"
        and (said.fields["interval"], said.fields["symbol"]) == (interval, symbol)
        and all(said.fields[name] == value for name, value in wanted.items())
        and (int(said.fields["open_time"]) >= MIDDLE_MS or INTERVALS[interval].shortest_ms >= DAY_MS)
    ]


def first(log: Log, interval: str = "1m", symbol: str = BUSY, **wanted: str) -> int:
    return klines(log, interval, symbol, **wanted)[0]


def traded(log: Log, interval: str = "1m") -> int:
    """A kline of the busy symbol with several trades, proven at once."""
    return next(
        at for at in klines(log, interval, complete="1") if int(log[at].fields["trades"]) > 3 and not confirms(log, at)
        and log[at].fields["first_agg_id"] != log[at].fields["last_agg_id"]
    )  # fmt: skip


def empty(log: Log, symbol: str = QUIET) -> int:
    return first(log, symbol=symbol, trades="0")


def altered(log: Log, at: int, **values: str) -> Log:
    """The log with other values in one kline."""
    return [*log[:at], replace(log[at], fields={**log[at].fields, **values}), *log[at + 1 :]]


def more(fields: Fields, name: str, by: str) -> str:
    """A value raised by some."""
    return str(Decimal(fields[name]) + Decimal(by))


def with_rows(log: Log, change: Callable[[str, Row, int], list[Row]]) -> Log:
    """The log with other events: `change` says what becomes of each row, given its kind and the time of its tick."""
    said = []
    for each in log:
        kind = each.fields.get("kind", "")
        if each.stream == "klines" or kind == contract.EVENT_TICK:
            said.append(each)
            continue
        time_ms = int(each.fields["time"])
        rows = [new for row in contract.event_rows(each.fields) for new in change(kind, row, time_ms)]
        values = [tuple(row[name] for name in contract.EVENT_COLUMNS[kind]) for row in rows]
        if values:
            said.append(replace(each, fields=contract.events_entry(kind, time_ms, values)))
    return said


def one_row(log: Log, kind: str, change: Callable[[Row], list[Row]], **wanted: str) -> Log:
    """The log with another one of its events, the first behind the middle that is as wanted."""
    done: list[Row] = []

    def each(of_kind: str, row: Row, time_ms: int) -> list[Row]:
        here = of_kind == kind and time_ms >= MIDDLE_MS and all(row[name] == value for name, value in wanted.items())
        if not here or done:
            return [row]
        done.append(row)
        return change(row)

    said = with_rows(log, each)
    assert done, f"no {kind} with {wanted}"
    return said


def inserted(log: Log, kind: str, **values: object) -> Log:
    """The log with one more event, right behind the tick of the middle."""
    at = tick_at(log, MIDDLE_MS)
    row = tuple(values[name] for name in contract.EVENT_COLUMNS[kind])
    return [*log[: at + 1], Said("events", contract.events_entry(kind, MIDDLE_MS, [row])), *log[at + 1 :]]


def tick_at(log: Log, time_ms: int) -> int:
    return next(
        at for at, each in enumerate(log) if each.fields.get("kind") == "tick" and int(each.fields["time"]) >= time_ms
    )


# --- faults of klines ---


def drop_a_bar(log: Log) -> Log:
    opening = log[first(log)].fields["open_time"]
    gone = set(klines(log, open_time=opening))
    return [each for at, each in enumerate(log) if at not in gone]


def drop_a_five_minute_bar(log: Log) -> Log:
    opening = log[first(log, "5m")].fields["open_time"]
    gone = set(klines(log, "5m", open_time=opening))
    return [each for at, each in enumerate(log) if at not in gone]


def double_a_bar(log: Log) -> Log:
    at = traded(log)
    return [*log[: at + 1], log[at], *log[at + 1 :]]


def shift_a_bar_by_one_interval(log: Log) -> Log:
    at = traded(log)
    times = {name: str(int(log[at].fields[name]) + MINUTE_MS) for name in ("open_time", "close_time")}
    return altered(log, at, **times)


def swap_two_bars(log: Log) -> Log:
    one, two = [at for at in klines(log, complete="1") if not confirms(log, at)][:2]
    log = list(log)
    log[one], log[two] = log[two], log[one]
    return log


def carry_a_wrong_close(log: Log) -> Log:
    at = empty(log)
    price = more(log[at].fields, "close", "0.01")
    return altered(log, at, open=price, high=price, low=price, close=price)


def carry_a_wrong_close_into_an_hour(log: Log) -> Log:
    at = first(log, "5m", QUIET, trades="0")
    price = more(log[at].fields, "close", "0.01")
    return altered(log, at, open=price, high=price, low=price, close=price)


def high_below_open(log: Log) -> Log:
    at = traded(log)
    return altered(log, at, high=str(Decimal(log[at].fields["open"]) - Decimal("0.01")))


def low_above_close(log: Log) -> Log:
    at = traded(log)
    return altered(log, at, low=str(Decimal(log[at].fields["close"]) + Decimal("0.01")))


def takers_buy_more_than_all(log: Log) -> Log:
    at = traded(log)
    return altered(log, at, taker_buy_volume=more(log[at].fields, "volume", "0.001"))


def quote_that_no_price_gives(log: Log) -> Log:
    at = traded(log)
    return altered(log, at, quote_volume=more(log[at].fields, "quote_volume", "9999.00000"))


def trades_without_ids(log: Log) -> Log:
    return altered(log, traded(log), first_trade_id="-1", last_trade_id="-1")


def more_trades_than_ids(log: Log) -> Log:
    at = traded(log)
    return altered(log, at, trades=str(int(log[at].fields["trades"]) + 1000))


def volume_in_an_empty_bar(log: Log) -> Log:
    return altered(log, empty(log), volume="1.000")


def lose_a_trade_in_a_minute(log: Log) -> Log:
    """One fill less in the minute than in the longer bars."""
    at = traded(log)
    fields = log[at].fields
    price = Decimal(fields["low"])
    less = {
        "trades": str(int(fields["trades"]) - 1), "volume": more(fields, "volume", "-0.001"),
        "quote_volume": more(fields, "quote_volume", str(-price * Decimal("0.001"))),
    }  # fmt: skip
    return altered(log, at, **less)


def lose_the_last_trade_of_a_minute_everywhere(log: Log) -> Log:
    """Also in the longer bars: then only the ids tell, for the bars are said to be complete."""
    at = traded(log)
    return altered(log, at, last_agg_id=str(int(log[at].fields["last_agg_id"]) - 1))


def count_a_trade_twice(log: Log) -> Log:
    at = traded(log, "5m")
    fields = log[at].fields
    price, qty = Decimal(fields["high"]), Decimal("0.004")
    doubled = {
        "volume": more(fields, "volume", str(qty)), "quote_volume": more(fields, "quote_volume", str(price * qty)),
    }  # fmt: skip
    return altered(log, at, **doubled)


def fold_a_trade_into_two_minutes(log: Log) -> Log:
    at = traded(log)
    return altered(log, at, first_agg_id=str(int(log[at].fields["first_agg_id"]) - 1))


def sum_in_floats(log: Log) -> Log:
    at = traded(log)
    return altered(log, at, quote_volume=repr(float(log[at].fields["quote_volume"]) + 1e-7))


def round_a_sum(log: Log) -> Log:
    """The last digit, as a float that was printed to the scale gives it."""
    at = traded(log, "5m")
    return altered(log, at, quote_volume=more(log[at].fields, "quote_volume", "0.00001"))


def skip_a_revision(log: Log) -> Log:
    at = next(at for at in klines(log, symbol=QUIET, complete="1") if confirms(log, at))
    return altered(log, at, revision="3")


def confirms(log: Log, at: int) -> bool:
    key = {name: log[at].fields[name] for name in ("symbol", "interval", "open_time")}
    return any(
        each.stream == "klines" and all(each.fields[name] == value for name, value in key.items()) for each in log[:at]
    )


def begin_with_the_second_revision(log: Log) -> Log:
    return altered(log, traded(log), revision="2")


def go_back_in_versions(log: Log) -> Log:
    at = next(at for at in klines(log, symbol=QUIET, complete="1") if confirms(log, at))
    return altered(log, at, epoch="0")


def amend_a_minute_and_not_its_hour(log: Log) -> Log:
    at, fields = traded(log), log[traded(log)].fields
    late = {
        **fields, "revision": "2", "volume": more(fields, "volume", "0.010"),
        "quote_volume": more(fields, "quote_volume", str(Decimal(fields["high"]) * Decimal("0.010"))),
    }  # fmt: skip
    behind = tick_at(log, int(fields["open_time"]) + 10 * MINUTE_MS)
    assert at < behind
    return [*log[: behind + 1], Said("klines", late), *log[behind + 1 :]]


def week_from_thursday(log: Log) -> Log:
    at = first(log, "1w")
    times = {name: str(int(log[at].fields[name]) + 3 * DAY_MS) for name in ("open_time", "close_time")}
    return altered(log, at, **times)


def month_of_thirty_days(log: Log) -> Log:
    """As if every month had thirty: the one that ends with June would begin a day late, had May been counted so."""
    at = first(log, "1M")
    return altered(log, at, open_time=str(int(log[at].fields["open_time"]) - DAY_MS))


def month_that_ends_a_day_late(log: Log) -> Log:
    at = first(log, "1M")
    return altered(log, at, close_time=str(int(log[at].fields["close_time"]) + DAY_MS))


def close_time_of_the_next_bar(log: Log) -> Log:
    at = traded(log)
    return altered(log, at, close_time=str(int(log[at].fields["close_time"]) + 1))


def write_a_price_as_nan(log: Log) -> Log:
    return altered(log, traded(log), close="NaN")


def publish_an_interval_that_nobody_wants(log: Log) -> Log:
    at = traded(log)
    return [*log[: at + 1], replace(log[at], fields={**log[at].fields, "interval": "1s"}), *log[at + 1 :]]


def a_symbol_stops(log: Log) -> Log:
    return [
        each
        for each in log
        if not (each.stream == "klines" and each.fields["symbol"] == BUSY and int(each.fields["open_time"]) > MIDDLE_MS)
    ]


def an_interval_is_never_published(log: Log) -> Log:
    return [each for each in log if each.stream != "klines" or each.fields["interval"] != "30m"]


def a_new_symbol_begins_late(log: Log) -> Log:
    at = next(
        at for at, each in enumerate(log)
        if each.stream == "klines" and (each.fields["symbol"], each.fields["interval"]) == (BORN, "1m")
    )  # fmt: skip
    opening = log[at].fields["open_time"]
    return [
        each for each in log
        if each.stream != "klines" or (each.fields["symbol"], each.fields["open_time"]) != (BORN, opening)
        or each.fields["interval"] != "1m"
    ]  # fmt: skip


# --- faults of events ---


def confirm_what_is_final(log: Log) -> Log:
    at = traded(log)
    opening = log[at].fields["open_time"]
    behind = tick_at(log, int(opening) + 3 * MINUTE_MS)
    row = (BUSY, "1m", opening, 1, "waiting", "final")
    said = Said("events", contract.events_entry(contract.EVENT_CONFIRMED, MIDDLE_MS, [row]))
    return [*log[: behind + 1], said, *log[behind + 1 :]]


def amend_before_the_close(log: Log) -> Log:
    opening = MIDDLE_MS // MINUTE_MS * MINUTE_MS + 5 * MINUTE_MS
    return inserted(
        log, contract.EVENT_AMENDED, symbol=BUSY, interval="1m", open_time=opening, revision=2, before="final",
        after="final",
    )  # fmt: skip


def close_twice(log: Log) -> Log:
    return one_row(log, contract.EVENT_CLOSE, lambda row: [row, row], symbol=BUSY, interval="1m")


def close_from_a_state_that_was_not(log: Log) -> Log:
    return one_row(
        log, contract.EVENT_CLOSE, lambda row: [{**row, "before": "waiting"}], symbol=BUSY, interval="1m", empty="0"
    )


def skip_a_revision_in_the_events(log: Log) -> Log:
    return one_row(log, contract.EVENT_CONFIRMED, lambda row: [{**row, "revision": "2"}])


def confirm_into_waiting(log: Log) -> Log:
    return one_row(log, contract.EVENT_CONFIRMED, lambda row: [{**row, "after": "waiting"}])


def close_by_a_trade_and_wait(log: Log) -> Log:
    return one_row(log, contract.EVENT_CLOSE, lambda row: [{**row, "after": "waiting"}], trigger="trade", symbol=BUSY)


def close_by_nobody(log: Log) -> Log:
    return one_row(log, contract.EVENT_CLOSE, lambda row: [{**row, "trigger": ""}], trigger="clock")


def fill_a_gap_that_is_none(log: Log) -> Log:
    return one_row(
        log, contract.EVENT_CLOSE, lambda row: [{**row, "empty": "1", "before": "none"}], symbol=BUSY, interval="1m",
        empty="0",
    )  # fmt: skip


def final_without_a_first_trade(log: Log) -> Log:
    return one_row(log, contract.EVENT_FIRST_TRADE, lambda row: [], symbol=BUSY, interval="1m")


def a_first_trade_twice(log: Log) -> Log:
    return one_row(log, contract.EVENT_FIRST_TRADE, lambda row: [row, row], symbol=BUSY, interval="5m")


def a_close_is_missing(log: Log) -> Log:
    return one_row(log, contract.EVENT_CLOSE, lambda row: [], symbol=BUSY, interval="1m")


def a_close_is_one_interval_off(log: Log) -> Log:
    def shifted(row: Row) -> list[Row]:
        return [{**row, "open_time": str(int(row["open_time"]) + MINUTE_MS)}]

    return one_row(log, contract.EVENT_CLOSE, shifted, symbol=BUSY, interval="1m")


def a_bar_opens_off_the_grid(log: Log) -> Log:
    return one_row(
        log, contract.EVENT_CLOSE, lambda row: [{**row, "open_time": str(int(row["open_time"]) + 1)}], interval="1m"
    )


def bars_never_close(log: Log) -> Log:
    return with_rows(log, lambda kind, row, time_ms: (
        [] if kind == contract.EVENT_CLOSE and row["symbol"] == BUSY and time_ms > MIDDLE_MS else [row]
    ))  # fmt: skip


def a_symbol_without_genesis(log: Log) -> Log:
    return with_rows(
        log, lambda kind, row, _: [] if kind == contract.EVENT_GENESIS and row["symbol"] == BORN else [row]
    )


def two_geneses(log: Log) -> Log:
    return inserted(
        log, contract.EVENT_GENESIS, symbol=BORN, generation=BEGIN + 600_500, id=1, trade_time=MIDDLE_MS
    )  # fmt: skip


def close_a_hole_that_never_was(log: Log) -> Log:
    return inserted(log, contract.EVENT_HOLE_CLOSED, symbol=BUSY, from_id=5, to_id=9, reason="repaired")


def time_goes_back(log: Log) -> Log:
    at = tick_at(log, MIDDLE_MS)
    said = Said("events", contract.events_entry(contract.EVENT_TICK, MIDDLE_MS - 5_000, []))
    return [*log[: at + 1], said, *log[at + 1 :]]


def an_event_without_a_column(log: Log) -> Log:
    at = next(at for at, each in enumerate(log) if each.fields.get("kind") == "close" and at > tick_at(log, MIDDLE_MS))
    fields = {name: value for name, value in log[at].fields.items() if name != "trigger"}
    return [*log[:at], replace(log[at], fields=fields), *log[at + 1 :]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault, who must find it, and as what."""

    plant: Callable[[Log], Log]
    judge: type[Judge]
    kind: str


CATALOGUE = [
    Fault(drop_a_bar, Completeness, found_as.GAP),
    Fault(drop_a_five_minute_bar, Completeness, found_as.GAP),
    Fault(double_a_bar, Completeness, found_as.DUPLICATE),
    Fault(shift_a_bar_by_one_interval, Completeness, found_as.GAP),
    Fault(swap_two_bars, Completeness, found_as.ORDER),
    Fault(carry_a_wrong_close, Completeness, found_as.CARRY),
    Fault(carry_a_wrong_close_into_an_hour, Completeness, found_as.CARRY),
    Fault(high_below_open, Completeness, found_as.INVARIANT),
    Fault(low_above_close, Completeness, found_as.INVARIANT),
    Fault(takers_buy_more_than_all, Completeness, found_as.INVARIANT),
    Fault(quote_that_no_price_gives, Completeness, found_as.INVARIANT),
    Fault(trades_without_ids, Completeness, found_as.INVARIANT),
    Fault(more_trades_than_ids, Completeness, found_as.INVARIANT),
    Fault(volume_in_an_empty_bar, Completeness, found_as.INVARIANT),
    Fault(lose_a_trade_in_a_minute, Completeness, found_as.FOLD),
    Fault(lose_the_last_trade_of_a_minute_everywhere, Completeness, found_as.IDS),
    Fault(count_a_trade_twice, Completeness, found_as.FOLD),
    Fault(fold_a_trade_into_two_minutes, Completeness, found_as.IDS),
    Fault(sum_in_floats, Completeness, found_as.SCALE),
    Fault(round_a_sum, Completeness, found_as.FOLD),
    Fault(skip_a_revision, Completeness, found_as.VERSION),
    Fault(begin_with_the_second_revision, Completeness, found_as.VERSION),
    Fault(go_back_in_versions, Completeness, found_as.VERSION),
    Fault(amend_a_minute_and_not_its_hour, Completeness, found_as.FOLD),
    Fault(week_from_thursday, Completeness, found_as.ALIGNMENT),
    Fault(month_of_thirty_days, Completeness, found_as.ALIGNMENT),
    Fault(month_that_ends_a_day_late, Completeness, found_as.ALIGNMENT),
    Fault(close_time_of_the_next_bar, Completeness, found_as.ALIGNMENT),
    Fault(write_a_price_as_nan, Completeness, found_as.MALFORMED),
    Fault(publish_an_interval_that_nobody_wants, Completeness, found_as.MALFORMED),
    Fault(a_symbol_stops, Completeness, found_as.ABSENT),
    Fault(an_interval_is_never_published, Completeness, found_as.ABSENT),
    Fault(a_new_symbol_begins_late, Completeness, found_as.GAP),
    Fault(time_goes_back, Completeness, found_as.TIME_BACK),
    Fault(confirm_what_is_final, Lifecycle, found_as.ILLEGAL),
    Fault(amend_before_the_close, Lifecycle, found_as.ILLEGAL),
    Fault(close_twice, Lifecycle, found_as.ILLEGAL),
    Fault(close_from_a_state_that_was_not, Lifecycle, found_as.ILLEGAL),
    Fault(skip_a_revision_in_the_events, Lifecycle, found_as.ILLEGAL),
    Fault(confirm_into_waiting, Lifecycle, found_as.ILLEGAL),
    Fault(close_by_a_trade_and_wait, Lifecycle, found_as.TRIGGER),
    Fault(close_by_nobody, Lifecycle, found_as.TRIGGER),
    Fault(fill_a_gap_that_is_none, Lifecycle, found_as.GAP_FILL),
    Fault(final_without_a_first_trade, Lifecycle, found_as.NO_FIRST_TRADE),
    Fault(a_first_trade_twice, Lifecycle, found_as.ILLEGAL),
    Fault(a_close_is_missing, Lifecycle, found_as.GAP),
    Fault(a_close_is_one_interval_off, Lifecycle, found_as.GAP),
    Fault(a_bar_opens_off_the_grid, Lifecycle, found_as.ILLEGAL),
    Fault(bars_never_close, Lifecycle, found_as.NEVER_CLOSED),
    Fault(a_symbol_without_genesis, Lifecycle, found_as.ILLEGAL),
    Fault(two_geneses, Lifecycle, found_as.ILLEGAL),
    Fault(close_a_hole_that_never_was, Lifecycle, found_as.ILLEGAL),
    Fault(time_goes_back, Lifecycle, found_as.TIME_BACK),
    Fault(an_event_without_a_column, Lifecycle, found_as.MALFORMED),
]

ALSO = {
    drop_a_bar: {found_as.ABSENT},
    drop_a_five_minute_bar: {found_as.ABSENT},
    a_close_is_missing: {found_as.NEVER_CLOSED},
    bars_never_close: {found_as.ILLEGAL},
    shift_a_bar_by_one_interval: {found_as.DUPLICATE, found_as.VERSION, found_as.IDS, found_as.FOLD},
    swap_two_bars: {found_as.GAP},
    lose_a_trade_in_a_minute: {found_as.INVARIANT},
    lose_the_last_trade_of_a_minute_everywhere: {found_as.FOLD},
    fold_a_trade_into_two_minutes: {found_as.FOLD},
    sum_in_floats: {found_as.FOLD},
    high_below_open: {found_as.FOLD},
    low_above_close: {found_as.FOLD},
    takers_buy_more_than_all: {found_as.FOLD},
    quote_that_no_price_gives: {found_as.FOLD},
    trades_without_ids: {found_as.FOLD},
    more_trades_than_ids: {found_as.FOLD},
    volume_in_an_empty_bar: {found_as.FOLD},
    carry_a_wrong_close: {found_as.FOLD},
    carry_a_wrong_close_into_an_hour: {found_as.FOLD},
    go_back_in_versions: set(),
    amend_a_minute_and_not_its_hour: {found_as.CARRY},
    week_from_thursday: {found_as.ABSENT, found_as.GAP},
    month_of_thirty_days: {found_as.ABSENT, found_as.GAP},
    write_a_price_as_nan: {found_as.GAP, found_as.ABSENT},
    publish_an_interval_that_nobody_wants: {found_as.ALIGNMENT},
    a_new_symbol_begins_late: {found_as.ABSENT},
    a_close_is_one_interval_off: {found_as.ILLEGAL, found_as.NO_FIRST_TRADE},
    a_bar_opens_off_the_grid: {found_as.GAP, found_as.NEVER_CLOSED},
    an_event_without_a_column: {found_as.GAP, found_as.ILLEGAL, found_as.NEVER_CLOSED},
    skip_a_revision_in_the_events: set(),
    fill_a_gap_that_is_none: set(),
    amend_before_the_close: set(),
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
    if fault.plant is an_interval_is_never_published:
        bar_ms = 30 * MINUTE_MS
    return bar_ms + Completeness(SETTINGS).due_ms + 2_000


def test_a_fault_is_only_found_where_it_is() -> None:
    """The neighbours of a dropped bar, and all other symbols, stay without a finding."""
    log = list(clean_hour())
    opening = log[first(log)].fields["open_time"]
    found = judged(Completeness(SETTINGS), numbered(drop_a_bar(log)))
    assert {(each.kind, each.symbol) for each in found} <= {(found_as.GAP, BUSY), (found_as.ABSENT, BUSY)}
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
        found = [each for each in found if each.kind != found_as.ABSENT or each.time_ms > found[-1].time_ms]
    assert [each.kind for each in found] == [found_as.DATA_LOSS], found
    assert f"seq {numbers[0]} to {numbers[-1]}" in found[0].evidence
    assert f"{count} entries" in found[0].evidence


def test_findings_go_on_after_a_loss() -> None:
    """A loss does not make an auditor blind: a symbol that stops later is found."""
    log = numbered(a_symbol_stops(list(clean_hour())))
    own = [at for at, each in enumerate(log) if each[0] == "klines"]
    del log[own[len(own) // 4]]
    found = judged(Completeness(SETTINGS), log)
    assert {found_as.DATA_LOSS, found_as.ABSENT} <= {each.kind for each in found}


@pytest.mark.parametrize("idle_ms", [None, 45_000])
def test_a_group_without_a_consumer(idle_ms: int | None) -> None:
    """A writer that was never started, and one that died."""
    watch = GroupWatch(silent_ms=30_000)
    found: list[Finding] = []
    for now_ms in range(0, 40_000, 1_000):
        found += watch.note({("klines:{0}", "writers"): idle_ms, ("klines:{0}", "other"): 200}, now_ms, BEGIN)
    assert [(each.kind, each.place) for each in found] == [(found_as.GROUP_SILENT, "klines:{0}/writers")]
    (settled,) = watch.note({("klines:{0}", "writers"): 5}, 41_000, BEGIN)
    assert (settled.id, settled.closed) == (found[0].id, True)
    watch.note({("klines:{0}", "writers"): None}, 42_000, BEGIN)
    assert watch.note({("klines:{0}", "writers"): None}, 90_000, BEGIN), "silent again is news"


def test_an_auditor_that_falls_behind_and_one_to_which_nothing_comes() -> None:
    watch = LagWatch("auditor-completeness", 60_000)
    assert not watch.note(BEGIN, BEGIN + 60_000, 10, 0)
    (behind,) = watch.note(BEGIN, BEGIN + 61_000, 1234, 1_000)
    assert (behind.kind, "61000 ms" in behind.evidence, "1234 entries" in behind.evidence) == ("LAGGING", True, True)
    assert not watch.note(BEGIN, BEGIN + 62_000, 1300, 2_000), "said once"
    (settled,) = watch.note(BEGIN + 62_000, BEGIN + 62_000, 0, 3_000)
    assert (settled.id, settled.closed) == (behind.id, True)
    (stalled,) = watch.note(BEGIN + 62_000, BEGIN + 62_000, 0, 2_000 + STALLED_MS + 1_000)
    assert stalled.kind == "STALLED"


def test_the_catalogue_is_large_enough_and_names_each_kind() -> None:
    assert len(CATALOGUE) >= 25
    assert len(OF_THE_EXCHANGE) >= 12
    elsewhere = {found_as.DATA_LOSS, found_as.LAGGING, found_as.STALLED, found_as.GROUP_SILENT, found_as.UNREACHABLE}
    elsewhere |= {fault.kind for fault in OF_THE_EXCHANGE}
    assert {fault.kind for fault in CATALOGUE} | elsewhere == set(found_as.KINDS)


def test_ids_are_stable() -> None:
    """The same fault found by another run, later, has the same id."""
    log = numbered(drop_a_bar(list(clean_hour())))
    first_run, second_run = (judged(Completeness(SETTINGS), entries) for entries in (log, log[200:]))
    assert {each.id for each in first_run} == {each.id for each in second_run}
    assert first_run[0].to_fields()["id"] == first_run[0].id
    assert ENDED_MS < BEGIN + LASTING_MS

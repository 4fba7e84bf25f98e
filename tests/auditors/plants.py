"""Faults, planted into the log of the clean hour: each takes the log and gives one with that fault in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from klagg.intervals import DAY_MS, INTERVALS, MINUTE_MS
from klagg.wire.entries import (
    EVENT_AMENDED,
    EVENT_CLOSE,
    EVENT_COLUMNS,
    EVENT_CONFIRMED,
    EVENT_FIRST_TRADE,
    EVENT_GAP_CLOSED,
    EVENT_GENESIS,
    EVENT_TICK,
    event_rows,
    events_entry,
)
from klagg.wire.fields import Fields
from tests.auditors.kit import BEGIN, BORN, QUIET, Said

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
        at
        for at in klines(log, interval, complete="1")
        if int(log[at].fields["trades"]) > 3
        and not confirms(log, at)
        and log[at].fields["first_agg_id"] != log[at].fields["last_agg_id"]
    )


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
        if each.stream == "klines" or kind == EVENT_TICK:
            said.append(each)
            continue
        time_ms = int(each.fields["time"])
        rows = [new for row in event_rows(each.fields) for new in change(kind, row, time_ms)]
        values = [tuple(row[name] for name in EVENT_COLUMNS[kind]) for row in rows]
        if values:
            said.append(replace(each, fields=events_entry(kind, time_ms, values)))
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
    row = tuple(values[name] for name in EVENT_COLUMNS[kind])
    return [*log[: at + 1], Said("events", events_entry(kind, MIDDLE_MS, [row])), *log[at + 1 :]]


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
        "trades": str(int(fields["trades"]) - 1),
        "volume": more(fields, "volume", "-0.001"),
        "quote_volume": more(fields, "quote_volume", str(-price * Decimal("0.001"))),
    }
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
        "volume": more(fields, "volume", str(qty)),
        "quote_volume": more(fields, "quote_volume", str(price * qty)),
    }
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
        **fields,
        "revision": "2",
        "volume": more(fields, "volume", "0.010"),
        "quote_volume": more(fields, "quote_volume", str(Decimal(fields["high"]) * Decimal("0.010"))),
    }
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
        at
        for at, each in enumerate(log)
        if each.stream == "klines" and (each.fields["symbol"], each.fields["interval"]) == (BORN, "1m")
    )
    opening = log[at].fields["open_time"]
    return [
        each
        for each in log
        if each.stream != "klines"
        or (each.fields["symbol"], each.fields["open_time"]) != (BORN, opening)
        or each.fields["interval"] != "1m"
    ]


# --- faults of events ---


def confirm_what_is_final(log: Log) -> Log:
    at = traded(log)
    opening = log[at].fields["open_time"]
    behind = tick_at(log, int(opening) + 3 * MINUTE_MS)
    row = (BUSY, "1m", opening, 1, "waiting", "final")
    said = Said("events", events_entry(EVENT_CONFIRMED, MIDDLE_MS, [row]))
    return [*log[: behind + 1], said, *log[behind + 1 :]]


def amend_before_the_close(log: Log) -> Log:
    opening = MIDDLE_MS // MINUTE_MS * MINUTE_MS + 5 * MINUTE_MS
    return inserted(
        log,
        EVENT_AMENDED,
        symbol=BUSY,
        interval="1m",
        open_time=opening,
        revision=2,
        before="final",
        after="final",
    )


def close_twice(log: Log) -> Log:
    return one_row(log, EVENT_CLOSE, lambda row: [row, row], symbol=BUSY, interval="1m")


def close_from_a_state_that_was_not(log: Log) -> Log:
    return one_row(log, EVENT_CLOSE, lambda row: [{**row, "before": "waiting"}], symbol=BUSY, interval="1m", empty="0")


def skip_a_revision_in_the_events(log: Log) -> Log:
    return one_row(log, EVENT_CONFIRMED, lambda row: [{**row, "revision": "2"}])


def confirm_into_waiting(log: Log) -> Log:
    return one_row(log, EVENT_CONFIRMED, lambda row: [{**row, "after": "waiting"}])


def close_by_a_trade_and_wait(log: Log) -> Log:
    return one_row(log, EVENT_CLOSE, lambda row: [{**row, "after": "waiting"}], trigger="trade", symbol=BUSY)


def close_by_nobody(log: Log) -> Log:
    return one_row(log, EVENT_CLOSE, lambda row: [{**row, "trigger": ""}], trigger="clock")


def fill_a_gap_that_is_none(log: Log) -> Log:
    return one_row(
        log,
        EVENT_CLOSE,
        lambda row: [{**row, "empty": "1", "before": "none"}],
        symbol=BUSY,
        interval="1m",
        empty="0",
    )


def final_without_a_first_trade(log: Log) -> Log:
    return one_row(log, EVENT_FIRST_TRADE, lambda row: [], symbol=BUSY, interval="1m")


def a_first_trade_twice(log: Log) -> Log:
    return one_row(log, EVENT_FIRST_TRADE, lambda row: [row, row], symbol=BUSY, interval="5m")


def a_close_is_missing(log: Log) -> Log:
    return one_row(log, EVENT_CLOSE, lambda row: [], symbol=BUSY, interval="1m")


def a_close_is_one_interval_off(log: Log) -> Log:
    def shifted(row: Row) -> list[Row]:
        return [{**row, "open_time": str(int(row["open_time"]) + MINUTE_MS)}]

    return one_row(log, EVENT_CLOSE, shifted, symbol=BUSY, interval="1m")


def a_bar_opens_off_the_grid(log: Log) -> Log:
    return one_row(log, EVENT_CLOSE, lambda row: [{**row, "open_time": str(int(row["open_time"]) + 1)}], interval="1m")


def bars_never_close(log: Log) -> Log:
    return with_rows(
        log,
        lambda kind, row, time_ms: (
            [] if kind == EVENT_CLOSE and row["symbol"] == BUSY and time_ms > MIDDLE_MS else [row]
        ),
    )


def a_symbol_without_genesis(log: Log) -> Log:
    return with_rows(log, lambda kind, row, _: [] if kind == EVENT_GENESIS and row["symbol"] == BORN else [row])


def two_geneses(log: Log) -> Log:
    return inserted(log, EVENT_GENESIS, symbol=BORN, generation=BEGIN + 600_500, id=1, trade_time=MIDDLE_MS)


def close_a_gap_that_never_was(log: Log) -> Log:
    return inserted(log, EVENT_GAP_CLOSED, symbol=BUSY, from_id=5, to_id=9, reason="repaired")


def time_goes_back(log: Log) -> Log:
    at = tick_at(log, MIDDLE_MS)
    said = Said("events", events_entry(EVENT_TICK, MIDDLE_MS - 5_000, []))
    return [*log[: at + 1], said, *log[at + 1 :]]


def an_event_without_a_column(log: Log) -> Log:
    at = next(at for at, each in enumerate(log) if each.fields.get("kind") == "close" and at > tick_at(log, MIDDLE_MS))
    fields = {name: value for name, value in log[at].fields.items() if name != "trigger"}
    return [*log[:at], replace(log[at], fields=fields), *log[at + 1 :]]

"""What repair asks for and what it makes of answers: paging, weights, ranges, and answers that break the rules."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.repair_pages import (
    BEHIND_TRIES,
    PAGES_BEHIND,
    SURE_MS,
    TRADES_PATH,
    TRADES_PER_CALL,
    BehindPages,
    Call,
    KlinePages,
    NotYet,
    TradePages,
    closed_ms,
    given_up_finding,
    gone_finding,
    refused_finding,
    trades_of,
    union_of,
)
from klagg.binance.kline_rows import KLINES_PATH, Malformed, klines_of
from klagg.errors import UnknownInterval
from klagg.intervals import DAY_MS, HOUR_MS, INTERVALS, MINUTE_MS
from klagg.kline import NINE_VALUES
from klagg.wire.entries import REQUEST_KLINES, REQUEST_TRADES, Request
from klagg.wire.fields import Fields
from tests.rows import ROW_CASES, RowCase

T = 1_767_268_800_000
"""2026-01-01 12:00 UTC."""

LATER = T + 30 * DAY_MS


def trade(trade_id: int, **changes: Any) -> dict[str, Any]:
    return {"a": trade_id, "p": "1.50", "q": "2", "f": trade_id, "l": trade_id + 1, "T": T, "m": True, **changes}


def kline(open_ms: int, interval: str = "1m", **changes: Any) -> list[Any]:
    """A row; `changes` by the place in it: `_1="2"` is another open."""
    bars = INTERVALS[interval]
    row = [open_ms, "1.5", "2.0", "1.0", "1.2", "10", bars.close_time(open_ms), "15", 3, "4", "6", "0"]
    for place, value in changes.items():
        row[int(place[1:])] = value
    return row


def minutes(first_ms: int, count: int) -> list[list[Any]]:
    return [kline(first_ms + number * MINUTE_MS) for number in range(count)]


def a_request(first: int, last: int, interval: str = "1m") -> Request:
    return Request(REQUEST_KLINES, "r1", "AUSDT", interval, first, last, LATER)


def ids_of(entries: list[Fields]) -> list[int]:
    return [int(each) for entry in entries for each in entry["id"].split(",")]


def asked(call: Call | None) -> dict[str, str | int]:
    assert call
    return call.query


def kinds(entries: list[Fields]) -> list[str]:
    return [each["kind"] for each in entries]


def test_nothing_behind_an_id_is_a_witness_of_the_time_of_the_call() -> None:
    pages = BehindPages("AUSDT", 8)
    call = pages.call(T)
    assert call == Call(TRADES_PATH, 20, {"symbol": "AUSDT", "fromId": 8, "limit": TRADES_PER_CALL})
    (entry,) = pages.receive([], T + 500)
    assert {name: entry[name] for name in ("kind", "ids", "source", "symbol", "id", "time")} == {
        "kind": "witness",
        "ids": "agg",
        "source": "repair",
        "symbol": "AUSDT",
        "id": "7",
        "time": str(T),
    }
    assert pages.call(T) is None
    assert (pages.gone, pages.missing) == ([], 0), "an id that does not exist yet is not gone"


def test_what_is_behind_an_id_is_repair_and_its_last_one_the_witness() -> None:
    pages = BehindPages("AUSDT", 8)
    pages.call(T)
    entries = pages.receive([trade(8), trade(9)], T)
    assert kinds(entries) == ["trades", "witness"]
    assert (entries[0]["id"], entries[1]["id"]) == ("8,9", "9")
    assert pages.trades == 2


@pytest.mark.parametrize("answer", [[trade(9)], [trade(8), trade(9, p="x")], [trade(8), trade(11)]])
def test_an_answer_with_ids_that_are_not_there_is_no_witness(answer: list[dict[str, Any]]) -> None:
    pages = BehindPages("AUSDT", 8)
    pages.call(T)
    assert kinds(pages.receive(answer, T)) == ["trades"]
    assert pages.call(T) is None


def test_a_full_page_is_followed_by_the_next_and_pages_are_bounded() -> None:
    pages = BehindPages("AUSDT", 1)
    for number in range(PAGES_BEHIND):
        call = pages.call(T)
        assert call is not None
        assert call.query["fromId"] == 1 + number * TRADES_PER_CALL
        rows = [trade(1 + number * TRADES_PER_CALL + each) for each in range(TRADES_PER_CALL)]
        assert set(kinds(pages.receive(rows, T))) == {"trades"}
    assert pages.call(T) is None


def test_trades_are_paged_by_a_thousand_and_cut_into_entries() -> None:
    pages = TradePages("AUSDT", 5, 1504)
    assert pages.call(T) == Call(TRADES_PATH, 20, {"symbol": "AUSDT", "fromId": 5, "limit": 1000})
    first = pages.receive([trade(each) for each in range(5, 1005)], T)
    assert [(entry["n"], entry["line"], entry["ids"], entry["recv"]) for entry in first] == [
        ("512", "rest", "agg", str(T)),
        ("488", "rest", "agg", str(T)),
    ]
    assert pages.call(T) == Call(TRADES_PATH, 20, {"symbol": "AUSDT", "fromId": 1005, "limit": 500})
    second = pages.receive([trade(each) for each in range(1005, 1505)], T)
    assert ids_of(first + second) == list(range(5, 1505))
    assert pages.call(T) is None
    assert (pages.trades, pages.missing) == (1500, 0)


def test_ids_that_the_exchange_no_longer_has_are_counted() -> None:
    pages = TradePages("AUSDT", 10, 19)
    assert ids_of(pages.receive([trade(14), trade(15), trade(17), trade(20)], T)) == [14, 15, 17]
    assert (pages.call(T), pages.trades, pages.missing) == (None, 3, 7)
    assert pages.gone == [(10, 13), (16, 16), (18, 19)]


def test_the_end_of_a_range_that_is_not_shown_is_asked_for_again_before_it_counts_as_gone() -> None:
    pages = TradePages("AUSDT", 10, 19)
    assert ids_of(pages.receive([trade(10), trade(11)], T)) == [10, 11]
    for _ in range(BEHIND_TRIES - 1):
        assert asked(pages.call(T)) == {"symbol": "AUSDT", "fromId": 12, "limit": 8}
        with pytest.raises(NotYet, match="shows no trade of AUSDT from 12 on yet"):
            pages.receive([], T)
    assert ids_of(pages.receive([trade(12)], T)) == [12]
    with pytest.raises(NotYet, match="from 13 on"):
        pages.receive([], T)
    assert pages.receive([], T) == []
    assert (pages.call(T), pages.trades, pages.missing, pages.gone) == (None, 3, 7, [(13, 19)])


def test_trades_behind_the_range_stay_out() -> None:
    pages = TradePages("AUSDT", 10, 12)
    assert pages.receive([trade(90), trade(91), trade(92)], T) == []
    assert (pages.call(T), pages.missing) == (None, 3)


@pytest.mark.parametrize(
    "row",
    [
        5,
        None,
        [1],
        {},
        trade(7, a="7"),
        trade(7, a=True),
        trade(7, a=-1),
        trade(7, p=1.5),
        trade(7, p="1e3"),
        trade(7, p="-1"),
        trade(7, p="0.00"),
        trade(7, q=""),
        trade(7, q="NaN"),
        trade(7, T=None),
        trade(7, f=9),
        trade(7, m=1),
        trade(7, l=2**63),
        trade(4),
        trade(10**9),
    ],
)
def test_a_row_that_cannot_be_a_trade_costs_itself_alone(row: Any) -> None:
    """The other 999 of a page are taken, and the id is neither there nor gone."""
    page = [trade(each) for each in range(1, 1001)]
    page[6] = row
    pages = TradePages("AUSDT", 1, 1000)
    assert pages.call(T)
    assert ids_of(pages.receive(page, T)) == [each for each in range(1, 1001) if each != 7]
    assert (pages.call(T), pages.trades, pages.missing, pages.gone) == (None, 999, 0, [])
    (said,) = pages.refused
    assert said.startswith("aggTrade ")


@pytest.mark.parametrize("row", [trade(7, q="0.000"), trade(7, p="0", q="0", f=-1, l=-1)])
def test_a_trade_that_counts_in_no_bar_keeps_the_ids_contiguous(row: Any) -> None:
    pages = TradePages("AUSDT", 6, 8)
    (entry,) = pages.receive([trade(6), row, trade(8)], T)
    assert (entry["id"], entry["counts"], pages.refused, pages.gone) == ("6,7,8", "1,0,1", [], [])


def test_a_refused_row_at_the_end_of_a_page_is_not_requested_again() -> None:
    pages = TradePages("AUSDT", 5, 6)
    assert ids_of(pages.receive([trade(5), trade(6, p="0")], T)) == [5]
    assert (pages.call(T), pages.gone) == (None, [])


def test_a_row_without_an_id_leaves_what_is_around_it_unknown() -> None:
    pages = TradePages("AUSDT", 5, 12)
    assert ids_of(pages.receive([trade(5), 7, trade(8), trade(10)], T)) == [5, 8, 10]
    assert pages.gone == [(9, 9)]
    assert asked(pages.call(T))["fromId"] == 11


@pytest.mark.parametrize("answer", [{}, None, "x", [trade(4)], [None, {}]])
def test_an_answer_that_is_no_list_of_trades_is_malformed(answer: Any) -> None:
    with pytest.raises(Malformed):
        trades_of(answer, "AUSDT", 5, 10)


def test_more_rows_than_asked_for_are_malformed() -> None:
    with pytest.raises(Malformed, match="at most 2 rows"):
        trades_of([trade(each) for each in (5, 6, 7)], "AUSDT", 5, 2)
    with pytest.raises(Malformed, match="at most 2 rows"):
        klines_of(minutes(T, 3), INTERVALS["1m"], T, 2)


def test_klines_of_long_ago_are_asked_for_exactly() -> None:
    pages = KlinePages(a_request(T, T + 60 * MINUTE_MS))
    query: dict[str, str | int] = {"symbol": "AUSDT", "interval": "1m", "startTime": T, "limit": 60}
    query["endTime"] = T + 60 * MINUTE_MS - 1
    assert pages.call(LATER) == Call(KLINES_PATH, 1, query)
    (entry,) = pages.receive(minutes(T, 60), LATER)
    assert (entry["kind"], entry["symbol"], entry["interval"], entry["request"]) == ("official", "AUSDT", "1m", "r1")
    assert (entry["from"], entry["to"], entry["n"]) == (str(T), str(T + HOUR_MS), "60")
    assert entry["open_time"].split(",") == [str(T + each * MINUTE_MS) for each in range(60)]
    assert {entry[name] for name in ("open", "trades", "taker_buy_quote_volume")} == {
        ",".join(["1.5"] * 60),
        ",".join(["3"] * 60),
        ",".join(["6"] * 60),
    }
    assert (pages.call(LATER), pages.klines) == (None, 60)


def test_a_range_without_klines_gives_an_empty_entry() -> None:
    pages = KlinePages(a_request(T, T + 60 * MINUTE_MS))
    assert pages.call(LATER)
    (entry,) = pages.receive([], LATER)
    assert (entry["from"], entry["to"], entry["n"], entry["open_time"]) == (str(T), str(T + HOUR_MS), "0", "")
    assert pages.call(LATER) is None


def test_a_range_in_which_no_bar_opens_gives_an_empty_entry() -> None:
    pages = KlinePages(a_request(T + MINUTE_MS, T + 2 * MINUTE_MS, "1h"))
    assert asked(pages.call(LATER))["limit"] == 1
    assert [entry["n"] for entry in pages.receive([], LATER)] == ["0"]
    assert pages.call(LATER) is None


def test_long_ranges_are_paged_and_cut_into_entries_without_a_gap() -> None:
    last = T + 1700 * MINUTE_MS
    pages = KlinePages(a_request(T, last))
    call = pages.call(LATER)
    assert (asked(call)["limit"], call and call.weight) == (1500, 10)
    entries = pages.receive(minutes(T, 1500), LATER)
    call = pages.call(LATER)
    assert (asked(call)["startTime"], asked(call)["limit"], call and call.weight) == (T + 1500 * MINUTE_MS, 200, 2)
    entries += pages.receive(minutes(T + 1500 * MINUTE_MS, 200), LATER)
    assert pages.call(LATER) is None
    ranges = [(int(entry["from"]), int(entry["to"]), int(entry["n"])) for entry in entries]
    assert ranges == [
        (T, T + 1000 * MINUTE_MS, 1000),
        (T + 1000 * MINUTE_MS, T + 1500 * MINUTE_MS, 500),
        (T + 1500 * MINUTE_MS, last, 200),
    ]


def test_rows_that_begin_late_cover_the_range_all_the_same() -> None:
    pages = KlinePages(a_request(T, T + 5 * MINUTE_MS))
    assert pages.call(LATER)
    (entry,) = pages.receive(minutes(T + 3 * MINUTE_MS, 2), LATER)
    assert (entry["from"], entry["to"], entry["n"]) == (str(T), str(T + 5 * MINUTE_MS), "2")


def test_a_range_that_has_just_closed_needs_the_bar_behind_it_as_proof() -> None:
    last, now_ms = T + 5 * MINUTE_MS, T + 5 * MINUTE_MS + 500
    pages = KlinePages(a_request(T, last))
    query = asked(pages.call(now_ms))
    assert (query["endTime"], query["limit"]) == (last, 6)
    with pytest.raises(NotYet):
        pages.receive(minutes(T, 5), now_ms)
    assert asked(pages.call(now_ms)) == query
    (entry,) = pages.receive(minutes(T, 6), now_ms)
    assert (entry["n"], entry["to"]) == ("5", str(last))
    # A symbol that has ended never gets the bar behind: after a while its absence means nothing.
    ended = KlinePages(a_request(T, last))
    assert asked(ended.call(last + SURE_MS))["limit"] == 5
    assert [each["n"] for each in ended.receive(minutes(T, 5), last + SURE_MS)] == ["5"]


def test_a_recent_range_as_long_as_a_page_ends_with_a_page_that_proves_it() -> None:
    last = T + 1500 * MINUTE_MS
    pages = KlinePages(a_request(T, last))
    assert asked(pages.call(last))["limit"] == 1499
    assert pages.receive(minutes(T, 1499), last)
    assert asked(pages.call(last))["limit"] == 2
    assert [entry["n"] for entry in pages.receive(minutes(last - MINUTE_MS, 2), last)] == ["1"]
    assert pages.call(last) is None


@pytest.mark.parametrize("interval", ["1d", "3d", "1w", "1M"])
def test_calendar_intervals_are_counted_in_their_own_buckets(interval: str) -> None:
    bars = INTERVALS[interval]
    bucket = bars.bucket_of(T)
    first, last = bars.open_of(bucket - 4), bars.open_of(bucket)
    pages = KlinePages(a_request(first, last, interval))
    assert asked(pages.call(LATER * 2))["limit"] == 4
    rows = [kline(bars.open_of(each), interval) for each in range(bucket - 4, bucket)]
    assert [entry["n"] for entry in pages.receive(rows, LATER * 2)] == ["4"]


def test_when_a_request_is_closed() -> None:
    assert closed_ms(a_request(T, T + MINUTE_MS)) == T + MINUTE_MS
    assert closed_ms(a_request(T, T + MINUTE_MS + 1)) == T + 2 * MINUTE_MS
    assert closed_ms(a_request(T, T + 1, "1h")) == T + HOUR_MS
    assert closed_ms(Request(REQUEST_TRADES, "x", "AUSDT", "", 1, 2, 0)) == 0
    with pytest.raises(UnknownInterval):
        closed_ms(a_request(T, T + 1, "7m"))


@pytest.mark.parametrize(
    "row",
    [
        5,
        None,
        {},
        [],
        kline(T + 2 * MINUTE_MS)[:11],
        kline(T + 2 * MINUTE_MS, _0=str(T)),
        kline(T + 2 * MINUTE_MS, _0=T + 2 * MINUTE_MS + 1),
        kline(T + 2 * MINUTE_MS, _6=T),
        kline(T + 2 * MINUTE_MS, _8=-1),
        kline(T + 2 * MINUTE_MS, _8=1.5),
        kline(T + 2 * MINUTE_MS, _1=1.5),
        kline(T + 2 * MINUTE_MS, _1=""),
        kline(T + 2 * MINUTE_MS, _5="-1"),
        kline(T + 2 * MINUTE_MS, _9="1e5"),
        kline(T + 2 * MINUTE_MS, _2="1.4"),
        kline(T + 2 * MINUTE_MS, _3="1.3"),
        kline(T + 2 * MINUTE_MS, _0=True),
        kline(T - MINUTE_MS),
        kline(T + 10**6 * MINUTE_MS),
    ],
)
def test_a_row_that_cannot_be_a_kline_costs_itself_alone(row: Any) -> None:
    bars = INTERVALS["1m"]
    found = klines_of([*minutes(T, 2), row, kline(T + 3 * MINUTE_MS)], bars, T, 9)
    assert [each[0] for each in found.rows] == [T, T + MINUTE_MS, T + 3 * MINUTE_MS]
    assert [each.place for each in found.refused] == [2]
    pages = KlinePages(a_request(T, T + 4 * MINUTE_MS))
    assert pages.call(LATER)
    entries = pages.receive([*minutes(T, 2), row, kline(T + 3 * MINUTE_MS)], LATER)
    assert [entry["open_time"] for entry in entries] == [f"{T},{T + MINUTE_MS}", f"{T + 3 * MINUTE_MS}"]
    assert int(entries[1]["from"]) == T + 3 * MINUTE_MS, "nothing is said of the minute of the refused row"
    assert len(pages.refused) == 1


@pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("first", [True, False])
def test_a_row_of_each_kind_is_taken_or_refused(case: RowCase, first: bool) -> None:
    nine = [case.row[name] for name in NINE_VALUES]
    row = kline(T if first else T + MINUTE_MS, _1=nine[0], _2=nine[1], _3=nine[2], _4=nine[3], _5=nine[4], _7=nine[5])
    row[8:11] = nine[6:]
    other = kline(T + MINUTE_MS if first else T)
    pages = KlinePages(a_request(T, T + 2 * MINUTE_MS))
    assert pages.call(LATER)
    entries = pages.receive([row, other] if first else [other, row], LATER)
    wanted = [T, T + MINUTE_MS] if case.taken else [other[0]]
    assert [int(each) for entry in entries for each in entry["open_time"].split(",")] == wanted
    assert int(entries[0]["from"]) == wanted[0]
    assert (pages.call(LATER), len(pages.refused)) == (None, 0 if case.taken else 1)
    if not case.taken:
        finding = refused_finding(a_request(T, LATER), pages.refused, LATER)
        assert (finding["kind"], finding["severity"]) == ("OFFICIAL_REFUSED", "warning")


def test_columns_behind_those_that_are_documented_change_nothing() -> None:
    rows = minutes(T, 2)
    found = klines_of([[*row, "new"] for row in rows], INTERVALS["1m"], T, 9)
    assert found == klines_of(rows, INTERVALS["1m"], T, 9)


def test_a_row_beyond_what_was_requested_costs_itself() -> None:
    found = klines_of(minutes(T, 3), INTERVALS["1m"], T, 9, T + 2 * MINUTE_MS)
    assert (len(found.rows), [each.open_ms for each in found.refused]) == (2, [None])


@pytest.mark.parametrize("key", [T + 5000 * MINUTE_MS, T + 10 * MINUTE_MS])
def test_a_last_row_with_a_wrong_key_is_requested_again(key: int) -> None:
    """A key that is far ahead must not say that the exchange has nothing in between."""
    pages = KlinePages(a_request(T, T + 10 * MINUTE_MS))
    first = pages.call(LATER)
    assert first is not None
    entries = pages.receive([*minutes(T, 9), kline(key, _6=T, _8=-1)], LATER)
    assert [(each["from"], each["to"]) for each in entries] == [(str(T), str(T + 9 * MINUTE_MS))]
    assert pages.refused == []
    second = pages.call(LATER)
    assert second is not None
    assert (second.query["startTime"], second.query["limit"]) == (T + 9 * MINUTE_MS, 1)
    pages.receive([kline(T + 9 * MINUTE_MS)], LATER)
    assert (pages.call(LATER), pages.klines) == (None, 10)


def test_an_answer_without_any_row_that_says_when_it_opens_is_malformed() -> None:
    with pytest.raises(Malformed):
        klines_of([5, None], INTERVALS["1m"], T, 9)


def test_many_refused_rows_are_one_finding_that_counts_them() -> None:
    trades = Request(REQUEST_TRADES, "t", "AUSDT", "", 5, 9, T)
    finding = refused_finding(trades, [f"row {each}" for each in range(7)], T)
    assert finding["kind"] == "MALFORMED"
    assert finding["evidence"].endswith("row 0; row 1; row 2; row 3; row 4, and 2 more")


def slow_union(ranges: list[tuple[int, int]], around: tuple[int, int]) -> tuple[int, int]:
    """Ids one by one: everything that can be reached from `around` without leaving what is asked for."""
    ids = {each for low, high in [*ranges, around] for each in range(low, high + 1)}
    first, last = around
    while first - 1 in ids:
        first -= 1
    while last + 1 in ids:
        last += 1
    return first, last


RANGE = st.tuples(st.integers(0, 40), st.integers(0, 6)).map(lambda each: (each[0], each[0] + each[1]))


@given(st.lists(RANGE, max_size=12), RANGE)
def test_ranges_that_overlap_or_touch_are_one(ranges: list[tuple[int, int]], around: tuple[int, int]) -> None:
    assert union_of(ranges, around) == slow_union(ranges, around)


def test_trades_are_named_by_ids_and_klines_by_minutes() -> None:
    trades = Request(REQUEST_TRADES, "t", "币安人生USDT", "", 5, 9, T)
    klines = Request(REQUEST_KLINES, "k", "BTCUSDT", "1m", T, T + 120_000, T)
    first = given_up_finding(trades, "it is so", T + 1)
    assert first == {
        "kind": "UNREPAIRED",
        "severity": "error",
        "symbol": "币安人生USDT",
        "time": str(T + 1),
        "evidence": "the request t for the trades with the ids 5 to 9 is given up: it is so",
    }
    assert given_up_finding(klines, "it is so", T)["evidence"] == (
        "the request k for the 1m klines that open from 2026-01-01 12:00 until before 2026-01-01 12:02 (UTC) is given "
        "up: it is so"
    )
    lacking = gone_finding(trades, [(5, 5), (7, 9)], T)
    assert (lacking["severity"], lacking["evidence"]) == (
        "warning",
        "the exchange no longer has 4 trades: ids 5, 7 to 9",
    )

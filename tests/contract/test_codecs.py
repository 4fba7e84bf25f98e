"""The contract's codecs: what one process writes, another reads back as it was, or refuses in one sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields as fields_of
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.columns import FILLS_MAX, check_entry, decode
from klagg.errors import ContractError
from klagg.wire.entries import (
    BARS_POSITION,
    DEAD_TEXT_CHARS,
    EVENT_COLUMNS,
    EVENT_LISTED,
    EVENT_TICK,
    LIVE_META,
    LIVE_VALUE,
    OFFICIAL_COLUMNS,
    TRADE_COLUMNS,
    Listing,
    Request,
    TradeRow,
    dead_entry,
    event_rows,
    events_entry,
    listing_entries,
    listings_of,
    live_field,
    live_value_of,
    official_entry,
    official_of,
    request_entry,
    request_of,
    tick_entry,
    trades_entry_of_rows,
    trigger_entry,
    watermark_entry,
)
from klagg.wire.fields import Fields, integer_of, stamp, text_of, texts_of
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import Keys, heartbeat_key, shard_of

INT64_MAX = 2**63 - 1


def raw(fields: Fields) -> dict[bytes, bytes]:
    """An entry as Redis gives it."""
    return {name.encode(): value.encode() for name, value in fields.items()}


def stamped(fields: Fields) -> dict[bytes, bytes]:
    return raw(stamp(fields, "test@1", 1))


names = st.sampled_from(["BTCUSDT", "1000SHIBUSDT", "币安人生USDT", "BTCUSDT_260925", "Ⓢ"])
decimals = st.decimals(min_value=0, max_value=10**9, places=8, allow_nan=False, allow_infinity=False).map("{:f}".format)
big = st.integers(0, INT64_MAX)


@st.composite
def trade_rows(draw: st.DrawFn) -> TradeRow:
    first = draw(big)
    last = draw(st.integers(first, min(INT64_MAX, first + FILLS_MAX - 1)))
    price, qty = draw(decimals), draw(decimals)
    counts = draw(st.booleans()) and Decimal(price) > 0 and Decimal(qty) > 0
    return TradeRow(draw(names), draw(big), price, qty, first, last, draw(big), draw(st.booleans()), counts)


@given(st.lists(st.tuples(st.sampled_from(["agg", "trade"]), st.lists(trade_rows(), min_size=1)), min_size=1))
def test_trades_come_out_of_the_aggregator_s_arrays_as_they_went_in(
    batches: Sequence[tuple[str, Sequence[TradeRow]]],
) -> None:
    entries = [stamped(trades_entry_of_rows(rows, line="A", ids=ids, recv_ms=1)) for ids, rows in batches]
    assert [check_entry(each) for each in entries] == [len(rows) for _, rows in batches]
    columns = decode(entries)
    found = [
        TradeRow(
            columns.names[at].decode(),
            int(columns.id[at]),
            str(Decimal(int(columns.price[at])).scaleb(-int(columns.price_decimals[at]))),
            str(Decimal(int(columns.qty[at])).scaleb(-int(columns.qty_decimals[at]))),
            int(columns.first[at]),
            int(columns.last[at]),
            int(columns.time[at]),
            bool(columns.maker[at]),
            bool(columns.counts[at]),
        )
        for at in range(len(columns))
    ]
    rows = [row for _, part in batches for row in part]
    for mine, given_row in zip(found, rows, strict=True):
        for each in fields_of(TradeRow):
            one, other = getattr(mine, each.name), getattr(given_row, each.name)
            assert (Decimal(one) == Decimal(other)) if each.name in ("price", "qty") else one == other
    assert columns.agg.tolist() == [ids == "agg" for ids, part in batches for _ in part]
    assert columns.id.dtype == np.int64


def test_an_entry_of_trades_is_plain_text() -> None:
    rows = [
        TradeRow("BTCUSDT", 7, "85266.00", "0.158", 20, 22, 1700000000000, True),
        TradeRow("币安人生USDT", 8, "0.1", "5", 30, 30, 1700000000001, False, counts=False),
    ]
    entry = trades_entry_of_rows(rows, line="A", ids="agg", recv_ms=1700000000009)
    assert stamp(entry, "w@1", 3) == {
        "v": "3",
        "writer": "w@1",
        "seq": "3",
        "kind": "trades",
        "n": "2",
        "line": "A",
        "ids": "agg",
        "recv": "1700000000009",
        "symbol": "BTCUSDT,币安人生USDT",
        "id": "7,8",
        "price": "85266.00,0.1",
        "qty": "0.158,5",
        "first": "20,30",
        "last": "22,30",
        "time": "1700000000000,1700000000001",
        "maker": "1,0",
        "counts": "1,0",
    }


GOOD = trades_entry_of_rows(
    [TradeRow("A", 1, "1.5", "2", 1, 1, 5, False), TradeRow("B", 2, "1", "2", 1, 3, 5, True)],
    line="A",
    ids="agg",
    recv_ms=1,
)


@pytest.mark.parametrize("column", TRADE_COLUMNS)
@pytest.mark.parametrize("values", [None, "", "1", "1,1,1"])
def test_a_column_of_the_wrong_length_is_refused_before_anything_is_read(column: str, values: str | None) -> None:
    entry = stamped(GOOD)
    if values is None:
        del entry[column.encode()]
    else:
        entry[column.encode()] = values.encode()
    with pytest.raises(ContractError, match=f"column {column}"):
        check_entry(entry)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("price", "abc,1"),
        ("price", "-1,1"),
        ("price", "1e5,1"),
        ("price", "1..2,1"),
        ("price", "NaN,1"),
        ("price", "1,+1"),
        ("price", "1, 1"),
        ("price", "1,"),
        ("price", "0x1,1"),
        ("price", "1_0,1"),
        ("qty", "1,-0.5"),
        ("qty", "1234567890123456789,1"),
        ("id", "1,x"),
        ("id", "-1,1"),
        ("id", "1.0,2"),
        ("id", "9223372036854775808,2"),
        ("time", "5,-5"),
        ("first", "2,1"),
        ("last", "1,0"),
        ("maker", "2,0"),
        ("maker", "true,0"),
        ("counts", "1,"),
        ("counts", "10,"),
        ("symbol", "A,"),
    ],
)
def test_a_value_that_is_not_what_its_column_holds_is_refused(column: str, values: str) -> None:
    entry = stamped({**GOOD, column: values})
    with pytest.raises(ContractError):
        decode([entry] if check_entry(entry) else [])


def test_a_symbol_that_is_not_utf8_is_refused() -> None:
    entry = stamped(GOOD) | {b"symbol": b"A,\xff\xfe"}
    check_entry(entry)
    with pytest.raises(ContractError, match="not UTF-8"):
        decode([entry])


@pytest.mark.parametrize("ids", ["", "AGG", "fill"])
def test_an_unknown_id_space_is_refused(ids: str) -> None:
    with pytest.raises(ContractError, match="has ids"):
        check_entry(stamped({**GOOD, "ids": ids}))


@pytest.mark.parametrize("count", ["0", "-1", "two", ""])
def test_a_count_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(ContractError):
        check_entry(stamped({**GOOD, "n": count}))


def listing(number: int, name: str = "S{}USDT") -> Listing:
    return Listing(name.format(number), 1569398400000 + number, 2, 3, "TRADING", 4133404800000)


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (512, [512]), (513, [512, 1]), (1100, [512, 512, 76])])
def test_listings_are_split_and_come_back_as_they_were(count: int, sizes: list[int]) -> None:
    listings = [listing(number, "币{}USDT" if number % 3 else "S{}USDT") for number in range(count)]
    entries = listing_entries(listings)
    assert [int(entry["n"]) for entry in entries] == sizes
    assert {entry["kind"] for entry in entries} <= {"listing"}
    assert [each for entry in entries for each in listings_of(stamped(entry))] == listings


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"n": "3"}, "the columns of a listing entry differ in length"),
        ({"symbol": "A"}, "the columns of a listing entry differ in length"),
        ({"generation": "1,x"}, "a listing entry holds a bad number"),
        ({"n": "two"}, "the field n is not an integer: 'two'"),
    ],
)
def test_a_damaged_listing_is_refused(change: Fields, sentence: str) -> None:
    (entry,) = listing_entries([listing(1), listing(2)])
    with pytest.raises(ContractError, match=sentence):
        listings_of(stamped({**entry, **change}))


def test_a_listing_without_a_column_is_refused() -> None:
    (entry,) = listing_entries([listing(1)])
    del entry["status"]
    with pytest.raises(ContractError, match="lacks the field status"):
        listings_of(stamped(entry))


def test_ticks_watermarks_and_triggers() -> None:
    assert tick_entry(250) == {"kind": "tick", "time": "250"}
    assert watermark_entry("B", ["BTCUSDT", "币安人生USDT"], 9) == {
        "kind": "watermark",
        "line": "B",
        "symbols": "BTCUSDT,币安人生USDT",
        "time": "9",
    }
    assert trigger_entry("snapshot", 10_000) == {"name": "snapshot", "time": "10000"}


def test_a_live_value_by_name() -> None:
    text = "1700000000000,1.0,1.2,0.9,1.1,10,11,7,4,4.4,100,106,1,2,0,1"
    value = live_value_of(text)
    assert tuple(value) == LIVE_VALUE
    assert ",".join(value.values()) == text
    assert [value[name] for name in ("open_time", "closed", "revision", "complete", "official")] == [
        "1700000000000",
        "1",
        "2",
        "0",
        "1",
    ]
    assert live_field("币安人生USDT", "1m") == "币安人生USDT:1m"
    assert not LIVE_META & {live_field("A", "1m"), BARS_POSITION}
    for damaged in ("", text + ",", text.rsplit(",", 2)[0]):
        with pytest.raises(ContractError, match="parts instead of 16"):
            live_value_of(damaged)


@pytest.mark.parametrize("kind", EVENT_COLUMNS)
@pytest.mark.parametrize("count", [1, 3])
def test_events_come_back_by_column_name(kind: str, count: int) -> None:
    names = EVENT_COLUMNS[kind]
    rows = [tuple(f"{name}{number}" for name in names) for number in range(count)]
    entry = events_entry(kind, 250, rows)
    assert (entry["kind"], entry["time"], entry["n"]) == (kind, "250", str(count))
    assert event_rows(entry) == [dict(zip(names, row, strict=True)) for row in rows]


def test_a_tick_is_an_event_without_rows() -> None:
    entry = events_entry(EVENT_TICK, 250, [])
    assert entry == {"kind": "tick", "time": "250", "n": "0"}
    assert event_rows(entry) == []


def test_damaged_events_are_refused() -> None:
    with pytest.raises(ContractError, match="unknown event kind 'party'"):
        event_rows({"kind": "party", "time": "1", "n": "1"})
    entry = events_entry(EVENT_LISTED, 1, [("A", 1, "TRADING", 2, 3), ("B", 2, "TRADING", 0, 0)])
    with pytest.raises(ContractError, match="columns of a listed event differ in length"):
        event_rows({**entry, "status": "TRADING"})
    with pytest.raises(ContractError, match="lacks the field status"):
        event_rows({name: value for name, value in entry.items() if name != "status"})
    with pytest.raises(ContractError, match="columns of a listed event differ in length"):
        event_rows({**entry, "n": "x"})


def test_no_column_of_an_event_hides_a_field_of_its_entry() -> None:
    for names in EVENT_COLUMNS.values():
        assert not set(names) & {"v", "writer", "seq", "kind", "time", "n"}


def test_rows_that_do_not_fit_their_kind_are_a_mistake_of_the_writer() -> None:
    with pytest.raises(ValueError, match="zip"):
        events_entry(EVENT_LISTED, 1, [("A", 1)])


def test_a_finding() -> None:
    assert finding_entry(FindingKind.DATA_LOSS, Severity.ERROR, "seq 3 to 9", symbol="A", time_ms=5) == {
        "kind": "DATA_LOSS",
        "severity": "error",
        "symbol": "A",
        "time": "5",
        "evidence": "seq 3 to 9",
    }


def test_a_dead_entry_shows_what_it_held() -> None:
    entry = dead_entry("klines:{0}", "5-1", "writers", "no decimal", {b"open": b"\xffabc", "币".encode(): b"1"})
    assert {name: entry[name] for name in ("stream", "id", "group", "reason")} == {
        "stream": "klines:{0}",
        "id": "5-1",
        "group": "writers",
        "reason": "no decimal",
    }
    assert json.loads(entry["fields"]) == {"open": "\\xffabc", "币": "1"}


def test_a_dead_entry_is_bounded() -> None:
    entry = dead_entry("s", "1-1", "g", "r", {b"x": b"y" * 1_000_000})
    assert len(entry["fields"]) == DEAD_TEXT_CHARS


def test_fields_as_text_and_as_integers() -> None:
    entry = {b"n": b"12", b"text": "币".encode(), b"bad": b"\xff"}
    assert integer_of(entry, "n") == 12
    assert text_of(entry, "text") == "币"
    with pytest.raises(ContractError, match="lacks the field m"):
        text_of(entry, "m")
    with pytest.raises(ContractError, match="the field bad is not UTF-8"):
        text_of(entry, "bad")
    with pytest.raises(ContractError, match="the field text is not an integer: '币'"):
        integer_of(entry, "text")
    with pytest.raises(ContractError, match="not UTF-8"):
        texts_of(entry)
    assert texts_of({b"a": b"1"}) == {"a": "1"}


@pytest.mark.parametrize(
    ("symbol", "crc"),
    # "123456789" gives the published check value of this CRC-32; the others as gzip's trailer shows them.
    [("123456789", 0xCBF43926), ("BTCUSDT", 0xAC8EA3C3), ("币安人生USDT", 0x53BF64F0), ("", 0)],
)
def test_the_shard_of_a_symbol(symbol: str, crc: int) -> None:
    assert [shard_of(symbol, shards) for shards in (1, 2, 7, 16, 2**32)] == [
        crc % shards for shards in (1, 2, 7, 16, 2**32)
    ]


def test_keys_hold_their_shard_in_literal_braces() -> None:
    keys = Keys(12)
    names = ("feed", "klines", "live", "bars", "events", "requests", "findings", "dead", "commit", "checkpoint")
    assert {name: getattr(keys, name) for name in names} == {name: name + ":{12}" for name in names}
    assert {name for name, value in vars(Keys).items() if isinstance(value, property)} == set(names)
    assert heartbeat_key("ingest-A") == "heartbeat:ingest-A"


texts = st.text("ABC币", min_size=1)


@given(
    st.one_of(
        st.tuples(st.just("trades"), st.just(""), big, big).filter(lambda parts: parts[2] <= parts[3]),
        st.tuples(st.just("klines"), st.sampled_from(["1m", "1d"]), big, big).filter(lambda parts: parts[2] < parts[3]),
    ),
    texts,
    big,
)
def test_a_request_comes_back_as_it_was_made(asked: tuple[str, str, int, int], name: str, deadline_ms: int) -> None:
    kind, interval, first, last = asked
    request = Request(kind, f"{name}/1", name, interval, first, last, deadline_ms)
    assert request_of(stamped(request_entry(request))) == request


@pytest.mark.parametrize("field", ["kind", "id", "symbol", "interval", "from", "to", "deadline"])
def test_a_request_that_lacks_something_is_refused(field: str) -> None:
    entry = stamped(request_entry(Request("klines", "1", "A", "1m", 60_000, 120_000, 1)))
    del entry[field.encode()]
    with pytest.raises(ContractError):
        request_of(entry)


@pytest.mark.parametrize(
    "wrong", [{"kind": "ticks"}, {"symbol": ""}, {"from": "120000"}, {"from": "-1"}, {"to": "x"}], ids=str
)
def test_a_request_that_makes_no_sense_is_refused(wrong: Fields) -> None:
    entry = request_entry(Request("klines", "1", "A", "1m", 60_000, 120_000, 1))
    with pytest.raises(ContractError):
        request_of(stamped(entry | wrong))


@given(st.lists(st.lists(st.integers(0, 9), min_size=10, max_size=10)))
def test_official_klines_come_back_as_they_were_written(rows: list[list[int]]) -> None:
    found = official_of(stamped(official_entry("A", "1m", 0, 60_000, rows, "r1")))
    assert (found.symbol, found.interval, found.from_ms, found.to_ms, found.request) == ("A", "1m", 0, 60_000, "r1")
    assert found.count == len(rows)
    columns = [column.decode().split(",") if column else [] for column in found.columns.values()]
    assert [list(map(int, row)) for row in zip(*columns, strict=True)] == rows


@pytest.mark.parametrize("name", OFFICIAL_COLUMNS)
def test_official_klines_whose_columns_differ_are_refused(name: str) -> None:
    entry = official_entry("A", "1m", 0, 60_000, [[1] * 10, [2] * 10])
    with pytest.raises(ContractError):
        official_of(stamped(entry | {name: "1"}))
    del entry[name]
    with pytest.raises(ContractError):
        official_of(stamped(entry))

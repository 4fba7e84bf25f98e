"""Decoding trades against a slow oracle; whatever is not exactly a column of its kind is refused."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.columns import FILLS_MAX, DecodedTrades, at_scale, check_entry, decode, significant_decimals
from klagg.errors import ContractError
from klagg.wire.entries import (
    TRADE_COLUMNS,
    Listing,
    TradeRow,
    listing_entries,
    tick_entry,
    trades_entry_of_rows,
    watermark_entry,
)
from tests.aggregator.kit import T0, klines, new_core, raw, tick, trade

INT64_MAX = 2**63 - 1
NAMES = st.sampled_from(["BTCUSDT", "ETHUSDT", "币安人生USDT", "1000SHIBUSDT"])


@st.composite
def decimals(draw: st.DrawFn, above_zero: bool = False) -> str:
    """A plain decimal of at most 18 digits, with leading and trailing zeros."""
    digits = draw(st.integers(1, 18))
    fraction = draw(st.integers(0, min(17, digits - 1)))
    text = str(draw(st.integers(int(above_zero), 10**digits - 1))).rjust(digits, "0")
    return f"{text[: digits - fraction]}.{text[digits - fraction :]}" if fraction else text


@st.composite
def trade_rows(draw: st.DrawFn) -> TradeRow:
    first = draw(st.integers(0, INT64_MAX - FILLS_MAX))
    return TradeRow(
        draw(NAMES),
        draw(st.integers(0, INT64_MAX - 1)),
        draw(decimals(above_zero=True)),
        draw(decimals()),
        first,
        first + draw(st.integers(0, FILLS_MAX - 1)),
        draw(st.integers(0, INT64_MAX - 1)),
        draw(st.booleans()),
        draw(st.booleans()),
    )


def entry(rows: list[TradeRow], ids: str = "agg") -> dict[bytes, bytes]:
    return raw(trades_entry_of_rows(rows, line="A", ids=ids, recv_ms=T0))


def checked_and_decoded(entries: list[dict[bytes, bytes]]) -> DecodedTrades:
    for each in entries:
        check_entry(each)
    return decode(entries)


@given(
    st.lists(
        st.tuples(st.lists(trade_rows(), min_size=1, max_size=8), st.sampled_from(["agg", "trade"])),
        min_size=1,
        max_size=5,
    )
)
def test_decoding_gives_back_what_was_written(batches: list[tuple[list[TradeRow], str]]) -> None:
    entries = [entry(rows, ids) for rows, ids in batches]
    assert [check_entry(each) for each in entries] == [len(rows) for rows, _ in batches]
    found = decode(entries)
    written = [(row, ids) for rows, ids in batches for row in rows]
    assert len(found) == len(written)
    for at, (row, ids) in enumerate(written):
        assert found.names[at].decode() == row.symbol
        price = Decimal(int(found.price[at])).scaleb(-int(found.price_decimals[at]))
        qty = Decimal(int(found.qty[at])).scaleb(-int(found.qty_decimals[at]))
        assert (price, qty) == (Decimal(row.price), Decimal(row.qty))
        integers = [int(getattr(found, name)[at]) for name in ("id", "first", "last", "time")]
        assert integers == [row.id, row.first, row.last, row.time]
        assert (bool(found.maker[at]), bool(found.counts[at])) == (row.maker, row.counts and Decimal(row.qty) > 0)
        assert bool(found.agg[at]) == (ids == "agg")


@pytest.mark.parametrize("column", TRADE_COLUMNS)
@pytest.mark.parametrize("wrong", ["", "1", "1,2", "1,2,3,4", ",,,"])
def test_a_column_of_another_length_is_refused(column: str, wrong: str) -> None:
    good = entry([trade(1, T0), trade(2, T0), trade(3, T0)])
    with pytest.raises(ContractError, match=column):
        check_entry({**good, column.encode(): wrong.encode()})
    with pytest.raises(ContractError, match=f"lacks the column {column}"):
        check_entry({name: value for name, value in good.items() if name != column.encode()})


@pytest.mark.parametrize("wrong", ["0", "-3", "3.0", "1_0", " 3", "٣", "", "1" * 30])
def test_a_count_that_is_no_plain_number_is_refused(wrong: str) -> None:
    with pytest.raises(ContractError):
        check_entry({**entry([trade(1, T0), trade(2, T0), trade(3, T0)]), b"n": wrong.encode()})


BAD_INTEGERS = ["", " 1", "1 ", "+1", "-1", "1.0", "1e3", "0x1", "--1", "\n1", "9223372036854775808", "9" * 30, "x"]
BAD_DECIMALS = [
    "",
    ".",
    "-1",
    "+1",
    " 1.5",
    "1.5 ",
    "1. 5",
    "1.5\t",
    "\n1",
    "1e3",
    "NaN",
    "inf",
    "1.2.3",
    "1" * 19,
    "0." + "0" * 18,
    "1-",
    "1,5",
]


@pytest.mark.parametrize(
    ("column", "wrong"),
    [(name, wrong) for name in ("id", "first", "last", "time") for wrong in BAD_INTEGERS]
    + [(name, wrong) for name in ("price", "qty") for wrong in BAD_DECIMALS]
    + [(name, wrong) for name in ("maker", "counts") for wrong in ("", "2", "x", " ", "01", "-", "/")]
    + [("symbol", "")],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_malformed_value_is_refused_wherever_it_stands(column: str, wrong: str, place: int) -> None:
    values = ["7", "7", "7"] if column not in ("maker", "counts") else ["1", "1", "1"]
    values[place] = wrong
    bad = {**entry([trade(7, T0), trade(7, T0), trade(7, T0)]), column.encode(): ",".join(values).encode()}
    with pytest.raises(ContractError):
        checked_and_decoded([entry([trade(1, T0)]), bad, entry([trade(2, T0)])])


def test_a_symbol_that_is_no_utf8_and_fills_without_end_are_refused() -> None:
    with pytest.raises(ContractError, match="UTF-8"):
        decode([{**entry([trade(1, T0)]), b"symbol": b"\xff\xfe"}])
    with pytest.raises(ContractError, match="before its first"):
        decode([entry([trade(1, T0, first=5, last=4)])])
    with pytest.raises(ContractError, match="fills"):
        decode([entry([trade(1, T0, first=0, last=INT64_MAX - 1)])])


@given(st.lists(decimals(), min_size=1, max_size=20))
def test_significant_decimals_drops_trailing_zeros_only(texts: list[str]) -> None:
    found = decode([entry([trade(at, T0, text, counts=False) for at, text in enumerate(texts)])])
    needed = significant_decimals(found.price, found.price_decimals)
    expected = [len(text.partition(".")[2].rstrip("0")) for text in texts]
    assert needed.tolist() == [0 if Decimal(text) == 0 else most for text, most in zip(texts, expected, strict=True)]


@given(st.lists(st.tuples(decimals(), st.integers(0, 17)), min_size=1, max_size=20))
def test_at_scale_is_exact_or_says_that_it_does_not_fit(values: list[tuple[str, int]]) -> None:
    found = decode([entry([trade(at, T0, text, counts=False) for at, (text, _) in enumerate(values)])])
    scales = np.array([scale for _, scale in values], np.int64)
    mantissas, unfit = at_scale(found.price, found.price_decimals, scales)
    for at, (text, scale) in enumerate(values):
        exact = Decimal(text).scaleb(scale)
        if unfit[at]:
            assert exact > 2**61 or exact != int(exact)
        else:
            assert int(mantissas[at]) == exact


@pytest.mark.parametrize(
    "fields",
    [
        {**tick_entry(T0), "time": "1" * 30},
        {**watermark_entry("A", ("BTCUSDT",), T0), "time": "9" * 25},
        {**watermark_entry("A", ("BTCUSDT",), T0), "time": "1_000"},
        listing_entries([Listing("AUSDT", 10**30, 1, 1, "TRADING", 1)])[0],
        listing_entries([Listing("", 1, 1, 1, "TRADING", 1)])[0],
        listing_entries([Listing("AUSDT", 1, 18, 1, "TRADING", 1)])[0],
        listing_entries([Listing("AUSDT", 1, 1, -1, "TRADING", 1)])[0],
    ],
)
def test_numbers_beyond_all_sense_in_other_entries_kill_the_entry_and_not_the_process(fields: dict[str, str]) -> None:
    core = new_core("1m")
    assert not list(core.apply("7-1", raw(fields)))
    assert [each["id"] for each in tick(core, T0).dead] == ["7-1"]
    assert core.symbols.count == 0


def test_a_listing_entry_is_taken_whole_or_not_at_all() -> None:
    core = new_core("1m")
    good, bad = (
        Listing("AUSDT", 1, 1, 1, "TRADING", 1),
        Listing("BUSDT", 1, 99, 1, "TRADING", 1),
    )
    (both,) = listing_entries([good, bad])
    core.apply("7-1", raw(both))
    tick(core, T0)
    assert core.symbols.count == 0


def test_a_watermark_without_symbols_makes_none() -> None:
    core = new_core("1m")
    core.apply("1-1", raw(watermark_entry("A", (), T0)))
    assert not tick(core, T0).dead
    assert core.symbols.count == 0


def test_what_cannot_count_keeps_the_ids_contiguous_and_counts_in_no_bar() -> None:
    """Quantity 0, and an aggTrade that was struck out: whatever their entries say of them."""
    core = new_core("1m")
    rows = [
        trade(1, T0, "5"),
        trade(2, T0 + 1000, "900", "0.000"),
        replace(trade(3, T0 + 2000, "0", "0"), first=-1, last=-1),
        trade(4, T0 + 60_000, "6"),
    ]
    core.apply("1-1", entry(rows))
    (kline,) = klines(tick(core, T0 + 60_000))
    assert (kline.high, kline.trades, kline.volume, kline.complete) == ("5", 1, "1", 1)
    assert core.open_gaps == 0


@pytest.mark.parametrize(
    "row",
    [
        trade(1, T0, "0.00", "1"),
        replace(trade(1, T0, "0", "1"), first=-1, last=-1),
        replace(trade(1, T0, "5", "0"), first=-1, last=0),
        replace(trade(1, T0, "5", "1"), first=-2, last=-1),
    ],
)
def test_what_cannot_be_a_trade_is_refused(row: TradeRow) -> None:
    with pytest.raises(ContractError):
        decode([entry([row])])

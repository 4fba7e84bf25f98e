from __future__ import annotations

import pytest

from klagg.wire.entries import BARS_POSITION
from writers.progress import ShownBars, bars_of

OPEN_TIME = 1_721_329_440_000
VALUE = b"1721329440000,1.0,3.0,0.5,2.0,10.5,21.00,7,4.0,8.00,100,106,0,0,0"
VALUES = {b"BTCUSDT:1m": VALUE, b"BTCUSDT:1h": VALUE.replace(b",7,", b",9,"), BARS_POSITION.encode(): b"5-0"}


def test_a_bar_in_progress_becomes_a_row_of_revision_0() -> None:
    (bar,) = bars_of({b"BTCUSDT:1m": VALUE}, epoch=77).rows
    row = bar.kline
    assert (row.symbol, row.interval, row.open_time, row.close_time) == ("BTCUSDT", "1m", OPEN_TIME, OPEN_TIME + 59_999)
    assert (row.open, row.high, row.low, row.close) == ("1.0", "3.0", "0.5", "2.0")
    assert (row.volume, row.quote_volume, row.trades) == ("10.5", "21.00", 7)
    assert (row.taker_buy_volume, row.taker_buy_quote_volume) == ("4.0", "8.00")
    assert (row.first_trade_id, row.last_trade_id, row.first_agg_id, row.last_agg_id) == (100, 106, -1, -1)
    assert (row.epoch, row.revision, row.complete) == (77, 0, 0)


def test_a_month_closes_by_the_calendar() -> None:
    (bar,) = bars_of({b"BTCUSDT:1M": VALUE.replace(b"1721329440000", b"1706745600000", 1)}, epoch=1).rows
    assert bar.kline.close_time == 1_709_251_200_000 - 1  # February 2024


def test_rows_come_sorted_by_key_in_batches() -> None:
    names = ["ZUSDT:1m", "AUSDT:5m", "AUSDT:1h", "币安人生USDT:1m", "BUSDT:1m"]
    bars = bars_of({name.encode(): VALUE for name in names}, epoch=1)
    keys = [bar.kline.key for bar in bars.rows]
    assert keys == sorted(keys)
    assert [len(batch) for batch in bars.batches(2)] == [2, 2, 1]
    assert [bar for batch in bars.batches(2) for bar in batch] == bars.rows


@pytest.mark.parametrize(("closed", "revision", "complete"), [(1, 1, 1), (1, 1, 0), (0, 1, 0)])
def test_a_closed_bar_is_over(closed: int, revision: int, complete: int) -> None:
    value = VALUE.removesuffix(b"0,0,0") + f"{closed},{revision},{complete}".encode()
    bars = bars_of({b"BTCUSDT:1m": value}, epoch=1)
    assert (bars.rows, bars.over, bars.bad) == ([], [b"BTCUSDT:1m"], [])


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        (b"BTCUSDT:7m", VALUE, "7m"),
        (b"BTCUSDT", VALUE, "BTCUSDT"),
        (b"BTCUSDT:1m", b"1,2,3", "3 parts instead of 16"),
        (b"BTCUSDT:1m", VALUE.replace(b"2.0", b"NaN"), "not a plain decimal"),
        (b"BTCUSDT:1m", VALUE.replace(b"1721329440000", b"soon"), "open time"),
        (b"BTCUSDT:1M", VALUE.replace(b"1721329440000", b"9" * 30), "open time"),
        (b"\xff:1m", VALUE, "decode"),
    ],
)
def test_what_is_no_bar_is_named_and_the_others_stay(name: bytes, value: bytes, reason: str) -> None:
    bars = bars_of({name: value, b"ETHUSDT:1m": VALUE}, epoch=1)
    assert [bar.name for bar in bars.rows] == [b"ETHUSDT:1m"]
    (sentence,) = bars.bad
    assert reason in sentence
    assert repr(name) in sentence


def test_only_what_changed_is_written_again() -> None:
    shown = ShownBars()
    assert shown.changed(VALUES, 5, ()).keys() == {b"BTCUSDT:1m", b"BTCUSDT:1h"}
    shown.values[b"BTCUSDT:1m"] = VALUE
    assert shown.changed(VALUES, 5, ()).keys() == {b"BTCUSDT:1h"}
    newer = {**VALUES, b"BTCUSDT:1m": VALUE.replace(b",7,", b",8,")}
    assert shown.changed(newer, 5, ()).keys() == {b"BTCUSDT:1m", b"BTCUSDT:1h"}


def test_another_epoch_is_written_anew_and_what_is_gone_is_forgotten() -> None:
    shown = ShownBars()
    shown.changed(VALUES, 5, ())
    shown.values.update({b"BTCUSDT:1m": VALUE, b"GONEUSDT:1m": VALUE})
    shown.changed(VALUES, 5, ())
    assert shown.values == {b"BTCUSDT:1m": VALUE}
    assert shown.changed(VALUES, 6, ()).keys() == {b"BTCUSDT:1m", b"BTCUSDT:1h"}


def test_only_some_intervals() -> None:
    assert ShownBars().changed(VALUES, 5, {"1h", "1d"}).keys() == {b"BTCUSDT:1h"}
    assert ShownBars().changed(VALUES, 5, {"1d"}) == {}

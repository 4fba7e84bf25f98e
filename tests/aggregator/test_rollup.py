"""Klines folded into longer ones: exact, in any order, with the columns that the source has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aggregator.rollup import SourceBar, roll_up
from klagg.errors import RecordingError
from klagg.intervals import MINUTE_MS, interval
from tests.aggregator.kit import T0

BARS = [
    SourceBar(T0, "5", "7.5", "4", "6", "1.25", "7", 3, "1", "5.5"),
    SourceBar(T0 + MINUTE_MS, "6", "6", "3.75", "5", "0.5", "2.5", 2, "0.25", "1"),
    SourceBar(T0 + 5 * MINUTE_MS, "5", "5", "5", "5", "0", "0", 0, "0", "0"),
]


def test_bars_in_any_order_become_the_longer_bars_that_hold_them() -> None:
    expected = [
        SourceBar(T0, "5.00", "7.50", "3.75", "5.00", "1.75", "9.5", 5, "1.25", "6.5"),
        SourceBar(T0 + 5 * MINUTE_MS, "5.00", "5.00", "5.00", "5.00", "0.00", "0.0", 0, "0.00", "0.0"),
    ]
    found = roll_up(BARS[::-1], interval("5m"), "here")
    assert [(bar.open_time, bar.trades) for bar in found] == [(bar.open_time, bar.trades) for bar in expected]
    for name in ("high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"):
        assert [float(getattr(bar, name)) for bar in found] == [float(getattr(bar, name)) for bar in expected], name
    assert roll_up([], interval("5m"), "here") == []


def test_columns_that_the_source_lacks_stay_away() -> None:
    (bar,) = roll_up([replace(each, trades=None, quote_volume=None) for each in BARS[:2]], interval("1h"), "here")
    assert (bar.trades, bar.quote_volume, float(bar.volume)) == (None, None, 1.75)


def test_sums_beyond_64_bits_are_exact() -> None:
    huge = [replace(BARS[0], open_time=T0 + at * MINUTE_MS, volume="999999999.999999999") for at in range(5)]
    assert roll_up(huge, interval("5m"), "here")[0].volume == "4999999999.999999995"


def test_a_bar_twice_and_a_decimal_that_is_none_are_refused() -> None:
    with pytest.raises(RecordingError, match="twice"):
        roll_up([BARS[0], BARS[0]], interval("5m"), "here")
    with pytest.raises(RecordingError):
        roll_up([replace(BARS[0], close="x")], interval("5m"), "here")

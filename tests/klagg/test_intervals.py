"""Every interval against a slow oracle that knows days, weeks and months from the calendar alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from klagg import settings
from klagg.errors import ConfigError, UnknownInterval
from klagg.intervals import BINANCE_INTERVALS, INTERVALS, Interval, interval, ordered

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EACH = pytest.mark.parametrize("each", INTERVALS.values(), ids=INTERVALS)
times = st.integers(-5_000_000_000_000, 50_000_000_000_000)
"""From 1811 to 3554, in ms."""

UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}


def ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def bar_of(name: str, time_ms: int) -> tuple[int, int]:
    """Open time and the next bar's open time, by the calendar."""
    moment = EPOCH + timedelta(milliseconds=time_ms)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    number, unit = int(name[:-1]), name[-1]
    if name == "1M":
        first = midnight.replace(day=1)
        return ms(first), ms((first + timedelta(days=31)).replace(day=1))
    if name == "1w":
        first, length = midnight - timedelta(days=midnight.weekday()), timedelta(days=7)
    elif name == "3d":
        first, length = midnight, timedelta(days=3)
        while (first - EPOCH).days % 3 != 1:
            first -= timedelta(days=1)
    elif name == "1d":
        first, length = midnight, timedelta(days=1)
    else:  # every shorter length divides the day
        length = timedelta(**{UNITS[unit]: number})
        first = midnight + (moment - midnight) // length * length
    return ms(first), ms(first + length)


@EACH
@given(time_ms=times)
@example(time_ms=0)
@example(time_ms=-1)
@example(time_ms=ms(datetime(2024, 2, 29, 23, 59, 59, 999_000, tzinfo=UTC)))
@example(time_ms=ms(datetime(2100, 3, 1, tzinfo=UTC)))
@example(time_ms=ms(datetime(1969, 12, 28, 12, tzinfo=UTC)))
def test_a_time_is_in_the_bar_of_the_calendar(each: Interval, time_ms: int) -> None:
    opening, following = bar_of(each.name, time_ms)
    assert each.open_time(time_ms) == opening
    assert each.close_time(opening) == following - 1
    bucket = each.bucket_of(time_ms)
    assert each.open_of(bucket) == opening
    assert each.open_of(bucket + 1) == following
    assert each.bucket_of(following) == bucket + 1
    assert each.bucket_of(following - 1) == bucket
    assert following - opening >= each.shortest_ms


@EACH
@given(column=st.lists(times))
def test_arrays_agree_with_scalars(each: Interval, column: list[int]) -> None:
    array = np.array(column, dtype=np.int64)
    buckets = each.buckets_of(array)
    assert buckets.dtype == np.int64
    assert buckets.tolist() == [each.bucket_of(time_ms) for time_ms in column]
    opens = each.opens_of(buckets)
    assert opens.dtype == np.int64
    assert opens.tolist() == [each.open_time(time_ms) for time_ms in column]


@EACH
def test_arrays_keep_their_shape(each: Interval) -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3) * 10**11
    assert each.opens_of(each.buckets_of(array)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        # As Binance's own rows have them.
        ("1w", datetime(2023, 4, 3, tzinfo=UTC)),
        ("1M", datetime(2023, 4, 1, tzinfo=UTC)),
        ("1d", datetime(2023, 4, 5, tzinfo=UTC)),
        ("4h", datetime(2023, 4, 5, 16, tzinfo=UTC)),
        ("15s", datetime(2023, 4, 5, 17, 38, 45, tzinfo=UTC)),
    ],
)
def test_bars_of_a_known_moment(name: str, opening: datetime) -> None:
    moment = datetime(2023, 4, 5, 17, 38, 59, 999_000, tzinfo=UTC)
    assert interval(name).open_time(ms(moment)) == ms(opening)


def test_the_exchange_s_intervals_are_all_there_shortest_first() -> None:
    binance = ["1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"]
    assert list(BINANCE_INTERVALS) == binance == list(settings.Aggregator().intervals)
    assert list(INTERVALS) == ["1s", "5s", "15s", *binance]
    lengths = [each.shortest_ms for each in INTERVALS.values()]
    assert lengths == sorted(lengths)
    assert [name for name, each in INTERVALS.items() if not each.length_ms] == ["1M"]


@pytest.mark.parametrize("name", ["2m", "", "1", "m", "1D", "1 m", "60s", "1min", "month"])
def test_an_unknown_interval_is_an_error_never_a_minute(name: str) -> None:
    with pytest.raises(UnknownInterval) as raised:
        interval(name)
    assert str(raised.value) == f"unknown interval {name!r}: klagg knows {' '.join(INTERVALS)}"
    assert raised.value.name == name
    assert isinstance(raised.value, ConfigError)
    with pytest.raises(UnknownInterval):
        ordered(["1m", name])


def test_ordered_names_each_once_shortest_first() -> None:
    assert [each.name for each in ordered(["1w", "1m", "1M", "1h", "1m"])] == ["1m", "1h", "1w", "1M"]
    assert ordered(()) == ()

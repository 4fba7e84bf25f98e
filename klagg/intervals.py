"""Kline intervals: the one place that aligns times.

An interval cuts time into buckets, numbered by an integer `k`. Everything else in klagg uses buckets through
`bucket_of` and `open_of`, so that weeks (from Monday 00:00 UTC), months (by the UTC calendar) and three-day bars (day
number mod 3 = 1, as seen in the exchange's own rows) follow one rule. Times are UTC milliseconds since the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from klagg.arrays import Ints
from klagg.errors import UnknownInterval

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
EVER_MS = 4_102_444_800_000
"""The end of a range that names none: 2100."""


@dataclass(frozen=True, slots=True)
class Interval:
    """One kline interval.

    `length_ms` is 0 for calendar months. `anchor_ms` is the open time of bucket 0 for fixed lengths.
    """

    name: str
    length_ms: int
    anchor_ms: int = 0

    @property
    def shortest_ms(self) -> int:
        """The length of the shortest bucket: February for months."""
        return self.length_ms or 28 * DAY_MS

    def bucket_of(self, time_ms: int) -> int:
        """The bucket that holds `time_ms`."""
        if self.length_ms:
            return (time_ms - self.anchor_ms) // self.length_ms
        return int(np.datetime64(time_ms, "ms").astype("datetime64[M]").astype(np.int64))

    def open_of(self, bucket: int) -> int:
        """The first millisecond of `bucket`."""
        if self.length_ms:
            return self.anchor_ms + bucket * self.length_ms
        return int(np.datetime64(bucket, "M").astype("datetime64[ms]").astype(np.int64))

    def open_time(self, time_ms: int) -> int:
        """The open time of the bar that holds `time_ms`."""
        return self.open_of(self.bucket_of(time_ms))

    def close_time(self, open_time_ms: int) -> int:
        """The last millisecond of the bar that opens at `open_time_ms`, as Binance writes it."""
        return self.open_of(self.bucket_of(open_time_ms) + 1) - 1

    def buckets_of(self, times_ms: Ints) -> Ints:
        """`bucket_of` over an array of any shape."""
        if self.length_ms:
            return (times_ms - self.anchor_ms) // self.length_ms
        months: Ints = times_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
        return months

    def opens_of(self, buckets: Ints) -> Ints:
        """`open_of` over an array of any shape."""
        if self.length_ms:
            return self.anchor_ms + buckets * self.length_ms
        opens: Ints = buckets.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
        return opens


def _fixed(name: str, length_ms: int, anchor_ms: int = 0) -> tuple[str, Interval]:
    return name, Interval(name, length_ms, anchor_ms)


INTERVALS: dict[str, Interval] = dict(
    [
        _fixed("1s", SECOND_MS),
        _fixed("5s", 5 * SECOND_MS),
        _fixed("15s", 15 * SECOND_MS),
        _fixed("1m", MINUTE_MS),
        _fixed("3m", 3 * MINUTE_MS),
        _fixed("5m", 5 * MINUTE_MS),
        _fixed("15m", 15 * MINUTE_MS),
        _fixed("30m", 30 * MINUTE_MS),
        _fixed("1h", HOUR_MS),
        _fixed("2h", 2 * HOUR_MS),
        _fixed("4h", 4 * HOUR_MS),
        _fixed("6h", 6 * HOUR_MS),
        _fixed("8h", 8 * HOUR_MS),
        _fixed("12h", 12 * HOUR_MS),
        _fixed("1d", DAY_MS),
        _fixed("3d", 3 * DAY_MS, DAY_MS),  # day number mod 3 = 1
        _fixed("1w", 7 * DAY_MS, 4 * DAY_MS),  # 1970-01-05 was a Monday
        ("1M", Interval("1M", 0)),
    ]
)
"""Every interval that klagg knows, shortest first."""

BINANCE_INTERVALS = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")
"""The fifteen intervals of Binance's USDⓈ-M klines (Binance USDⓈ-M docs, 'Kline Candlestick Streams'), shortest
first."""

MINUTE = INTERVALS["1m"]


def interval(name: str) -> Interval:
    """The interval of that name; an unknown name is an error, never a default."""
    try:
        return INTERVALS[name]
    except KeyError:
        raise UnknownInterval(name, tuple(INTERVALS)) from None


def ordered(names: list[str] | tuple[str, ...]) -> tuple[Interval, ...]:
    """The named intervals, each once, shortest first."""
    wanted = {interval(name).name for name in names}
    return tuple(each for name, each in INTERVALS.items() if name in wanted)

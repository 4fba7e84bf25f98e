"""The exchange's kline intervals, as the local exchange aligns them.

Kept apart from the alignment that the services use: this side is the witness in their tests, and a mistake shared by
both would never show.
"""

from __future__ import annotations

from datetime import UTC, datetime

_MINUTE_MS = 60_000
_HOUR_MS = 3_600_000
_DAY_MS = 86_400_000

_FIXED_MS = {
    "1m": _MINUTE_MS,
    "3m": 3 * _MINUTE_MS,
    "5m": 5 * _MINUTE_MS,
    "15m": 15 * _MINUTE_MS,
    "30m": 30 * _MINUTE_MS,
    "1h": _HOUR_MS,
    "2h": 2 * _HOUR_MS,
    "4h": 4 * _HOUR_MS,
    "6h": 6 * _HOUR_MS,
    "8h": 8 * _HOUR_MS,
    "12h": 12 * _HOUR_MS,
    "1d": _DAY_MS,
    "3d": 3 * _DAY_MS,
    "1w": 7 * _DAY_MS,
}
# 1970-01-01 was a Thursday, so Mondays are the days 4, 11, …; three-day bars open on the days 1, 4, … (seen in data).
_SHIFT_MS = {"3d": _DAY_MS, "1w": 4 * _DAY_MS}

INTERVALS = (*_FIXED_MS, "1M")
"""All names, shortest first."""


def open_of(interval: str, time_ms: int) -> int:
    """Open time of the bar that holds `time_ms`. Raises KeyError for an unknown interval."""
    if interval == "1M":
        moment = datetime.fromtimestamp(time_ms // 1000, UTC)
        return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()) * 1000
    shift_ms = _SHIFT_MS.get(interval, 0)
    length_ms = _FIXED_MS[interval]
    return (time_ms - shift_ms) // length_ms * length_ms + shift_ms


def next_open(interval: str, open_ms: int) -> int:
    """Open time of the bar after the one that opens at `open_ms`."""
    if interval == "1M":
        return open_of("1M", open_ms + 31 * _DAY_MS)
    return open_ms + _FIXED_MS[interval]


def previous_open(interval: str, open_ms: int) -> int:
    """Open time of the bar before the one that opens at `open_ms`."""
    return open_of(interval, open_ms - 1)

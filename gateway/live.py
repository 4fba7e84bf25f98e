"""Live state: the content of `bars` and `live`, by symbol and interval. Pure: entries in, changed bars out.

A series keeps the bars in progress and, for a while, those that were closed: the table gets a final a moment after
`live` does, and in between only this state has it. So a reader who reads the bars of a series here first and then
queries the table misses none, whatever happens meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from klagg.binance.serving.payloads import WireKline
from klagg.errors import ContractError
from klagg.intervals import INTERVALS, Interval
from klagg.kline import Kline
from klagg.wire.entries import BARS_POSITION, LIVE_META, live_parts_of

SeriesName = tuple[str, str]
"""Symbol and name of the interval."""


class LiveBar(NamedTuple):
    """A bar as `live` carries it: decimals as texts, times exchange ms.

    `closed` says that it is final; versions of a final are ordered by (revision, complete, official). `at_ms` is the
    exchange time of its tick, `redis_ms` the time of its entry by the clock of Redis (ms)."""

    open_time: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    trades: int
    taker_buy_volume: str
    taker_buy_quote_volume: str
    first_trade_id: int
    last_trade_id: int
    closed: bool
    revision: int
    complete: int
    official: int
    at_ms: int
    redis_ms: int

    @property
    def version(self) -> tuple[int, int, int]:
        """(revision, complete, official); a later version of a final is higher."""
        return self.revision, self.complete, self.official

    def wire(self, interval: Interval) -> WireKline:
        """The values in the form of Binance's payloads."""
        return WireKline(
            self.open_time,
            interval.close_time(self.open_time),
            *self[1:12],
        )


class Change(NamedTuple):
    """A bar that is new or has changed, and its state before (None: it is new)."""

    symbol: str
    interval: str
    bar: LiveBar
    before: LiveBar | None


def bar_of(text: str, at_ms: int, redis_ms: int) -> LiveBar:
    """The bar in a live value (klagg.wire.entries.LIVE_VALUE). Raises ContractError."""
    opening, open_, high, low, close, volume, quote, trades, taker, taker_quote, *rest = live_parts_of(text)
    try:
        return LiveBar(
            int(opening),
            open_,
            high,
            low,
            close,
            volume,
            quote,
            int(trades),
            taker,
            taker_quote,
            int(rest[0]),
            int(rest[1]),
            rest[2] == "1",
            int(rest[3]),
            int(rest[4]),
            int(rest[5]),
            at_ms,
            redis_ms,
        )
    except ValueError as bad:
        raise ContractError(f"a live value has a part that is not an integer: {bad}") from None


def bar_of_kline(kline: Kline, redis_ms: int) -> LiveBar:
    """The bar in an entry of `klines`: always a final. The entry has no tick, so `at_ms` is the end of the bar."""
    return LiveBar(
        kline.open_time,
        kline.open,
        kline.high,
        kline.low,
        kline.close,
        kline.volume,
        kline.quote_volume,
        kline.trades,
        kline.taker_buy_volume,
        kline.taker_buy_quote_volume,
        kline.first_trade_id,
        kline.last_trade_id,
        True,
        kline.revision,
        kline.complete,
        kline.official,
        kline.close_time + 1,
        redis_ms,
    )


def series_of(field: str) -> SeriesName | None:
    """The series that a field of `live` or `bars` belongs to; None for one that holds no bar.

    ContractError if the field names no interval that this version knows.
    """
    if field in LIVE_META or field == BARS_POSITION:
        return None
    symbol, _, interval = field.rpartition(":")
    if not symbol or interval not in INTERVALS:
        raise ContractError(f"a live entry holds the field {field[:60]!r}")
    return symbol, interval


class LiveState:
    """The bars of any number of series; one reader writes, everybody else reads between its turns."""

    def __init__(self) -> None:
        self._series: dict[SeriesName, dict[int, LiveBar]] = {}
        self._names: dict[str, SeriesName | None] = {}
        self.time_ms = 0
        """Exchange time of the newest entry."""

    def __len__(self) -> int:
        """How many bars are held."""
        return sum(map(len, self._series.values()))

    def apply_entry(self, fields: Mapping[str, str], redis_ms: int) -> list[Change]:
        """Apply an entry of `live`; returns the changes in its order. Raises ContractError."""
        try:
            at_ms = int(fields["time"])
        except (KeyError, ValueError):
            raise ContractError("a live entry has no usable time") from None
        changes = self.apply_values(fields, at_ms, redis_ms)
        self.time_ms = max(self.time_ms, at_ms)
        return changes

    def apply_values(self, values: Mapping[str, str], at_ms: int, redis_ms: int) -> list[Change]:
        """Apply live values by their fields, such as the hash `bars`; returns the changes."""
        changes = []
        for field, text in values.items():
            series = self._named(field)
            if series is not None:
                change = self._apply(series, bar_of(text, at_ms, redis_ms))
                if change is not None:
                    changes.append(change)
        return changes

    def apply_final(self, kline: Kline, redis_ms: int) -> Change | None:
        """Apply an entry of `klines`; returns the change."""
        return self._apply((kline.symbol, kline.interval), bar_of_kline(kline, redis_ms))

    def _named(self, field: str) -> SeriesName | None:
        try:
            return self._names[field]
        except KeyError:
            series = self._names[field] = series_of(field)
            return series

    def _apply(self, series: SeriesName, bar: LiveBar) -> Change | None:
        bars = self._series.setdefault(series, {})
        before = bars.get(bar.open_time)
        if before is not None and before.closed and (not bar.closed or bar.version <= before.version):
            return None  # the stream is read again after a reload
        bars[bar.open_time] = bar
        if before is not None and before[:-2] == bar[:-2]:
            return None
        return Change(*series, bar, before)

    def bars(self, symbol: str, interval: str) -> list[LiveBar]:
        """A copy of the bars of a series, by open time."""
        bars = self._series.get((symbol, interval))
        return [bars[at] for at in sorted(bars)] if bars else []

    def newest(self, symbol: str, interval: str) -> LiveBar | None:
        """The newest bar of a series."""
        bars = self._series.get((symbol, interval))
        return bars[max(bars)] if bars else None

    def symbols(self) -> set[str]:
        """The symbols with at least one bar."""
        return {symbol for (symbol, _), bars in self._series.items() if bars}

    def has(self, symbol: str) -> bool:
        """Whether there may be a series of this symbol."""
        return any((symbol, name) in self._series for name in INTERVALS)

    def release(self, before_ms: int) -> int:
        """Forget the bars with a `redis_ms` before this time, except the newest of each series; returns how many.

        A series whose newest bar is a final has ended, because a symbol that is traded always has a bar in progress: it
        goes as a whole.
        """
        gone = 0
        for series, bars in list(self._series.items()):
            newest = bars[max(bars)]
            old = [at for at, bar in bars.items() if bar.redis_ms < before_ms and (bar is not newest or bar.closed)]
            for at in old:
                del bars[at]
            if not bars:
                del self._series[series]
            gone += len(old)
        return gone

    def changes_since(self, older: LiveState) -> list[Change]:
        """The changes from an older state of the same shard to this one; those of a series by open time."""
        changes = []
        for series, bars in self._series.items():
            had = older._series.get(series, {})
            for at in sorted(bars):
                bar, before = bars[at], had.get(at)
                if before is None or bar[:-2] != before[:-2]:
                    changes.append(Change(*series, bar, before))
        return changes

    def replace_with(self, other: LiveState) -> None:
        """Replace this state by another one."""
        self._series, self._names, self.time_ms = other._series, other._names, max(self.time_ms, other.time_ms)

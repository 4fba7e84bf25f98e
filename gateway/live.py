"""Live state: what `bars` and `live` say, by symbol and interval. Pure: entries in, changed bars out.

A series keeps the bars in progress and, for a while, those that were closed: the table gets a final a moment after
`live` does, and in between only this state has it. So a reader who takes the bars of a series first and asks the table
then misses none, whatever happens meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from klagg.binance.serving.payloads import WireKline
from klagg.errors import ContractError
from klagg.intervals import INTERVALS, Interval
from klagg.kline import Kline
from klagg.wire.entries import BARS_POSITION, LIVE_META, LIVE_VALUE

Series = tuple[str, str]
"""Symbol and name of the interval."""

_PARTS = len(LIVE_VALUE)


class LiveBar(NamedTuple):
    """A bar as `live` tells it: decimals as texts, times ms.

    `closed` says that it is final; versions of a final order by (revision, complete). `at_ms` is the exchange time of
    the tick that told it, `told_ms` the time of its entry by the clock of Redis.
    """

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
    at_ms: int
    told_ms: int

    @property
    def version(self) -> tuple[int, int]:
        return self.revision, self.complete

    def wire(self, interval: Interval) -> WireKline:
        """The values as Binance's payloads have them."""
        return WireKline(
            self.open_time,
            interval.close_time(self.open_time),
            *self[1:12],
        )


class Change(NamedTuple):
    """A bar that is new or has changed, and what stood there before it (None: nothing)."""

    symbol: str
    interval: str
    bar: LiveBar
    before: LiveBar | None


def bar_of(text: str, at_ms: int, told_ms: int) -> LiveBar:
    """The bar in a live value (contract.LIVE_VALUE); ContractError if it is none."""
    parts = text.split(",")
    if len(parts) != _PARTS:
        raise ContractError(f"a live value has {len(parts)} parts instead of {_PARTS}")
    opening, open_, high, low, close, volume, quote, trades, taker, taker_quote, *rest = parts
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
            at_ms,
            told_ms,
        )
    except ValueError as bad:
        raise ContractError(f"a live value has a part that is not an integer: {bad}") from None


def bar_of_kline(kline: Kline, told_ms: int) -> LiveBar:
    """The bar in an entry of `klines`: always a final. Its tick is not told: its close stands for it."""
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
        kline.close_time + 1,
        told_ms,
    )


def series_of(field: str) -> Series | None:
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
        self._series: dict[Series, dict[int, LiveBar]] = {}
        self._names: dict[str, Series | None] = {}
        self.time_ms = 0
        """Exchange time of the newest entry."""

    def __len__(self) -> int:
        """How many bars are kept."""
        return sum(map(len, self._series.values()))

    def take_entry(self, fields: Mapping[str, str], told_ms: int) -> list[Change]:
        """Take in an entry of `live`; what it changed, in its order. ContractError if it does not keep the contract."""
        try:
            at_ms = int(fields["time"])
        except (KeyError, ValueError):
            raise ContractError("a live entry has no usable time") from None
        changes = self.take_values(fields, at_ms, told_ms)
        self.time_ms = max(self.time_ms, at_ms)
        return changes

    def take_values(self, values: Mapping[str, str], at_ms: int, told_ms: int) -> list[Change]:
        """Take in live values by their fields, such as the hash `bars`; what they changed."""
        changes = []
        for field, text in values.items():
            series = self._named(field)
            if series is not None:
                change = self._take(series, bar_of(text, at_ms, told_ms))
                if change is not None:
                    changes.append(change)
        return changes

    def take_final(self, kline: Kline, told_ms: int) -> Change | None:
        """Take in an entry of `klines`; what it changed."""
        return self._take((kline.symbol, kline.interval), bar_of_kline(kline, told_ms))

    def _named(self, field: str) -> Series | None:
        try:
            return self._names[field]
        except KeyError:
            series = self._names[field] = series_of(field)
            return series

    def _take(self, series: Series, bar: LiveBar) -> Change | None:
        bars = self._series.setdefault(series, {})
        before = bars.get(bar.open_time)
        if before is not None and before.closed and (not bar.closed or bar.version <= before.version):
            return None  # told again after a reload, in the order of the stream
        bars[bar.open_time] = bar
        if before is not None and before[:-2] == bar[:-2]:
            return None
        return Change(*series, bar, before)

    def bars(self, symbol: str, interval: str) -> list[LiveBar]:
        """All bars of a series that are kept, by open time: a copy."""
        bars = self._series.get((symbol, interval))
        return [bars[at] for at in sorted(bars)] if bars else []

    def newest(self, symbol: str, interval: str) -> LiveBar | None:
        """The newest bar of a series."""
        bars = self._series.get((symbol, interval))
        return bars[max(bars)] if bars else None

    def symbols(self) -> set[str]:
        """The symbols of which there is a bar."""
        return {symbol for (symbol, _), bars in self._series.items() if bars}

    def has(self, symbol: str) -> bool:
        """Whether there may be a series of this symbol."""
        return any((symbol, name) in self._series for name in INTERVALS)

    def release(self, before_ms: int) -> int:
        """Forget the bars told before this time of Redis, but keep what is newest of each series; how many went.

        A series whose newest bar is a final has ended, because a symbol that is traded always has a bar in progress: it
        goes as a whole.
        """
        gone = 0
        for series, bars in list(self._series.items()):
            newest = bars[max(bars)]
            old = [at for at, bar in bars.items() if bar.told_ms < before_ms and (bar is not newest or bar.closed)]
            for at in old:
                del bars[at]
            if not bars:
                del self._series[series]
            gone += len(old)
        return gone

    def changes_since(self, older: LiveState) -> list[Change]:
        """What this state says otherwise than an older one of the same shard, by open time."""
        changes = []
        for series, bars in self._series.items():
            had = older._series.get(series, {})
            for at in sorted(bars):
                bar, before = bars[at], had.get(at)
                if before is None or bar[:-2] != before[:-2]:
                    changes.append(Change(*series, bar, before))
        return changes

    def replace_with(self, other: LiveState) -> None:
        """Take over another state as a whole."""
        self._series, self._names, self.time_ms = other._series, other._names, max(self.time_ms, other.time_ms)

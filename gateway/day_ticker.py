"""`ticker/24hr`: the last 24 hours of a symbol, from klagg's own minutes.

The window begins with the minute 24 hours before the current one, and ends now, so it has 1,440 whole minutes and a
part of one. Where klagg has less, it begins with the oldest minute that klagg has, and `openTime` says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from gateway.history import Range, joined
from gateway.market import MarketState
from gateway.store import HistoryStore
from klagg.intervals import DAY_MS, MINUTE, MINUTE_MS
from klagg.kline import Kline

ROWS_MAX: Final = DAY_MS // MINUTE_MS + 2
_PERCENT_PLACES: Final = Decimal("0.001")
_WEIGHTED_BY_NOTHING: Final = Decimal(0)
NO_ID: Final = -1


@dataclass(slots=True)
class Day:
    """What minutes add up to, in their order. Prices are those of minutes with trades; `close` is the last of all.

    `first_id` and `last_id` are ids of fills, NO_ID where the minute that has them does not know (an official one).
    `minutes` counts the minutes, `proven` those before `now_minute_ms`, the open time of the current minute (exchange
    ms), that are complete or official.
    """

    now_minute_ms: int = field(compare=False)
    open_time: int = 0
    open: Decimal | None = None
    high: Decimal = Decimal(0)
    low: Decimal = Decimal(0)
    close: Decimal = Decimal(0)
    volume: Decimal = Decimal(0)
    quote_volume: Decimal = Decimal(0)
    trades: int = 0
    first_id: int = NO_ID
    last_id: int = NO_ID
    minutes: int = 0
    proven: int = 0

    @classmethod
    def of_row(cls, row: Mapping[str, Any], now_minute_ms: int) -> Day:
        """What the table says of minutes before the current one (store.sql, `days`)."""
        opened = row["open"]
        return cls(
            now_minute_ms,
            row["open_time"],
            None if opened is None else Decimal(opened),
            Decimal(row["high"] or 0),
            Decimal(row["low"] or 0),
            Decimal(row["close"]),
            Decimal(row["volume"]),
            Decimal(row["quote_volume"]),
            row["trades"],
            NO_ID if row["first_id"] is None else row["first_id"],
            NO_ID if row["last_id"] is None else row["last_id"],
            row["minutes"],
            row["proven"],
        )

    def add(self, minute: Kline) -> None:
        """Add the next minute."""
        if not self.minutes:
            self.open_time = minute.open_time
        self.minutes += 1
        # The current minute can have ended: the gateway's time may be a little behind the exchange's.
        self.proven += bool(minute.complete or minute.official) and minute.open_time < self.now_minute_ms
        self.close = Decimal(minute.close)
        self.volume += Decimal(minute.volume)
        self.quote_volume += Decimal(minute.quote_volume)
        if not minute.trades:
            return
        if self.open is None:
            self.open, self.high, self.low = Decimal(minute.open), Decimal(minute.high), Decimal(minute.low)
            self.first_id = minute.first_trade_id
        self.high, self.low = max(self.high, Decimal(minute.high)), min(self.low, Decimal(minute.low))
        self.trades += minute.trades
        self.last_id = minute.last_trade_id

    def ticker(self, symbol: str, close_time: int) -> dict[str, object]:
        """The answer of Binance (USDⓈ-M docs, "24hr Ticker Price Change Statistics"), without `lastQty`: klines do not
        have the quantity of the last trade. `close_time` is exchange ms."""
        opened = self.close if self.open is None else self.open
        high, low = (self.close, self.close) if self.open is None else (self.high, self.low)
        change = self.close - opened
        percent = change / opened * 100 if opened else Decimal(0)
        weighted = self.quote_volume / self.volume if self.volume else _WEIGHTED_BY_NOTHING
        return {
            "symbol": symbol,
            "priceChange": f"{change:f}",
            "priceChangePercent": f"{percent.quantize(_PERCENT_PLACES, ROUND_HALF_UP):f}",
            "weightedAvgPrice": f"{weighted.quantize(self.close, ROUND_HALF_UP):f}",
            "lastPrice": f"{self.close:f}",
            "openPrice": f"{opened:f}",
            "highPrice": f"{high:f}",
            "lowPrice": f"{low:f}",
            "volume": f"{self.volume:f}",
            "quoteVolume": f"{self.quote_volume:f}",
            "openTime": self.open_time,
            "closeTime": close_time,
            "firstId": self.first_id,
            "lastId": self.last_id,
            "count": self.trades,
        }

    @property
    def lacking(self) -> int:
        """How many minutes since the first one are missing or not proven; the current one is neither."""
        return max(0, (self.now_minute_ms - self.open_time) // MINUTE_MS - self.proven)


@dataclass(slots=True)
class _Stored:
    """The table's minutes of all symbols that open from `from_ms` until `until_ms` (exchange ms), summed up at one
    current minute."""

    from_ms: int
    until_ms: int
    days: Mapping[str, Day]


@dataclass(slots=True)
class DayTickers:
    """The days of symbols, from the table and live state together; without a store from live state only.

    Raises StoreBusy, DatabaseUnavailable, DatabaseRefused.
    """

    market: MarketState
    store: HistoryStore | None
    _stored: _Stored | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def of(self, symbol: str, now_ms: int) -> Day:
        """The day of one symbol until `now_ms` (exchange ms)."""
        now_minute_ms = MINUTE.open_time(now_ms)
        wanted = Range(now_minute_ms - DAY_MS, None, ROWS_MAX)
        live = self.market.bars(symbol, MINUTE.name)  # before the table, as in gateway.history
        rows = await self.store.klines(symbol, MINUTE.name, wanted) if self.store else []
        return _sum_of(Day(now_minute_ms), joined(rows, live, symbol, MINUTE, wanted))

    async def of_all(self, now_ms: int) -> dict[str, Day]:
        """The days of all symbols that live state has. The table is asked for most of it once a minute: what is older
        than every bar of live state does not change meanwhile."""
        now_minute_ms = MINUTE.open_time(now_ms)
        from_ms = now_minute_ms - DAY_MS
        live = {symbol: self.market.bars(symbol, MINUTE.name) for symbol in self.market.live_symbols()}
        oldest_ms = min((bars[0].open_time for bars in live.values() if bars), default=now_ms)
        wanted, recent, days = Range(from_ms, None, ROWS_MAX), dict[str, list[Kline]](), dict[str, Day]()
        if self.store:
            until_ms = min(now_minute_ms, max(from_ms, MINUTE.open_time(oldest_ms)))
            stored = await self._stored_days(self.store, now_minute_ms, until_ms)
            wanted, days = Range(stored.until_ms, None, ROWS_MAX), dict(stored.days)
            for row in await self.store.minutes_since(stored.until_ms):
                recent.setdefault(row.symbol, []).append(row)
        found = {}
        for symbol, bars in live.items():
            minutes = joined(recent.get(symbol, []), bars, symbol, MINUTE, wanted)
            found[symbol] = _sum_of(replace(days.get(symbol, Day(now_minute_ms))), minutes)
        return found

    async def _stored_days(self, store: HistoryStore, now_minute_ms: int, until_ms: int) -> _Stored:
        from_ms = now_minute_ms - DAY_MS
        async with self._turn:
            kept = self._stored
            if kept is None or kept.from_ms != from_ms or kept.until_ms > until_ms:
                rows = await store.days(from_ms, until_ms)
                days = {row["symbol"]: Day.of_row(row, now_minute_ms) for row in rows}
                kept = self._stored = _Stored(from_ms, until_ms, days)
            return kept


def _sum_of(day: Day, minutes: Iterable[Kline]) -> Day:
    for minute in minutes:
        day.add(minute)
    return day

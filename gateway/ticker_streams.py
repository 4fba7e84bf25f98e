"""Sends the streams of 24 hour tickers: `<symbol>@ticker`, `<symbol>@miniTicker`, `!ticker@arr`, `!miniTicker@arr`.

Once a second, and only while somebody listens, the days of all symbols are added up (gateway.day_ticker). A symbol's
own stream gets its ticker if it has changed, an array the tickers that have changed since the array before (Binance
USDⓈ-M docs, "Individual Symbol Ticker Streams", "All Market Tickers Streams", and the same of mini tickers).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.day_ticker import Day, DayTickers
from gateway.hub import Hub
from gateway.store import StoreBusy
from gateway.streams import TickerKind
from klagg.binance.serving.payloads import USD_M, compact
from klagg.errors import DatabaseRefused, DatabaseUnavailable
from klagg.process.stats import Stats

TICKERS_S: Final = 1.0
"""Between two looks."""

_TICKER: Final[Mapping[str, str]] = {
    "p": "priceChange",
    "P": "priceChangePercent",
    "w": "weightedAvgPrice",
    "c": "lastPrice",
    "o": "openPrice",
    "h": "highPrice",
    "l": "lowPrice",
    "v": "volume",
    "q": "quoteVolume",
    "O": "openTime",
    "C": "closeTime",
    "F": "firstId",
    "L": "lastId",
    "n": "count",
}
_MINI_TICKER: Final = ("c", "o", "h", "l", "v", "q")


def event_of(kind: TickerKind, ticker: Mapping[str, Any], event_ms: int) -> dict[str, Any]:
    """A symbol's event from its ticker as `Day.ticker` gives it. `Q`, the quantity of the last trade, is not known."""
    names = _TICKER if kind is TickerKind.TICKER else _MINI_TICKER
    head = {"e": "24hrTicker" if kind is TickerKind.TICKER else "24hrMiniTicker", "E": event_ms, "s": ticker["symbol"]}
    return {**head, **{name: ticker[_TICKER[name]] for name in names}, "st": USD_M}


class TickerStreams:
    """The tickers as they were sent last. `closed_ms` gives the exchange time of a symbol's last change."""

    def __init__(self, hub: Hub, days: DayTickers, stats: Stats, closed_ms: Callable[[str, int], int]) -> None:
        self._hub, self._days, self._stats, self._closed_ms = hub, days, stats, closed_ms
        self._sent: dict[str, Day] = {}
        stats.add("tickers_failed", 0)  # Prometheus sees growth only in what it saw before

    async def turn(self, now_ms: int) -> None:
        """Look once at exchange time `now_ms`, if anybody listens. A database that is away is counted, never raised."""
        wanted = self._hub.ticker_streams()
        if not wanted:
            self._sent.clear()
            return
        try:
            days = await self._days.of_all(now_ms)
        except (StoreBusy, DatabaseUnavailable, DatabaseRefused):
            self._stats.add("tickers_failed")
            return
        changed = {
            symbol: day.ticker(symbol, self._closed_ms(symbol, now_ms))
            for symbol, day in days.items()
            if day.minutes and self._sent.get(symbol) != day
        }
        self._sent = days
        for name, (kind, symbol) in wanted.items():
            if symbol is None and changed:
                events = [event_of(kind, ticker, now_ms) for ticker in changed.values()]
                self._hub.publish_array(name, compact(events))
            elif symbol in changed:
                self._hub.publish_ticker(name, compact(event_of(kind, changed[symbol], now_ms)), now_ms)
        self._hub.flush()

"""`/udf`: klines for TradingView's charts, as the charting library's page "UDF" describes a data feed over HTTP.

| path | answer |
|---|---|
| `/udf/config` | what the feed can do |
| `/udf/symbols?symbol=` | how a symbol is to be drawn |
| `/udf/search?query=&type=&exchange=&limit=` | symbols whose names hold the query |
| `/udf/history?symbol=&resolution=&from=&to=&countback=` | columns of bars, `no_data` with `nextTime`, or an error |
| `/udf/time` | exchange time in s |

An error is `{"s":"error","errmsg":…}` with HTTP 200.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from aiohttp import web

from gateway.fapi import History
from gateway.history import Range
from gateway.market import MarketState
from gateway.store import StoreBusy
from klagg.binance.serving.exchange_info import ListedSymbol
from klagg.binance.serving.payloads import compact
from klagg.clock import local_ms, steady_ms
from klagg.errors import DatabaseRefused, DatabaseUnavailable
from klagg.kline import Kline
from klagg.process.stats import Stats

EXCHANGE: Final = "BINANCE"
TYPE: Final = "crypto"

BARS_MAX: Final = 5000
"""Bars of one answer: the newest of the range, since the library asks for older ones by itself."""

SEARCH_DEFAULT: Final = 30
SEARCH_MAX: Final = 1000

TIME_S_MAX: Final = 253_402_300_799
"""The last second of the year 9999."""

RESOLUTIONS: Final = {
    "1s": "1S",
    "1m": "1",
    "3m": "3",
    "5m": "5",
    "15m": "15",
    "30m": "30",
    "1h": "60",
    "2h": "120",
    "4h": "240",
    "6h": "360",
    "8h": "480",
    "12h": "720",
    "1d": "1D",
    "3d": "3D",
    "1w": "1W",
    "1M": "1M",
}
"""Intervals as the library's page "Resolution" writes them: minutes as a number, else with a unit."""

_SHORT: Final = {"S": "1S", "D": "1D", "W": "1W", "M": "1M"}
"""Older versions of the library leave the 1 out."""

_WHOLE: Final = re.compile(r"-?[0-9]{1,15}", re.ASCII)

Query = Mapping[str, str]
Answer = Callable[[Query], Awaitable[object]]


class UdfError(Exception):
    """The request fails with this sentence."""


@dataclass(slots=True)
class Udf:
    """Handlers of `/udf`."""

    market: MarketState
    history: History
    stats: Stats

    def routes(self) -> list[web.RouteDef]:
        """The routes of all paths."""
        answers: dict[str, Answer] = {
            "config": self._config,
            "symbols": self._symbols,
            "search": self._search,
            "history": self._history,
            "time": self._time,
        }
        return [web.get(f"/udf/{name}", self._handler(answer)) for name, answer in answers.items()]

    def _handler(
        self, answer: Callable[[Query], Awaitable[object]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            self.stats.add("requests")
            try:
                body = await answer(request.query)
            except UdfError as error:
                body = {"s": "error", "errmsg": str(error)}
            except StoreBusy:
                self.stats.add("requests_refused")
                body = {"s": "error", "errmsg": "too many requests wait for the database; try again later"}
            except (DatabaseUnavailable, DatabaseRefused):
                self.stats.add("requests_failed")
                body = {"s": "error", "errmsg": "the database cannot answer now; try again later"}
            if isinstance(body, int):
                return web.Response(text=str(body))
            return web.Response(text=compact(body), content_type="application/json")

        return handle

    def _resolutions(self) -> dict[str, str]:
        """The intervals of this klagg by resolution, shortest first."""
        return {RESOLUTIONS[each.name]: each.name for each in self.market.intervals if each.name in RESOLUTIONS}

    async def _config(self, _: Query) -> object:
        return {
            "supports_search": True,
            "supports_group_request": False,
            "supports_marks": False,
            "supports_timescale_marks": False,
            "supports_time": True,
            "supported_resolutions": list(self._resolutions()),
            "exchanges": [{"value": EXCHANGE, "name": "Binance", "desc": "Binance USDⓈ-M futures"}],
            "symbols_types": [{"value": TYPE, "name": "Perpetual futures"}],
        }

    async def _time(self, _: Query) -> int:
        found = self.market.server_time_ms(steady_ms(), local_ms())
        if not found:
            raise UdfError("this server waits for the exchange's time; try again in a moment")
        return found // 1000

    async def _symbols(self, query: Query) -> object:
        symbol = self._symbol(query)
        resolutions = self._resolutions()
        listed = self.market.carried.get(symbol)
        minutes = [each for each in resolutions if each.isdecimal()]
        return {
            "name": symbol,
            "ticker": symbol,
            "description": f"{symbol} perpetual",
            "type": TYPE,
            "exchange": EXCHANGE,
            "listed_exchange": EXCHANGE,
            "session": "24x7",
            "timezone": "Etc/UTC",
            "format": "price",
            **self._steps(symbol, listed),
            "has_intraday": bool(minutes),
            "intraday_multipliers": minutes,
            "has_seconds": "1S" in resolutions,
            "seconds_multipliers": ["1"] if "1S" in resolutions else [],
            "has_daily": "1D" in resolutions,
            "daily_multipliers": [each[:-1] for each in resolutions if each.endswith("D")],
            "has_weekly_and_monthly": "1W" in resolutions and "1M" in resolutions,
            "weekly_multipliers": ["1"] if "1W" in resolutions else [],
            "monthly_multipliers": ["1"] if "1M" in resolutions else [],
            "supported_resolutions": list(resolutions),
            "volume_precision": _decimals(listed.step_size if listed and listed.step_size else "0.001"),
            "data_status": "streaming" if listed else "endofday",
            "expired": listed is None,
        }

    def _steps(self, symbol: str, listed: ListedSymbol | None) -> dict[str, int]:
        """The price moves in steps of minmov / pricescale: the exchange's tick, or the last digit of the last price."""
        if listed is not None and listed.tick_size and Decimal(listed.tick_size) > 0:
            decimals = _decimals(listed.tick_size)
            return {"minmov": int(Decimal(listed.tick_size).scaleb(decimals)), "pricescale": 10**decimals}
        last = self.market.last(symbol)
        return {"minmov": 1, "pricescale": 10 ** (_decimals(last.close) if last else 2)}

    async def _search(self, query: Query) -> object:
        if self.market.waits_for():
            raise UdfError(f"this server waits for {self.market.waits_for()}; try again in a moment")
        text = query.get("query", "").strip().upper().rpartition(":")[2]
        limit = _whole(query, "limit", SEARCH_DEFAULT)
        if query.get("type", "") not in {"", TYPE} or query.get("exchange", "") not in {"", EXCHANGE}:
            return []
        names = [each for each in self.market.names() if text in each.upper()]
        names.sort(key=lambda each: (not each.upper().startswith(text), each))
        return [
            {
                "symbol": each,
                "full_name": each,
                "ticker": each,
                "description": f"{each} perpetual",
                "exchange": EXCHANGE,
                "type": TYPE,
            }
            for each in names[: max(0, min(limit, SEARCH_MAX))]
        ]

    async def _history(self, query: Query) -> object:
        symbol, interval = self._symbol(query), self._interval(query)
        from_s, to_s = _whole(query, "from", 0), _whole(query, "to", TIME_S_MAX)
        countback = _whole(query, "countback", 0)
        # `to` is exclusive, and countback overrules `from`: so many bars before `to`, however old they are.
        start_ms = None if countback > 0 else max(from_s, 0) * 1000
        end_ms = min(to_s, TIME_S_MAX) * 1000 - 1
        bars: list[Kline] = []
        if end_ms >= 0:
            found = await self.history.klines(
                symbol, interval, Range(None, end_ms, min(countback or BARS_MAX, BARS_MAX))
            )
            bars = [each for each in found if start_ms is None or each.open_time >= start_ms]
            if not bars and found:
                return {"s": "no_data", "nextTime": found[-1].open_time // 1000}
        if not bars:
            return {"s": "no_data"}
        return {
            "s": "ok",
            "t": [each.open_time // 1000 for each in bars],
            **{
                letter: [float(getattr(each, name)) for each in bars]
                for letter, name in (("o", "open"), ("h", "high"), ("l", "low"), ("c", "close"), ("v", "volume"))
            },
        }

    def _symbol(self, query: Query) -> str:
        """The symbol of a request; a prefix of an exchange is left out."""
        symbol = query.get("symbol", "").rpartition(":")[2]
        if waits_for := self.market.waits_for(symbol):
            raise UdfError(f"this server waits for {waits_for}; try again in a moment")
        if symbol not in self.market:
            raise UdfError("unknown_symbol")
        return symbol

    def _interval(self, query: Query) -> str:
        resolution, known = query.get("resolution", ""), self._resolutions()
        interval = known.get(_SHORT.get(resolution, resolution))
        if interval is None:
            raise UdfError(f"unknown resolution {resolution[:20]!r}: this server has {', '.join(known)}")
        return interval


def _whole(query: Query, name: str, default: int) -> int:
    text = query.get(name, "")
    if not text:
        return default
    if not _WHOLE.fullmatch(text):
        raise UdfError(f"the parameter {name} must be a whole number")
    return int(text)


def _decimals(text: str) -> int:
    """How many decimals a step or a price needs."""
    return len(text.partition(".")[2].rstrip("0"))

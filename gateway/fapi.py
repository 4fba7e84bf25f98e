"""Binance's USDⓈ-M REST paths, answered from the table and live state: same parameters, payloads, codes and weights."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from gateway.addresses import is_loopback
from gateway.day_ticker import DayTickers
from gateway.feed_trades import Wanted
from gateway.history import Range, joined, wire_of
from gateway.market import MarketState
from gateway.pass_through import Forwarded, PassThrough
from gateway.store import HistoryStore, StoreBusy
from gateway.trade_reader import TradeReader
from klagg.binance.limits import (
    AGG_TRADES_WEIGHT,
    ALL_DAY_TICKERS_WEIGHT,
    ALL_TICKER_PRICES_WEIGHT,
    DAY_TICKER_WEIGHT,
    EXCHANGE_INFO_WEIGHT,
    TICKER_PRICE_WEIGHT,
    TIME_WEIGHT,
    klines_weight,
)
from klagg.binance.serving import errors
from klagg.binance.serving.errors import ApiError
from klagg.binance.serving.limits import Limits, WeightLimiter
from klagg.binance.serving.parameters import (
    KlinesRequest,
    agg_trades_request,
    continuous_klines_request,
    klines_request,
    requested_limit,
)
from klagg.binance.serving.payloads import compact, rest_kline
from klagg.clock import local_ms, steady_ms
from klagg.errors import DatabaseRefused, DatabaseUnavailable, RedisRefused, RedisUnavailable
from klagg.intervals import HOUR_MS, INTERVALS
from klagg.kline import Kline
from klagg.process.stats import Stats

STALE_HEADER: Final = "X-Klagg-Stale-Ms"
"""The response header with the age (ms) of live state; absent while the state is live."""

LEFT_OUT_HEADER: Final = "X-Klagg-Left-Out"
"""The response header of exchangeInfo with how many symbols of the exchange klagg does not carry."""

INCOMPLETE_HEADER: Final = "X-Klagg-Incomplete"
"""The response header of ticker/24hr with how many of its minutes are missing or not proven, and of aggTrades with how
many ids between its trades are missing; absent if none is."""

SINCE_HEADER: Final = "X-Klagg-Since-Ms"
"""The response header of aggTrades where the request reaches further back than the answer: it has the trades since this
exchange time (ms), because the feed holds no older ones, or they are too many to be read."""

UNTIL_HEADER: Final = "X-Klagg-Until-Ms"
"""The response header of aggTrades where the feed was read up to this exchange time (ms) only, because there was more
than a request may read."""

ASKED_HEADER: Final = "X-Klagg-Asked-Ms"
"""The response header of exchangeInfo with the exchange time (ms) at which it was asked; absent if it is not known."""

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Written:
    """An answer that is JSON text already, with headers of its own."""

    text: str
    headers: Mapping[str, str]


Answer = Callable[[Query], Awaitable[object]]
Weight = Callable[[Query], int]


@dataclass(slots=True)
class History:
    """Series from the table and live state together; without a store from live state only."""

    market: MarketState
    store: HistoryStore | None

    async def klines(self, symbol: str, interval: str, wanted: Range) -> list[Kline]:
        """The wanted bars by open time. Raises StoreBusy, DatabaseUnavailable, DatabaseRefused."""
        live = self.market.bars(
            symbol, interval
        )  # before the table: a final that is written meanwhile is then found in the table
        stored = await self.store.klines(symbol, interval, wanted) if self.store else []
        return joined(stored, live, symbol, INTERVALS[interval], wanted)

    def live(self, symbol: str, interval: str, wanted: Range) -> list[Kline]:
        """The wanted bars of live state alone, by open time."""
        return joined([], self.market.bars(symbol, interval), symbol, INTERVALS[interval], wanted)


@dataclass(slots=True)
class Fapi:
    """Handlers of `/fapi/v1`."""

    market: MarketState
    history: History
    days: DayTickers
    stats: Stats
    weight_per_minute: int
    client_of: Callable[[web.Request], str]
    """Whose weight a request is charged to."""
    trades: TradeReader | None = None
    """The aggTrades of the feed; None where the lines receive fills."""
    pass_through: PassThrough | None = None
    """Where requests for data go that klagg does not have; None: nowhere."""

    _limits: Limits = field(init=False)
    _weights: WeightLimiter = field(init=False)

    def __post_init__(self) -> None:
        self._limits = Limits(weight_per_minute=self.weight_per_minute)
        self._weights = WeightLimiter(self._limits)

    def routes(self) -> list[web.RouteDef]:
        """The routes of all paths. Their weights: Binance USDⓈ-M docs, the page of each endpoint, 'Request Weight'."""

        def of_rows(query: Query) -> int:
            return klines_weight(requested_limit(query))

        def of_tickers(query: Query) -> int:
            return TICKER_PRICE_WEIGHT if "symbol" in query else ALL_TICKER_PRICES_WEIGHT

        def of_days(query: Query) -> int:
            return DAY_TICKER_WEIGHT if "symbol" in query else ALL_DAY_TICKERS_WEIGHT

        paths: list[tuple[str, Weight, Answer]] = [
            ("/fapi/v1/ping", lambda _: 1, self._ping),
            ("/fapi/v1/time", lambda _: TIME_WEIGHT, self._time),
            ("/fapi/v1/exchangeInfo", lambda _: EXCHANGE_INFO_WEIGHT, self._exchange_info),
            ("/fapi/v1/klines", of_rows, self._klines),
            ("/fapi/v1/continuousKlines", of_rows, self._continuous_klines),
            ("/fapi/v1/ticker/price", of_tickers, self._ticker_price),
            ("/fapi/v2/ticker/price", of_tickers, self._ticker_price),
            ("/fapi/v1/ticker/24hr", of_days, self._ticker_day),
            ("/fapi/v1/aggTrades", lambda _: AGG_TRADES_WEIGHT, self._agg_trades),
            *(self.pass_through.answers() if self.pass_through else []),
        ]
        routes = [web.get(path, self._limited(weight, answer)) for path, weight, answer in paths]
        return [*routes, web.route("*", "/fapi/{path:.*}", self._unknown)]

    def now_ms(self) -> int:
        """Exchange time in ms. Raises ApiError while nothing has told it."""
        found = self.market.server_time_ms(steady_ms(), local_ms())
        if not found:
            raise self._not_ready("the exchange's time, which klagg-clock reads")
        return found

    def _check_ready(self, symbol: str | None = None) -> None:
        """Raises ApiError while the answer would be a part of the right one."""
        waits_for = self.market.waits_for(symbol)
        if waits_for:
            raise self._not_ready(waits_for)

    def _not_ready(self, waits_for: str) -> ApiError:
        self.stats.add("requests_unready")
        return errors.not_ready(waits_for)

    def _limited(self, weight: Weight, answer: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Charge a request's weight, answer it, and turn errors into Binance's shape."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.stats.add("requests")
            address = self.client_of(request)
            now_ms, banned = time.time_ns() // 1_000_000, not is_loopback(address)
            verdict = self._weights.charge(address, weight(request.query), now_ms, banned=banned)
            headers = {"X-MBX-USED-WEIGHT-1M": str(verdict.used_weight), **self._freshness()}
            if verdict.status != 200:
                headers["Retry-After"] = str(verdict.retry_after_s)
                if verdict.status == 418:
                    return _refused(errors.banned(address, verdict.banned_until_ms), headers)
                return _refused(errors.too_many_requests(self.weight_per_minute), headers)
            try:
                return _answered(await answer(request.query), headers)
            except ApiError as error:
                return _refused(error, headers)
            except StoreBusy:
                self.stats.add("requests_refused")
                return _refused(errors.busy(), headers)
            except (DatabaseUnavailable, DatabaseRefused, RedisUnavailable, RedisRefused):
                self.stats.add("requests_failed")
                return _refused(errors.unavailable(), headers)

        return handle

    def _freshness(self) -> dict[str, str]:
        stale_ms = self.market.stale_for_ms(steady_ms())
        return {STALE_HEADER: str(stale_ms)} if stale_ms else {}

    async def _ping(self, _: Query) -> object:
        return {}

    async def _time(self, _: Query) -> object:
        return {"serverTime": self.now_ms()}

    async def _exchange_info(self, _: Query) -> object:
        info = self.market.info
        if info is None:
            raise self._not_ready(self.market.waits_for())
        headers = {LEFT_OUT_HEADER: str(info.left_out)}
        if info.kept.asked_ms:
            headers[ASKED_HEADER] = str(info.kept.asked_ms)
        return Written(info.body(self.now_ms()), headers)

    async def _klines(self, query: Query) -> object:
        self._check_ready(query.get("symbol"))
        return await self._rows(klines_request(query, self.market, self._intervals(), self._limits.klines_rows))

    async def _continuous_klines(self, query: Query) -> object:
        self._check_ready(query.get("pair"))
        rows = self._limits.klines_rows
        return await self._rows(continuous_klines_request(query, self.market, self._intervals(), rows))

    def _intervals(self) -> set[str]:
        return {interval.name for interval in self.market.intervals}

    async def _rows(self, request: KlinesRequest) -> object:
        wanted = Range(request.start_ms, request.end_ms, request.limit)
        klines = await self.history.klines(request.symbol, request.interval, wanted)
        return [rest_kline(wire_of(kline)) for kline in klines]

    async def _ticker_price(self, query: Query) -> object:
        self._check_ready()
        symbol = query.get("symbol")
        if symbol is None:
            return [self._price(each) for each in self.market.live_symbols()]
        if not self.market.last(symbol):
            if symbol in self.market.carried:
                raise self._not_ready(f"the first trade of {symbol}")
            raise errors.invalid_symbol()
        return self._price(symbol)

    async def _ticker_day(self, query: Query) -> object:
        symbol = query.get("symbol")
        self._check_ready(symbol)
        now_ms = self.now_ms()
        if symbol is None:
            days = await self.days.of_all(now_ms)
        else:
            days = {symbol: await self.days.of(symbol, now_ms)}
        traded = {name: day for name, day in days.items() if day.minutes}
        if symbol is not None and not traded:
            if symbol in self.market.carried:
                raise self._not_ready(f"the first trade of {symbol}")
            raise errors.invalid_symbol()
        tickers = [day.ticker(name, self.market.changed_ms(name, now_ms)) for name, day in traded.items()]
        lacking = sum(day.lacking for day in traded.values())
        text = compact(tickers if symbol is None else tickers[0])
        return Written(text, {INCOMPLETE_HEADER: str(lacking)} if lacking else {})

    async def _agg_trades(self, query: Query) -> object:
        self._check_ready(query.get("symbol"))
        request = agg_trades_request(query, self.market, self._limits.agg_trades_rows)
        if self.trades is None:
            raise errors.unsupported("This klagg receives fills (exchange.source is trade), which are no aggTrades.")
        end_ms = request.end_ms
        if end_ms is None and request.start_ms is not None:
            end_ms = request.start_ms + HOUR_MS
        listed = self.market.carried.get(request.symbol)
        onboard_ms = listed.onboard_ms if listed else 0
        wanted = Wanted(request.limit, request.from_id, request.start_ms, end_ms, onboard_ms)
        found = await self.trades.trades(request.symbol, wanted, self.now_ms())
        told = {INCOMPLETE_HEADER: found.missing or None, SINCE_HEADER: found.since_ms, UNTIL_HEADER: found.until_ms}
        headers = {name: str(value) for name, value in told.items() if value is not None}
        return Written(compact([trade.row() for trade in found.trades]), headers)

    def _price(self, symbol: str) -> dict[str, object]:
        bar = self.market.last(symbol)
        return {"symbol": symbol, "price": bar.close if bar else "0", "time": bar.at_ms if bar else 0}

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        return _refused(errors.unknown_path(request.path, request.method), {})


def _answered(body: object, headers: Mapping[str, str]) -> web.Response:
    if isinstance(body, Written):
        return web.Response(text=body.text, headers={**headers, **body.headers}, content_type="application/json")
    if isinstance(body, Forwarded):
        theirs = {name.lower() for name in body.headers}
        ours = {name: value for name, value in headers.items() if name.lower() not in theirs}
        return web.Response(body=body.body, status=body.status, headers={**ours, **body.headers})
    return _json(body, 200, headers)


def _json(body: object, status: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(text=compact(body), status=status, headers=headers, content_type="application/json")


def _refused(error: ApiError, headers: Mapping[str, str]) -> web.Response:
    return _json(error.body(), error.status, headers)

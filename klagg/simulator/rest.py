"""The REST endpoints: Binance's under /fapi/v1, the simulator's own under /klagg."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from itertools import takewhile
from typing import Any

from aiohttp import web

from klagg.binance.limits import (
    AGG_TRADES_WEIGHT,
    ALL_DAY_TICKERS_WEIGHT,
    DAY_TICKER_WEIGHT,
    EXCHANGE_INFO_WEIGHT,
    TIME_WEIGHT,
    klines_weight,
)
from klagg.binance.serving import errors
from klagg.binance.serving.errors import ApiError
from klagg.binance.serving.limits import Limits, WeightLimiter
from klagg.binance.serving.parameters import (
    AggTradesRequest,
    KlinesRequest,
    agg_trades_request,
    klines_request,
    requested_limit,
)
from klagg.binance.serving.payloads import compact
from klagg.simulator.clock import MarketClock
from klagg.simulator.exchange_info import exchange_info
from klagg.simulator.fault_player import TRUTH, FaultPlayer, Refusal
from klagg.simulator.history import klines
from klagg.simulator.market import DAY_MS, KLINE_INTERVALS, MarketSource, MarketTrade
from klagg.simulator.payloads import rest_agg_trade, rest_day_ticker, rest_kline
from klagg.simulator.player import Player

_HOUR_MS = 3_600_000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RestApi:
    """Handlers over a source and a clock. Whatever computes long runs in `executor`, never on the event loop."""

    def __init__(
        self,
        source: MarketSource,
        clock: MarketClock,
        player: Player,
        limits: Limits,
        executor: Executor,
        faults: FaultPlayer | None = None,
    ) -> None:
        self._faults = faults
        self._source = source
        self._clock = clock
        self._player = player
        self._limits = limits
        self._executor = executor
        self._weights = WeightLimiter(limits)
        self.requests = 0

    def routes(self) -> list[web.RouteDef]:
        """The routes of the exchange's own endpoints."""
        return [
            web.get("/fapi/v1/ping", self._limited(lambda _: 1, self._ping)),
            web.get("/fapi/v1/time", self._limited(lambda _: TIME_WEIGHT, self._time)),
            web.get("/fapi/v1/exchangeInfo", self._limited(lambda _: EXCHANGE_INFO_WEIGHT, self._exchange_info)),
            web.get(
                "/fapi/v1/klines", self._limited(lambda query: klines_weight(requested_limit(query)), self._klines)
            ),
            web.get(
                "/fapi/v1/ticker/24hr",
                self._limited(
                    lambda query: DAY_TICKER_WEIGHT if "symbol" in query else ALL_DAY_TICKERS_WEIGHT, self._day_tickers
                ),
            ),
            web.get("/fapi/v1/aggTrades", self._limited(lambda _: AGG_TRADES_WEIGHT, self._agg_trades)),
            web.get("/klagg/trades", self._trades),
            web.route("*", "/{path:.*}", self._unknown),
        ]

    def now_ms(self) -> int:
        """Exchange time."""
        return self._clock.ms(time.monotonic())

    def reported_ms(self) -> int:
        """The server time that is told: exchange time, unless a fault puts it off."""
        return self.now_ms() + (self._faults.skew_ms() if self._faults is not None else 0)

    def played_ms(self) -> int:
        """Up to when REST tells of trades: never ahead of the streams."""
        return self._player.position_ms

    def _limited(
        self, weight: Callable[[Mapping[str, str]], int], answer: Callable[[Mapping[str, str]], Awaitable[object]]
    ) -> Handler:
        """Charges a request's weight, answers it, and turns ApiError into the exchange's error shape."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests += 1
            refusal = self._faults.request(request.path) if self._faults is not None else None
            if refusal is not None:
                return refused(request, refusal)
            address = request.remote or "unknown"
            verdict = self._weights.charge(address, weight(request.query), time.time_ns() // 1_000_000)
            headers = {"X-MBX-USED-WEIGHT-1M": str(verdict.used_weight)}
            if verdict.status != 200:
                headers["Retry-After"] = str(verdict.retry_after_s)
                trouble = (
                    errors.banned(address, verdict.banned_until_ms)
                    if verdict.status == 418
                    else errors.too_many_requests(self._limits.weight_per_minute)
                )
                return _json(trouble.body(), verdict.status, headers)
            try:
                return _json(await answer(request.query), 200, headers)
            except ApiError as error:
                return _json(error.body(), error.status, headers)

        return handle

    async def _ping(self, _: Mapping[str, str]) -> object:
        return {}

    async def _time(self, _: Mapping[str, str]) -> object:
        body: dict[str, object] = {"serverTime": self.reported_ms()}
        if self._clock.simulated:
            # The rate at which the time told here goes on: a held clock stands until its first subscriber comes.
            body |= {"klaggSimulated": True, "klaggSpeed": 0 if self._clock.held else self._clock.speed}
        return body

    async def _exchange_info(self, _: Mapping[str, str]) -> object:
        now_ms = self.now_ms()
        listings = self._source.listings(now_ms)
        if self._faults is not None:
            listings = self._faults.listed(listings)
        return exchange_info(listings, self.reported_ms(), self._limits.weight_per_minute)

    async def _klines(self, query: Mapping[str, str]) -> object:
        request = klines_request(query, self._symbols(self.now_ms()), KLINE_INTERVALS, self._limits.klines_rows)
        return await self._run(self._compute_klines, request)

    def _compute_klines(self, request: KlinesRequest) -> object:
        bars = klines(
            self._source,
            request.symbol,
            request.interval,
            request.start_ms,
            request.end_ms,
            request.limit,
            self.played_ms(),
        )
        return [rest_kline(bar) for bar in bars]

    async def _agg_trades(self, query: Mapping[str, str]) -> object:
        request = agg_trades_request(query, self._symbols(self.now_ms()), self._limits.agg_trades_rows)
        return await self._run(self._compute_agg_trades, request)

    def _compute_agg_trades(self, request: AggTradesRequest) -> object:
        now_ms = self.played_ms()
        oldest_ms = now_ms - self._limits.agg_trades_depth_ms

        def between(start_ms: int, end_ms: int, limit: int, *, newest: bool) -> list[MarketTrade]:
            start_ms = max(start_ms, oldest_ms)
            return list(self._source.aggregates_between(request.symbol, start_ms, end_ms, limit, now_ms, newest=newest))

        if request.from_id is not None:
            oldest = between(oldest_ms, now_ms, 1, newest=False)
            from_id = max(request.from_id, oldest[0].id if oldest else 0)
            trades = list(self._source.aggregates_from(request.symbol, from_id, request.limit, now_ms))
        elif request.start_ms is not None:
            end_ms = request.start_ms + _HOUR_MS if request.end_ms is None else request.end_ms
            trades = between(request.start_ms, end_ms, request.limit, newest=False)
        else:
            trades = between(oldest_ms, request.end_ms or now_ms, request.limit, newest=True)
        return [rest_agg_trade(trade) for trade in trades]

    async def _day_tickers(self, query: Mapping[str, str]) -> object:
        names = list(self._symbols(self.now_ms()))
        wanted = query.get("symbol")
        if wanted is not None and wanted not in names:
            raise errors.invalid_symbol()
        rows = await self._run(self._compute_day_tickers, names if wanted is None else [wanted])
        return rows if wanted is None else rows[0] if rows else {}

    def _compute_day_tickers(self, names: Sequence[str]) -> list[object]:
        """The tickers of these symbols; one that has not traded within a day has none."""
        played_ms = self.played_ms()
        rows: list[object] = []
        for name in names:
            tale = self._faults.ticker("rest", name) if self._faults is not None else TRUTH
            if tale is None:
                continue
            now_ms = played_ms - tale.behind_ms
            since_ms = max(now_ms - DAY_MS, self._source.history_start_ms(name, now_ms))
            ends = [
                self._source.aggregates_between(name, since_ms, now_ms, 1, now_ms, newest=newest)
                for newest in (False, True)
            ]
            if all(ends):
                last = ends[1][0]
                fills = self._source.fills_between(name, last.time_ms, now_ms, now_ms)
                behind = takewhile(lambda fill: not fill.counts, (each for each in fills if each.id > last.last))
                last_id = max((each.id for each in behind), default=last.last) + tale.ids
                told_ms = played_ms - tale.late_ms
                rows.append(rest_day_ticker(ends[0][0], last, last_id, told_ms - DAY_MS, told_ms))
        return rows

    async def _trades(self, request: web.Request) -> web.StreamResponse:
        """The record of what was played: JSON lines of one symbol between `from` and `to` (ms), `ids` agg or trade.

        `asof` (ms) asks what it was then, for symbols that have been delisted or listed anew since.
        """
        query = request.query
        asof = query.get("asof", "")
        now_ms = min(self.played_ms(), int(asof)) if asof.isdecimal() else self.played_ms()
        try:
            check = {"symbol": query.get("symbol", ""), "startTime": query.get("from", "0")}
            start_ms = (
                klines_request({**check, "interval": "1m"}, self._symbols(now_ms), KLINE_INTERVALS, 1).start_ms or 0
            )
        except ApiError as error:
            return _json(error.body(), error.status, {})
        end_ms = int(query["to"]) if query.get("to", "").isdigit() else now_ms
        read = self._source.fills_between if query.get("ids") == "trade" else self._all_aggregates
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        at_ms = max(start_ms, self._source.history_start_ms(check["symbol"], now_ms) - _HOUR_MS)
        while at_ms <= end_ms:
            until_ms = min(at_ms + 60_000 - 1, end_ms)
            trades = await self._run(read, check["symbol"], at_ms, until_ms, now_ms)
            lines = [compact(trade._asdict() | {"counts": trade.counts}) + "\n" for trade in trades]
            if lines:
                await response.write("".join(lines).encode())
            at_ms = until_ms + 1
        return response

    def _all_aggregates(self, symbol: str, start_ms: int, end_ms: int, now_ms: int) -> list[MarketTrade]:
        return list(self._source.aggregates_between(symbol, start_ms, end_ms, 2**62, now_ms, newest=False))

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        error = errors.unknown_path(request.path, request.method)
        return _json(error.body(), error.status, {})

    def _symbols(self, now_ms: int) -> Mapping[str, object]:
        return {listing.symbol: listing for listing in self._source.listings(now_ms)}

    async def _run(self, compute: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, compute, *args)


def refused(request: web.Request, refusal: Refusal) -> web.Response:
    """Turns a request away, as a fault wants it."""
    if refusal.status is None:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=503)  # nobody is there any more to read it
    address, weight_per_minute = request.remote or "unknown", Limits().weight_per_minute
    error = errors.turned_away(address, refusal.status, refusal.retry_after_s, weight_per_minute, time.time())
    if not refusal.header:
        told = errors.banned(address, int(time.time() + refusal.retry_after_s) * 1000)
        return _json(told.body(), refusal.status, {})
    headers = {"Retry-After": str(refusal.retry_after_s)} if refusal.retry_after_s and refusal.header else {}
    return _json(error.body(), error.status, headers)


def _json(body: object, status: int, headers: Mapping[str, str]) -> web.Response:
    return web.Response(text=compact(body), status=status, headers=headers, content_type="application/json")

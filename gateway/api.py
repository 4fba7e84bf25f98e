"""klagg's own API under `/api`: klines with provenance, files, symbols, gaps, findings, status, OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

from aiohttp import web

import klagg
from gateway.downloads import Downloads
from gateway.endpoints import SCOREBOARD_DAYS, SCOREBOARD_DAYS_MAX, TIME_MAX, ApiEndpoint, ApiProblem, endpoints
from gateway.fapi import History
from gateway.files import MEDIA, DigitsChanged, fields_of, formats
from gateway.history import Range
from gateway.hub import Hub
from gateway.live import LiveBar
from gateway.market import MarketState
from gateway.openapi import openapi
from gateway.store import HistoryStore, StoreBusy
from gateway.survey import Survey, findings_of
from klagg.binance.serving.exchange_info import ListedSymbol
from klagg.binance.serving.payloads import compact
from klagg.clock import local_ms, steady_ms
from klagg.errors import DatabaseRefused, DatabaseUnavailable
from klagg.intervals import DAY_MS
from klagg.process.heartbeats import StatusReport
from klagg.process.stats import Stats
from klagg.wire.entry_id import milliseconds_of

DAY: Final = "1d"

NOT_LISTED: Final = ListedSymbol(None, None, None)
"""A symbol that the exchange does not list now, or that klagg does not carry."""

Values = dict[str, Any]


@dataclass(slots=True)
class Api:
    """Handlers of `/api`. `survey` returns the latest survey of Redis; `token` says whether a token is required."""

    market: MarketState
    history: History
    store: HistoryStore | None
    hub: Hub
    survey: Callable[[], Survey]
    stats: Stats
    token: bool
    exchange: str
    """The host of the exchange that the trades come from."""

    client_of: Callable[[web.Request], str] = lambda request: request.remote or "unknown"
    """The address that a request comes from."""

    expected: Sequence[str] = ()
    """The processes that the configuration starts, by the names of their heartbeats."""

    report: Callable[[], StatusReport] = lambda: StatusReport([], [])
    """What the heartbeats of the latest survey say."""

    unserved: Mapping[str, int] = field(default_factory=dict)
    """Subscriptions to streams that klagg does not make, by name."""

    _endpoints: Mapping[str, ApiEndpoint] = field(init=False)
    downloads: Downloads = field(init=False)

    def __post_init__(self) -> None:
        self._endpoints = endpoints(
            [interval.name for interval in self.market.intervals], {name: MEDIA[name] for name in formats()}
        )
        self.downloads = Downloads(self.history, self.stats)

    def routes(self) -> list[web.RouteDef]:
        """The routes of all endpoints."""
        answers: dict[str, Callable[[Values], Awaitable[object]]] = {
            "klines": self._klines,
            "symbols": self._symbols,
            "gaps": self._gaps,
            "findings": self._findings,
            "scoreboard": self._scoreboard,
            "status": self._status,
            "openapi": self._openapi,
        }
        routes = [web.get(self._endpoints[name].path, self._json(name, answer)) for name, answer in answers.items()]
        download = web.get(self._endpoints["download"].path, self._download)
        return [*routes, download, web.get("/api", self._unknown), web.get("/api/{path:.*}", self._unknown)]

    def _json(
        self, name: str, answer: Callable[[Values], Awaitable[object]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler that checks the query and answers with JSON, also if something is wrong."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.stats.add("requests")
            try:
                body = await _with_database_problems(answer(self._endpoints[name].read(request.query.items())))
            except ApiProblem as problem:
                return _refused(problem)
            return web.Response(text=compact(body), content_type="application/json")

        return handle

    async def _klines(self, values: Values) -> object:
        self._check_symbol(values["symbol"])
        wanted = Range(values["start"], values["end"], values["limit"])
        found = await self.history.klines(values["symbol"], values["interval"], wanted)
        return {
            "symbol": values["symbol"],
            "interval": values["interval"],
            "stale_for_ms": self.market.stale_for_ms(steady_ms()),
            "klines": [fields_of(each) for each in found],
        }

    def _check_ready(self, symbol: str | None = None) -> None:
        """ApiProblem (503) while the answer would be a part of the right one."""
        waits_for = self.market.waits_for(symbol)
        if waits_for:
            self.stats.add("requests_unready")
            raise ApiProblem(503, "not_ready", f"the gateway waits for {waits_for}; try again in a moment")

    def _check_symbol(self, symbol: str) -> None:
        self._check_ready(symbol)
        if symbol not in self.market:
            raise ApiProblem(404, "unknown_symbol", f"klagg knows no symbol {symbol!r}")

    async def _symbols(self, _: Values) -> object:
        self._check_ready()
        live = self.market.live_symbols()
        others = [each for each in self.market.names() if each not in set(live)]
        return {
            "stale_for_ms": self.market.stale_for_ms(steady_ms()),
            "names_read": self.market.names_read,
            "symbols": [self._symbol(symbol) for symbol in (*live, *others)],
        }

    def _symbol(self, symbol: str) -> dict[str, object]:
        listed = self.market.carried.get(symbol, NOT_LISTED)
        row = _row_of_symbol(symbol, listed.status, self.market.last(symbol), self.market.newest(symbol, DAY))
        return {**row, "tick_size": listed.tick_size, "step_size": listed.step_size}

    async def _gaps(self, values: Values) -> object:
        return {"gaps": await self._stored().gaps(values["symbol"], values["open"], values["limit"])}

    async def _findings(self, values: Values) -> object:
        if self.store is None:
            if not self.survey().made:
                raise ApiProblem(503, "not_ready", "the gateway waits for the findings in Redis; try again in a moment")
            rows = findings_of(self.survey(), values["symbol"], values["severity"], values["open"])
            return {"findings": rows[: values["limit"]]}
        wanted = values["symbol"], values["severity"], values["open"], values["limit"]
        return {"findings": await self._stored().findings(*wanted)}

    async def _scoreboard(self, values: Values) -> object:
        last_ms = values["end"] if values["end"] is not None else self.market.time_ms(steady_ms()) or int(local_ms())
        end_ms = last_ms // DAY_MS * DAY_MS + DAY_MS
        first_ms = end_ms - SCOREBOARD_DAYS * DAY_MS if values["start"] is None else values["start"] // DAY_MS * DAY_MS
        end_ms = min(end_ms, first_ms + SCOREBOARD_DAYS_MAX * DAY_MS)
        intervals = [values["interval"]] if values["interval"] else [each.name for each in self.market.intervals]
        span = max(first_ms, 0), min(end_ms, TIME_MAX)
        days, symbols = await self._stored().scoreboard(span, values["symbol"], intervals, values["limit"])
        return {
            "first": span[0],
            "last": max(span[0], end_ms - DAY_MS),
            "intervals": intervals,
            "days": days,
            "symbols": symbols,
        }

    def _stored(self) -> HistoryStore:
        if self.store is None:
            raise ApiProblem(503, "no_database", "klagg runs without a database (database.enabled is false)")
        return self.store

    async def _status(self, _: Values) -> object:
        now_ms, survey, report = steady_ms(), self.survey(), self.report()
        stale_ms = self.market.stale_for_ms(now_ms)
        return {
            "version": klagg.__version__,
            "time": self.market.time_ms(now_ms),
            "stale": stale_ms > 0,
            "stale_for_ms": stale_ms,
            "exchange": self.exchange,
            "database": self.store is not None,
            "intervals": [interval.name for interval in self.market.intervals],
            "shards": [self._shard(number, now_ms, survey) for number in range(len(self.market.shards))],
            "expected": list(self.expected),
            **report.to_json(),
            "ok": report.ok and not stale_ms,
            "streams": survey.lengths,
            "clients": len(self.hub.clients),
            "unserved": self.unserved,
        }

    def _shard(self, number: int, now_ms: float, survey: Survey) -> dict[str, object]:
        """`unwritten_ms` is how far (ms by the clock of Redis) the table is behind live state; None without a
        writer."""
        shard = self.market.shards[number]
        oldest_ms, behind = survey.unwritten_ms.get(number), None
        if self.store is not None and shard.position and number in survey.unwritten_ms:
            behind = 0 if oldest_ms is None else max(0, milliseconds_of(shard.position) - oldest_ms)
        return {
            "shard": number,
            "position": shard.position,
            "time": shard.state.time_ms,
            "stale_for_ms": shard.health.stale_for_ms(now_ms),
            "timeouts": shard.health.timeouts_total,
            "alarm": shard.health.alarmed,
            "bars": len(shard.state),
            "unwritten_ms": behind,
        }

    async def _openapi(self, _: Values) -> object:
        return openapi(self._endpoints, token=self.token)

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        return _refused(ApiProblem(404, "unknown_path", f"there is no {request.path[:100]}; see /api/openapi.json"))

    async def _download(self, request: web.Request) -> web.StreamResponse:
        """A range as a file."""
        self.stats.add("downloads")
        try:
            values = self._endpoints["download"].read(request.query.items())
            self._check_ready()
            symbols = self.downloads.symbols_of(values)
            for symbol in symbols:
                self._check_symbol(symbol)
            client = self.client_of(request)
            found: web.StreamResponse = await _with_database_problems(
                self.downloads.answer(request, client, symbols, values)
            )
            return found
        except ApiProblem as problem:
            return _refused(problem)


async def _with_database_problems(answer: Awaitable[Any]) -> Any:
    """The answer; errors of the database become ApiProblem (503)."""
    try:
        return await answer
    except StoreBusy as busy:
        raise ApiProblem(503, "busy", str(busy)) from busy
    except DigitsChanged as changed:
        raise ApiProblem(503, "busy", str(changed)) from changed
    except (DatabaseUnavailable, DatabaseRefused) as away:
        raise ApiProblem(503, "database_away", "the database cannot answer now; try again later") from away


def _row_of_symbol(symbol: str, status: str | None, last: LiveBar | None, day: LiveBar | None) -> dict[str, object]:
    change = None
    if last is not None and day is not None and Decimal(day.open):
        change = str(round((Decimal(last.close) / Decimal(day.open) - 1) * 100, 2))
    return {
        "symbol": symbol,
        "live": last is not None,
        "status": status,
        "time": last.at_ms if last else None,
        "price": last.close if last else None,
        "open": day.open if day else None,
        "high": day.high if day else None,
        "low": day.low if day else None,
        "volume": day.volume if day else None,
        "quote_volume": day.quote_volume if day else None,
        "change_percent": change,
        "trades": day.trades if day else None,
    }


def _refused(problem: ApiProblem) -> web.Response:
    return web.Response(text=problem.body(), status=problem.status, content_type="application/json")

"""What the tests of ingest share: frames as the exchange sends them, and a small exchange that obeys the test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeVar
from urllib.parse import unquote, urlsplit

import ujson
from aiohttp import web
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from ingest.parser import Rules
from klagg.binance.endpoints import Endpoint
from klagg.drivers.redis_streams import Entry, Streams
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats
from tests.webkit import serving

T = TypeVar("T")

NOW_MS = 1_791_271_560_500
"""The exchange's time in tests: a little after that of the trades below."""

SYMBOLS = ("BTCUSDT", "ETHUSDT", "币安人生USDT")


def agg_trade(trade_id: int = 1, **changes: Any) -> dict[str, Any]:
    """An aggTrade event as of 2026; a change to `...` takes the field away."""
    event = {
        "e": "aggTrade",
        "E": NOW_MS - 50,
        "a": trade_id,
        "s": "BTCUSDT",
        "p": "85266.00",
        "q": "0.158",
        "nq": "0.158",
        "f": trade_id * 3,
        "l": trade_id * 3 + 2,
        "T": NOW_MS - 200,
        "m": False,
        "st": 1,
    } | changes
    return {name: value for name, value in event.items() if value is not ...}


def fill(trade_id: int = 1, **changes: Any) -> dict[str, Any]:
    """A trade event (a single fill)."""
    event = {
        "e": "trade",
        "E": NOW_MS - 50,
        "T": NOW_MS - 200,
        "s": "BTCUSDT",
        "t": trade_id,
        "p": "28145.10",
        "q": "0.002",
        "X": "MARKET",
        "m": True,
    } | changes
    return {name: value for name, value in event.items() if value is not ...}


def frame_of(event: Any, endpoint: Endpoint = Endpoint.COMBINED) -> bytes:
    """The frame in which an endpoint sends an event."""
    message = {"stream": "btcusdt@aggTrade", "data": event} if endpoint is Endpoint.COMBINED else event
    return ujson.dumps(message, ensure_ascii=False).encode()


def rules(endpoint: Endpoint = Endpoint.COMBINED, source: str = "aggTrade", future_ms_max: int = 10_000) -> Rules:
    return Rules(endpoint, source, frozenset(SYMBOLS), future_ms_max)


def contract_news(symbol: str, status: str) -> dict[str, Any]:
    """A contractInfo event of a symbol that SmallExchange lists."""
    return {
        "e": "contractInfo",
        "E": NOW_MS,
        "s": symbol,
        "ps": symbol,
        "ct": "PERPETUAL",
        "dt": 4133404800000,
        "ot": 1569398400000,
        "cs": status,
        "st": 1,
    }


def day_ticker(symbol: str, time_ms: int, volume: int, close: str = "85266.00", last_fill: int = -1) -> dict[str, Any]:
    """A row of !ticker@arr; −1 is no fill."""
    return {
        "e": "24hrTicker",
        "C": time_ms,
        "L": last_fill,
        "E": time_ms,
        "s": symbol,
        "c": close,
        "o": "1",
        "h": close,
        "l": "1",
        "v": str(volume),
        "q": "0",
        "st": 1,
    }


def standing(stats: Stats) -> set[AlarmKind]:
    """The kinds of alarms that stand."""
    return {each.kind for each in stats.alarms.standing}


def alarms_of(stats: Stats, kind: str) -> int:
    """How many alarms of a kind there were."""
    return stats.alarms.raised[AlarmKind(kind)]


class SmallExchange:
    """WebSocket and REST of an exchange with a few symbols, which sends exactly what a test tells it to send.

    `rows` changes the rows of its exchangeInfo, `paths` are those of the connections that were made, `messages` what
    clients said.
    """

    def __init__(self) -> None:
        self.symbols = list(SYMBOLS)
        self.statuses: dict[str, str] = {}
        self.rows: dict[str, Any] = {}
        self.offset_ms = NOW_MS - time.time() * 1000
        self.speed = 1.0
        self.rest_status = 200
        self.last_fills: dict[str, Any] = {}
        """The last fill ids that its 24 hour tickers tell."""
        self.acknowledges = True
        self.controls: list[ServerConnection] = []
        self.paths: list[str] = []
        self.agents: list[str] = []
        self.messages: list[Any] = []
        self.connections: list[ServerConnection] = []
        self.websocket_url = ""
        self.rest_url = ""

    def now_ms(self) -> int:
        """Its clock: NOW_MS when it was made; from there on it runs at `speed`."""
        return int(NOW_MS + (time.time() * 1000 + self.offset_ms - NOW_MS) * self.speed)

    async def send(self, *frames: bytes) -> None:
        """Send text frames to the newest connection."""
        for frame in frames:
            await self.connections[-1].send(frame, text=True)

    async def publish(self, stream: str, event: Any) -> None:
        """Send an event of a stream about all symbols to every control connection."""
        frame = ujson.dumps({"stream": stream, "data": event}, ensure_ascii=False)
        for each in self.controls:
            with suppress(ConnectionClosed):
                await each.send(frame)

    async def accept(self, connection: ServerConnection) -> None:
        """Serve one client: note what it says, acknowledge each message."""
        assert connection.request
        if "!contractInfo" in unquote(connection.request.path):
            self.controls.append(connection)
            with suppress(ConnectionClosed):
                await connection.wait_closed()
            return
        self.paths.append(connection.request.path)
        self.agents.append(connection.request.headers["User-Agent"])
        self.connections.append(connection)
        with suppress(ConnectionClosed):
            async for message in connection:
                said = ujson.loads(message)
                self.messages.append(said)
                if self.acknowledges:
                    await connection.send(ujson.dumps({"result": None, "id": said["id"]}))

    async def time(self, _: web.Request) -> web.Response:
        simulated = {} if self.speed == 1 else {"klaggSimulated": True, "klaggSpeed": self.speed}
        used = {"X-MBX-USED-WEIGHT-1M": "1"}
        return web.json_response({"serverTime": self.now_ms(), **simulated}, status=self.rest_status, headers=used)

    async def exchange_info(self, _: web.Request) -> web.Response:
        row = {
            "status": "TRADING",
            "quoteAsset": "USDT",
            "contractType": "PERPETUAL",
            "pricePrecision": 2,
            "quantityPrecision": 3,
            "onboardDate": 1569398400000,
            "deliveryDate": 4133404800000,
        }
        row |= self.rows
        rows = [row | {"symbol": each, "status": self.statuses.get(each, "TRADING")} for each in self.symbols]
        body = {"symbols": rows}
        return web.json_response(body, status=self.rest_status)

    async def day_tickers(self, _: web.Request) -> web.Response:
        rows = [{"symbol": name, "lastId": last} for name, last in self.last_fills.items()]
        return web.json_response(rows, status=self.rest_status if rows else 503)

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Self]:
        """Serve, the WebSocket on `port` (0: a free one), until the end of the context."""
        application = web.Application()
        application.router.add_get("/fapi/v1/time", self.time)
        application.router.add_get("/fapi/v1/exchangeInfo", self.exchange_info)
        application.router.add_get("/fapi/v1/ticker/24hr", self.day_tickers)
        async with (
            serving(application) as rest_port,
            serve(self.accept, "127.0.0.1", port, compression=None) as server,
        ):
            self.rest_url = f"http://127.0.0.1:{rest_port}"
            self.websocket_url = f"ws://127.0.0.1:{port_of(server)}"
            yield self


def port_of(server: Server) -> int:
    """The port on which a server listens."""
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


def feed_of(streams: Streams, kind: str, key: str = "feed:{0}") -> list[Entry]:
    """All entries of one kind of a feed."""
    return [entry for entry in streams.range(key) if entry.fields[b"kind"] == kind.encode()]


def column_of(entries: list[Entry], name: str) -> list[str]:
    """A column over all `entries`, in the order of the stream."""
    return [value for entry in entries for value in entry.fields[name.encode()].decode().split(",")]


class Relay:
    """A TCP relay to Redis that a test can spoil.

    `refusing`: connections end at once. `deaf`: requests reach Redis, its replies go nowhere, as when a reply is lost.
    """

    def __init__(self, redis_url: str) -> None:
        self._target = urlsplit(redis_url)
        self._open: set[asyncio.StreamWriter] = set()
        self.refusing = False
        self.deaf = False
        self.accepted = 0
        self.refused = 0
        self.url = ""

    def cut(self) -> None:
        """End all connections."""
        for each in self._open:
            each.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            self.refused += 1
            writer.transport.abort()
            return
        self.accepted += 1
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._open |= {writer, far_writer}
        try:
            await asyncio.gather(
                self._pump(reader, far_writer, replies=False), self._pump(far_reader, writer, replies=True)
            )
        finally:
            self._open -= {writer, far_writer}
            writer.close()
            far_writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, replies: bool) -> None:
        try:
            while data := await source.read(1 << 16):
                if not (replies and self.deaf):
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        sink.close()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        try:
            yield self
        finally:
            server.close()
            self.cut()

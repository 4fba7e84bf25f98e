"""The simulator's server: one port for WebSocket and REST, over any market source."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast
from urllib.parse import unquote

from aiohttp import WSCloseCode, WSMsgType, web

from klagg.binance.serving.limits import Limits, MessageLimiter
from klagg.binance.serving.payloads import compact, text_frame
from klagg.binance.serving.subscriptions import Subscriptions, TooManyStreamsError, answer
from klagg.simulator.changing import ChangingMarket
from klagg.simulator.clock import MarketClock, anchored_start_ms
from klagg.simulator.fault_player import FaultPlayer
from klagg.simulator.faults import FaultScript, line_of
from klagg.simulator.faulty_hub import FaultyHub
from klagg.simulator.hub import StreamConnection, StreamHub
from klagg.simulator.market import KLINE_INTERVALS, MarketSource
from klagg.simulator.player import Player
from klagg.simulator.rest import RestApi, refused
from klagg.simulator.streams import WATCHING, ExchangeStream, StreamKind, WebSocketRoute

_TURN_S = 0.005
_TURN_REAL_MS_MAX = 50
_CHANGES_S = 0.25
_TICKERS_S = 1.0
_TICKERS_REAL_S_MIN = 0.05
_LEAD_REAL_MS = 2_000
_URL_BYTES_MAX = 128 * 1024
_MESSAGE_BYTES_MAX = 256 * 1024


class Simulator:
    """A Binance USDⓈ-M exchange for demos, tests and load, on one port.

    `await start()`, then `rest_url` and `websocket_url` are valid; `await failed()` returns only by raising what killed
    the playing; `await stop()` ends it.
    """

    def __init__(
        self,
        source: MarketSource,
        speed: float = 1.0,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        wait: bool | None = None,
        start_ms: int | None = None,
        lead_ms: int | None = None,
        limits: Limits | None = None,
        hub: StreamHub | None = None,
        faults: FaultScript | None = None,
    ) -> None:
        """`speed`: exchange seconds a second. `port` 0 takes a free one.

        `wait` holds the clock until the first subscriber to trades or klines (default: for a source with an end).
        `start_ms` is the exchange time to begin at (default: shortly before a recording's first trade, for an endless
        market now, or at another speed than 1 what `anchored_start_ms` says).
        `lead_ms` is the exchange time that passes before a recording's first trade (default: 2 s of real time), so
        that whoever follows the clock and subscribes in steps is ready for it.
        `hub` is another way to fan events out, such as one that loses some; `faults` brings its own, and changes the
        market where it says so. Raises ValueError for what is out of range or does not fit.
        """
        if not 0 < speed <= 1_000:
            raise ValueError(f"The speed must lie above 0 and not above 1,000, not {speed}.")
        if hub is not None and faults is not None:
            raise ValueError("A fault script brings its own hub.")
        self.limits = limits or Limits()
        self._host = host
        self._port = port
        span_ms = source.span_ms()
        simulated = span_ms is not None or speed != 1 or start_ms is not None
        held = span_ms is not None if wait is None else wait
        if start_ms is None and span_ms is not None:
            start_ms = span_ms[0] - 1 - (int(_LEAD_REAL_MS * speed) if lead_ms is None else lead_ms)
        self.start_ms = anchored_start_ms(time.time_ns() // 1_000_000, speed) if start_ms is None else start_ms
        self.clock = MarketClock(self.start_ms, speed, time.monotonic(), held=held, simulated=simulated)
        self.faults: FaultPlayer | None = None
        if faults is not None:
            if faults.changes:
                source = ChangingMarket(source, faults.changes, self.start_ms)
            hub = FaultyHub(self.limits.send_buffer_bytes, faults)
            self.faults = FaultPlayer(faults, hub)
        self.source = source
        self.hub = hub or StreamHub(self.limits.send_buffer_bytes)
        self.player = Player(source, self.hub, self.start_ms, self.faults)
        # One thread: requests that compute long queue up behind each other and leave a core to the streams.
        self._executor = ThreadPoolExecutor(1, "simulator-rest")
        self.rest = RestApi(source, self.clock, self.player, self.limits, self._executor, self.faults)
        self._sockets: set[web.WebSocketResponse] = set()
        self._runner: web.AppRunner | None = None
        self._playing: asyncio.Task[None] | None = None
        self._seeding: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None

    @property
    def rest_url(self) -> str:
        """Base URL of REST requests."""
        return f"http://{self._address}"

    @property
    def websocket_url(self) -> str:
        """Base URL of WebSocket connections."""
        return f"ws://{self._address}"

    @property
    def _address(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Opens the port and begins to play. Raises OSError when the port cannot be had."""
        app = web.Application()
        for prefix, route in (
            ("/market", WebSocketRoute.MARKET),
            ("/public", WebSocketRoute.PUBLIC),
            ("", WebSocketRoute.RETIRED),
        ):
            for path in (f"{prefix}/stream", f"{prefix}/ws", f"{prefix}/ws/{{names:.*}}"):
                app.router.add_get(path, self._websocket_handler(route))
        app.router.add_get("/klagg/state", self._state)
        app.add_routes(self.rest.routes())
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=1.0,
            max_line_size=_URL_BYTES_MAX,
            max_field_size=_URL_BYTES_MAX,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        self._port = cast("tuple[str, int]", self._runner.addresses[0])[1]
        self._failure = asyncio.get_running_loop().create_future()
        self._playing = asyncio.create_task(self._play(), name="simulator-player")
        self._playing.add_done_callback(self._report)

    async def failed(self) -> None:
        """Waits for as long as the exchange works; raises what made it fail, returns after `stop`."""
        if self._failure is None:
            raise RuntimeError("The simulator has not been started.")
        await asyncio.shield(self._failure)

    def _report(self, task: asyncio.Task[None]) -> None:
        """A background task that dies takes the exchange with it: half an exchange would only mislead."""
        self._seeding.discard(task)
        if not task.cancelled() and (error := task.exception()) and self._failure and not self._failure.done():
            self._failure.set_exception(error)

    async def stop(self) -> None:
        """Closes all connections and the port."""
        tasks = [task for task in (self._playing, *self._seeding) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._failure is not None and not self._failure.done():
            self._failure.set_result(None)
        closing = (socket.close(code=WSCloseCode.GOING_AWAY, drain=False) for socket in list(self._sockets))
        await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), 5.0)
        if self._runner is not None:
            await self._runner.cleanup()
        self._executor.shutdown(wait=True, cancel_futures=True)

    def state(self) -> dict[str, object]:
        """What is played and how far, as `/klagg/state` tells it; times are exchange time in ms."""
        span_ms = self.source.span_ms()
        now_ms, position_ms = self.rest.now_ms(), self.player.position_ms
        return {
            **self.source.describe(),
            "speed": self.clock.speed,
            "simulatedTime": self.clock.simulated,
            "held": self.clock.held,
            "startTime": self.start_ms,
            "serverTime": now_ms,
            "position": position_ms,
            "lagMs": now_ms - position_ms,
            "firstTime": span_ms[0] if span_ms else None,
            "lastTime": span_ms[1] if span_ms else None,
            "ended": span_ms is not None and position_ms >= span_ms[1],
            "connections": len(self.hub.connections),
            "streams": self.hub.streams,
            "aggTradesPlayed": self.player.aggregates_played,
            "framesSent": self.hub.frames_sent,
            "bytesSent": self.hub.bytes_sent,
            "slowConsumersCut": self.hub.slow_consumers_cut,
            "restRequests": self.rest.requests,
            "lastAggTradeIds": self.player.last_aggregate,
            "lastTradeIds": self.player.last_fill,
            "faults": [] if self.faults is None else self.faults.state(),
        }

    async def _state(self, _: web.Request) -> web.Response:
        return web.Response(text=compact(self.state()), content_type="application/json")

    async def _play(self) -> None:
        """Plays up to the clock, in pieces, so that a stall is caught up without one huge batch."""
        piece_ms = max(int(_TURN_REAL_MS_MAX * self.clock.speed), 1)
        changes_at = tickers_at = time.monotonic()
        while True:
            now_s = time.monotonic()
            if self.faults is not None:
                self.faults.turn(self.clock.ms(now_s) - self.start_ms)
            behind_ms = self.clock.ms(now_s) - self.player.position_ms
            if behind_ms > 0:
                self.player.play(self.player.position_ms + min(behind_ms, piece_ms))
            if now_s >= changes_at:
                changes_at = now_s + _CHANGES_S
                self.player.publish_listings()
                self.player.publish_klines()
            if now_s >= tickers_at:
                tickers_at = now_s + max(_TICKERS_S / self.clock.speed, _TICKERS_REAL_S_MIN)
                self.player.publish_tickers()
            await asyncio.sleep(0 if behind_ms > piece_ms else _TURN_S)

    def _websocket_handler(self, route: WebSocketRoute) -> Any:
        async def handle(request: web.Request) -> web.StreamResponse:
            line = line_of(request.headers.get("User-Agent", ""), request.query)
            refusal = self.faults.handshake(line) if self.faults is not None else None
            if refusal is not None:
                return refused(request, refusal)
            raw_names = request.match_info.get("names")
            is_combined = request.path.endswith("/stream")
            text = request.query.get("streams", "") if is_combined else unquote(raw_names or "")
            names = [name for name in text.split("/") if name]
            subscriptions = Subscriptions(is_combined, self.limits.streams_per_connection)
            return await self._serve(request, route, subscriptions, names, line)

        return handle

    async def _serve(
        self, request: web.Request, route: WebSocketRoute, subscriptions: Subscriptions, names: list[str], line: str
    ) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            heartbeat=self.limits.ping_interval_s,
            autoping=False,
            compress=False,
            max_msg_size=_MESSAGE_BYTES_MAX,
            timeout=1.0,
        )
        await socket.prepare(request)
        if request.transport is None:
            return socket
        # Frames are written to the transport itself, many at a time. Both writers write whole frames only and run on
        # one event loop, so they cannot cut into each other.
        age = asyncio.timeout(self.limits.connection_s)

        def expire() -> None:
            if not age.expired():
                age.reschedule(asyncio.get_running_loop().time())

        connection = StreamConnection(route, request.transport, subscriptions, line=line, expire=expire)
        self._sockets.add(socket)
        try:
            async with age:
                self.hub.attach(connection)
                self._listen(connection, subscriptions.add(names))
                await self._answer_messages(socket, connection)
        except TooManyStreamsError:
            self.hub.detach(connection)
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"Too many streams")
        except TimeoutError:
            self.hub.detach(connection)
            await socket.close(code=WSCloseCode.GOING_AWAY, message=b"24 hours are over")
        finally:
            self.hub.detach(connection)
            self._sockets.discard(socket)
        return socket

    async def _answer_messages(self, socket: web.WebSocketResponse, connection: StreamConnection) -> None:
        """Answers the client's messages until it leaves or sends too many. Raises TooManyStreamsError."""
        limiter = MessageLimiter(self.limits.messages_per_second)
        while True:
            message = await socket.receive()
            if message.type in {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}:
                return
            if not limiter.allow(time.monotonic()):
                self.hub.detach(connection)
                await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"Too many requests")
                return
            if message.type == WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                text = message.data if isinstance(message.data, str) else message.data.decode(errors="replace")
                reply = answer(connection.subscriptions, text)
                self.hub.unlisten(connection, reply.removed)
                self.hub.queue(connection, text_frame(reply.text))
                self.hub.flush()
                self._listen(connection, reply.added)

    def _listen(self, connection: StreamConnection, names: list[str]) -> None:
        started = self.hub.listen(connection, names)
        for stream in started:
            if stream.kind is StreamKind.KLINE and self.player.klines.start(stream):
                seeding = self._seed(stream, self.player.position_ms)
                task = asyncio.create_task(seeding, name=f"seed {stream.symbol} {stream.interval}")
                self._seeding.add(task)
                task.add_done_callback(self._report)
        # Who merely watches over all symbols is no reader of a recording yet.
        if any(stream.kind not in WATCHING for stream in started):
            self.clock.release(time.monotonic())

    async def _seed(self, stream: ExchangeStream, position_ms: int) -> None:
        """Fetches a kline stream's bar as of `position_ms`; the trades played since are collected meanwhile."""
        listed = {listing.symbol for listing in self.source.listings(position_ms)}
        if stream.symbol not in listed:
            self.player.seed_kline(stream, None)  # it may yet be listed
            return
        interval = KLINE_INTERVALS[stream.interval]
        open_ms = interval.open_time(position_ms)
        close_ms = interval.close_time(open_ms)
        loop = asyncio.get_running_loop()
        bar = await loop.run_in_executor(self._executor, self.source.bar, stream.symbol, open_ms, close_ms, position_ms)
        self.player.seed_kline(stream, bar)

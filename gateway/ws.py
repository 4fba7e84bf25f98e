"""WebSocket as on Binance: `/ws/<stream>`, `/stream?streams=…`, the same under `/market`, and the control messages.

Under `/private` a connection is accepted and stays silent: klagg has no account data, and both official SDKs open all
three routes at every connect.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from logging import Logger
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Final
from urllib.parse import unquote

from aiohttp import WSCloseCode, WSMsgType, web

from gateway.hub import Client, Hub
from gateway.live import Change
from gateway.market import MarketState
from gateway.unserved import UnservedStreams
from klagg.binance.serving.limits import MessageLimiter
from klagg.binance.serving.subscriptions import Subscriptions, TooManyStreamsError, answer
from klagg.process.stats import Stats
from klagg.settings import Gateway

MESSAGE_BYTES_MAX: Final = 64 * 1024
"""A longer message ends the connection with code 1009, 'message too big' (RFC 6455, 7.4.1)."""

CLOSE_S: Final = 1.0
"""How long the closing handshake of a connection may take."""

SEND_BUFFER_BYTES: Final = 128 * 1024
"""The kernel's send buffer for a client that does not read. States of bars cannot be replaced there, so it is small."""

PREFIXES: Final = ("", "/market", "/public")
"""Path prefixes of `/ws` and `/stream`: klagg sends klines on all of them, so that any client's path works."""

PRIVATE: Final = "/private"
"""The prefix of account data (Binance USDⓈ-M docs, "Websocket Market Streams", routed endpoints)."""

_ENDED = {WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR}


@dataclass(slots=True)
class WebSocketServer:
    """Serves WebSocket clients from a hub."""

    hub: Hub
    market: MarketState
    config: Gateway
    stats: Stats
    log: Logger
    unserved: UnservedStreams
    _open: set[web.WebSocketResponse] = field(default_factory=set)
    _ending: set[asyncio.Task[None]] = field(default_factory=set)

    def routes(self) -> list[web.RouteDef]:
        """The routes of all WebSocket paths."""
        paths = [f"{prefix}{path}" for prefix in (*PREFIXES, PRIVATE) for path in ("/ws", "/ws/{names:.*}", "/stream")]
        return [web.get(path, self.serve) for path in paths]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection, from its handshake to its end."""
        if len(self.hub.clients) >= self.config.connections_max:
            self.stats.add("connections_refused")
            raise web.HTTPServiceUnavailable(text="too many connections; come again later")
        is_combined = request.path.endswith("/stream")
        text = request.query.get("streams", "") if is_combined else unquote(request.match_info.get("names", ""))
        names = [name for name in text.split("/") if name]
        socket = web.WebSocketResponse(
            heartbeat=self.config.ping_interval_s,
            autoping=False,
            compress=False,
            max_msg_size=MESSAGE_BYTES_MAX,
            timeout=CLOSE_S,
        )
        await socket.prepare(request)
        if request.transport is None:
            return socket
        if (raw := request.transport.get_extra_info("socket")) is not None:
            raw.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES)
        # Frames go straight to the transport, many in one write. aiohttp's own pings and closing frames go there too;
        # both write whole frames on one event loop, so that neither cuts into the other.
        subscriptions = Subscriptions(is_combined, self.config.streams_per_connection, text_ids=True)
        client = Client(request.transport, subscriptions, private=request.path.startswith(PRIVATE))
        client.dismiss = lambda reason: self._dismiss(socket, client, reason)
        self._open.add(socket)
        self.hub.attach(client)
        self.stats.add("connections")
        try:
            self._listen(client, subscriptions.add(names))
            await self._answer_messages(socket, client)
        except TooManyStreamsError:
            self.hub.detach(client)
            await self._close(socket, WSCloseCode.POLICY_VIOLATION, "too many streams")
        finally:
            self.hub.detach(client)
            self._open.discard(socket)
        return socket

    async def close(self) -> None:
        """Close all connections with the code 1001, 'going away' (RFC 6455, 7.4.1)."""
        closing = [self._close(socket, WSCloseCode.GOING_AWAY, "the gateway ends") for socket in list(self._open)]
        await asyncio.gather(*closing, *self._ending, return_exceptions=True)

    async def _answer_messages(self, socket: web.WebSocketResponse, client: Client) -> None:
        """Answer the client's messages until it leaves or sends too many. Raises TooManyStreamsError."""
        limiter = MessageLimiter(self.config.messages_per_second)
        while True:
            message = await socket.receive()
            if message.type in _ENDED:
                return
            if not limiter.allow(time.monotonic()):
                self.hub.detach(client)
                await self._close(socket, WSCloseCode.POLICY_VIOLATION, "too many messages")
                return
            if message.type == WSMsgType.PING:
                await socket.pong(message.data)
            elif message.type in {WSMsgType.TEXT, WSMsgType.BINARY}:
                text = message.data if isinstance(message.data, str) else message.data.decode(errors="replace")
                reply = answer(client.subscriptions, text)
                self.hub.unlisten(client, reply.removed)
                self.hub.queue(client, reply.text)
                self._listen(client, reply.added)

    def _listen(self, client: Client, names: list[str]) -> None:
        """Subscribe, and send the current state of each bar: the next change of a quiet symbol may be a minute away."""
        if client.private:
            return
        count, new = self.unserved.note(names)
        if count:
            self.stats.add("subscriptions_unserved", count)
        for name in new:
            self.log.warning("a client subscribed to %r, which klagg does not make: it gets nothing", name)
        for name, stream in self.hub.listen(client, names):
            bar = self.market.newest(stream.symbol, stream.interval)
            if bar is not None and not bar.closed:
                self.hub.queue_current(client, name, stream.kind, Change(stream.symbol, stream.interval, bar, None))
        self.hub.flush()

    def _dismiss(self, socket: web.WebSocketResponse, client: Client, reason: str) -> None:
        self.stats.add("clients_dismissed")
        self.hub.detach(client)
        task = asyncio.create_task(self._close_and_abort(socket, client, reason), name="dismiss a client")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _close_and_abort(self, socket: web.WebSocketResponse, client: Client, reason: str) -> None:
        """Close with a reason, then abort."""
        await self._close(socket, WSCloseCode.POLICY_VIOLATION, reason)
        client.transport.abort()

    @staticmethod
    async def _close(socket: web.WebSocketResponse, code: WSCloseCode, reason: str) -> None:
        """Close within CLOSE_S, whether the client answers or not."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await socket.close(code=code, message=reason.encode(), drain=False)
        except (TimeoutError, ConnectionError):
            return

"""One WebSocket connection to the exchange: connects, subscribes, receives, and begins anew when it is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidURI, WebSocketException

from klagg.backoff import Backoff
from klagg.clock import ExchangeClock, steady_ms
from klagg.errors import ConfigError
from klagg.exchange.endpoints import MESSAGES_PER_S, Route
from klagg.stats import Stats

FRAME_BYTES_MAX: Final = 1 << 16
"""An event has about 200 bytes; whoever sends more than this is not the exchange that we know."""

FRAMES_QUEUED: Final = 2048
"""Frames that websockets holds before it stops reading; one read of the socket brings a few hundred."""

OPEN_S: Final = 10
KEEPALIVE_S: Final = 20
CLOSE_S: Final = 2

RECONNECT_FIRST_S: Final = 0.5
RECONNECT_CAP_S: Final = 30.0
STEADY_MS: Final = 60_000
"""A connection that held this long was a good one: the next failure begins with the shortest delay again."""

QUIET_MS: Final = 500
"""A connection without a sign of life for this long is pinged (a ping counts as a client message)."""

Take = Callable[[bytes], None]


class Connection:
    """Carries `symbols` from `route`. Frames go to `take` as they come."""

    def __init__(
        self, name: str, route: Route, symbols: Sequence[str], take: Take, *, stats: Stats, log: logging.Logger
    ) -> None:
        self.name, self.symbols = name, tuple(symbols)
        self._route, self._take, self._stats, self._log = route, take, stats, log
        self._backoff = Backoff(RECONNECT_FIRST_S, RECONNECT_CAP_S, random.random)
        self._socket: ClientConnection | None = None
        self._alive_s = 0.0
        self._pong: asyncio.Future[float] | None = None

    @property
    def is_up(self) -> bool:
        """Whether it is connected and all its streams are asked for."""
        return self._socket is not None

    def alive_ms(self, clock: ExchangeClock) -> int | None:
        """The exchange time of the last sign of life (frame or pong); None while the connection is down."""
        return clock.now_ms(steady_ms() - self._silent_ms) if self._socket else None

    @property
    def _silent_ms(self) -> float:
        """How long ago the last sign of life came. It is noted by `monotonic`, the cheapest clock, for every frame."""
        return (monotonic() - self._alive_s) * 1000

    async def run(self) -> None:
        """Receive until cancelled. ConfigError if the URL or a proxy can never work."""
        while True:
            started_ms, reason = steady_ms(), "it ended"
            try:
                await self._connected()
            except (InvalidURI, InvalidProxy) as bad:
                raise ConfigError(f"the exchange cannot be reached as configured: {bad}") from bad
            except (WebSocketException, OSError) as lost:
                reason = str(lost) or type(lost).__name__
            finally:
                self._socket = None
            if steady_ms() - started_ms >= STEADY_MS:
                self._backoff.reset()
            delay_s = self._backoff.next_s()
            self._stats.add("reconnects")
            self._log.warning("connection %s is down (%s); next try in %.1f s", self.name, reason, delay_s)
            await asyncio.sleep(delay_s)

    async def _connected(self) -> None:
        """One connection, from the handshake until it is lost; that always shows as an exception of websockets."""
        async with connect(
            self._route.url,
            compression=None,
            open_timeout=OPEN_S,
            ping_interval=KEEPALIVE_S,
            ping_timeout=KEEPALIVE_S,
            close_timeout=CLOSE_S,
            max_size=FRAME_BYTES_MAX,
            max_queue=FRAMES_QUEUED,
        ) as socket:
            for message in self._route.subscribe:
                await socket.send(message)
                await asyncio.sleep(1 / MESSAGES_PER_S)
            self._alive_s = monotonic()
            self._socket = socket
            self._log.info("connection %s is up with %d symbols", self.name, len(self.symbols))
            await self._receive(socket)

    async def _receive(self, socket: ClientConnection) -> None:
        receive, take = socket.recv, self._take
        while True:
            frame = await receive(decode=False)
            self._alive_s = monotonic()
            take(frame)

    async def ping_if_quiet(self) -> None:
        """Ask for a sign of life if none came lately; the answer counts when it comes."""
        socket = self._socket
        if not socket or self._silent_ms < QUIET_MS or (self._pong and not self._pong.done()):
            return
        try:
            pong = await socket.ping()
        except ConnectionClosed:
            return  # the receiving side sees the same, and says so
        self._pong = asyncio.ensure_future(pong)
        self._pong.add_done_callback(self._on_pong)

    def _on_pong(self, pong: asyncio.Future[float]) -> None:
        if not pong.cancelled() and pong.exception() is None:
            self._alive_s = monotonic()

"""One WebSocket, from its handshake until it is lost: subscribes, receives, pings, and follows changed wishes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import ujson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidURI

from ingest.alarms import STALLED
from ingest.pace import Pace
from ingest.reasons import UNACKNOWLEDGED, SessionLost
from klagg.binance.endpoints import MESSAGES_PER_S, PARAMS_MAX, StreamUrl, request
from klagg.errors import ConfigError

FRAME_BYTES_MAX: Final = 1 << 16
"""A trade has about 200 bytes; whoever sends more than this is not the exchange that we know."""

FRAMES_QUEUED: Final = 2048
"""Frames that websockets holds before it stops reading; one read of the socket brings a few hundred."""

OPEN_S: Final = 10
CLOSE_S: Final = 2

QUIET_MS: Final = 500
"""A connection without a sign of life for this long is pinged (a ping counts as a client message)."""

TEND_S: Final = 0.25
"""How often a connection looks after itself."""

ACKNOWLEDGED_S: Final = 10
"""The exchange answers a message within this time, or the connection is given up."""

_EVENT: Final = 0
"""In the place of a message's id: the first event is awaited."""

Take = Callable[[bytes], None]


@dataclass(slots=True)
class Received:
    """What came over the sessions of a connection since `take`: messages, and bytes at the socket (frames' heads, too).

    A message costs one addition, and bytes are counted by what one read of the socket brings.
    """

    messages: int = 0
    size: int = 0

    def take(self) -> tuple[int, int]:
        """Messages and bytes since the last call."""
        taken = self.messages, self.size
        self.messages = self.size = 0
        return taken


class CountingConnection(ClientConnection):
    """A connection of websockets that counts the bytes it reads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.received = Received()

    def data_received(self, data: bytes) -> None:
        """asyncio read some of the socket."""
        self.received.size += len(data)
        super().data_received(data)


@dataclass(frozen=True, slots=True)
class Manner:
    """How to connect: `agent` is the User-Agent; `proxy` an URL, or "" for that of the environment; `age_s` is when a
    connection is replaced; `stalled_ms` without a sign of life ends it; frames are of at most `frame_bytes_max`."""

    agent: str = "klagg"
    proxy: str = ""
    age_s: float = 82_800.0
    stalled_ms: float = 10_000.0
    frame_bytes_max: int = FRAME_BYTES_MAX


class Session:
    """Carries `streams` over `way`; its frames go to `take` as they come. `on_up` is called once when it is `up`."""

    def __init__(
        self,
        way: StreamUrl,
        streams: Collection[str],
        take: Take,
        manner: Manner,
        on_up: Callable[[], None],
        received: Received,
    ) -> None:
        self._way, self._take, self._manner, self._on_up, self._received = way, take, manner, on_up, received
        self._wanted = set(streams)
        self._asked: set[str] = set()
        self._repeat: set[str] = set()
        self.confirmed: set[str] = set()
        """The streams whose subscription the exchange has acknowledged (which proves nothing: DESIGN §5)."""
        self._awaited: dict[int, tuple[float, tuple[str, ...]]] = {_EVENT: (0.0, ())}
        self._number = 0
        self._pace = Pace(MESSAGES_PER_S)
        self._wake = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._alive_s = 0.0
        self._pong: asyncio.Future[float] | None = None
        self._given_up: SessionLost | None = None
        self._complete = False
        self.ready = asyncio.Event()
        """Set when an event has come and everything asked for is acknowledged."""
        self.delivered = False
        """Whether an event has ever come."""

    @property
    def up(self) -> bool:
        """Whether it is connected and all its streams were asked for and acknowledged once."""
        return self._socket is not None and self._complete

    @property
    def silent_ms(self) -> float:
        """How long ago the last sign of life came. It is noted by `monotonic`, the cheapest clock, for every frame."""
        return (monotonic() - self._alive_s) * 1000

    @property
    def awaits_event(self) -> bool:
        """Whether no event has come since the start, or since `await_event`."""
        return _EVENT in self._awaited

    def await_event(self) -> None:
        """From now on, look out for an event again."""
        self._awaited[_EVENT] = (0.0, ())

    def follow(self, streams: Collection[str]) -> None:
        """Carry these streams from now on."""
        self._wanted = set(streams)
        self._wake.set()

    def again(self, streams: Collection[str]) -> None:
        """Unsubscribe from these streams and subscribe to them anew."""
        self._repeat.update(self._asked.intersection(streams))
        self._wake.set()

    def give_up(self, reason: str, sentence: str) -> None:
        """End the connection at once: `run` then raises SessionLost with this reason (of losses.REASONS)."""
        self._given_up = SessionLost(reason, sentence)
        if self._socket:
            self._socket.transport.abort()

    async def run(self) -> None:
        """Connect and receive until the connection is lost, which shows as an exception: OSError, WebSocketException
        or SessionLost. ConfigError if the URL or the proxy can never work."""
        route = self._way.target(sorted(self._wanted))
        self._asked = self._wanted.difference(route.to_subscribe)
        try:
            async with connect(
                route.url,
                compression=None,
                proxy=self._manner.proxy or True,
                user_agent_header=self._manner.agent,
                open_timeout=OPEN_S,
                ping_interval=None,  # _speak does it: pings count as client messages
                close_timeout=CLOSE_S,
                max_size=self._manner.frame_bytes_max,
                max_queue=FRAMES_QUEUED,
                create_connection=CountingConnection,
            ) as socket:
                assert isinstance(socket, CountingConnection)
                socket.received = self._received
                self.confirmed = set(self._asked)
                self._alive_s = monotonic()
                self._socket = socket
                self._settle()
                await self._until_lost(socket)
        except (InvalidURI, InvalidProxy) as bad:
            raise ConfigError(f"the exchange cannot be reached as configured: {bad}") from bad
        except ConnectionClosed:
            if self._given_up:
                raise self._given_up from None
            raise
        finally:
            self._socket = None

    async def _until_lost(self, socket: ClientConnection) -> None:
        tasks = {asyncio.create_task(self._receive(socket)), asyncio.create_task(self._speak(socket))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, socket: ClientConnection) -> None:
        receive, take, awaited, received = socket.recv, self._take, self._awaited, self._received
        while True:
            frame = await receive(decode=False)
            received.messages += 1
            self._alive_s = monotonic()
            if awaited:
                self._note(frame)
            take(frame)

    def _note(self, frame: bytes) -> None:
        """Look for what is awaited: the answer to a message, or an event."""
        try:
            message: Any = ujson.loads(frame)
        except ValueError:
            return
        if isinstance(message, dict) and "id" in message and "e" not in message and "stream" not in message:
            _, streams = self._awaited.pop(message["id"], (0.0, ())) if type(message["id"]) is int else (0.0, ())
            self.confirmed |= self._asked.intersection(streams)
        elif self._awaited.pop(_EVENT, None):
            self.delivered = True
        self._settle()

    def _settle(self) -> None:
        """See how far it has come."""
        if not self._complete and not self._wanted - self.confirmed:
            self._complete = True
            self._on_up()
        if self.delivered and self._complete and not self._awaited:
            self.ready.set()

    async def _speak(self, socket: ClientConnection) -> None:
        """Everything that this side says: subscriptions as they change, and pings when it is quiet."""
        while True:
            self._wake.clear()
            for method, streams in self._changes():
                await self._tell(socket, method, streams)
            self._judge()
            await self._ping_if_quiet(socket)
            try:
                async with asyncio.timeout(TEND_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _changes(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The messages that lead from what was asked for to what is wanted."""
        repeat, self._repeat = self._repeat, set()
        yield from _parts("UNSUBSCRIBE", (self._asked - self._wanted) | repeat)
        yield from _parts("SUBSCRIBE", self._wanted - self._asked)

    async def _tell(self, socket: ClientConnection, method: str, streams: tuple[str, ...]) -> None:
        await asyncio.sleep(self._pace.wait_s(monotonic()))
        self._number += 1
        if method == "SUBSCRIBE":
            self._asked.update(streams)
            self._awaited[self._number] = (monotonic(), streams)
        else:
            self._asked.difference_update(streams)
            self.confirmed.difference_update(streams)
        self._pace.said(monotonic())
        await socket.send(request(method, streams, self._number))

    def _judge(self) -> None:
        """Give the connection up if it does not answer; SessionLost."""
        oldest_s = min((since_s for number, (since_s, _) in self._awaited.items() if number != _EVENT), default=None)
        if oldest_s is not None and monotonic() - oldest_s > ACKNOWLEDGED_S:
            raise SessionLost(UNACKNOWLEDGED, f"a subscription was not acknowledged within {ACKNOWLEDGED_S} s")
        # Only with a ping out: a process that was held up itself has read nothing for that long, either.
        if self.silent_ms > self._manner.stalled_ms and self._pong and not self._pong.done():
            raise SessionLost(STALLED, f"no sign of life for {self.silent_ms / 1000:.1f} s")

    async def _ping_if_quiet(self, socket: ClientConnection) -> None:
        """Ask for a sign of life if none came lately; the answer counts when it comes."""
        if self.silent_ms < QUIET_MS or (self._pong and not self._pong.done()):
            return
        if self._pace.wait_s(monotonic()):
            return
        self._pace.said(monotonic())
        self._pong = asyncio.ensure_future(await socket.ping())
        self._pong.add_done_callback(self._on_pong)

    def _on_pong(self, pong: asyncio.Future[float]) -> None:
        if not pong.cancelled() and pong.exception() is None:
            self._alive_s = monotonic()


def _parts(method: str, streams: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    ordered = sorted(streams)
    for start in range(0, len(ordered), PARAMS_MAX):
        yield method, tuple(ordered[start : start + PARAMS_MAX])

"""One WebSocket, from its handshake until it is lost: subscribes, receives, pings, and follows changes of its streams.

The facts about the exchange are those of the Binance USDⓈ-M docs, "Websocket Market Streams": a connection ends after
24 hours; a client may send 10 messages a second, and who sends more is disconnected; combined streams wrap each event
as `{"stream": …, "data": …}`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import ujson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidProxy, InvalidURI

from ingest.reasons import STALLED, UNACKNOWLEDGED, SessionLost
from ingest.timings import DEFAULT_TIMINGS, Timings
from klagg.binance.endpoints import MESSAGES_PER_S, PARAMS_MAX, StreamUrl, request
from klagg.errors import ConfigError

FRAME_BYTES_MAX: Final = 1 << 16
"""A trade of the documented form has about 200 bytes. A sender of much larger frames is not the exchange."""

FRAMES_QUEUED: Final = 2048
"""Frames that the websockets library holds before it stops reading (its `max_queue`); one read of the socket brings a
few hundred."""

_EVENT: Final = 0
"""In the place of a message's id: the first event is awaited."""

OnFrame = Callable[[bytes], None]


@dataclass(slots=True)
class Received:
    """What came over the sessions of a connection since the last `drain`: messages, and bytes at the socket.

    The bytes include the heads of frames (RFC 6455 §5.2). A message costs one addition; bytes are counted by what one
    read of the socket brings.
    """

    messages: int = 0
    size: int = 0

    def drain(self) -> tuple[int, int]:
        """Messages and bytes since the last call; both count from zero again."""
        drained = self.messages, self.size
        self.messages = self.size = 0
        return drained


class CountingConnection(ClientConnection):
    """A connection of websockets that counts the bytes it reads."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.received = Received()

    def data_received(self, data: bytes) -> None:
        """Count what asyncio has read from the socket, and hand it to websockets."""
        self.received.size += len(data)
        super().data_received(data)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """How to connect.

    `agent` is the User-Agent. `proxy` is a URL, or "" for the one of the environment. A connection is replaced when it
    is `age_s` old: before the 24 hours after which Binance ends it (USDⓈ-M docs, "Websocket Market Streams"). It is
    lost after `stalled_ms` (local) without a sign of life, and when a frame is larger than `frame_bytes_max`.
    """

    agent: str = "klagg"
    proxy: str = ""
    age_s: float = 82_800.0
    stalled_ms: float = 10_000.0
    frame_bytes_max: int = FRAME_BYTES_MAX
    timings: Timings = DEFAULT_TIMINGS


class RateLimiter:
    """At most `per_s` messages within any second. Pure: `now_s` is an argument (local and monotonic, in seconds)."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._sent_s: deque[float] = deque(maxlen=per_s)

    def wait_s(self, now_s: float) -> float:
        """How long (s) to wait before the next message, 0 if it may go out at `now_s`."""
        if len(self._sent_s) < self._per_s:
            return 0.0
        return max(0.0, 1.0 - (now_s - self._sent_s[0]))

    def record(self, now_s: float) -> None:
        """Count a message that goes out at `now_s`."""
        self._sent_s.append(now_s)


class Session:
    """Carries `streams` over one WebSocket; frames go to `on_frame` as they come.

    `on_up` is called once, when the session is `up`; `received` counts what comes.
    """

    def __init__(
        self,
        url: StreamUrl,
        streams: Collection[str],
        on_frame: OnFrame,
        options: ConnectionOptions,
        on_up: Callable[[], None],
        received: Received,
    ) -> None:
        self._url, self._on_frame, self._options, self._on_up, self._received = url, on_frame, options, on_up, received
        self._timings = options.timings
        self._wanted = set(streams)
        self._requested: set[str] = set()
        self._resubscribing: set[str] = set()
        self.confirmed: set[str] = set()
        """The streams whose subscription the exchange has acknowledged. That proves nothing about their events: a
        connection without the right route gets no data (Binance USDⓈ-M docs, "Websocket Market Streams")."""
        self._awaited: dict[int, tuple[float, tuple[str, ...]]] = {_EVENT: (0.0, ())}
        self._number = 0
        self._limiter = RateLimiter(MESSAGES_PER_S)
        self._wake = asyncio.Event()
        self._socket: ClientConnection | None = None
        self._alive_s = 0.0
        self._pong: asyncio.Future[float] | None = None
        self._given_up: SessionLost | None = None
        self._complete = False
        self.ready = asyncio.Event()
        """Set when an event has come and all subscriptions are acknowledged."""
        self.delivered = False
        """Whether an event has ever come."""

    @property
    def up(self) -> bool:
        """Whether it is connected and all its streams were subscribed to and acknowledged once."""
        return self._socket is not None and self._complete

    @property
    def silent_ms(self) -> float:
        """How long ago (local ms) the last frame or pong came. It is noted by `monotonic`, the cheapest clock."""
        return (monotonic() - self._alive_s) * 1000

    @property
    def awaits_event(self) -> bool:
        """Whether no event has come since the start, or since `await_event`."""
        return _EVENT in self._awaited

    def await_event(self) -> None:
        """Forget that events have come: `ready` and `awaits_event` are about the next one."""
        self._awaited[_EVENT] = (0.0, ())

    def follow(self, streams: Collection[str]) -> None:
        """Carry these streams from now on."""
        self._wanted = set(streams)
        self._wake.set()

    def resubscribe(self, streams: Collection[str]) -> None:
        """Unsubscribe from these streams and subscribe to them anew."""
        self._resubscribing.update(self._requested.intersection(streams))
        self._wake.set()

    def give_up(self, reason: str, sentence: str) -> None:
        """End the session at once: `run` then raises SessionLost with this reason (one of reasons.REASONS)."""
        self._given_up = SessionLost(reason, sentence)
        if self._socket:
            self._socket.transport.abort()

    async def run(self) -> None:
        """Connect and receive until the connection is lost.

        The loss is an exception: OSError, WebSocketException or SessionLost. ConfigError if the URL or the proxy can
        never work; errors of `on_frame` are raised as they are.
        """
        target = self._url.target(sorted(self._wanted))
        self._requested = self._wanted.difference(target.to_subscribe)
        try:
            async with connect(
                target.url,
                compression=None,
                proxy=self._options.proxy or True,
                user_agent_header=self._options.agent,
                open_timeout=self._timings.open_s,
                ping_interval=None,  # _maintain does it: pings count as client messages
                close_timeout=self._timings.close_s,
                max_size=self._options.frame_bytes_max,
                max_queue=FRAMES_QUEUED,
                create_connection=CountingConnection,
            ) as socket:
                assert isinstance(socket, CountingConnection)
                socket.received = self._received
                self.confirmed = set(self._requested)
                self._alive_s = monotonic()
                self._socket = socket
                self._update_state()
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
        tasks = {asyncio.create_task(self._receive(socket)), asyncio.create_task(self._maintain(socket))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _receive(self, socket: ClientConnection) -> None:
        receive, on_frame, awaited, received = socket.recv, self._on_frame, self._awaited, self._received
        while True:
            frame = await receive(decode=False)
            received.messages += 1
            self._alive_s = monotonic()
            if awaited:
                self._match_reply(frame)
            on_frame(frame)

    def _match_reply(self, frame: bytes) -> None:
        """Match a frame with what is awaited: the answer to a client message, or an event."""
        try:
            message: Any = ujson.loads(frame)
        except ValueError:
            return
        if isinstance(message, dict) and "id" in message and "e" not in message and "stream" not in message:
            _, streams = self._awaited.pop(message["id"], (0.0, ())) if type(message["id"]) is int else (0.0, ())
            self.confirmed |= self._requested.intersection(streams)
        elif self._awaited.pop(_EVENT, None):
            self.delivered = True
        self._update_state()

    def _update_state(self) -> None:
        """Set `up` and `ready` when their conditions are met."""
        if not self._complete and not self._wanted - self.confirmed:
            self._complete = True
            self._on_up()
        if self.delivered and self._complete and not self._awaited:
            self.ready.set()

    async def _maintain(self, socket: ClientConnection) -> None:
        """Send all that this side sends: subscriptions as they change, and pings when nothing comes."""
        while True:
            self._wake.clear()
            for method, streams in self._changes():
                await self._request(socket, method, streams)
            self._check_answers()
            await self._ping_if_quiet(socket)
            try:
                async with asyncio.timeout(self._timings.tend_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _changes(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The client messages that lead from the requested streams to the wanted ones."""
        resubscribing, self._resubscribing = self._resubscribing, set()
        yield from _parts("UNSUBSCRIBE", (self._requested - self._wanted) | resubscribing)
        yield from _parts("SUBSCRIBE", self._wanted - self._requested)

    async def _request(self, socket: ClientConnection, method: str, streams: tuple[str, ...]) -> None:
        await asyncio.sleep(self._limiter.wait_s(monotonic()))
        self._number += 1
        if method == "SUBSCRIBE":
            self._requested.update(streams)
            self._awaited[self._number] = (monotonic(), streams)
        else:
            self._requested.difference_update(streams)
            self.confirmed.difference_update(streams)
        self._limiter.record(monotonic())
        await socket.send(request(method, streams, self._number))

    def _check_answers(self) -> None:
        """SessionLost if an answer is overdue, or if no sign of life came for too long."""
        acknowledged_s = self._timings.acknowledged_s
        oldest_s = min((since_s for number, (since_s, _) in self._awaited.items() if number != _EVENT), default=None)
        if oldest_s is not None and monotonic() - oldest_s > acknowledged_s:
            raise SessionLost(UNACKNOWLEDGED, f"a subscription was not acknowledged within {acknowledged_s:g} s")
        # Only with a ping out: a process that was itself suspended has read nothing for that long, either.
        if self.silent_ms > self._options.stalled_ms and self._pong and not self._pong.done():
            raise SessionLost(STALLED, f"no sign of life for {self.silent_ms / 1000:.1f} s")

    async def _ping_if_quiet(self, socket: ClientConnection) -> None:
        """Send a ping if no sign of life came for `ping_after_ms`; its pong counts when it comes (RFC 6455 §5.5.3)."""
        if self.silent_ms < self._timings.ping_after_ms or (self._pong and not self._pong.done()):
            return
        if self._limiter.wait_s(monotonic()):
            return
        self._limiter.record(monotonic())
        self._pong = asyncio.ensure_future(await socket.ping())
        self._pong.add_done_callback(self._on_pong)

    def _on_pong(self, pong: asyncio.Future[float]) -> None:
        if not pong.cancelled() and pong.exception() is None:
            self._alive_s = monotonic()


def _parts(method: str, streams: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    ordered = sorted(streams)
    for start in range(0, len(ordered), PARAMS_MAX):
        yield method, tuple(ordered[start : start + PARAMS_MAX])

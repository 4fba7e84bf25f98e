"""Fans events out to connections: each event is encoded once, each connection written to once a turn."""

from __future__ import annotations

from asyncio import Transport
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from klagg.binance.serving.payloads import combined, text_frame
from klagg.binance.serving.subscriptions import Subscriptions
from klagg.simulator.streams import ExchangeStream, StreamKind, WebSocketRoute, carried

T = TypeVar("T")


def _never() -> None:
    """Nothing has to be told."""


@dataclass(eq=False, slots=True)
class StreamConnection:
    """One WebSocket as the hub sees it: frames go straight into the transport's buffer.

    `line` is what the client calls itself, "" for nothing; `expire` ends the connection in order, as its age does.
    """

    route: WebSocketRoute
    transport: Transport
    subscriptions: Subscriptions
    pending: list[bytes] = field(default_factory=list)
    pending_bytes: int = 0
    slow: bool = False
    line: str = ""
    expire: Callable[[], None] = _never


class StreamHub:
    """Who listens to what. Single-threaded: the event loop's."""

    def __init__(self, send_buffer_bytes_max: int) -> None:
        """A connection whose unread bytes exceed `send_buffer_bytes_max` is cut."""
        self._send_buffer_bytes_max = send_buffer_bytes_max
        self._listeners: dict[str, dict[StreamConnection, None]] = {}
        self._dirty: dict[StreamConnection, None] = {}
        self._by_kind: dict[StreamKind, int] = dict.fromkeys(StreamKind, 0)
        self.connections: dict[StreamConnection, None] = {}
        self.frames_sent = 0
        self.bytes_sent = 0
        self.slow_consumers_cut = 0

    def attach(self, connection: StreamConnection) -> None:
        """Takes a connection in."""
        self.connections[connection] = None

    def detach(self, connection: StreamConnection) -> None:
        """Forgets a connection and all it listened to."""
        self.connections.pop(connection, None)
        self._dirty.pop(connection, None)
        self.unlisten(connection, list(connection.subscriptions.streams))

    def listen(self, connection: StreamConnection, names: list[str]) -> list[ExchangeStream]:
        """Starts delivering those of the streams that the connection's route carries, and returns them."""
        started = []
        for name in names:
            stream = carried(connection.route, name)
            if stream is not None:
                self._listeners.setdefault(name, {})[connection] = None
                self._by_kind[stream.kind] += 1
                started.append(stream)
        return started

    def unlisten(self, connection: StreamConnection, names: list[str]) -> None:
        """Stops delivering streams."""
        for name in names:
            listeners = self._listeners.get(name)
            if listeners is not None and connection in listeners:
                del listeners[connection]
                stream = carried(connection.route, name)
                if stream is not None:
                    self._by_kind[stream.kind] -= 1
                if not listeners:
                    del self._listeners[name]

    def wants(self, kind: StreamKind) -> bool:
        """Whether anybody listens to any stream of this kind."""
        return self._by_kind[kind] > 0

    def has_listeners(self, name: str) -> bool:
        """Whether anybody listens to this stream."""
        return name in self._listeners

    @property
    def streams(self) -> int:
        """Streams that somebody listens to."""
        return len(self._listeners)

    def publish(self, name: str, encode: Callable[[T], str], event: T) -> None:
        """Queues `event` for the stream's listeners; it is encoded once, and only if there are any."""
        listeners = self._listeners.get(name)
        if listeners is not None:
            payload = encode(event)
            wrapped = raw = b""
            for connection in listeners:
                if connection.subscriptions.combined:
                    frame = wrapped = wrapped or text_frame(combined(name, payload))
                else:
                    frame = raw = raw or text_frame(payload)
                self.queue(connection, frame)

    def queue(self, connection: StreamConnection, frame: bytes) -> None:
        """Queues one frame for one connection."""
        connection.pending.append(frame)
        connection.pending_bytes += len(frame)
        self._dirty[connection] = None

    def flush(self) -> None:
        """Writes everything queued, one write a connection, and cuts those that do not keep up."""
        for connection in self._dirty:
            if not connection.slow and not connection.transport.is_closing():
                connection.transport.write(b"".join(connection.pending))
                self.frames_sent += len(connection.pending)
                self.bytes_sent += connection.pending_bytes
                if connection.transport.get_write_buffer_size() > self._send_buffer_bytes_max:
                    connection.slow = True
                    self.slow_consumers_cut += 1
                    connection.transport.abort()
            connection.pending.clear()
            connection.pending_bytes = 0
        self._dirty.clear()

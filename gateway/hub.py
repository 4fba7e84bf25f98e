"""Fan-out: an event is encoded once for each stream, a client is written to once a turn, no client delays another.

Frames that a client has not read yet wait in its own queue. There a newer state of a bar in progress replaces the older
one, so at most one waits for each stream. Finals are never replaced; a client whose waiting finals exceed
`finals_bytes_max` is disconnected with a reason.
"""

from __future__ import annotations

from asyncio import Transport
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from gateway.live import Change
from gateway.streams import (
    KlineStream,
    KlineStreamKind,
    TickerKind,
    event_of,
    names_of,
    parse_agg_trade_stream,
    parse_stream,
    parse_ticker_stream,
    worth_sending,
)
from klagg.binance.serving.payloads import combined, text_frame
from klagg.binance.serving.subscriptions import Subscriptions

UNSENT_BYTES_MAX: Final = 64 * 1024
"""While more than this waits in the socket's own buffer, nothing is written, so that states of bars are replaced."""


def _ignore(_: str) -> None:
    """Does nothing."""


@dataclass(eq=False, slots=True)
class Client:
    """One WebSocket. `dismiss` starts to disconnect it with a reason, and returns at once.

    A `private` one came by the route of account data: it is answered, and no stream is sent to it.
    `waiting` holds frames in the order of sending: by stream name the newest state of a bar in progress (with its open
    time), by number finals and answers.
    """

    transport: Transport
    subscriptions: Subscriptions
    dismiss: Callable[[str], None] = _ignore
    waiting: dict[str | int, tuple[int, bytes]] = field(default_factory=dict)
    finals_bytes: int = 0
    number: int = 0
    dismissed: bool = False
    private: bool = False

    def put_live(self, name: str, open_time: int, frame: bytes) -> None:
        """Queue a state of a bar in progress: it replaces a waiting state of the stream, unless that is of a later
        bar."""
        before = self.waiting.get(name)
        if before is None or before[0] <= open_time:
            self.waiting[name] = (open_time, frame)

    def put_final(self, name: str, open_time: int, frame: bytes) -> None:
        """Queue a final; a waiting state of the same bar in progress is dropped."""
        before = self.waiting.get(name)
        if before is not None and before[0] == open_time:
            del self.waiting[name]
        self.put(frame)

    def put(self, frame: bytes) -> None:
        """Queue a frame that is never dropped."""
        self.number += 1
        self.waiting[self.number] = (0, frame)
        self.finals_bytes += len(frame)

    def flush(self) -> int:
        """Write the waiting frames, unless the socket's buffer is full; returns how many."""
        if self.dismissed or not self.waiting or self.transport.is_closing():
            return 0
        if self.transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            return 0
        count = len(self.waiting)
        self.transport.write(b"".join([frame for _, frame in self.waiting.values()]))
        self.waiting.clear()
        self.finals_bytes = 0
        return count


@dataclass(slots=True)
class Hub:
    """The clients and their streams. `finals_bytes_max` is how many bytes of finals may wait for one client."""

    finals_bytes_max: int
    clients: dict[Client, None] = field(default_factory=dict)
    frames_sent: int = 0
    dismissed: int = 0
    agg_trade_streams: dict[str, str] = field(default_factory=dict)
    """The streams of aggTrades that have a subscriber: name by symbol."""
    _listeners: dict[str, dict[Client, None]] = field(default_factory=dict)
    _held: dict[Client, None] = field(default_factory=dict)

    def attach(self, client: Client) -> None:
        """Add a client."""
        self.clients[client] = None

    def detach(self, client: Client) -> None:
        """Remove a client and its subscriptions."""
        self.clients.pop(client, None)
        self._held.pop(client, None)
        self.unlisten(client, list(client.subscriptions.streams))
        client.waiting.clear()

    def listen(self, client: Client, names: Iterable[str]) -> list[tuple[str, KlineStream]]:
        """Subscribe a client to streams; returns those of klines that klagg has, with their names."""
        names = list(names)
        known = [(name, stream) for name in names if (stream := parse_stream(name)) is not None]
        tickers = [name for name in names if parse_ticker_stream(name) is not None]
        trades = {symbol: name for name in names if (symbol := parse_agg_trade_stream(name)) is not None}
        self.agg_trade_streams.update(trades)
        for name in (*tickers, *trades.values(), *(name for name, _ in known)):
            self._listeners.setdefault(name, {})[client] = None
        return known

    def unlisten(self, client: Client, names: Iterable[str]) -> None:
        """Unsubscribe; waiting states of bars in progress are dropped, finals stay."""
        for name in names:
            listeners = self._listeners.get(name)
            if listeners is not None and client in listeners:
                del listeners[client]
                if not listeners:
                    del self._listeners[name]
                    if (symbol := parse_agg_trade_stream(name)) is not None:
                        self.agg_trade_streams.pop(symbol, None)
            client.waiting.pop(name, None)

    def ticker_streams(self) -> dict[str, tuple[TickerKind, str | None]]:
        """The streams of tickers that have a subscriber: kind and symbol (None: all) by name."""
        parsed = {name: parse_ticker_stream(name) for name in self._listeners}
        return {name: ticker for name, ticker in parsed.items() if ticker is not None}

    def publish_ticker(self, name: str, event: str, event_ms: int) -> None:
        """Queue the event of a symbol's ticker; it replaces one that waits."""
        for client in self._listeners.get(name, {}):
            client.put_live(
                name, event_ms, text_frame(combined(name, event) if client.subscriptions.combined else event)
            )
            self._held[client] = None

    def publish_array(self, name: str, events: str) -> None:
        """Queue an array of tickers. None is dropped: the next one may have other symbols."""
        for client in self._listeners.get(name, {}):
            client.put(text_frame(combined(name, events) if client.subscriptions.combined else events))
            self._held[client] = None

    def publish_trade(self, name: str, event: str) -> None:
        """Queue an aggTrade. None is dropped: a client for which too many wait is dismissed."""
        wrapped = raw = b""
        for client in self._listeners.get(name, {}):
            if client.subscriptions.combined:
                frame = wrapped = wrapped or text_frame(combined(name, event))
            else:
                frame = raw = raw or text_frame(event)
            client.put(frame)
            self._held[client] = None

    @property
    def streams(self) -> int:
        """How many streams have a subscriber."""
        return len(self._listeners)

    def publish(self, changes: Iterable[Change]) -> None:
        """Queue changes for their subscribers, and send what can be sent."""
        for change in changes:
            kline, continuous = names_of(change.symbol, change.interval)
            if kline in self._listeners:
                self._send(kline, KlineStreamKind.KLINE, change)
            if continuous in self._listeners:
                self._send(continuous, KlineStreamKind.CONTINUOUS, change)
        self.flush()

    def _send(self, name: str, kind: KlineStreamKind, change: Change) -> None:
        if not worth_sending(change):
            return
        event = event_of(kind, change)
        wrapped = raw = b""
        closed, open_time = change.bar.closed, change.bar.open_time
        for client in self._listeners[name]:
            if client.subscriptions.combined:
                frame = wrapped = wrapped or text_frame(combined(name, event))
            else:
                frame = raw = raw or text_frame(event)
            put = client.put_final if closed else client.put_live
            put(name, open_time, frame)
            self._held[client] = None

    def queue_current(self, client: Client, name: str, kind: KlineStreamKind, change: Change) -> None:
        """Queue the current state of a bar for one client."""
        event = event_of(kind, change)
        frame = text_frame(combined(name, event) if client.subscriptions.combined else event)
        client.put_live(name, change.bar.open_time, frame)
        self._held[client] = None

    def queue(self, client: Client, text: str) -> None:
        """Queue an answer for one client, and send it if it can be sent."""
        client.put(text_frame(text))
        self._held[client] = None
        self.flush()

    def flush(self) -> None:
        """Write to the clients that can receive, and dismiss those with too many waiting finals."""
        for client in list(self._held):
            self.frames_sent += client.flush()
            if client.finals_bytes > self.finals_bytes_max and not client.dismissed:
                client.dismissed = True
                self.dismissed += 1
                client.dismiss("too slow: more finals wait than there is room for")
            if not client.waiting or client.dismissed:
                self._held.pop(client, None)

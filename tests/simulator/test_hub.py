from __future__ import annotations

import asyncio
from typing import Any

from klagg.binance.serving.subscriptions import Subscriptions
from klagg.simulator.hub import StreamConnection, StreamHub
from klagg.simulator.streams import StreamKind, WebSocketRoute


class Sink(asyncio.Transport):
    """Takes what is written; `unread` is what a client has not read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.unread = 0
        self.aborted = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


def connect(
    hub: StreamHub, route: WebSocketRoute, *names: str, combined: bool = False
) -> tuple[StreamConnection, Sink]:
    sink = Sink()
    connection = StreamConnection(route, sink, Subscriptions(combined, 10))
    hub.attach(connection)
    hub.listen(connection, connection.subscriptions.add(names))
    return connection, sink


def test_an_event_is_encoded_once_and_written_in_one_piece() -> None:
    hub = StreamHub(1_000)
    encoded = []

    def encode(event: str) -> str:
        encoded.append(event)
        return event

    _, raw = connect(hub, WebSocketRoute.MARKET, "a@aggTrade")
    _, other = connect(hub, WebSocketRoute.MARKET, "a@aggTrade", "b@aggTrade")
    _, wrapped = connect(hub, WebSocketRoute.MARKET, "a@aggTrade", combined=True)
    hub.publish("a@aggTrade", encode, "{}")
    hub.publish("b@aggTrade", encode, "[]")
    hub.publish("c@aggTrade", encode, "nobody listens")
    hub.flush()
    hub.flush()
    assert encoded == ["{}", "[]"]
    assert raw.writes == [b"\x81\x02{}"]
    assert other.writes == [b"\x81\x02{}\x81\x02[]"]
    assert wrapped.writes == [b'\x81\x23{"stream":"a@aggTrade","data":{}}'.replace(b"\x23", bytes([33]))]
    assert hub.frames_sent == 4


def test_the_wrong_route_is_silent() -> None:
    hub = StreamHub(1_000)
    connection, sink = connect(hub, WebSocketRoute.RETIRED, "a@aggTrade")
    hub.publish("a@aggTrade", str, "{}")
    hub.flush()
    assert sink.writes == []
    assert not hub.wants(StreamKind.AGG_TRADE)
    assert list(connection.subscriptions.streams) == ["a@aggTrade"]


def test_leaving_ends_all_interest() -> None:
    hub = StreamHub(1_000)
    connection, sink = connect(hub, WebSocketRoute.MARKET, "a@aggTrade", "!miniTicker@arr")
    assert hub.wants(StreamKind.MINI_TICKERS)
    hub.unlisten(connection, ["!miniTicker@arr"])
    assert not hub.wants(StreamKind.MINI_TICKERS)
    hub.detach(connection)
    hub.publish("a@aggTrade", str, "{}")
    hub.flush()
    assert (sink.writes, hub.streams, len(hub.connections)) == ([], 0, 0)


def test_a_slow_consumer_is_cut() -> None:
    hub = StreamHub(1_000)
    _, sink = connect(hub, WebSocketRoute.MARKET, "a@aggTrade")
    sink.unread = 1_000
    hub.publish("a@aggTrade", str, "{}")
    hub.flush()
    assert (sink.aborted, hub.slow_consumers_cut) == (False, 0)
    sink.unread = 1_001
    hub.publish("a@aggTrade", str, "{}")
    hub.flush()
    assert sink.aborted
    hub.publish("a@aggTrade", str, "{}")
    hub.flush()
    assert len(sink.writes) == 2
    assert hub.slow_consumers_cut == 1

"""One connection against a real WebSocket server: frames, subscriptions, signs of life, reconnects."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import unquote

import pytest
import ujson
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from ingest import connection as module
from ingest import session
from ingest.connection import Connection
from ingest.session import Manner
from klagg.binance.endpoints import Endpoint, StreamUrl, stream_name
from klagg.binance.serving.limits import Limits
from klagg.clock import ExchangeClock, steady_ms
from klagg.errors import ConfigError
from klagg.process.stats import Stats
from klagg.simulator import LocalExchange, SyntheticMarket
from tests.ingest.kit import SYMBOLS, Relay, SmallExchange, agg_trade, alarms_of, frame_of
from tests.kit import eventually_async as eventually
from tests.simulator.kit import running

STREAMS = [stream_name(symbol, "aggTrade") for symbol in SYMBOLS]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_FIRST_S", 0.01)
    monkeypatch.setattr(module, "OVERLAP_S", 0.05)
    monkeypatch.setattr(session, "QUIET_MS", 50)
    monkeypatch.setattr(session, "TEND_S", 0.02)


class Receiver:
    """A connection and the frames that it gave."""

    def __init__(self, url: str, endpoint: Endpoint = Endpoint.COMBINED, **manner: Any) -> None:
        self.frames: list[bytes] = []
        self.stats = Stats()
        self.connection = Connection(
            "A1",
            StreamUrl.of(url, endpoint, "aggTrade"),
            STREAMS,
            self.frames.append,
            manner=Manner(**manner),
            stats=self.stats,
            log=logging.getLogger("test"),
        )

    def reconnects(self, reason: str) -> int:
        """How often the connection was made anew for this reason."""
        return self.stats.labelled_counters[("reconnects", (("connection", "A1"), ("reason", reason)))]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.connection.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_combined_frames_arrive_as_they_were_sent() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url, agent="klagg-ingest-A")
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            sent = [frame_of(agg_trade(each)) for each in range(500)]
            await exchange.send(*sent)
            await eventually(lambda: len(receiver.frames) == 500)
            # A frame of a server has a head of 2 bytes; from 126 bytes on, two more for its length.
            assert receiver.connection.received.take() == (500, sum(len(each) + 4 for each in sent))
            assert receiver.connection.received.take() == (0, 0)
        assert receiver.frames == sent
        assert [unquote(path) for path in exchange.paths] == [f"/market/stream?streams={'/'.join(STREAMS)}"]
        assert exchange.agents == ["klagg-ingest-A"]
        assert not receiver.connection.is_up


async def test_raw_connections_subscribe() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url, Endpoint.RAW)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            assert exchange.paths == ["/market/ws"]
            assert exchange.messages == [{"method": "SUBSCRIBE", "params": STREAMS, "id": 1}]
            assert await eventually(lambda: receiver.frames) == [b'{"result":null,"id":1}']
            assert receiver.connection.confirmed == set(STREAMS)
            assert not receiver.connection.delivers
            await exchange.send(frame_of(agg_trade(1), Endpoint.RAW))
            await eventually(lambda: receiver.connection.delivers)


async def test_subscriptions_follow_on_the_living_connection() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url)
        connection = receiver.connection
        async with receiver.running():
            await eventually(lambda: connection.is_up)
            wanted = {STREAMS[0], *(f"new{number:03}usdt@aggTrade" for number in range(250))}
            connection.follow(wanted)
            await eventually(lambda: connection.confirmed == wanted)
            gone, *new = exchange.messages
            assert (gone["method"], sorted(gone["params"])) == ("UNSUBSCRIBE", sorted(STREAMS[1:]))
            assert [(each["method"], len(each["params"])) for each in new] == [
                ("SUBSCRIBE", 100),
                ("SUBSCRIBE", 100),
                ("SUBSCRIBE", 50),
            ]
            connection.again([STREAMS[0]])
            await eventually(lambda: len(exchange.messages) == 6 and connection.confirmed == wanted)
            assert [(each["method"], each["params"]) for each in exchange.messages[4:]] == [
                ("UNSUBSCRIBE", STREAMS[:1]),
                ("SUBSCRIBE", STREAMS[:1]),
            ]
            assert len(exchange.connections) == 1


async def test_messages_and_pings_keep_the_exchanges_limit() -> None:
    """A change a turn for three seconds, against the local exchange, which cuts whoever says too much."""
    market = SyntheticMarket(3, 50.0)
    exchange = LocalExchange(market)
    async with running(exchange):
        receiver = Receiver(exchange.websocket_url)
        connection = receiver.connection
        async with receiver.running():
            await eventually(lambda: connection.is_up)
            until_ms = steady_ms() + 2500
            number = 0
            while steady_ms() < until_ms:
                number += 1
                connection.follow([*STREAMS, f"new{number}usdt@aggTrade"])
                await eventually(lambda: len(connection.confirmed) == 4)
        assert 10 <= number <= 8 * 3
        assert not receiver.stats.counters["reconnects"]


async def test_a_hand_over_loses_nothing_of_the_local_exchange() -> None:
    exchange = LocalExchange(SyntheticMarket(3, 300.0), limits=Limits(connection_s=2.5))
    async with running(exchange):
        symbols = [each.symbol for each in exchange.source.listings(exchange.start_ms)]
        receiver = Receiver(exchange.websocket_url, age_s=1.0)
        receiver.connection.follow([stream_name(each, "aggTrade") for each in symbols])
        async with receiver.running():
            await eventually(lambda: receiver.stats.counters.get("hand_overs", 0) >= 4, 20)
        assert not receiver.stats.counters["reconnects"]
    ids: dict[str, set[int]] = {}
    for frame in receiver.frames:
        event = ujson.loads(frame)["data"]
        ids.setdefault(event["s"], set()).add(event["a"])
    assert set(ids) == set(symbols)
    assert all(len(each) == max(each) - min(each) + 1 for each in ids.values())


async def sending(to: Callable[[], ServerConnection], until: Callable[[], bool]) -> None:
    """Send trades, again and again, to whichever connection `to` names; one that has ended meanwhile is passed over."""
    deadline = time.monotonic() + 10
    while not until():
        assert time.monotonic() < deadline, "not so within 10 s"
        with suppress(ConnectionClosed):
            await to().send(frame_of(agg_trade(1)), text=True)
        await asyncio.sleep(0.005)


async def test_the_new_session_must_deliver_before_the_old_one_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "HAND_OVER_S", 0.3)
    monkeypatch.setattr(module, "AGAIN_FIRST_S", 0.05)
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            old = exchange.connections[0]
            receiver.connection.replace("the test wants it")
            # The old one delivers, the new ones do not.
            await sending(lambda: old, until=lambda: alarms_of(receiver.stats, "hand_over") > 0)
            assert old.state is State.OPEN
            assert "hand_overs" not in receiver.stats.counters
            await sending(lambda: exchange.connections[-1], until=lambda: "hand_overs" in receiver.stats.counters)
            await old.wait_closed()
            assert receiver.connection.is_up
    assert "A1 is replaced: the test wants it" in caplog.text
    assert "ALARM: connection A1 cannot be replaced (it brought nothing within 0 s)" in caplog.text


async def test_where_both_are_quiet_the_old_one_ends_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HAND_OVER_S", 0.1)
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            receiver.connection.replace("the test wants it")
            await exchange.connections[0].wait_closed()
            await eventually(lambda: receiver.stats.counters.get("hand_overs") == 1)
            assert receiver.connection.is_up


async def test_a_stalled_socket_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A relay that takes everything and passes nothing on: no frame, no pong, no end."""
    async with SmallExchange().running() as exchange, Relay(exchange.websocket_url).running() as relay:
        receiver = Receiver(relay.url.replace("redis://", "ws://").removesuffix("/0"), stalled_ms=300.0)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            relay.deaf = True
            await eventually(lambda: alarms_of(receiver.stats, "stalled"))
            relay.deaf = False
            await eventually(lambda: receiver.connection.is_up)
    assert "ALARM: connection A1 is stalled: no sign of life for 0." in caplog.text


async def test_a_subscription_that_is_not_acknowledged_ends_the_session(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "ACKNOWLEDGED_S", 0.1)
    async with SmallExchange().running() as exchange:
        exchange.acknowledges = False
        receiver = Receiver(exchange.websocket_url, Endpoint.RAW)
        async with receiver.running():
            await eventually(lambda: receiver.reconnects("unacknowledged"))
            assert not receiver.connection.is_up
            exchange.acknowledges = True
            await eventually(lambda: receiver.connection.is_up)
    assert "a subscription was not acknowledged within 0.1 s" in caplog.text


async def test_without_streams_it_is_not_connected() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            receiver.connection.follow([])
            await exchange.connections[0].wait_closed()
            assert not receiver.stats.counters["reconnects"]
            receiver.connection.follow(STREAMS[:1])
            await eventually(lambda: receiver.connection.is_up)
            assert exchange.paths[1] == "/market/stream?streams=btcusdt@aggTrade"


async def test_a_lost_connection_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url)
        async with receiver.running():
            for number in range(3):
                await eventually(lambda: receiver.connection.is_up)
                await exchange.send(frame_of(agg_trade(number)))
                await eventually(lambda number=number: len(receiver.frames) == number + 1)
                if number == 1:
                    exchange.connections[-1].transport.abort()
                else:
                    await exchange.connections[-1].close()
                await eventually(lambda number=number: len(exchange.connections) == number + 2)
    assert receiver.stats.counters["reconnects"] == 3
    assert receiver.reconnects("closed") == 3
    assert len([record for record in caplog.records if "connection A1 is down (" in record.getMessage()]) == 3


async def test_it_waits_for_an_exchange_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver("ws://127.0.0.1:1")
    async with receiver.running():
        await eventually(lambda: receiver.reconnects("network") >= 3)
    assert not receiver.connection.is_up
    assert receiver.connection.alive_ms(ExchangeClock()) is None
    assert "connection A1 is down ([Errno 111]" in caplog.text


async def test_a_frame_beyond_the_bound_ends_the_connection_not_the_line() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            await exchange.send(b"x" * (session.FRAME_BYTES_MAX + 1))
            await eventually(lambda: len(exchange.connections) == 2 and receiver.connection.is_up)
            await exchange.send(frame_of(agg_trade(1)))
            assert await eventually(lambda: receiver.frames) == [frame_of(agg_trade(1))]


async def test_a_quiet_connection_shows_by_pongs_that_it_lives() -> None:
    clock = ExchangeClock()
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url)
        connection = receiver.connection
        async with receiver.running():
            await eventually(lambda: connection.is_up)
            first_ms = connection.alive_ms(clock)
            assert first_ms
            assert await eventually(lambda: (connection.alive_ms(clock) or 0) >= first_ms + 4 * session.QUIET_MS)
        assert not receiver.frames


@pytest.mark.parametrize("proxy", ["socks5://", "http://"])
async def test_a_proxy_that_cannot_work_is_an_error_at_once(proxy: str) -> None:
    async with Receiver("ws://127.0.0.1:1", proxy=proxy).running() as task:
        with pytest.raises(ConfigError, match="cannot be reached as configured"):
            await asyncio.wait_for(task, 10)

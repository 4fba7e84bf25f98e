"""One connection against a real WebSocket server: frames, subscriptions, signs of life, reconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote

import pytest

from ingest import connection as module
from ingest.connection import Connection
from klagg.clock import ExchangeClock, steady_ms
from klagg.errors import ConfigError
from klagg.exchange.endpoints import Endpoint, Route, route_of
from klagg.stats import Stats
from tests.ingest.kit import SYMBOLS, SmallExchange, agg_trade, eventually, frame_of


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECONNECT_FIRST_S", 0.01)
    monkeypatch.setattr(module, "QUIET_MS", 50)


class Receiver:
    """A connection and the frames that it gave."""

    def __init__(self, route: Route) -> None:
        self.frames: list[bytes] = []
        self.stats = Stats()
        self.connection = Connection(
            "A1", route, SYMBOLS, self.frames.append, stats=self.stats, log=logging.getLogger("test")
        )

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
        receiver = Receiver(route_of(exchange.websocket_url, Endpoint.COMBINED, "aggTrade", SYMBOLS))
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            sent = [frame_of(agg_trade(each)) for each in range(500)]
            await exchange.send(*sent)
            await eventually(lambda: len(receiver.frames) == 500)
        assert receiver.frames == sent
        streams = "/".join(f"{symbol.lower()}@aggTrade" for symbol in SYMBOLS)
        assert [unquote(path) for path in exchange.paths] == [f"/market/stream?streams={streams}"]
        assert not receiver.connection.is_up


async def test_raw_connections_subscribe() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(route_of(exchange.websocket_url, Endpoint.RAW, "aggTrade", SYMBOLS))
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            assert exchange.paths == ["/market/ws"]
            assert exchange.messages == [
                {"method": "SUBSCRIBE", "params": [f"{symbol.lower()}@aggTrade" for symbol in SYMBOLS], "id": 1}
            ]
            assert await eventually(lambda: receiver.frames) == [b'{"result":null,"id":1}']


async def test_messages_keep_the_exchanges_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MESSAGES_PER_S", 100)
    async with SmallExchange().running() as exchange:
        receiver = Receiver(Route(f"{exchange.websocket_url}/market/ws", tuple(f'{{"id":{n}}}' for n in range(5))))
        began_ms = steady_ms()
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
        assert steady_ms() - began_ms >= 5 * 10
        assert [each["id"] for each in exchange.messages] == list(range(5))


async def test_a_lost_connection_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(route_of(exchange.websocket_url, Endpoint.COMBINED, "aggTrade", SYMBOLS))
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
    assert len([record for record in caplog.records if "connection A1 is down (" in record.getMessage()]) == 3


async def test_it_waits_for_an_exchange_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    receiver = Receiver(Route("ws://127.0.0.1:1/market/ws", ()))
    async with receiver.running():
        await eventually(lambda: receiver.stats.counters.get("reconnects", 0) >= 3)
    assert not receiver.connection.is_up
    assert receiver.connection.alive_ms(ExchangeClock()) is None
    assert "connection A1 is down ([Errno 111]" in caplog.records[0].getMessage()


async def test_a_frame_beyond_the_bound_ends_the_connection_not_the_line() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(route_of(exchange.websocket_url, Endpoint.COMBINED, "aggTrade", SYMBOLS))
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            await exchange.send(b"x" * (module.FRAME_BYTES_MAX + 1))
            await eventually(lambda: len(exchange.connections) == 2 and receiver.connection.is_up)
            await exchange.send(frame_of(agg_trade(1)))
            assert await eventually(lambda: receiver.frames) == [frame_of(agg_trade(1))]


async def test_a_quiet_connection_shows_by_pongs_that_it_lives() -> None:
    clock = ExchangeClock()
    async with SmallExchange().running() as exchange:
        receiver = Receiver(route_of(exchange.websocket_url, Endpoint.COMBINED, "aggTrade", SYMBOLS))
        connection = receiver.connection
        async with receiver.running():
            await eventually(lambda: connection.is_up)
            first_ms = connection.alive_ms(clock)
            assert first_ms
            await eventually(lambda: steady_ms() - first_ms > module.QUIET_MS + 1)
            await connection.ping_if_quiet()
            assert await eventually(lambda: (connection.alive_ms(clock) or 0) >= first_ms + module.QUIET_MS - 5)


async def test_an_url_that_cannot_work_is_an_error_at_once() -> None:
    async with Receiver(Route("http://127.0.0.1:1/", ())).running() as task:
        with pytest.raises(ConfigError, match="cannot be reached as configured"):
            await asyncio.wait_for(task, 10)

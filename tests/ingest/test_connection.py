"""One connection against a real WebSocket server: it reconnects, hands over, and ends without streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
import ujson
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from klagg.binance.endpoints import stream_name
from klagg.binance.serving.limits import Limits
from klagg.clock import ExchangeClock
from klagg.process.alarms import AlarmKind
from klagg.simulator import Simulator, SyntheticMarket
from tests.ingest.connectionkit import SHORT, STREAMS, Receiver
from tests.ingest.kit import SmallExchange, agg_trade, alarms_of, frame_of, standing
from tests.kit import eventually_async as eventually
from tests.simulator.kit import running


async def test_a_hand_over_loses_nothing_of_the_local_exchange() -> None:
    exchange = Simulator(SyntheticMarket(3, 300.0), limits=Limits(connection_s=2.5))
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


async def test_the_new_session_must_deliver_before_the_old_one_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    timings = replace(SHORT, hand_over_s=0.3, hand_over_retry_first_s=0.05)
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url, timings=timings)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            old = exchange.connections[0]
            receiver.connection.replace("the test wants it")
            # The old one delivers, the new ones do not.
            await sending(lambda: old, until=lambda: alarms_of(receiver.stats, "hand_over") > 0)
            assert old.state is State.OPEN
            assert not receiver.stats.counters["hand_overs"]
            assert standing(receiver.stats) == {AlarmKind.HAND_OVER}
            await sending(lambda: exchange.connections[-1], until=lambda: receiver.stats.counters["hand_overs"] > 0)
            assert standing(receiver.stats) == set(), "the alarm is over"
            await old.wait_closed()
            assert receiver.connection.is_up
    assert "A1 is replaced: the test wants it" in caplog.text
    assert "ALARM: connection A1 cannot be replaced (it brought nothing within 0 s)" in caplog.text


async def test_where_both_are_quiet_the_old_one_ends_as_well() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url, timings=replace(SHORT, hand_over_s=0.1))
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            receiver.connection.replace("the test wants it")
            await exchange.connections[0].wait_closed()
            await eventually(lambda: receiver.stats.counters.get("hand_overs") == 1)
            assert receiver.connection.is_up


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

                def received(count: int = number + 1) -> bool:
                    return len(receiver.frames) == count

                def connected(count: int = number + 2) -> bool:
                    return len(exchange.connections) == count

                await eventually(lambda: receiver.connection.is_up)
                await exchange.send(frame_of(agg_trade(number)))
                await eventually(received)
                if number == 1:
                    exchange.connections[-1].transport.abort()
                else:
                    await exchange.connections[-1].close()
                await eventually(connected)
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

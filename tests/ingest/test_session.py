"""One session against a real WebSocket server: frames, subscriptions, signs of life, and the limit on messages."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.session import FRAME_BYTES_MAX, RateLimiter
from klagg.binance.endpoints import Endpoint
from klagg.clock import ExchangeClock, steady_ms
from klagg.errors import ConfigError
from klagg.process.alarms import AlarmKind
from klagg.simulator import Simulator, SyntheticMarket
from tests.ingest.connectionkit import SHORT, STREAMS, Receiver
from tests.ingest.kit import Relay, SmallExchange, agg_trade, alarms_of, frame_of, standing
from tests.kit import eventually_async as eventually
from tests.simulator.kit import running


@given(st.lists(st.floats(0, 0.5), max_size=60), st.integers(1, 10))
def test_no_second_holds_more_than_the_limit(pauses_s: list[float], per_s: int) -> None:
    limiter, now_s, sent_s = RateLimiter(per_s), 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s
        wait_s = limiter.wait_s(now_s)
        assert 0 <= wait_s <= 1
        now_s += wait_s
        sent_s.append(now_s)
        limiter.record(now_s)
    assert all(late - early >= 1 - 1e-9 for early, late in zip(sent_s, sent_s[per_s:], strict=False))


def test_who_has_sent_little_need_not_wait() -> None:
    limiter = RateLimiter(2)
    limiter.record(10.0)
    assert limiter.wait_s(10.0) == 0
    limiter.record(10.25)
    assert limiter.wait_s(10.5) == 0.5
    assert limiter.wait_s(11.0) == 0


async def test_combined_frames_arrive_as_they_were_sent() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url, agent="klagg-ingest-A")
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            sent = [frame_of(agg_trade(each)) for each in range(500)]
            await exchange.send(*sent)
            await eventually(lambda: len(receiver.frames) == 500)
            # A frame of a server has a head of 2 bytes; from 126 bytes on, two more for its length.
            assert receiver.connection.received.drain() == (500, sum(len(each) + 4 for each in sent))
            assert receiver.connection.received.drain() == (0, 0)
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
            connection.resubscribe([STREAMS[0]])
            await eventually(lambda: len(exchange.messages) == 6 and connection.confirmed == wanted)
            assert [(each["method"], each["params"]) for each in exchange.messages[4:]] == [
                ("UNSUBSCRIBE", STREAMS[:1]),
                ("SUBSCRIBE", STREAMS[:1]),
            ]
            assert len(exchange.connections) == 1


async def test_messages_and_pings_keep_the_exchanges_limit() -> None:
    """A change a turn for three seconds, against the simulator, which cuts whoever says too much."""
    market = SyntheticMarket(3, 50.0)
    exchange = Simulator(market)
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


async def test_a_stalled_socket_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A relay that takes everything and passes nothing on: no frame, no pong, no end."""
    async with SmallExchange().running() as exchange, Relay(exchange.websocket_url).running() as relay:
        receiver = Receiver(relay.url.replace("redis://", "ws://").removesuffix("/0"), stalled_ms=300.0)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            relay.deaf = True
            await eventually(lambda: alarms_of(receiver.stats, "stalled"))
            assert standing(receiver.stats) == {AlarmKind.STALLED}
            relay.deaf = False
            await eventually(lambda: receiver.connection.is_up)
            assert standing(receiver.stats) == set(), "the alarm is over"
    assert "ALARM: connection A1 is stalled: no sign of life for 0." in caplog.text


async def test_a_subscription_that_is_not_acknowledged_ends_the_session(caplog: pytest.LogCaptureFixture) -> None:
    async with SmallExchange().running() as exchange:
        exchange.acknowledges = False
        receiver = Receiver(exchange.websocket_url, Endpoint.RAW, replace(SHORT, acknowledged_s=0.1))
        async with receiver.running():
            await eventually(lambda: receiver.reconnects("unacknowledged"))
            assert not receiver.connection.is_up
            exchange.acknowledges = True
            await eventually(lambda: receiver.connection.is_up)
    assert "a subscription was not acknowledged within 0.1 s" in caplog.text


async def test_a_frame_beyond_the_bound_ends_the_connection_not_the_line() -> None:
    async with SmallExchange().running() as exchange:
        receiver = Receiver(exchange.websocket_url)
        async with receiver.running():
            await eventually(lambda: receiver.connection.is_up)
            await exchange.send(b"x" * (FRAME_BYTES_MAX + 1))
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
            assert await eventually(lambda: (connection.alive_ms(clock) or 0) >= first_ms + 4 * SHORT.ping_after_ms)
        assert not receiver.frames


@pytest.mark.parametrize("proxy", ["socks5://", "http://"])
async def test_a_proxy_that_cannot_work_is_an_error_at_once(proxy: str) -> None:
    async with Receiver("ws://127.0.0.1:1", proxy=proxy).running() as task:
        with pytest.raises(ConfigError, match="cannot be reached as configured"):
            await asyncio.wait_for(task, 10)

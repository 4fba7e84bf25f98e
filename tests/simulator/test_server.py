from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from klagg.simulator import Limits, RecordedMarket, Simulator, SyntheticMarket
from tests.kit import eventually_async as eventually
from tests.simulator.kit import ask, connected, receive, running


def exchange(**options: object) -> Simulator:
    return Simulator(SyntheticMarket(8, 400, seed=5), **options)  # type: ignore[arg-type]


async def test_combined_streams_in_the_url() -> None:
    async with running(exchange()) as server:
        names = f"btcusdt@aggTrade/{quote('币安人生usdt')}@aggTrade"
        async with connected(server, f"/market/stream?streams={names}") as client:
            seen: set[str] = set()
            while len(seen) < 2:
                message = await receive(client)
                assert list(message) == ["stream", "data"]
                assert message["stream"] == message["data"]["s"].lower() + "@aggTrade"
                seen.add(message["data"]["s"])
            assert seen == {"BTCUSDT", "币安人生USDT"}


async def test_raw_streams_in_the_url() -> None:
    async with running(exchange()) as server:
        async with connected(server, "/market/ws/btcusdt@aggTrade") as client:
            first, second = [await receive(client), await receive(client)]
        assert list(first) == ["e", "E", "a", "s", "p", "q", "nq", "f", "l", "T", "m", "st"]
        assert second["a"] == first["a"] + 1
        async with connected(server, "/public/ws/btcusdt@trade/ethusdt@trade") as client:
            event = await receive(client)
        assert list(event) == ["e", "E", "T", "s", "t", "p", "q", "X", "m", "st"]


async def test_subscribing_on_an_open_connection() -> None:
    async with running(exchange()) as server, connected(server, "/market/ws") as client:
        assert await ask(client, "SUBSCRIBE", ["btcusdt@aggTrade"]) == {"result": None, "id": 1}
        assert (await receive(client))["e"] == "aggTrade"
        listed = await ask(client, "LIST_SUBSCRIPTIONS", request_id=2)
        assert listed == {"result": ["btcusdt@aggTrade"], "id": 2}
        assert await ask(client, "SET_PROPERTY", ["combined", True], 3) == {"result": None, "id": 3}
        assert "stream" in await receive(client)
        assert await ask(client, "UNSUBSCRIBE", ["btcusdt@aggTrade"], 4) == {"result": None, "id": 4}
        assert server.hub.streams == 0
        await client.send("{")
        assert (await receive(client))["error"]["code"] == 3
        assert (await ask(client, "DANCE", request_id=5))["error"]["code"] == 2


@pytest.mark.parametrize(
    ("path", "stream"),
    [
        ("/ws", "btcusdt@aggTrade"),
        ("/stream", "btcusdt@aggTrade"),
        ("/market/ws", "btcusdt@trade"),
        ("/public/stream", "btcusdt@aggTrade"),
        ("/market/stream", "nosuchusdt@aggTrade"),
        ("/market/stream", "BTCUSDT@aggTrade"),
        ("/market/ws", "btcusdt@depth@100ms"),
    ],
)
async def test_unrouted_and_unknown_streams_are_acknowledged_and_silent(path: str, stream: str) -> None:
    async with running(exchange()) as server, connected(server, path) as client:
        assert await ask(client, "SUBSCRIBE", [stream]) == {"result": None, "id": 1}
        played = server.player.aggregates_played
        await eventually(lambda: server.player.aggregates_played > played + 200)
        # Answers keep their order with events: had there been one, it would come first.
        await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 2}))
        assert await receive(client) == {"result": [stream], "id": 2}


async def test_the_1025th_stream_closes_the_connection() -> None:
    async with running(exchange()) as server, connected(server, "/market/ws") as client:
        names = [f"s{number}usdt@aggTrade" for number in range(1024)]
        assert await ask(client, "SUBSCRIBE", names) == {"result": None, "id": 1}
        await client.send(json.dumps({"method": "SUBSCRIBE", "params": ["more@aggTrade"], "id": 2}))
        with pytest.raises(ConnectionClosed) as caught:
            await receive(client)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008
        with pytest.raises(ConnectionClosed):
            async with connected(server, "/market/stream?streams=" + "/".join([*names, "x"])) as other:
                await receive(other)


async def test_a_url_with_1024_streams_is_served() -> None:
    async with running(exchange()) as server:
        names = [f"{quote('币安人生')}{number}usdt@aggTrade" for number in range(1023)]
        async with connected(server, "/market/stream?streams=" + "/".join([*names, "btcusdt@aggTrade"])) as client:
            assert (await receive(client))["stream"] == "btcusdt@aggTrade"


async def test_more_than_ten_messages_a_second_disconnect() -> None:
    async with running(exchange()) as server, connected(server, "/market/ws") as client:
        for number in range(11):
            await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
        assert [(await receive(client))["id"] for _ in range(10)] == list(range(10))
        await asyncio.wait_for(client.wait_closed(), 5)
        assert (client.close_code, client.close_reason) == (1008, "Too many requests")
        await eventually(lambda: not server.hub.connections)


async def test_pings_count_as_messages_and_are_answered() -> None:
    async with running(exchange()) as server, connected(server, "/market/ws") as client:
        await asyncio.wait_for(await client.ping(), 5)
        for number in range(10):
            await client.ping(str(number))
        await asyncio.wait_for(client.wait_closed(), 5)
        assert (client.close_code, client.close_reason) == (1008, "Too many requests")


async def test_a_connection_lives_its_time_and_no_longer() -> None:
    limits = Limits(connection_s=0.3)
    async with running(exchange(limits=limits)) as server, connected(server, "/market/ws/btcusdt@aggTrade") as client:
        started = time.monotonic()
        async for message in client:
            assert "aggTrade" in str(message)
        assert client.close_reason == "24 hours are over"
        assert time.monotonic() - started >= 0.25


async def test_silent_clients_are_pinged_and_dropped_when_they_do_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(ping_interval_s=0.8)
    async with running(exchange(limits=limits)) as server:
        async with connected(server, "/market/ws") as client:
            seen = 0
            frames = client.protocol.recv_frame

            def count(frame: websockets.frames.Frame) -> None:
                nonlocal seen
                seen += frame.opcode == websockets.frames.Opcode.PING
                frames(frame)

            monkeypatch.setattr(client.protocol, "recv_frame", count)
            await eventually(lambda: seen >= 2)
            assert server.hub.connections
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.rest_url.rpartition(":")[2]))
        writer.write(
            b"GET /market/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        received = await asyncio.wait_for(reader.read(), 10)
        assert received.startswith(b"HTTP/1.1 101")
        assert b"\x89\x00" in received
        writer.close()
        await eventually(lambda: not server.hub.connections)


async def test_a_client_that_does_not_read_is_cut() -> None:
    limits = Limits(send_buffer_bytes=100_000)
    source = SyntheticMarket(8, 20_000, seed=5)
    async with running(Simulator(source, speed=20, limits=limits)) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", int(server.rest_url.rpartition(":")[2]), limit=1024)
        writer.write(
            b"GET /market/ws/btcusdt@aggTrade HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await eventually(lambda: server.hub.slow_consumers_cut == 1, 30)
        await eventually(lambda: not server.hub.connections)
        writer.close()


async def test_kline_streams() -> None:
    async with running(exchange(speed=60)) as server:
        async with connected(server, "/market/ws/btcusdt@kline_1m") as client:
            closed: list[dict[str, Any]] = []
            while len(closed) < 3:
                event = await receive(client)
                assert (event["e"], event["s"], event["k"]["i"]) == ("kline", "BTCUSDT", "1m")
                if event["k"]["x"]:
                    closed.append(event["k"])
        for k in closed:
            bar = server.source.bar("BTCUSDT", k["t"], k["T"], server.player.position_ms)
            assert bar is not None
            assert (k["o"], k["h"], k["l"], k["c"], k["n"]) == (bar.open, bar.high, bar.low, bar.close, bar.trades)
            assert (k["f"], k["L"], k["v"], k["q"]) == (
                bar.first_id,
                bar.last_id,
                f"{bar.volume:f}",
                f"{bar.quote_volume:f}",
            )
        assert [k["t"] for k in closed] == [closed[0]["t"] + number * 60_000 for number in range(3)]


async def test_mini_tickers() -> None:
    async with running(exchange()) as server, connected(server, "/market/ws/!miniTicker@arr") as client:
        rows = await receive(client)
        assert {row["st"] for row in rows} == {1, 2}


async def test_a_recording_waits_for_its_first_subscriber_and_is_played_whole(realdata: Path) -> None:
    source = RecordedMarket.load([realdata / "um_trade_btcusdt_2024-07-18_19.txt.gz"])
    async with running(Simulator(source, speed=1_000, lead_ms=100)) as server:
        assert server.state()["held"] is True
        async with (
            connected(server, "/public/ws/btcusdt@trade") as fills,
            connected(server, "/market/ws/btcusdt@aggTrade") as aggregates,
        ):
            trade_ids = [(await receive(fills))["t"] for _ in range(10_701)]
            first_id = (await receive(aggregates))["a"]
        assert trade_ids == list(range(5_182_005_737, 5_182_016_438))
        assert first_id >= 1
        await eventually(lambda: server.state()["ended"] is True)
        played_to = server.player.position_ms
        await eventually(lambda: server.player.position_ms > played_to + 60_000)


async def test_silent_streams_do_not_release_a_recording(realdata: Path) -> None:
    source = RecordedMarket.load([realdata / "um_trade_btcusdt_2024-07-18_19.txt.gz"])
    async with running(Simulator(source)) as server, connected(server, "/ws/btcusdt@aggTrade") as client:
        assert (await ask(client, "LIST_SUBSCRIPTIONS"))["result"] == ["btcusdt@aggTrade"]
        assert server.state()["held"] is True
        assert server.player.position_ms == server.start_ms


async def test_an_aggregate_recording_has_no_fill_streams(realdata: Path) -> None:
    source = RecordedMarket.load([realdata / "um_ws_combined_2021-07-22_sushi_akro_keep_ctk.txt.gz"])
    async with (
        running(Simulator(source, speed=100, lead_ms=0)) as server,
        connected(server, "/public/ws/sushiusdt@trade") as fills,
        connected(server, "/market/stream?streams=sushiusdt@kline_1m") as klines,
    ):
        event = (await receive(klines))["data"]["k"]
        assert event["n"] > 0
        await eventually(lambda: server.state()["ended"] is True)
        await fills.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 1}))
        # Answers keep their order with events: had there been one, it would come first.
        assert (await receive(fills))["result"] == ["sushiusdt@trade"]


async def test_a_failing_source_makes_the_exchange_fail() -> None:
    class Broken(SyntheticMarket):
        def prepare(self, now_ms: int) -> None:
            raise RuntimeError("the market broke")

    server = Simulator(Broken(1, 1))
    await server.start()
    with pytest.raises(RuntimeError, match="the market broke"):
        await asyncio.wait_for(server.failed(), 5)
    await server.stop()


async def test_speeds_out_of_range() -> None:
    for speed in (0, -1, 1_001):
        with pytest.raises(ValueError, match="The speed must lie above 0"):
            Simulator(SyntheticMarket(1, 1), speed=speed)


async def test_ten_thousand_events_a_second_on_one_connection_with_600_streams() -> None:
    source = SyntheticMarket(600, 5_000, seed=5)
    names = "/".join(f"{listing.symbol.lower()}@aggTrade" for listing in source.listings(2**60))
    async with (
        running(Simulator(source, speed=3)) as server,
        connected(server, f"/market/stream?streams={quote(names, safe='@/')}") as client,
    ):
        await client.recv()
        started = time.monotonic()
        for _ in range(30_000):
            await client.recv(decode=False)
        assert 30_000 / (time.monotonic() - started) >= 10_000
        assert server.hub.slow_consumers_cut == 0


async def test_a_held_clock_waits_for_who_reads_trades() -> None:
    """Control connections are there from the start; a recording would run away from those that come for its trades."""
    watching = "/market/stream?streams=!contractInfo/!miniTicker@arr"
    async with running(exchange(wait=True)) as server, connected(server, watching):
        await eventually(lambda: server.hub.streams == 2)
        assert server.clock.held
        async with connected(server, "/market/ws/btcusdt@aggTrade") as client:
            await receive(client)
            assert not server.clock.held

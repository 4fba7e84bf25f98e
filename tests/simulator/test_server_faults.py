"""Each kind of fault over real sockets: what the client sees, and that REST goes on telling the truth."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from klagg.simulator import Limits, Simulator, SyntheticMarket
from klagg.simulator.faults import FaultScript, read_faults
from klagg.simulator.faulty_hub import FaultyHub
from tests.kit import eventually_async as eventually
from tests.simulator.kit import START_MS, ask, connected, receive, running

BTC = "/market/stream?streams=btcusdt@aggTrade"


def script(*tables: str) -> FaultScript:
    return read_faults("seed = 3\n" + "\n".join(f"[[fault]]\n{table}" for table in tables))


def exchange(*tables: str, speed: float = 20, **options: Any) -> Simulator:
    source = SyntheticMarket(8, 400, seed=5)
    return Simulator(source, speed, start_ms=START_MS + 30_000, faults=script(*tables), **options)


@asynccontextmanager
async def line(server: Simulator, name: str, path: str = BTC) -> AsyncIterator[ClientConnection]:
    """A connection of a line of klagg's."""
    async with websockets.connect(
        server.websocket_url + path,
        user_agent_header=f"klagg-ingest-{name}",
        compression=None,
        max_size=None,
        max_queue=None,
    ) as client:
        yield client


def acted(server: Simulator, number: int = 1) -> int:
    assert server.faults is not None
    (row,) = [row for row in server.faults.state() if row["number"] == number]
    count = row["acted"]
    assert isinstance(count, int)
    return count


def elapsed_ms(server: Simulator) -> int:
    return server.player.position_ms - server.start_ms


async def ids(client: ClientConnection, count: int) -> list[int]:
    """Ids of the next `count` aggregate trades of a combined connection."""
    return [(await receive(client))["data"]["a"] for _ in range(count)]


async def silence(server: Simulator, client: ClientConnection) -> None:
    """Nothing but the answer to a question comes while the market goes on."""
    played = server.player.aggregates_played
    await eventually(lambda: server.player.aggregates_played > played + 300)
    await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 9}))
    assert (await receive(client))["id"] == 9


async def test_disconnect_closes_what_is_open_and_for_a_while_what_opens() -> None:
    async with (
        running(exchange('kind = "disconnect"\nat_s = 4\nfor_s = 10')) as server,
        connected(server, BTC) as client,
    ):
        with pytest.raises(ConnectionClosed) as caught:
            await until_closed(client)
        assert caught.value.rcvd is None
        async with connected(server, BTC) as other:
            with pytest.raises(ConnectionClosed):
                await receive(other)
        await eventually(lambda: elapsed_ms(server) > 14_500)
        async with connected(server, BTC) as late:
            assert len(await ids(late, 50)) == 50
        assert acted(server) == 2
    assert not server.hub.connections


async def until_closed(client: ClientConnection) -> None:
    """Reads until the connection's end is raised."""
    while True:
        await receive(client)


async def test_a_moment_comes_again_and_takes_the_chosen() -> None:
    table = 'kind = "disconnect"\nat_s = 10\nevery_s = 20\nline = "B"\nconnections = 1'
    async with running(exchange(table)) as server, line(server, "A") as spared:
        async with line(server, "B") as one, line(server, "B") as two:
            await asyncio.wait(
                [asyncio.create_task(one.wait_closed()), asyncio.create_task(two.wait_closed())], timeout=30
            )
            assert acted(server) == 2
        assert len(await ids(spared, 20)) == 20


async def test_refused_handshakes() -> None:
    tables = ('kind = "refuse"\nline = "A"\nstatus = 503', 'kind = "refuse"\nline = "B"')
    async with running(exchange(*tables)) as server:
        with pytest.raises(InvalidStatus) as caught:
            async with line(server, "A"):
                pass
        assert caught.value.response.status_code == 503
        with pytest.raises((InvalidMessage, ConnectionError)):
            async with line(server, "B"):
                pass
        async with connected(server, BTC) as client:
            assert len(await ids(client, 5)) == 5
        with pytest.raises(InvalidStatus):
            async with connected(server, BTC + "&line=A"):
                pass
        assert (acted(server, 1), acted(server, 2)) == (2, 1)


async def test_silent_but_acknowledged_until_it_is_over() -> None:
    table = 'kind = "silent"\nat_s = 5\nfor_s = 25'
    async with running(exchange(table)) as server, connected(server, BTC) as client:
        await eventually(lambda: elapsed_ms(server) > 5_200)
        async with connected(server, BTC) as fresh:
            assert len(await ids(fresh, 20)) == 20
        await eventually(lambda: acted(server) >= 20)
        before = await drained(client)
        await silence(server, client)
        await asyncio.wait_for(await client.ping(), 5)
        assert await ask(client, "SUBSCRIBE", ["ethusdt@aggTrade"]) == {"result": None, "id": 1}
        await silence(server, client)
        await eventually(lambda: elapsed_ms(server) > 31_000)
        after = await receive(client)
        assert after["data"]["a"] > before + 20 or after["stream"] == "ethusdt@aggTrade"


async def drained(client: ClientConnection) -> int:
    """Reads all that has come; the last id."""
    last = -1
    await client.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": 8}))
    while "id" not in (message := await receive(client)):
        last = message["data"]["a"]
    return last


async def test_a_stale_route_takes_new_connections_for_good() -> None:
    async with running(exchange('kind = "stale_route"\nat_s = 4\nfor_s = 10')) as server, connected(server, BTC) as old:
        await eventually(lambda: elapsed_ms(server) > 4_500)
        async with connected(server, "/market/stream") as stale:
            assert await ask(stale, "SUBSCRIBE", ["btcusdt@aggTrade"]) == {"result": None, "id": 1}
            await eventually(lambda: elapsed_ms(server) > 15_000)
            await silence(server, stale)
        assert len(await ids(old, 50)) == 50
        async with connected(server, BTC) as fresh:
            assert len(await ids(fresh, 5)) == 5


async def test_a_dead_symbol_has_a_living_ticker() -> None:
    table = 'kind = "dead_symbol"\nsymbols = ["BTCUSDT"]'
    path = "/market/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade/!miniTicker@arr"
    async with running(exchange(table)) as server, connected(server, path) as client:
        tickers: list[dict[str, Any]] = []
        traded: set[str] = set()
        while len(tickers) < 2 or "ETHUSDT" not in traded:
            message = await receive(client)
            if message["stream"] == "!miniTicker@arr":
                tickers += [ticker for ticker in message["data"] if ticker["s"] == "BTCUSDT"]
            else:
                traded.add(message["data"]["s"])
        assert traded == {"ETHUSDT"}
        assert tickers[1]["E"] > tickers[0]["E"]


async def test_a_stalled_socket_neither_speaks_nor_answers_and_then_pays_its_debts() -> None:
    async with running(exchange('kind = "stall"\nat_s = 4\nfor_s = 40')) as server, connected(server, BTC) as client:
        received = await ids(client, 1)
        await eventually(lambda: acted(server) == 1)
        pong = asyncio.ensure_future(await client.ping())
        played = server.player.aggregates_played
        await eventually(lambda: server.player.aggregates_played > played + 4_000)
        assert elapsed_ms(server) < 44_000
        assert not pong.done()
        in_time = server.player.last_aggregate["BTCUSDT"]
        await asyncio.wait_for(pong, 10)
        while received[-1] <= in_time:
            received += await ids(client, 1)
        assert received == list(range(received[0], received[-1] + 1))


async def test_a_stall_that_owes_too_much_ends_the_connection() -> None:
    limits = Limits(send_buffer_bytes=20_000)
    table = 'kind = "stall"\nat_s = 2\nfor_s = 20'
    async with running(exchange(table, limits=limits)) as server, connected(server, BTC) as client:
        with pytest.raises(ConnectionClosed):
            await until_closed(client)
        assert elapsed_ms(server) >= 21_500
        assert all(connection.pending_bytes <= 21_000 for connection in server.hub.connections)


async def test_duplicates_come_twice_in_a_row() -> None:
    async with running(exchange('kind = "duplicate"')) as server, connected(server, BTC) as client:
        received = await ids(client, 100)
        assert received == [received[0] + place // 2 for place in range(100)]


async def test_reordered_frames_all_come_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    table = 'kind = "reorder"\nfor_s = 6\nshare = 0.5'
    turns_ms: list[int] = []
    turn = FaultyHub.turn

    def counted(hub: FaultyHub, elapsed_ms: int) -> None:
        turns_ms.append(elapsed_ms)
        turn(hub, elapsed_ms)

    monkeypatch.setattr(FaultyHub, "turn", counted)
    async with running(exchange(table)) as server, connected(server, BTC) as client:
        await eventually(lambda: elapsed_ms(server) > 7_500)
        last = server.player.last_aggregate["BTCUSDT"]
        received: list[int] = []
        events: list[int] = []
        while last not in received:
            message = await receive(client)
            received.append(message["data"]["a"])
            events.append(message["data"]["E"])
        assert received != sorted(received)
        assert sorted(received) == list(range(min(received), last + 1))
        lateness = [max(events[: place + 1]) - event for place, event in enumerate(events)]
        longest_ms = max(after - before for before, after in pairwise(turns_ms))
        assert 100 < max(lateness) < 1_000 + 2 * longest_ms, "held until the first turn after a second"


async def test_losses_of_two_lines_are_independent_and_the_record_is_whole() -> None:
    tables = ('kind = "lose"\nline = "A"\nshare = 0.2', 'kind = "lose"\nline = "B"\nshare = 0.2')
    async with running(exchange(*tables)) as server, line(server, "A") as a, line(server, "B") as b:
        async with connected(server, BTC) as witness:
            whole = await ids(witness, 2_000)
        got = []
        for client in (a, b):
            received = await ids(client, 1_200)
            got.append(set(received))
        span = set(range(whole[0], min(max(got[0]), max(got[1]), whole[-1])))
        lost = [span - received for received in got]
        assert len(span) > 1_000
        for missing in lost:
            assert 0.14 < len(missing) / len(span) < 0.26
        assert 0.015 < len(lost[0] & lost[1]) / len(span) < 0.08
        assert whole == list(range(whole[0], whole[-1] + 1))
        url = f"{server.rest_url}/fapi/v1/aggTrades?symbol=BTCUSDT&fromId={whole[0]}&limit=1000"
        async with aiohttp.request("GET", url) as response:
            assert [trade["a"] for trade in await response.json()] == whole[:1_000]


async def test_total_loss_of_one_line() -> None:
    table = 'kind = "lose"\nline = "A"\nsymbols = ["BTCUSDT"]'
    async with running(exchange(table)) as server, line(server, "A") as lost, line(server, "B") as other:
        assert len(await ids(other, 100)) == 100
        await silence(server, lost)
        assert await ask(lost, "SUBSCRIBE", ["ethusdt@aggTrade"]) == {"result": None, "id": 1}
        assert (await receive(lost))["data"]["s"] == "ETHUSDT"


async def test_places_in_the_order_of_arrival() -> None:
    table = 'kind = "lose"\nline = "B"\nconnections = [2]'
    async with (
        running(exchange(table)) as server,
        line(server, "A") as first,
        line(server, "B") as second,
        line(server, "B") as hit,
    ):
        assert len(await ids(first, 5) + await ids(second, 5)) == 10
        await silence(server, hit)


@pytest.mark.parametrize("kind", ["malformed", "truncated"])
async def test_broken_frames_among_good_ones(kind: str) -> None:
    async with running(exchange(f'kind = "{kind}"\nshare = 0.3')) as server, connected(server, BTC) as client:
        outcomes: Counter[bool] = Counter()
        for _ in range(200):
            text = await asyncio.wait_for(client.recv(), 10)
            try:
                json.loads(text)
                outcomes[True] += 1
            except json.JSONDecodeError:
                outcomes[False] += 1
        assert outcomes[True] > 80
        assert outcomes[False] > 30
        assert acted(server) >= outcomes[False]


async def test_the_wrong_wrapper_either_way() -> None:
    async with running(exchange('kind = "wrong_wrapper"')) as server:
        async with connected(server, BTC) as client:
            assert (await receive(client))["e"] == "aggTrade"
        async with connected(server, "/market/ws/btcusdt@aggTrade") as client:
            assert list(await receive(client)) == ["stream", "data"]


async def test_huge_frames_hold_their_event() -> None:
    async with running(exchange('kind = "huge_frame"\nsize_bytes = 70000')) as server, connected(server, BTC) as client:
        text = await asyncio.wait_for(client.recv(), 10)
        assert len(text) == 70_000
        assert json.loads(text)["data"]["s"] == "BTCUSDT"


async def test_connections_are_cut_in_order_at_their_age() -> None:
    table = 'kind = "cut_24h"\nat_s = 5\nage_s = 20'
    async with running(exchange(table)) as server, connected(server, BTC) as client:
        opened_ms = elapsed_ms(server)
        async for _ in client:
            pass
        assert (client.close_code, client.close_reason) == (1001, "24 hours are over")
        assert elapsed_ms(server) - opened_ms >= 18_000
        await eventually(lambda: not server.hub.connections)


async def fetch(server: Simulator, path: str) -> tuple[int, str | None, Any]:
    async with aiohttp.request("GET", server.rest_url + path) as response:
        return response.status, response.headers.get("Retry-After"), await response.json()


async def test_rest_refuses_in_every_way() -> None:
    tables = (
        'kind = "rest_429"\npaths = ["klines"]\nretry_after_s = 7',
        'kind = "rest_418"\npaths = ["aggTrades"]\nretry_after_s = 300',
        'kind = "rest_down"\npaths = ["ping"]\nstatus = 503',
        'kind = "rest_down"\npaths = ["exchangeInfo"]',
    )
    async with running(exchange(*tables)) as server:
        status, retry_after, body = await fetch(server, "/fapi/v1/klines?symbol=BTCUSDT&interval=1m")
        assert (status, retry_after, body["code"]) == (429, "7", -1003)
        status, retry_after, body = await fetch(server, "/fapi/v1/aggTrades?symbol=BTCUSDT")
        assert (status, retry_after, body["code"]) == (418, "300", -1003)
        assert "banned until" in body["msg"]
        assert (await fetch(server, "/fapi/v1/ping"))[:2] == (503, None)
        with pytest.raises(aiohttp.ClientError):
            await fetch(server, "/fapi/v1/exchangeInfo")
        assert (await fetch(server, "/fapi/v1/time"))[0] == 200
        state = await fetch(server, "/klagg/state")
        assert [row["acted"] for row in state[2]["faults"]] == [1, 1, 1, acted(server, 4)]


async def test_the_servers_clock_jumps_and_comes_back() -> None:
    async with running(exchange('kind = "clock_skew"\nfor_s = 20\njump_ms = -60000')) as server:
        now_ms = server.rest.now_ms()
        told_ms = (await fetch(server, "/fapi/v1/time"))[2]["serverTime"]
        assert now_ms - 60_000 <= told_ms < now_ms - 30_000
        assert (await fetch(server, "/fapi/v1/exchangeInfo"))[2]["serverTime"] < now_ms - 30_000
        await eventually(lambda: elapsed_ms(server) > 20_500)
        assert (await fetch(server, "/fapi/v1/time"))[2]["serverTime"] >= server.start_ms + 20_000


async def test_a_script_brings_its_own_hub() -> None:
    plain = Simulator(SyntheticMarket(8, 400, seed=5))
    assert (plain.faults, type(plain.hub).__name__, plain.state()["faults"]) == (None, "StreamHub", [])
    with pytest.raises(ValueError, match="brings its own hub"):
        Simulator(SyntheticMarket(8, 400, seed=5), hub=plain.hub, faults=script())

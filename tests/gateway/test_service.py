"""The gateway on a real Redis and TimescaleDB: REST, WebSocket, stalls and their end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import HashUpdate
from klagg.embedded import RedisServer
from klagg.wire.keys import Keys
from tests.gateway.kit import FINAL, MINUTE_MS, NOW_MS, Teller, kline, running
from tests.kit import eventually_async as eventually
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

BTC, ETH = ("BTCUSDT", "1m"), ("ETHUSDT", "1m")


def at(number: int) -> int:
    return NOW_MS + number * MINUTE_MS


def minutes(rows: list[list[Any]]) -> list[int]:
    return [(row[0] - NOW_MS) // MINUTE_MS for row in rows]


async def test_klines_are_one_series_from_table_and_live_state(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    upsert(database, [kline(open_time=at(number), trades=number) for number in range(5)])
    upsert(database, [kline("OLDUSDT", open_time=at(0))])
    teller.tell({BTC: {"open_time": at(4), "trades": 4, **FINAL}})
    teller.tell({BTC: {"open_time": at(5), "trades": 5, **FINAL}})
    teller.tell({BTC: {"open_time": at(6), "trades": 6}}, time_ms=at(6) + 250)
    async with running(redis_url, database_url) as client:
        rows = await client.get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m")
        assert minutes(rows) == [0, 1, 2, 3, 4, 5, 6]
        assert [row[8] for row in rows] == [0, 1, 2, 3, 4, 5, 6]
        assert rows[0] == [
            at(0),
            "64100.10",
            "64120.00",
            "64090.90",
            "64111.10",
            "12.345",
            at(0) + 59_999,
            "791234.56780",
            0,
            "6.000",
            "384600.00000",
            "0",
        ]
        for query, expected in (
            ({"limit": 2}, [5, 6]),
            ({"startTime": at(1), "limit": 3}, [1, 2, 3]),
            ({"startTime": at(3) + 1}, [4, 5, 6]),
            ({"endTime": at(5), "limit": 3}, [3, 4, 5]),
            ({"startTime": at(4), "endTime": at(5)}, [4, 5]),
            ({"startTime": 99999999999999999999}, []),
        ):
            rows = await client.get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", **query)
            assert minutes(rows) == expected, query
        same = await client.get("/fapi/v1/continuousKlines", pair="BTCUSDT", contractType="PERPETUAL", interval="1m")
        assert minutes(same) == [0, 1, 2, 3, 4, 5, 6]
        await eventually(lambda: "OLDUSDT" in client.gateway.market)
        assert minutes(await client.get("/fapi/v1/klines", symbol="OLDUSDT", interval="1m")) == [0]


async def test_exchange_info_has_the_listings_of_the_table(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    database.execute(
        "INSERT INTO symbols (symbol, generation, price_scale, qty_scale, status, last_seen) VALUES"
        " ('BTCUSDT', 5, 1, 0, 'CLOSE', now()), ('BTCUSDT', 1569398400000, 3, 4, 'SETTLING', now())"
    )
    teller.tell({BTC: {}, ETH: {}})
    async with running(redis_url, database_url) as client:
        await eventually(lambda: client.gateway.market.listed)
        btc, eth = (await client.get("/fapi/v1/exchangeInfo"))["symbols"]
        assert (btc["onboardDate"], btc["pricePrecision"], btc["quantityPrecision"], btc["status"]) == (
            1_569_398_400_000,
            3,
            4,
            "SETTLING",
        )
        assert (eth["onboardDate"], eth["pricePrecision"], eth["status"]) == (0, 2, "TRADING")


async def test_the_small_paths(redis_url: str, teller: Teller) -> None:
    teller.tell(
        {BTC: {"close": "64111.10"}, ETH: {"close": "3000.5", "volume": "1.0"}, ("BTCUSDT", "1d"): {"close": "1"}}
    )
    async with running(redis_url) as client:
        assert await client.get("/fapi/v1/ping") == {}
        told = (await client.get("/fapi/v1/time"))["serverTime"]
        assert 0 <= told - NOW_MS < 60_000
        info = await client.get("/fapi/v1/exchangeInfo")
        assert info["timezone"] == "UTC"
        btc, eth = info["symbols"]
        assert (btc["symbol"], btc["baseAsset"], btc["quoteAsset"], btc["contractType"]) == (
            "BTCUSDT",
            "BTC",
            "USDT",
            "PERPETUAL",
        )
        assert (btc["pricePrecision"], btc["quantityPrecision"], eth["pricePrecision"]) == (2, 3, 1)
        assert (btc["filters"][0]["tickSize"], btc["status"]) == ("0.01", "TRADING")
        price = await client.get("/fapi/v1/ticker/price", symbol="BTCUSDT")
        assert price == {"symbol": "BTCUSDT", "price": "64111.10", "time": NOW_MS}
        assert [each["symbol"] for each in await client.get("/fapi/v2/ticker/price")] == ["BTCUSDT", "ETHUSDT"]


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("klines", {"interval": "1m"}, 400, -1102),
        ("klines", {"symbol": "BTCUSDT"}, 400, -1102),
        ("klines", {"symbol": "NOSUCH", "interval": "1m"}, 400, -1121),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, 400, -1120),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "1501"}, 400, -1130),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "x"}, 400, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": "2", "endTime": "1"}, 400, -1023),
        ("klines", {"symbol": "' OR 1=1 --", "interval": "1m"}, 400, -1121),
        ("continuousKlines", {"pair": "BTCUSDT", "interval": "1m"}, 400, -1102),
        ("continuousKlines", {"pair": "BTCUSDT", "contractType": "NEXT_QUARTER", "interval": "1m"}, 400, -1130),
        ("ticker/price", {"symbol": "NOSUCH"}, 400, -1121),
        ("nothing", {}, 404, -5000),
    ],
)
async def test_errors_are_binances(
    redis_url: str, teller: Teller, path: str, query: dict[str, str], status: int, code: int
) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url) as client:
        found, _, body = await client.ask(f"/fapi/v1/{path}", **query)
        assert (found, body["code"]) == (status, code)
        assert body["msg"]


async def test_weight_is_counted_and_its_end_told(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, weight_per_minute=30) as client:
        used = []
        for _ in range(6):
            status, headers, body = await client.ask("/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit=1500)
            used.append((status, headers["X-MBX-USED-WEIGHT-1M"]))
            if status != 200:
                break
        assert (status, body["code"]) == (429, -1003)
        assert used[0] == (200, "10")
        assert int(headers["Retry-After"]) >= 1


async def test_streams_tell_every_change_raw_and_combined(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {"trades": 1}})
    async with (
        running(redis_url) as client,
        client.socket("/ws/btcusdt@kline_1m") as raw,
        client.socket("/market/stream?streams=btcusdt@kline_1m/ethusdt@kline_1m") as combined,
    ):
        assert (await raw.receive_json(timeout=30))["k"]["n"] == 1
        assert (await combined.receive_json(timeout=30))["stream"] == "btcusdt@kline_1m"
        teller.tell({BTC: {"trades": 2, **FINAL}, ETH: {"trades": 9}}, time_ms=at(1) + 5)
        final = await raw.receive_json(timeout=30)
        assert (final["e"], final["E"], final["k"]["n"], final["k"]["x"]) == ("kline", at(1) + 5, 2, True)
        found = [await combined.receive_json(timeout=30) for _ in range(2)]
        assert {each["stream"]: each["data"]["k"]["n"] for each in found} == {
            "btcusdt@kline_1m": 2,
            "ethusdt@kline_1m": 9,
        }
        teller.tell({BTC: {"trades": 3, "closed": 1, "revision": 2, "complete": 1}})
        assert (await raw.receive_json(timeout=30))["k"]["revision"] == 2


async def test_control_messages(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url) as client, client.socket("/ws") as socket:

        async def ask(**message: Any) -> Any:
            await socket.send_json(message)
            return await socket.receive_json(timeout=30)

        assert await ask(method="SUBSCRIBE", params=["btcusdt@kline_1m", "nosuch@kline_1m"], id=1) == {
            "result": None,
            "id": 1,
        }
        assert (await socket.receive_json(timeout=30))["s"] == "BTCUSDT"
        assert await ask(method="LIST_SUBSCRIPTIONS", id="a-text") == {
            "result": ["btcusdt@kline_1m", "nosuch@kline_1m"],
            "id": "a-text",
        }
        assert (await ask(method="UNSUBSCRIBE", params=["btcusdt@kline_1m"], id=3))["result"] is None
        assert (await ask(method="SUBSCRIBE", params=["x" * 129], id=4))["error"]["code"] == 2
        teller.tell({BTC: {"trades": 9}})
        assert (await ask(method="LIST_SUBSCRIPTIONS", id=5))["result"] == ["nosuch@kline_1m"]
        await socket.send_bytes(b"\xff\x00")
        assert (await socket.receive_json(timeout=30))["error"]["code"] == 3


async def test_limits_of_a_socket(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, streams_per_connection=2, messages_per_second=3, connections_max=1) as client:
        async with client.socket("/ws") as socket:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await client.socket("/ws")
            await socket.send_json({"method": "SUBSCRIBE", "params": ["a@x", "b@x", "c@x"], "id": 1})
            assert (await socket.receive(timeout=30)).type == aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1008
        await eventually(lambda: not client.gateway.hub.clients)
        async with client.socket("/ws") as socket:
            for _ in range(4):
                await socket.send_str("nonsense")
            kinds = [(await socket.receive(timeout=30)).type for _ in range(4)]
            assert kinds[-1] == aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1008
        await eventually(lambda: not client.gateway.hub.clients)
        async with client.socket("/ws") as socket:
            await socket.send_str("x" * 100_000)
            assert (await socket.receive(timeout=30)).type == aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1009


async def test_a_token_is_asked_for_where_one_is_set(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, token="a-long-secret") as client:
        status, _, body = await client.ask("/fapi/v1/ping")
        assert (status, body["code"]) == (401, -2015)
        assert await client.get("/fapi/v1/ping", token="a-long-secret") == {}
        for headers in ({"X-MBX-APIKEY": "a-long-secret"}, {"Authorization": "Bearer a-long-secret"}):
            async with client.session.get(client.url + "/fapi/v1/ping", headers=headers) as response:
                assert response.status == 200
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await client.socket("/ws/btcusdt@kline_1m")
        async with client.socket("/ws/btcusdt@kline_1m?token=a-long-secret") as socket:
            assert (await socket.receive_json(timeout=30))["s"] == "BTCUSDT"


async def test_pages_of_other_origins_are_kept_out_unless_configured(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    foreign = {"Origin": "https://example.org"}
    async with running(redis_url) as client:
        async with client.session.get(client.url + "/fapi/v1/ping", headers=foreign) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await client.socket("/ws", headers=foreign)
        own = {"Origin": client.url}
        async with client.socket("/ws", headers=own) as socket:
            assert not socket.closed
    async with running(redis_url, cors_origins=["https://example.org"]) as client:
        async with client.session.get(client.url + "/fapi/v1/ping", headers=foreign) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"
        async with client.session.options(client.url + "/fapi/v1/ping", headers=foreign) as response:
            assert response.status == 204
        async with client.socket("/ws", headers=foreign) as socket:
            assert not socket.closed


async def test_a_connection_that_sends_its_header_slowly_is_closed(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, idle_s=1) as client:
        host, port = client.gateway.server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /fapi/v1/ping HTTP/1.1\r\nHost: x\r\n")
        async with client.socket("/ws/btcusdt@kline_1m") as socket:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            await socket.receive_json(timeout=30)
            teller.tell({BTC: {"trades": 5}})
            assert (await socket.receive_json(timeout=30))["k"]["n"] == 5, "a socket at work stays"
        writer.close()


async def test_a_stalled_redis_is_served_from_the_last_good_state_and_caught_up(
    redis_url: str, redis_server: RedisServer, teller: Teller
) -> None:
    teller.tell({BTC: {"trades": 1}})
    async with running(redis_url) as client, client.socket("/ws/btcusdt@kline_1m") as socket:
        assert (await socket.receive_json(timeout=30))["k"]["n"] == 1
        redis_server.command("CLIENT", "PAUSE", "2500", "ALL")
        health = client.gateway.market.shards[0].health
        await eventually(lambda: health.alarmed)
        status, headers, rows = await client.ask("/fapi/v1/klines", symbol="BTCUSDT", interval="1m")
        assert (status, rows[0][8]) == (200, 1)
        assert int(headers["X-Klagg-Stale-Ms"]) >= 500
        assert health.timeouts_total >= 5
        for trades in (2, 3):
            await asyncio.to_thread(teller.tell, {BTC: {"trades": trades}})
        await asyncio.to_thread(teller.tell, {BTC: {"trades": 4, **FINAL}})
        seen: list[tuple[int, bool]] = []
        while not seen or not seen[-1][1]:
            event = (await socket.receive_json(timeout=10))["k"]
            seen.append((event["n"], event["x"]))
        assert seen[-1] == (4, True)
        await eventually(lambda: not health.alarmed)
        _, headers, _ = await client.ask("/fapi/v1/ping")
        assert "X-Klagg-Stale-Ms" not in headers


async def test_a_quiet_market_is_not_stale_while_the_aggregator_commits(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {"trades": 1}})
    async with running(redis_url, stale_ms=1200) as client:
        health = client.gateway.market.shards[0].health
        stop = asyncio.Event()

        async def commit() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                teller.streams.write([commit_of(number)])
                await asyncio.sleep(0.05)

        task = asyncio.create_task(commit())
        before = health.moved_ms
        await eventually(lambda: health.moved_ms > before + 2500)
        assert not health.alarmed
        stop.set()
        await task
        await eventually(lambda: client.gateway.market.stale_for_ms(health.moved_ms + 1200) and health.alarmed)


def commit_of(number: int) -> HashUpdate:
    return HashUpdate(Keys(0).commit, {"seq": str(1000 + number)})


async def test_without_the_database_history_is_refused_and_live_goes_on(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    teller.tell({BTC: {"trades": 1}})
    async with running(redis_url, database_url) as client:
        await eventually(lambda: client.ask("/fapi/v1/klines", symbol="BTCUSDT", interval="1m"))
        database.execute("ALTER TABLE klines_minutes RENAME TO elsewhere")
        database.execute("DROP VIEW klines CASCADE")
        status, _, body = await client.ask("/fapi/v1/klines", symbol="BTCUSDT", interval="1m")
        assert (status, body["code"]) == (503, -1001)
        assert (await client.get("/fapi/v1/ticker/price", symbol="BTCUSDT"))["price"] == "64111.10"

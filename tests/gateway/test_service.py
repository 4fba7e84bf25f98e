"""The gateway on a real Redis and TimescaleDB: REST, WebSocket, stalls and their end."""

from __future__ import annotations

import asyncio

import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import HashUpdate
from klagg.embedded import RedisServer
from klagg.wire.keys import Keys
from tests.gateway.kit import BTC, FINAL, Teller, running
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers


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

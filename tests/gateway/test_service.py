"""The gateway on a real Redis and TimescaleDB: REST, WebSocket, stalls and their end."""

from __future__ import annotations

import asyncio

import pytest

from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import HashUpdate
from klagg.embedded import RedisServer
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Pulse, Stats
from klagg.settings import Service
from klagg.wire.entries import AGG_IDS, REST_LINE, TradeRow, tick_entry, trades_entry_of_rows
from klagg.wire.fields import stamp
from klagg.wire.keys import Keys, heartbeat_key
from tests.gateway.kit import BTC, FINAL, NOW_MS, Teller, running
from tests.ingest.kit import standing
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
        assert AlarmKind.LIVE_STALLED in standing(client.gateway._context.stats)
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
        assert AlarmKind.LIVE_STALLED not in standing(client.gateway._context.stats)
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


def trades_of(line: str) -> dict[str, str]:
    row = TradeRow("BTCUSDT", 1, "1.0", "1", 1, 1, NOW_MS, False)
    return trades_entry_of_rows([row], line=line, ids=AGG_IDS, recv_ms=NOW_MS)


async def test_a_silent_market_is_said_first(redis_url: str, teller: Teller) -> None:
    """Ticks come and the aggregator commits, but no line brings a trade; what repair fetches is no market."""
    streams, feed, number = teller.streams, Keys(0).feed, 0
    teller.tell({BTC: {"trades": 1}})
    alarmed = AlarmKind.NO_MARKET_DATA

    async with running(redis_url, silent_s=5) as client:

        def go_on(line: str = REST_LINE) -> None:
            nonlocal number
            number += 1
            streams.write([commit_of(number)])
            streams.append(feed, stamp(tick_entry(NOW_MS + number), "clock@1", number))
            streams.append(feed, stamp(trades_of(line), "repair@1", number))

        async def told() -> bool:
            await asyncio.to_thread(go_on)
            return "X-Klagg-Alarm" in (await client.ask("/fapi/v1/ping"))[1]

        assert not await told()
        await eventually(told, 30, 0.2)
        _, headers, _ = await client.ask("/fapi/v1/time")
        assert headers["X-Klagg-Alarm"] == alarmed
        assert "X-Klagg-Stale-Ms" not in headers, "the aggregator goes on"
        async with client.socket("/ws/btcusdt@kline_1m") as socket:
            assert socket._response.headers["X-Klagg-Alarm"] == alarmed
        await eventually(lambda: client.gateway.report.seen == [])
        beat = Pulse("gateway", client.gateway._context.stats, Service(), 0.0).due(local_ms() + 600_000).heartbeat
        await asyncio.to_thread(streams.set_with_ttl, heartbeat_key("gateway"), beat, 60)

        async def status() -> bool:
            await asyncio.to_thread(go_on)
            return bool((await client.get("/api/status"))["market"])

        await eventually(status, 30, 0.2)
        said = await client.get("/api/status")
        assert said["ok"] is False
        assert said["market"].startswith("no market data comes: no trade of any symbol has come for ")
        assert said["alarms"][0]["kind"] == alarmed

        async def over() -> bool:
            await asyncio.to_thread(go_on, "A")
            return "X-Klagg-Alarm" not in (await client.ask("/fapi/v1/ping"))[1]

        await asyncio.to_thread(streams.delete, heartbeat_key("gateway"))
        await eventually(over, 30, 0.2)


async def test_a_process_that_lost_its_heartbeat_is_silent_and_an_alarm(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {"trades": 1}})
    now_ms = local_ms()
    for name, age_ms in (("clock", 11_000), ("repair", -600_000)):
        beat = Pulse(name, Stats(), Service(), 0.0).due(now_ms - age_ms).heartbeat
        teller.streams.set_with_ttl(heartbeat_key(name), beat, 60)
    async with running(redis_url) as client:
        said = await eventually(lambda: client.gateway.report.silent)
        assert said == ["clock"]
        status = await client.get("/api/status")
        states = {each["process"]: each["state"] for each in status["processes"]}
        assert states == {"repair": "starting", "clock": "silent"}
        assert status["silent"] == ["clock"]
        assert AlarmKind.PROCESS_SILENT in (await client.ask("/fapi/v1/ping"))[1]["X-Klagg-Alarm"].split(", ")
        again = Pulse("clock", Stats(), Service(), 0.0).due(local_ms() + 600_000).heartbeat
        await asyncio.to_thread(teller.streams.set_with_ttl, heartbeat_key("clock"), again, 60)
        await eventually(lambda: AlarmKind.PROCESS_SILENT not in standing(client.gateway._context.stats))

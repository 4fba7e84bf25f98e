"""What the gateway asks TimescaleDB: rows as they were stored, by short ways, and never too much at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from gateway.history import Range
from gateway.store import QUERIES, WAITING_FOR_EACH, HistoryStore, StoreBusy
from klagg.drivers.postgres import Database
from klagg.errors import ConfigError, DatabaseUnavailable
from tests.gateway.kit import MINUTE_MS, NOW_MS, kline
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

DAY_MS = 1440 * MINUTE_MS


@pytest.fixture
async def store(database_url: str, database: Database) -> AsyncIterator[HistoryStore]:
    store = HistoryStore(database_url, connections=2, timeout_ms=5000)
    yield store
    await asyncio.to_thread(store.close)


def at(number: int) -> int:
    return NOW_MS + number * MINUTE_MS


async def test_rows_come_back_as_they_were_stored(store: HistoryStore, database: Database) -> None:
    stored = [
        kline(open_time=at(number), edge="1:2:3" if number else "", source="mixed", volume="0.000")
        for number in range(6)
    ]
    upsert(database, [*stored, kline("ETHUSDT"), kline(interval="5m")])
    assert await store.klines("BTCUSDT", "1m", Range(None, None, 500)) == stored
    assert await store.klines("BTCUSDT", "1m", Range(None, at(3), 2)) == stored[2:4]
    assert await store.klines("BTCUSDT", "1m", Range(at(1), None, 2)) == stored[1:3]
    assert await store.klines("BTCUSDT", "1m", Range(at(4), 10**19, 500)) == stored[4:]
    assert await store.klines("BTCUSDT", "1m", Range(10**19, None, 500)) == []
    assert await store.symbols() == {"BTCUSDT", "ETHUSDT"}


@pytest.mark.parametrize("name", ["klines_from", "klines_until"])
async def test_a_series_is_read_by_its_index_from_its_own_table(
    store: HistoryStore, database: Database, name: str
) -> None:
    rows = [kline(open_time=NOW_MS + day * DAY_MS + number * MINUTE_MS) for day in range(20) for number in range(50)]
    upsert(database, rows)
    database.execute("ANALYZE klines_minutes")
    values = {"symbol": "BTCUSDT", "interval": "1m", "first_ms": NOW_MS, "last_ms": at(40), "limit": 10}
    plan = "\n".join(row["QUERY PLAN"] for row in database.query(f"EXPLAIN {QUERIES[name]}", values))
    assert "Index Scan" in plan, plan
    for other in ("klines_seconds", "klines_hours", "klines_days", "Seq Scan"):
        assert other not in plan, plan


async def test_more_than_can_wait_is_refused_and_the_rest_is_answered(store: HistoryStore) -> None:
    gate = threading.Event()
    most = 2 * (1 + WAITING_FOR_EACH)
    waiting = [asyncio.create_task(store._run(lambda _: gate.wait(20))) for _ in range(most)]
    await asyncio.sleep(0)
    with pytest.raises(StoreBusy, match="Too many queries"):
        await store.symbols()
    gate.set()
    assert all(await asyncio.gather(*waiting))
    assert await store.symbols() == set()


async def test_a_database_that_is_away_is_said() -> None:
    store = HistoryStore("postgresql://nobody@127.0.0.1:1/none", connections=1, timeout_ms=500)
    with pytest.raises(DatabaseUnavailable):
        await store.symbols()
    store.close()
    with pytest.raises(ConfigError, match=r"database\.url is empty"):
        HistoryStore("", connections=1, timeout_ms=500)

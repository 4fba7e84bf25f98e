"""Binance's REST paths on a real Redis and TimescaleDB: series without a gap, errors and weights as on Binance."""

from __future__ import annotations

from typing import Any

import pytest

from klagg.drivers.postgres import Database
from tests.gateway.kit import BTC, ETH, FINAL, MINUTE_MS, NOW_MS, Teller, at, kline, running
from tests.kit import eventually_async as eventually
from writers.kline_table import upsert

pytestmark = pytest.mark.servers


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
            "384570.00000",
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


async def test_the_small_paths(redis_url: str, teller: Teller) -> None:
    teller.tell(
        {BTC: {"close": "64111.10"}, ETH: {"close": "3000.5", "volume": "1.0"}, ("BTCUSDT", "1d"): {"close": "1"}}
    )
    async with running(redis_url) as client:
        assert await client.get("/fapi/v1/ping") == {}
        told = (await client.get("/fapi/v1/time"))["serverTime"]
        assert 0 <= told - NOW_MS < 60_000
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

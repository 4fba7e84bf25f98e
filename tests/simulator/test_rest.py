from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from klagg.simulator import Limits, RecordedMarket, Simulator, SyntheticMarket
from klagg.simulator.bars import fold
from klagg.simulator.market import MarketTrade
from tests.kit import eventually_async as eventually
from tests.simulator.kit import START_MS, running


@asynccontextmanager
async def client_of(server: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with running(server), aiohttp.ClientSession(server.rest_url) as client:
        yield client


async def get(client: aiohttp.ClientSession, path: str, **params: Any) -> tuple[int, Any, Any]:
    async with client.get(path, params=params) as response:
        return response.status, await response.json(), response.headers


def exchange(**options: Any) -> Simulator:
    return Simulator(SyntheticMarket(8, 400, seed=5), **{"start_ms": START_MS + 1_800_000} | options)


async def test_ping_and_time() -> None:
    async with client_of(Simulator(SyntheticMarket(2, 20))) as client:
        assert (await get(client, "/fapi/v1/ping"))[:2] == (200, {})
        status, body, headers = await get(client, "/fapi/v1/time")
        assert (status, list(body)) == (200, ["serverTime"])
        assert abs(body["serverTime"] - time.time() * 1000) < 5_000
        assert headers["X-MBX-USED-WEIGHT-1M"] == "2"
        assert headers["Content-Type"].startswith("application/json")


async def test_a_fast_clock_says_so(realdata: Path) -> None:
    async with client_of(Simulator(SyntheticMarket(2, 20), speed=20)) as client:
        moments: list[tuple[float, int, float]] = []
        while not moments or moments[-1][1] < moments[0][1] + 4_000:
            asked_s = time.monotonic()
            _, body, _ = await get(client, "/fapi/v1/time")
            moments.append((asked_s, body["serverTime"], time.monotonic()))
            assert (body["klaggSimulated"], body["klaggSpeed"]) == (True, 20)
        (first_asked_s, first_ms, first_told_s), (last_asked_s, last_ms, last_told_s) = moments[0], moments[-1]
        assert (last_asked_s - first_told_s) * 20_000 - 1 <= last_ms - first_ms
        assert last_ms - first_ms <= (last_told_s - first_asked_s) * 20_000 + 1
    recorded = RecordedMarket.load([realdata / "um_trade_btcusdt_2024-07-18_19.txt.gz"])
    async with client_of(Simulator(recorded, speed=20)) as client:
        held = (await get(client, "/fapi/v1/time"))[1]
        assert held == {"serverTime": 1_721_347_022_956 - 1 - 40_000, "klaggSimulated": True, "klaggSpeed": 0}
    async with client_of(Simulator(recorded, wait=False)) as client:
        assert (await get(client, "/fapi/v1/time"))[1]["klaggSpeed"] == 1


async def test_exchange_info() -> None:
    async with client_of(exchange()) as client:
        status, body, _ = await get(client, "/fapi/v1/exchangeInfo")
        assert status == 200
        names = [symbol["symbol"] for symbol in body["symbols"]]
        assert (len(names), names[0], "币安人生USDT" in names) == (8, "BTCUSDT", True)


async def test_klines_equal_a_fold_and_end_with_the_open_bar() -> None:
    server = exchange()
    async with client_of(server) as client:
        status, rows, _ = await get(client, "/fapi/v1/klines", symbol="币安人生USDT", interval="1m", limit=3)
        assert (status, len(rows)) == (200, 3)
        opens = [row[0] for row in rows]
        assert opens == [opens[-1] - 120_000, opens[-1] - 60_000, START_MS + 1_800_000]
        fills = server.source.fills_between("币安人生USDT", opens[0], opens[0] + 59_999, START_MS * 2)
        bar = fold(opens[0], opens[0] + 59_999, fills)
        assert bar is not None
        assert rows[0][1:6] == [bar.open, bar.high, bar.low, bar.close, f"{bar.volume:f}"]
        assert rows[0][6:9] == [bar.close_ms, f"{bar.quote_volume:f}", bar.trades]
        assert rows[0][11] == "0"
        _, hours, _ = await get(
            client, "/fapi/v1/klines", symbol="BTCUSDT", interval="1h", startTime=START_MS - 3_600_000
        )
        assert [row[0] for row in hours] == [START_MS - 3_600_000, START_MS]
        _, none, _ = await get(client, "/fapi/v1/klines", symbol="BTCUSDT", interval="1m", startTime=START_MS + 10**9)
        assert none == []


async def test_day_tickers_tell_the_ids_of_fills() -> None:
    server = exchange()
    async with client_of(server) as client:
        status, every, headers = await get(client, "/fapi/v1/ticker/24hr")
        assert (status, headers["X-MBX-USED-WEIGHT-1M"]) == (200, "40")
        assert len(every) == 8
        row = next(each for each in every if each["symbol"] == "ETHUSDT")
        assert row["count"] == row["lastId"] - row["firstId"] + 1
        _, newest, _ = await get(client, "/fapi/v1/aggTrades", symbol="ETHUSDT", endTime=row["closeTime"], limit=1)
        assert newest[0]["l"] >= row["lastId"] - 1, (
            "a fill without an aggTrade may come behind it, at most one a minute"
        )
        _, one, _ = await get(client, "/fapi/v1/ticker/24hr", symbol="ETHUSDT")
        assert one["lastId"] >= row["lastId"]
        status, _, _ = await get(client, "/fapi/v1/ticker/24hr", symbol="NONEUSDT")
        assert status == 400


async def test_agg_trades_by_id_by_time_and_newest() -> None:
    server = exchange()
    async with client_of(server) as client:
        path, symbol = "/fapi/v1/aggTrades", "ETHUSDT"
        status, newest, _ = await get(client, path, symbol=symbol)
        assert (status, len(newest)) == (200, 500)
        assert list(newest[0]) == ["a", "p", "q", "nq", "f", "l", "T", "m"]
        assert newest[-1]["T"] <= server.player.position_ms
        first = newest[0]["a"] - 50
        _, by_id, _ = await get(client, path, symbol=symbol, fromId=first, limit=1000)
        assert [item["a"] for item in by_id][:550] == list(range(first, first + 550))
        assert by_id[50:550] == newest
        start, end = newest[10]["T"], newest[100]["T"]
        _, by_time, _ = await get(client, path, symbol=symbol, startTime=start, endTime=end)
        assert by_time == [item for item in newest if start <= item["T"] <= end]
        _, from_start, _ = await get(client, path, symbol=symbol, startTime=start, limit=7)
        assert from_start == by_time[:7]
        _, to_end, _ = await get(client, path, symbol=symbol, endTime=end, limit=7)
        assert to_end == by_time[-7:]


async def test_agg_trades_are_a_day_deep() -> None:
    limits = Limits(agg_trades_depth_ms=60_000)
    server = exchange(limits=limits)
    async with client_of(server) as client:
        _, trades, _ = await get(client, "/fapi/v1/aggTrades", symbol="BTCUSDT", fromId=1, limit=5)
        oldest_ms = START_MS + 1_800_000 - 60_000
        assert oldest_ms <= trades[0]["T"] < oldest_ms + 10_000
        assert trades[0]["a"] > 1


@pytest.mark.parametrize(
    ("path", "params", "status", "code"),
    [
        ("/fapi/v1/klines", {"interval": "1m"}, 400, -1102),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT"}, 400, -1102),
        ("/fapi/v1/klines", {"symbol": "NOPE", "interval": "1m"}, 400, -1121),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "7m"}, 400, -1120),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "1501"}, 400, -1130),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "many"}, 400, -1100),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "startTime": "2", "endTime": "1"}, 400, -1023),
        ("/fapi/v1/aggTrades", {}, 400, -1102),
        ("/fapi/v1/aggTrades", {"symbol": "NOPE"}, 400, -1121),
        ("/fapi/v1/aggTrades", {"symbol": "BTCUSDT", "limit": "1001"}, 400, -1130),
        ("/fapi/v1/aggTrades", {"symbol": "BTCUSDT", "startTime": "0", "endTime": "3600001"}, 400, -1127),
        ("/fapi/v1/depth", {}, 404, -5000),
        ("/klagg/trades", {"symbol": "NOPE"}, 400, -1121),
    ],
)
async def test_errors(path: str, params: dict[str, str], status: int, code: int) -> None:
    async with client_of(exchange()) as client:
        answered, body, _ = await get(client, path, **params)
        assert (answered, body["code"]) == (status, code)
        assert body["msg"]


async def test_weights() -> None:
    async with client_of(exchange()) as client:
        used = 0
        for path, params, weight in (
            ("/fapi/v1/ping", {}, 1),
            ("/fapi/v1/exchangeInfo", {}, 1),
            ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 99}, 1),
            ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": 100}, 2),
            ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "1m"}, 5),
            ("/fapi/v1/klines", {"symbol": "NOPE", "interval": "1m", "limit": 1000}, 5),
            ("/fapi/v1/klines", {"symbol": "NOPE", "interval": "1m", "limit": 1500}, 10),
            ("/fapi/v1/aggTrades", {"symbol": "BTCUSDT", "limit": 1}, 20),
        ):
            _, _, headers = await get(client, path, **params)
            now_used = int(headers["X-MBX-USED-WEIGHT-1M"])
            # A calendar minute may end between two requests and start the count anew.
            assert now_used in {used + weight, weight}
            used = now_used


async def test_the_limit_brings_429_and_going_on_418() -> None:
    limits = Limits(weight_per_minute=3, refusals_until_ban=2)
    async with client_of(exchange(limits=limits)) as client:
        answers: list[tuple[int, Any, Any]] = []
        while not answers or answers[-1][0] != 418:
            answers.append(await get(client, "/fapi/v1/time"))
            assert len(answers) < 20
        status, body, headers = next(answer for answer in answers if answer[0] == 429)
        assert (status, body["code"]) == (429, -1003)
        assert 1 <= int(headers["Retry-After"]) <= 60
        status, body, headers = answers[-1]
        assert body["code"] == -1003
        assert "banned until" in body["msg"]
        assert int(headers["Retry-After"]) == 120
        assert (await get(client, "/klagg/state"))[0] == 200


async def test_other_methods_are_unknown_paths() -> None:
    async with client_of(exchange()) as client, client.post("/fapi/v1/time") as response:
        assert response.status == 404
        assert (await response.json())["code"] == -5000


async def test_a_websocket_path_without_upgrade_is_a_bad_request() -> None:
    async with client_of(exchange()) as client, client.get("/market/stream") as response:
        assert response.status == 400


async def test_state() -> None:
    server = exchange()
    async with client_of(server) as client:
        await eventually(lambda: "BTCUSDT" in server.player.last_aggregate)
        status, state, _ = await get(client, "/klagg/state")
        assert status == 200
        expected = {"source": "synthetic", "symbols": 8, "seed": 5, "speed": 1.0, "held": False, "ended": False}
        assert expected.items() <= state.items()
        assert state["startTime"] == START_MS + 1_800_000 <= state["position"] <= state["serverTime"]
        assert state["lastAggTradeIds"]["BTCUSDT"] > 1_000


@pytest.mark.parametrize("ids", ["agg", "trade"])
async def test_the_record_of_what_was_played(ids: str) -> None:
    server = exchange()
    async with client_of(server) as client:
        params: dict[str, str | int] = {"symbol": "BTCUSDT", "ids": ids, "from": START_MS, "to": START_MS + 150_000}
        async with client.get("/klagg/trades", params=params) as response:
            lines = (await response.text()).splitlines()
        trades = [MarketTrade(**{k: v for k, v in json.loads(line).items() if k != "counts"}) for line in lines]
        source = server.source
        if ids == "agg":
            expected = source.aggregates_between(
                "BTCUSDT", START_MS, START_MS + 150_000, 10**6, START_MS * 2, newest=False
            )
        else:
            expected = source.fills_between("BTCUSDT", START_MS, START_MS + 150_000, START_MS * 2)
        assert trades == list(expected)
        assert trades

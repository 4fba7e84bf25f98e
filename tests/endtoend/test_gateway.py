"""The gateway behind the real pipeline: what its clients see is what the table holds."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from klagg.drivers.redis_streams import Streams
from klagg.embedded.traces import free_port
from klagg.intervals import INTERVALS
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.endtoend.kit import migrated, stack, table
from tests.kit import eventually, eventually_async

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]

MARKET = ["--symbols", "8", "--rate", "200", "--speed", "10"]
COLUMNS = {
    "o": "open",
    "h": "high",
    "l": "low",
    "c": "close",
    "v": "volume",
    "q": "quote_volume",
    "n": "trades",
    "V": "taker_buy_volume",
    "Q": "taker_buy_quote_volume",
}
REST = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
)

Finals = dict[tuple[str, str, int], dict[str, Any]]


async def finals_of(url: str, symbols: list[str], seconds: float, found: Finals) -> Finals:
    """The newest closing event of each bar that a client of all symbols hears in so many seconds, as they come."""
    names = [f"{symbol.lower()}@kline_{interval}" for symbol in symbols for interval in ("5s", "1m")]
    end = time.monotonic() + seconds
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/stream?streams={'/'.join(names)}") as socket,
    ):
        while (left := end - time.monotonic()) > 0:
            try:
                event = (await socket.receive_json(timeout=left))["data"]["k"]
            except TimeoutError:
                break
            if event["x"]:
                found[event["s"], event["i"], event["t"]] = event
    return found


async def rest(url: str, path: str, **query: Any) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url + path, params=query) as response:
        assert response.status == 200, await response.text()
        return await response.json()


def symbols_of(url: str) -> list[str]:
    """The symbols that the gateway serves, once they are all there."""
    try:
        found = [row["symbol"] for row in asyncio.run(rest(url, "/fapi/v1/ticker/price"))]
    except aiohttp.ClientError:
        return []
    return found if len(found) == 8 else []


async def stalled(url: str, aggregator: int) -> None:
    """Pause the aggregator until the gateway says that its state is stale, and wait until it is live again."""
    os.kill(aggregator, signal.SIGSTOP)
    try:
        await until(url, stale=True)
        status = await rest(url, "/api/status")
        assert status["stale_for_ms"] >= 600
        assert await rest(url, "/fapi/v1/ticker/price"), "the last good state is served"
    finally:
        os.kill(aggregator, signal.SIGCONT)
    await until(url, stale=False)


async def until(url: str, *, stale: bool) -> None:
    """Wait for the status to say so."""

    async def says_so() -> bool:
        return (await rest(url, "/api/status"))["stale"] is stale

    await eventually_async(says_so, every_s=0.1)


async def finals_over_a_stall(url: str, symbols: list[str], aggregator: int) -> Finals:
    """The finals of fifteen seconds, in which the aggregator stands still for a while."""
    found: Finals = {}
    hearing = asyncio.create_task(finals_of(url, symbols, 15, found))
    await eventually_async(lambda: len(found) >= len(symbols))
    await stalled(url, aggregator)
    return await hearing


def written(streams: Streams) -> bool:
    """Whether the writer has stored everything."""
    keys = Keys(0)
    return not streams.pending_count(keys.klines, GROUP_WRITERS) and streams.group_lag(keys.klines, GROUP_WRITERS) == 0


def test_clients_see_what_the_table_holds(tmp_path: Path, redis_url: str, database_url: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    sections: dict[str, dict[str, Any]] = {
        "aggregator": {"intervals": ("5s", "1m")},
        "gateway": {"port": port, "pull_timeout_ms": 200, "stale_ms": 600},
    }
    with stack(tmp_path, redis_url, database_url, MARKET, **sections) as running:
        database, streams = migrated(database_url), running.streams()
        running.start("aggregator", "writer", "gateway", "clock", "repair", "ingest")
        symbols = eventually(lambda: symbols_of(url), 60, 0.2)
        aggregator = running.children["aggregator"].process.pid
        finals = asyncio.run(finals_over_a_stall(url, symbols, aggregator))
        during = asyncio.run(rest(url, "/fapi/v1/klines", symbol=symbols[0], interval="5s", limit=1500))
        running.stop("ingest", "repair", "clock", "aggregator")
        eventually(lambda: written(streams), 30, 0.1)
        after = asyncio.run(rest(url, "/fapi/v1/klines", symbol=symbols[0], interval="5s", limit=1500))

        stored = {interval: table(database, interval) for interval in ("5s", "1m")}
        for (symbol, interval, opening), event in finals.items():
            row = stored[interval][symbol, opening]
            assert {name: Decimal(event[name]) for name in COLUMNS} == {
                name: row[column] for name, column in COLUMNS.items()
            }, (symbol, interval, opening)
            assert (event["f"], event["L"]) == (row["first_trade_id"], row["last_trade_id"])
        for symbol in symbols:
            times = sorted(at for name, interval, at in finals if (name, interval) == (symbol, "5s"))
            assert len(times) >= 15, "15 s at ten times the speed are thirty bars of 5 s"
            assert times == list(range(times[0], times[-1] + 1, INTERVALS["5s"].length_ms)), "no final is missing"

        mine = {at: row for (symbol, at), row in stored["5s"].items() if symbol == symbols[0] and row["revision"]}
        closed = [row for row in after if row[0] in mine]
        assert [row[0] for row in closed] == sorted(mine)[-1500:]
        for row in closed:
            told = [*row[1:6], row[7], row[8], row[9], row[10]]
            assert [Decimal(each) for each in told] == [mine[row[0]][name] for name in REST]
        times = [row[0] for row in during]
        assert times == list(range(times[0], times[-1] + 1, 5000)), "seamless while everything runs"
        assert running.stop("gateway", "writer") == {"gateway": 0, "writer": 0}
        streams.close()
        database.close()

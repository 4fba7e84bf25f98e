"""aggTrades and `@aggTrade` behind the real pipeline, with a line that loses frames and one that dies: what the gateway
answers is what the exchange does, id by id and digit by digit."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from klagg.embedded.traces import free_port
from tests.endtoend.kit import FLOOR, Stack, stack
from tests.endtoend.test_gateway import symbols_of
from tests.kit import eventually, eventually_async

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(300)]

LOSS = """
seed = 3

[[fault]]
kind = "lose"
line = "A"
share = 0.2
"""
PATH = "/fapi/v1/aggTrades"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "BNBUSDT")
Rows = list[dict[str, Any]]


async def answer(url: str, **query: Any) -> tuple[Rows, dict[str, str]]:
    async with aiohttp.ClientSession() as session, session.get(url + PATH, params=query) as response:
        assert response.status == 200, await response.text()
        return await response.json(), {name: value for name, value in response.headers.items() if "Klagg" in name}


def without_nq(rows: Rows) -> Rows:
    """The exchange's rows without the one field that the feed does not keep."""
    return [{name: value for name, value in row.items() if name != "nq"} for row in rows]


async def as_on_the_exchange(running: Stack, url: str, symbol: str) -> Rows:
    """The newest trades of a symbol by pages of ids, from klagg, once no id is missing; they are the exchange's."""

    async def whole() -> Rows:
        running.alive()
        newest, _ = await answer(url, symbol=symbol, limit=1)
        page, headers = await answer(url, symbol=symbol, fromId=newest[0]["a"] - 299, limit=300)
        return page if len(page) == 300 and not headers else []

    page: Rows = await eventually_async(whole, 60, 0.2)
    theirs, _ = await answer(running.rest_url, symbol=symbol, fromId=page[0]["a"], limit=300)
    assert page == without_nq(theirs)
    window = {"symbol": symbol, "startTime": page[0]["T"], "endTime": page[-1]["T"], "limit": 1000}
    (ours, headers), (theirs, _) = await answer(url, **window), await answer(running.rest_url, **window)
    assert (ours, headers) == (without_nq(theirs), {})
    return page


async def heard(url: str, events: dict[str, Rows]) -> None:
    """Everything that a client of all symbols hears, until it is cancelled."""
    names = "/".join(f"{symbol.lower()}@aggTrade" for symbol in events)
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/stream?streams={names}") as socket:
        async for message in socket:
            data = message.json()["data"]
            events[data["s"]].append(data)


async def test_trades_are_those_of_the_exchange(tmp_path: Path, redis_url: str, database_url: str) -> None:
    port = free_port()
    script = tmp_path / "loss.toml"
    script.write_text(LOSS)
    market = ["--symbols", "8", "--rate", "200", "--speed", "4", *FLOOR, "--faults", str(script)]
    sections: dict[str, dict[str, Any]] = {"gateway": {"port": port}, "database": {"enabled": False}}
    with stack(tmp_path, redis_url, database_url, market, **sections) as running:
        url = f"http://127.0.0.1:{port}"
        running.start("aggregator", "gateway", "clock", "repair", "ingest", "ingest-b")
        await asyncio.to_thread(eventually, lambda: symbols_of(url), 60, 0.2)
        events: dict[str, Rows] = {symbol: [] for symbol in SYMBOLS}
        hearing = asyncio.create_task(heard(url, events))
        for symbol in SYMBOLS:
            await as_on_the_exchange(running, url, symbol)
        running.children.pop("ingest-b").end(signal.SIGKILL)
        alone = len(events["BTCUSDT"])
        await eventually_async(lambda: len(events["BTCUSDT"]) > alone + 200, 60, 0.1)
        running.start("ingest-b")
        for symbol in SYMBOLS:
            await as_on_the_exchange(running, url, symbol)
        hearing.cancel()
        await asyncio.wait([hearing])
        for symbol, trades in events.items():
            ids = [each["a"] for each in trades]
            assert len(ids) > 50
            assert ids == sorted(set(ids)), "each once, and never backwards"
            theirs, _ = await answer(running.rest_url, symbol=symbol, fromId=ids[0], limit=1000)
            known = {row["a"]: row for row in without_nq(theirs)}
            compared = [each for each in trades if each["a"] in known]
            assert len(compared) > 50
            for each in compared:
                assert {name: each[name] for name in known[each["a"]]} == known[each["a"]]
        running.children.pop("gateway").end(signal.SIGKILL)
        running.start("gateway")
        await asyncio.to_thread(eventually, lambda: symbols_of(url), 60, 0.2)
        await as_on_the_exchange(running, url, "BTCUSDT")

"""Clients written for Binance, unmodified but for the base URL, against the running pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.embedded.traces import free_port
from tests.endtoend.kit import migrated, stack, table
from tests.endtoend.test_gateway import rest, symbols_of
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]

MARKET = ["--symbols", "8", "--rate", "100", "--speed", "20"]
SYMBOL = "BTCUSDT"


@dataclass
class Served:
    """A running pipeline: the gateway's host and port, and the table behind it."""

    address: str
    database: Database

    def rows(self) -> dict[int, dict[str, Any]]:
        """The finals of SYMBOL's minutes by open time."""
        found = table(self.database, "1m")
        return {at: row for (symbol, at), row in found.items() if symbol == SYMBOL and row["revision"]}


def library(name: str) -> Any:
    """A client library; the test that wants it is skipped where it is not installed, before anything is started."""
    return pytest.importorskip(name, reason=f"{name} is not installed here")


@pytest.fixture
def ccxt() -> Any:
    return library("ccxt")


@pytest.fixture
def ccxt_pro() -> Any:
    return library("ccxt.pro")


@pytest.fixture
def python_binance() -> tuple[Any, Any]:
    return library("binance.async_client"), library("binance.ws.streams")


@pytest.fixture
def served(tmp_path: Path, redis_url: str, database_url: str) -> Iterator[Served]:
    port = free_port()
    sections: dict[str, dict[str, Any]] = {"aggregator": {"intervals": ("1m", "5m")}, "gateway": {"port": port}}
    with stack(tmp_path, redis_url, database_url, MARKET, **sections) as running:
        database = migrated(database_url)
        running.start("aggregator", "writer", "gateway", "clock", "repair", "ingest")
        found = Served(f"127.0.0.1:{port}", database)
        eventually(lambda: symbols_of(f"http://{found.address}"), 60, 0.2)
        eventually(lambda: len(found.rows()) >= 3, 60, 0.2)
        yield found
        database.close()


def pointed(urls: Any, address: str) -> Any:
    """A client's table of URLs with the exchange's futures hosts replaced by the gateway."""
    if isinstance(urls, dict):
        return {name: pointed(inner, address) for name, inner in urls.items()}
    if not isinstance(urls, str):
        return urls
    return urls.replace("https://fapi.binance.com", f"http://{address}").replace(
        "wss://fstream.binance.com", f"ws://{address}"
    )


def test_ccxt_fetches_what_the_table_holds(ccxt: Any, served: Served) -> None:
    client = ccxt.binanceusdm()
    client.urls["api"] = pointed(client.urls["api"], served.address)
    market = client.load_markets()["BTC/USDT:USDT"]
    assert (market["id"], market["linear"], market["swap"], market["active"]) == (SYMBOL, True, True, True)
    assert len(client.markets) == 8
    assert (market["precision"]["price"], market["info"]["pricePrecision"]) == (0.1, 2)
    assert client.price_to_precision("BTC/USDT:USDT", 85_000.17) == "85000.2"
    assert client.amount_to_precision("BTC/USDT:USDT", 1.23456) == "1.234"
    before = served.rows()
    fetched = {row[0]: row[1:] for row in client.fetch_ohlcv("BTC/USDT:USDT", "1m", limit=1000)}
    for at, row in before.items():
        assert fetched[at] == [float(row[name]) for name in ("open", "high", "low", "close", "volume")]
    since = sorted(before)[1]
    assert [row[0] for row in client.fetch_ohlcv("BTC/USDT:USDT", "1m", since=since, limit=2)] == [
        since,
        since + 60_000,
    ]
    with pytest.raises(ccxt.BadRequest, match="-1120"):
        client.fetch_ohlcv("BTC/USDT:USDT", "3m")


async def test_ccxt_watches_live_klines(ccxt_pro: Any, served: Served) -> None:
    client = ccxt_pro.binanceusdm()
    client.urls["api"] = pointed(client.urls["api"], served.address)
    seen: dict[int, list[float]] = {}
    try:
        async with asyncio.timeout(30):
            while len(seen) < 3:
                for row in await client.watch_ohlcv("BTC/USDT:USDT", "1m"):
                    seen[row[0]] = row[1:]
    finally:
        await client.close()
    first, second, _ = sorted(seen)
    assert second == first + 60_000
    row = await asyncio.to_thread(eventually, lambda: served.rows().get(second), 20, 0.2)
    assert seen[second] == [float(row[name]) for name in ("open", "high", "low", "close", "volume")]


async def test_python_binance_gets_and_hears_what_the_table_holds(
    python_binance: tuple[Any, Any], served: Served
) -> None:
    clients, streams = python_binance
    client = clients.AsyncClient()
    client.FUTURES_URL = f"http://{served.address}/fapi"
    try:
        before = served.rows()
        fetched = {row[0]: row for row in await client.futures_klines(symbol=SYMBOL, interval="1m", limit=1000)}
        for at, row in before.items():
            assert [Decimal(each) for each in fetched[at][1:6]] == [
                row[name] for name in ("open", "high", "low", "close", "volume")
            ]
            assert (fetched[at][8], Decimal(fetched[at][10])) == (row["trades"], row["taker_buy_quote_volume"])
        manager = streams.BinanceSocketManager(client)
        manager.FSTREAM_URL = f"ws://{served.address}/"
        async with manager.kline_futures_socket(SYMBOL) as socket, asyncio.timeout(30):
            event = await socket.recv()
            while not event["k"]["x"]:
                event = await socket.recv()
        closed = event["k"]
        wanted = closed["t"]
        await asyncio.to_thread(lambda: eventually(lambda: wanted in served.rows(), 20, 0.2))
        row = served.rows()[wanted]
        assert (Decimal(closed["c"]), closed["n"], closed["f"], closed["L"]) == (
            row["close"],
            row["trades"],
            row["first_trade_id"],
            row["last_trade_id"],
        )
        assert await rest(f"http://{served.address}", "/fapi/v1/ping") == {}
    finally:
        await client.close_connection()

"""Unmodified clients against a gateway on a real Redis: history and live bars. README's snippet runs as it is printed.

`tests/endtoend/test_clients.py` compares ccxt and python-binance with the table of a whole pipeline.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.gateway.kit import FINAL, Client, Line, Teller, agg_trade, at, info_of, keep_info, row_of, running
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

README = Path(__file__).parents[2] / "README.md"
BTC = ("BTCUSDT", "1m")
SERIES = {"symbol": "BTCUSDT", "interval": "1m"}


def tell(teller: Teller) -> None:
    """A closed bar and an open one."""
    teller.tell({BTC: {"open_time": at(0), **FINAL}})
    teller.tell({BTC: {"open_time": at(1)}}, time_ms=at(1) + 1000)


def snippet(client: Client) -> str:
    """README's snippet for ccxt with the address of this gateway."""
    (code,) = re.findall(r"```python\n(import ccxt\.pro.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert code.count("127.0.0.1:8470") == 1
    return str(code).replace("127.0.0.1:8470", client.gateway.server.address)


async def test_readmes_snippet_redirects_rest_and_websocket(redis_url: str, teller: Teller) -> None:
    pytest.importorskip("ccxt.pro", reason="ccxt is not installed here")
    tell(teller)
    assets = {"baseAsset": "BTC", "quoteAsset": "USDT", "marginAsset": "USDT", "contractType": "PERPETUAL"}
    keep_info(teller.streams, info_of(row_of("BTCUSDT", pair="BTCUSDT", **assets)), ["BTCUSDT"])
    async with running(redis_url, info=()) as client:
        await eventually(lambda: client.gateway.market.info)
        names: dict[str, Any] = {}
        exec(compile(snippet(client), "README.md", "exec"), names)
        exchange = names["exchange"]
        try:
            rows = await exchange.fetch_ohlcv("BTC/USDT:USDT", "1m")
            assert [row[0] for row in rows] == [at(0), at(1)]
            assert rows[0][1:] == [64100.1, 64120.0, 64090.9, 64111.1, 12.345]
            ticker = await exchange.fetch_ticker("BTC/USDT:USDT")
            assert (ticker["last"], ticker["high"], ticker["baseVolume"]) == (64111.1, 64120.0, 24.69)
            assert await exchange.fetch_tickers(["BTC/USDT:USDT"]) == {"BTC/USDT:USDT": ticker}

            async def heard(watching: asyncio.Task[Any]) -> Any:
                """What comes while the bar goes on."""
                number = 0
                while not watching.done():
                    number += 1
                    teller.tell({BTC: {"open_time": at(1), "trades": number}}, time_ms=at(1) + 2000)
                    await asyncio.wait([watching], timeout=0.1)
                return watching.result()

            rows = await asyncio.wait_for(heard(asyncio.create_task(exchange.watch_ohlcv("BTC/USDT:USDT", "1m"))), 30)
            assert rows[-1][0] == at(1)
            watched = await asyncio.wait_for(heard(asyncio.create_task(exchange.watch_ticker("BTC/USDT:USDT"))), 30)
            assert (watched["last"], watched["quoteVolume"]) == (64111.1, ticker["quoteVolume"])
            hosts = {urlsplit(url).netloc for name, url in exchange.urls["api"].items() if name.startswith("fapi")}
            assert hosts == {client.gateway.server.address}
            assert "fstream.binance.com" not in str(exchange.urls["api"]["ws"])
        finally:
            await exchange.close()


def test_readmes_snippet_leaves_no_address_of_the_exchange_in_any_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The WebSocket is `future` up to ccxt 4.5.88 and `linear` in 4.5.90; a key that it does not know is ignored."""
    (code,) = re.findall(r"```python\n(import ccxt\.pro.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for key in ("future", "linear"):
        sockets = {"spot": "wss://stream.binance.com:9443/ws", key: "wss://fstream.binance.com/ws"}
        others = {
            "option": "wss://fstream.binance.com/public/ws",
            "ws-api": {key: "wss://ws-fapi.binance.com/ws-fapi/v1"},
        }
        urls = {"api": {"fapiPublic": "https://fapi.binance.com/fapi/v1", "ws": {**sockets, **others}}}
        library = SimpleNamespace(pro=SimpleNamespace(binanceusdm=lambda of=urls: SimpleNamespace(urls=of)))
        monkeypatch.setitem(sys.modules, "ccxt", library)
        monkeypatch.setitem(sys.modules, "ccxt.pro", library.pro)
        exec(compile(code, "README.md", "exec"), {})
        assert urls["api"]["fapiPublic"] == "http://127.0.0.1:8470/fapi/v1"
        redirected = {key: "ws://127.0.0.1:8470/ws", "option": "ws://127.0.0.1:8470/public/ws"}
        assert urls["api"]["ws"] == {**sockets, **others, **redirected}


async def test_ccxt_fetches_and_watches_trades(redis_url: str, teller: Teller) -> None:
    pytest.importorskip("ccxt.pro", reason="ccxt is not installed here")
    tell(teller)
    assets = {"baseAsset": "BTC", "quoteAsset": "USDT", "marginAsset": "USDT", "contractType": "PERPETUAL"}
    keep_info(teller.streams, info_of(row_of("BTCUSDT", pair="BTCUSDT", **assets)), ["BTCUSDT"])
    a, b = Line(teller.streams), Line(teller.streams, "B")
    a.bring(*range(1, 10))
    b.bring(*range(5, 12))
    async with running(redis_url, info=()) as client:
        await eventually(lambda: client.gateway.market.info)
        names: dict[str, Any] = {}
        exec(compile(snippet(client), "README.md", "exec"), names)
        exchange = names["exchange"]
        try:
            fetched = await exchange.fetch_trades("BTC/USDT:USDT")
            assert [int(each["id"]) for each in fetched] == list(range(1, 12))
            first = agg_trade(1)
            told = (fetched[0]["timestamp"], fetched[0]["price"], fetched[0]["amount"], fetched[0]["side"])
            assert told == (first.time, float(first.price), float(first.qty), "buy")
            since = await exchange.fetch_trades("BTC/USDT:USDT", since=agg_trade(4).time, limit=3)
            assert [int(each["id"]) for each in since] == [4, 5, 6]

            async def heard(watching: asyncio.Task[Any]) -> Any:
                """What comes while the lines go on, one behind the other."""
                number = 100
                while not watching.done():
                    number += 1
                    a.bring(number)
                    b.bring(number)
                    await asyncio.wait([watching], timeout=0.1)
                return watching.result()

            watching = exchange.watch_trades("BTC/USDT:USDT", params={"name": "aggTrade"})
            (trade, *_) = await asyncio.wait_for(heard(asyncio.create_task(watching)), 30)
            row = agg_trade(int(trade["id"]))
            assert (trade["timestamp"], trade["price"], trade["amount"]) == (row.time, float(row.price), float(row.qty))
            assert "btcusdt@aggTrade" not in client.gateway.unserved.counts
        finally:
            await exchange.close()


async def test_the_official_sdk_gets_klines_and_trades(redis_url: str, teller: Teller) -> None:
    name = "binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures"
    sdk = pytest.importorskip(name, reason="the official SDK is not installed here")
    tell(teller)
    async with running(redis_url) as client:
        config = sdk.ConfigurationRestAPI(api_key="", api_secret="", base_path=client.url)
        rest = sdk.DerivativesTradingUsdsFutures(config_rest_api=config).rest_api

        Line(teller.streams).bring(1, 2)

        def ask() -> tuple[Any, Any, Any, Any]:
            trades = rest.compressed_aggregate_trades_list(symbol="BTCUSDT", from_id=2).data()
            rows = rest.kline_candlestick_data(symbol="BTCUSDT", interval="1m", limit=2).data()
            day = rest.ticker24hr_price_change_statistics(symbol="BTCUSDT").data()
            return rows, rest.check_server_time().data().server_time, day, trades

        rows, server_ms, day, trades = await asyncio.to_thread(ask)
        assert [int(row[0]) for row in rows] == [at(0), at(1)]
        assert rows[0][4] == "64111.10"
        assert [(int(each.a), each.p, each.q) for each in trades] == [(2, agg_trade(2).price, "0.120")]
        assert server_ms >= at(1)
        day = getattr(day, "actual_instance", day)
        assert (day.symbol, day.last_price, int(day.open_time)) == ("BTCUSDT", "64111.10", at(0))


async def test_unicorn_hears_live_bars(redis_url: str, teller: Teller) -> None:
    unicorn = pytest.importorskip("unicorn_binance_websocket_api", reason="unicorn is not installed here")
    tell(teller)
    async with running(redis_url) as client:

        def listen() -> Any:
            manager = unicorn.BinanceWebSocketApiManager(
                exchange="binance.com-futures",
                websocket_base_uri=f"ws://{client.gateway.server.address}/",
                warn_on_update=False,
                disable_colorama=True,
            )
            try:
                manager.create_stream(["kline_1m"], ["btcusdt"])
                while True:
                    text = manager.pop_stream_data_from_stream_buffer()
                    if text and "data" in (found := json.loads(text)):
                        return found["data"]
            finally:
                manager.stop_manager()

        event = await asyncio.wait_for(asyncio.to_thread(listen), 60)
        assert (event["e"], event["k"]["s"], event["k"]["t"]) == ("kline", "BTCUSDT", at(1))
        await eventually(lambda: not client.gateway.hub.clients)

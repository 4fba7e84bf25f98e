"""ccxt in Python: REST and WebSocket of one object, both pointed at the gateway. Run with the gateway's address."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import ccxt.pro  # type: ignore[import-untyped]

from tests.long.clients.say import INTERVALS, LIMIT, Bar, history, live

SYMBOL = "BTC/USDT:USDT"


def bar_of(row: list[Any]) -> Bar:
    return dict(zip("tohlcv", row, strict=True))


async def watch(exchange: Any, interval: str) -> None:
    """A watch that fails is asked for again, as ccxt's manual says: it connects anew."""
    while True:
        try:
            for row in await exchange.watch_ohlcv(SYMBOL, interval):
                live(interval, bar_of(row))
        except ccxt.pro.NetworkError:
            await asyncio.sleep(0.5)


async def main(address: str) -> None:
    exchange = ccxt.pro.binanceusdm()
    for name, url in exchange.urls["api"].items():
        if name.startswith("fapi"):
            exchange.urls["api"][name] = url.replace("https://fapi.binance.com", f"http://{address}")
    exchange.urls["api"]["ws"]["linear"] = f"ws://{address}/ws"
    try:
        await exchange.load_markets()
        for interval in INTERVALS:
            history(interval, [bar_of(row) for row in await exchange.fetch_ohlcv(SYMBOL, interval, limit=LIMIT)])
        await asyncio.gather(*(watch(exchange, interval) for interval in INTERVALS))
    finally:
        await exchange.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))

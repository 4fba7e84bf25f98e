"""python-binance. Run with the gateway's address."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from binance.async_client import AsyncClient  # type: ignore[import-untyped]
from binance.ws.streams import BinanceSocketManager  # type: ignore[import-untyped]

from tests.long.clients.say import INTERVALS, LIMIT, SYMBOL, bar_of_event, bar_of_row, history, live


async def listen(manager: Any) -> None:
    names = [f"{SYMBOL.lower()}@kline_{interval}" for interval in INTERVALS]
    async with manager.futures_multiplex_socket(names) as socket:
        while True:
            event = (await socket.recv()).get("data", {})
            if event.get("e") == "kline":
                live(event["k"]["i"], bar_of_event(event["k"]), event["k"]["x"])


async def main(address: str) -> None:
    client = AsyncClient()
    client.FUTURES_URL = f"http://{address}/fapi"
    try:
        for interval in INTERVALS:
            rows = await client.futures_klines(symbol=SYMBOL, interval=interval, limit=LIMIT)
            history(interval, [bar_of_row(row) for row in rows])
        manager: Any = BinanceSocketManager(client)
        manager.FSTREAM_URL = f"ws://{address}/"
        await listen(manager)
    finally:
        await client.close_connection()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))

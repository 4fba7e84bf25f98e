"""pybotters. Run with the gateway's address."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pybotters  # type: ignore[import-not-found]

from tests.long.clients.say import INTERVALS, LIMIT, SYMBOL, bar_of_event, bar_of_row, history, live


def heard(event: Any, _: Any) -> None:
    if event.get("e") == "kline":
        live(event["k"]["i"], bar_of_event(event["k"]), event["k"]["x"])


async def main(address: str) -> None:
    async with pybotters.Client() as client:
        for interval in INTERVALS:
            query = {"symbol": SYMBOL, "interval": interval, "limit": LIMIT}
            found = await client.fetch("GET", f"http://{address}/fapi/v1/klines", params=query)
            history(interval, [bar_of_row(row) for row in found.data])
        names = [f"{SYMBOL.lower()}@kline_{interval}" for interval in INTERVALS]
        wish = {"method": "SUBSCRIBE", "params": names, "id": 1}
        socket = await client.ws_connect(f"ws://{address}/ws", send_json=wish, hdlr_json=heard)
        await socket.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))

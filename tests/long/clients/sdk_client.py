"""The exchange's client binance-sdk-derivatives-trading-usds-futures. Run with the gateway's address.

It does not connect again by itself: the program does, when it hears that a connection is closed.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import import_module
from typing import Any

from tests.long.clients.say import INTERVALS, LIMIT, SYMBOL, bar_of_event, bar_of_row, history, live

sdk: Any = import_module("binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures")


def heard(event: Any) -> None:
    kline = event.k.to_dict()
    live(kline["i"], bar_of_event(kline), kline["x"])


async def listen(client: Any) -> None:
    """Hear bars until the connection is lost."""
    lost = asyncio.Event()
    connection = await client.websocket_streams.create_connection()
    if connection is None:  # where nobody listens yet it logs an error and returns nothing
        return
    connection.on_connection("close", lambda *_: lost.set())
    for interval in INTERVALS:
        stream = await connection.kline_candlestick_streams(symbol=SYMBOL.lower(), interval=interval)
        stream.on("message", heard)
    await lost.wait()


async def main(address: str) -> None:
    client = sdk.DerivativesTradingUsdsFutures(
        config_rest_api=sdk.ConfigurationRestAPI(api_key="", api_secret="", base_path=f"http://{address}"),
        config_ws_streams=sdk.ConfigurationWebSocketStreams(stream_url=f"ws://{address}"),
    )
    for interval in INTERVALS:
        found = client.rest_api.kline_candlestick_data(symbol=SYMBOL, interval=interval, limit=LIMIT)
        history(interval, [bar_of_row(row) for row in found.data()])
    while True:
        await listen(client)
        await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))

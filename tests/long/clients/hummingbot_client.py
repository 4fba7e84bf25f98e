"""hummingbot's feed of candles. It has no option for addresses: the constants of its module are set.

Run with the gateway's address.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from hummingbot.data_feed.candles_feed.binance_perpetual_candles import (  # type: ignore[import-not-found]
    BinancePerpetualCandles,
    constants,
)

from tests.long.clients.say import INTERVALS, Bar, history, live

RECORDS = 400
COLUMNS = {
    "o": "open",
    "h": "high",
    "l": "low",
    "c": "close",
    "v": "volume",
    "q": "quote_asset_volume",
    "n": "n_trades",
    "V": "taker_buy_base_volume",
    "Q": "taker_buy_quote_volume",
}


def bars_of(feed: Any) -> list[Bar]:
    rows = feed.candles_df.to_dict("records")
    return [
        {"t": int(row["timestamp"]) * 1000, **{letter: float(row[name]) for letter, name in COLUMNS.items()}}
        for row in rows
    ]


async def follow(interval: str) -> None:
    feed = BinancePerpetualCandles("BTC-USDT", interval, RECORDS)
    await feed.start_network()
    while not feed.ready:
        await asyncio.sleep(0.1)
    history(interval, bars_of(feed))
    last: list[Bar] = []
    while True:
        bars = bars_of(feed)[-3:]
        for bar in bars:
            if bar not in last:
                live(interval, bar)
        last = bars or last
        await asyncio.sleep(0.1)


async def main(address: str) -> None:
    constants.REST_URL = f"http://{address}"
    constants.WSS_URL = f"ws://{address}/market/stream"
    await asyncio.gather(*map(follow, INTERVALS))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))

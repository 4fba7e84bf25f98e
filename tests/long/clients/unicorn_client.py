"""unicorn-binance-websocket-api, which has live bars only; the history is asked for as its users do, by themselves.

Run with the gateway's address.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request

from unicorn_binance_websocket_api import BinanceWebSocketApiManager  # type: ignore[import-untyped]

from tests.long.clients.say import INTERVALS, LIMIT, SYMBOL, bar_of_event, bar_of_row, history, live


def main(address: str) -> None:
    for interval in INTERVALS:
        query = f"symbol={SYMBOL}&interval={interval}&limit={LIMIT}"
        with urllib.request.urlopen(f"http://{address}/fapi/v1/klines?{query}", timeout=10) as answer:
            history(interval, [bar_of_row(row) for row in json.loads(answer.read())])
    manager = BinanceWebSocketApiManager(
        exchange="binance.com-futures",
        websocket_base_uri=f"ws://{address}/",
        warn_on_update=False,
        disable_colorama=True,
    )
    manager.create_stream([f"kline_{interval}" for interval in INTERVALS], [SYMBOL.lower()])
    while True:
        text = manager.pop_stream_data_from_stream_buffer()
        if not text:
            time.sleep(0.05)
            continue
        event = json.loads(text).get("data", {})
        if event.get("e") == "kline":
            live(event["k"]["i"], bar_of_event(event["k"]), event["k"]["x"])


if __name__ == "__main__":
    main(sys.argv[-1])

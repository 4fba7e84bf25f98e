"""binance-futures-connector, the exchange's older client. Run with the gateway's address.

It does not connect again by itself: the program does, when it is told that the connection is lost.
"""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from binance.um_futures import UMFutures  # type: ignore[import-untyped]
from binance.websocket.um_futures.websocket_client import UMFuturesWebsocketClient  # type: ignore[import-untyped]

from tests.long.clients.say import INTERVALS, LIMIT, SYMBOL, bar_of_event, bar_of_row, history, live


def main(address: str) -> None:
    client = UMFutures(base_url=f"http://{address}")
    for interval in INTERVALS:
        history(interval, [bar_of_row(row) for row in client.klines(SYMBOL, interval, limit=LIMIT)])
    while True:
        lost = threading.Event()

        def heard(_: Any, text: str) -> None:
            event = json.loads(text)
            if event.get("e") == "kline":
                live(event["k"]["i"], bar_of_event(event["k"]), event["k"]["x"])

        def ended(*_: Any, lost: threading.Event = lost) -> None:
            lost.set()

        try:
            socket = UMFuturesWebsocketClient(
                stream_url=f"ws://{address}", on_message=heard, on_close=ended, on_error=ended
            )
        except OSError:
            lost.wait(1)
            continue
        for interval in INTERVALS:
            socket.kline(symbol=SYMBOL.lower(), interval=interval)
        lost.wait()


if __name__ == "__main__":
    main(sys.argv[-1])

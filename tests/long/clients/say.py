"""What the clients of this folder that are written in Python print: a line of JSON for each answer and each event.

It runs in environments without klagg, so it needs nothing but Python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

INTERVALS: Final = ("1m", "15m")
LIMIT: Final = 500
SYMBOL: Final = "BTCUSDT"

Bar = dict[str, Any]


def bar_of_row(row: Sequence[Any]) -> Bar:
    """The bar of a row of a klines answer of Binance's."""
    open_time, open_, high, low, close, volume, _, quote, trades, taker, taker_quote = row[:11]
    values = (int(open_time), open_, high, low, close, volume, quote, trades, taker, taker_quote)
    return dict(zip("tohlcvqnVQ", values, strict=True))


def bar_of_event(kline: Any) -> Bar:
    """The bar of the `k` of a kline event of Binance's."""
    return {letter: kline[letter] for letter in "tohlcvqnVQ"}


def history(interval: str, bars: Sequence[Bar]) -> None:
    print(json.dumps({"what": "history", "interval": interval, "bars": list(bars)}), flush=True)


def live(interval: str, bar: Bar, closed: bool | None = None) -> None:
    print(json.dumps({"what": "live", "interval": interval, "bars": [bar], "closed": closed}), flush=True)

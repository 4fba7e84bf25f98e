"""Payloads of klines and contracts as the exchange writes them as of 2026, and the frames that carry them. Pure."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

USD_M = 1
"""The `st` of USDⓈ-M events; some streams mix in COIN-M events with 2."""


class WireKline(NamedTuple):
    """A kline as texts, ready to be written. Times are ms, `close_time` the last one of the bar; ids are fill ids."""

    open_time: int
    close_time: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    trades: int
    taker_buy_volume: str
    taker_buy_quote_volume: str
    first_id: int = -1
    last_id: int = -1


def compact(value: object) -> str:
    """JSON without spaces, names in their own script."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=8192)
def quoted(text: str) -> str:
    """A JSON string, such as the name of a symbol or stream that comes again and again."""
    return compact(text)


def rest_kline(kline: WireKline) -> list[object]:
    """A row of `GET /fapi/v1/klines`."""
    return [
        kline.open_time,
        kline.open,
        kline.high,
        kline.low,
        kline.close,
        kline.volume,
        kline.close_time,
        kline.quote_volume,
        kline.trades,
        kline.taker_buy_volume,
        kline.taker_buy_quote_volume,
        "0",
    ]


def kline_event(symbol: str, interval: str, kline: WireKline, event_ms: int, *, closed: bool, revision: int = 0) -> str:
    """The `kline` event. A `revision`, unknown to the exchange, stands behind its own fields if it is not 0."""
    name = quoted(symbol)
    return (
        f'{{"e":"kline","E":{event_ms},"s":{name},"k":{{{_times(kline)},"s":{name},'
        f'{_values(interval, kline, closed, revision)}}},"st":1}}'
    )


def continuous_kline_event(
    symbol: str, interval: str, kline: WireKline, event_ms: int, *, closed: bool, revision: int = 0
) -> str:
    """The `continuous_kline` event of a perpetual contract; `revision` as in `kline_event`."""
    return (
        f'{{"e":"continuous_kline","E":{event_ms},"ps":{quoted(symbol)},"ct":"PERPETUAL","k":{{{_times(kline)},'
        f'{_values(interval, kline, closed, revision)}}},"st":1}}'
    )


def _times(kline: WireKline) -> str:
    return f'"t":{kline.open_time},"T":{kline.close_time}'


def _values(interval: str, kline: WireKline, closed: bool, revision: int) -> str:
    own = f',"revision":{revision}' if revision else ""
    return (
        f'"i":"{interval}","f":{kline.first_id},"L":{kline.last_id},"o":"{kline.open}","c":"{kline.close}",'
        f'"h":"{kline.high}","l":"{kline.low}","v":"{kline.volume}","n":{kline.trades},'
        f'"x":{"true" if closed else "false"},"q":"{kline.quote_volume}","V":"{kline.taker_buy_volume}",'
        f'"Q":"{kline.taker_buy_quote_volume}","B":"0"{own}'
    )


def combined(stream: str, payload: str) -> str:
    """The wrapper of combined connections around a payload."""
    return f'{{"stream":{quoted(stream)},"data":{payload}}}'


def text_frame(payload: str) -> bytes:
    """A WebSocket text frame from server to client (unmasked, one fragment), RFC 6455 section 5.2."""
    body = payload.encode()
    length = len(body)
    if length < 126:
        return bytes((0x81, length)) + body
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2) + body
    return b"\x81\x7f" + length.to_bytes(8) + body


def plain(number: Decimal) -> str:
    """A decimal without exponent, "0" for a sum of nothing."""
    return format(number, "f")


def unit(precision: int) -> str:
    """The step of a precision: 3 gives "0.001", 0 gives "1"."""
    return plain(Decimal(1).scaleb(-precision))

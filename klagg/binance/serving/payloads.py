"""Payloads of klines and contracts as the exchange writes them as of 2026, and the frames that carry them. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

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


class ListedContract(Protocol):
    """What exchangeInfo reports of a symbol."""

    @property
    def symbol(self) -> str:
        """The name: BTCUSDT."""

    @property
    def base(self) -> str:
        """The asset that is traded: BTC."""

    @property
    def quote(self) -> str:
        """The asset of prices: USDT."""

    @property
    def price_precision(self) -> int:
        """Digits of prices after the point."""

    @property
    def quantity_precision(self) -> int:
        """Digits of quantities after the point."""

    @property
    def tick_size(self) -> str:
        """The smallest step of a price, as text."""

    @property
    def step_size(self) -> str:
        """The smallest step of a quantity, as text."""

    @property
    def onboard_ms(self) -> int:
        """When it was listed (exchange ms)."""

    @property
    def delivery_ms(self) -> int:
        """When it ends (exchange ms), far in the future for a perpetual."""

    @property
    def contract_type(self) -> str:
        """PERPETUAL and so on."""

    @property
    def status(self) -> str:
        """TRADING and so on."""


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


def exchange_info(listings: Sequence[ListedContract], server_ms: int, weight_per_minute: int) -> dict[str, Any]:
    """The body of `GET /fapi/v1/exchangeInfo`."""
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_per_minute}
    return {
        "timezone": "UTC",
        "serverTime": server_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": [limit],
        "exchangeFilters": [],
        "assets": [{"asset": asset, "marginAvailable": True} for asset in sorted({item.quote for item in listings})],
        "symbols": [_exchange_info_symbol(listing) for listing in listings],
    }


def _exchange_info_symbol(listing: ListedContract) -> dict[str, Any]:
    price, quantity = _filter("tickSize", listing.tick_size, "Price"), _filter("stepSize", listing.step_size, "Qty")
    return {
        "symbol": listing.symbol,
        "pair": listing.symbol,
        "contractType": listing.contract_type,
        "deliveryDate": listing.delivery_ms,
        "onboardDate": listing.onboard_ms,
        "status": listing.status,
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.quote,
        "pricePrecision": listing.price_precision,
        "quantityPrecision": listing.quantity_precision,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "filters": [{"filterType": "PRICE_FILTER", **price}, {"filterType": "LOT_SIZE", **quantity}],
    }


def _filter(name: str, step: str, what: str) -> dict[str, str]:
    return {name: step, f"min{what}": step, f"max{what}": "1000000000"}


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

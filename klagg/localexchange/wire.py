"""The exchange's payloads, field by field as of 2026. Pure: values in, JSON text or bytes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from klagg.localexchange.bars import Bar
from klagg.localexchange.market import Listing, MarketTrade

USD_M = 1
"""The `st` of USDⓈ-M events; some streams mix in COIN-M events with 2."""


def compact(value: object) -> str:
    """JSON without spaces, names in their own script."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@lru_cache(maxsize=8192)
def _quoted(text: str) -> str:
    return compact(text)


def agg_trade_event(trade: MarketTrade) -> str:
    """The `aggTrade` event."""
    maker = "true" if trade.maker else "false"
    return (
        f'{{"e":"aggTrade","E":{trade.event_ms},"a":{trade.id},"s":{_quoted(trade.symbol)},"p":"{trade.price}",'
        f'"q":"{trade.qty}","nq":"{trade.normal_qty}","f":{trade.first},"l":{trade.last},"T":{trade.time_ms},'
        f'"m":{maker},"st":1}}'
    )


def trade_event(trade: MarketTrade) -> str:
    """The `trade` event."""
    maker = "true" if trade.maker else "false"
    return (
        f'{{"e":"trade","E":{trade.event_ms},"T":{trade.time_ms},"s":{_quoted(trade.symbol)},"t":{trade.id},'
        f'"p":"{trade.price}","q":"{trade.qty}","X":{_quoted(trade.execution)},"m":{maker},"st":1}}'
    )


def kline_event(symbol: str, interval: str, bar: Bar, event_ms: int, *, closed: bool) -> str:
    """The `kline` event."""
    kline = {
        "t": bar.open_ms,
        "T": bar.close_ms,
        "s": symbol,
        "i": interval,
        "f": bar.first_id,
        "L": bar.last_id,
        "o": bar.open,
        "c": bar.close,
        "h": bar.high,
        "l": bar.low,
        "v": plain(bar.volume),
        "n": bar.trades,
        "x": closed,
        "q": plain(bar.quote_volume),
        "V": plain(bar.taker_buy_volume),
        "Q": plain(bar.taker_buy_quote_volume),
        "B": "0",
    }
    return compact({"e": "kline", "E": event_ms, "s": symbol, "k": kline, "st": USD_M})


def mini_tickers_event(tickers: Mapping[str, Bar], event_ms: int, *, coin_m: bool) -> str:
    """The `!miniTicker@arr` array of the tickers that changed; `coin_m` adds a COIN-M one, as the exchange mixes in."""
    rows = [_mini_ticker(symbol, bar, event_ms, USD_M) for symbol, bar in tickers.items()]
    if coin_m:
        flat = Bar(0, 0, "50000.0", "50000.0", "50000.0", "50000.0", Decimal(1), Decimal("0.002"))
        rows.append(_mini_ticker("BTCUSD_PERP", flat, event_ms, 2))
    return compact(rows)


def _mini_ticker(symbol: str, bar: Bar, event_ms: int, market: int) -> dict[str, object]:
    return {
        "e": "24hrMiniTicker",
        "E": event_ms,
        "s": symbol,
        "c": bar.close,
        "o": bar.open,
        "h": bar.high,
        "l": bar.low,
        "v": plain(bar.volume),
        "q": plain(bar.quote_volume),
        "st": market,
    }


def contract_info_event(listing: Listing, event_ms: int) -> str:
    """The `!contractInfo` event that a listing, delisting or change of a contract sends."""
    return compact(
        {
            "e": "contractInfo",
            "E": event_ms,
            "s": listing.symbol,
            "ps": listing.symbol,
            "ct": listing.contract_type,
            "dt": listing.delivery_ms,
            "ot": listing.onboard_ms,
            "cs": listing.status,
            "st": USD_M,
        }
    )


def rest_agg_trade(trade: MarketTrade) -> dict[str, object]:
    """An item of `GET /fapi/v1/aggTrades`."""
    return {
        "a": trade.id,
        "p": trade.price,
        "q": trade.qty,
        "nq": trade.normal_qty,
        "f": trade.first,
        "l": trade.last,
        "T": trade.time_ms,
        "m": trade.maker,
    }


def rest_kline(bar: Bar) -> list[object]:
    """A row of `GET /fapi/v1/klines`."""
    return [
        bar.open_ms,
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        plain(bar.volume),
        bar.close_ms,
        plain(bar.quote_volume),
        bar.trades,
        plain(bar.taker_buy_volume),
        plain(bar.taker_buy_quote_volume),
        "0",
    ]


def exchange_info(listings: Sequence[Listing], server_ms: int, weight_per_minute: int) -> dict[str, Any]:
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


def _exchange_info_symbol(listing: Listing) -> dict[str, Any]:
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
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "tickSize": listing.tick_size,
                "minPrice": listing.tick_size,
                "maxPrice": "1000000000",
            },
            {
                "filterType": "LOT_SIZE",
                "stepSize": listing.step_size,
                "minQty": listing.step_size,
                "maxQty": "1000000000",
            },
        ],
    }


def combined(stream: str, payload: str) -> str:
    """The wrapper of combined connections around a payload."""
    return f'{{"stream":{_quoted(stream)},"data":{payload}}}'


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

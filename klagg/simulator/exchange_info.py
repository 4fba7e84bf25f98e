"""exchangeInfo of a simulated market: every field that the exchange's own has, with values that fit each other. Pure.

Fields and their forms: Binance USDⓈ-M docs, "Exchange Information", and an answer recorded in July 2021. What no market
here has (margins, fees, bounds of orders) has the values that the exchange gives BTCUSDT.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from klagg.binance.serving.payloads import plain
from klagg.simulator.market import ContractListing

ORDER_TYPES: Final = (
    "LIMIT",
    "MARKET",
    "STOP",
    "STOP_MARKET",
    "TAKE_PROFIT",
    "TAKE_PROFIT_MARKET",
    "TRAILING_STOP_MARKET",
)
TIME_IN_FORCE: Final = ("GTC", "IOC", "FOK", "GTX", "GTD")

TICKS_MAX: Final = 10**9
"""The highest price of an order, in ticks."""
STEPS_MAX: Final = 10**9
MARKET_STEPS_MAX: Final = 10**8
"""The largest quantity of a limit and of a market order, in steps."""


def exchange_info(listings: Sequence[ContractListing], server_ms: int, weight_per_minute: int) -> dict[str, Any]:
    """The body of `GET /fapi/v1/exchangeInfo`."""
    return {
        "timezone": "UTC",
        "serverTime": server_ms,
        "futuresType": "U_MARGINED",
        "rateLimits": [
            _limit("REQUEST_WEIGHT", "MINUTE", 1, weight_per_minute),
            _limit("ORDERS", "MINUTE", 1, 1200),
            _limit("ORDERS", "SECOND", 10, 300),
        ],
        "exchangeFilters": [],
        "assets": [
            {"asset": asset, "marginAvailable": True, "autoAssetExchange": "-10000"}
            for asset in sorted({item.quote for item in listings})
        ],
        "symbols": [_symbol(listing) for listing in listings],
    }


def _limit(kind: str, interval: str, count: int, limit: int) -> dict[str, Any]:
    return {"rateLimitType": kind, "interval": interval, "intervalNum": count, "limit": limit}


def _symbol(listing: ContractListing) -> dict[str, Any]:
    return {
        "symbol": listing.symbol,
        "pair": listing.symbol,
        "contractType": listing.contract_type,
        "deliveryDate": listing.delivery_ms,
        "onboardDate": listing.onboard_ms,
        "status": listing.status,
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": listing.base,
        "quoteAsset": listing.quote,
        "marginAsset": listing.quote,
        "pricePrecision": listing.price_precision,
        "quantityPrecision": listing.quantity_precision,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": [],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10_000,
        "filters": _filters(listing.tick_size, listing.step_size),
        "orderTypes": list(ORDER_TYPES),
        "timeInForce": list(TIME_IN_FORCE),
    }


def _filters(tick: str, step: str) -> list[dict[str, Any]]:
    """The filters of a symbol whose prices are multiples of `tick` and whose quantities are multiples of `step`."""
    prices = {"minPrice": tick, "maxPrice": _times(tick, TICKS_MAX), "tickSize": tick}
    lots = {"stepSize": step, "minQty": step}
    return [
        {"filterType": "PRICE_FILTER", **prices},
        {"filterType": "LOT_SIZE", "maxQty": _times(step, STEPS_MAX), **lots},
        {"filterType": "MARKET_LOT_SIZE", "maxQty": _times(step, MARKET_STEPS_MAX), **lots},
        {"filterType": "MAX_NUM_ORDERS", "limit": 200},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": 10},
        {"filterType": "MIN_NOTIONAL", "notional": "5"},
        {
            "filterType": "PERCENT_PRICE",
            "multiplierUp": "1.0500",
            "multiplierDown": "0.9500",
            "multiplierDecimal": "4",
        },
    ]


def _times(step: str, count: int) -> str:
    """So many steps, as a decimal without zeros at its end."""
    return plain((Decimal(step) * count).normalize())

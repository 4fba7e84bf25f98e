"""Binance's limits on who calls USDⓈ-M futures, and what its REST calls weigh, each with the document it is from.

Documents are pages of Binance's "USDⓈ-M Futures" documentation (developers.binance.com, derivatives/
usds-margined-futures) by their titles. Pure.

| what | value | document |
|---|---|---|
| REST weight of an address and minute | 2,400 | "Exchange Information", `rateLimits` of its answer |
| ban of an address that goes on after 429 | 2 minutes to 3 days | "General Info", "IP Limits" |
| `GET /fapi/v1/time` | 1 | "Check Server Time" (not read; public clients count 1) |
| `GET /fapi/v1/exchangeInfo` | 1 | "Exchange Information" |
| `GET /fapi/v1/ticker/price` | 1, of all symbols 2 | "Symbol Price Ticker" (not read) |
| `GET /fapi/v1/ticker/24hr` | 1, of all symbols 40 | "24hr Ticker Price Change Statistics" (not read) |
| `GET /fapi/v1/aggTrades`, up to 1,000 rows | 20 | "Compressed/Aggregate Trades List" |
| `GET /fapi/v1/klines`, up to 1,500 rows | 1, 2, 5 or 10 by `limit` | "Kline/Candlestick Data" |
| `GET /fapi/v1/premiumIndex` | 1, of all symbols 10 | "Mark Price" (not read; public clients count so) |
| `GET /fapi/v1/fundingRate`, `fundingInfo` | 500 in 5 minutes, here 1 | "Get Funding Rate History" (not read) |
| `GET /fapi/v1/openInterest` | 1 | "Open Interest" (not read) |
| `GET /fapi/v1/depth` | 2, 5, 10 or 20 by `limit` | "Order Book" (not read) |
| `GET /fapi/v1/ticker/bookTicker` | 2, of all symbols 5 | "Symbol Order Book Ticker" (not read) |
| client messages on a WebSocket | 10 a second | "Websocket Market Streams" |
| streams of a WebSocket | 1,024 | "Websocket Market Streams" |
| life of a WebSocket | 24 hours | "Websocket Market Streams" |
| the server's pings | every 3 minutes, answered within 10 | "Websocket Market Streams" |
"""

from __future__ import annotations

from typing import Final

WEIGHT_PER_MINUTE: Final = 2_400
"""REST weight that an address may use in a calendar minute. The answer of exchangeInfo names the limit in force."""

BAN_S: Final = 120
BAN_S_MAX: Final = 3 * 86_400
"""The shortest and the longest ban (HTTP 418) of an address that goes on calling after 429, in s."""

TIME_WEIGHT: Final = 1
EXCHANGE_INFO_WEIGHT: Final = 1
TICKER_PRICE_WEIGHT: Final = 1
ALL_TICKER_PRICES_WEIGHT: Final = 2
DAY_TICKER_WEIGHT: Final = 1
ALL_DAY_TICKERS_WEIGHT: Final = 40

PREMIUM_INDEX_WEIGHT: Final = 1
ALL_PREMIUM_INDEXES_WEIGHT: Final = 10
FUNDING_WEIGHT: Final = 1
OPEN_INTEREST_WEIGHT: Final = 1
BOOK_TICKER_WEIGHT: Final = 2
ALL_BOOK_TICKERS_WEIGHT: Final = 5
DEPTH_WEIGHTS: Final = ((50, 2), (100, 5), (500, 10))
"""(levels, weight): what a call weighs whose `limit` is at most so many levels; 20 above them."""

AGG_TRADES_WEIGHT: Final = 20
"""Of a call, however many of its rows are asked for."""
AGG_TRADES_ROWS_MAX: Final = 1_000

KLINES_ROWS_MAX: Final = 1_500
KLINES_WEIGHTS: Final = ((100, 1), (500, 2), (1_001, 5))
"""(rows, weight): what a call weighs whose `limit` is below so many rows; 10 from the last of them on."""

MESSAGES_PER_S: Final = 10
"""Client messages on one WebSocket. Pings and pongs count too (Binance's Spot documentation, "WebSocket Streams")."""
STREAMS_PER_CONNECTION: Final = 1_024
CONNECTION_S: Final = 86_400
"""A connection is closed by the exchange at this age."""
PING_S: Final = 180
"""Between two pings of the exchange."""


def depth_weight(limit: int) -> int:
    """The weight of a depth call for `limit` levels."""
    return next((weight for levels, weight in DEPTH_WEIGHTS if limit <= levels), 20)


def klines_weight(limit: int) -> int:
    """The weight of a klines call for `limit` rows (1 … KLINES_ROWS_MAX)."""
    return next((weight for rows, weight in KLINES_WEIGHTS if limit < rows), 10)

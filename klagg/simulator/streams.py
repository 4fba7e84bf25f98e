"""Names of streams, and which of the exchange's WebSocket routes carries which."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from klagg.simulator.market import KLINE_INTERVALS

TICKERS = "!ticker@arr"
MINI_TICKERS = "!miniTicker@arr"
CONTRACT_INFO = "!contractInfo"


class WebSocketRoute(Enum):
    """The exchange's WebSocket routes by their first path segment."""

    MARKET = "market"
    PUBLIC = "public"
    RETIRED = ""
    """`/ws` and `/stream` without a segment: still acknowledged, silent ever since."""


class StreamKind(Enum):
    """What a stream tells."""

    AGG_TRADE = "aggTrade"
    TRADE = "trade"
    KLINE = "kline"
    TICKERS = TICKERS
    MINI_TICKERS = MINI_TICKERS
    CONTRACT_INFO = CONTRACT_INFO


WATCHING = frozenset({StreamKind.CONTRACT_INFO, StreamKind.TICKERS, StreamKind.MINI_TICKERS})
"""The streams about all symbols: who listens to these alone reads no symbol's trades."""


class ExchangeStream(NamedTuple):
    """A stream that this exchange knows how to fill; `symbol` in capitals and `interval` are "" where meaningless."""

    kind: StreamKind
    symbol: str = ""
    interval: str = ""


_CARRIED = {
    WebSocketRoute.MARKET: {
        StreamKind.AGG_TRADE,
        StreamKind.KLINE,
        StreamKind.TICKERS,
        StreamKind.MINI_TICKERS,
        StreamKind.CONTRACT_INFO,
    },
    WebSocketRoute.PUBLIC: {StreamKind.TRADE},
    WebSocketRoute.RETIRED: set[StreamKind](),
}


def parse_stream(name: str) -> ExchangeStream | None:
    """The stream called `name` (case matters, symbols are lower case), or None for one that nothing is known of."""
    if name == TICKERS:
        return ExchangeStream(StreamKind.TICKERS)
    if name == MINI_TICKERS:
        return ExchangeStream(StreamKind.MINI_TICKERS)
    if name == CONTRACT_INFO:
        return ExchangeStream(StreamKind.CONTRACT_INFO)
    symbol, at, channel = name.partition("@")
    if not at or not symbol or symbol != symbol.lower():
        return None
    if channel == "aggTrade":
        return ExchangeStream(StreamKind.AGG_TRADE, symbol.upper())
    if channel == "trade":
        return ExchangeStream(StreamKind.TRADE, symbol.upper())
    prefix, _, interval = channel.partition("_")
    if prefix == "kline" and interval in KLINE_INTERVALS:
        return ExchangeStream(StreamKind.KLINE, symbol.upper(), interval)
    return None


def carried(route: WebSocketRoute, name: str) -> ExchangeStream | None:
    """The stream called `name` if `route` carries it. Everything else is acknowledged all the same, and silent."""
    stream = parse_stream(name)
    return stream if stream is not None and stream.kind in _CARRIED[route] else None


def agg_trade_stream(symbol: str) -> str:
    """Name of a symbol's aggregate trade stream."""
    return f"{symbol.lower()}@aggTrade"


def trade_stream(symbol: str) -> str:
    """Name of a symbol's fill stream."""
    return f"{symbol.lower()}@trade"

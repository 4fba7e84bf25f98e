"""The streams that clients subscribe to: their names, and the event for a change. Pure."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.live import Change
from klagg.binance.serving.payloads import continuous_kline_event, kline_event
from klagg.intervals import INTERVALS

_PERPETUAL = "_perpetual"


class KlineStreamKind(Enum):
    """The kinds of streams (Binance USDⓈ-M docs, 'Websocket Market Streams')."""

    KLINE = "kline"
    CONTINUOUS = "continuousKline"


class KlineStream(NamedTuple):
    """A stream of klines; `symbol` in capitals."""

    kind: KlineStreamKind
    symbol: str
    interval: str


class TickerKind(Enum):
    """The kinds of streams of 24 hour tickers (gateway.ticker_streams)."""

    TICKER = "ticker"
    MINI_TICKER = "miniTicker"


def parse_ticker_stream(name: str) -> tuple[TickerKind, str | None] | None:
    """Kind and symbol (in capitals; None: all) of a stream of tickers, `btcusdt@ticker` or `!ticker@arr`; None for any
    other name."""
    symbol, _, channel = name.partition("@")
    is_array = channel == "arr" and symbol.startswith("!")
    kind = next((each for each in TickerKind if each.value == (symbol[1:] if is_array else channel)), None)
    if kind is None or not symbol or symbol != (symbol if is_array else symbol.lower()):
        return None
    return kind, None if is_array else symbol.upper()


AGG_TRADE: Final = "aggTrade"


def parse_agg_trade_stream(name: str) -> str | None:
    """The symbol (in capitals) of a stream of aggTrades, `btcusdt@aggTrade`; None for any other name."""
    symbol, _, channel = name.partition("@")
    return symbol.upper() if channel == AGG_TRADE and symbol and symbol == symbol.lower() else None


def parse_stream(name: str) -> KlineStream | None:
    """The stream called `name` (`btcusdt@kline_1m`, `btcusdt_perpetual@continuousKline_1m`; lower case as on Binance),
    or None for one that klagg does not have: like Binance, klagg acknowledges its subscription and sends nothing."""
    symbol, at, channel = name.partition("@")
    kind, _, interval = channel.partition("_")
    if not at or not symbol or symbol != symbol.lower() or interval not in INTERVALS:
        return None
    if kind == KlineStreamKind.KLINE.value:
        return KlineStream(KlineStreamKind.KLINE, symbol.upper(), interval)
    if kind == KlineStreamKind.CONTINUOUS.value and symbol.endswith(_PERPETUAL) and symbol != _PERPETUAL:
        return KlineStream(KlineStreamKind.CONTINUOUS, symbol.removesuffix(_PERPETUAL).upper(), interval)
    return None


@lru_cache(maxsize=65_536)
def names_of(symbol: str, interval: str) -> tuple[str, str]:
    """The names of a series' streams: kline, continuousKline."""
    lower = symbol.lower()
    return f"{lower}@kline_{interval}", f"{lower}{_PERPETUAL}@continuousKline_{interval}"


def worth_sending(change: Change) -> bool:
    """Whether a change is sent to subscribers. A confirmation repeats the values of the final: a second closing event
    of the same bar would make clients act twice."""
    before, bar = change.before, change.bar
    return not (bar.closed and before is not None and before.closed and before[:12] == bar[:12])


def event_of(kind: KlineStreamKind, change: Change) -> str:
    """The event of a change. Only an amendment has a `revision`, so that all other events are exactly as on Binance."""
    bar, interval = change.bar, INTERVALS[change.interval]
    revision = bar.revision if bar.closed and bar.revision > 1 else 0
    write = kline_event if kind is KlineStreamKind.KLINE else continuous_kline_event
    return write(change.symbol, change.interval, bar.wire(interval), bar.at_ms, closed=bar.closed, revision=revision)

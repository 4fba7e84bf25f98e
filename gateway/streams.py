"""The streams that clients subscribe to: their names, and what they say of a change. Pure."""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from gateway.live import Change
from klagg.binance.serving.payloads import continuous_kline_event, kline_event
from klagg.intervals import INTERVALS

_PERPETUAL = "_perpetual"


class Kind(Enum):
    """What a stream tells."""

    KLINE = "kline"
    CONTINUOUS = "continuousKline"


class Stream(NamedTuple):
    """A stream of klines; `symbol` in capitals."""

    kind: Kind
    symbol: str
    interval: str


def parse_stream(name: str) -> Stream | None:
    """The stream called `name` (`btcusdt@kline_1m`, `btcusdt_perpetual@continuousKline_1m`; lower case as on Binance),
    or None for one that klagg does not have: Binance acknowledges those too, and says nothing on them."""
    symbol, at, channel = name.partition("@")
    kind, _, interval = channel.partition("_")
    if not at or not symbol or symbol != symbol.lower() or interval not in INTERVALS:
        return None
    if kind == Kind.KLINE.value:
        return Stream(Kind.KLINE, symbol.upper(), interval)
    if kind == Kind.CONTINUOUS.value and symbol.endswith(_PERPETUAL) and symbol != _PERPETUAL:
        return Stream(Kind.CONTINUOUS, symbol.removesuffix(_PERPETUAL).upper(), interval)
    return None


@lru_cache(maxsize=65_536)
def names_of(symbol: str, interval: str) -> tuple[str, str]:
    """The names of a series' streams: kline, continuousKline."""
    lower = symbol.lower()
    return f"{lower}@kline_{interval}", f"{lower}{_PERPETUAL}@continuousKline_{interval}"


def worth_telling(change: Change) -> bool:
    """Whether subscribers hear of a change. A confirmation has the values of the final that they had already: a second
    closing of the same bar would make clients act twice."""
    before, bar = change.before, change.bar
    return not (bar.closed and before is not None and before.closed and before[:12] == bar[:12])


def event_of(kind: Kind, change: Change) -> str:
    """The event of a change. Only an amendment has a `revision`, so that all else looks just as on Binance."""
    bar, interval = change.bar, INTERVALS[change.interval]
    revision = bar.revision if bar.closed and bar.revision > 1 else 0
    write = kline_event if kind is Kind.KLINE else continuous_kline_event
    return write(change.symbol, change.interval, bar.wire(interval), bar.at_ms, closed=bar.closed, revision=revision)

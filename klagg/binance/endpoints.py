"""WebSocket endpoints of Binance's USDⓈ-M futures: pure names and URLs.

An endpoint decides how its messages are wrapped. It is chosen when the connection is made and handed on to the parser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import quote, urlsplit

import ujson

from klagg.binance import limits
from klagg.errors import ConfigError

URL_BYTES_MAX: Final = 4096
"""Servers refuse long request lines (8,190 bytes is common): streams beyond this are subscribed to by message."""

PARAMS_MAX: Final = 100
"""Streams in one message."""

MESSAGES_PER_S: Final = limits.MESSAGES_PER_S - 2
"""What klagg sends of its own accord; room is left for two pings or pongs."""

_ROUTES: Final = {"aggTrade": "market", "trade": "public"}

MARKET: Final = "market"
"""The route of everything but books and single fills."""

CONTRACT_INFO: Final = "!contractInfo"
"""Listings, delistings and changes of contracts, as they happen; silent for days."""

TICKERS: Final = "!ticker@arr"
"""Once a second, the tickers that changed, of all symbols of the exchange."""


class Endpoint(Enum):
    """How messages come: COMBINED wraps each event as `{"stream": …, "data": event}`, RAW sends the bare event."""

    COMBINED = "combined"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class StreamUrl:
    """Where connections go that carry streams of one kind: base URL, endpoint and route. Checked when it is made."""

    base_url: str
    endpoint: Endpoint
    path: str

    @classmethod
    def of(cls, base_url: str, endpoint: Endpoint, source: str = "") -> StreamUrl:
        """The URL of the trades of `source` (aggTrade or trade); without a source, of the streams about all symbols.

        ConfigError if `base_url` is no WebSocket URL.
        """
        return cls(checked_base(base_url), endpoint, _ROUTES[source] if source else MARKET)

    def target(self, streams: Sequence[str]) -> Target:
        """Where to connect for `streams`, at least one (ValueError otherwise).

        A combined endpoint takes as many streams as fit in the URL. A raw one takes a single stream in its path, or all
        of them by SUBSCRIBE. Names may be CJK: they are percent-encoded in URLs and plain in messages.
        """
        if not streams:
            raise ValueError("a connection needs at least one stream")
        base = f"{self.base_url}/{self.path}"
        if self.endpoint is Endpoint.RAW:
            if len(streams) == 1:
                return Target(f"{base}/ws/{_encoded(streams[0])}", ())
            return Target(f"{base}/ws", tuple(streams))
        url, taken = f"{base}/stream?streams={_encoded(streams[0])}", 1
        for stream in streams[1:]:
            longer = f"{url}/{_encoded(stream)}"
            if len(longer) > URL_BYTES_MAX:
                break
            url, taken = longer, taken + 1
        return Target(url, tuple(streams[taken:]))


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect for some streams, and those of them that `url` does not name: a message subscribes to them."""

    url: str
    to_subscribe: tuple[str, ...]


def stream_name(symbol: str, source: str) -> str:
    """The stream of a symbol's trades: `btcusdt@aggTrade`. `source` is aggTrade or trade."""
    return f"{symbol.lower()}@{source}"


def request(method: str, streams: Sequence[str], number: int) -> str:
    """A client message: SUBSCRIBE to these streams or UNSUBSCRIBE from them, at most PARAMS_MAX; `number` is its id."""
    if not 0 < len(streams) <= PARAMS_MAX:
        raise ValueError(f"{len(streams)} streams in one message: it takes 1 to {PARAMS_MAX}")
    message = {"method": method, "params": list(streams), "id": number}
    return ujson.dumps(message, ensure_ascii=False, escape_forward_slashes=False)


def checked_base(base_url: str) -> str:
    """`base_url` without a final slash; ConfigError unless it is `ws://host…` or `wss://host…`."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise ConfigError(f"exchange.websocket_url is {base_url!r}: it must be like wss://host or ws://host:port")
    return base_url.rstrip("/")


def _encoded(stream: str) -> str:
    return quote(stream, safe="@!")

"""The state of the whole market: the live states of all shards, and the symbols in the table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.health import Health
from gateway.live import LiveBar, LiveState
from klagg.binance.serving.payloads import unit
from klagg.intervals import Interval
from klagg.wire.keys import shard_of

FAR_MS: Final = 4_133_404_800_000
"""The `deliveryDate` of perpetual contracts, 2100-12-25 (Binance USDⓈ-M docs, 'Exchange Information')."""


@dataclass(frozen=True, slots=True)
class Contract:
    """A symbol for exchangeInfo, from its listing; without a listing in the table from its bars, whose prices and
    volumes have the scales of the listing."""

    symbol: str
    base: str
    quote: str
    price_precision: int
    quantity_precision: int
    onboard_ms: int = 0
    delivery_ms: int = FAR_MS
    contract_type: str = "PERPETUAL"
    status: str = "TRADING"

    @property
    def tick_size(self) -> str:
        """The smallest step of a price, as a decimal text."""
        return unit(self.price_precision)

    @property
    def step_size(self) -> str:
        """The smallest step of a quantity, as a decimal text."""
        return unit(self.quantity_precision)


@dataclass(frozen=True, slots=True)
class StoredListing:
    """A symbol's latest listing in the table; `generation` is its onboard time in exchange ms (0: not known), a scale
    is None if it is not known."""

    generation: int
    price_scale: int | None
    qty_scale: int | None
    status: str


@dataclass(slots=True)
class Shard:
    """The live state of one shard, the id of the newest `live` entry in it, and its health."""

    state: LiveState
    health: Health
    position: str = ""


@dataclass(slots=True)
class MarketState:
    """The symbols of all shards. `intervals` are those that the aggregators make, shortest first.

    `stored` are the names in the table; among them are symbols that are not traded any more. `listed` are the listings
    that the table has.
    """

    shards: Sequence[Shard]
    intervals: Sequence[Interval]
    quote_assets: Sequence[str]
    stored: set[str] = field(default_factory=set)
    listed: dict[str, StoredListing] = field(default_factory=dict)

    def bars(self, symbol: str, interval: str) -> list[LiveBar]:
        """The bars of a series in live state, by open time."""
        return self._state_of(symbol).bars(symbol, interval)

    def newest(self, symbol: str, interval: str) -> LiveBar | None:
        """The newest bar of a series in live state."""
        return self._state_of(symbol).newest(symbol, interval)

    def last(self, symbol: str) -> LiveBar | None:
        """The bar whose close is the symbol's last price: that of the shortest interval, which every tick updates."""
        state = self._state_of(symbol)
        return next((bar for each in self.intervals if (bar := state.newest(symbol, each.name))), None)

    def _state_of(self, symbol: str) -> LiveState:
        return self.shards[shard_of(symbol, len(self.shards))].state

    def live_symbols(self) -> list[str]:
        """The symbols that live state has, sorted."""
        return sorted(set[str]().union(*(shard.state.symbols() for shard in self.shards)))

    def __contains__(self, symbol: object) -> bool:
        """Whether klagg knows the symbol, live or in the table."""
        return isinstance(symbol, str) and (symbol in self.stored or self._state_of(symbol).has(symbol))

    def time_ms(self, now_ms: float) -> int:
        """Exchange time in ms: that of the newest tick, plus the time since then; `now_ms` is monotonic. 0: unknown."""
        newest = max(self.shards, key=lambda shard: shard.state.time_ms)
        if not newest.state.time_ms:
            return 0
        return newest.state.time_ms + max(0, int(now_ms - newest.health.moved_ms))

    def stale_for_ms(self, now_ms: float) -> int:
        """How long (ms) the stalest shard has not changed, 0 if all are live; `now_ms` is monotonic."""
        return max(shard.health.stale_for_ms(now_ms) for shard in self.shards)

    def contracts(self, symbols: Iterable[str] | None = None) -> list[Contract]:
        """The live symbols for exchangeInfo."""
        found = []
        for symbol in self.live_symbols() if symbols is None else symbols:
            bar = self.last(symbol)
            if bar is not None:
                found.append(self._contract(symbol, bar))
        return found

    def _contract(self, symbol: str, bar: LiveBar) -> Contract:
        listed = self.listed.get(symbol, StoredListing(0, None, None, "TRADING"))
        price = _scale(bar.close) if listed.price_scale is None else listed.price_scale
        quantity = _scale(bar.volume) if listed.qty_scale is None else listed.qty_scale
        base, quote = self._assets_of(symbol)
        return Contract(symbol, base, quote, price, quantity, listed.generation, status=listed.status)

    def _assets_of(self, symbol: str) -> tuple[str, str]:
        """Base and quote asset, as the name has them; a name that ends with no configured quote asset has the first."""
        for quote in sorted(self.quote_assets, key=len, reverse=True):
            if symbol.endswith(quote) and symbol != quote:
                return symbol.removesuffix(quote), quote
        return symbol, next(iter(self.quote_assets), "")


def _scale(decimal: str) -> int:
    """How many digits stand behind the point."""
    return len(decimal.partition(".")[2])

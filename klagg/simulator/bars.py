"""A kline as a plain fold with decimal numbers.

The simulator has its own arithmetic on purpose: its klines are what the aggregator's integers are compared with, so the
two share no code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Context, Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from klagg.simulator.market import MarketTrade

# Wide enough that no sum of a month's quote volumes is ever rounded.
_EXACT = Context(prec=60)
_ZERO = Decimal(0)


@dataclass(slots=True)
class Bar:
    """A kline being folded. Times are exchange ms, prices the exchange's strings, sums exact; ids are fill ids, −1 when
    empty."""

    open_ms: int
    close_ms: int
    open: str
    high: str
    low: str
    close: str
    volume: Decimal = _ZERO
    quote_volume: Decimal = _ZERO
    trades: int = 0
    taker_buy_volume: Decimal = _ZERO
    taker_buy_quote_volume: Decimal = _ZERO
    first_id: int = -1
    last_id: int = -1

    def add(self, trade: MarketTrade) -> None:
        """Adds a trade that counts, later in id order than all before it."""
        price, qty = Decimal(trade.price), Decimal(trade.qty)
        if self.trades == 0:
            self.open = self.high = self.low = trade.price
            self.first_id = trade.first
        if price > Decimal(self.high):
            self.high = trade.price
        if price < Decimal(self.low):
            self.low = trade.price
        self.close = trade.price
        quote = _EXACT.multiply(price, qty)
        self.volume = _EXACT.add(self.volume, qty)
        self.quote_volume = _EXACT.add(self.quote_volume, quote)
        if not trade.maker:
            self.taker_buy_volume = _EXACT.add(self.taker_buy_volume, qty)
            self.taker_buy_quote_volume = _EXACT.add(self.taker_buy_quote_volume, quote)
        self.trades += trade.last - trade.first + 1
        self.last_id = trade.last

    def append(self, later: Bar) -> None:
        """Adds a later bar with trades, as a longer interval does with its minutes."""
        if self.trades == 0:
            self.open, self.high, self.low, self.first_id = later.open, later.high, later.low, later.first_id
        if Decimal(later.high) > Decimal(self.high):
            self.high = later.high
        if Decimal(later.low) < Decimal(self.low):
            self.low = later.low
        self.close = later.close
        self.volume = _EXACT.add(self.volume, later.volume)
        self.quote_volume = _EXACT.add(self.quote_volume, later.quote_volume)
        self.taker_buy_volume = _EXACT.add(self.taker_buy_volume, later.taker_buy_volume)
        self.taker_buy_quote_volume = _EXACT.add(self.taker_buy_quote_volume, later.taker_buy_quote_volume)
        self.trades += later.trades
        self.last_id = later.last_id

    def copy(self) -> Bar:
        """A bar of its own with the same values."""
        return replace(self)


def empty_bar(open_ms: int, close_ms: int, last_price: str) -> Bar:
    """A bar without trades: the exchange carries the last price through it."""
    return Bar(open_ms, close_ms, last_price, last_price, last_price, last_price)


def fold(open_ms: int, close_ms: int, trades: Iterable[MarketTrade], last_price: str | None = None) -> Bar | None:
    """The bar of the counting trades in `trades` (by id, all within the bar); flat at `last_price` without any.

    None when there is neither a trade nor a last price: the symbol has not begun to trade.
    """
    bar = None
    for trade in trades:
        if trade.counts:
            if bar is None:
                bar = empty_bar(open_ms, close_ms, trade.price)
            bar.add(trade)
    if bar is None and last_price is not None:
        bar = empty_bar(open_ms, close_ms, last_price)
    return bar

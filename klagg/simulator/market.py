"""What the simulator plays: trades, listings, and the protocol of every market source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from klagg.intervals import INTERVALS, MINUTE_MS
from klagg.row_rules import is_counted_kind
from klagg.simulator.bars import Bar

DAY_MS = 86_400_000

KLINE_INTERVALS = {name: each for name, each in INTERVALS.items() if each.shortest_ms >= MINUTE_MS}
"""The intervals of the exchange's own klines; it has none below a minute."""


class MarketTrade(NamedTuple):
    """One aggregate trade (`execution` is "") or one fill (`first == last == id`), ready for the wire.

    `normal_qty` is the aggregate's `nq`, its quantity without RPI fills. `event_ms` is `E`: no stream or
    request shows the trade before it.
    """

    symbol: str
    id: int
    price: str
    qty: str
    normal_qty: str
    first: int
    last: int
    time_ms: int
    event_ms: int
    maker: bool
    execution: str

    @property
    def counts(self) -> bool:
        """Whether klines count it."""
        return is_counted_kind(self.execution)


@dataclass(frozen=True, slots=True)
class ContractListing:
    """A symbol as exchangeInfo and `!contractInfo` describe it. Precisions are digits after the point, times exchange
    ms."""

    symbol: str
    base: str
    quote: str
    price_precision: int
    quantity_precision: int
    tick_size: str
    step_size: str
    onboard_ms: int
    contract_type: str = "PERPETUAL"
    status: str = "TRADING"
    delivery_ms: int = 4_133_404_800_000


class MarketSource(Protocol):
    """A market. Every method is a function of its arguments alone; `now_ms` is exchange time: nothing later is
    returned.

    All times are exchange time in ms. Methods may be called from two threads at once.
    """

    def describe(self) -> Mapping[str, object]:
        """What is played, for `/klagg/state` and the log."""

    def span_ms(self) -> tuple[int, int] | None:
        """First and last event time of a market with an end; None for an endless one."""

    def listings(self, now_ms: int) -> Sequence[ContractListing]:
        """The symbols listed at `now_ms`."""

    def prepare(self, now_ms: int) -> None:
        """Called often with the playing position, so that work for the near future can be spread over time."""

    def aggregates(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """Aggregate trades with `after_ms < event_ms <= until_ms` of all symbols, in the order of `event_ms`."""

    def fills(self, after_ms: int, until_ms: int) -> Sequence[MarketTrade]:
        """Fills of the symbols that have them, likewise."""

    def has_fills(self, symbol: str) -> bool:
        """Whether `fills` gives this symbol's trades; otherwise only its aggregates are known."""

    def aggregates_from(self, symbol: str, from_id: int, limit: int, now_ms: int) -> Sequence[MarketTrade]:
        """Up to `limit` aggregate trades with `id >= from_id`, by id."""

    def aggregates_between(
        self, symbol: str, start_ms: int, end_ms: int, limit: int, now_ms: int, *, newest: bool
    ) -> Sequence[MarketTrade]:
        """Up to `limit` aggregate trades with `start_ms <= time_ms <= end_ms`, by id: the oldest, or the `newest`."""

    def fills_between(self, symbol: str, start_ms: int, end_ms: int, now_ms: int) -> Sequence[MarketTrade]:
        """All fills with `start_ms <= time_ms <= end_ms`, by id."""

    def history_start_ms(self, symbol: str, now_ms: int) -> int:
        """No bar that opens before the bar holding this time is known."""

    def bar(self, symbol: str, open_ms: int, close_ms: int, now_ms: int) -> Bar | None:
        """The bar from `open_ms` to `close_ms` (its last ms) as of `now_ms`; None where it is not wholly known."""

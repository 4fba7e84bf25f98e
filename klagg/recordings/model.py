"""The records that recordings are read into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

TradeIds = Literal["agg", "trade"]
"""The id space of a file's trades: aggregate trades (`a`) or single fills (`t`)."""


@dataclass(frozen=True, slots=True)
class Trade:
    """One recorded aggregate trade or fill; prices and quantities stay the exchange's own strings.

    `first`/`last` are fill ids (both equal `id` for a fill). `maker` is the exchange's `m`: the buyer was the maker.
    `counts` is False for what klines leave out (insurance fund, ADL, NA, quantity 0, aggregates that were struck out).
    `recv_ms` is when the recorder received it, `event_ms` the exchange's `E`, `execution` its `X`; each None where the
    format has none.
    """

    symbol: str
    id: int
    price: str
    qty: str
    first: int
    last: int
    time_ms: int
    maker: bool
    counts: bool = True
    recv_ms: int | None = None
    event_ms: int | None = None
    execution: str | None = None


@dataclass(frozen=True, slots=True)
class OfficialKline:
    """One kline as the exchange published it; decimals are its strings, None marks a column the file lacks.

    `close_time_ms` is the last millisecond of the bar. `volume` and `taker_buy_volume` are in the base asset. `whole`
    is False where the file itself says that the bar may lack trades: in klagg's own, neither complete nor official.
    """

    open_time_ms: int
    close_time_ms: int | None
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str | None = None
    trades: int | None = None
    taker_buy_volume: str | None = None
    taker_buy_quote_volume: str | None = None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row of a recording that cannot be what its file holds, and is passed over.

    `number` is that of its line or item, from 1; `kline` is what a row of klines says, though it cannot be one (None:
    not even values).
    """

    path: str
    number: int
    reason: str
    kline: OfficialKline | None = None

    @property
    def open_ms(self) -> int | None:
        """When a kline opens (UTC ms); None if it is not known."""
        return None if self.kline is None else self.kline.open_time_ms

    def __str__(self) -> str:
        return f"{self.path}:{self.number}: {self.reason}"


Refuse = Callable[[RefusedRow], None]
"""What to do with a row that is refused. Without it the first such row is an error, and reading ends."""

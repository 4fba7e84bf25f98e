"""The kline record, its fields as text, and the one definition of "equal to the exchange's own". Pure.

Values are exact decimal texts at the symbol's scales, as the exchange prints them; ids are −1 where there are none.
`klagg.wire.klines` reads the record from a stream entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal

from klagg.errors import ContractError


@dataclass(frozen=True, slots=True)
class Kline:
    """One version of one kline (an entry of `klines:{n}`): field names are the names on the wire and in the table.

    Times are UTC ms; `close_time` is the last millisecond of the bar. `complete` is 1 once klagg's own trade ids prove
    that every trade of the bar is in it. `official` is 1 once nothing is missing, but on the exchange's word: its own
    klines stand for the bar or for a part of it. Never both. Versions of a bar order by (epoch, revision, complete,
    official). `source` is own, exchange or mixed: own where `complete` is 1, one of the others where `official` is 1.
    `edge` lists aggTrades with more than one fill within 100 ms of the close.
    """

    symbol: str
    interval: str
    open_time: int
    close_time: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    trades: int
    taker_buy_volume: str
    taker_buy_quote_volume: str
    first_agg_id: int
    last_agg_id: int
    first_trade_id: int
    last_trade_id: int
    complete: int
    official: int
    epoch: int
    revision: int
    source: str
    edge: str

    @property
    def key(self) -> tuple[str, str, int]:
        """Which bar it is: symbol, interval, open time (UTC ms)."""
        return self.symbol, self.interval, self.open_time

    @property
    def version(self) -> tuple[int, int, int, int]:
        """Which version of the bar it is, (epoch, revision, complete, official): the higher one wins."""
        return self.epoch, self.revision, self.complete, self.official

    @property
    def whole(self) -> bool:
        """Whether nothing is missing: own ids prove it (`complete`), or the exchange's klines do (`official`)."""
        return self.complete == 1 or self.official == 1

    @property
    def standing(self) -> str:
        """How far it can be trusted, in a word: in progress, waiting (it may lack trades), complete or official."""
        if not self.revision:
            return "in progress"
        return "complete" if self.complete == 1 else "official" if self.official == 1 else "waiting"

    def to_fields(self) -> dict[str, str]:
        """The record as stream fields, one per value."""
        return {name: str(getattr(self, name)) for name in FIELDS}

    @classmethod
    def from_fields(cls, raw: Mapping[str, str]) -> Kline:
        """The record from stream fields; ContractError names what is missing or not a number."""
        try:
            values = {name: int(raw[name]) if name in INTEGER_FIELDS else raw[name] for name in FIELDS}
        except KeyError as missing:
            raise ContractError(f"a kline entry lacks the field {missing.args[0]}") from None
        except ValueError as bad:
            raise ContractError(f"a kline entry has a field that is not an integer: {bad}") from None
        return cls(**values)  # type: ignore[arg-type]


FIELDS: tuple[str, ...] = tuple(field.name for field in fields(Kline))
INTEGER_FIELDS: frozenset[str] = frozenset(field.name for field in fields(Kline) if field.type == "int")
DECIMAL_FIELDS: tuple[str, ...] = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "taker_buy_volume",
    "taker_buy_quote_volume",
)
NINE_VALUES: tuple[str, ...] = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
)
"""The values that the exchange publishes, and that klagg must equal to the last digit."""

SUMS = frozenset({"volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"})

Values = Mapping[str, Decimal | int | None]
"""The nine values by name; None is a value that a side does not have."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two klines differ."""

    name: str
    ours: Decimal | int
    theirs: Decimal | int


def differences(ours: Values, theirs: Values, *, float_terms: Mapping[str, int] | None = None) -> list[Difference]:
    """The fields that both sides have and in which they differ.

    `float_terms` names the sums that were made in float64 by whoever wrote one side, with the number of their terms:
    these are equal if they differ by no more than such a sum can be wrong (`float_sum_error`).
    """
    found = []
    for name in NINE_VALUES:
        mine, other = ours.get(name), theirs.get(name)
        if mine is None or other is None or mine == other:
            continue
        terms = (float_terms or {}).get(name, 0)
        if terms and abs(Decimal(mine) - Decimal(other)) <= float_sum_error(Decimal(other), terms):
            continue
        found.append(Difference(name, mine, other))
    return found


FLOAT_DIGITS_MIN, FLOAT_DIGITS_MAX = 15, 17
"""Significant digits of a printed float64 (IEEE 754-2019, 5.12.2); zeros at their end may be left out."""
_HALF_STEP = Decimal(2) ** -53
"""The most by which one rounding to float64 is wrong, relative to the value."""


def float_sum_error(total: Decimal, terms: int) -> Decimal:
    """The most by which a sum of `terms` values ≥ 0 can be wrong that was made in float64, one after the other: each
    term and each addition is rounded once. Half of the last digit that the total was printed with comes on top; a total
    of fewer digits may have lost zeros at the end of FLOAT_DIGITS_MIN."""
    if not total:
        return total
    error = (terms + 1) * _HALF_STEP * abs(total)
    printed = min(max(len(total.normalize().as_tuple().digits), FLOAT_DIGITS_MIN), FLOAT_DIGITS_MAX)
    return error + Decimal(5).scaleb(total.adjusted() - printed)

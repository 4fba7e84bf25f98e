"""Compares klines field by field, decimals as numbers: the one definition of "equal to the exchange's own"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from klagg.kline import NINE_VALUES

FLOAT_SUM_DIGITS = 12
"""Digits to which sums are compared when one side was summed in floats by whoever kept the file."""

SUMS = frozenset({"volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume"})

Values = Mapping[str, Decimal | int | None]
"""The nine values by name; None is a value that a side does not have."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field in which two klines differ."""

    name: str
    ours: Decimal | int
    theirs: Decimal | int


def differences(ours: Values, theirs: Values, *, float_sums: bool = False) -> list[Difference]:
    """The fields that both sides have and in which they differ; `float_sums` compares sums to 12 digits."""
    found = []
    for name in NINE_VALUES:
        mine, other = ours.get(name), theirs.get(name)
        if mine is None or other is None or mine == other:
            continue
        if float_sums and name in SUMS and _alike(Decimal(mine), Decimal(other)):
            continue
        found.append(Difference(name, mine, other))
    return found


def _alike(ours: Decimal, theirs: Decimal) -> bool:
    return abs(ours - theirs) <= abs(theirs) * Decimal(10) ** -FLOAT_SUM_DIGITS

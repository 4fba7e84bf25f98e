"""REST klines as the exchange answers them: rows that are checked strictly. Pure.

A malformed row spoils its whole answer, because nothing proves that its other rows are right.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from klagg.arrays import INT64_MAX
from klagg.decimals import checked
from klagg.errors import BadDecimal, KlaggError
from klagg.intervals import MINUTE, Interval
from klagg.kline import Values
from klagg.wire.entries import OFFICIAL_COLUMNS

KLINES_PATH: Final = "/fapi/v1/klines"
KLINE_VALUES: Final = 12


class Malformed(KlaggError):
    """The exchange's answer is not as documented."""


KlineRow = tuple[int, str, str, str, str, str, str, int, str, str]
"""A kline in the order of contract.OFFICIAL_COLUMNS."""


def klines_of(answer: Any, bars: Interval, from_ms: int, rows_max: int) -> list[KlineRow]:
    """The klines of an answer, open times ascending from `from_ms` on; Malformed if anything is not as documented."""
    if not isinstance(answer, list) or len(answer) > rows_max:
        raise Malformed(f"klines: not a list of at most {rows_max} rows: {str(answer)[:100]}")
    found: list[KlineRow] = []
    least = from_ms
    for row in answer:
        kline = _kline_of(row, bars)
        if kline is None or kline[0] < least:
            raise Malformed(f"klines {bars.name}: a row is malformed or out of order: {str(row)[:200]}")
        least = kline[0] + 1
        found.append(kline)
    return found


def _kline_of(row: Any, bars: Interval) -> KlineRow | None:
    if not isinstance(row, list) or len(row) != KLINE_VALUES:
        return None
    open_ms, opened, high, low, close, volume, close_ms, quote, count, taker, taker_quote, _ = row
    if not all(type(each) is int and 0 <= each <= INT64_MAX for each in (open_ms, close_ms, count)):
        return None
    if bars.open_time(open_ms) != open_ms or bars.close_time(open_ms) != close_ms:
        return None
    if not all(map(is_decimal, (opened, high, low, close, volume, quote, taker, taker_quote))):
        return None
    prices = Decimal(opened), Decimal(close)
    if not Decimal(low) <= min(prices) <= max(prices) <= Decimal(high):
        return None
    return open_ms, opened, high, low, close, volume, quote, count, taker, taker_quote


def is_decimal(value: Any) -> bool:
    """Whether a value is the text of a number as the exchange writes them."""
    if not isinstance(value, str):
        return False
    try:
        checked(value)
    except BadDecimal:
        return False
    return True


def values_of_row(row: KlineRow) -> Values:
    """The nine values of a row as numbers."""
    named = dict(zip(OFFICIAL_COLUMNS[1:], row[1:], strict=True))
    return {name: value if isinstance(value, int) else Decimal(str(value)) for name, value in named.items()}


def told_by_rest(bars: Interval) -> bool:
    """Whether the exchange has klines of this interval."""
    return bars.shortest_ms >= MINUTE.length_ms

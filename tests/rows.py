"""Rows that may or may not be a kline, at price scale 2 and quantity scale 3, each with what is right.

It is the same for every way in; tests of those ways import the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from klagg.kline import NINE_VALUES

OPEN_TIME: Final = 1_795_900_080_000

Row = dict[str, Any]
"""The nine values by name: decimals as texts, `trades` as an integer."""


@dataclass(frozen=True, slots=True)
class RowCase:
    """A row, and whether it can be a kline."""

    name: str
    row: Row
    taken: bool


def row(*values: str | int) -> Row:
    """The nine values in the order of NINE_VALUES."""
    return dict(zip(NINE_VALUES, values, strict=True))


ROW_CASES: Final = (
    RowCase(
        "ordinary", row("100.10", "100.30", "100.00", "100.20", "9.000", "901.50000", 9, "1.000", "100.00000"), True
    ),
    RowCase("empty", row("100.20", "100.20", "100.20", "100.20", "0.000", "0.00000", 0, "0.000", "0.00000"), True),
    RowCase("price_zero", row("0.00", "0.00", "0.00", "0.00", "9.000", "900.00000", 9, "1.000", "100.00000"), False),
    RowCase(
        "low_zero", row("100.10", "100.30", "0.00", "100.20", "9.000", "900.00000", 9, "1.000", "100.00000"), False
    ),
    RowCase("no_volume", row("100.10", "100.30", "100.00", "100.20", "0.000", "0.00000", 9, "0.000", "0.00000"), False),
    RowCase(
        "no_trades", row("100.10", "100.30", "100.00", "100.20", "3.000", "300.30000", 0, "0.000", "0.00000"), False
    ),
    RowCase("taker", row("100.10", "100.30", "100.00", "100.20", "9.000", "901.50000", 9, "9.500", "951.00000"), False),
    RowCase("quote_low", row("100.10", "100.30", "100.00", "100.20", "9.000", "5.00000", 9, "1.000", "1.00000"), False),
    RowCase(
        "finer_quote",
        row("100.10", "100.30", "100.00", "100.20", "9.000", "900.1000000000001", 9, "1.000", "100.00000"),
        True,
    ),
    # The same kinds once more.
    RowCase(
        "high_low", row("100.10", "100.15", "100.00", "100.20", "9.000", "901.50000", 9, "1.000", "100.00000"), False
    ),
    RowCase("empty_not_flat", row("100.10", "100.20", "100.10", "100.20", "0.000", "0.00000", 0, "0.000", "0"), False),
    RowCase(
        "empty_quote", row("100.20", "100.20", "100.20", "100.20", "0.000", "0.00001", 0, "0.000", "0.00000"), False
    ),
    RowCase(
        "empty_taker", row("100.20", "100.20", "100.20", "100.20", "0.000", "0.00000", 0, "0.001", "0.10020"), False
    ),
    RowCase(
        "quote_high", row("100.10", "100.30", "100.00", "100.20", "9.000", "902.80000", 9, "1.000", "100.0"), False
    ),
    RowCase(
        "quote_unit", row("100.00", "100.00", "100.00", "100.00", "9.000", "900.00001", 9, "1.000", "100.00"), True
    ),
    RowCase(
        "quote_units", row("100.00", "100.00", "100.00", "100.00", "9.000", "900.00002", 9, "1.000", "100.00"), False
    ),
    RowCase("taker_quote", row("100.1", "100.3", "100", "100.2", "9.000", "901.50000", 9, "8.995", "901.50001"), False),
    RowCase("taker_price", row("100.1", "100.3", "100", "100.2", "9.000", "901.50000", 9, "1.000", "101.00000"), False),
    RowCase("rest_quote", row("100.1", "100.3", "100", "100.2", "9.000", "901.50000", 9, "9.000", "901.00000"), False),
    RowCase("rest_price", row("100.1", "100.3", "100", "100.2", "9.000", "901.50000", 9, "8.000", "801.70000"), False),
    RowCase("rest", row("100.1", "100.3", "100", "100.2", "9.000", "901.50000", 9, "8.000", "801.30000"), True),
    RowCase("one_trade", row("100.1", "100.1", "100.1", "100.1", "9.000", "900.90000", 1, "9.000", "900.90000"), True),
    RowCase("one_sold", row("100.1", "100.1", "100.1", "100.1", "9.000", "900.90000", 1, "0.000", "0.00000"), True),
    RowCase("one_moves", row("100.1", "100.3", "100", "100.2", "9.000", "901.50000", 1, "9.000", "901.50000"), False),
    RowCase("one_halved", row("100.1", "100.1", "100.1", "100.1", "9.000", "900.90000", 1, "4.5", "450.45000"), False),
)

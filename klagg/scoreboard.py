"""The scoreboard as it is shown: completeness and truth by day, and by symbol, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from klagg.drivers.postgres import Database, Row
from klagg.drivers.statements import load_statements

_BOARD: Final = load_statements(Path(__file__).with_suffix(".sql"))["board"]


class Board(NamedTuple):
    """Rows with the sums of the view `scoreboard`: of `days` (`day` in ms, `symbols`: how many) and of `symbols`
    (`symbol`, `days`: how many). Times are ms."""

    days: list[Row]
    symbols: list[Row]


def board(
    database: Database, first_ms: int, end_ms: int, *, symbols: Sequence[str], intervals: Sequence[str], worst: int
) -> Board:
    """The days that begin in [first, end), the newest first, and over these days the `worst` symbols. Empty `symbols`
    are all. Errors of `Database`."""
    values: dict[str, Any] = {"first_ms": first_ms, "end_ms": end_ms}
    rows = database.query(_BOARD, values | {"symbols": list(symbols), "intervals": list(intervals)})
    days = [row for row in rows if row["day"] is not None]
    return Board(
        [_without(row, "symbol", "days") for row in days],
        [_without(row, "day", "symbols") for row in rows[len(days) :][:worst]],
    )


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}

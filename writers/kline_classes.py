"""Which table holds the klines of an interval: pure. `klines` is the view of them all, which everybody reads from.

The one place that writers ask. Why there are several: docs/adr/0009-chunks.md.
"""

from __future__ import annotations

from typing import Final

from klagg.errors import UnknownInterval

CLASSES: Final[dict[str, tuple[str, ...]]] = {
    "klines_seconds": ("1s", "5s", "15s"),
    "klines_minutes": ("1m", "3m", "5m", "15m", "30m"),
    "klines_hours": ("1h", "2h", "4h", "6h", "8h", "12h"),
    "klines_days": ("1d", "3d", "1w", "1M"),
}
"""The intervals of each table, shortest first. A writer that needs several locks them in this order."""

PLACEHOLDER: Final = "klines_of_class"
"""The name that statements of writers use for the table."""

_TABLE_OF: Final = {interval: table for table, intervals in CLASSES.items() for interval in intervals}


def table_of(interval: str) -> str:
    """The table that holds the klines of an interval; UnknownInterval if there is none."""
    try:
        return _TABLE_OF[interval]
    except KeyError:
        raise UnknownInterval(interval, tuple(_TABLE_OF)) from None


def for_table(sql: str, table: str) -> str:
    """The statement for one of the tables; ValueError if it is none of them, or the statement is not for a table."""
    if table not in CLASSES or PLACEHOLDER not in sql:
        raise ValueError(f"a statement that does not name {PLACEHOLDER} for the table {table!r}")
    return sql.replace(PLACEHOLDER, table)

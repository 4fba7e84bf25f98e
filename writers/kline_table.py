"""The klines table as writers see it: one upsert that only higher versions win."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Final

from klagg.database import DATA_EXCEPTION, Database, load_queries
from klagg.errors import DatabaseRefused
from klagg.kline import FIELDS, INTEGER_FIELDS, Kline
from writers.kline_classes import CLASSES, for_table, table_of

_QUERIES = load_queries(Path(__file__).with_name("klines.sql"))
_TYPES: Final = tuple("int8" if name in INTEGER_FIELDS else "text" for name in FIELDS)
_UPSERTS: Final = {table: for_table(_QUERIES["upsert"], table) for table in CLASSES}
_row_of = attrgetter(*FIELDS)

# PostgreSQL's appendix A: classes of errors that a value causes, not the state of the database.
_VALUE_CLASSES: Final = (
    DATA_EXCEPTION[:2],  # a number out of range, a text that is no number
    "23",  # an integrity constraint
    "54",  # a program limit: a key too long for its index
)


def upsert(database: Database, klines: Iterable[Kline]) -> int:
    """Write klines, each key at most once, in one transaction; how many rows were new or became a higher version.

    DatabaseRefused and DatabaseUnavailable as of `Database`; then none is written, or, if the connection broke in the
    commit, all or none are. Repeating it is harmless.
    """
    intervals: set[str] = set()
    with database.transaction():
        database.execute(_QUERIES["create_incoming"])
        database.copy_rows(_QUERIES["copy_incoming"], _TYPES, _rows_of(klines, intervals))
        tables = {table_of(interval) for interval in intervals}
        return sum(
            database.execute(_UPSERTS[table], {"intervals": list(CLASSES[table])})
            for table in CLASSES
            if table in tables
        )


def _rows_of(klines: Iterable[Kline], intervals: set[str]) -> Iterator[tuple[object, ...]]:
    """The rows of klines; `intervals` becomes the ones that occur."""
    for kline in klines:
        intervals.add(kline.interval)
        yield _row_of(kline)


def value_is_to_blame(refused: DatabaseRefused) -> bool:
    """Whether one of the rows caused the refusal, so that others may fare better."""
    return refused.sqlstate[:2] in _VALUE_CLASSES

"""The klines table as writers see it: one upsert that only higher versions win, and the history of what they beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final, NamedTuple

from klagg.drivers.postgres import DATA_EXCEPTION, Database
from klagg.drivers.statements import load_statements
from klagg.errors import DatabaseRefused
from klagg.kline import FIELDS, INTEGER_FIELDS, Kline
from writers.kline_classes import CLASSES, for_table, table_of

_QUERIES = load_statements(Path(__file__).with_name("klines.sql"))
_TYPES: Final = ("int8", *("int8" if name in INTEGER_FIELDS else "text" for name in FIELDS))
_TABLES: Final = tuple(CLASSES)
_STORES: Final = {table: for_table(_QUERIES["store"], table) for table in CLASSES}
_LACKING: Final = {table: for_table(_QUERIES["lacking"], table) for table in CLASSES}
_row_of = attrgetter(*FIELDS)

# PostgreSQL's appendix A: classes of errors that a value causes, not the state of the database.
_VALUE_CLASSES: Final = (
    DATA_EXCEPTION[:2],  # a number out of range, a text that is no number
    "23",  # an integrity constraint
    "54",  # a program limit: a key too long for its index
)


def upsert(database: Database, klines: Iterable[Kline]) -> int:
    """Write klines in one transaction; how many rows were new or became a higher version, each version counted.

    Several versions of a kline must come from the lowest up (`writers.batch.resolve` sorts them so). A version that
    replaces a final goes into `amendments` in the same transaction, with what it replaced.

    DatabaseRefused and DatabaseUnavailable as of `Database`; then none is written, or, if the connection broke in the
    commit, all or none are. Repeating it is harmless.
    """
    parts: dict[tuple[str, int], _Part] = {}
    with database.transaction():
        database.execute(_QUERIES["create_incoming"])
        database.copy_rows(_QUERIES["copy_incoming"], _TYPES, _rows_of(klines, parts))
        return sum(_store(database, part) for _, part in sorted(parts.items(), key=_order_of))


class KlineVersion(NamedTuple):
    """A version of a bar, as in a Kline. Where `epoch` is 0 it is not known, and `complete` says whether nothing is
    missing, on whose word ever."""

    symbol: str
    interval: str
    open_time: int
    epoch: int
    revision: int
    complete: int
    official: int

    @property
    def bar(self) -> tuple[str, str, int]:
        """Which bar it is of."""
        return self.symbol, self.interval, self.open_time


def lacking(database: Database, versions: Sequence[KlineVersion]) -> list[KlineVersion]:
    """Those of these versions that the table has neither as they are nor in a higher one. Errors of `Database`."""
    by_table: dict[str, list[KlineVersion]] = {}
    for each in versions:
        by_table.setdefault(table_of(each.interval), []).append(each)
    found = []
    for table, wanted in by_table.items():
        opens = [each.open_time for each in wanted]
        parameters = {
            "symbols": [each.symbol for each in wanted],
            "intervals": [each.interval for each in wanted],
            "opens_ms": opens,
            "epochs": [each.epoch for each in wanted],
            "revisions": [each.revision for each in wanted],
            "completes": [each.complete == 1 for each in wanted],
            "officials": [each.official == 1 for each in wanted],
            "first_ms": min(opens),
            "last_ms": max(opens),
        }
        found += [wanted[row["place"] - 1] for row in database.query(_LACKING[table], parameters)]
    return found


@dataclass(slots=True)
class _Part:
    """What is stored by one statement: the n-th versions of klines of one table. `number` is that of the part, `rows`
    how many there are, with open times from `first_ms` to `last_ms` (UTC ms)."""

    number: int
    table: str
    first_ms: int
    last_ms: int
    rows: int = 0


def _rows_of(klines: Iterable[Kline], parts: dict[tuple[str, int], _Part]) -> Iterator[tuple[object, ...]]:
    """Rows of the incoming table, each with the number of its part; `parts` by table and n tells what each holds."""
    versions: Counter[tuple[str, str, int]] = Counter()
    for kline in klines:
        key, open_time = kline.key, kline.open_time
        versions[key] = version = versions[key] + 1
        place = table_of(kline.interval), version
        part = parts.get(place)
        if part is None:
            part = parts[place] = _Part(len(parts), place[0], open_time, open_time)
        part.rows += 1
        part.first_ms = min(part.first_ms, open_time)
        part.last_ms = max(part.last_ms, open_time)
        yield part.number, *_row_of(kline)


def _order_of(place: tuple[tuple[str, int], _Part]) -> tuple[int, int]:
    """Table after table, as every writer locks them, and in each the lower versions first."""
    (table, version), _ = place
    return _TABLES.index(table), version


def _store(database: Database, part: _Part) -> int:
    """Store a part; how many of its rows had to be. What `store` does in which pass stands in klines.sql."""
    written = 0
    for over_finals in (False, True):
        if written < part.rows:
            parameters = {
                "part": part.number,
                "over_finals": over_finals,
                "first_ms": part.first_ms,
                "last_ms": part.last_ms,
            }
            (found,) = database.query(_STORES[part.table], parameters)
            written += found["written"]
    return written


def value_is_to_blame(refused: DatabaseRefused) -> bool:
    """Whether one of the rows caused the refusal, so that others may fare better."""
    return refused.sqlstate[:2] in _VALUE_CLASSES

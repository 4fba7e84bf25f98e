"""The klines table as writers see it: one upsert that only higher versions win, and the history of what they beat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Final

from klagg.database import DATA_EXCEPTION, Database, load_queries
from klagg.errors import DatabaseRefused
from klagg.kline import FIELDS, INTEGER_FIELDS, Kline

_QUERIES = load_queries(Path(__file__).with_name("klines.sql"))
_TYPES: Final = ("int8", *("int8" if name in INTEGER_FIELDS else "text" for name in FIELDS))
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
    layers: list[_Layer] = []
    with database.transaction():
        database.execute(_QUERIES["create_incoming"])
        database.copy_rows(_QUERIES["copy_incoming"], _TYPES, _layered(klines, layers))
        return sum(_store(database, number, layer) for number, layer in enumerate(layers, 1))


@dataclass(slots=True)
class _Layer:
    """The n-th version of each kline of a batch, where there are so many: how many rows, from which open time to which
    (UTC ms)."""

    first_ms: int
    last_ms: int
    rows: int = 0


def _layered(klines: Iterable[Kline], layers: list[_Layer]) -> Iterator[tuple[object, ...]]:
    """Rows of the incoming table, each with the number of its layer, from 1 on; `layers` tells what each holds."""
    versions: Counter[tuple[str, str, int]] = Counter()
    for kline in klines:
        key, open_time = kline.key, kline.open_time
        versions[key] = number = versions[key] + 1
        if number > len(layers):
            layers.append(_Layer(open_time, open_time))
        layer = layers[number - 1]
        layer.rows += 1
        layer.first_ms = min(layer.first_ms, open_time)
        layer.last_ms = max(layer.last_ms, open_time)
        yield number, *_row_of(kline)


def _store(database: Database, number: int, layer: _Layer) -> int:
    """Store a layer; how many of its rows had to be. What `store` does in which pass stands in klines.sql."""
    written = 0
    for over_finals in (False, True):
        if written < layer.rows:
            parameters = {
                "layer": number, "over_finals": over_finals, "first_ms": layer.first_ms, "last_ms": layer.last_ms
            }  # fmt: skip
            (found,) = database.query(_QUERIES["store"], parameters)
            written += found["written"]
    return written


def value_is_to_blame(refused: DatabaseRefused) -> bool:
    """Whether one of the rows caused the refusal, so that others may fare better."""
    return refused.sqlstate[:2] in _VALUE_CLASSES

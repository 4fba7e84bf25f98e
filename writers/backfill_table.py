"""What `klagg backfill` does to the database: a batch of official rows and the note of it, in one transaction.

A crash before the commit leaves neither; after it, both. So a run that goes on loads nothing twice and misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from klagg.drivers.postgres import Database, Row
from klagg.drivers.statements import load_statements
from klagg.errors import DatabaseRefused
from klagg.kline import DECIMAL_FIELDS, NINE_VALUES, differences
from klagg.wire.findings import FindingKind
from writers.backfill_parts import HistoryRows, Loaded
from writers.kline_classes import CLASSES, for_table, table_of

DIFFERENT: Final = "DIFFERENT"
"""A whole bar of klagg's own and the official row differ in a value."""

UNIQUE_VIOLATION: Final = "23505"

_QUERIES = load_statements(Path(__file__).with_name("backfill.sql"))
_OF_CLASS: Final = {
    table: {name: for_table(_QUERIES[name], table) for name in ("occupied", "heal", "insert", "upsert", "own")}
    for table in CLASSES
}
_TYPES: Final = ("text",) * 11


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A bar of klagg's own, which stays, and the official row that says otherwise.

    `kind` is EXCHANGE_GAP (the official row is flat, with no trades, where klagg saw trades) or DIFFERENT. `own` and
    `official` hold the nine values, decimals as texts; `fields` names those that differ. `version` is (epoch, revision,
    complete, official) of the own bar, `source` and `edge` are its own.
    """

    kind: str
    symbol: str
    interval: str
    open_time: int
    fields: tuple[str, ...]
    own: Mapping[str, str | int]
    official: Mapping[str, str | int]
    version: tuple[int, int, int, int]
    source: str
    edge: str


@dataclass(slots=True)
class Stored:
    """What became of official rows: `written` are new or correct an earlier official row, `healed` of these replaced
    an incomplete bar of klagg's own; `known` were there already; beside `own` ones klagg has a bar that stays, of which
    `incomplete` are still young enough for the aggregator to complete them."""

    rows: int = 0
    written: int = 0
    healed: int = 0
    known: int = 0
    own: int = 0
    incomplete: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)


Report = Callable[[Sequence[Disagreement]], None]


class HistoryTable:
    """The klines and backfilled tables for official history.

    Incomplete bars of klagg's own that closed before `settled_ms` are replaced, because no aggregator amends them any
    more, and those that never were final; each is noted in the table amendments.
    Every method raises DatabaseUnavailable and DatabaseRefused as `Database`; then nothing of its call is stored.
    """

    def __init__(self, database: Database, settled_ms: int) -> None:
        self._database = database
        self._settled_ms = settled_ms

    def loaded(self) -> dict[tuple[str, str, str], Loaded]:
        """What earlier runs have loaded, by the keys of parts."""
        return {
            (row["symbol"], row["interval"], row["part"]): Loaded(row["mark"], row["from_ms"], row["until_ms"])
            for row in self._database.query(_QUERIES["loaded"])
        }

    def store(self, batch: HistoryRows, report: Report) -> Stored:
        """Store a batch and how far its part is loaded with it; at the part's end its days are counted (symbol_days).

        What it found goes to `report` before the commit: a crash in between has it reported again, so none is missed.
        """
        try:
            return self._store(batch, report, empty=None)
        except DatabaseRefused as refused:
            if refused.sqlstate != UNIQUE_VIOLATION:
                raise
        return self._store(batch, report, empty=False)

    def _store(self, batch: HistoryRows, report: Report, *, empty: bool | None) -> Stored:
        """`empty`: whether the table has no bars where these go; None: look."""
        part, rows = batch.part, batch.rows
        stored = Stored(rows=len(rows))
        with self._database.transaction():
            if rows:
                about = {
                    "symbol": part.symbol,
                    "interval": part.interval.name,
                    "settled_ms": self._settled_ms,
                    "first_ms": int(rows[0][0]),
                    "last_ms": int(rows[-1][0]),
                }
                self._database.execute(_QUERIES["create_official"])
                self._database.copy_rows(_QUERIES["copy_official"], _TYPES, rows)
                queries = _OF_CLASS[table_of(part.interval.name)]
                if empty is None:
                    empty = not self._database.query(queries["occupied"], about)[0]["there"]
                if empty:
                    stored.written = self._database.execute(queries["insert"], about)
                else:
                    self._upsert(stored, batch, about)
            report(stored.disagreements)
            self._database.execute(
                _QUERIES["note_loaded"],
                {
                    "symbol": part.symbol,
                    "interval": part.interval.name,
                    "part": part.name,
                    "mark": part.mark,
                    "from_ms": part.from_ms,
                    "until_ms": batch.until_ms,
                },
            )
            if batch.until_ms >= part.to_ms > part.from_ms:
                span = {"from_ms": part.from_ms, "to_ms": part.to_ms}
                self._database.query(
                    _QUERIES["count_days"], {"symbol": part.symbol, "interval": part.interval.name, **span}
                )
        return stored

    def _upsert(self, stored: Stored, batch: HistoryRows, about: Mapping[str, object]) -> None:
        queries = _OF_CLASS[table_of(batch.part.interval.name)]
        stored.healed = self._database.execute(queries["heal"], about)
        stored.written = self._database.execute(queries["upsert"], about)
        if stored.written < stored.rows:
            self._judge(stored, batch, self._database.query(queries["own"], about))

    def _judge(self, stored: Stored, batch: HistoryRows, own: Sequence[Row]) -> None:
        stored.own = len(own)
        stored.known = stored.rows - stored.written - stored.own
        for row in own:
            stored.incomplete += not (row["complete"] or row["official"])
            found = judged(row, batch.part.symbol, batch.part.interval.name)
            if found:
                stored.disagreements.append(found)


def judged(row: Mapping[str, Any], symbol: str, interval: str) -> Disagreement | None:
    """What a row of the query `own` says; None if the two agree, or the own bar may lack trades."""
    own: dict[str, str | int] = {name: row[f"own_{name}"] for name in NINE_VALUES}
    official: dict[str, str | int] = {name: row[f"official_{name}"] for name in NINE_VALUES}
    gap = official["trades"] == 0 and int(own["trades"]) > 0
    if not gap and not (row["complete"] or row["official"]):
        return None
    unlike = tuple(each.name for each in differences(_numbers(own), _numbers(official)))
    if not unlike:
        return None
    return Disagreement(
        FindingKind.EXCHANGE_GAP if gap else DIFFERENT,
        symbol,
        interval,
        row["open_time"],
        unlike,
        own,
        official,
        (row["epoch"], row["revision"], int(row["complete"]), int(row["official"])),
        row["source"],
        row["edge"],
    )


def _numbers(values: Mapping[str, str | int]) -> dict[str, Decimal | int]:
    return {name: Decimal(value) if name in DECIMAL_FIELDS else int(value) for name, value in values.items()}

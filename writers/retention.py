"""What is older than the configuration keeps goes, a little at a time.

Of a hypertable whole chunks are dropped, which costs next to nothing; a chunk goes when its last row is old enough. A
plain table is emptied in small batches along its key. A bar in progress is never dropped, however long ago it opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.intervals import DAY_MS, HOUR_MS, INTERVALS
from klagg.settings import Settings
from writers.kline_classes import CLASSES, for_table

BATCH_ROWS: Final = 2000
"""Rows that one statement deletes."""

AMENDMENTS: Final = "amendments"
PLAIN_TABLES: Final = ("findings", "gaps")
"""Tables that are no hypertables anywhere; they are small."""

_QUERIES = load_statements(Path(__file__).with_name("retention.sql"))

Step = tuple[str, int]
"""What was done: `chunks` or `rows` that went, and how many."""


def cut_ms(now_ms: int, days: int, intervals: Iterable[str]) -> int:
    """The open time (ms) before which nothing is kept at the exchange time `now_ms`; of these intervals no bar that is
    still in progress, or ended within `days`, opened before it."""
    end_ms = now_ms - days * DAY_MS
    return min((INTERVALS[each].open_time(end_ms) for each in intervals), default=end_ms)


def is_short(interval: str) -> bool:
    """Whether `retention_short_days` is about it."""
    return INTERVALS[interval].shortest_ms < HOUR_MS


class Retention:
    """Drops what is too old. Errors of a step are those of `Database`; the next round begins anew."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._days = settings.persistence.retention_days
        self._short_days = settings.persistence.retention_short_days or self._days

    def steps(self, now_ms: int) -> Iterator[Step]:
        """One round at the exchange time `now_ms`, in steps of one short transaction each."""
        if not self._days and not self._short_days:
            return
        hypertables = self._hypertables()
        for table, intervals in CLASSES.items():
            # All intervals of a table are on the same side of an hour.
            days = self._short_days if is_short(intervals[0]) else self._days
            if days and table in hypertables:
                yield self._drop(for_table(_QUERIES["drop_klines"], table), cut_ms(now_ms, days, intervals))
            elif days:
                yield from self._delete_klines(table, now_ms, days)
        if self._days:
            old_ms = now_ms - self._days * DAY_MS
            if AMENDMENTS in hypertables:
                yield self._drop(_QUERIES["drop_amendments"], old_ms)
            for table in PLAIN_TABLES if AMENDMENTS in hypertables else (AMENDMENTS, *PLAIN_TABLES):
                yield from self._batches(_QUERIES[f"delete_{table}"], {"cut_ms": old_ms})

    def _hypertables(self) -> set[str]:
        if not self._database.query(_QUERIES["has_hypertables"])[0]["there"]:
            return set()
        return {row["name"] for row in self._database.query(_QUERIES["hypertables"])}

    def _drop(self, statement: str, cut: int) -> Step:
        with self._database.transaction():
            self._database.execute(_QUERIES["hurry"])
            return "chunks", len(self._database.query(statement, {"cut_ms": cut}))

    def _delete_klines(self, table: str, now_ms: int, days: int) -> Iterator[Step]:
        """Symbol by symbol, interval by interval."""
        following, delete = (for_table(_QUERIES[name], table) for name in ("next_klines", "delete_klines"))
        place = {"symbol": "", "interval": ""}
        while found := self._database.query(following, place):
            place = {"symbol": found[0]["symbol"], "interval": found[0]["interval"]}
            yield from self._batches(delete, {**place, "cut_ms": cut_ms(now_ms, days, [place["interval"]])})

    def _batches(self, statement: str, parameters: Mapping[str, object]) -> Iterator[Step]:
        deleted = BATCH_ROWS
        while deleted >= BATCH_ROWS:
            deleted = self._database.execute(statement, {**parameters, "rows": BATCH_ROWS})
            yield "rows", deleted

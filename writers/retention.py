"""What is older than the configuration keeps goes, a little at a time.

Of a hypertable whole chunks are dropped, which costs next to nothing; a chunk goes when its last row is old enough. A
plain table is emptied in small batches along its key, and so are intervals that are to go sooner than the rest. A bar
in progress is never dropped, however long ago it opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from klagg.database import Database, load_queries
from klagg.intervals import DAY_MS, HOUR_MS, INTERVALS
from klagg.settings import Settings

BATCH_ROWS: Final = 2000
"""Rows that one statement deletes."""

KLINES: Final = ("klines", "amendments")
"""The tables with a row for an open time, in the order of emptying."""

TOLD: Final = ("findings", "gaps")

_QUERIES = load_queries(Path(__file__).with_name("retention.sql"))

Step = tuple[str, int]
"""What was done: `chunks` or `rows` that went, and how many."""


def cut_ms(now_ms: int, days: int, intervals: list[str] | tuple[str, ...]) -> int:
    """The open time (ms) before which nothing is kept at the exchange time `now_ms`; of these intervals no bar that is
    still in progress, or ended within `days`, opened before it."""
    end_ms = now_ms - days * DAY_MS
    return min((INTERVALS[each].open_time(end_ms) for each in intervals), default=end_ms)


def is_short(interval: str) -> bool:
    """Whether `retention_short_days` is about it; an interval that this version does not know is not."""
    return interval in INTERVALS and INTERVALS[interval].shortest_ms < HOUR_MS


class Retention:
    """Drops what is too old. Errors of a step are those of `Database`; the next round begins anew."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._intervals = settings.aggregator.intervals
        self._days = settings.persistence.retention_days
        self._short_days = settings.persistence.retention_short_days or self._days

    def steps(self, now_ms: int) -> Iterator[Step]:
        """One round at the exchange time `now_ms`, in steps of one short transaction each."""
        if not self._days and not self._short_days:
            return
        hypertables = self._hypertables()
        for table in KLINES:
            if self._days and table in hypertables:
                yield "chunks", self._drop_chunks(table, now_ms)
            if table not in hypertables or self._short_days != self._days:
                yield from self._delete_old(table, now_ms, table in hypertables)
        if self._days:
            for table in TOLD:
                yield from self._batches(f"delete_{table}", {"cut_ms": now_ms - self._days * DAY_MS})

    def _hypertables(self) -> set[str]:
        if not self._database.query(_QUERIES["has_hypertables"])[0]["there"]:
            return set()
        return {row["name"] for row in self._database.query(_QUERIES["hypertables"])}

    def _drop_chunks(self, table: str, now_ms: int) -> int:
        cut = {"cut_ms": cut_ms(now_ms, self._days, self._intervals)}
        with self._database.transaction():
            self._database.execute(_QUERIES["hurry"])
            return len(self._database.query(_QUERIES[f"drop_{table}"], cut))

    def _delete_old(self, table: str, now_ms: int, by_chunks: bool) -> Iterator[Step]:
        """Row by row, symbol by symbol; of a table whose chunks are dropped only what is to go sooner."""
        place = {"symbol": "", "interval": ""}
        while found := self._database.query(_QUERIES[f"next_{table}"], place):
            place = {"symbol": found[0]["symbol"], "interval": found[0]["interval"]}
            days = self._short_days if is_short(place["interval"]) else self._days
            if days and not (by_chunks and days == self._days):
                known = [place["interval"]] if place["interval"] in INTERVALS else []
                cut = {"cut_ms": cut_ms(now_ms, days, known)}
                yield from self._batches(f"delete_{table}", {**place, **cut})
            else:
                yield "rows", 0

    def _batches(self, statement: str, parameters: dict[str, object]) -> Iterator[Step]:
        deleted = BATCH_ROWS
        while deleted >= BATCH_ROWS:
            deleted = self._database.execute(_QUERIES[statement], {**parameters, "rows": BATCH_ROWS})
            yield "rows", deleted

"""Counts the bars of each symbol and day into the table `symbol_days`, which panels and people read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.intervals import DAY_MS

AGAIN_MS: Final = DAY_MS
"""So much of the past is counted again each time: amendments and backlogs reach back hours."""
FIRST_MS: Final = 3 * DAY_MS
"""The same at the first time after a start; a longer outage leaves days to `refresh_symbol_days` by hand."""

_QUERIES = load_statements(Path(__file__).with_name("days.sql"))


class Days:
    """`count` is worth calling every few minutes; it takes about a second for 600 symbols."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._back_ms = FIRST_MS

    def count(self, now_ms: int) -> int:
        """Count the days up to the exchange time `now_ms` anew; how many rows changed. Errors of `Database`."""
        with self._database.transaction():
            (row,) = self._database.query(_QUERIES["refresh"], {"since_ms": now_ms - self._back_ms, "until_ms": now_ms})
        self._back_ms = AGAIN_MS
        return int(row["changed"])

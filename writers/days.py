"""Counts the bars of each symbol and day into the table `symbol_days`, which panels and people read."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.intervals import DAY_MS, MINUTE_MS
from klagg.settings import Settings

AGAIN_MS: Final = DAY_MS
"""So much of the past is counted again each time: amendments and backlogs reach back hours."""
FIRST_MS: Final = 3 * DAY_MS
"""The same at the first time after a start; a longer outage leaves days to `refresh_symbol_days` by hand."""

STORED_MS: Final = MINUTE_MS
"""How long after it is owed a bar may be on its way into the table before it counts as missing (exchange ms)."""

_QUERIES = load_statements(Path(__file__).with_name("days.sql"))


class Counted(NamedTuple):
    """How many rows of symbol_days changed, and how many bars are missing in the days that were counted."""

    changed: int
    missing: int


class Days:
    """`count` is worth calling every few minutes; it takes about a second for 600 symbols."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._back_ms = FIRST_MS
        graces = settings.aggregator.grace_ms, settings.aggregator.grace_without_watermark_ms
        self._late_ms = max(graces) + settings.audit.owed_ms + STORED_MS

    def count(self, now_ms: int) -> Counted:
        """Count the days up to the exchange time `now_ms` anew. Errors of `Database`.

        A bar is expected once it is owed (after the longest grace and `audit.owed_ms`) and had time to be stored.
        """
        since_ms = now_ms - self._back_ms
        span = {"since_ms": since_ms, "until_ms": now_ms, "at_ms": now_ms - self._late_ms}
        with self._database.transaction():
            (row,) = self._database.query(_QUERIES["refresh"], span)
            (found,) = self._database.query(_QUERIES["missing"], {"since_ms": since_ms})
        self._back_ms = AGAIN_MS
        return Counted(int(row["changed"]), int(found["missing"]))

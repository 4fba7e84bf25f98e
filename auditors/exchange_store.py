"""The database as the auditor of the exchange uses it: it reads klines, and reads and writes day counts.

Errors are those of klagg.drivers.postgres: DatabaseUnavailable and DatabaseRefused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from auditors.amended import Amendment
from auditors.day_counts import DayCounts, JudgedBar, by_day
from auditors.schedule import AuditedSeries, Look, SeriesKey
from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.intervals import DAY_MS, INTERVALS, MINUTE, Interval
from klagg.kline import Kline

_QUERIES: Final = load_statements(Path(__file__).with_name("exchange.sql"))

KEPT_MS: Final = 70 * DAY_MS
"""Day counts of this time are read at the start; it covers the last two whole months."""

COMMIT_MS: Final = 10_000
"""A transaction may be committed up to so long (ms) after the time that its rows carry."""
AMENDED_ROWS: Final = 20_000
"""Rows of one query of amendments; the next query continues after them."""


def finals_of(database: Database, symbol: str, interval: Interval, from_ms: int, to_ms: int) -> dict[int, Kline]:
    """The newest versions of one series' finals with open times in [from, to) (exchange ms), by open time."""
    place = {"symbol": symbol, "interval": interval.name, "from_ms": from_ms, "to_ms": to_ms}
    return {row["open_time"]: Kline(**row) for row in database.query(_QUERIES["klines"], place)}


class ExchangeStore:
    """One connection; it serves one call at a time."""

    def __init__(self, url: str, application: str) -> None:
        self._database = Database(url, application=application)

    def close(self) -> None:
        """End the connection."""
        self._database.close()

    def klines(self, look: Look) -> dict[int, Kline]:
        """Our finals that a look needs, by open time (exchange ms)."""
        return finals_of(self._database, look.symbol, look.interval, look.ours_from_ms, look.end_ms)

    def minutes_of(self, look: Look, opens: Sequence[int]) -> dict[int, Kline]:
        """Our minutes in these bars of a look, by open time."""
        found: dict[int, Kline] = {}
        for opening in opens:
            found |= finals_of(self._database, look.symbol, MINUTE, opening, look.interval.close_time(opening) + 1)
        return found

    def newest_minute(self, since_ms: int) -> int | None:
        """The open time of the newest final minute of any symbol since a time; None if there is none."""
        newest: int | None = self._database.query(_QUERIES["newest_minute"], {"since_ms": since_ms})[0]["newest_ms"]
        return newest

    def first_bars(self, series: Sequence[AuditedSeries], since_ms: Sequence[int]) -> dict[SeriesKey, int]:
        """The open times of the first finals of series that close at or after the time given for each."""
        rows = self._database.query(
            _QUERIES["first_bars"],
            {
                "symbols": [each.symbol for each in series],
                "intervals": [each.interval.name for each in series],
                "since_ms": list(since_ms),
            },
        )
        return {(row["symbol"], row["interval"]): row["open_ms"] for row in rows}

    def amended(self, intervals: Sequence[Interval], oldest_ms: int, since_ms: int) -> list[Amendment]:
        """Bars that open at or after a time and were amended since another one, by the database's clock."""
        rows = self._database.query(
            _QUERIES["amended"],
            {
                "intervals": [each.name for each in intervals],
                "oldest_ms": oldest_ms,
                "since_ms": max(0, since_ms - COMMIT_MS),
                "rows": AMENDED_ROWS,
            },
        )
        return [
            Amendment(
                row["symbol"],
                row["interval"],
                row["open_ms"],
                (row["epoch"], row["revision"], row["complete"], row["official"]),
                row["stored_ms"],
            )
            for row in rows
        ]

    def day_counts(self, now_ms: int) -> list[tuple[str, Interval, DayCounts]]:
        """Day counts of the last KEPT_MS: symbol, interval, and the counts of one day."""
        found = []
        for row in self._database.query(_QUERIES["audits"], {"since_ms": now_ms - KEPT_MS}):
            interval = INTERVALS.get(row["interval"])
            if interval is not None:
                found.append((row["symbol"], interval, DayCounts.of(interval, row["ranges"], row["different"])))
        return found

    def record(self, look: Look, judged: Iterable[JudgedBar], now_ms: int) -> None:
        """Add verdicts to the counts of their days, in one transaction; earlier verdicts on the same bars are
        replaced."""
        days = by_day(judged)
        if not days:
            return
        with self._database.transaction():
            for day, each in sorted(days.items()):
                place = {"symbol": look.symbol, "interval": look.interval.name, "day_ms": day * DAY_MS}
                known = self._database.query(_QUERIES["audit_of_day"], place)
                saved = known[0] if known else {"ranges": [], "different": []}
                counts = DayCounts.of(look.interval, saved["ranges"], saved["different"])
                counts.add(each)
                row = {
                    **place,
                    **counts.counts,
                    "audited_ms": now_ms,
                    "ranges": json.dumps(counts.saved_ranges),
                    "different": json.dumps(counts.saved_different),
                }
                self._database.execute(_QUERIES["put_audit"], row)

    def open_of(self, ids: Iterable[str]) -> set[str]:
        """Those of these finding ids (`<shard>:<id>`) that are open."""
        return {row["id"] for row in self._database.query(_QUERIES["standing"], {"ids": list(ids)})}

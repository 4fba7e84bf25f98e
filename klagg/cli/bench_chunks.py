"""`klagg bench chunks`: how the klines table is cut into chunks, and how full its pages are when rows tick.

Measured on a fresh embedded PostgreSQL with TimescaleDB and durable commits; docs/adr/0009-chunks.md has its figures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final

from klagg.database import Database, load_queries
from klagg.embedded import PostgresServer

TITLE = "chunks of the klines table and its fillfactor: load, upserts and queries by layout"

LAYOUTS: Final = ("one", "wide", "space", "classes")
"""One hypertable of 7 days, of 28 days, of 7 days × hash of the interval; and one hypertable per class of interval."""

QUERIES: Final = ("last_minutes", "last_hours", "last_days", "latest_of_all", "completeness_of_a_day")
FULLNESSES: Final = (100, 90, 80, 50)
UNTIL: Final = datetime(2026, 11, 1, tzinfo=UTC)
TIMEOUT_MS: Final = 600_000

_QUERIES = load_queries(Path(__file__).with_suffix(".sql"))


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=LAYOUTS, help="which of the layouts (all)")
    parser.add_argument("--symbols", type=int, default=100, help="how many symbols (100)")
    parser.add_argument("--years", type=int, default=5, help="years of daily and hourly bars (5)")
    parser.add_argument("--days", type=int, default=14, help="days of minutes (14)")
    parser.add_argument("--minutes", type=int, default=60, help="minutes that come live, and that tick (60)")
    parser.add_argument("--ticks", type=int, default=6, help="how often a row ticks in its minute (6)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Thousands of rows per second and milliseconds per query, each key named after its layout."""
    found: dict[str, Any] = {"name": "chunks", "symbols": args.symbols, "years": args.years, "days": args.days}
    with tempfile.TemporaryDirectory(prefix="klagg-bench-") as folder:
        Path(folder).chmod(0o755)
        with PostgresServer(folder, source="debian") as server:
            database = Database(server.create_database("bench"), timeout_ms=TIMEOUT_MS)
            try:
                database.execute(_QUERIES["create_shape"])
                database.execute(_QUERIES["create_rows"])
                for layout in args.layouts:
                    found |= {f"{layout}_{name}": value for name, value in _layout(database, layout, args).items()}
                for fullness in FULLNESSES:
                    found |= {
                        f"fill{fullness}_{name}": value for name, value in _fill(database, fullness, args).items()
                    }
            finally:
                database.close()
    return found


def _layout(database: Database, layout: str, args: argparse.Namespace) -> dict[str, Any]:
    database.execute(_QUERIES[f"create_{layout}"])
    database.query(_QUERIES["enter"], {"layout": layout})
    long_ago, weeks_ago = UNTIL - timedelta(days=365 * args.years), UNTIL - timedelta(days=args.days)
    found: dict[str, Any] = {
        "load_days_krows_s": _load(database, "days", args.symbols, long_ago),
        "load_hours_krows_s": _load(database, "hours", args.symbols, long_ago),
        "load_minutes_krows_s": _load(database, "minutes", args.symbols, weeks_ago),
    }
    found["live_krows_s"] = _rate(
        args.symbols * args.minutes,
        lambda: [
            _upsert(database, "minutes", 1, args.symbols, _minute(n), _minute(n + 1)) for n in range(args.minutes)
        ],
    )
    found["chunks"] = database.query(_QUERIES["chunks"], {"layout": layout})[0]["chunks"]
    for name in QUERIES:
        found[f"{name}_ms"] = _query_ms(database, name)
    return found


def _load(database: Database, of_class: str, symbols: int, since: datetime) -> float:
    """Symbol by symbol, each in one statement, as a backfill loads files."""
    return _rate(
        0, lambda: sum(_upsert(database, of_class, each, each, since, UNTIL) for each in range(1, symbols + 1))
    )


def _upsert(database: Database, of_class: str, first: int, last: int, since: datetime, until: datetime) -> int:
    values = {"first": first, "last": last, "since": since, "until": until}
    return database.execute(_QUERIES[f"upsert_{of_class}"], values)


def _minute(number: int) -> datetime:
    return UNTIL + timedelta(minutes=number)


def _rate(rows: int, work: Callable[[], Any]) -> float:
    """Thousands of rows per second; `rows` of 0 are those that `work` gives back."""
    started = time.perf_counter()
    done = work()
    return round((rows or done) / (time.perf_counter() - started) / 1000, 1)


def _query_ms(database: Database, name: str) -> float:
    """The median of five, the way a panel would ask, after one that warms up."""
    parameters: Mapping[str, object] | None = {"until": UNTIL} if "%(" in _QUERIES[name] else None
    spent = []
    for _ in range(6):
        started = time.perf_counter()
        rows = database.query(_QUERIES[name], parameters)
        spent.append((time.perf_counter() - started) * 1000)
        if not rows:
            raise RuntimeError(f"the query {name} found nothing")
    return round(median(spent[1:]), 1)


def _fill(database: Database, fullness: int, args: argparse.Namespace) -> dict[str, Any]:
    """Bars of every symbol that tick minute after minute: a commit a tick."""
    layout = f"fill{fullness}"
    database.execute(_QUERIES["make_ticking"])
    database.query(_QUERIES["create_ticking"], {"layout": layout, "fullness": fullness})
    database.query(_QUERIES["enter"], {"layout": layout})

    def work() -> int:
        return sum(
            database.execute(_QUERIES["tick"], {"symbols": args.symbols, "since": _minute(minute)})
            for minute in range(args.minutes)
            for _ in range(args.ticks)
        )

    rate = _rate(0, work)
    database.query(_QUERIES["flush_statistics"])
    return {"tick_krows_s": rate, **database.query(_QUERIES["ticked"], {"layout": layout})[0]}

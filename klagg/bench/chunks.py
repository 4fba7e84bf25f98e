"""`klagg bench chunks`: how the klines table is cut into chunks, and how full its pages are when rows tick.

Measured on a fresh embedded PostgreSQL with TimescaleDB and durable commits; docs/adr/0009-chunks.md has its figures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.embedded import PostgresServer

TITLE = "chunks of the klines table and its fillfactor: load, upserts and queries by layout"

LAYOUTS: Final = ("one", "wide", "space", "classes")
"""One hypertable of 7 days, of 28 days, of 7 days × hash of the interval; and one hypertable per class of interval."""

QUERIES: Final = ("last_minutes", "last_hours", "last_days", "latest_of_all", "completeness_of_a_day")
FULLNESSES: Final = (100, 90, 80, 50)
UNTIL: Final = datetime(2026, 11, 1, tzinfo=UTC)
TIMEOUT_MS: Final = 600_000

T = TypeVar("T")

_QUERIES = load_statements(Path(__file__).with_suffix(".sql"))


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--layouts", nargs="*", choices=LAYOUTS, default=LAYOUTS, help="which of the layouts (all)")
    parser.add_argument("--symbols", type=int, default=100, help="how many symbols (100)")
    parser.add_argument("--years", type=int, default=5, help="years of daily and hourly bars (5)")
    parser.add_argument("--days", type=int, default=14, help="days of minutes (14)")
    parser.add_argument("--minutes", type=int, default=60, help="minutes that come live, and that tick (60)")
    parser.add_argument("--ticks", type=int, default=6, help="how often a row ticks in its minute (6)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Thousands of rows per second and milliseconds per query, each key named after its layout or fillfactor.

    All layouts take turns statement by statement, so that whatever else the machine does hits them alike.
    """
    found: dict[str, Any] = {"name": "chunks", "symbols": args.symbols, "years": args.years, "days": args.days}
    with tempfile.TemporaryDirectory(prefix="klagg-bench-") as folder:
        Path(folder).chmod(0o755)
        with PostgresServer(folder, source="debian") as server:
            database = Database(server.create_database("bench"), timeout_ms=TIMEOUT_MS)
            try:
                database.execute(_QUERIES["create_shape"])
                database.execute(_QUERIES["create_rows"])
                if args.layouts:
                    found |= _layouts(database, args)
                found |= _fills(database, args)
            finally:
                database.close()
    return found


def _layouts(database: Database, args: argparse.Namespace) -> dict[str, Any]:
    for layout in args.layouts:
        database.execute(_QUERIES[f"create_{layout}"])
    long_ago, weeks_ago = UNTIL - timedelta(days=365 * args.years), UNTIL - timedelta(days=args.days)
    found: dict[str, Any] = {}
    for of_class, since in (("days", long_ago), ("hours", long_ago), ("minutes", weeks_ago)):
        # Symbol by symbol, each in one statement, as a backfill loads files.
        loads = [{"first": n, "last": n, "since": since, "until": UNTIL} for n in range(1, args.symbols + 1)]
        found |= _krows_s(database, args.layouts, f"load_{of_class}", f"upsert_{of_class}", loads)
    live = [
        {"first": 1, "last": args.symbols, "since": _minute(number), "until": _minute(number + 1)}
        for number in range(args.minutes)
    ]
    found |= _krows_s(database, args.layouts, "live", "upsert_minutes", live)
    for layout in args.layouts:
        found[f"{layout}_chunks"] = database.query(_QUERIES["chunks"], {"layout": layout})[0]["chunks"]
    for name in QUERIES:
        found |= _query_ms(database, args.layouts, name)
    return found


def _minute(number: int) -> datetime:
    return UNTIL + timedelta(minutes=number)


def _krows_s(
    database: Database, layouts: Sequence[str], what: str, query: str, calls: Sequence[Mapping[str, object]]
) -> dict[str, float]:
    """Thousands of rows per second of a statement that is called again and again, in every layout by turns."""
    rows: defaultdict[str, int] = defaultdict(int)
    spent: defaultdict[str, float] = defaultdict(float)
    for number, call in enumerate(calls):
        for layout in _turn(layouts, number):
            database.query(_QUERIES["enter"], {"layout": layout})
            started = time.perf_counter()
            rows[layout] += database.execute(_QUERIES[query], call)
            spent[layout] += time.perf_counter() - started
    return {f"{layout}_{what}_krows_s": round(rows[layout] / spent[layout] / 1000, 1) for layout in layouts}


def _turn(names: Sequence[T], number: int) -> Sequence[T]:
    """The names, each time another one first."""
    at = number % len(names)
    return [*names[at:], *names[:at]]


def _query_ms(database: Database, layouts: Sequence[str], name: str) -> dict[str, float]:
    """The median of eleven, as a panel would ask, after one that warms up."""
    parameters: Mapping[str, object] | None = {"until": UNTIL} if "%(" in _QUERIES[name] else None
    spent: dict[str, list[float]] = {layout: [] for layout in layouts}
    for number in range(12):
        for layout in _turn(layouts, number):
            database.query(_QUERIES["enter"], {"layout": layout})
            started = time.perf_counter()
            rows = database.query(_QUERIES[name], parameters)
            spent[layout].append((time.perf_counter() - started) * 1000)
            if not rows:
                raise RuntimeError(f"the query {name} found nothing")
    return {f"{layout}_{name}_ms": round(median(each[1:]), 1) for layout, each in spent.items()}


def _fills(database: Database, args: argparse.Namespace) -> dict[str, Any]:
    """Bars of every symbol that tick minute after minute: a commit a tick."""
    layouts = {f"fill{fullness}": fullness for fullness in FULLNESSES}
    database.execute(_QUERIES["make_ticking"])
    for layout, fullness in layouts.items():
        database.query(_QUERIES["create_ticking"], {"layout": layout, "fullness": fullness})
    calls = [
        {"symbols": args.symbols, "since": _minute(minute)} for minute in range(args.minutes) for _ in range(args.ticks)
    ]
    found: dict[str, Any] = _krows_s(database, list(layouts), "tick", "tick", calls)
    database.query(_QUERIES["flush_statistics"])
    for layout in layouts:
        (ticked,) = database.query(_QUERIES["ticked"], {"layout": layout})
        found |= {f"{layout}_{name}": value for name, value in ticked.items()}
    return found

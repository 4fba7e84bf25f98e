"""`klagg bench grafana`: every panel of the dashboards, asked as Grafana asks, of a market's worth of rows.

A fresh embedded PostgreSQL with TimescaleDB is filled with bars of 1m (and the 1h and 1d bars above them), amendments,
gaps, findings, symbol-days and audits. Each panel and variable is then asked over the range with which its dashboard
opens, and over the whole of the time that was loaded, by the role klagg_reader, warm, the median of five. The load
takes some minutes, and the database about 10 GB of the temporary folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, Final

from klagg.bench import grafana_panels
from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.embedded import PostgresServer
from writers.migrate import migrate

TITLE = "the panels of Grafana's dashboards over 30 days of minutes of 600 symbols"

TARGET_MS: Final = 300
ROUNDS: Final = 5
TIMEOUT_MS: Final = 1_800_000
BY_DAY: Final = ("klines_minutes", "klines_hours", "klines_days", "confirmations", "amendments")
AT_ONCE: Final = ("gaps", "findings", "symbol_days", "audits")

_QUERIES = load_statements(Path(__file__).with_suffix(".sql"))


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--days", type=int, default=30, help="days of minutes (30)")
    parser.add_argument("--symbols", type=int, default=600, help="how many symbols (600)")
    parser.add_argument(
        "--dashboards", type=Path, default=grafana_panels.DASHBOARDS, help="the folder of the dashboards"
    )
    parser.add_argument(
        "--keep", metavar="FOLDER", help="keep the database in this folder, and ask the one that is there"
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Rows, seconds and bytes of the load; `panels_ms` and `variables_ms` by name: [as it opens, over all days].

    `slowest_ms` is the slowest panel as it opens or over all days, and `within_target` says whether it is fast enough.
    """
    models = grafana_panels.dashboards(args.dashboards)
    with tempfile.TemporaryDirectory(prefix="klagg-bench-") as folder:
        Path(folder).chmod(0o755)
        with (
            PostgresServer(args.keep or folder, source="debian", shared_buffers_mb=1024) as server,
            closing(Database(server.database_url("klagg"), timeout_ms=TIMEOUT_MS)) as owner,
        ):
            found: dict[str, Any] = {"name": "grafana", "days": args.days, "symbols": args.symbols}
            found |= _filled(server, owner, args)
            # As klagg_reader, for which klagg would have to be a member of it.
            server.sql("GRANT klagg_reader TO klagg")
            owner.query(_QUERIES["as_reader"])
            panels: dict[str, list[float]] = {}
            variables: dict[str, list[float]] = {}
            until = datetime.fromisoformat(found["until"])
            for question, spent in _ask(owner, models, until, args.days):
                (variables if question.kind == "variable" else panels).setdefault(question.name, []).extend(spent)
    slowest = max(max(spent) for spent in panels.values())
    return {
        **found,
        "panels_ms": panels,
        "variables_ms": variables,
        "slowest_ms": slowest,
        "target_ms": TARGET_MS,
        "within_target": slowest < TARGET_MS,
    }


def fill(database: Database, since: datetime, until: datetime, symbols: int) -> int:
    """Fill a migrated database with the market of some symbols; how many bars of 1m. `since` is midnight UTC."""
    whole = {"since": since, "until": until}
    database.execute(_QUERIES["symbols"], {"symbols": symbols})
    database.execute(_QUERIES["listings"], whole)
    rows, day = 0, since
    while day < until:
        span = {"since": day, "until": min(day + timedelta(days=1), until)}
        loaded = [database.execute(_QUERIES[name], span) for name in BY_DAY]
        rows += loaded[0]
        day += timedelta(days=1)
        print(f"loaded {rows:,} bars of 1m", file=sys.stderr)
    for name in AT_ONCE:
        database.execute(_QUERIES[name], whole)
    return rows


def _filled(server: PostgresServer, database: Database, args: argparse.Namespace) -> dict[str, Any]:
    """Whole UTC days and the minutes of today, made now or found in a database that was kept."""
    migrate(database)
    kept = database.query(_QUERIES["loaded_until"])
    if kept:
        return {"until": kept[0]["until"].isoformat(), "rows": kept[0]["rows"]}
    until = datetime.now(UTC).replace(second=0, microsecond=0)
    since = until.replace(hour=0, minute=0) - timedelta(days=args.days)
    started = time.perf_counter()
    rows = fill(database, since, until, args.symbols)
    load_s = time.perf_counter() - started
    server.sql(_QUERIES["tidy"], "klagg")
    return {
        "until": until.isoformat(),
        "rows": rows,
        "load_s": round(load_s, 1),
        "database_mb": round(database.query(_QUERIES["size"])[0]["bytes"] / 1e6),
    }


def _ask(
    database: Database, models: Mapping[str, Any], until: datetime, days: int
) -> Iterator[tuple[grafana_panels.PanelQuery, list[float]]]:
    """Every question with its medians in ms: over the range of its dashboard, and over all days."""
    for model in models.values():
        variables = grafana_panels.defaults_of(model)
        for question in grafana_panels.questions(model):
            spans = (grafana_panels.range_of(model), timedelta(days=days))
            yield (
                question,
                [
                    _median_ms(
                        database,
                        grafana_panels.expand(question, grafana_panels.PanelContext(until - span, until, variables)),
                    )
                    for span in spans
                ],
            )


def _median_ms(database: Database, sql: str) -> float:
    """The median of five after one that warms up, all rows read."""
    spent = []
    for _ in range(1 + ROUNDS):
        started = time.perf_counter()
        database.query(sql)
        spent.append((time.perf_counter() - started) * 1000)
    return round(median(spent[1:]), 1)

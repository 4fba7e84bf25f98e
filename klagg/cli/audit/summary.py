"""`klagg audit --summary`: the scoreboard of completeness and truth, by day and for the worst symbols."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import ujson

from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.intervals import DAY_MS, EVER_MS, INTERVALS
from klagg.scoreboard import board
from writers.migrate import require_schema

_QUERIES: Final = load_statements(Path(__file__).with_suffix(".sql"))

DAYS: Final = 30
"""So many days up to now, where the range is not said."""
WORST_SHOWN: Final = 20

SUMS: Final = (
    "expected",
    "bars",
    "complete",
    "official",
    "amended",
    "missing",
    "audited",
    "exact",
    "adopted",
    "edge_shift",
    "exchange_gap",
    "local_gap",
    "late",
    "unexplained",
    "open_findings",
)
"""Columns of the view `scoreboard`, which every line has."""
_HEADS: Final = {name: name.replace("_", " ") for name in SUMS} | {"open_findings": "open"}

Row = Mapping[str, Any]


def add_argument(parser: argparse.ArgumentParser) -> None:
    """The option that asks for it."""
    parser.add_argument(
        "--summary",
        action="store_true",
        help=f"show what was audited and which share is exact, explained and unexplained, by day and for the worst "
        f"symbols (default: of the last {DAYS} days)",
    )


def show(
    url: str, *, from_ms: int | None, to_ms: int | None, symbols: Sequence[str], intervals: Sequence[str], as_json: bool
) -> int:
    """Print the days that begin in [from, to), the worst symbols, the shares, and a JSON object with the sums; 1 if
    anything is unexplained. Empty `symbols` and `intervals` are all. Errors of `Database`."""
    until_ms = EVER_MS if to_ms is None else to_ms  # a simulated market may be ahead of this machine's clock
    since_ms = min(int(local_ms()), until_ms) - DAYS * DAY_MS if from_ms is None else from_ms
    first_ms, wanted = since_ms // DAY_MS * DAY_MS, intervals or list(INTERVALS)
    database = Database(url, application="klagg-audit")
    try:
        require_schema(database)
        found = board(database, first_ms, until_ms, symbols=symbols, intervals=wanted, worst=WORST_SHOWN)
        (elsewhere,) = database.query(_QUERIES["elsewhere"])
    finally:
        database.close()
    days, worst = [row | {"day": _date(row["day"])} for row in reversed(found.days)], found.symbols
    if as_json:
        for row in (*days, *worst):
            print(ujson.dumps(row, ensure_ascii=False))
    elif not days:
        print("No day of this range was counted or audited yet.")
    else:
        print("\n".join([*_table("day", days), "", "The worst symbols:", *_table("symbol", worst)]))
        print(f"\n{_truth(days)}")
        if elsewhere["findings"]:
            print(f"\nOpen findings about no single symbol: {elsewhere['findings']}")
    total = {name: sum(row[name] for row in days) for name in SUMS}
    total["open_findings"] += elsewhere["findings"]
    print(ujson.dumps({"days": len(days), **total}))
    return 1 if total["unexplained"] else 0


def _date(day_ms: int) -> str:
    return datetime.fromtimestamp(day_ms / 1000, UTC).strftime("%Y-%m-%d")


def _table(first: str, rows: Sequence[Row]) -> list[str]:
    """Lines in columns: what they are about, their sums, and how much is complete, official, exact, explained and
    unexplained."""
    heads = [first, *_HEADS.values(), "complete %", "official %", "exact %", "explained %", "unexplained %"]
    lines = [heads]
    for row in rows:
        shares = [_percent(row[name], row["expected"]) for name in ("complete", "official")]
        shares += (_percent(row["exact"], row["audited"]), _percent(_explained(row), row["audited"]))
        shares.append(_percent_up(row["unexplained"], row["audited"]))
        lines.append([row[first], *(str(row[name]) for name in SUMS), *shares])
    widths = [max(len(line[at]) for line in lines) for at in range(len(heads))]
    texts = [[text.rjust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    return ["  ".join([line[0].ljust(widths[0]), *text[1:]]) for line, text in zip(lines, texts, strict=True)]


def _explained(row: Row) -> int:
    """Audited bars that differ from the exchange's own for a known reason, which lies with the exchange."""
    return int(row["edge_shift"] + row["exchange_gap"])


def _truth(rows: Sequence[Row]) -> str:
    """How many of the audited bars are exact, and what is with the others, in a sentence."""
    total = {name: sum(row[name] for row in rows) for name in SUMS}
    audited = total["audited"]
    if not audited:
        return "No bar was audited yet."
    return (
        f"Of {audited:,} audited bars {_percent(total['exact'], audited)} % are exact "
        f"({total['exact'] - total['adopted']:,} at once, {total['adopted']:,} after adoption), "
        f"{_percent(_explained(total), audited)} % differ and are explained (edge shift {total['edge_shift']:,}, "
        f"exchange gap {total['exchange_gap']:,}), {_percent_up(total['unexplained'], audited)} % are unexplained, and "
        f"{total['local_gap'] + total['late']:,} are not settled (local gap {total['local_gap']:,}, "
        f"late {total['late']:,})."
    )


def _percent_up(part: int, whole: int) -> str:
    """Rounded up, so that only none is 0."""
    return f"{-(-part * 10_000 // whole) / 100:.2f}" if whole else "–"


def _percent(part: int, whole: int) -> str:
    """Rounded down, so that only all of it is 100."""
    return f"{part * 10_000 // whole / 100:.2f}" if whole else "–"

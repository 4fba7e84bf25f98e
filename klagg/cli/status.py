"""`klagg status`: which processes live, what they do, and whether something is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ujson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from klagg.cli import locate
from klagg.cli.up.screen import duration
from klagg.clock import local_ms
from klagg.process.catalogue import processes
from klagg.process.heartbeats import (
    UNREADABLE,
    ProcessStatus,
    StatusReport,
    freshness,
    report,
    sentences,
    silent_after_ms,
)
from klagg.process.histograms import BOUNDS_MS, bound_of
from klagg.wire.keys import HEARTBEAT_PATTERN

RATES = ("messages", "trades", "ticks", "finals", "klines", "rows")
"""The telling counters, in the order of a trade's way; a row shows the first few that its process has."""

RATES_SHOWN = 3
HEADINGS = ("process", "state", "pid", "up", "beat", "per second")
FRESH_HEADINGS = ("interval", "finals", "half final in", "99% in", "proven", "half proven in", "99% in")
"""How long after their close bars are final, and proven by own ids, since the aggregators began (exchange time)."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `status` command to the main parser."""
    parser = commands.add_parser(
        "status",
        help="which processes live and what they do",
        description="Shows the heartbeats of klagg's processes. The exit code is 0 if every expected process is alive "
        "and no alarm stands, else 1.",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    locate.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; 0 if all is well."""
    settings = locate.running_settings(args)
    streams = locate.connect(settings)
    beats = streams.values_like(HEARTBEAT_PATTERN)
    streams.close()
    expected = [each.name for each in processes(settings)]
    found = report(beats, expected, local_ms(), silent_after_ms(settings.service))
    if args.json:
        print(ujson.dumps(found.to_json(), ensure_ascii=False, escape_forward_slashes=False))
    elif sys.stdout.isatty():
        console = Console()
        console.print(table(found))
        if fresh := fresh_rows(found):
            console.print(fresh_table(fresh))
        for sentence in sentences(found):
            console.print(Text(sentence, style="green" if found.ok else "bold red"))
    else:
        fresh = fresh_rows(found)
        print("\n".join([*lines(found), *(columns([FRESH_HEADINGS, *fresh]) if fresh else []), *sentences(found)]))
    return 0 if found.ok else 1


def cells(each: ProcessStatus) -> tuple[str, ...]:
    """A row under HEADINGS."""
    if each.state == UNREADABLE:
        return each.name, each.state, "", "", "", ""
    pid = str(each.beat.get("pid", ""))
    return each.name, each.state, pid, duration(each.uptime_s), f"{each.age_ms / 1000:.1f}s", rates(each.beat)


def rates(beat: Mapping[str, Any]) -> str:
    """The main rates of a heartbeat; a process younger than its first statistics line has none yet."""
    known = beat.get("rates") or {}
    return "  ".join([f"{name} {known[name]:,.0f}" for name in RATES if name in known][:RATES_SHOWN])


def lines(found: StatusReport) -> list[str]:
    """The table in plain lines."""
    return columns([HEADINGS, *(cells(each) for each in found.seen)])


def fresh_rows(found: StatusReport) -> list[tuple[str, ...]]:
    """A row an interval under FRESH_HEADINGS; none before the first final."""
    rows: list[tuple[str, ...]] = []
    for each in freshness(found):
        finals, proofs = sum(each.to_final), sum(each.to_proof)
        # Rounded down, so that only all of them are 100%.
        share = f"{proofs * 10_000 // finals / 100:.2f}%"
        final = [within(each.to_final, part) for part in (0.5, 0.99)]
        proof = [within(each.to_proof, part) for part in (0.5, 0.99)]
        rows.append((each.interval, f"{finals:,}", *final, share, *proof))
    return rows


def within(counts: Sequence[int], part: float) -> str:
    """The time within which this part of the bars was there, by the bounds of the histogram."""
    if not any(counts):
        return "-"
    bound = bound_of(counts, part)
    return f"{bound / 1000:g}s" if bound is not None else f"over {BOUNDS_MS[-1] / 1000:g}s"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows, the headings first, in columns as wide as their texts."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def table(found: StatusReport) -> Table:
    """The table for a terminal."""
    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS:
        right = heading in ("pid", "up", "beat")
        drawn.add_column(heading, justify="right" if right else "left", no_wrap=heading not in ("state", "per second"))
    for each in found.seen:
        name, state, *rest = cells(each)
        drawn.add_row(name, Text(state, style="bold red" if each.alarms else "green"), *rest)
    return drawn


def fresh_table(rows: Sequence[Sequence[str]]) -> Table:
    """The rows of `fresh_rows` for a terminal."""
    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in FRESH_HEADINGS:
        drawn.add_column(heading, justify="left" if heading == "interval" else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    return drawn

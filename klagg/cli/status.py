"""`klagg status`: which processes live, what they do, and whether something is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ujson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from klagg.cli import locate
from klagg.cli.up.screen import duration
from klagg.clock import local_ms
from klagg.process.catalogue import processes
from klagg.settings import Service
from klagg.wire.keys import HEARTBEAT_PATTERN, heartbeat_key

RATES = ("messages", "trades", "ticks", "finals", "klines", "rows")
"""The telling counters, in the order of a trade's way; a row shows the first few that its process has."""

RATES_SHOWN = 3
HEADINGS = ("process", "state", "pid", "up", "beat", "per second")
SILENT = "silent"
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process by its heartbeat. `beat` is the heartbeat as it was written; `age_ms` how long ago."""

    name: str
    state: str
    expected: bool
    uptime_s: float
    age_ms: int
    beat: Mapping[str, Any] = field(default_factory=dict)

    @property
    def alarm(self) -> str:
        """What is wrong with it, empty if nothing is known."""
        if self.state == UNREADABLE:
            return "its heartbeat cannot be read"
        if self.state == SILENT:
            return f"its last heartbeat is {self.age_ms / 1000:.1f} s old"
        return str(self.beat.get("alarm", ""))

    def to_json(self) -> dict[str, Any]:
        """The heartbeat with the state, for `klagg status --json`."""
        own = {"process": self.name, "state": self.state, "expected": self.expected}
        return {**self.beat, **own, "uptime_s": round(self.uptime_s, 1), "age_ms": self.age_ms}


@dataclass(frozen=True, slots=True)
class StatusReport:
    """All heartbeats: expected processes first, in their order, then others by name; and the missing ones."""

    seen: Sequence[ProcessStatus]
    missing: Sequence[str]

    @property
    def alarms(self) -> list[str]:
        """A sentence for each process with an alarm."""
        return [f"{each.name}: {each.alarm}" for each in self.seen if each.alarm]

    @property
    def ok(self) -> bool:
        """Whether every expected process is alive and nobody has an alarm."""
        return not self.missing and not self.alarms

    def to_json(self) -> dict[str, Any]:
        """The report for `klagg status --json`."""
        rows = [each.to_json() for each in self.seen]
        return {"processes": rows, "missing": list(self.missing), "alarms": self.alarms, "ok": self.ok}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `status` command to the main parser."""
    parser = commands.add_parser(
        "status",
        help="which processes live and what they do",
        description="Shows the heartbeats of klagg's processes. The exit code is 0 if every expected process is alive "
        "and none has an alarm, else 1.",
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
        for sentence in sentences(found):
            console.print(Text(sentence, style="green" if found.ok else "bold red"))
    else:
        print("\n".join([*lines(found), *sentences(found)]))
    return 0 if found.ok else 1


def silent_after_ms(service: Service) -> int:
    """The age at which a heartbeat is a sign of trouble: some beats were missed, though its key still stands."""
    return max(3 * service.heartbeat_ms, 500 * service.heartbeat_ttl_s)


def report(beats: Mapping[str, str], expected: Sequence[str], now_ms: float, silent_ms: int) -> StatusReport:
    """The report from heartbeats (JSON by key) at the local time `now_ms`."""
    by_name = {key.removeprefix(heartbeat_key("")): text for key, text in beats.items()}
    names = [name for name in expected if name in by_name] + sorted(set(by_name) - set(expected))
    seen = [_seen(name, by_name[name], name in expected, now_ms, silent_ms) for name in names]
    return StatusReport(seen, [name for name in expected if name not in by_name])


def _seen(name: str, text: str, expected: bool, now_ms: float, silent_ms: int) -> ProcessStatus:
    try:
        beat = ujson.loads(text)
        state, age_ms = str(beat["state"]), max(0, int(now_ms - beat["time_ms"]))
        uptime_s = max(0.0, (now_ms - beat["started_ms"]) / 1000)
    except (ValueError, TypeError, LookupError):
        return ProcessStatus(name, UNREADABLE, expected, 0.0, 0)
    return ProcessStatus(name, SILENT if age_ms > silent_ms else state, expected, uptime_s, age_ms, beat)


def sentences(found: StatusReport) -> list[str]:
    """What a person should know of it, the conclusion last."""
    told = [f"ALARM {each.removeprefix('ALARM: ')}" for each in found.alarms]
    told += [f"missing: {', '.join(found.missing)}"] if found.missing else []
    return told or [f"all {len(found.seen)} processes are alive"]


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
    rows = [HEADINGS, *(cells(each) for each in found.seen)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def table(found: StatusReport) -> Table:
    """The table for a terminal."""
    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS:
        right = heading in ("pid", "up", "beat")
        drawn.add_column(heading, justify="right" if right else "left", no_wrap=heading not in ("state", "per second"))
    for each in found.seen:
        name, state, *rest = cells(each)
        drawn.add_row(name, Text(state, style="bold red" if each.alarm else "green"), *rest)
    return drawn

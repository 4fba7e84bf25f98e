"""`klagg status`: every process by its heartbeat, and what is missing."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import ujson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from klagg.cli.locate import add_arguments, running_settings
from klagg.cli.screen import duration, facts
from klagg.contract import HEARTBEAT_PATTERN
from klagg.processes import processes
from klagg.redisio import Streams

PLAIN_WIDTH = 160


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `status` command to the main parser."""
    parser = commands.add_parser(
        "status",
        help="the state of every process",
        description="Shows every process by its heartbeat in Redis. The exit code is 0 if all that the configuration "
        "asks for are alive and none raises an alarm, else 1.",
    )
    add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; the exit code."""
    settings = running_settings(args)
    streams = Streams(settings.redis.url, timeout_ms=settings.redis.timeout_ms)
    beats = [ujson.loads(text) for text in streams.values_like(HEARTBEAT_PATTERN).values()]
    streams.close()
    report = judge(beats, [each.name for each in processes(settings)])
    if args.json:
        print(ujson.dumps(report, ensure_ascii=False))
    else:
        _print(report, time.time() * 1000)
    return 0 if report["ok"] else 1


def judge(beats: Sequence[Mapping[str, Any]], expected: Sequence[str]) -> dict[str, Any]:
    """Heartbeats against the processes that should be there: processes, missing, alarms, ok."""
    alive = {str(beat["process"]): dict(beat) for beat in beats}
    missing = [name for name in expected if name not in alive]
    alarms = [f"{name}: {beat['alarm']}" for name, beat in sorted(alive.items()) if beat.get("alarm")]
    order = {name: at for at, name in enumerate(expected)}
    shown = sorted(alive.values(), key=lambda beat: (order.get(beat["process"], len(order)), beat["process"]))
    return {"ok": not missing and not alarms, "processes": shown, "missing": missing, "alarms": alarms}


def _print(report: Mapping[str, Any], now_ms: float) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    table = Table(box=None, padding=(0, 1), header_style="bold", expand=console.is_terminal)
    for name in ("process", "state", "pid", "up", "age"):
        table.add_column(name, no_wrap=True)
    table.add_column("numbers", no_wrap=True, overflow="ellipsis")
    for beat in report["processes"]:
        state = Text("ALARM", style="bold red") if beat["alarm"] else Text(beat["state"], style="green")
        age = f"{max(0.0, now_ms - beat['time_ms']) / 1000:.1f}s"
        up = duration((now_ms - beat["started_ms"]) / 1000)
        table.add_row(beat["process"], state, str(beat["pid"]), up, age, facts(beat))
    for name in report["missing"]:
        table.add_row(name, Text("missing", style="bold red"), "", "", "", "no heartbeat")
    console.print(table)
    for alarm in report["alarms"]:
        console.print(Text(alarm, style="bold red"))

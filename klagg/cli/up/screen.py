"""What `klagg up` shows, from a snapshot: pure. On a terminal a picture of its size, elsewhere plain lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from klagg.kline import Kline

RATES = (
    ("trades", "trades"),
    ("messages", "messages"),
    ("ticks", "ticks"),
    ("finals", "finals"),
    ("rows", "rows"),
    ("served", "served"),
    ("snapshots", "snapshots"),
    ("history", "history"),
    ("looks", "looks"),
    ("bars", "bars"),
)
GAUGES = (
    "delay_ms",
    "clock_delay_ms",
    "open_gaps",
    "commit_ms",
    "lag",
    "lag_ms",
    "open_findings",
    "clients",
    "streams",
    "waiting",
)
WIDE = 110
MESSAGES = 3


@dataclass(frozen=True, slots=True)
class ProcessLine:
    """One process: what its child says and what its heartbeat says (`beat` None: none)."""

    name: str
    pid: int | None
    restarts: int
    uptime_s: float
    beat: dict[str, Any] | None

    @property
    def state(self) -> str:
        """down, starting, ALARM, or the state in the heartbeat."""
        if self.pid is None:
            return "down"
        if self.beat is None:
            return "starting"
        return "ALARM" if self.beat.get("alarm") else str(self.beat.get("state", "?"))


@dataclass(frozen=True, slots=True)
class ScreenState:
    """Everything that is shown, at one moment."""

    banner: str
    title: str
    exchange_ms: int
    trades_per_s: float
    processes: Sequence[ProcessLine]
    klines: Sequence[Kline]
    servers: Sequence[str]
    messages: Sequence[str] = field(default_factory=tuple)


def moment(time_ms: int) -> str:
    """Exchange time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(time_ms / 1000)) if time_ms else "not known yet"


def duration(seconds: float) -> str:
    """A duration in seconds as text such as 1h02m, 3m04s or 5s."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def facts(beat: dict[str, Any] | None) -> str:
    """The telling numbers of a heartbeat."""
    if beat is None:
        return ""
    counters, gauges = beat.get("counters", {}), beat.get("gauges", {})
    parts = [f"{name} {counters[key]:,}" for key, name in RATES if counters.get(key)]
    parts += [f"{name} {gauges[name]}" for name in GAUGES if name in gauges]
    return "  ".join(parts)


def picture(snapshot: ScreenState, width: int, height: int) -> RenderableType:
    """The screen, for a terminal of this size."""
    parts: list[RenderableType] = []
    if snapshot.banner:
        parts.append(Panel(Text(snapshot.banner, style="bold", justify="center"), style="black on yellow", height=3))
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("klagg  ", style="bold cyan")
    line.append(snapshot.title)
    parts += [line, _numbers(snapshot), _process_table(snapshot.processes, width)]
    shown = snapshot.messages[-MESSAGES:]
    around = len(snapshot.processes) + len(snapshot.servers) + len(shown) + 7 + (3 if snapshot.banner else 0)
    parts.append(_kline_table(snapshot.klines[: max(1, height - around)], width))
    parts += [Text(each, style="dim", no_wrap=True, overflow="ellipsis") for each in snapshot.servers]
    parts += [Text(each, style="red", no_wrap=True, overflow="ellipsis") for each in shown]
    parts.append(
        Text("klagg status · klagg inspect klines --follow · Ctrl-C drains and ends", style="dim", no_wrap=True)
    )
    return Group(*parts)


def _numbers(snapshot: ScreenState) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"exchange time {moment(snapshot.exchange_ms)}   ")
    line.append(f"{snapshot.trades_per_s:,.0f} trades/s", style="bold green")
    return line


def _process_table(processes: Sequence[ProcessLine], width: int) -> Table:
    table = Table(expand=True, box=None, padding=(0, 1), header_style="bold")
    table.add_column("process", no_wrap=True, min_width=13)
    table.add_column("state", no_wrap=True, min_width=8)
    table.add_column("pid", justify="right", no_wrap=True, min_width=6)
    table.add_column("up", justify="right", no_wrap=True, min_width=6)
    if width >= WIDE:
        table.add_column("restarts", justify="right", no_wrap=True)
    table.add_column("numbers", no_wrap=True, overflow="ellipsis", ratio=1)
    for each in processes:
        good = each.state in ("running", "starting")
        cells: list[RenderableType] = [
            each.name,
            Text(each.state, style="green" if good else "bold red"),
            str(each.pid or ""),
            duration(each.uptime_s),
        ]
        table.add_row(*cells, *([str(each.restarts)] if width >= WIDE else []), facts(each.beat))
    return table


def _kline_table(klines: Sequence[Kline], width: int) -> Table:
    columns = ["symbol", "interval", "open time", "open", "high", "low", "close", "volume", "trades", "standing"]
    if width < WIDE:
        columns = ["symbol", "interval", "open time", "close", "volume", "trades", "standing"]
    table = Table(
        expand=True, box=None, padding=(0, 1), header_style="bold", title="latest finals", title_justify="left"
    )
    for name in columns:
        right = name not in ("symbol", "interval", "open time")
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for kline in klines:
        opened = moment(kline.open_time)[0 if width >= WIDE else len("2026-") : -len(":00")]
        cells = {"open time": opened}
        table.add_row(*(cells.get(name) or str(getattr(kline, name)) for name in columns))
    if not klines:
        table.add_row("none yet: the first bars close at the end of this minute")
    return table


def plain(snapshot: ScreenState) -> list[str]:
    """The same in lines, for logs and pipes."""
    lines = [f"*** {snapshot.banner} ***"] if snapshot.banner else []
    lines.append(
        f"exchange time {moment(snapshot.exchange_ms)}, {snapshot.trades_per_s:,.0f} trades/s; "
        + ", ".join(f"{each.name} {each.state}" for each in snapshot.processes)
    )
    if snapshot.klines:
        newest = snapshot.klines[0]
        lines.append(
            f"last kline {newest.symbol} {newest.interval} {moment(newest.open_time)} close {newest.close} "
            f"volume {newest.volume} trades {newest.trades} {newest.standing}"
        )
    return lines

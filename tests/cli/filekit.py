"""Small files of klines for the tests of commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from klagg.intervals import HOUR_MS, MINUTE_MS

T0 = 1_795_896_000_000
"""2026-11-28 20:00 UTC."""
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


def dump_row(open_time: int, length_ms: int = MINUTE_MS, volume: str = "1.000", bars: int = 1, quote: str = "") -> str:
    """A line of a dump: a bar that is made of `bars` like ones."""
    sums = f"{quote or f'{10.05 * bars:.2f}'},{3 * bars},{0.5 * bars:.3f},{5.03 * bars:.2f}"
    return f"{open_time},10.0,10.2,9.9,10.1,{volume},{open_time + length_ms - 1},{sums},0"


def write_minutes(path: Path, minutes: Iterable[int]) -> str:
    """A dump of these minutes after T0, each with volume 1."""
    return write_lines(path, [HEADER, *(dump_row(T0 + minute * MINUTE_MS) for minute in minutes)])


def write_hours(path: Path, volumes: Sequence[str | None]) -> str:
    """A dump of the hours from T0 on (None: not there), the sums of 60 such minutes but for their volume."""
    rows = (dump_row(T0 + at * HOUR_MS, HOUR_MS, each, 60) for at, each in enumerate(volumes) if each is not None)
    return write_lines(path, [HEADER, *rows])


def write_bars(path: Path, opens: Iterable[int]) -> str:
    """A table without close times: bars that open then."""
    return write_lines(path, ["open_time,open,high,low,close,volume", *(f"{at},1,2,0.5,1.5,1" for at in opens)])


def write_lines(path: Path, lines: Iterable[str]) -> str:
    """The path, as an argument of a command."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)

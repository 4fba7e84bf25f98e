"""Dumps of klines as the exchange writes them, made by hand."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path

from klagg.intervals import INTERVALS, MINUTE_MS
from writers.backfill_parts import OfficialRow, Part, part_of_file, span_of

MONTH = "2024-09"
START_MS = span_of(MONTH)[0]
END_MS = span_of(MONTH)[1]
CLOSED_MS = 1_800_000_000_000
EVER_MS = 4_000_000_000_000
HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


def official(at: int, interval: str = "1m", trades: int = 7) -> OfficialRow:
    """The official row of bar number `at` since the start of the month; without trades it is flat."""
    bars = INTERVALS[interval]
    opened = bars.open_of(bars.bucket_of(START_MS) + at)
    if not trades:
        close = str(bars.close_time(opened))
        return str(opened), "1.50", "1.50", "1.50", "1.50", "0", close, "0", "0", "0", "0"
    return (
        str(opened),
        "1.40",
        f"1.{60 + at % 30}",
        "1.30",
        "1.50",
        f"{at + 1}.500",
        str(bars.close_time(opened)),
        f"{at * 1.5 + 2.25:.5f}",
        str(trades),
        "0.500",
        "0.75000",
    )


def rows(count: int, interval: str = "1m", first: int = 0) -> list[OfficialRow]:
    return [official(at, interval) for at in range(first, first + count)]


def csv_text(of: Sequence[OfficialRow], header: bool = True) -> str:
    lines = [",".join((*row, "0")) for row in of]
    return "\n".join([HEADER, *lines] if header else lines) + "\n"


def write_dump(
    folder: Path, of: Sequence[OfficialRow] | str, name: str = f"BTCUSDT-1m-{MONTH}.csv", header: bool = True
) -> Path:
    """A dump of these rows (or of this text), packed as its name says."""
    text = of if isinstance(of, str) else csv_text(of, header)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name.split('.', maxsplit=1)[0]}.csv", text)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def part_of(path: Path, from_ms: int = 0, to_ms: int = EVER_MS) -> Part:
    stat = path.stat()
    part = part_of_file(path, from_ms, to_ms, f"{stat.st_size} {stat.st_mtime_ns}")
    assert part is not None
    return part


def minute(at: int) -> int:
    """The open time of minute number `at` of the month."""
    return START_MS + at * MINUTE_MS

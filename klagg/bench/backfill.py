"""`klagg bench backfill`: dumps of klines into the hypertable, durable, beside a bare COPY of the very same rows.

Both run against a fresh database with klagg's schema, one after the other, several times; the medians are told. The
bare COPY has its lines ready in memory, in the table's own types, and checks nothing.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.embedded import PostgresServer
from klagg.intervals import DAY_MS, MINUTE, MINUTE_MS
from writers.backfill import Totals, from_dumps, load
from writers.backfill_dumps import find_dumps
from writers.backfill_parts import OfficialRow, in_order, span_of
from writers.backfill_table import HistoryTable
from writers.migrate import migrate

TITLE = "klagg backfill: rows a second from zipped dumps into the hypertable, beside a bare COPY of the same rows"
FIRST_MONTH: Final = 2023 * 12
COPY_LINES: Final = 10_000

_QUERIES = load_statements(Path(__file__).with_name("backfill.sql"))


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--symbols", type=int, default=8, help="how many symbols have dumps (8)")
    parser.add_argument("--months", type=int, default=3, help="how many months of 1m klines each (3)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of either kind, of which the median counts (3)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """See TITLE. `again_rows_per_s`: the same dumps once more, where every row is there already. `fives_rows_per_s`:
    dumps of 5m behind those of 1m, which are held against each other."""
    ours, again, fives, bare, memory_mb = [], [], [], [], 0
    with tempfile.TemporaryDirectory(prefix="klagg-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        dumps, longer = folder / "dumps", folder / "longer"
        dumps.mkdir()
        longer.mkdir()
        months = [f"{at // 12}-{at % 12 + 1:02d}" for at in range(FIRST_MONTH, FIRST_MONTH + args.months)]
        rows = 0
        for month, at in itertools.product(months, range(args.symbols)):
            minutes = list(_rows(*span_of(month), at))
            rows += _write_dump(dumps, f"S{at:03d}USDT-1m-{month}", minutes)
            _write_dump(longer, f"S{at:03d}USDT-5m-{month}", _fives(minutes))
        with PostgresServer(folder, background_workers=0, source="debian") as server:
            for number in range(args.rounds):
                with closing(Database(server.create_database(f"ours{number}"))) as database:
                    migrate(database)
                    ours.append(rows / _backfill(database, dumps, rows))
                    again.append(rows / _backfill(database, dumps, rows))
                    fives.append(rows // 5 / _backfill(database, longer, rows // 5))
                memory_mb = memory_mb or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                server.drop_database(f"ours{number}")
                with closing(Database(server.create_database(f"bare{number}"))) as database:
                    migrate(database)
                    bare.append(rows / _bare(database, dumps))
                server.drop_database(f"bare{number}")
    return {
        "name": "backfill",
        "rows_per_s": int(median(ours)),
        "bare_copy_rows_per_s": int(median(bare)),
        "ratio": round(median(ours) / median(bare), 3),
        "again_rows_per_s": int(median(again)),
        "fives_rows_per_s": int(median(fives)),
        "rows": rows,
        "files": args.symbols * args.months,
        "rounds": args.rounds,
        "rss_mb_max": memory_mb,
    }


def _backfill(database: Database, dumps: Path, rows: int) -> float:
    """Seconds for everything between the folder and the last commit."""
    now_ms, totals = int(local_ms()), Totals()
    began = time.perf_counter()
    parts = in_order(find_dumps(dumps, 0, now_ms).parts)
    load(HistoryTable(database, now_ms - DAY_MS), from_dumps(parts, now_ms), totals, report=lambda _: None)
    took_s = time.perf_counter() - began
    assert totals.rows == rows
    assert not totals.failures
    return took_s


def _bare(database: Database, dumps: Path) -> float:
    """Seconds that the server needs at least for these rows. The lines of one file at a time are made beforehand."""
    took_s = 0.0
    for path in sorted(dumps.iterdir()):
        lines = _ready(path)
        began = time.perf_counter()
        for at in range(0, len(lines), COPY_LINES):
            database.copy_text(_QUERIES["bare_copy"], "".join(lines[at : at + COPY_LINES]))
        took_s += time.perf_counter() - began
    return took_s


def _ready(path: Path) -> list[str]:
    symbol = path.name.partition("-")[0]
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    return [_line(symbol, line.split(",")) for line in text.splitlines()[1:]]


def _line(symbol: str, cells: list[str]) -> str:
    opened, closed = (
        datetime.fromtimestamp(int(cells[at]) / 1000, UTC).isoformat(timespec="milliseconds") for at in (0, 6)
    )
    values = (*cells[1:6], *cells[7:11], "-1", "-1", "-1", "-1", "f", "t", "0", "1", "exchange", "")
    return "\t".join((symbol, "1m", opened, closed, *values)) + "\n"


def _write_dump(folder: Path, name: str, rows: Sequence[OfficialRow]) -> int:
    """A zipped monthly dump as the exchange's; how many rows."""
    header = (
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume"
    )
    lines = [f"{header},ignore\n", *(",".join(row) + ",0\n" for row in rows)]
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.csv", "".join(lines))
    return len(rows)


def _fives(minutes: Sequence[OfficialRow]) -> list[OfficialRow]:
    """The bars of 5m that minutes make."""
    found: list[OfficialRow] = []
    for at in range(0, len(minutes), 5):
        group = minutes[at : at + 5]
        volume, quote, taker, taker_quote = (str(sum(Decimal(row[place]) for row in group)) for place in (5, 7, 9, 10))
        high, low = max(Decimal(row[2]) for row in group), min(Decimal(row[3]) for row in group)
        trades = str(sum(int(row[8]) for row in group))
        first, last = group[0], group[-1]
        prices = first[1], str(high), str(low), last[4]
        found.append((first[0], *prices, volume, last[6], quote, trades, taker, taker_quote))
    return found


def _rows(start_ms: int, end_ms: int, seed: int) -> Iterator[OfficialRow]:
    rng = np.random.default_rng(seed)
    count = (end_ms - start_ms) // MINUTE_MS
    closes = (600_000 + rng.integers(-90, 91, count).cumsum()).clip(10_000).tolist()
    volumes, fills = rng.integers(1, 9_000_000, count).tolist(), rng.integers(2, 4_000, count).tolist()
    before = closes[0]
    for at, (close, volume, trades) in enumerate(zip(closes, volumes, fills, strict=True)):
        opened = start_ms + at * MINUTE_MS
        prices = [f"{each / 10:.1f}" for each in (before, max(before, close) + 7, min(before, close) - 7, close)]
        taker, before = volume // 2, close
        yield (
            str(opened),
            prices[0],
            prices[1],
            prices[2],
            prices[3],
            f"{volume / 1000:.3f}",
            str(MINUTE.close_time(opened)),
            f"{volume * close / 10_000:.4f}",
            str(trades),
            f"{taker / 1000:.3f}",
            f"{taker * close / 10_000:.4f}",
        )

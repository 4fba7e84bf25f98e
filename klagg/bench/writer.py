"""`klagg bench writer`: the real klagg-writer-final process, from the stream to the committed row.

Commits are durable (fsync and synchronous_commit are on), the writer is one process with one connection. Beside it, in
the same run on the same database, stands a bare COPY and upsert of the same rows, which neither reads a stream nor
checks, keeps history, or acknowledges anything. `--rollover` and `--outage` measure what follows a day's end and a
database that was away.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from statistics import median
from typing import Any

from klagg.bench.aggregator import BenchFailed, cpu_s_of
from klagg.bench.klines import INTERVALS, final_bars, rollover_bars
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, Streams
from klagg.drivers.statements import load_statements
from klagg.embedded import PostgresServer, RedisServer
from klagg.kline import FIELDS, INTEGER_FIELDS, Kline
from klagg.settings import Settings, to_toml
from klagg.wire.fields import stamp
from klagg.wire.keys import GROUP_WRITERS, Keys
from writers.migrate import migrate

TITLE = "the writer's process: finals from a Redis stream to durably committed rows, beside a bare COPY and upsert"
KLINES = Keys(0).klines
TIMEOUT_S = 120.0
PROBE_S = 0.002
WRITE_ENTRIES = 2000
AGO_ENTRIES = 7000
"""A redelivered entry comes so many entries after the first, which the buffer no longer holds then."""

_QUERIES = load_statements(Path(__file__).with_suffix(".sql"))
_TYPES = tuple("int8" if name in INTEGER_FIELDS else "text" for name in FIELDS)


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--rows", type=int, default=200_000, help="finals in a round (200,000)")
    parser.add_argument(
        "--redelivered", type=int, default=10, metavar="PERCENT", help="of them, so many come once more (10)"
    )
    parser.add_argument("--symbols", type=int, default=750, help="how many symbols (750)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of either kind, of which the median counts (3)")
    parser.add_argument(
        "--rollover", action="store_true", help="measure instead how soon a week's last bars are in the table"
    )
    parser.add_argument(
        "--outage",
        type=int,
        default=0,
        metavar="SECONDS",
        help="also stop the database for so long, and tell how the backlog drains",
    )
    parser.add_argument("--rate", type=int, default=5000, help="entries a second during the outage (5,000)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """See TITLE. `rows_per_s` counts rows that were new, `entries_per_s` redelivered entries too; `ratio` is the
    writer's rows to the bare ones. `cpu_s_per_million` is the writer's processor time for a million entries."""
    with servers() as bench:
        if args.rollover:
            return _rollover(args, bench)
        entries = with_redelivered(final_bars(args.symbols, args.rows), args.redelivered)
        rounds = [(_bare(bench, entries), *_whole(bench, entries, args.rows)) for _ in range(args.rounds)]
        bare, whole, cpu_s = (list(each) for each in zip(*rounds, strict=True))
        rate = median(whole)
        found = {
            "name": "writer",
            "rows_per_s": int(rate),
            "entries_per_s": int(rate * len(entries) / args.rows),
            "bare_rows_per_s": int(median(bare)),
            "ratio": round(rate / median(bare), 3),
            "cpu_s_per_million": round(median(cpu_s), 2),
            "rows": args.rows,
            "redelivered": len(entries) - args.rows,
            "rounds": args.rounds,
            "rows_per_s_of_rounds": [int(each) for each in whole],
            "ratios": [round(ours / theirs, 3) for ours, theirs in zip(whole, bare, strict=True)],
            "cpu_s_per_million_of_rounds": [round(each, 1) for each in cpu_s],
        }
        return found | (_outage(args, bench, rate) if args.outage else {})


@dataclass(frozen=True, slots=True)
class Bench:
    """Both servers, ready, and the configuration that names them."""

    streams: Streams
    postgres: PostgresServer
    database: Database
    config: Path
    buffer_size: int


@contextmanager
def servers() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="klagg-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user where this is root
        with RedisServer(Path(folder) / "redis", maxmemory_mb=8192) as redis, PostgresServer(folder) as postgres:
            url = postgres.create_database("bench")
            base = Settings()
            settings = replace(base, redis=replace(base.redis, url=redis.url), database=replace(base.database, url=url))
            config = Path(folder) / "klagg.toml"
            config.write_text(to_toml(settings), encoding="utf-8")
            with closing(Database(url)) as database, closing(Streams(redis.url, timeout_ms=60_000)) as streams:
                migrate(database)
                yield Bench(streams, postgres, database, config, settings.persistence.finalized_buffer_size)


def with_redelivered(bars: Sequence[Kline], percent: int) -> list[Kline]:
    """`bars`, and of every hundred so many once more, later."""
    entries: list[Kline] = []
    for number, bar in enumerate(bars):
        entries.append(bar)
        if number % 100 < percent and number >= AGO_ENTRIES:
            entries.append(bars[number - AGO_ENTRIES])
    missing = len(bars) * percent // 100 - (len(entries) - len(bars))
    return entries + list(bars[: max(0, missing)])


def _bare(bench: Bench, entries: Sequence[Kline]) -> float:
    """Rows a second of COPY and upsert alone, sorted and without doubles inside a batch, as the upsert needs them."""
    empty(bench)
    row_of, size = attrgetter(*FIELDS), bench.buffer_size
    batches = [
        [row_of(bar) for _, bar in sorted({bar.key: bar for bar in entries[start : start + size]}.items())]
        for start in range(0, len(entries), size)
    ]
    began = time.perf_counter()
    for batch in batches:
        with bench.database.transaction():
            bench.database.execute(_QUERIES["create_bare"])
            bench.database.copy_rows(_QUERIES["copy_bare"], _TYPES, batch)
            bench.database.execute(_QUERIES["upsert_bare"])
    took_s = time.perf_counter() - began
    return rows_there(bench) / took_s


def empty(bench: Bench) -> None:
    """No rows any more."""
    bench.database.execute(_QUERIES["empty"])


def rows_there(bench: Bench) -> int:
    """How many rows are in the table."""
    return int(bench.database.query(_QUERIES["count"])[0]["rows"])


_seq = itertools.count(1)


def _publish(bench: Bench, bars: Sequence[Kline]) -> None:
    for start in range(0, len(bars), WRITE_ENTRIES):
        bench.streams.write(
            [
                Append(KLINES, stamp(bar.to_fields(), "bench@1", next(_seq)))
                for bar in bars[start : start + WRITE_ENTRIES]
            ]
        )


def settled(bench: Bench, published: int) -> int:
    """How many of the published entries are acknowledged."""
    unread = bench.streams.group_lag(KLINES, GROUP_WRITERS)
    if unread is None:
        return 0
    return published - unread - bench.streams.pending_count(KLINES, GROUP_WRITERS)


def _whole(bench: Bench, entries: Sequence[Kline], rows: int) -> tuple[float, float]:
    """(rows a second, processor seconds for a million entries) of a writer that finds all entries in the stream.

    It is measured from its first acknowledgement to its last, and every row must be there.
    """
    empty(bench)
    bench.streams.delete(KLINES)
    _publish(bench, entries)
    bench.streams.ensure_group(KLINES, GROUP_WRITERS)
    with writer(bench) as process:
        first = until(process, lambda: settled(bench, len(entries)))
        began, used_s = time.perf_counter(), cpu_s_of(process.pid)
        until(process, lambda: settled(bench, len(entries)) == len(entries))
        took_s, used_s = time.perf_counter() - began, cpu_s_of(process.pid) - used_s
    if (found := rows_there(bench)) != rows:
        raise BenchFailed(f"{found} rows are in the table instead of {rows}")
    measured = len(entries) - first
    return measured / took_s * rows / len(entries), used_s / measured * 1e6


@contextmanager
def writer(bench: Bench) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "writers.final_service", "--config", str(bench.config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)


def until(process: subprocess.Popen[bytes], condition: Callable[[], int]) -> int:
    """Wait until a condition gives something, and what; BenchFailed if the process ends, or it takes too long."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        if process.poll() is not None:
            raise BenchFailed(f"the writer ended with {process.returncode}: {process.communicate()[1].decode()}")
        if time.monotonic() > deadline:
            raise BenchFailed(f"the writer did not get on for {TIMEOUT_S:.0f} s")
        time.sleep(PROBE_S)
    return found


def _rollover(args: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """How long after its last entry is in the stream a burst of finals is in the table, for an idle writer."""
    delays_ms, whole_ms = [], []
    with writer(bench) as process:
        for week in range(max(5, args.rounds) + 1):
            bars = rollover_bars(args.symbols, week)
            began = time.perf_counter()
            _publish(bench, bars)
            written = time.perf_counter()
            until(process, lambda bars=bars: _visible(bench, bars) == len(bars))  # type: ignore[misc]
            delays_ms.append((time.perf_counter() - written) * 1000)
            whole_ms.append((time.perf_counter() - began) * 1000)
    return {
        "name": "writer-rollover",
        "visible_ms": round(median(delays_ms[1:])),
        "with_publishing_ms": round(median(whole_ms[1:])),
        "bars": args.symbols * len(INTERVALS),
        "rounds": len(delays_ms) - 1,
        "visible_ms_of_rounds": [round(each) for each in delays_ms[1:]],
    }


def _visible(bench: Bench, bars: Sequence[Kline]) -> int:
    """How many of these bars are in the table; no others have their open times."""
    times = sorted({bar.open_time for bar in bars})
    return sum(int(bench.database.query(_QUERIES["count_of"], {"open_time": each})[0]["rows"]) for each in times)


def _outage(args: argparse.Namespace, bench: Bench, rate: float) -> dict[str, Any]:
    """Stop the database under a working writer, let entries go on, start it again: how the backlog drains."""
    bars = final_bars(args.symbols, args.rate * args.outage)
    empty(bench)
    bench.streams.delete(KLINES)
    bench.streams.ensure_group(KLINES, GROUP_WRITERS)
    with writer(bench) as process:
        _publish(bench, bars[:WRITE_ENTRIES])
        until(process, lambda: settled(bench, WRITE_ENTRIES) == WRITE_ENTRIES)
        before_mb = _resident_mb(process.pid)
        bench.database.close()
        bench.postgres.stop()
        _publish_evenly(bench, bars[WRITE_ENTRIES:], args.outage)
        during_mb, redis_mb = _resident_mb(process.pid), bench.streams.memory(KLINES) / 2**20
        bench.postgres.start()
        back = time.perf_counter()
        first = until(process, lambda: max(0, settled(bench, len(bars)) - WRITE_ENTRIES))
        began, used_s = time.perf_counter(), cpu_s_of(process.pid)
        until(process, lambda: settled(bench, len(bars)) == len(bars))
        took_s, used_s = time.perf_counter() - began, cpu_s_of(process.pid) - used_s
        after_mb = _resident_mb(process.pid)
    if (found := rows_there(bench)) != len(bars):
        raise BenchFailed(f"{found} rows are in the table after the outage instead of {len(bars)}")
    left = len(bars) - WRITE_ENTRIES - first
    drained = left / took_s
    return {
        "outage_s": args.outage,
        "backlog": len(bars) - WRITE_ENTRIES,
        "drain_rows_per_s": int(drained),
        "drain_ratio": round(drained / rate, 3),
        "drain_cpu_s_per_million": round(used_s / left * 1e6, 2),
        "first_rows_after_s": round(began - back, 2),
        "resident_before_mb": before_mb,
        "resident_during_mb": during_mb,
        "resident_after_mb": after_mb,
        "stream_mb": round(redis_mb, 1),
    }


def _publish_evenly(bench: Bench, bars: Sequence[Kline], seconds: int) -> None:
    began, size = time.monotonic(), -(-len(bars) // seconds)
    for second in range(seconds):
        _publish(bench, bars[second * size : (second + 1) * size])
        time.sleep(max(0.0, began + second + 1 - time.monotonic()))


def _resident_mb(pid: int) -> float:
    """VmRSS of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0

"""`klagg bench audit`: what the auditors of the streams cost, and what they leave of the writer's throughput.

`core_share` is the processor time of both processes while they follow a market in real time, over that time. It is
taken over the last minutes before an hour and the first ones behind it, when most bars close, and after the auditors
have all of the hour in memory. `writer_ratio` is the throughput of the writer's process that drains a backlog while
both auditors work on the same one, to that of the writer alone: the median of rounds by turns.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final

from klagg.bench.aggregator import BenchFailed, cpu_s_of, high_water_mb
from klagg.bench.recorded_hour import KEYS, LEAD_TICK_MS, TICK_MS, Commit, Hour
from klagg.bench.writer import TIMEOUT_S, Bench, empty, rows_there, servers, settled, until, writer
from klagg.drivers.redis_streams import Streams, Write
from klagg.embedded import RedisServer
from klagg.settings import Settings, to_toml
from klagg.wire.fields import texts_of
from klagg.wire.findings import FindingKind
from klagg.wire.keys import GROUP_COMPLETENESS, GROUP_LIFECYCLE, GROUP_WRITERS

TITLE = "the auditors of the streams: their share of a core in real time, and the writer's throughput beside them"

GROUPS: Final = ((KEYS.klines, GROUP_COMPLETENESS), (KEYS.events, GROUP_COMPLETENESS), (KEYS.events, GROUP_LIFECYCLE))
MODULES: Final = ("auditors.completeness_service", "auditors.lifecycle_service")
OF_THE_BENCH: Final = frozenset({FindingKind.GROUP_SILENT, FindingKind.LAGGING, FindingKind.STALLED})
"""Findings that are right here: other processes are not there, and what leads up is played fast."""
LEAD_MINUTES: Final = 56
WRITE_ENTRIES: Final = 2000
PROBE_S: Final = 0.05


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--symbols", type=int, default=750, help="how many symbols trade (750)")
    parser.add_argument("--rate", type=int, default=500, help="trades a second, which make the bars (500)")
    parser.add_argument("--minutes", type=int, default=6, help="minutes of exchange time to follow (6)")
    parser.add_argument(
        "--lead", type=int, default=LEAD_MINUTES, help=f"minutes before them, played fast ({LEAD_MINUTES})"
    )
    parser.add_argument("--speed", type=float, default=1.0, help="exchange time in real time (1)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the writer of either kind; 0: none (5)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """See the module. `cpu_s` is by process, for the minutes that were followed; `writer_rows_per_s` counts entries of
    klines."""
    hour = Hour(args.symbols, args.rate)
    lead = list(hour.minutes(args.lead, LEAD_TICK_MS))
    live = list(hour.minutes(args.minutes, TICK_MS))
    found: dict[str, Any] = {"name": "audit", "symbols": args.symbols, "minutes": args.minutes, "speed": args.speed}
    found |= _cost(lead, live, args.speed)
    return found | (_beside_the_writer([*lead, *live], args.rounds) if args.rounds else {})


def _cost(lead: Sequence[Commit], live: Sequence[Commit], speed: float) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="klagg-bench-") as folder,
        RedisServer(Path(folder) / "redis", maxmemory_mb=8192) as redis,
        closing(Streams(redis.url)) as streams,
    ):
        base = Settings()
        settings = replace(
            base, redis=replace(base.redis, url=redis.url), database=replace(base.database, enabled=False)
        )
        config = Path(folder) / "klagg.toml"
        config.write_text(to_toml(settings), encoding="utf-8")
        with _auditors(config) as processes:
            _publish(streams, lead)
            _consumed(streams, processes)
            before = [cpu_s_of(each.pid) for each in processes]
            _play(streams, live, speed)
            _consumed(streams, processes)
            spent = [cpu_s_of(each.pid) - was for each, was in zip(processes, before, strict=True)]
            memory = [high_water_mb(each.pid) for each in processes]
        _check(streams)
    followed_s = (live[-1].time_ms - live[0].time_ms + TICK_MS) / 1000
    klines = sum(len(each.klines) for each in live)
    return {
        "core_share": round(sum(spent) / followed_s, 4),
        "cpu_s": [round(each, 2) for each in spent],
        "klines": klines,
        "events": sum(len(each.events) for each in live),
        "rss_mb": memory,
    }


@contextmanager
def _auditors(config: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Both processes; they are ended before the context is left."""
    commands = [[sys.executable, "-m", module, "--config", str(config)] for module in MODULES]
    processes = [subprocess.Popen(each, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for each in commands]
    try:
        yield processes
    finally:
        for each in processes:
            each.terminate()
        for each in processes:
            each.wait(TIMEOUT_S)


def _publish(streams: Streams, commits: Iterable[Commit]) -> None:
    """All at once, in their order."""
    waiting: list[Write] = []
    for commit in commits:
        waiting += commit.writes
        if len(waiting) >= WRITE_ENTRIES:
            streams.write(waiting)
            waiting = []
    if waiting:
        streams.write(waiting)


def _play(streams: Streams, commits: Sequence[Commit], speed: float) -> None:
    """Each commit at its time."""
    began_s, first_ms = time.monotonic(), commits[0].time_ms
    for commit in commits:
        with suppress(ValueError):  # late already: the next one at once
            time.sleep(began_s + (commit.time_ms - first_ms) / 1000 / speed - time.monotonic())
        streams.write(commit.writes)


def _left(streams: Streams) -> int:
    """How many entries the auditors' groups have not settled."""
    left = 0
    for key, group in GROUPS:
        if group not in streams.groups(key):
            return 1
        left += (streams.group_lag(key, group) or 0) + streams.pending_count(key, group)
    return left


def _unread(streams: Streams) -> int:
    """How many entries the auditors' groups have not read."""
    return sum(streams.group_lag(key, group) or 0 for key, group in GROUPS)


def _moved(streams: Streams, processes: Sequence[subprocess.Popen[bytes]], before: int) -> int:
    """Wait until fewer than `before` entries are unread, and how many are; BenchFailed if nothing moves."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while (left := _unread(streams)) >= before:
        if any(each.poll() is not None for each in processes) or time.monotonic() > deadline_s:
            raise BenchFailed("the auditors do not work beside the writer")
        time.sleep(PROBE_S)
    return left


def _consumed(streams: Streams, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until everything is settled; BenchFailed if a process ends, or nothing moves for a while."""
    least, moved_s = -1, time.monotonic()
    while left := _left(streams):
        if left != least:
            least, moved_s = left, time.monotonic()
        if any(each.poll() is not None for each in processes):
            raise BenchFailed("an auditor ended while it was measured")
        if time.monotonic() - moved_s > TIMEOUT_S:
            raise BenchFailed(f"the auditors do not settle the last {left} entries")
        time.sleep(PROBE_S)


def _check(streams: Streams) -> None:
    """BenchFailed if the auditors found anything wrong: then something else was measured than a calm market."""
    for entry in streams.range(KEYS.findings):
        finding = texts_of(entry.fields)
        if finding["kind"] not in OF_THE_BENCH:
            raise BenchFailed(f"the auditors found {finding['kind']} {finding['symbol']}: {finding['evidence']}")


def _beside_the_writer(commits: Sequence[Commit], rounds: int) -> dict[str, Any]:
    """The writer's rates with and without auditors, by turns."""
    alone, beside = [], []
    with servers() as bench:
        _drained(bench, commits, audited=False)  # the first one finds an empty cache
        for _ in range(rounds):
            alone.append(_drained(bench, commits, audited=False))
            beside.append(_drained(bench, commits, audited=True))
    ratios = [ours / theirs for ours, theirs in zip(beside, alone, strict=True)]
    return {
        "writer_ratio": round(median(ratios), 3),
        "writer_rows_per_s": int(median(alone)),
        "writer_rows_per_s_beside": int(median(beside)),
        "ratios": [round(each, 3) for each in ratios],
        "rounds": rounds,
    }


def _drained(bench: Bench, commits: Sequence[Commit], *, audited: bool) -> float:
    """Entries a second of a writer that finds all klines in the stream, from its first acknowledgement to its last."""
    streams = bench.streams
    empty(bench)
    streams.delete(KEYS.klines, KEYS.events, KEYS.findings, *_memories())
    _publish(streams, commits)
    streams.ensure_group(KEYS.klines, GROUP_WRITERS)
    published = sum(len(each.klines) for each in commits)
    if not audited:
        return _writer_alone(bench, published)
    for key, group in GROUPS:
        streams.ensure_group(key, group)
    before = _unread(streams)
    with _auditors(bench.config) as processes:
        begun = _moved(streams, processes, before)
        rate = _writer_alone(bench, published)
        if _unread(streams):
            _moved(streams, processes, begun)  # they were at work all the time, and still are
    return rate


def _memories() -> list[str]:
    names = [KEYS.audit(name) for name in ("completeness", "lifecycle")]
    return [*names, *(f"{name}:at" for name in names)]


def _writer_alone(bench: Bench, published: int) -> float:
    with writer(bench) as process:
        first = until(process, lambda: settled(bench, published))
        began = time.perf_counter()
        until(process, lambda: settled(bench, published) == published)
        took_s = time.perf_counter() - began
    if first == published or not rows_there(bench):
        raise BenchFailed(f"{published} klines are too few to measure the writer: more symbols or minutes are needed")
    return (published - first) / took_s

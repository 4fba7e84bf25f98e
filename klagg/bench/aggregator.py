"""`klagg bench aggregator`: the whole process on a real Redis, catching up with a full feed or following a live one."""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from aggregator.checkpoint import block_keys
from klagg.bench.trades import PRICE_SCALE, QTY_SCALE, START_MS, TradeGenerator
from klagg.drivers.redis_streams import Append, Streams
from klagg.embedded import RedisServer
from klagg.errors import KlaggError
from klagg.intervals import INTERVALS
from klagg.settings import Settings, to_toml
from klagg.wire.entries import EVENT_TICK, Listing, listing_entries, tick_entry
from klagg.wire.entry_id import BEFORE_FIRST, EntryId
from klagg.wire.fields import Fields, stamp
from klagg.wire.keys import Keys

TITLE = "the aggregator's process: a real Redis stream full of entries in, commits out; or a live feed and its delays"
TICK_MS = 250
ROWS = 512
KEYS = Keys(0)
START_TIMEOUT_S = 60.0
WARM_TICKS = 8
PROBE_S = 0.002
COST = "cpu_s_per_million"
FEW = ("1m", "5m", "30m", "1h", "4h", "1d", "1w")
"""The seven intervals that cost is compared with; more are added in the order of their lengths."""


class BenchFailed(KlaggError):
    """The process under measure ended, or did not get on."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--symbols", type=int, default=600, help="how many symbols trade (600)")
    parser.add_argument(
        "--against",
        type=int,
        default=0,
        metavar="SYMBOLS",
        help="also run with so many symbols, by turns, and tell the ratio of costs",
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, if --against is given (3)")
    parser.add_argument("--intervals", type=int, default=15, help="how many intervals: 15 are the default ones (15)")
    parser.add_argument(
        "--against-intervals",
        type=int,
        default=0,
        metavar="COUNT",
        help="also run with so many intervals, by turns, and tell the ratio of the medians of costs",
    )
    parser.add_argument("--entries", type=int, default=96, help="entries of 512 trades in a tick of 250 ms (96)")
    parser.add_argument("--checkpoint-s", type=int, default=60, help="seconds between two checkpoints (60)")
    parser.add_argument("--ticks", type=int, default=80, help="ticks in the feed (80)")
    parser.add_argument(
        "--live",
        type=int,
        default=0,
        metavar="RATE",
        help="follow a live feed of RATE trades/s instead, and measure delays",
    )
    parser.add_argument("--seconds", type=int, default=75, help="how long to follow (75: over a minute's close)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """See TITLE. `rss_mb` is the process's highest resident memory, `cpu_s_per_million` the processor time that it
    needed for a million trades: other load on the machine disturbs that less than `trades_per_s`.

    `cost_ratio` divides the cheapest round's `cpu_s_per_million` by that of the rounds with `--against` symbols; with
    `--against-intervals` the median round's. `--entries 5 --ticks 480` is a market of 10,000 trades/s for two minutes,
    in which the outputs of ticks cost more than trades. `bars_kb` and `checkpoint_kb` are what the hash of bars
    in progress and the newest checkpoint take in Redis (0: the feed was too short for one).
    """
    if args.live or not (args.against or args.against_intervals):
        return _measure(args, args.symbols, args.intervals)
    against = args.against or args.symbols, args.against_intervals or args.intervals
    rounds = [(_measure(args, args.symbols, args.intervals), _measure(args, *against)) for _ in range(args.rounds)]
    choose = _median if args.against_intervals else _cheapest
    many, few = (choose(each) for each in zip(*rounds, strict=True))
    ratio = round(many[COST] / few[COST], 3)
    return {**many, "against": few, "rounds": args.rounds, "cost_ratio": ratio}


def _cheapest(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run that cost least."""
    return min(runs, key=itemgetter(COST))


def _median(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run in the middle by cost; of an even number the cheaper of the two."""
    return sorted(runs, key=itemgetter(COST))[(len(runs) - 1) // 2]


def _measure(args: argparse.Namespace, symbols: int, intervals: int) -> dict[str, Any]:
    """One run on a Redis of its own."""
    others = [name for name in INTERVALS if name not in FEW and not name.endswith("s")]
    chosen = (*FEW, *others)[:intervals]
    with tempfile.TemporaryDirectory(prefix="klagg-bench-") as folder:
        server = RedisServer(Path(folder) / "redis", maxmemory_mb=8192).start()
        url = server.url
        try:
            base = Settings()
            config = replace(
                base,
                redis=replace(base.redis, url=url, maxmemory_mb=8192),
                aggregator=replace(base.aggregator, intervals=chosen),
                database=replace(base.database, enabled=False),
            )
            path = Path(folder) / "klagg.toml"
            path.write_text(to_toml(config), encoding="utf-8")
            market = TradeGenerator(symbols)
            with closing(Streams(url)) as streams:
                found = _live(args, market, streams, url, path) if args.live else _catch_up(args, market, streams, path)
        finally:
            server.stop()
    return {"name": "aggregator", "symbols": symbols, "intervals": len(chosen), **found}


def _catch_up(args: argparse.Namespace, market: TradeGenerator, streams: Streams, config: Path) -> dict[str, Any]:
    """Fill the feed, start the process, and take the time from one tick's commit to the last one's."""
    ids: list[str] = []
    _list_symbols(streams, market)
    for number in range(args.ticks + WARM_TICKS):
        at_ms = START_MS + number * TICK_MS
        entries = market.entries(market.trades(args.entries * ROWS, at_ms, at_ms + TICK_MS), ROWS)
        ids.append(_write(streams, [*entries, tick_entry(at_ms + TICK_MS)]))
    with _aggregator(config, args.checkpoint_s) as process:
        began, began_cpu_s = _wait_for(process, streams, ids[WARM_TICKS - 1]), cpu_s_of(process.pid)
        ended, ended_cpu_s = _wait_for(process, streams, ids[-1]), cpu_s_of(process.pid)
        memory = high_water_mb(process.pid)
    trades = args.ticks * args.entries * ROWS
    pointer = streams.hash_of(KEYS.checkpoint)
    blocks = block_keys(pointer[b"prefix"].decode(), int(pointer[b"blocks"])) if b"prefix" in pointer else ()
    return {
        "trades_per_s": int(trades / (ended - began)),
        "trades": trades,
        "trades_per_tick": args.entries * ROWS,
        "cpu_s_per_million": round((ended_cpu_s - began_cpu_s) / trades * 1e6, 4),
        "rss_mb": memory,
        "bars_kb": streams.memory(KEYS.bars) // 1024,
        "checkpoint_kb": sum(map(streams.memory, (KEYS.checkpoint, *blocks))) // 1024,
    }


def _list_symbols(streams: Streams, market: TradeGenerator) -> None:
    listings = [
        Listing(name, START_MS - 1, PRICE_SCALE, QTY_SCALE, "TRADING", 4_133_404_800_000) for name in market.names
    ]
    _write(streams, listing_entries(listings))


_seq = itertools.count(1)


def _write(streams: Streams, entries: list[Fields]) -> str:
    """Entries into the feed; the id of the last."""
    return streams.write([Append(KEYS.feed, stamp(each, "bench@1", next(_seq))) for each in entries])[-1]


@contextmanager
def _aggregator(config: Path, checkpoint_s: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "aggregator.service", "--config", str(config), "--checkpoint-s", str(checkpoint_s)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=START_TIMEOUT_S)


def _wait_for(process: subprocess.Popen[bytes], streams: Streams, entry_id: str) -> float:
    """Until the feed is committed up to `entry_id`; the monotonic time then."""
    wanted = EntryId.of(entry_id)
    seen, changed = "", time.monotonic()
    while True:
        held = streams.hash_of(KEYS.commit).get(b"feed", BEFORE_FIRST.encode()).decode()
        if EntryId.of(held) >= wanted:
            return time.monotonic()
        if process.poll() is not None:
            raise BenchFailed(f"the aggregator ended with {process.returncode}: {process.communicate()[1].decode()}")
        if held != seen:
            seen, changed = held, time.monotonic()
        if time.monotonic() - changed > START_TIMEOUT_S:
            raise BenchFailed(f"the aggregator stands at {held} for {START_TIMEOUT_S:.0f} s")
        time.sleep(PROBE_S)


def high_water_mb(pid: int) -> float:
    """VmHWM of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def cpu_s_of(pid: int) -> float:
    """Processor seconds of a process so far, all its threads, in its own code and in the kernel."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class _Probe:
    """Another client of Redis that asks PING again and again: how long the slowest answer took."""

    streams: Streams
    worst_ms: float = 0.0
    delays_ms: list[float] = field(default_factory=list)

    def once(self) -> None:
        started = time.perf_counter()
        self.streams.ping()
        self.delays_ms.append((time.perf_counter() - started) * 1000)


@contextmanager
def _repeating(work: Callable[[], None]) -> Iterator[None]:
    """`work` every PROBE_S in a thread of its own."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(PROBE_S):
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _live(args: argparse.Namespace, market: TradeGenerator, streams: Streams, url: str, config: Path) -> dict[str, Any]:
    """Write ticks in real time; how long after its tick an output is there, and how long another client waits."""
    commits: dict[int, float] = {}
    sent: dict[int, float] = {}
    _list_symbols(streams, market)
    ticks = args.seconds * 1000 // TICK_MS
    count = args.live * TICK_MS // 1000
    prepared = []
    for number in range(ticks):
        at_ms = START_MS + 30_000 + number * TICK_MS
        prepared.append(([*market.entries(market.trades(count, at_ms, at_ms + TICK_MS), ROWS)], at_ms + TICK_MS))
    with (
        closing(Streams(url)) as other,
        closing(Streams(url)) as watcher,
        _aggregator(config, args.checkpoint_s) as process,
    ):
        _wait_for(process, streams, _write(streams, [tick_entry(START_MS + 30_000)]))
        probe, position = _Probe(other), {KEYS.events: "$"}

        def watch() -> None:
            for entry in watcher.read(position, count=10_000, block_ms=100).get(KEYS.events, ()):
                position[KEYS.events] = entry.id
                if entry.fields[b"kind"] == EVENT_TICK.encode():
                    commits[int(entry.fields[b"time"])] = time.monotonic()

        with _repeating(watch), _repeating(probe.once):
            began = time.monotonic()
            for number, (entries, time_ms) in enumerate(prepared):
                _write(streams, entries)
                with suppress(ValueError):  # late already: the next one at once
                    time.sleep(began + (number + 1) * TICK_MS / 1000 - time.monotonic())
                sent[time_ms] = time.monotonic()
                last = _write(streams, [tick_entry(time_ms)])
            _wait_for(process, streams, last)
            time.sleep(2 * PROBE_S)
        memory = high_water_mb(process.pid)
    delays = sorted((commits[each] - sent[each]) * 1000 for each in sent if each in commits)
    waits = sorted(probe.delays_ms)
    return {
        "live_trades_per_s": args.live,
        "ticks": len(delays),
        "tick_to_commit_p50_ms": _quantile(delays, 0.5),
        "tick_to_commit_p99_ms": _quantile(delays, 0.99),
        "tick_to_commit_max_ms": _quantile(delays, 1.0),
        "other_client_p99_ms": _quantile(waits, 0.99),
        "other_client_max_ms": _quantile(waits, 1.0),
        "rss_mb": memory,
    }


def _quantile(ascending: list[float], share: float) -> float:
    """The value below which that share of them lies."""
    return round(ascending[min(len(ascending) - 1, int(share * len(ascending)))], 2) if ascending else 0.0

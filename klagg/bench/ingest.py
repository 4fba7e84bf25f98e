"""`klagg bench ingest`: the real klagg-ingest process, WebSocket in to XADD acknowledged, beside a bare receive loop.

Both read the same frames from the same sender, one after the other, several times; the medians are told. How long the
process took is read from the ids of its entries, which Redis makes from its clock when it takes them.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import ujson
from websockets.asyncio.client import connect

from klagg.bench.aggregator import BenchFailed, cpu_s_of
from klagg.drivers.redis_streams import Streams
from klagg.embedded import RedisServer
from klagg.settings import Settings, to_toml
from klagg.wire.entries import TRADES
from klagg.wire.entry_id import BEFORE_FIRST, milliseconds_of
from klagg.wire.keys import Keys

TITLE = "the ingest process: messages a second from the WebSocket to Redis' acknowledgement, beside a bare receive loop"
FEED = Keys(0).feed
TIMEOUT_S = 60.0
PROBE_S = 0.02
QUIET_S = 0.5
"""No new entry for so long, watermarks aside: the process has written what it got."""
FRAME_BYTES_MAX, FRAMES_QUEUED = 1 << 16, 2048
"""As the process sets them."""


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--symbols", type=int, default=100, help="how many symbols trade, over one connection (100)")
    parser.add_argument("--messages", type=int, default=400_000, help="messages in a round (400,000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of either kind, of which the median counts (5)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """See TITLE. `cpu_s_per_million` is the processor time of the process (all threads) for a million trades."""
    bare, whole, cpu_s = [], [], []
    with tempfile.TemporaryDirectory(prefix="klagg-bench-") as folder, _exchange(args) as (websocket_url, rest_url):
        server = RedisServer(Path(folder) / "redis", maxmemory_mb=8192).start()
        try:
            config = Path(folder) / "klagg.toml"
            config.write_text(to_toml(_settings(args, server.url, websocket_url, rest_url)), encoding="utf-8")
            with closing(Streams(server.url)) as streams:
                for _ in range(args.rounds):
                    bare.append(asyncio.run(_bare(args, websocket_url, rest_url)))
                    rate, used_s = _ingest(args, streams, config, rest_url)
                    whole.append(rate)
                    cpu_s.append(used_s)
        finally:
            server.stop()
    return {
        "name": "ingest",
        "messages_per_s": int(median(whole)),
        "bare_receive_per_s": int(median(bare)),
        "ratio": round(median(whole) / median(bare), 3),
        "cpu_s_per_million": round(median(cpu_s), 3),
        "messages": args.messages,
        "symbols": args.symbols,
        "rounds": args.rounds,
        "ratios": [round(ours / theirs, 3) for ours, theirs in zip(whole, bare, strict=True)],
    }


def _settings(args: argparse.Namespace, redis_url: str, websocket_url: str, rest_url: str) -> Settings:
    base = Settings()
    return replace(
        base,
        exchange=replace(
            base.exchange, websocket_url=websocket_url, rest_url=rest_url, symbols_per_connection=max(1, args.symbols)
        ),
        redis=replace(base.redis, url=redis_url, maxmemory_mb=8192),
        database=replace(base.database, enabled=False),
    )


@contextmanager
def _exchange(args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The sender's process; its WebSocket and REST URLs."""
    command = [sys.executable, "-m", "klagg.bench.exchange", str(args.symbols), str(args.messages)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        urls = process.stdout.readline().split()
        if len(urls) != 2:
            raise BenchFailed("the sender of the bench did not start")
        try:
            yield urls[0], urls[1]
        finally:
            process.terminate()


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return ujson.loads(answer.read())


async def _bare(args: argparse.Namespace, websocket_url: str, rest_url: str) -> float:
    """Messages a second of the websockets library alone: receive and forget."""
    async with connect(
        f"{websocket_url}/market/stream?streams=s0000usdt@aggTrade",
        compression=None,
        max_size=FRAME_BYTES_MAX,
        max_queue=FRAMES_QUEUED,
    ) as socket:
        await asyncio.to_thread(_get, f"{rest_url}/go")
        receive = socket.recv
        await receive(decode=False)
        began = time.perf_counter()
        for _ in range(args.messages - 1):
            await receive(decode=False)
        return float(args.messages - 1) / (time.perf_counter() - began)


def _ingest(args: argparse.Namespace, streams: Streams, config: Path, rest_url: str) -> tuple[float, float]:
    """(messages a second, processor seconds for a million of them) of a klagg-ingest process started anew."""
    streams.delete(FEED)
    command = [sys.executable, "-m", "ingest.service", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _until(process, lambda: _get(f"{rest_url}/ready")["streams"] >= args.symbols)
        used_s = cpu_s_of(process.pid)
        _get(f"{rest_url}/go")
        took_s = _written(process, streams, args.messages)
        return args.messages / took_s, (cpu_s_of(process.pid) - used_s) / args.messages * 1e6
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)


def _until(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Wait for a condition; BenchFailed if the process ends, or it takes too long."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        if process.poll() is not None:
            raise BenchFailed(f"klagg-ingest ended with {process.returncode}: {process.communicate()[1].decode()}")
        if time.monotonic() > deadline:
            raise BenchFailed(f"klagg-ingest did not get on for {TIMEOUT_S:.0f} s")
        time.sleep(PROBE_S)


def _written(process: subprocess.Popen[bytes], streams: Streams, messages: int) -> float:
    """Wait until all trades are in the feed; seconds between the first and the last entry that holds some."""
    trades, last, grown = 0, BEFORE_FIRST, (0, time.monotonic())
    times: list[int] = []

    def all_there() -> bool:
        nonlocal trades, last, grown
        length = streams.length(FEED)
        if length > grown[0]:
            grown = length, time.monotonic()
        if not length or time.monotonic() - grown[1] < QUIET_S:
            return False  # not read while the process is measured: that would take Redis' time and a processor's
        for entry in streams.read({FEED: last}, count=5000).get(FEED, ()):
            last = entry.id
            if entry.fields[b"kind"] == TRADES.encode():
                trades += int(entry.fields[b"n"])
                times.append(milliseconds_of(entry.id))
        return trades >= messages

    _until(process, all_there)
    return max(1, times[-1] - times[0]) / 1000

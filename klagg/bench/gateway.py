"""`klagg bench gateway`: the real klagg-gateway process under many WebSocket clients, with and without a stuck one.

Live bars are written into Redis as an aggregator does, at a steady rate, each with the time of writing; clients in a
process of their own (`gateway_clients`) say how much later every event reached them. Rounds with a client that
never reads take turns with rounds without one; the medians are told.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final
from urllib.error import URLError

import ujson

from klagg.bench.aggregator import BenchFailed, cpu_s_of, high_water_mb
from klagg.clock import local_ms
from klagg.drivers.redis_streams import Append, HashUpdate, Streams
from klagg.embedded import RedisServer
from klagg.embedded.traces import free_port
from klagg.intervals import MINUTE_MS
from klagg.settings import Settings, to_toml
from klagg.wire.entries import BARS_POSITION, live_field
from klagg.wire.entry_id import BEFORE_FIRST
from klagg.wire.exchange_info import KeptExchangeInfo
from klagg.wire.fields import stamp
from klagg.wire.keys import EXCHANGE_INFO_KEY, Keys

TITLE = "the gateway: how late live bars reach many WebSocket clients, and what one stuck client does to the others"

KEYS: Final = Keys(0)
INTERVAL: Final = "1m"
SYMBOLS_FOR_EACH: Final = 10
"""There are so many times more symbols than a client has streams."""
FINAL_EVERY: Final = 20
"""Every so many updates the bars close."""
KEPT_ENTRIES: Final = 1000
TIMEOUT_S: Final = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of this bench."""
    parser.add_argument("--clients", type=int, default=500, help="WebSocket clients (500)")
    parser.add_argument("--streams", type=int, default=20, help="streams of each client (20)")
    parser.add_argument("--updates", type=float, default=2.0, help="updates of every bar in a second (2)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a round (10)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of either kind, of which the median counts (5)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """See TITLE. `rss_mb` is the most memory that the process had, `cpu_percent` of one core it took in the rounds."""
    with tempfile.TemporaryDirectory(prefix="klagg-bench-") as folder:
        server = RedisServer(Path(folder) / "redis", maxmemory_mb=512).start()
        try:
            with closing(Streams(server.url)) as streams:
                return _rounds(args, Path(folder), server.url, streams)
        finally:
            server.stop()


def _rounds(args: argparse.Namespace, folder: Path, redis_url: str, streams: Streams) -> dict[str, Any]:
    base, port = Settings(), free_port()
    settings = replace(
        base,
        redis=replace(base.redis, url=redis_url),
        database=replace(base.database, enabled=False),
        gateway=replace(base.gateway, port=port),
    )
    config = folder / "klagg.toml"
    config.write_text(to_toml(settings), encoding="utf-8")
    writer = BarWriter(streams, [f"S{number}USDT" for number in range(args.streams * SYMBOLS_FOR_EACH)])
    writer.write()
    command = [sys.executable, "-m", "gateway.service", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: dict[int, list[dict[str, float]]] = {0: [], 1: []}
    try:
        _wait_for(process, port, len(writer.symbols))
        began, used_s = time.monotonic(), cpu_s_of(process.pid)
        for _ in range(args.rounds):
            for stuck in (0, 1):
                found[stuck].append(_round(args, port, writer, stuck))
        cpu = (cpu_s_of(process.pid) - used_s) / (time.monotonic() - began)
        peak = high_water_mb(process.pid)
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)
    plain, beside = (median(each["p99_ms"] for each in found[stuck]) for stuck in (0, 1))
    return {
        "name": "gateway",
        "clients": args.clients,
        "p99_ms": plain,
        "rss_mb": peak,
        "p50_ms": median(each["p50_ms"] for each in found[0]),
        "p99_stuck_ms": beside,
        "stuck_ratio": round(beside / plain, 3) if plain else 0.0,
        "cpu_percent": round(100 * cpu, 1),
        "events_per_s": int(median(each["events"] for each in found[0]) / args.seconds),
        "streams": args.streams,
        "updates_per_s": args.updates,
        "rounds": args.rounds,
    }


class BarWriter:
    """Writes live bars of `symbols` as an aggregator does; `time` is this machine's when it writes."""

    def __init__(self, streams: Streams, symbols: list[str]) -> None:
        self._streams, self.symbols = streams, symbols
        self._seq, self._position = 0, BEFORE_FIRST
        self._opening = int(local_ms()) // MINUTE_MS * MINUTE_MS
        body = ujson.dumps({"symbols": [{"symbol": each} for each in symbols]})
        info = KeptExchangeInfo(body, symbols, int(local_ms()), int(local_ms()))
        streams.write([HashUpdate(EXCHANGE_INFO_KEY, stamp(info.to_fields(), "bench", 1))])

    def write(self) -> None:
        """All bars once more; every FINAL_EVERY times they close, and the next ones open with the next call."""
        self._seq += 1
        closes = self._seq % FINAL_EVERY == 0
        ending = "1,1,1" if closes else "0,0,0"
        value = (
            f"{self._opening},64100.10,64120.00,64090.90,64111.10,12.345,791234.56780,{self._seq},6.000,384600.00000,"
            f"100,{100 + self._seq},{ending}"
        )
        bars = dict.fromkeys((live_field(symbol, INTERVAL) for symbol in self.symbols), value)
        entry = stamp({"time": str(int(local_ms())), **bars}, "bench", self._seq)
        shown = {} if closes else bars
        writes = (
            Append(KEYS.live, entry, KEPT_ENTRIES),
            HashUpdate(KEYS.bars, {**shown, BARS_POSITION: self._position}),
        )
        self._position = self._streams.write(writes)[0]
        self._opening += MINUTE_MS if closes else 0


def _round(args: argparse.Namespace, port: int, writer: BarWriter, stuck: int) -> dict[str, float]:
    """What the clients say of one round, with so many stuck ones beside them."""
    command = [
        sys.executable,
        "-m",
        "klagg.bench.gateway_clients",
        str(port),
        str(args.clients),
        str(args.streams),
        str(stuck),
        str(len(writer.symbols)),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdin is not None
        assert clients.stdout is not None
        if clients.stdout.readline().strip() != "ready":
            raise BenchFailed("the clients of the bench could not connect")
        began = time.monotonic()
        for number in range(int(args.seconds * args.updates)):
            time.sleep(max(0.0, began + number / args.updates - time.monotonic()))
            writer.write()
        time.sleep(1 / args.updates)
        clients.stdin.close()
        said: dict[str, float] = ujson.loads(clients.stdout.readline() or "{}")
    if not said.get("events"):
        raise BenchFailed("no event reached the clients of the bench")
    return said


def _wait_for(process: subprocess.Popen[bytes], port: int, symbols: int) -> None:
    """Wait until the gateway serves all symbols; BenchFailed if it ends or takes too long."""
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/fapi/v1/ticker/price", timeout=5) as answer:
                if len(ujson.loads(answer.read())) == symbols:
                    return
        except (URLError, OSError):
            pass
        time.sleep(0.05)
    raise BenchFailed(f"klagg-gateway ended with {process.poll()} or was not ready within {TIMEOUT_S:.0f} s")

"""How long a commit keeps another client of Redis waiting: the largest tick there is, measured by a client that pings.

For test_stall.py, on a Redis of its own.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from aggregator.commit import KLINES_MAX, Committer, split_outputs
from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg.drivers.redis_streams import Streams
from klagg.errors import RedisUnavailable
from klagg.settings import Aggregator
from klagg.wire.entries import AGG_IDS, TradeRow, tick_entry, trades_entry_of_rows
from klagg.wire.fields import Fields, stamp
from klagg.wire.keys import Keys

ROLLOVER_MS = 1_699_833_600_000
"""A Monday 00:00 UTC: bars of every interval up to a week close."""

PING_EVERY_S = 0.0005
READY_S = 20.0


@dataclass(slots=True)
class Pings:
    """What a client that does nothing but ping saw, in ms: the longest wait, and how many pings there were."""

    worst_ms: float = 0.0
    count: int = 0


@dataclass(slots=True)
class Stall:
    """One rollover: its klines, the commits it took, the time for all of them, and the pings meanwhile."""

    klines: int
    commits: int
    took_ms: float
    pings: Pings = field(default_factory=Pings)


def _ping(url: str, control: Connection) -> None:
    """The other client: pings until told to stop, then answers with what it saw."""
    streams, seen = Streams(url), Pings()
    streams.ping()
    control.send(None)
    while not control.poll():
        started = time.perf_counter()
        streams.ping()
        seen.worst_ms = max(seen.worst_ms, (time.perf_counter() - started) * 1000)
        seen.count += 1
        time.sleep(PING_EVERY_S)
    control.send(seen)
    streams.close()


@contextmanager
def pinging(url: str) -> Iterator[Pings]:
    """A process that pings while the block runs; what it saw is filled in at the end.

    It has to be a process: a thread would wait for this one's work rather than for Redis.
    """
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_ping, args=(url, theirs), daemon=True)
    child.start()
    seen = Pings()
    try:
        if not ours.poll(READY_S):
            raise RedisUnavailable(f"the client that pings {url} did not start within {READY_S:.0f} s")
        ours.recv()
        yield seen
        ours.send(None)
        found: Pings = ours.recv()
        seen.worst_ms, seen.count = found.worst_ms, found.count
    finally:
        child.kill()
        child.join()


def rollover(symbols: int = 750) -> Outputs:
    """The outputs of the tick at which bars of every default interval close for `symbols` symbols, as a core says."""
    core = Core(Aggregator(), epoch=1)
    names = [f"S{number}USDT" for number in range(symbols)]
    for at, time_ms in enumerate((ROLLOVER_MS - 1000, ROLLOVER_MS + 1)):
        rows = [
            TradeRow(name, at + 1, f"{27_000 + number / 100:.2f}", "0.125", at + 1, at + 1, time_ms, False)
            for number, name in enumerate(names)
        ]
        for fields in (
            trades_entry_of_rows(rows, line="A", ids=AGG_IDS, recv_ms=time_ms),
            tick_entry(time_ms),
        ):
            said = [outputs.encode() for outputs in core.apply("1-1", _raw(fields, at))]
    (outputs,) = said
    return outputs


def _raw(fields: Fields, number: int) -> dict[bytes, bytes]:
    stamped = stamp(fields, "bench", number)
    return {name.encode(): value.encode() for name, value in stamped.items()}


def measure(url: str, outputs: Outputs, klines_max: int = KLINES_MAX) -> Stall:
    """Commit one tick's outputs to an empty Redis of the caller's, in parts of `klines_max`, with a client pinging."""
    streams, commits = Streams(url), 0
    committer = Committer(streams, Keys(0), "bench")
    committer.take_over(0)
    with pinging(url) as pings:
        started = time.perf_counter()
        for part in split_outputs(outputs, klines_max):
            committer.commit(part, "1-1")
            commits += 1
        took_ms = (time.perf_counter() - started) * 1000
    streams.close()
    return Stall(len(outputs.klines), commits, took_ms, pings)

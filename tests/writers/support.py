"""Klines, entries and real writer processes for these tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, Streams
from klagg.kline import DECIMAL_FIELDS, FIELDS, Kline
from klagg.wire.fields import Fields, stamp
from klagg.wire.keys import Keys, heartbeat_key
from writers.batch import Accepted

ROOT = Path(__file__).resolve().parents[2]
MINUTE_MS = 60_000
OPEN_TIME = 1_721_329_440_000

PLAIN: dict[str, Any] = {
    "symbol": "BTCUSDT",
    "interval": "1m",
    "open_time": OPEN_TIME,
    "close_time": OPEN_TIME + MINUTE_MS - 1,
    "open": "64100.10",
    "high": "64120.00",
    "low": "64090.90",
    "close": "64111.10",
    "volume": "12.345",
    "quote_volume": "791234.56780",
    "trades": 321,
    "taker_buy_volume": "6.000",
    "taker_buy_quote_volume": "384570.00000",
    "first_agg_id": 10,
    "last_agg_id": 90,
    "first_trade_id": 100,
    "last_trade_id": 420,
    "complete": 1,
    "official": 0,
    "epoch": 1,
    "revision": 1,
    "source": "own",
    "edge": "",
}


def kline(**changes: Any) -> Kline:
    """A good kline with some fields changed; `close_time` follows a changed open time of a minute."""
    values = {**PLAIN, **changes}
    if "close_time" not in changes:
        values["close_time"] = values["open_time"] + MINUTE_MS - 1
    return Kline(**values)


def minutes(count: int, **changes: Any) -> list[Kline]:
    """Klines of consecutive minutes."""
    return [kline(open_time=OPEN_TIME + n * MINUTE_MS, **changes) for n in range(count)]


def entry_of(each: Kline, seq: int = 1) -> Fields:
    return stamp(each.to_fields(), "aggregator@1", seq)


def raw_of(each: Kline) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in entry_of(each).items()}


def accepted(klines: Iterable[Kline], stream: str = "klines:{0}") -> list[Accepted]:
    return [Accepted(stream, f"{n}-0", {}, each) for n, each in enumerate(klines, 1)]


def publish(streams: Streams, klines: Sequence[Kline], shard: int = 0) -> list[str]:
    """Append klines to the stream of a shard; their ids."""
    return streams.write([Append(Keys(shard).klines, entry_of(each, seq)) for seq, each in enumerate(klines, 1)])


SELECT = ", ".join(
    {
        "open_time": "(extract(epoch FROM open_time) * 1000)::bigint AS open_time",
        "close_time": "(extract(epoch FROM close_time) * 1000)::bigint AS close_time",
        "complete": "complete::integer",
        "official": "official::integer",
    }.get(name, f'"{name}"::text' if name in DECIMAL_FIELDS else f'"{name}"')
    for name in FIELDS
)


def stored(database: Database) -> list[Kline]:
    """All rows of the table as klines, decimals as the very text that PostgreSQL prints, sorted by key."""
    rows = database.query(f"SELECT {SELECT} FROM klines ORDER BY symbol, interval, klines.open_time")
    return [Kline(**row) for row in rows]


def heartbeat(streams: Streams, process: str = "writer-final") -> dict[str, Any]:
    """The heartbeat of a process; empty if there is none."""
    beat: dict[str, Any] = json.loads(streams.values_like(heartbeat_key(process)).get(heartbeat_key(process), "{}"))
    return beat


AMENDMENTS = """
    SELECT symbol, interval, (extract(epoch FROM open_time) * 1000)::bigint AS open_time, epoch, revision,
        complete::integer AS complete, official::integer AS official, source, replaced_epoch, replaced_revision,
        replaced_complete::integer AS replaced_complete, replaced_official::integer AS replaced_official,
        was::text AS was, became::text AS became
    FROM amendments
    ORDER BY symbol, interval, amendments.open_time, epoch, revision, amendments.complete,
        amendments.official
"""

Version = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Amendment:
    """A row of the history: the version that came, the one it replaced (None if no final stood there), what changed."""

    key: tuple[str, str, int]
    version: Version
    replaced: Version | None
    source: str
    was: dict[str, Any]
    became: dict[str, Any]


def amendments(database: Database) -> list[Amendment]:
    """The whole history, sorted by key and version; numbers in it are the texts that PostgreSQL prints."""
    return [
        Amendment(
            (row["symbol"], row["interval"], row["open_time"]),
            (row["epoch"], row["revision"], row["complete"], row["official"]),
            None
            if row["replaced_epoch"] is None
            else tuple(row[f"replaced_{name}"] for name in ("epoch", "revision", "complete", "official")),
            row["source"],
            json.loads(row["was"], parse_float=str, parse_int=str),
            json.loads(row["became"], parse_float=str, parse_int=str),
        )
        for row in database.query(AMENDMENTS)
    ]


def newer(one: Kline, other: Kline) -> bool:
    """The slow oracle: whether `one` is to replace `other` in the table, case by case."""
    if (one.revision == 0) != (other.revision == 0):
        return other.revision == 0  # a snapshot never goes over a final, a final always over a snapshot
    if one.version != other.version:
        return one.version > other.version
    if one.revision:
        return False
    if one.last_trade_id != other.last_trade_id:
        return one.last_trade_id > other.last_trade_id
    return one.trades > other.trades


class WriterProcess:
    """A real writer process. `prelude` is Python that runs in it first: the place for named faults."""

    def __init__(
        self, environment: dict[str, str], prelude: str, arguments: Sequence[str], log: Path, module: str
    ) -> None:
        script = f"{prelude}\nimport sys\nfrom writers.{module} import main\nsys.exit(main(sys.argv[1:]))\n"
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", script, *arguments],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait(self, deadline_s: float = 30) -> int:
        """Its exit code (negative: the signal that ended it)."""
        return self.process.wait(deadline_s)

    def stop(self) -> int:
        """Ask it to end, as supervisors do; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()


KILLED_BEFORE_ACK = """
import os, signal
from klagg.drivers.redis_streams import Streams
Streams.ack = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_BEFORE_COMMIT = """
import os, signal
from klagg.drivers.postgres import Database
query = Database.query
def query_and_die(self, sql, parameters=None):
    found = query(self, sql, parameters)
    if "INTO klines" in sql:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
Database.query = query_and_die
"""


@contextmanager
def writer_process(
    redis_url: str,
    database_url: str,
    log: Path,
    *,
    prelude: str = "",
    arguments: Sequence[str] = (),
    module: str = "final_service",
    **settings: str,
) -> Iterator[WriterProcess]:
    """A writer that is killed at the end if it still runs. `settings` are KLAGG_ variables without the prefix."""
    environment = {"KLAGG_REDIS__URL": redis_url, "KLAGG_DATABASE__URL": database_url}
    environment |= {f"KLAGG_{name}": value for name, value in settings.items()}
    writer = WriterProcess(environment, prelude, arguments, log, module)
    try:
        yield writer
    finally:
        if writer.process.poll() is None:
            writer.process.kill()
            writer.process.wait()

"""What tests of writer-snapshot share: the process, bars in progress, triggers of the clock, entries of the history."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, HashUpdate, Streams
from klagg.wire.entries import (
    BARS_POSITION,
    TRIGGER_SNAPSHOT,
    trigger_entry,
)
from klagg.wire.fields import stamp
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import CLOCK_KEY, GROUP_HISTORY, Keys
from tests.writers import support
from tests.writers.support import OPEN_TIME, WriterProcess
from tests.writers.test_history import T

KEYS = Keys(0)
PROCESS = "writer-snapshot"
Start = Callable[..., AbstractContextManager[WriterProcess]]


def heartbeat(streams: Streams) -> dict[str, Any]:
    return support.heartbeat(streams, PROCESS)


def counters(streams: Streams) -> dict[str, int]:
    found: dict[str, int] = heartbeat(streams).get("counters", {})
    return found


def runs(streams: Streams) -> bool:
    """Whether the process is past its start: from now on triggers count."""
    return heartbeat(streams).get("state") == "running"


def bar(trades: int = 7, open_time: int = OPEN_TIME, closed: int = 0, revision: int = 0) -> str:
    return (
        f"{open_time},64100.10,64120.00,64090.90,64111.10,12.345,791234.56780,{trades},6.000,384570.00000,"
        f"100,{99 + trades},{closed},{revision},0"
    )


def show(streams: Streams, bars: dict[str, str], *, epoch: int = 5, keys: Keys = KEYS) -> None:
    """The bars in progress as the aggregator of that epoch commits them."""
    streams.write(
        [
            HashUpdate(keys.bars, {**bars, BARS_POSITION: "1-0"}),
            HashUpdate(keys.commit, {"epoch": str(epoch), "seq": "1"}),
        ]
    )


def trigger(streams: Streams, name: str = TRIGGER_SNAPSHOT, time_ms: int | None = None) -> None:
    fields = trigger_entry(name, int(local_ms()) if time_ms is None else time_ms)
    streams.append(CLOCK_KEY, stamp(fields, "clock@1", 1))


def publish_findings(streams: Streams, *symbols: str) -> list[str]:
    """A finding about each of these; their ids."""
    entries = [
        Append(
            KEYS.findings,
            stamp(finding_entry(FindingKind.OVERFLOW, Severity.INFO, "said", symbol=name, time_ms=T), "a@1", seq),
        )
        for seq, name in enumerate(symbols, 1)
    ]
    return streams.write(entries)


def findings(database: Database) -> int:
    (found,) = database.query("SELECT count(*) AS n FROM findings")
    return int(found["n"])


def settled(streams: Streams) -> bool:
    return all(
        streams.group_lag(stream, GROUP_HISTORY) == 0 and streams.pending_count(stream, GROUP_HISTORY) == 0
        for stream in (KEYS.events, KEYS.findings)
    )

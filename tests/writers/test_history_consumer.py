"""The history of the real process writer-snapshot: kept once, whatever ends it, and poison is buried."""

from __future__ import annotations

from pathlib import Path

import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, Streams
from klagg.wire.entries import events_entry
from klagg.wire.fields import stamp
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import GROUP_HISTORY
from tests.kit import eventually
from tests.writers.snapshotkit import KEYS, Start, counters, findings, publish_findings, settled
from tests.writers.support import KILLED_BEFORE_ACK, writer_process
from tests.writers.test_history import GAP_KEY, T

pytestmark = pytest.mark.servers


@pytest.fixture
def start(redis_url: str, database_url: str, tmp_path: Path) -> Start:
    """Starts the process on the test's Redis and database; its log is one file over all starts."""
    return lambda **options: writer_process(
        redis_url, database_url, tmp_path / "writer.log", module="snapshot_service", **options
    )


def test_history_becomes_rows(start: Start, database: Database, streams: Streams) -> None:
    entries = [
        events_entry("tick", T, []),
        events_entry("listed", T, [("AUSDT", T - 1000, "TRADING", 2, 3)]),
        events_entry("gap_opened", T + 1, [(*GAP_KEY, T - 5, T - 4)]),
        events_entry("close", T + 2, [("AUSDT", "1m", T, "clock", 0, 1, "open", "waiting", "own")]),
        events_entry("gap_closed", T + 3, [(*GAP_KEY, "repaired")]),
    ]
    streams.write([Append(KEYS.events, stamp(each, "a@1", seq)) for seq, each in enumerate(entries, 1)])
    publish_findings(streams, "A", "B")
    with start() as writer:
        eventually(lambda: findings(database) == 2)
        eventually(lambda: settled(streams))
        assert database.query("SELECT symbol, price_scale FROM symbols") == [{"symbol": "AUSDT", "price_scale": 2}]
        assert database.query("SELECT reason, ids FROM gaps") == [{"reason": "repaired", "ids": "agg"}]
        assert writer.stop() == 0


def test_with_fills_gaps_count_fills(start: Start, database: Database, streams: Streams) -> None:
    fields = events_entry("gap_opened", T, [(*GAP_KEY, T - 5, T - 4)])
    streams.append(KEYS.events, stamp(fields, "a@1", 1))
    with start(EXCHANGE__SOURCE="trade") as writer:
        eventually(lambda: database.query("SELECT ids FROM gaps") == [{"ids": "trade"}])
        assert writer.stop() == 0


def test_poison_goes_to_dead_and_the_rest_is_kept(start: Start, database: Database, streams: Streams) -> None:
    good = publish_findings(streams, "A", "B")
    loud = streams.append(
        KEYS.findings,
        stamp(finding_entry(FindingKind.OVERFLOW, Severity.INFO, "e", time_ms=T) | {"severity": "loud"}, "a@1", 7),
    )
    torn = streams.append(KEYS.findings, {"v": "1"})
    newer = streams.append(KEYS.events, stamp({"kind": "party", "time": "1", "n": "0"}, "a@1", 1))
    with start() as writer:
        eventually(lambda: settled(streams))
        eventually(lambda: counters(streams).get("dead") == 3)
        assert findings(database) == len(good)
        dead = {
            (entry.fields[b"stream"].decode(), entry.fields[b"id"].decode()): entry.fields
            for entry in streams.range(KEYS.dead)
        }
        assert dead.keys() == {(KEYS.findings, loud), (KEYS.findings, torn), (KEYS.events, newer)}
        assert {fields[b"group"] for fields in dead.values()} == {b"history"}
        assert b"severity" in dead[KEYS.findings, loud][b"reason"]
        assert b"unknown event kind" in dead[KEYS.events, newer][b"reason"]
        assert writer.stop() == 0


def test_a_crash_before_the_acknowledgement_loses_and_doubles_nothing(
    start: Start, database: Database, streams: Streams
) -> None:
    publish_findings(streams, "A", "B")
    with start(prelude=KILLED_BEFORE_ACK) as writer:
        assert writer.wait() == -9
    assert findings(database) == 2
    assert streams.pending_count(KEYS.findings, GROUP_HISTORY) == 2
    with start() as writer:
        eventually(lambda: settled(streams))
        assert "2 entries of findings:{0} were pending from before" in writer.said()
        assert writer.stop() == 0
    assert findings(database) == 2


IMPATIENT = "import klagg.process.group_consumer as g; g.IDLE_MS, g.RECLAIM_EVERY_S = 1, 0.1"


def test_entries_of_a_consumer_that_never_returns_are_taken_over(
    start: Start, database: Database, streams: Streams
) -> None:
    publish_findings(streams, "A", "B")
    for stream in (KEYS.events, KEYS.findings):
        streams.ensure_group(stream, GROUP_HISTORY)
    streams.read_group([KEYS.findings], GROUP_HISTORY, "writer-snapshot-gone", count=2)
    with start(prelude=IMPATIENT) as writer:
        eventually(lambda: settled(streams))
        assert findings(database) == 2
        assert writer.stop() == 0

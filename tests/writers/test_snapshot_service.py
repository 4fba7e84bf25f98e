"""The real process writer-snapshot against the real servers: triggers, outages, its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, Streams
from klagg.embedded import PostgresServer, RedisServer
from klagg.intervals import DAY_MS, MINUTE_MS
from klagg.kline import Kline
from klagg.wire.entries import TRIGGER_RETENTION
from klagg.wire.fields import stamp
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import GROUP_HISTORY
from tests.kit import eventually
from tests.writers.snapshotkit import (
    KEYS,
    Start,
    bar,
    counters,
    findings,
    heartbeat,
    publish_findings,
    runs,
    settled,
    show,
    trigger,
)
from tests.writers.support import kline, stored, writer_process
from tests.writers.test_history import T
from writers.kline_table import upsert
from writers.snapshot_service import EXIT_LEFT

pytestmark = pytest.mark.servers


@pytest.fixture
def start(redis_url: str, database_url: str, tmp_path: Path) -> Start:
    """Starts the process on the test's Redis and database; its log is one file over all starts."""
    return lambda **options: writer_process(
        redis_url, database_url, tmp_path / "writer.log", module="snapshot_service", **options
    )


def test_old_klines_go_at_the_trigger_of_the_clock(start: Start, database: Database, streams: Streams) -> None:
    """Also at one from before the start: a clock that is restarted often, or a writer, would never drop anything."""
    now_ms = int(local_ms()) // MINUTE_MS * MINUTE_MS
    young = kline(open_time=now_ms - DAY_MS)
    rows: list[Kline] = [kline(open_time=now_ms - days * DAY_MS) for days in (40, 90)]
    upsert(database, [*reversed(rows), young])
    trigger(streams, TRIGGER_RETENTION, now_ms)
    with start(PERSISTENCE__RETENTION_DAYS="20") as writer:
        eventually(lambda: stored(database) == [young])
        upsert(database, rows)
        trigger(streams, TRIGGER_RETENTION, now_ms + 50 * 365 * DAY_MS)
        eventually(lambda: stored(database) == [young])  # an exchange clock in the future takes nothing young along
        eventually(lambda: counters(streams).get("dropped_chunks", 0) >= 4)
        assert writer.stop() == 0


def test_what_a_reader_keeps_from_being_dropped_goes_afterwards(
    start: Start, database: Database, streams: Streams
) -> None:
    """And not at the next trigger only, which is an hour away; meanwhile the process does its other work."""
    old = kline(open_time=int(local_ms()) // MINUTE_MS * MINUTE_MS - 40 * DAY_MS)
    upsert(database, [old])
    trigger(streams, TRIGGER_RETENTION)
    with start(PERSISTENCE__RETENTION_DAYS="20") as writer:
        with database.transaction():
            assert stored(database) == [old]
            eventually(lambda: counters(streams).get("drops_put_off", 0) >= 2)
            assert heartbeat(streams)["state"] == "running"
        eventually(lambda: not stored(database))
        assert writer.stop() == 0


@pytest.fixture
def restarted(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The database server, for a test that stops it; it runs again afterwards."""
    yield postgres_server
    if not postgres_server.is_running():
        postgres_server.start()


def test_an_outage_of_the_database_is_waited_out(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer
) -> None:
    show(streams, {"BTCUSDT:1m": bar()})
    with start() as writer:
        eventually(lambda: runs(streams))
        database.close()
        restarted.stop()
        publish_findings(streams, "A")
        trigger(streams)
        eventually(lambda: heartbeat(streams).get("state") == "waiting for the database")
        eventually(lambda: counters(streams).get("retries", 0) >= 3)
        restarted.start()
        eventually(lambda: findings(database) == 1, 30)
        eventually(lambda: settled(streams))
        trigger(streams)
        eventually(lambda: len(stored(database)) == 1)
        assert writer.stop() == 0


def test_asked_to_stop_during_an_outage_it_says_that_history_was_left(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer, redis_server: RedisServer
) -> None:
    with start() as writer:
        eventually(lambda: runs(streams))
        database.close()
        restarted.stop()
        publish_findings(streams, "A")
        eventually(lambda: heartbeat(streams).get("state") == "waiting for the database")
        ids = streams.write(
            [
                Append(
                    KEYS.findings, stamp(finding_entry(FindingKind.OVERFLOW, Severity.INFO, "", time_ms=T), "b@1", seq)
                )
                for seq in range(1, 4)
            ]
        )
        assert redis_server.command("XDEL", KEYS.findings, ids[1]) == "1"
        assert streams.group_lag(KEYS.findings, GROUP_HISTORY) is None, "it must be counted"
        assert writer.stop() == EXIT_LEFT
        assert "3 entries of history are left unwritten; they are still in Redis" in writer.said()
    restarted.start()
    with start() as writer:
        eventually(lambda: findings(database) == 3)
        assert writer.stop() == 0


def test_the_shutdown_drains_within_one_deadline(start: Start, database: Database, streams: Streams) -> None:
    with start(SERVICE__SHUTDOWN_S="2") as writer:
        eventually(lambda: runs(streams))
        with database.transaction():
            database.execute("LOCK TABLE findings IN EXCLUSIVE MODE")
            publish_findings(streams, "A")
            eventually(lambda: streams.pending_count(KEYS.findings, GROUP_HISTORY) == 1)
            assert writer.stop() == EXIT_LEFT
    with start() as writer:
        publish_findings(streams, *(f"S{n}" for n in range(3000)))
        eventually(lambda: runs(streams))
        assert writer.stop() == 0
    assert findings(database) == 3000


def test_a_redis_that_lost_its_data_gets_its_groups_again(start: Start, database: Database, streams: Streams) -> None:
    with start() as writer:
        eventually(lambda: runs(streams))
        streams.delete(KEYS.events, KEYS.findings, KEYS.klines)
        publish_findings(streams, "A")
        eventually(lambda: findings(database) == 1)
        assert writer.stop() == 0


def test_without_the_schema_or_a_database_it_says_so(start: Start, streams: Streams) -> None:
    with start() as writer:
        assert writer.wait() == 1
        assert "run `klagg migrate`" in writer.said()
    with start(DATABASE__ENABLED="false") as writer:
        assert writer.wait() == 2
        assert "database.enabled is false" in writer.said()

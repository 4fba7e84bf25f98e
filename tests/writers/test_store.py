"""A database that is away, slow or full, and a Redis that meanwhile reaches its cap: the real writer, real servers."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from aggregator.trimming import Trimmer
from klagg import settings
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, Streams
from klagg.embedded import PostgresServer, RedisServer
from klagg.process.alarms import Alarms
from klagg.process.group_consumer import PAGE_ENTRIES
from klagg.settings import Settings
from klagg.wire.fields import text_of
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.kit import eventually, trim_before
from tests.writers.support import (
    WriterProcess,
    amendments,
    entry_of,
    heartbeat,
    kline,
    minutes,
    publish,
    stored,
    writer_process,
)
from writers.final_service import EXIT_LEFT

pytestmark = pytest.mark.servers

KEYS = Keys(0)
KLINES = KEYS.klines
AWAY = "waiting for the database"
SIZE = 300
"""finalized_buffer_size here."""
HELD_MAX = 2 * (SIZE + PAGE_ENTRIES)
"""A batch that is written and one that is read ahead."""

Start = Callable[..., AbstractContextManager[WriterProcess]]


@pytest.fixture
def start(redis_url: str, database_url: str, tmp_path: Path) -> Start:
    def started(**options: str) -> AbstractContextManager[WriterProcess]:
        options = {"PERSISTENCE__FINALIZED_BUFFER_SIZE": str(SIZE), **options}
        return writer_process(redis_url, database_url, tmp_path / "writer.log", **options)

    return started


@pytest.fixture
def restarted(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The database server, for a test that stops it; it runs again afterwards."""
    yield postgres_server
    if not postgres_server.is_running():
        postgres_server.start()


def pending(streams: Streams) -> int:
    return streams.pending_count(KLINES, GROUP_WRITERS)


def settled(streams: Streams) -> bool:
    return streams.group_lag(KLINES, GROUP_WRITERS) == 0 and pending(streams) == 0


def state(streams: Streams) -> str:
    return str(heartbeat(streams).get("state", ""))


def resident_kb(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    assert found
    return int(found[1])


def test_memory_stays_flat_while_a_backlog_grows(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer
) -> None:
    klines = minutes(20_000)
    with start() as writer:
        publish(streams, klines[:2000])
        eventually(lambda: settled(streams), 30)
        before_kb = resident_kb(writer.process.pid)
        database.close()
        restarted.stop()
        publish(streams, klines[2000:])
        eventually(lambda: state(streams) == AWAY)
        retries = heartbeat(streams)["counters"].get("retries", 0)
        eventually(lambda: heartbeat(streams)["counters"].get("retries", 0) >= retries + 2)
        assert 0 < pending(streams) <= HELD_MAX, "it holds two batches at most and reads no more"
        assert streams.length(KLINES) == len(klines), "the stream holds everything"
        assert resident_kb(writer.process.pid) - before_kb < 8 << 10
        restarted.start()
        eventually(lambda: settled(streams), 60)
        assert resident_kb(writer.process.pid) - before_kb < 8 << 10
        assert writer.stop() == 0
    assert stored(database) == klines


def test_restarts_in_the_middle_of_the_work_lose_and_double_nothing(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer
) -> None:
    versions = [kline(open_time=each.open_time, complete=0) for each in minutes(1500)]
    with start(PERSISTENCE__FINALIZED_BUFFER_SIZE="20") as writer:
        eventually(lambda: state(streams) == "running")
        database.close()
        for part in range(3):
            publish(streams, versions[part * 500 : part * 500 + 500] + minutes(part * 500 + 500)[part * 500 :])
            eventually(lambda: pending(streams) > 0)
            restarted.stop()
            restarted.start()
        eventually(lambda: settled(streams), 60)
        assert writer.stop() == 0
    assert stored(database) == minutes(1500)
    assert [each.replaced for each in amendments(database)] == [(1, 1, 0, 0)] * 1500


@contextmanager
def full_disk(database: Database) -> Iterator[None]:
    """Every new row is refused as by a disk that is full."""
    database.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON klines_minutes FOR EACH ROW EXECUTE FUNCTION refuse();
    """)
    yield
    database.execute("DROP TRIGGER full_disk ON klines_minutes; DROP FUNCTION refuse")


def test_a_full_disk_is_waited_out_and_no_row_is_to_blame(start: Start, database: Database, streams: Streams) -> None:
    klines = minutes(2500)
    with start() as writer:
        eventually(lambda: state(streams) == "running")
        with full_disk(database):
            publish(streams, klines)
            eventually(lambda: heartbeat(streams)["counters"].get("retries", 0) >= 2)
            assert state(streams) == AWAY
            assert "No space left on device (SQLSTATE 53100)" in writer.said()
            assert 0 < pending(streams) <= HELD_MAX
        eventually(lambda: settled(streams), 30)
        assert writer.stop() == 0
    assert stored(database) == klines
    assert streams.length(KEYS.dead) == 0


HASTY = """
from klagg.drivers.postgres import Database
Database.__init__.__kwdefaults__["timeout_ms"] = 300
"""


def test_a_lock_that_outlasts_the_timeout_is_waited_out(start: Start, database: Database, streams: Streams) -> None:
    klines = minutes(500)
    with start(prelude=HASTY) as writer:
        eventually(lambda: state(streams) == "running")
        with database.transaction():
            database.execute("LOCK TABLE klines IN EXCLUSIVE MODE")
            publish(streams, klines)
            eventually(lambda: heartbeat(streams)["counters"].get("retries", 0) >= 2)
            assert "SQLSTATE 57014" in writer.said()
        eventually(lambda: settled(streams), 30)
        assert writer.stop() == 0
    assert stored(database) == klines


@contextmanager
def slow_table(database: Database, seconds: float) -> Iterator[None]:
    """Every statement that inserts klines takes so long."""
    database.execute(f"""
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NULL; END $$;
        CREATE TRIGGER slow_table BEFORE INSERT ON klines_minutes FOR EACH STATEMENT EXECUTE FUNCTION dawdle();
    """)
    yield
    database.execute("DROP TRIGGER slow_table ON klines_minutes; DROP FUNCTION dawdle")


def test_a_slow_database_takes_what_it_can_and_the_heart_beats(
    start: Start, database: Database, streams: Streams
) -> None:
    klines = minutes(1200)
    with slow_table(database, 0.7), start(SERVICE__HEARTBEAT_MS="100") as writer:
        eventually(lambda: state(streams) == "running")
        publish(streams, klines)
        eventually(lambda: 0 < len(stored(database)) < len(klines))
        time_ms = heartbeat(streams)["time_ms"]
        eventually(lambda: heartbeat(streams)["time_ms"] >= time_ms + 100)
        assert pending(streams) <= HELD_MAX
        eventually(lambda: settled(streams), 30)
        assert writer.stop() == 0
    assert stored(database) == klines


def test_a_shutdown_drains_the_whole_backlog(start: Start, database: Database, streams: Streams) -> None:
    klines = minutes(4000)
    with start() as writer:
        eventually(lambda: state(streams) == "running")
        publish(streams, klines)
        assert writer.stop() == 0
    assert settled(streams)
    assert stored(database) == klines


def test_a_shutdown_ends_at_its_one_deadline_and_says_what_was_left(
    start: Start, database: Database, streams: Streams
) -> None:
    klines = minutes(4000)
    with slow_table(database, 0.4), start(SERVICE__SHUTDOWN_S="2") as writer:
        eventually(lambda: state(streams) == "running")
        publish(streams, klines)
        asked = time.monotonic()
        assert writer.stop() == EXIT_LEFT
        assert time.monotonic() - asked < 2 + 3, "one deadline for everything, and the time to end a process"
        rows = stored(database)
        left = int(re.findall(r"(\d+) entries are left unwritten; they are still in Redis", writer.said())[0])
        assert 0 < len(rows) < len(klines), "it went on as long as it had time"
        assert len(rows) <= len(klines) - left + SIZE + PAGE_ENTRIES
        assert len(rows) + left >= len(klines)
    with start() as writer:
        eventually(lambda: settled(streams), 30)
        assert writer.stop() == 0
    assert stored(database) == klines


def test_a_cap_that_cuts_the_backlog_is_found_said_and_survived(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer
) -> None:
    """The aggregator's trimming brings the stream down to its cap, with a finding for each cut; the writer sees the
    same gap from its side, and stores everything else."""
    klines = minutes(30_000)
    small = Settings(audit=settings.Audit(full=False), streams=settings.Streams(klines_percent=1))
    trimmer = Trimmer(streams, KEYS, small, logging.getLogger("test"), Alarms())
    trimmer.ensure_groups()
    cap = int(streams.information("memory")["maxmemory"]) // 100
    with start() as writer:
        publish(streams, klines[:100])
        eventually(lambda: settled(streams))
        database.close()
        restarted.stop()
        streams.write([Append(KLINES, entry_of(each, seq)) for seq, each in enumerate(klines[100:], 101)])
        eventually(lambda: state(streams) == AWAY)
        assert streams.memory(KLINES) > cap
        evidence = []
        while streams.memory(KLINES) > cap:
            trimmer.round(time.monotonic(), "0-0", 7)
            findings, cuts = trimmer.drain()
            evidence += [each["evidence"] for each in findings if each["kind"] == "DATA_LOSS"]
            streams.write(cuts)
        first_kept = int(text_of(streams.range(KLINES, count=1)[0].fields, "seq"))
        restarted.start()
        eventually(lambda: settled(streams), 60)
        lost = heartbeat(streams)["counters"]["lost"]
        assert writer.stop() == 0
    rows = stored(database)
    told = [tuple(map(int, re.findall(r"seq (\d+) to (\d+) of", each)[0])) for each in evidence]
    assert (told[0][0], told[-1][1]) == (101, first_kept - 1), "the findings name all that was cut"
    held = klines[100 : 100 + len(rows) - 100 - len(klines[first_kept - 1 :])]
    assert rows == [*klines[:100], *held, *klines[first_kept - 1 :]], "what it held was stored, and all that was left"
    assert lost == first_kept - 1 - 100 - len(held)
    gap = f"seq {100 + len(held) + 1} to {first_kept - 1} of aggregator@1"
    assert f"{lost} entries of {KLINES} were gone before this writer was given them: {gap}" in writer.said()


def test_pending_entries_that_were_cut_are_said_and_let_go(start: Start, database: Database, streams: Streams) -> None:
    ids = publish(streams, minutes(10))
    streams.ensure_group(KLINES, GROUP_WRITERS)
    streams.read_group([KLINES], GROUP_WRITERS, "writer-final", count=8)
    trim_before(streams, KLINES, ids[3])
    with start() as writer:
        eventually(lambda: settled(streams))
        gone = f"3 pending entries of {KLINES} were gone before the group writers processed them"
        said = f"{gone}, with ids from {ids[0]} to {ids[2]}"
        assert said in writer.said()
        assert writer.stop() == 0
    assert stored(database) == minutes(10)[3:]


def test_what_is_left_is_counted_where_redis_does_not_know(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer, redis_server: RedisServer
) -> None:
    """After an unread entry was deleted from the middle, Redis tells no lag."""
    with start() as writer:
        eventually(lambda: state(streams) == "running")
        database.close()
        restarted.stop()
        publish(streams, minutes(1))
        eventually(lambda: state(streams) == AWAY)
        ids = publish(streams, minutes(40)[10:])
        assert redis_server.command("XDEL", KLINES, ids[17]) == "1"
        assert pending(streams) == 1
        assert streams.group_lag(KLINES, GROUP_WRITERS) is None
        assert writer.stop() == EXIT_LEFT
        assert "30 entries are left unwritten; they are still in Redis" in writer.said()

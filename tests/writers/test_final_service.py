"""The real process against the real servers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, Streams
from klagg.embedded import PostgresServer, RedisServer
from klagg.kline import Kline
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.kit import eventually
from tests.writers.support import (
    KILLED_BEFORE_ACK,
    KILLED_BEFORE_COMMIT,
    OPEN_TIME,
    WriterProcess,
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

KLINES = Keys(0).klines
DEAD = Keys(0).dead

Start = Callable[..., AbstractContextManager[WriterProcess]]


@pytest.fixture
def start(redis_url: str, database_url: str, tmp_path: Path) -> Start:
    """Starts the writer on the test's Redis and database; its log is one file over all starts."""
    return lambda **options: writer_process(redis_url, database_url, tmp_path / "writer.log", **options)


def pending(streams: Streams, stream: str = KLINES) -> int:
    return streams.pending_count(stream, GROUP_WRITERS)


def settled(streams: Streams, stream: str = KLINES) -> bool:
    return streams.group_lag(stream, GROUP_WRITERS) == 0 and pending(streams, stream) == 0


def by_key(klines: list[Kline]) -> list[Kline]:
    return sorted(klines, key=lambda each: each.key)


def row_versions(database: Database) -> list[dict[str, Any]]:
    """What changes when a row is written again, even with the same values."""
    return database.query("SELECT xmin::text, ctid::text FROM klines_minutes ORDER BY symbol, interval, open_time")


def test_the_group_exists_before_the_first_entry(start: Start, database: Database, streams: Streams) -> None:
    with start() as writer:
        eventually(lambda: heartbeat(streams).get("state") == "running")
        assert streams.group_lag(KLINES, GROUP_WRITERS) == 0
        assert streams.length(KLINES) == 0
        assert writer.stop() == 0
    assert heartbeat(streams) == {}


def test_klines_of_several_symbols_intervals_and_shards(
    start: Start, database: Database, streams: Streams, tmp_path: Path
) -> None:
    bars = itertools.product(("BTCUSDT", "ETHUSDT", "币安人生USDT"), ("1m", "5m", "1w"), range(3))
    klines = [
        kline(symbol=symbol, interval=interval, open_time=OPEN_TIME + n * 86_400_000, trades=n)
        for symbol, interval, n in bars
    ]
    configuration = tmp_path / "klagg.toml"
    configuration.write_text("shards = 2\n")
    publish(streams, klines[:20], shard=0)
    with start(arguments=["--config", str(configuration)]) as writer:
        publish(streams, klines[20:], shard=1)
        eventually(lambda: len(stored(database)) == len(klines))
        eventually(lambda: settled(streams, KLINES) and settled(streams, Keys(1).klines))
        assert stored(database) == by_key(klines)
        assert writer.stop() == 0


def test_a_full_history_of_versions_ends_in_the_highest(start: Start, database: Database, streams: Streams) -> None:
    published = kline(complete=0, trades=1)
    confirmed = kline(complete=1, trades=1)
    amended = kline(revision=2, trades=2)
    publish(streams, [published, confirmed, amended, confirmed])
    with start() as writer:
        eventually(lambda: settled(streams))
        publish(streams, [published])
        eventually(lambda: settled(streams))
        eventually(lambda: heartbeat(streams)["counters"].get("duplicates") == 2)
        counted = {name: count for name, count in heartbeat(streams)["counters"].items() if count}
        assert counted == {"entries": 5, "klines": 5, "rows": 3, "duplicates": 2}
        assert writer.stop() == 0
    assert stored(database) == [amended]


def test_more_than_one_buffer(start: Start, database: Database, streams: Streams) -> None:
    klines = minutes(1234)
    publish(streams, klines)
    with start(PERSISTENCE__FINALIZED_BUFFER_SIZE="100") as writer:
        eventually(lambda: settled(streams), 20)
        assert writer.stop() == 0
    assert stored(database) == klines


@pytest.mark.parametrize(("fault", "rows"), [(KILLED_BEFORE_COMMIT, 0), (KILLED_BEFORE_ACK, 60)])
def test_a_crash_before_the_acknowledgement_loses_and_doubles_nothing(
    start: Start, database: Database, streams: Streams, fault: str, rows: int
) -> None:
    klines = minutes(60)
    publish(streams, klines)
    with start(prelude=fault) as writer:
        assert writer.wait() == -9
    assert pending(streams) == 60
    eventually(lambda: len(stored(database)) == rows)
    before = row_versions(database)
    with start() as writer:
        eventually(lambda: settled(streams))
        assert writer.stop() == 0
        assert "60 entries of klines:{0} were pending from before" in writer.said()
    assert stored(database) == klines
    assert row_versions(database)[:rows] == before


def test_entries_of_a_consumer_that_never_returns_are_taken_over(
    start: Start, database: Database, streams: Streams
) -> None:
    klines = minutes(60)
    publish(streams, klines)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    streams.read_group([KLINES], GROUP_WRITERS, "writer-final-gone", count=50)
    hurry = "import klagg.process.group_consumer as g\ng.IDLE_MS, g.RECLAIM_EVERY_S = 300, 0.1"
    with start(prelude=hurry) as writer:
        eventually(lambda: settled(streams))
        assert writer.stop() == 0
    assert stored(database) == klines


def test_poison_entries_go_to_dead_with_a_reason_and_the_rest_is_stored(
    start: Start, database: Database, streams: Streams
) -> None:
    good = minutes(20)
    bad = [
        entry_of(kline(close="abc", symbol="A")),
        {**entry_of(kline(symbol="B")), "v": "99"},
        {"v": "1", "hello": "world"},
        entry_of(kline(symbol="C\0C")),
        entry_of(kline(symbol="D", revision=2**31)),
    ]
    lower, higher = kline(symbol="E", trades=5), kline(symbol="E", revision=2, trades=6, open_time=OPEN_TIME)
    entries = [entry_of(each) for each in good]
    entries[3:3] = bad
    entries += [entry_of(lower), entry_of(higher) | {"revision": str(2**31)}]
    ids = streams.write([Append(KLINES, entry) for entry in entries])
    with start() as writer:
        eventually(lambda: settled(streams))
        publish(streams, minutes(21)[20:])
        eventually(lambda: len(stored(database)) == 22)
        eventually(lambda: settled(streams))
        assert writer.stop() == 0
    assert stored(database) == [*minutes(21), lower]
    dead = {entry.fields[b"id"].decode(): entry.fields for entry in streams.range(DEAD)}
    assert set(dead) == {*ids[3:8], ids[-1]}
    reasons = [dead[entry_id][b"reason"].decode() for entry_id in (*ids[3:8], ids[-1])]
    for reason, says in zip(
        reasons, ["close='abc'", "version", "lacks", "0x00", "out of range", "out of range"], strict=True
    ):
        assert says in reason
    first = dead[ids[3]]
    assert (first[b"stream"], first[b"group"], first[b"seq"]) == (KLINES.encode(), b"writers", b"1")
    assert '"close": "abc"' in first[b"fields"].decode()


@pytest.fixture
def restarted(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """The database server, for a test that stops it; it runs again afterwards."""
    yield postgres_server
    if not postgres_server.is_running():
        postgres_server.start()


def test_an_outage_of_the_database_is_waited_out(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer
) -> None:
    klines = minutes(3000)
    with start(PERSISTENCE__FINALIZED_BUFFER_SIZE="500") as writer:
        publish(streams, klines[:10])
        eventually(lambda: settled(streams))
        database.close()
        restarted.stop()
        publish(streams, klines[10:])
        eventually(lambda: heartbeat(streams).get("state") == "waiting for the database")
        held = pending(streams)
        eventually(lambda: heartbeat(streams)["counters"].get("retries", 0) >= 3)
        assert 0 < pending(streams) == held <= 500, "it holds what it has and reads no more"
        restarted.start()
        eventually(lambda: settled(streams), 30)
        eventually(lambda: heartbeat(streams)["state"] == "running")
        assert "the database is back after" in writer.said()
        assert writer.stop() == 0
    assert stored(database) == klines


def test_asked_to_stop_during_an_outage_it_says_that_entries_were_left(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer
) -> None:
    klines = minutes(7)
    with start() as writer:
        eventually(lambda: heartbeat(streams).get("state") == "running")
        database.close()
        restarted.stop()
        publish(streams, klines)
        eventually(lambda: heartbeat(streams).get("state") == "waiting for the database")
        assert writer.stop() == EXIT_LEFT
        assert "7 entries are left unwritten; they are still in Redis" in writer.said()
    restarted.start()
    with start() as writer:
        eventually(lambda: settled(streams))
        assert writer.stop() == 0
    assert stored(database) == klines


def test_a_slow_database_stops_neither_the_heart_nor_the_end(
    start: Start, database: Database, streams: Streams
) -> None:
    with start(SERVICE__SHUTDOWN_S="1", SERVICE__HEARTBEAT_MS="100", SERVICE__HEARTBEAT_TTL_S="2") as writer:
        eventually(lambda: heartbeat(streams).get("state") == "running")
        with database.transaction():
            database.execute("LOCK TABLE klines IN EXCLUSIVE MODE")
            publish(streams, minutes(1))
            eventually(lambda: pending(streams) == 1)
            first_ms = heartbeat(streams)["time_ms"]
            eventually(lambda: heartbeat(streams)["time_ms"] > first_ms + 2500)
            assert writer.stop() == EXIT_LEFT
        assert pending(streams) == 1
        assert stored(database) == []


def test_while_the_database_works_the_next_batch_is_read_and_no_more(
    start: Start, database: Database, streams: Streams
) -> None:
    klines = minutes(350)
    with start(PERSISTENCE__FINALIZED_BUFFER_SIZE="100") as writer:
        eventually(lambda: heartbeat(streams).get("state") == "running")
        with database.transaction():
            database.execute("LOCK TABLE klines IN EXCLUSIVE MODE")
            publish(streams, klines)
            eventually(lambda: pending(streams) >= 100)
            eventually(lambda: heartbeat(streams)["counters"].get("entries") == pending(streams) > 100)
            first_ms = heartbeat(streams)["time_ms"]
            eventually(lambda: heartbeat(streams)["time_ms"] > first_ms + 1000)
            assert pending(streams) <= 200
            assert streams.group_lag(KLINES, GROUP_WRITERS) == 350 - pending(streams)
        eventually(lambda: settled(streams))
        assert writer.stop() == 0
    assert stored(database) == klines


def test_a_short_read_is_flushed_without_waiting_for_more(start: Start, database: Database, streams: Streams) -> None:
    with start(PERSISTENCE__FINALIZED_FLUSH_INTERVAL_MS="60000") as writer:
        eventually(lambda: heartbeat(streams).get("state") == "running")
        publish(streams, minutes(3))
        eventually(lambda: stored(database) == minutes(3))
        assert writer.stop() == 0


def test_a_database_that_comes_after_the_writer_is_waited_for(
    start: Start, database: Database, streams: Streams, restarted: PostgresServer
) -> None:
    database.close()
    restarted.stop()
    with start() as writer:
        eventually(lambda: heartbeat(streams).get("state") == "waiting for the database")
        publish(streams, minutes(3))
        restarted.start()
        eventually(lambda: settled(streams), 20)
        assert writer.stop() == 0
    assert stored(database) == minutes(3)


def test_a_database_without_the_schema_ends_the_start_with_a_sentence(start: Start) -> None:
    with start() as writer:
        assert writer.wait() == 1
        assert "the database lacks the migration 0001_klines: run `klagg migrate`" in writer.said()
        assert "Traceback" not in writer.said()


def test_a_table_that_vanishes_ends_the_writer_and_loses_nothing(
    start: Start, database: Database, streams: Streams
) -> None:
    with start() as writer:
        eventually(lambda: heartbeat(streams).get("state") == "running")
        database.execute("DROP TABLE klines_minutes CASCADE")
        publish(streams, minutes(2))
        assert writer.wait() == 1
        assert 'relation "klines_minutes" does not exist' in writer.said()
    assert pending(streams) > 0
    assert streams.length(DEAD) == 0


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    with RedisServer(tmp_path / "redis", maxmemory_mb=64) as server:
        yield server


def test_a_restart_of_redis_is_survived(
    database: Database, database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    with writer_process(own_redis.url, database_url, tmp_path / "writer.log") as writer:
        streams = Streams(own_redis.url)
        eventually(lambda: heartbeat(streams).get("state") == "running")
        publish(streams, minutes(5))
        eventually(lambda: settled(streams))
        own_redis.stop()
        eventually(lambda: "Redis does not answer while reading for a group" in writer.said())
        own_redis.start()
        publish(streams, minutes(9))
        eventually(lambda: settled(streams), 20)
        assert stored(database) == minutes(9)
        assert writer.stop() == 0
        streams.close()


def test_a_redis_that_stays_away_ends_the_writer_with_a_sentence(
    database: Database, database_url: str, own_redis: RedisServer, tmp_path: Path
) -> None:
    hurry = "import writers.final_service as f\nf.REDIS_FIRST_S, f.REDIS_CAP_S = 0.01, 0.02"
    with writer_process(own_redis.url, database_url, tmp_path / "writer.log", prelude=hurry) as writer:
        streams = Streams(own_redis.url)
        eventually(lambda: heartbeat(streams).get("state") == "running")
        own_redis.stop()
        assert writer.wait() == 1
        assert "Redis failed 8 times in a row, so the writer ends: Redis does not answer" in writer.said()
        assert "Traceback" not in writer.said()
        streams.close()


def test_a_redis_that_lost_its_data_gets_its_group_again(start: Start, database: Database, streams: Streams) -> None:
    with start() as writer:
        eventually(lambda: heartbeat(streams).get("state") == "running")
        streams.delete(KLINES)
        eventually(lambda: "NOGROUP" in writer.said())
        publish(streams, minutes(2))
        eventually(lambda: stored(database) == minutes(2))
        assert writer.stop() == 0


def test_two_writers_share_a_stream(start: Start, database: Database, streams: Streams) -> None:
    klines = minutes(2000)
    with (
        start(PERSISTENCE__FINALIZED_BUFFER_SIZE="50") as one,
        start(PERSISTENCE__FINALIZED_BUFFER_SIZE="50", arguments=["--instance", "B"]) as two,
    ):
        eventually(lambda: heartbeat(streams).get("state") == "running")
        eventually(lambda: heartbeat(streams, "writer-final-B").get("state") == "running")
        publish(streams, klines)
        eventually(lambda: settled(streams), 20)
        assert one.stop() == 0
        assert two.stop() == 0
    assert stored(database) == klines


def test_the_heartbeat_says_what_was_written(start: Start, database: Database, streams: Streams) -> None:
    publish(streams, minutes(2))
    with start() as writer:
        eventually(lambda: heartbeat(streams).get("gauges") == {"lag": 0, "last": "BTCUSDT 1m 2024-07-18T19:05:00Z"})
        assert writer.stop() == 0


def test_it_refuses_to_start_where_the_database_is_switched_off(start: Start) -> None:
    with start(DATABASE__ENABLED="false") as writer:
        assert writer.wait() == 2
        assert "database.enabled is false" in writer.said()

"""The real process against the real servers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, HashUpdate, Streams
from klagg.embedded import PostgresServer, RedisServer
from klagg.intervals import DAY_MS, MINUTE_MS
from klagg.kline import Kline
from klagg.wire.entries import (
    BARS_POSITION,
    TRIGGER_DAYS,
    TRIGGER_RETENTION,
    TRIGGER_SNAPSHOT,
    events_entry,
    trigger_entry,
)
from klagg.wire.fields import stamp
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import CLOCK_KEY, GROUP_HISTORY, GROUP_WRITERS, Keys
from tests.kit import eventually
from tests.writers import support
from tests.writers.support import KILLED_BEFORE_ACK, OPEN_TIME, WriterProcess, kline, publish, stored, writer_process
from tests.writers.test_history import GAP_KEY, T
from writers.kline_table import upsert
from writers.snapshot_service import EXIT_LEFT, NICENESS
from writers.snapshots import BATCH_ROWS, FINALS_WAITING_MAX

pytestmark = pytest.mark.servers

KEYS = Keys(0)
PROCESS = "writer-snapshot"
Start = Callable[..., AbstractContextManager[WriterProcess]]


@pytest.fixture
def start(redis_url: str, database_url: str, tmp_path: Path) -> Start:
    """Starts the process on the test's Redis and database; its log is one file over all starts."""
    return lambda **options: writer_process(
        redis_url, database_url, tmp_path / "writer.log", module="snapshot_service", **options
    )


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
        f"{open_time},64100.10,64120.00,64090.90,64111.10,12.345,791234.56780,{trades},6.000,384600.00000,"
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


def test_bars_in_progress_are_in_the_table_after_a_trigger(start: Start, database: Database, streams: Streams) -> None:
    show(streams, {"BTCUSDT:1m": bar(), "BTCUSDT:1w": bar(9), "币安人生USDT:1m": bar(3), "GONEUSDT:1m": bar(closed=1)})
    with start() as writer:
        eventually(lambda: runs(streams))
        assert os.getpriority(os.PRIO_PROCESS, writer.process.pid) >= NICENESS
        assert stored(database) == [], "nobody asked for it"
        trigger(streams)
        eventually(lambda: len(stored(database)) == 3)
        minute, week, other = stored(database)
        assert (minute.symbol, minute.interval, minute.trades, minute.epoch) == ("BTCUSDT", "1m", 7, 5)
        assert (minute.revision, minute.complete, minute.close) == (0, 0, "64111.10")
        assert (week.interval, week.trades, other.symbol) == ("1w", 9, "币安人生USDT")
        show(streams, {"BTCUSDT:1m": bar(8)})
        trigger(streams)
        eventually(lambda: stored(database)[0].trades == 8)
        eventually(lambda: counters(streams).get("snapshots") == 2)
        assert counters(streams)["bars"] == 4, "quiet bars are not written again"
        assert writer.stop() == 0
    assert heartbeat(streams) == {}


def test_all_shards(start: Start, database: Database, streams: Streams, tmp_path: Path) -> None:
    configuration = tmp_path / "klagg.toml"
    configuration.write_text("shards = 2\n")
    show(streams, {"BTCUSDT:1m": bar()})
    show(streams, {"ETHUSDT:1m": bar()}, keys=Keys(1), epoch=9)
    with start(arguments=["--config", str(configuration)]) as writer:
        eventually(lambda: runs(streams))
        trigger(streams)
        eventually(lambda: [(row.symbol, row.epoch) for row in stored(database)] == [("BTCUSDT", 5), ("ETHUSDT", 9)])
        assert writer.stop() == 0


def test_what_was_triggered_before_the_start_is_past(start: Start, database: Database, streams: Streams) -> None:
    show(streams, {"BTCUSDT:1m": bar()})
    trigger(streams)
    with start() as writer:
        eventually(lambda: runs(streams) and heartbeat(streams)["time_ms"] > heartbeat(streams)["started_ms"] + 1500)
        assert stored(database) == []
        assert writer.stop() == 0


@pytest.mark.parametrize("epochs", [(5, 5), (5, 9), (9, 5)], ids=["same", "after a restart", "of a lost timeline"])
def test_a_final_stays_and_a_final_replaces(
    start: Start, database: Database, streams: Streams, epochs: tuple[int, int]
) -> None:
    """The hash shows a bar until the next one opens: what it holds may be older than what is in the table."""
    final = kline(epoch=epochs[0], complete=0, trades=3)
    later = kline(symbol="ETHUSDT", epoch=epochs[0], trades=3)
    upsert(database, [final])
    show(streams, {"BTCUSDT:1m": bar(9), "ETHUSDT:1m": bar(9)}, epoch=epochs[1])
    with start() as writer:
        eventually(lambda: runs(streams))
        trigger(streams)
        eventually(lambda: counters(streams).get("snapshots") == 1)
        assert [row.trades for row in stored(database)] == [3, 9]
        upsert(database, [later])
        show(streams, {"BTCUSDT:1m": bar(10), "ETHUSDT:1m": bar(10)}, epoch=epochs[1])
        trigger(streams)
        eventually(lambda: counters(streams).get("snapshots") == 2)
        assert writer.stop() == 0
    assert stored(database) == [final, later]


def test_finals_go_first(start: Start, database: Database, streams: Streams) -> None:
    show(streams, {"BTCUSDT:1m": bar()})
    finals = [kline(symbol=f"S{n}USDT") for n in range(FINALS_WAITING_MAX + 1)]
    streams.ensure_group(KEYS.klines, GROUP_WRITERS)
    with start() as writer:
        eventually(lambda: runs(streams))
        publish(streams, finals)
        trigger(streams)
        trigger(streams)
        eventually(lambda: counters(streams).get("snapshots_skipped") == 1)
        taken = streams.read_group([KEYS.klines], GROUP_WRITERS, "writer-final", count=FINALS_WAITING_MAX + 1)
        trigger(streams)
        eventually(lambda: counters(streams).get("snapshots_skipped") == 2)
        assert stored(database) == [], "they are read but not settled"
        streams.ack(KEYS.klines, GROUP_WRITERS, [entry.id for entry in taken[KEYS.klines]])
        eventually(lambda: len(stored(database)) == 1)
        assert writer.stop() == 0


STREAM_FILLS_UP = """
from klagg.drivers.redis_streams import Streams
from writers import snapshots
upsert = snapshots.upsert
def upsert_and_let_finals_wait(database, klines):
    snapshots.Snapshots.finals_wait = lambda self: True
    return upsert(database, klines)
snapshots.upsert = upsert_and_let_finals_wait
"""


def test_a_snapshot_under_way_lets_finals_through(start: Start, database: Database, streams: Streams) -> None:
    show(streams, {f"S{n:04}USDT:1m": bar() for n in range(BATCH_ROWS + 10)})
    with start(prelude=STREAM_FILLS_UP) as writer:
        eventually(lambda: runs(streams))
        trigger(streams)
        eventually(lambda: counters(streams).get("snapshots_cut_short") == 1)
        assert len(stored(database)) == BATCH_ROWS
        assert writer.stop() == 0


def test_only_what_is_configured(start: Start, database: Database, streams: Streams) -> None:
    show(streams, {"BTCUSDT:1m": bar(), "BTCUSDT:1h": bar(), "BTCUSDT:1w": bar()})
    with start(PERSISTENCE__SNAPSHOT_INTERVALS="1m,1w") as writer:
        eventually(lambda: runs(streams))
        trigger(streams)
        eventually(lambda: [row.interval for row in stored(database)] == ["1m", "1w"])
        assert writer.stop() == 0


def test_switched_off_it_keeps_the_history_alone(start: Start, database: Database, streams: Streams) -> None:
    show(streams, {"BTCUSDT:1m": bar()})
    with start(PERSISTENCE__SNAPSHOTS="false") as writer:
        eventually(lambda: runs(streams))
        trigger(streams)
        tell(streams, "A")
        eventually(lambda: findings(database) == 1)
        assert stored(database) == []
        assert writer.stop() == 0


def test_a_bad_bar_does_not_stop_the_rest(start: Start, database: Database, streams: Streams) -> None:
    never = str(10**17)  # a time in ms that no timestamptz holds
    bars = {"AUSDT:1m": bar(), "BUSDT:1m": "1,2,3", "CUSDT:1m": bar().replace(str(OPEN_TIME), never), "DUSDT:1m": bar()}
    show(streams, bars)
    with start() as writer:
        eventually(lambda: runs(streams))
        trigger(streams)
        eventually(lambda: [row.symbol for row in stored(database)] == ["AUSDT", "DUSDT"])
        eventually(lambda: counters(streams).get("bad_bars") == 2)
        assert "'BUSDT:1m'" in writer.said()
        assert writer.stop() == 0


def tell(streams: Streams, *symbols: str) -> list[str]:
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


def test_history_becomes_rows(start: Start, database: Database, streams: Streams) -> None:
    entries = [
        events_entry("tick", T, []),
        events_entry("listed", T, [("AUSDT", T - 1000, "TRADING", 2, 3)]),
        events_entry("gap_opened", T + 1, [(*GAP_KEY, T - 5, T - 4)]),
        events_entry("close", T + 2, [("AUSDT", "1m", T, "clock", 0, 1, "open", "waiting", "own")]),
        events_entry("gap_closed", T + 3, [(*GAP_KEY, "repaired")]),
    ]
    streams.write([Append(KEYS.events, stamp(each, "a@1", seq)) for seq, each in enumerate(entries, 1)])
    tell(streams, "A", "B")
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
    good = tell(streams, "A", "B")
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
    tell(streams, "A", "B")
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
    tell(streams, "A", "B")
    for stream in (KEYS.events, KEYS.findings):
        streams.ensure_group(stream, GROUP_HISTORY)
    streams.read_group([KEYS.findings], GROUP_HISTORY, "writer-snapshot-gone", count=2)
    with start(prelude=IMPATIENT) as writer:
        eventually(lambda: settled(streams))
        assert findings(database) == 2
        assert writer.stop() == 0


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


def test_days_are_counted_at_the_trigger_of_the_clock(start: Start, database: Database, streams: Streams) -> None:
    today_ms = int(local_ms()) // DAY_MS * DAY_MS
    upsert(database, [kline(open_time=today_ms - DAY_MS + number * MINUTE_MS) for number in range(3)])
    with start() as writer:
        trigger(streams, TRIGGER_DAYS, int(local_ms()))
        eventually(lambda: counters(streams).get("days_counted", 0) >= 1)
        with database.transaction():
            days = database.query("SELECT bars, complete FROM symbol_days WHERE bars > 0")
        assert [(each["bars"], each["complete"]) for each in days] == [(3, 3)]
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
        tell(streams, "A")
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
        tell(streams, "A")
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
            tell(streams, "A")
            eventually(lambda: streams.pending_count(KEYS.findings, GROUP_HISTORY) == 1)
            assert writer.stop() == EXIT_LEFT
    with start() as writer:
        tell(streams, *(f"S{n}" for n in range(3000)))
        eventually(lambda: runs(streams))
        assert writer.stop() == 0
    assert findings(database) == 3000


def test_a_redis_that_lost_its_data_gets_its_groups_again(start: Start, database: Database, streams: Streams) -> None:
    with start() as writer:
        eventually(lambda: runs(streams))
        streams.delete(KEYS.events, KEYS.findings, KEYS.klines)
        tell(streams, "A")
        eventually(lambda: findings(database) == 1)
        assert writer.stop() == 0


def test_without_the_schema_or_a_database_it_says_so(start: Start, streams: Streams) -> None:
    with start() as writer:
        assert writer.wait() == 1
        assert "run `klagg migrate`" in writer.said()
    with start(DATABASE__ENABLED="false") as writer:
        assert writer.wait() == 2
        assert "database.enabled is false" in writer.said()

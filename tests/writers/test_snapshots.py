"""Bars in progress in the table, as the real process writer-snapshot puts them there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.wire.keys import GROUP_WRITERS, Keys
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
    show,
    trigger,
)
from tests.writers.support import OPEN_TIME, kline, publish, stored, writer_process
from writers.kline_table import upsert
from writers.snapshot_service import NICENESS
from writers.snapshots import BATCH_ROWS, FINALS_WAITING_MAX

pytestmark = pytest.mark.servers


@pytest.fixture
def start(redis_url: str, database_url: str, tmp_path: Path) -> Start:
    """Starts the process on the test's Redis and database; its log is one file over all starts."""
    return lambda **options: writer_process(
        redis_url, database_url, tmp_path / "writer.log", module="snapshot_service", **options
    )


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
        publish_findings(streams, "A")
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

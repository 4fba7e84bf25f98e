"""The days of the table symbol_days, as the real process writer-snapshot counts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.intervals import DAY_MS, MINUTE_MS
from klagg.wire.entries import TRIGGER_DAYS
from tests.kit import eventually
from tests.writers.snapshotkit import Start, counters, trigger
from tests.writers.support import kline, writer_process
from writers.kline_table import upsert

pytestmark = pytest.mark.servers


@pytest.fixture
def start(redis_url: str, database_url: str, tmp_path: Path) -> Start:
    """Starts the process on the test's Redis and database; its log is one file over all starts."""
    return lambda **options: writer_process(
        redis_url, database_url, tmp_path / "writer.log", module="snapshot_service", **options
    )


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

"""The auditor's store on the real database: klines, day counts, amendments and open findings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from auditors.day_counts import DayCounts, JudgedBar
from auditors.exchange_store import ExchangeStore
from auditors.schedule import AuditedSeries, Look
from klagg.drivers.postgres import Database
from klagg.intervals import DAY_MS, MINUTE, MINUTE_MS
from tests.auditors.exchangekit import NAMES, SOUND_MS, clean
from tests.auditors.test_exchange import NAME
from writers.kline_table import upsert

pytestmark = pytest.mark.servers


def test_the_store_reads_and_writes_the_real_database(database: Database, database_url: str) -> None:
    world = clean(edges=False)
    for bars in world.ours.values():
        upsert(database, bars.values())
    store = ExchangeStore(database_url, "test")
    series = [AuditedSeries(each, MINUTE) for each in (*NAMES, "NOSUCHUSDT")]
    first = min(world.ours[NAME, "1m"])
    found = store.first_bars(series, [first] * len(series))
    assert found == {(each, "1m"): min(world.ours[each, "1m"]) for each in NAMES}
    assert store.first_bars(series[:1], [SOUND_MS]) == {}
    assert store.newest_minute(first) == max(max(bars) for bars in world.ours.values())
    assert store.newest_minute(SOUND_MS) is None
    look = Look(NAME, MINUTE, first + 5 * MINUTE_MS, first + 9 * MINUTE_MS)
    klines = store.klines(look)
    assert sorted(klines) == [first + n * MINUTE_MS for n in range(3, 9)]
    ours = world.ours[NAME, "1m"]
    assert all(replace(ours[at], epoch=bar.epoch) == bar for at, bar in klines.items())
    assert store.minutes_of(look, [first, first + MINUTE_MS]).keys() == {first, first + MINUTE_MS}
    assert store.day_counts(SOUND_MS) == []

    midnight = first // DAY_MS * DAY_MS + DAY_MS
    judged = [
        JudgedBar(midnight + n * MINUTE_MS, kind, place)
        for n, kind, place in (
            (-2, "EXACT", 0),
            (-1, "LOCAL_GAP", midnight - MINUTE_MS),
            (0, "LOCAL_GAP", midnight - MINUTE_MS),
            (1, "EDGE_SHIFT", 0),
        )
    ]
    for _ in range(2):
        store.record(look, judged, SOUND_MS)
    saved = store.day_counts(SOUND_MS)
    assert len(saved) == 2
    total: dict[int, JudgedBar] = {}
    for symbol, interval, counts in saved:
        assert (symbol, interval) == (NAME, MINUTE)
        assert isinstance(counts, DayCounts)
        total |= counts.different
    assert set(total.values()) == set(judged[1:])
    rows = database.query("SELECT bars, exact, local_gap, edge_shift, audited_at FROM audits ORDER BY day")
    stored = [(row["bars"], row["exact"], row["local_gap"], row["edge_shift"]) for row in rows]
    assert stored == [(2, 1, 1, 0), (2, 0, 1, 1)]
    assert int(rows[0]["audited_at"].timestamp() * 1000) == SOUND_MS
    assert store.open_of(["0:x"]) == set()
    store.record(look, [], SOUND_MS)

    assert store.amended([MINUTE], first, 0) == []
    database.execute(AMEND, {"symbol": NAME, "at_ms": first})
    (amended,) = store.amended([MINUTE], first, 0)
    assert (amended.symbol, amended.interval, amended.open_time, amended.version) == (NAME, "1m", first, (1, 2, 1, 0))
    assert store.amended([MINUTE], first, amended.stored_ms) == [amended]
    assert store.amended([MINUTE], first + 1, 0) == []
    assert store.amended([MINUTE], first, amended.stored_ms + 3 * MINUTE_MS) == []
    store.close()


AMEND = """
INSERT INTO amendments (
    symbol, "interval", open_time, epoch, revision, complete, source, replaced_epoch, replaced_revision,
    replaced_complete, was, became
)
SELECT %(symbol)s, '1m', timestamptz 'epoch' + %(at_ms)s * interval '1 millisecond', 1, revision, true, 'mixed', 1,
    revision - 1, true, was, '{}'
FROM (VALUES (2, '{"high": "1"}'::jsonb), (3, '{}'::jsonb)) AS versions (revision, was)
"""
"""An amendment, and a confirmation of it."""

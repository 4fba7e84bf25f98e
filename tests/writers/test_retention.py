"""What is too old goes: chunks of a real hypertable, rows of a plain table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.drivers.postgres import Database
from klagg.embedded import PostgresServer
from klagg.errors import DatabaseUnavailable
from klagg.intervals import DAY_MS, INTERVALS
from klagg.kline import Kline
from klagg.settings import Persistence, Settings
from klagg.wire.findings import FindingKind, Severity, finding_entry
from tests.writers.support import kline, stored
from tests.writers.test_history import closed, opened, raw
from writers import retention
from writers.history_findings import finding_of
from writers.history_table import keep
from writers.kline_classes import CLASSES
from writers.kline_table import upsert
from writers.migrate import migrate
from writers.migrations import load_migrations
from writers.retention import Retention, Step, cut_ms, is_short

NOW_MS = 1_763_700_000_000
CHUNK_DAYS = 7
INTERVALS_KEPT = ("1m", "1h", "1d", "1w")


@pytest.fixture
def plain(database_url: str, postgres_server: PostgresServer) -> Iterator[Database]:
    """A database with the schema as a PostgreSQL without TimescaleDB has it."""
    database = Database(database_url)
    migrate(database, [each for each in load_migrations() if not each.requires])
    postgres_server.sql("DROP EXTENSION timescaledb", urlsplit(database_url).path.strip("/"))
    yield database
    database.close()


def config(days: int = 0, short_days: int = 0) -> Settings:
    return Settings(persistence=Persistence(retention_days=days, retention_short_days=short_days))


def history() -> list[Kline]:
    """A bar of each interval for each of the last 100 days, as of NOW_MS."""
    found = {}
    for name in INTERVALS_KEPT:
        for day in range(100):
            open_time = INTERVALS[name].open_time(NOW_MS - day * DAY_MS)
            close_time = INTERVALS[name].close_time(open_time)
            each = kline(interval=name, open_time=open_time, close_time=close_time)
            found[each.key] = each
    return [found[key] for key in sorted(found)]


def done(database: Database, settings: Settings) -> dict[str, int]:
    """A round; how much went."""
    gone: dict[str, int] = {}
    for what, count in Retention(database, settings).steps(NOW_MS):
        gone[what] = gone.get(what, 0) + count
    return gone


def ages(database: Database, *names: str) -> list[float]:
    """How many days ago the rows of these intervals closed."""
    return [(NOW_MS - each.close_time) / DAY_MS for each in stored(database) if each.interval in names]


@given(st.integers(0, 10**13), st.integers(1, 36_500), st.sets(st.sampled_from(list(INTERVALS))))
def test_nothing_in_progress_and_nothing_young_is_before_the_cut(now_ms: int, days: int, names: set[str]) -> None:
    cut = cut_ms(now_ms, days, sorted(names))
    assert cut <= now_ms - days * DAY_MS
    for name in names:
        each = INTERVALS[name]
        assert each.open_time(now_ms - days * DAY_MS) >= cut
        before = each.open_of(each.bucket_of(cut) - 1)
        assert each.close_time(before) < now_ms - days * DAY_MS


def test_all_intervals_of_a_table_are_kept_alike() -> None:
    for intervals in CLASSES.values():
        assert len({is_short(each) for each in intervals}) == 1
    assert [name for name in INTERVALS if is_short(name)] == ["1s", "5s", "15s", "1m", "3m", "5m", "15m", "30m"]


@pytest.mark.servers
def test_kept_for_ever_by_default(database: Database) -> None:
    upsert(database, history())
    assert done(database, Settings()) == {}
    assert stored(database) == history()


def chunks(database: Database, table: str) -> int:
    return len(database.query(f"SELECT show_chunks('{table}')"))


@pytest.mark.servers
def test_old_chunks_are_gone(database: Database) -> None:
    klines = history()
    upsert(database, klines)
    before = {table: chunks(database, table) for table in CLASSES}
    assert before["klines_minutes"] > 10
    gone = done(database, config(days=30))
    left = {table: chunks(database, table) for table in CLASSES}
    assert gone["chunks"] == sum(before.values()) - sum(left.values()) > 8
    assert gone.get("rows", 0) == 0
    assert {each for each in klines if each.close_time >= NOW_MS - 30 * DAY_MS} <= set(stored(database))
    # What is older shares a chunk of a week with something young.
    assert 30 < max(ages(database, "1m")) < 30 + CHUNK_DAYS
    assert done(database, config(days=30)).get("chunks") == 0


@pytest.mark.servers
@pytest.mark.parametrize(("days", "short_days"), [(0, 10), (90, 10)])
def test_short_intervals_may_go_sooner_and_leave_the_rest(database: Database, days: int, short_days: int) -> None:
    klines = history()
    upsert(database, klines)
    done(database, config(days, short_days))
    assert max(ages(database, "1m")) < 10 + CHUNK_DAYS
    rest = [each for each in klines if each.interval != "1m"]
    assert [each for each in stored(database) if each.interval != "1m"] == rest


@pytest.mark.servers
def test_amendments_go_with_the_klines(database: Database) -> None:
    upsert(database, history())
    upsert(database, [replace(each, revision=2) for each in history()])
    before = database.query("SELECT count(*) AS n FROM amendments")[0]["n"]
    assert before == len(history())
    done(database, config(days=30))
    left = database.query("SELECT min(open_time) AS first, count(*) AS n FROM amendments")[0]
    assert left["n"] < before
    assert left["first"].timestamp() * 1000 > NOW_MS - (30 + 30) * DAY_MS


@pytest.mark.servers
def test_a_plain_table_is_emptied_row_by_row(plain: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 7)
    klines = [*history(), *(replace(each, symbol="ZUSDT") for each in history())]
    upsert(plain, klines)
    upsert(plain, [replace(each, revision=2) for each in klines])
    steps: list[Step] = list(Retention(plain, config(days=30, short_days=10)).steps(NOW_MS))
    assert max(count for _, count in steps) == 7
    assert stored(plain) == [
        replace(each, revision=2)
        for each in klines
        if each.close_time >= NOW_MS - (10 if each.interval == "1m" else 30) * DAY_MS
    ]
    (oldest,) = plain.query("SELECT min(open_time) AS at FROM amendments")
    assert oldest["at"].timestamp() * 1000 >= NOW_MS - 30 * DAY_MS


@pytest.mark.servers
def test_what_is_told_goes_with_the_klines_but_open_gaps_stay(database: Database) -> None:
    old, young = NOW_MS - 31 * DAY_MS, NOW_MS - 29 * DAY_MS
    findings = [
        finding_of(raw(finding_entry(FindingKind.OVERFLOW, Severity.INFO, "", time_ms=time_ms), seq), 0, f"{seq}-0")
        for seq, time_ms in enumerate((old, young, 0))
    ]
    events = [
        *opened(old, ("A", 1, 1)),
        *opened(old, ("B", 1, 1)),
        *closed(old + 9, "lost", gap_key=("B", 1, 1)),
        *opened(old, ("C", 1, 1)),
        *closed(young, "lost", gap_key=("C", 1, 1)),
    ]
    keep(database, events, findings, "agg")
    assert done(database, config(days=30))["rows"] == 2
    assert [row["symbol"] for row in database.query("SELECT symbol FROM gaps ORDER BY symbol")] == ["A", "C"]
    assert database.query("SELECT count(*) AS n FROM findings") == [{"n": 2}]


@pytest.mark.servers
def test_a_chunk_that_somebody_uses_is_not_waited_for(database: Database, database_url: str) -> None:
    """Whoever waits for a chunk alone makes everybody else wait behind it: it is put off to the next round."""
    upsert(database, history())
    reader = Database(database_url)
    with reader.transaction():
        reader.query("SELECT count(*) FROM klines")
        with pytest.raises(DatabaseUnavailable, match="lock"):
            done(database, config(days=30))
    assert done(database, config(days=30))["chunks"] > 5
    reader.close()

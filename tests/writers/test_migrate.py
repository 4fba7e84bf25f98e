from __future__ import annotations

import argparse
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from klagg.cli import migrate as command
from klagg.drivers.postgres import Database
from klagg.embedded import PostgresServer
from klagg.errors import DatabaseRefused
from klagg.intervals import INTERVALS
from tests.writers.support import kline, stored
from writers.kline_classes import CLASSES, table_of
from writers.kline_table import upsert
from writers.migrate import migrate, require_schema
from writers.migrations import FOLDER as MIGRATIONS
from writers.migrations import Migration, MigrationError, load_migrations

pytestmark = pytest.mark.servers

LICENSED = "0009_timescale_license"
NO_LICENSE = (
    "compression and continuous aggregates are off: this TimescaleDB has the licence 'apache', they need 'timescale'"
)
"""What Debian's edition is told."""


def labels() -> list[str]:
    """The migrations that Debian's edition of TimescaleDB can have."""
    return [each.label for each in load_migrations() if each.label != LICENSED]


class PlainPostgres(PostgresServer):
    """The same server without TimescaleDB preloaded, as any plain PostgreSQL."""

    def _prepare(self) -> None:
        super()._prepare()
        self._build = replace(self.build, hypertables=False)


@pytest.fixture(scope="module")
def plain(servers_directory: Path) -> Iterator[PlainPostgres]:
    with PlainPostgres(servers_directory / "plain", fsync=False, source="debian") as server:
        yield server


@pytest.fixture
def plain_url(plain: PlainPostgres) -> Iterator[str]:
    yield plain.create_database("plain")
    plain.drop_database("plain")


@pytest.fixture
def empty(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def test_each_class_is_a_hypertable_with_its_own_chunks_and_the_primary_key_as_its_only_btree(empty: Database) -> None:
    report = migrate(empty)
    assert [each.label for each in report.applied] == labels()
    assert report.off == [NO_LICENSE]
    dimensions = empty.query(
        "SELECT hypertable_name AS name, column_name AS on, extract(day FROM time_interval)::int AS days"
        " FROM timescaledb_information.dimensions"
    )
    assert {(row["name"], row["on"], row["days"]) for row in dimensions} == {
        ("klines_seconds", "open_time", 1),
        ("klines_minutes", "open_time", 7),
        ("klines_hours", "open_time", 90),
        ("klines_days", "open_time", 365),
        ("amendments", "open_time", 30),
    }
    indexes = empty.query("SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND tablename LIKE 'klines%'")
    # Beside the keys only minutes have an index: they alone are asked for over all symbols at once.
    known = {"klines_minutes_open_time", *(f"{table}_pkey" for table in CLASSES)}
    assert {row["indexname"] for row in indexes} == known


def test_the_tables_and_the_code_agree_on_the_classes(empty: Database) -> None:
    migrate(empty)
    for number, interval in enumerate(INTERVALS):
        assert upsert(empty, [kline(interval=interval, trades=number)]) == 1
        table = table_of(interval)
        assert empty.query(f'SELECT "interval" AS i FROM {table} WHERE trades = {number}') == [{"i": interval}]
    assert len(stored(empty)) == len(INTERVALS)


@pytest.mark.parametrize("interval", ["1s", "1m", "4h", "1M"])
def test_the_planner_looks_into_the_tables_of_the_interval_only(empty: Database, interval: str) -> None:
    migrate(empty)
    upsert(empty, [kline(interval=each) for each in INTERVALS])
    plan = "\n".join(
        row["QUERY PLAN"]
        for row in empty.query(
            'EXPLAIN SELECT * FROM klines WHERE symbol = %(symbol)s AND "interval" = %(interval)s'
            " ORDER BY open_time DESC LIMIT 5",
            {"symbol": "BTCUSDT", "interval": interval},
        )
    )
    used = {table for table, name in empty_chunks(empty).items() if name in plan}
    assert used == {table_of(interval)}, plan
    assert "Seq Scan" not in plan


def empty_chunks(database: Database) -> dict[str, str]:
    """The chunk of each class, by the name of its hypertable."""
    rows = database.query(
        "SELECT hypertable_name AS name, chunk_name AS chunk FROM timescaledb_information.chunks"
        " WHERE hypertable_name LIKE 'klines%'"
    )
    return {row["name"]: row["chunk"] for row in rows}


def test_a_second_run_changes_nothing(empty: Database) -> None:
    migrate(empty)
    before = empty.query("SELECT * FROM schema_migrations ORDER BY version")
    assert migrate(empty).applied == []
    assert empty.query("SELECT * FROM schema_migrations ORDER BY version") == before


def test_several_processes_at_once_apply_each_migration_once(database_url: str, empty: Database) -> None:
    applied: list[str] = []
    errors: list[BaseException] = []
    gate = threading.Barrier(6)

    def run() -> None:
        database = Database(database_url)
        try:
            gate.wait()
            applied.extend(each.label for each in migrate(database).applied)
        except BaseException as bad:
            errors.append(bad)
        finally:
            database.close()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(applied) == labels()
    require_schema(empty)


def test_an_edited_migration_is_refused_and_nothing_is_applied(empty: Database) -> None:
    first, *rest = load_migrations()
    migrate(empty, [first])
    edited = replace(first, sql=first.sql + "\n-- a late idea\n")
    with pytest.raises(MigrationError, match="0001_klines is not what was applied"):
        migrate(empty, [edited, *rest])
    assert empty.query("SELECT version FROM schema_migrations") == [{"version": 1}]


def test_a_migration_that_fails_is_undone_and_the_ones_before_it_stay(empty: Database) -> None:
    good = Migration(1, "good", "CREATE TABLE a (n int);")
    bad = Migration(2, "bad", "CREATE TABLE b (n int); SELECT 1/0;")
    with pytest.raises(MigrationError, match=r"0002_bad failed and was undone.*division by zero"):
        migrate(empty, [good, bad])
    there = empty.query("SELECT to_regclass('a') IS NOT NULL AS a, to_regclass('b') IS NOT NULL AS b")
    assert there == [{"a": True, "b": False}]
    better = replace(bad, sql="CREATE TABLE b (n int);")
    assert migrate(empty, [good, better]).applied == [better]


def test_the_extension_is_created_where_the_server_has_it(postgres_server: PostgresServer) -> None:
    postgres_server.sql('CREATE DATABASE "bare" OWNER klagg')
    database = Database(postgres_server.database_url("bare"))
    try:
        assert migrate(database).off == [NO_LICENSE]
        assert hypertables(database) == {*CLASSES, "amendments"}
    finally:
        database.close()
        postgres_server.drop_database("bare")


NO_EXTENSION = "this role may not create TimescaleDB's extension: let an owner run CREATE EXTENSION timescaledb"


def hypertables(database: Database) -> set[str]:
    return {row["n"] for row in database.query("SELECT hypertable_name AS n FROM timescaledb_information.hypertables")}


def test_a_role_that_may_not_create_the_extension_is_told_so_and_has_it_later(postgres_server: PostgresServer) -> None:
    postgres_server.sql('CREATE DATABASE "foreign"')
    postgres_server.sql("GRANT CREATE ON SCHEMA public TO klagg", "foreign")
    database = Database(postgres_server.database_url("foreign"))
    try:
        off = migrate(database).off
        assert [each.partition(": ")[2] for each in off] == [NO_EXTENSION, NO_EXTENSION]
        assert off[0].startswith("hypertables are off, klines and amendments are plain tables")
        upsert(database, [kline(), kline(interval="1d")])
        postgres_server.sql("CREATE EXTENSION timescaledb", "foreign")
        assert [each.label for each in migrate(database).applied] == ["0005_hypertables"]
        assert hypertables(database) == {*CLASSES, "amendments"}
        assert stored(database) == [kline(interval="1d"), kline()]
    finally:
        database.close()
        postgres_server.drop_database("foreign")


OLD_INSERT = """
INSERT INTO klines
SELECT 'BTCUSDT', name, at, at + INTERVAL '1 minute', 1.10, 2.0, 0.50, 1.25, 3, 4.000, 5, 6, 7, -1, -1, -1, -1, true, 9,
    1, 'own', ''
FROM unnest(%(names)s::text[]) AS name, generate_series('2026-01-01Z'::timestamptz, '2026-03-01Z', '1 day') AS at
"""
"""Rows as they were written into the one table of the first migrations."""


@pytest.mark.parametrize("before", [1, 2, 3], ids=["plain table", "hypertable", "with history"])
def test_rows_of_earlier_schemas_move_and_all_installations_end_the_same(empty: Database, before: int) -> None:
    migrations = load_migrations()
    migrate(empty, migrations[:before])
    empty.execute(OLD_INSERT, {"names": list(INTERVALS)})
    rows = "SELECT * FROM klines ORDER BY symbol, interval, open_time"
    old = [{**row, "official": False} for row in empty.query(rows)]
    migrate(empty)
    assert len(old) == 60 * len(INTERVALS)
    assert empty.query(rows) == old
    assert hypertables(empty) == {*CLASSES, "amendments"}
    assert migrate(empty).applied == []


VERSION_1_FINDINGS = """
INSERT INTO findings (id, shard, kind, severity, symbol, writer, said_at, evidence, standing, closed_at) VALUES
    ('0:a', 0, 'GAP', 'error', 'AUSDT', 'w', '2026-03-09Z', '"missing"', true, NULL),
    ('0:b', 0, 'EXCHANGE_HOLE', 'info', 'AUSDT', 'w', '2026-03-09Z', '"flat"', true, '2026-03-10Z'),
    ('0:c', 0, 'LOCAL_GAP', 'warning', 'AUSDT', 'w', '2026-03-09Z', '"waits"', true, NULL)
"""
VERSION_1_AUDITS = """
INSERT INTO audits (
    symbol, day, "interval", bars, exact, edge_shift, exchange_hole, local_gap, late, unexplained, audited_at, different
) VALUES
    ('AUSDT', '2026-03-09Z', '1m', 9, 5, 0, 3, 1, 0, 0, '2026-03-10Z',
     '[[0, 60000, "LOCAL_GAP", 0], [60000, 180000, "EXCHANGE_HOLE", 60000], [240000, 300000, "EXCHANGE_HOLE", 7]]'),
    ('BUSDT', '2026-03-09Z', '1m', 9, 8, 0, 0, 0, 1, 0, '2026-03-10Z', '[[0, 60000, "LATE", 0]]'),
    ('CUSDT', '2026-03-09Z', '1m', 9, 9, 0, 0, 0, 0, 0, '2026-03-10Z', '[]')
"""


def test_what_version_1_of_the_contract_stored_gets_the_names_of_this_one(empty: Database) -> None:
    migrate(empty, load_migrations()[:15])
    empty.execute(VERSION_1_FINDINGS)
    empty.execute(VERSION_1_AUDITS)
    empty.execute(
        'INSERT INTO symbol_days (symbol, "interval", day, expected, bars, complete, amended, own)'
        " VALUES ('AUSDT', '1m', '2026-03-09Z', 12, 10, 9, 0, 10)"
    )
    assert [each.label for each in migrate(empty, load_migrations()[:16]).applied] == ["0016_gaps"]
    kinds = empty.query("SELECT id, kind, closed_at IS NULL AS open FROM findings ORDER BY id")
    assert [tuple(row.values()) for row in kinds] == [
        ("0:a", "MISSING_KLINE", True),
        ("0:b", "EXCHANGE_GAP", False),
        ("0:c", "LOCAL_GAP", True),
    ]
    audits = empty.query("SELECT exchange_gap, different FROM audits ORDER BY symbol")
    assert [tuple(row.values()) for row in audits] == [
        (3, [[0, 60000, "LOCAL_GAP", 0], [60000, 180000, "EXCHANGE_GAP", 60000], [240000, 300000, "EXCHANGE_GAP", 7]]),
        (0, [[0, 60000, "LATE", 0]]),
        (0, []),
    ]
    (row,) = empty.query("SELECT missing, exchange_gap, local_gap FROM scoreboard WHERE symbol = 'AUSDT'")
    assert tuple(row.values()) == (2, 3, 1)
    comments = empty.query(
        "SELECT obj_description(class.oid) AS about, col_description(class.oid, column_.attnum) AS text"
        " FROM pg_class AS class JOIN pg_attribute AS column_ ON column_.attrelid = class.oid"
        " WHERE class.relname IN ('gaps', 'audits', 'findings', 'scoreboard') AND column_.attnum > 0"
    )
    words = " ".join(str(text) for row in comments for text in row.values()).lower()
    assert "gap_opened" in words
    assert "hole" not in words.replace("whole", "")


VERSION_2_KLINES = """
INSERT INTO {table} (
    symbol, "interval", open_time, close_time, open, high, low, close, volume, quote_volume, trades, taker_buy_volume,
    taker_buy_quote_volume, first_agg_id, last_agg_id, first_trade_id, last_trade_id, complete, epoch, revision, source,
    edge
)
SELECT 'AUSDT', '{interval}', at, at + INTERVAL '1 second', 1, 2, 1, 1, 3, 4, 5, 1, 1, -1, -1, -1, -1, complete, 9,
    revision, source, ''
FROM (VALUES
    ('2026-03-09T00:00Z'::timestamptz, true, 1, 'own'), ('2026-03-09T01:00Z', true, 2, 'exchange'),
    ('2026-03-09T02:00Z', true, 1, 'mixed'), ('2026-03-09T03:00Z', false, 1, 'mixed'),
    ('2026-03-09T04:00Z', false, 1, 'own'), ('2026-03-09T05:00Z', false, 0, 'own')
) AS bars (at, complete, revision, source)
"""
VERSION_2_DAYS = """
INSERT INTO symbol_days (symbol, "interval", day, expected, bars, complete, amended, own) VALUES
    ('AUSDT', '1h', '2026-03-09Z', 24, 5, 3, 1, 2),
    ('AUSDT', '1h', '2026-03-01Z', 24, 24, 20, 0, 21),
    ('AUSDT', '1h', '2026-03-02Z', 24, 24, 24, 0, 24),
    ('AUSDT', '1h', '2026-03-03Z', 24, 24, 24, 0, 0)
"""
VERSION_2_AMENDMENTS = """
INSERT INTO amendments (
    symbol, "interval", open_time, epoch, revision, complete, source, replaced_epoch, replaced_revision,
    replaced_complete, was, became
) VALUES
    ('AUSDT', '1h', '2026-03-09T00:00Z', 9, 1, true, 'own', 9, 1, false, '{}', '{}'),
    ('AUSDT', '1h', '2026-03-09T01:00Z', 9, 2, true, 'exchange', 9, 1, true, '{"source": "own"}',
        '{"source": "exchange"}'),
    ('AUSDT', '1h', '2026-03-09T02:00Z', 9, 2, true, 'mixed', 9, 1, true, '{"trades": 1}', '{"trades": 2}'),
    ('AUSDT', '1h', '2026-03-09T03:00Z', 9, 2, false, 'mixed', NULL, NULL, NULL, '{}', '{}')
"""


def test_what_the_exchange_made_whole_under_version_2_becomes_official(empty: Database) -> None:
    migrate(empty, load_migrations()[:16])
    for table, interval in (("klines_minutes", "1m"), ("klines_hours", "1h"), ("klines_seconds", "1s")):
        empty.execute(VERSION_2_KLINES.format(table=table, interval=interval))
    empty.execute(VERSION_2_DAYS)
    empty.execute(VERSION_2_AMENDMENTS)
    assert [each.label for each in migrate(empty, load_migrations()[:17]).applied] == ["0017_official"]
    rows = empty.query('SELECT "interval" AS name, complete, official, source FROM klines ORDER BY open_time')
    for name in ("1s", "1m", "1h"):
        assert [tuple(row.values())[1:] for row in rows if row["name"] == name] == [
            (True, False, "own"),
            (False, True, "exchange"),
            (False, True, "mixed"),
            (False, False, "mixed"),
            (False, False, "own"),
            (False, False, "own"),
        ]
    days = empty.query("SELECT extract(day FROM day)::int AS day, bars, complete, official FROM symbol_days ORDER BY 1")
    assert [tuple(row.values()) for row in days] == [
        (1, 24, 17, 3),  # its klines are gone: 20 were called complete, and 3 of the 24 were not from trades alone
        (2, 24, 24, 0),
        (3, 24, 0, 24),
        (9, 5, 1, 2),
    ]
    noted = empty.query(
        "SELECT complete, official, replaced_complete AS one, replaced_official AS two FROM amendments"
        " ORDER BY open_time"
    )
    assert [tuple(row.values()) for row in noted] == [
        (True, False, False, False),
        (False, True, True, False),
        (False, True, False, True),
        (False, False, None, None),
    ]
    (counted,) = empty.query("SELECT complete, official, missing FROM scoreboard WHERE day = '2026-03-09Z'")
    assert tuple(counted.values()) == (1, 2, 19)
    (why, _) = empty.query("SELECT why FROM klines_amended ORDER BY open_time LIMIT 2")
    assert why == {"why": "official rows took the place of missing trades"}


def test_the_columns_say_what_complete_and_official_mean(empty: Database) -> None:
    migrate(empty)
    said = empty.query(
        "SELECT class.relname AS name, column_.attname AS column, col_description(class.oid, column_.attnum) AS text"
        " FROM pg_class AS class JOIN pg_attribute AS column_ ON column_.attrelid = class.oid"
        " WHERE column_.attname IN ('complete', 'official')"
        " AND class.relname IN ('klines', 'klines_seconds', 'klines_minutes', 'klines_hours', 'klines_days',"
        " 'symbol_days', 'scoreboard', 'klines_completeness')"
    )
    assert len(said) == 16
    for row in said:
        assert ("exchange''s word" if row["column"] == "official" else "own trade ids").replace("''", "'") in row[
            "text"
        ]


def test_a_row_that_no_class_would_take_stops_the_move_and_stays(empty: Database) -> None:
    migrate(empty, load_migrations()[:5])
    empty.execute(OLD_INSERT, {"names": ["1m", "7m"]})
    with pytest.raises(MigrationError, match=r"0006_klines_view failed and was undone.*does not know"):
        migrate(empty)
    assert empty.query("SELECT count(*) AS n FROM klines") == [{"n": 120}]


def test_plain_postgresql_works_and_is_told_what_is_off(plain_url: str) -> None:
    database = Database(plain_url)
    report = migrate(database)
    applied = [each.label for each in load_migrations() if each.requires in ("", "reader_role")]
    assert [each.label for each in report.applied] == applied
    off = report.off[0]
    assert off.startswith("hypertables are off, klines and amendments are plain tables: this PostgreSQL server has no")
    require_schema(database)
    assert upsert(database, [kline()]) == 1
    assert stored(database) == [kline()]
    assert migrate(database).applied == []
    database.close()


def test_what_the_timescale_licence_brings_is_refused_for_no_other_reason(empty: Database) -> None:
    migrate(empty)
    licensed = next(each for each in load_migrations() if each.requires == "timescale_license")
    assert licensed.label == LICENSED
    bare = "\n".join(line for line in licensed.sql.splitlines() if not line.startswith("--"))
    statements = [each.strip() for each in bare.split(";") if each.strip()]
    # What follows the continuous aggregate needs it to be there.
    view = next(n for n, each in enumerate(statements) if each.startswith("CREATE MATERIALIZED VIEW"))
    statements = statements[: view + 1]
    assert len(statements) == 9
    for statement in statements:
        with pytest.raises(DatabaseRefused) as refused:
            empty.execute(statement)
        assert refused.value.sqlstate == FEATURE_NOT_SUPPORTED, refused.value
    with pytest.raises(MigrationError, match=r"0009_timescale_license failed and was undone.*apache"):
        migrate(empty, [replace(each, requires="") if each == licensed else each for each in load_migrations()])


FEATURE_NOT_SUPPORTED = "0A000"


@pytest.mark.skipif(
    not os.environ.get("KLAGG_PGLITE"),
    reason="KLAGG_PGLITE names no folder with a PGlite that holds TimescaleDB's community edition",
)
def test_the_schema_on_the_community_edition() -> None:
    script = Path(__file__).with_name("community_edition.mjs")
    done = subprocess.run(
        ["node", str(script), os.environ["KLAGG_PGLITE"], str(MIGRATIONS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["license"] == "timescale"
    assert found["compressed"] == sorted(CLASSES)
    assert found["chunks_compressed"] >= 3
    assert found["bars"] == found["bars_after"] > 50_000
    assert found["amended"] == 50
    assert found["rolled_up"] == {"days": 18, "bars": 18 * 1440, "official": 18 * 24}
    assert found["told"]["official"] > 900
    assert sum(found["told"].values()) == found["bars"]


def test_a_role_that_may_not_create_roles_is_told_that_there_is_no_reader(plain: PlainPostgres) -> None:
    database = Database(plain.create_database("readerless"))
    plain.sql("DROP ROLE klagg_reader")
    try:
        report = migrate(database)
        assert "the read-only role klagg_reader is off: this role may not create roles" in "\n".join(report.off)
        plain.sql("CREATE ROLE klagg_reader")
        assert [each.label for each in migrate(database).applied] == ["0008_reader"]
    finally:
        database.close()
        plain.drop_database("readerless")


def test_a_role_that_may_create_roles_makes_the_reader(plain: PlainPostgres) -> None:
    plain.sql("DROP ROLE klagg_reader; ALTER ROLE klagg CREATEROLE")
    database = Database(plain.create_database("reader"))
    try:
        assert "0008_reader" in [each.label for each in migrate(database).applied]
        assert plain.sql("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'klagg_reader'") == "f"
    finally:
        database.close()
        plain.drop_database("reader")
        plain.sql("ALTER ROLE klagg NOCREATEROLE")


def test_a_database_without_the_schema_is_named_so(empty: Database) -> None:
    with pytest.raises(MigrationError, match="lacks the migration 0001_klines: run `klagg migrate`"):
        require_schema(empty)
    migrate(empty)
    require_schema(empty)


def klagg_migrate(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers(required=True))
    arguments = parser.parse_args(["migrate", *argv])
    status: int = arguments.run(arguments)
    return status


def test_the_command_says_what_it_did(database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = tmp_path / "klagg.toml"
    configuration.write_text(f'[database]\nurl = "{database_url}"\n')
    assert klagg_migrate("--config", str(configuration)) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:2] == ["applied 0001_klines", "applied 0002_klines_hypertable"]
    assert said.splitlines()[-2:] == ["the database is up to date", f"note: {NO_LICENSE}"]
    assert klagg_migrate("--config", str(configuration)) == 0
    assert capsys.readouterr().out.splitlines()[0] == "the database is up to date: there was nothing to apply"


def test_the_command_says_in_one_sentence_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert klagg_migrate() == 2
    assert capsys.readouterr().err.startswith("klagg migrate: database.url is empty")
    monkeypatch.setenv("KLAGG_DATABASE__URL", "postgresql://klagg@127.0.0.1:1/klagg")
    assert klagg_migrate() == 1
    said = capsys.readouterr().err
    assert said.startswith("klagg migrate: the database does not answer")
    assert said.count("\n") == 1


def test_the_command_says_on_plain_postgresql_that_hypertables_are_off(
    plain_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KLAGG_DATABASE__URL", plain_url)
    assert klagg_migrate() == 0
    assert "note: hypertables are off" in capsys.readouterr().out

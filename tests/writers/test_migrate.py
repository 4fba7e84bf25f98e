from __future__ import annotations

import argparse
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from klagg.cli import migrate as command
from klagg.database import Database
from klagg.embedded import PostgresServer
from tests.writers.support import kline, stored
from writers.kline_table import upsert
from writers.migrate import migrate, require_schema
from writers.migrations import Migration, MigrationError, load_migrations

pytestmark = pytest.mark.servers


class PlainPostgres(PostgresServer):
    """The same server without TimescaleDB preloaded, as any plain PostgreSQL."""

    def _prepare(self) -> None:
        super()._prepare()
        self._build = dataclasses.replace(self.build, hypertables=False)


@pytest.fixture(scope="module")
def plain_url(servers_directory: Path) -> Iterator[str]:
    with PlainPostgres(servers_directory / "plain", fsync=False, source="debian") as server:
        yield server.url


@pytest.fixture
def empty(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def test_klines_is_a_hypertable_with_the_primary_key_as_its_only_index(empty: Database) -> None:
    report = migrate(empty)
    assert [each.label for each in report.applied] == [each.label for each in load_migrations()]
    assert report.off == []
    assert empty.query("SELECT hypertable_name AS name FROM timescaledb_information.hypertables") == [
        {"name": "klines"}
    ]
    dimensions = empty.query(
        "SELECT column_name, extract(day FROM time_interval)::int AS days FROM timescaledb_information.dimensions"
    )
    assert dimensions == [{"column_name": "open_time", "days": 7}]
    assert empty.query("SELECT indexname FROM pg_indexes WHERE tablename = 'klines'") == [{"indexname": "klines_pkey"}]


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
    assert sorted(applied) == [each.label for each in load_migrations()]
    require_schema(empty)


def test_an_edited_migration_is_refused_and_nothing_is_applied(empty: Database) -> None:
    first, *rest = load_migrations()
    migrate(empty, [first])
    edited = dataclasses.replace(first, sql=first.sql + "\n-- a late idea\n")
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
    better = dataclasses.replace(bad, sql="CREATE TABLE b (n int);")
    assert migrate(empty, [good, better]).applied == [better]


def test_the_extension_is_created_where_the_server_has_it(postgres_server: PostgresServer) -> None:
    postgres_server.sql('CREATE DATABASE "bare" OWNER klagg')
    database = Database(postgres_server.database_url("bare"))
    try:
        assert migrate(database).off == []
        assert database.query("SELECT count(*) AS n FROM timescaledb_information.hypertables") == [{"n": 1}]
    finally:
        database.close()
        postgres_server.drop_database("bare")


def test_a_role_that_may_not_create_the_extension_is_told_so(postgres_server: PostgresServer) -> None:
    postgres_server.sql('CREATE DATABASE "foreign"')
    postgres_server.sql("GRANT CREATE ON SCHEMA public TO klagg", "foreign")
    database = Database(postgres_server.database_url("foreign"))
    try:
        (off,) = migrate(database).off
        assert off.startswith("hypertables are off, klines is a plain table: this role may not create")
        postgres_server.sql("CREATE EXTENSION timescaledb", "foreign")
        assert [each.label for each in migrate(database).applied] == ["0002_klines_hypertable"]
    finally:
        database.close()
        postgres_server.drop_database("foreign")


def test_rows_written_before_timescaledb_came_move_into_the_hypertable(empty: Database) -> None:
    first, second = load_migrations()[:2]
    migrate(empty, [first])
    upsert(empty, [kline()])
    migrate(empty, [first, second])
    assert stored(empty) == [kline()]
    assert empty.query("SELECT count(*) AS n FROM show_chunks('klines')") == [{"n": 1}]


def test_plain_postgresql_works_and_is_told_what_is_off(plain_url: str) -> None:
    database = Database(plain_url)
    report = migrate(database)
    assert [each.label for each in report.applied] == ["0001_klines", "0003_history"]
    (off,) = report.off
    assert off.startswith("hypertables are off, klines is a plain table: this PostgreSQL server has no TimescaleDB")
    require_schema(database)
    assert upsert(database, [kline()]) == 1
    assert stored(database) == [kline()]
    assert migrate(database).applied == []
    database.close()


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
    assert said.splitlines()[-1] == "the database is up to date"
    assert klagg_migrate("--config", str(configuration)) == 0
    assert capsys.readouterr().out == "the database is up to date: there was nothing to apply\n"


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

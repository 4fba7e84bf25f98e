from __future__ import annotations

from pathlib import Path

import pytest

from writers.migrations import Migration, MigrationError, load_migrations, pending

ONE = Migration(1, "one", "SELECT 1;")
TWO = Migration(2, "two", "SELECT 2;", requires="timescaledb", without="two is off")
THREE = Migration(3, "three", "SELECT 3;")
ALL = (ONE, TWO, THREE)


def test_the_migrations_of_the_project_load() -> None:
    migrations = load_migrations()
    assert [each.label for each in migrations][:2] == ["0001_klines", "0002_klines_hypertable"]
    assert migrations[0].requires == ""
    assert migrations[1].requires == "timescaledb"
    assert "hypertables are off" in migrations[1].without
    assert {each.label: each.replaces for each in migrations if each.replaces} == {"0006_klines_view": 2}


@pytest.mark.parametrize(
    "names", [["0002_b.sql"], ["0001_a.sql", "0003_c.sql"], ["0001_a.sql", "0001_b.sql"], ["a.sql"]]
)
def test_gaps_doubles_and_odd_names_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=r"numbered|named"):
        load_migrations(tmp_path)


def test_what_is_missing_comes_in_order() -> None:
    assert pending(ALL, {}, {"timescaledb"}) == [ONE, TWO, THREE]
    assert pending(ALL, {1: ONE.checksum}, {"timescaledb"}) == [TWO, THREE]


def test_a_conditional_migration_waits_for_its_feature() -> None:
    assert pending(ALL, {}, ()) == [ONE, THREE]
    assert pending(ALL, {1: ONE.checksum, 3: THREE.checksum}, {"timescaledb"}) == [TWO]


def test_a_migration_that_was_undone_by_a_later_one_is_not_applied_any_more() -> None:
    undoing = Migration(3, "three", "SELECT 3;", replaces=2)
    assert pending((ONE, TWO, undoing), {1: ONE.checksum}, {"timescaledb"}) == [TWO, undoing]
    assert pending((ONE, TWO, undoing), {1: ONE.checksum, 3: undoing.checksum}, {"timescaledb"}) == []


def test_an_edited_migration_is_an_error() -> None:
    with pytest.raises(MigrationError, match="0001_one is not what was applied"):
        pending(ALL, {1: "0" * 64}, ())


def test_a_database_of_a_newer_klagg_is_an_error() -> None:
    with pytest.raises(MigrationError, match="migration 0004, which this klagg does not know"):
        pending(ALL, {4: "0" * 64}, ())

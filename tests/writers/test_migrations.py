from __future__ import annotations

from pathlib import Path

import pytest

from writers.migrations import Migration, MigrationError, load_migrations, pending

ONE = Migration(1, "one", "SELECT 1;")
TWO = Migration(2, "two", "SELECT 2;", requires="timescaledb", without="two is off")
THREE = Migration(3, "three", "SELECT 3;")
ALL = (ONE, TWO, THREE)


RELEASED = {
    "0001_klines": "626e1c42fb8a5e8074ced4fa0f2c5d06bc03fdaf1ad6f23918072c13444e30c2",
    "0002_klines_hypertable": "926594225c4b19ebb549c4d90b6eaaf97688af9a0abda0b1ce398fa6572ee92b",
    "0003_history": "c573bc5afd8795e93d0dd845e64d065ee04dc174778cfb03f7523c7a5da438bc",
    "0004_klines_classes": "81a90418f7b2a0c1e8d2bd4fad0428ecbf9d193da071c51a0b98bc594930ac1b",
    "0005_hypertables": "3e7e0e1b00b8bd599a979e01d5a69d19cea805c83c923993ba2eb0b52102bd20",
    "0006_klines_view": "17837b4fa9df401c0d69dc9bf4a698c2e24f4c6ea0554684687986b04cb392c0",
    "0007_views": "9a5b3738d747174477606386cd9949b9f63996423d10d3d25429fad14b9754b6",
    "0008_reader": "e52b51c58cb6696d8a48e255f3393b10236bae5187dd6489bf487e1be9ee72b7",
    "0009_timescale_license": "c781c879bc5195808141f2bbc3dc0164f013df3a21ca4a21595173dfc98b6daf",
    "0010_backfilled": "665722060967c39dc3307be0cf801e996d8515dabc9f6b74d429516567b4ba17",
    "0011_panel_indexes": "8dcb9b4b5976b8fd1b4107ba7990ea7cfd8225de00530de929c7e8e9d9b8d7b5",
    "0012_standing_findings": "f8da15d239f6e79b7ecc16613ee4aa8e30f02c360662dceadb861ff538600e61",
    "0013_audits": "9df18f4ede3ecb7dc27e1820c8c957ea229bfe9217ce4d0d305ceeb2b0dd6d67",
    "0014_scoreboard": "f9d25fea249547410705b33e27570e1d4fa758cd2476046979fa62c6aaf18f56",
    "0015_refresh_of_one": "7be8cdb531f3556c99c6f4b4ff8bbba0cd1b4667fe5f74377f984fd08c2dc1ad",
    "0016_gaps": "ecf4e15219175634af93fd84861504af94fd5e109d5a21480187f2433340d778",
}
"""The checksums of migrations that databases have applied: such a database refuses a klagg that has edited one."""


def test_an_applied_migration_is_never_edited() -> None:
    assert {each.label: each.checksum for each in load_migrations() if each.label in RELEASED} == RELEASED


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

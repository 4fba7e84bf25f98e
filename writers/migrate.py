"""Brings a database to the schema of this klagg: every migration in a transaction of its own, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from klagg.errors import DatabaseRefused
from writers.migrations import Migration, MigrationError, load_migrations, pending

TIMESCALEDB: Final = "timescaledb"
TIMESCALE_LICENSE: Final = "timescale_license"
READER_ROLE: Final = "reader_role"
INSUFFICIENT_PRIVILEGE: Final = "42501"

TIMEOUT_MS: Final = 4 * 3_600_000
"""For the database of a migration: moving the rows of a table takes its time, and so does another process's turn. About
100,000 rows move in a second."""

_QUERIES = load_statements(Path(__file__).with_name("migrate.sql"))


@dataclass(slots=True)
class Report:
    """What a run of `migrate` did: `applied` now, and `off`, sentences on what this database cannot have."""

    applied: list[Migration] = field(default_factory=list)
    off: list[str] = field(default_factory=list)


def migrate(database: Database, migrations: Sequence[Migration] | None = None) -> Report:
    """Apply what is missing; MigrationError if the database does not fit, with what went before it kept.

    A crash in between leaves whole migrations only, each with its row in schema_migrations; the next run goes on.
    """
    migrations = load_migrations() if migrations is None else migrations
    why_off = _why_off(database)
    features = [name for name, reason in why_off.items() if not reason]
    report = Report()
    while (step := _apply_next(database, migrations, features)) is not None:
        report.applied.append(step)
    replaced = {each.replaces for each in migrations}
    report.off = [
        f"{each.without}: {why_off[each.requires]}"
        for each in migrations
        if each.requires and each.requires not in features and each.version not in replaced
    ]
    return report


def require_schema(database: Database, migrations: Sequence[Migration] | None = None) -> None:
    """MigrationError unless the database has every unconditional migration; changes nothing."""
    migrations = load_migrations() if migrations is None else migrations
    with database.transaction():
        there = database.query(_QUERIES["has_schema_migrations"])[0]["there"]
        applied = _applied(database) if there else {}
    left = pending(migrations, applied, features=())
    if left:
        raise MigrationError(f"the database lacks the migration {left[0].label}: run `klagg migrate`")


def _applied(database: Database) -> dict[int, str]:
    return {row["version"]: row["checksum"] for row in database.query(_QUERIES["applied"])}


def _apply_next(database: Database, migrations: Sequence[Migration], features: Sequence[str]) -> Migration | None:
    """Apply the first migration that is missing and give it back; None if there is none."""
    with database.transaction():
        database.execute(_QUERIES["lock"])
        database.execute(_QUERIES["create_schema_migrations"])
        left = pending(migrations, _applied(database), features)
        if not left:
            return None
        step = left[0]
        try:
            database.execute(step.sql)
        except DatabaseRefused as refused:
            raise MigrationError(f"migration {step.label} failed and was undone: {refused}") from refused
        database.execute(_QUERIES["record"], {"version": step.version, "name": step.name, "checksum": step.checksum})
        return step


def _why_off(database: Database) -> dict[str, str]:
    """What migrations may require of a database, and why it is not there; empty where it is."""
    no_timescaledb = _bring_timescaledb(database)
    return {
        TIMESCALEDB: no_timescaledb,
        TIMESCALE_LICENSE: no_timescaledb or _why_no_license(database),
        READER_ROLE: _why_no_reader(database),
    }


def _why_no_license(database: Database) -> str:
    name = database.query(_QUERIES["license"])[0]["license"]
    return "" if name == "timescale" else f"this TimescaleDB has the licence {name!r}, they need 'timescale'"


def _why_no_reader(database: Database) -> str:
    found = database.query(_QUERIES["reader_role"])[0]
    if found["there"] or found["may_create"]:
        return ""
    return "this role may not create roles: let an administrator run CREATE ROLE klagg_reader"


def _bring_timescaledb(database: Database) -> str:
    """Create TimescaleDB's extension where the server has it and the role may; empty, or why it is not there."""
    found = database.query(_QUERIES["timescaledb"])[0]
    if found["there"]:
        return ""
    if not found["preloaded"]:
        return "this PostgreSQL server has no TimescaleDB (shared_preload_libraries does not name it)"
    try:
        with database.transaction():
            database.execute(_QUERIES["lock"])
            database.execute(_QUERIES["create_timescaledb"])
    except DatabaseRefused as refused:
        if refused.sqlstate != INSUFFICIENT_PRIVILEGE:
            raise
        return "this role may not create TimescaleDB's extension: let an owner run CREATE EXTENSION timescaledb"
    return ""

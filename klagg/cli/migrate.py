"""`klagg migrate`: brings the database of the configuration to this version's schema."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from klagg.drivers.postgres import Database
from klagg.errors import KlaggError
from klagg.settings import load
from writers.migrate import TIMEOUT_MS, Report, migrate

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def register(commands: Commands) -> None:
    """Add `migrate` to klagg's commands."""
    parser = commands.add_parser(
        "migrate",
        help="bring the database to this version's schema",
        description="Apply the schema's missing migrations to database.url, in order, each in a transaction. "
        "Repeating it, even at the same time from two places, changes nothing more.",
    )
    parser.add_argument("--config", help="TOML file with settings (see config/klagg.toml)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Migrate and say what was done; exit status 0, or that of the error, which is one sentence on standard error."""
    try:
        settings = load(args.config)
        database = Database(settings.database.url, application="klagg-migrate", timeout_ms=TIMEOUT_MS)
        try:
            report = migrate(database)
        finally:
            database.close()
    except KlaggError as known:
        print(f"klagg migrate: {known}", file=sys.stderr)
        return known.exit_code
    print("\n".join(sentences(report)))
    return 0


def sentences(report: Report) -> list[str]:
    """What a person should know of a migration."""
    lines = [f"applied {migration.label}" for migration in report.applied]
    lines.append("the database is up to date" + ("" if report.applied else ": there was nothing to apply"))
    return lines + [f"note: {off}" for off in report.off]

"""The numbered migrations of the schema, and which of them a database still needs: no database is touched here.

`NNNN_name.sql` is one migration, applied once, in order. A line `-- requires: FEATURE` makes it conditional: without
that feature it is left out, what is then off stands in its line `-- without: …`, and it is applied later if the
feature comes. A line `-- replaces: NNNN` says that its file undoes that earlier one, which is not applied any more
once this one is. An applied file must not change any more: whoever has it already would never get the change.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klagg.errors import KlaggError

FOLDER: Final = Path(__file__).parent

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_REQUIRES = re.compile(r"^-- requires: (\w+)$", re.MULTILINE)
_REPLACES = re.compile(r"^-- replaces: (\d{4})$", re.MULTILINE)
_WITHOUT = re.compile(r"^-- without: (.+)$", re.MULTILINE)


class MigrationError(KlaggError):
    """The schema of the database and the migrations of this klagg do not fit together."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `requires` names a feature, empty if none; `without` says what is off without it;
    `replaces` is the version of the migration that it undoes, 0 if none."""

    version: int
    name: str
    sql: str
    requires: str = ""
    without: str = ""
    replaces: int = 0

    @property
    def label(self) -> str:
        """Version and name as in the name of its file, such as 0001_klines."""
        return f"{self.version:04d}_{self.name}"

    @property
    def checksum(self) -> str:
        """SHA-256 of its text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(folder: Path = FOLDER) -> tuple[Migration, ...]:
    """All migrations of a folder in order; MigrationError if a number is missing or taken twice."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        name = _FILE.fullmatch(path.name)
        if name is None:
            raise MigrationError(f"the migration {path.name} is not named like 0001_name.sql")
        sql = path.read_text(encoding="utf-8")
        requires, without, replaces = (pattern.search(sql) for pattern in (_REQUIRES, _WITHOUT, _REPLACES))
        words = requires[1] if requires else "", without[1] if without else ""
        found.append(Migration(int(name[1]), name[2], sql, *words, int(replaces[1]) if replaces else 0))
    numbers = [each.version for each in found]
    if numbers != list(range(1, len(found) + 1)):
        raise MigrationError(f"the migrations are not numbered 1, 2, 3, …: {numbers}")
    return tuple(found)


def pending(migrations: Sequence[Migration], applied: Mapping[int, str], features: Collection[str]) -> list[Migration]:
    """What is left to apply, in order, where `applied` has the checksums in the database by version.

    MigrationError if an applied migration was edited, or is unknown because a newer klagg wrote it.
    """
    known = {each.version: each for each in migrations}
    for version, checksum in sorted(applied.items()):
        if version not in known:
            raise MigrationError(
                f"the database has migration {version:04d}, which this klagg does not know: it was written by a newer "
                "one, so use that"
            )
        if known[version].checksum != checksum:
            raise MigrationError(
                f"migration {known[version].label} is not what was applied to the database: an applied migration must "
                "not be edited; restore its file and put the change into a new one"
            )
    undone = {each.replaces for each in migrations if each.version in applied}
    return [
        each
        for each in migrations
        if each.version not in {*applied, *undone} and (not each.requires or each.requires in features)
    ]

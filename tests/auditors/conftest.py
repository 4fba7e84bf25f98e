"""What the auditors' tests with a database share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from klagg.drivers.postgres import Database
from writers.migrate import migrate


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    migrate(made)
    yield made
    made.close()

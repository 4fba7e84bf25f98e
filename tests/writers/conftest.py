from __future__ import annotations

from collections.abc import Iterator

import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from writers.migrate import migrate


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh database with the schema."""
    database = Database(database_url)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def streams(redis_url: str) -> Iterator[Streams]:
    streams = Streams(redis_url)
    yield streams
    streams.close()

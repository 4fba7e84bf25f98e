from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from playwright.async_api import Browser

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from tests.gateway.browser import browsing
from tests.gateway.kit import Teller
from writers.migrate import migrate


@pytest.fixture
def streams(redis_url: str) -> Iterator[Streams]:
    streams = Streams(redis_url)
    yield streams
    streams.close()


@pytest.fixture
def teller(streams: Streams) -> Teller:
    """Tells the real Redis what an aggregator would."""
    return Teller(streams)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh database with the schema."""
    database = Database(database_url)
    migrate(database)
    yield database
    database.close()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with browsing() as browser:
        yield browser

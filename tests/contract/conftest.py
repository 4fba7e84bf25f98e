"""The same tests on fakeredis and on a real server, so that the fake cannot drift from what it stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fakeredis
import pytest

from klagg.drivers.redis_streams import AsyncStreams, Streams
from tests.contract.kit import Blocking

FAKE, REAL = "fakeredis", "redis"


@dataclass(frozen=True, slots=True)
class Place:
    """One emptied Redis: a fake one shared by all who connect to it, or the real server's URL."""

    url: str = ""
    fake: fakeredis.FakeServer | None = None

    def streams(self) -> Streams:
        """A blocking client of it."""
        return Streams(self.url, client=fakeredis.FakeRedis(server=self.fake, protocol=2) if self.fake else None)

    def async_streams(self) -> AsyncStreams:
        """An asyncio client of it."""
        fake = fakeredis.FakeAsyncRedis(server=self.fake, protocol=2) if self.fake else None
        return AsyncStreams(self.url, client=fake)


@pytest.fixture(params=[FAKE, pytest.param(REAL, marks=pytest.mark.servers)])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == FAKE:
        return Place(fake=fakeredis.FakeServer())
    return Place(url=request.getfixturevalue("redis_url"))


@pytest.fixture
def streams(place: Place) -> Iterator[Streams]:
    """The blocking client."""
    client = place.streams()
    yield client
    client.close()


@pytest.fixture
def other(place: Place) -> Iterator[Streams]:
    """A second client, to see what the first one did, or to come in between."""
    client = place.streams()
    yield client
    client.close()


@pytest.fixture(params=["blocking", "asyncio"])
def either(request: pytest.FixtureRequest, place: Place) -> Iterator[Any]:
    """Both clients in turn, for the calls that both have."""
    if request.param == "blocking":
        client = place.streams()
        yield client
        client.close()
        return
    with asyncio.Runner() as runner:
        blocking = Blocking(place.async_streams(), runner)
        yield blocking
        blocking.close()

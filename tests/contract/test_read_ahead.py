"""`read_ahead`, as `Streams.read` uses it: nothing is lost, doubled or taken for the answer to something else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import redis

from klagg.drivers.redis_streams import Append, Streams
from klagg.errors import RedisUnavailable
from klagg.wire.keys import Keys
from tests.contract.conftest import REAL, Place

KEYS = Keys(0)
START = "0-0"


@pytest.fixture
def streams(place: Place) -> Iterator[Streams]:
    client = place.streams()
    yield client
    client.close()


def fill(streams: Streams, numbers: range) -> list[str]:
    """An entry for each number, in its field `n`; their ids."""
    return streams.write([Append(KEYS.feed, {"n": str(number)}) for number in numbers])


def page(streams: Streams, after: str, count: int) -> tuple[list[int], str]:
    """The numbers of the next entries, and the id of the last."""
    entries = streams.read({KEYS.feed: after}, count=count).get(KEYS.feed, [])
    return [int(entry.fields[b"n"]) for entry in entries], entries[-1].id if entries else after


@pytest.mark.parametrize("total", [0, 1, 3, 4, 8, 9])
def test_page_by_page_every_entry_comes_once(streams: Streams, total: int) -> None:
    fill(streams, range(total))
    found: list[int] = []
    numbers, position = page(streams, START, 4)
    while numbers:
        found += numbers
        numbers, position = page(streams, position, 4)
    assert found == list(range(total))


def test_entries_written_after_asking_ahead_come_with_a_later_page(streams: Streams) -> None:
    fill(streams, range(2))
    first, position = page(streams, START, 2)
    fill(streams, range(2, 5))  # the answer to what was asked ahead says: nothing
    found: list[int] = []
    for _ in range(3):
        numbers, position = page(streams, position, 2)
        found += numbers
    assert first + found == list(range(5))


def test_who_asks_for_something_else_gets_that(streams: Streams) -> None:
    ids = fill(streams, range(6))
    assert page(streams, START, 2)[0] == [0, 1]
    assert page(streams, START, 2)[0] == [0, 1]
    assert page(streams, ids[1], 3)[0] == [2, 3, 4]
    assert page(streams, ids[3], 2)[0] == [4, 5]
    assert {key: len(found) for key, found in streams.read({KEYS.feed: ids[3], KEYS.live: START}, count=2).items()} == {
        KEYS.feed: 2
    }


@pytest.mark.parametrize("place", [REAL], indirect=True)
def test_a_connection_lost_meanwhile_leaves_no_answer_to_be_taken_for_another(place: Place, streams: Streams) -> None:
    fill(streams, range(4))
    numbers, position = page(streams, START, 2)
    assert numbers == [0, 1]
    with redis.Redis.from_url(place.url) as other:
        assert other.client_kill_filter(_type="normal", skipme=True) >= 1
    with contextlib.suppress(RedisUnavailable):  # what had arrived before is in the socket, and is as good as ever
        assert page(streams, position, 2)[0] == [2, 3]
    assert page(streams, START, 4)[0] == [0, 1, 2, 3]

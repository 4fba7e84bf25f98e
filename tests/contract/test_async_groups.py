"""Consumer groups by the asyncio client: as the blocking one, entry by entry."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from klagg.drivers.redis_streams import Append, Entry, Pending, Streams
from klagg.errors import RedisRefused
from klagg.wire.keys import GROUP_REPAIR, Keys
from tests.contract.conftest import Place
from tests.contract.kit import Blocking
from tests.kit import eventually, trim_before

REQUESTS = Keys(0).requests
OTHER = Keys(1).requests


@pytest.fixture
def reader(place: Place) -> Iterator[Blocking]:
    with asyncio.Runner() as runner:
        client = Blocking(place.async_streams(), runner)
        yield client
        client.close()


def fill(streams: Streams, count: int, key: str = REQUESTS) -> list[str]:
    return streams.write([Append(key, {"n": str(number)}) for number in range(count)])


def read(reader: Blocking, consumer: str = "repair", count: int = 100) -> list[str]:
    found: dict[str, list[Entry]] = reader.read_group([REQUESTS], GROUP_REPAIR, consumer, count=count)
    return [entry.id for entry in found.get(REQUESTS, [])]


def pending(reader: Blocking, consumer: str = "repair", *, after: str = "0-0", count: int = 100) -> list[str]:
    page: Pending = reader.read_pending(REQUESTS, GROUP_REPAIR, consumer, after=after, count=count)
    return [entry.id for entry in page.entries]


def test_a_group_sees_what_was_there_before_it_and_can_be_made_again(streams: Streams, reader: Blocking) -> None:
    ids = fill(streams, 3)
    reader.ensure_group(REQUESTS, GROUP_REPAIR)
    assert read(reader, count=2) == ids[:2]
    reader.ensure_group(REQUESTS, GROUP_REPAIR)
    streams.ensure_group(REQUESTS, GROUP_REPAIR)
    assert read(reader) == ids[2:]


def test_a_group_on_something_else_than_a_stream_is_an_error(streams: Streams, reader: Blocking) -> None:
    streams.set_bytes(REQUESTS, b"text")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        reader.ensure_group(REQUESTS, GROUP_REPAIR)


def test_reading_for_a_group_that_is_not_there_is_an_error(streams: Streams, reader: Blocking) -> None:
    fill(streams, 1)
    with pytest.raises(RedisRefused, match="NOGROUP"):
        read(reader)


def test_several_streams_are_read_at_once_and_waiting_ends_empty(streams: Streams, reader: Blocking) -> None:
    for key in (REQUESTS, OTHER):
        reader.ensure_group(key, GROUP_REPAIR)
    assert reader.read_group([REQUESTS, OTHER], GROUP_REPAIR, "repair", count=2, block_ms=20) == {}
    ids, others = fill(streams, 2), fill(streams, 3, OTHER)
    found = reader.read_group([REQUESTS, OTHER], GROUP_REPAIR, "repair", count=2, block_ms=20)
    assert {key: [entry.id for entry in part] for key, part in found.items()} == {REQUESTS: ids, OTHER: others[:2]}
    assert found[REQUESTS][1].fields == {b"n": b"1"}


def test_what_was_not_acknowledged_is_read_again(streams: Streams, reader: Blocking) -> None:
    ids = fill(streams, 4)
    reader.ensure_group(REQUESTS, GROUP_REPAIR)
    read(reader)
    reader.ack(REQUESTS, GROUP_REPAIR, [ids[1]])
    reader.ack(REQUESTS, GROUP_REPAIR, [])
    assert streams.pending_count(REQUESTS, GROUP_REPAIR) == 3
    assert pending(reader, count=2) == [ids[0], ids[2]]
    assert pending(reader, after=ids[2]) == [ids[3]]
    assert pending(reader, "another") == []
    reader.ack(REQUESTS, GROUP_REPAIR, ids)
    assert pending(reader) == []


@pytest.mark.parametrize("count", [1, 2, 10])
def test_pending_entries_that_were_trimmed_hide_none_that_are_there(
    streams: Streams, reader: Blocking, count: int
) -> None:
    ids = fill(streams, 5)
    reader.ensure_group(REQUESTS, GROUP_REPAIR)
    read(reader)
    trim_before(streams, REQUESTS, ids[3])
    found, gone, after = [], [], "0-0"
    while (page := reader.read_pending(REQUESTS, GROUP_REPAIR, "repair", after=after, count=count)).last:
        found += [entry.id for entry in page.entries]
        gone += page.gone
        after = page.last
    assert found == ids[3:]
    assert gone == ids[:3]


def test_entries_that_another_left_behind_are_claimed_once_idle(streams: Streams, reader: Blocking) -> None:
    ids = fill(streams, 3)
    reader.ensure_group(REQUESTS, GROUP_REPAIR)
    read(reader, "dead")
    assert reader.claim_idle(REQUESTS, GROUP_REPAIR, "repair", idle_ms=60_000, count=10) == ("0-0", [], [])
    claimed: list[str] = []

    def idle() -> bool:
        _, entries, _ = reader.claim_idle(REQUESTS, GROUP_REPAIR, "repair", idle_ms=20, count=10)
        claimed.extend(entry.id for entry in entries)
        return bool(claimed)

    eventually(idle)
    assert claimed == ids
    assert pending(reader) == ids
    assert pending(reader, "dead") == []


def test_claiming_goes_on_from_where_it_says(streams: Streams, reader: Blocking) -> None:
    ids = fill(streams, 5)
    reader.ensure_group(REQUESTS, GROUP_REPAIR)
    read(reader, "dead")
    start, claimed = "0-0", []
    for _ in range(5):
        start, entries, _ = reader.claim_idle(REQUESTS, GROUP_REPAIR, "repair", idle_ms=0, count=2, start=start)
        claimed += [entry.id for entry in entries]
        if start == "0-0":
            break
    assert claimed == ids

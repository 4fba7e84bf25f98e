"""The worker of a consumer group on a real Redis, blocking and asyncio: what it hands over, buries and lets go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest

from klagg.drivers.redis_streams import Append, AsyncStreams, Entry, Streams
from klagg.process import group_consumer
from klagg.process.group_consumer import AsyncGroupConsumer, GroupConsumer, Rejected
from klagg.process.stats import Stats
from klagg.wire.keys import GROUP_REPAIR, Keys
from tests.kit import trim_before

pytestmark = pytest.mark.servers

SHARDS = {Keys(shard).requests: Keys(shard) for shard in range(2)}
FIRST, SECOND = SHARDS


@dataclass
class FakeShell:
    """What a consumer needs of its process."""

    process: str = "repair"
    writer: str = "repair@1"
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("consumer"))
    stats: Stats = field(default_factory=Stats)


@pytest.fixture
def streams(redis_url: str) -> Iterator[Streams]:
    made = Streams(redis_url)
    yield made
    made.close()


def fill(streams: Streams, count: int, key: str = FIRST) -> list[str]:
    return streams.write([Append(key, {"n": str(number)}) for number in range(count)])


def consumer(streams: Streams, process: str = "repair", idle_ms: int | None = None) -> GroupConsumer:
    made = GroupConsumer(FakeShell(process), streams, GROUP_REPAIR, SHARDS, idle_ms=idle_ms)
    made.ensure()
    return made


def ids_of(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def test_new_entries_of_all_streams_then_only_what_is_new(streams: Streams) -> None:
    one = consumer(streams)
    first, second = fill(streams, 3), fill(streams, 2, SECOND)
    found = one.read(count=2)
    assert {key: ids_of(entries) for key, entries in found.items()} == {FIRST: first[:2], SECOND: second}
    assert ids_of(one.read([FIRST])[FIRST]) == first[2:]
    assert one.read() == {}


def test_pending_goes_page_by_page_through_all_streams(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_consumer, "PAGE_ENTRIES", 2)
    first, second = fill(streams, 3), fill(streams, 1, SECOND)
    consumer(streams).read(count=100)
    again = consumer(streams)
    pages = [(page.stream, ids_of(page.entries), page.gone) for page in again.pending()]
    assert pages == [(FIRST, first[:2], []), (FIRST, first[2:], []), (SECOND, second, [])]
    again.acknowledge({FIRST: first, SECOND: second})
    assert list(consumer(streams).pending()) == []


def test_pending_entries_that_were_cut_are_named_and_let_go_once_the_page_is_done_with(streams: Streams) -> None:
    ids = fill(streams, 4)
    consumer(streams).read()
    trim_before(streams, FIRST, ids[3])
    pages = consumer(streams).pending()
    page = next(pages)
    assert (ids_of(page.entries), page.gone) == (ids[3:], ids[:3])
    assert streams.pending_count(FIRST, GROUP_REPAIR) == 4
    assert list(pages) == []
    assert streams.pending_count(FIRST, GROUP_REPAIR) == 1


def test_idle_entries_are_taken_over_and_those_that_were_cut_are_named(streams: Streams) -> None:
    ids = fill(streams, 3)
    consumer(streams, "dead").read()
    trim_before(streams, FIRST, ids[1])
    alive = consumer(streams, idle_ms=0)
    due_before = alive.reclaim_due
    (page,) = alive.idle()
    assert (ids_of(page.entries), page.gone) == (ids[1:], ids[:1])
    assert (due_before, alive.reclaim_due) == (True, False)
    assert streams.pending_count(FIRST, GROUP_REPAIR) == 2
    assert [ids_of(page.entries) for page in consumer(streams).pending()] == [ids[1:]]


def test_what_is_not_idle_for_long_stays_with_its_consumer(streams: Streams) -> None:
    fill(streams, 3)
    consumer(streams, "slow").read()
    assert list(consumer(streams).idle()) == []


def test_a_burial_is_numbered_and_acknowledges_nothing(streams: Streams, caplog: pytest.LogCaptureFixture) -> None:
    shell = FakeShell()
    one = GroupConsumer(shell, streams, GROUP_REPAIR, SHARDS)
    one.ensure()
    ids = fill(streams, 7)
    entries = one.read()[FIRST]
    one.bury([Rejected(FIRST, entry.id, entry.fields, "no good") for entry in entries])
    one.bury([Rejected(SECOND, "7-0", {b"n": b"1"}, "worse")])
    one.bury([])
    dead = [entry.fields for entry in streams.range(SHARDS[FIRST].dead)]
    assert [(each[b"id"].decode(), each[b"seq"]) for each in dead] == [
        (entry_id, b"%d" % number) for number, entry_id in enumerate(ids, 1)
    ]
    assert [each.fields[b"seq"] for each in streams.range(SHARDS[SECOND].dead)] == [b"1"]
    assert (dead[0][b"stream"], dead[0][b"group"], dead[0][b"reason"]) == (FIRST.encode(), b"repair", b"no good")
    assert caplog.text.count("no good") == group_consumer.BURIALS_LOGGED
    assert "7 entries at once cannot be processed" in caplog.text
    assert shell.stats.counters["dead"] == 8
    assert streams.pending_count(FIRST, GROUP_REPAIR) == 7


def test_unsettled_are_those_unread_and_those_pending(streams: Streams) -> None:
    one = consumer(streams)
    ids = fill(streams, 5)
    assert (one.lag(), one.unsettled()) == (5, 5)
    one.read(count=3)
    one.acknowledge({FIRST: ids[:1]})
    assert (one.lag(), one.unsettled()) == (2, 4)


@pytest.fixture
async def both(redis_url: str) -> AsyncIterator[tuple[AsyncStreams, AsyncStreams]]:
    reading, writing = AsyncStreams(redis_url), AsyncStreams(redis_url)
    yield reading, writing
    await reading.close()
    await writing.close()


async def test_the_asyncio_consumer_does_the_same(
    streams: Streams, both: tuple[AsyncStreams, AsyncStreams], caplog: pytest.LogCaptureFixture
) -> None:
    async def room() -> int:
        return 2

    ids = fill(streams, 6)
    one = AsyncGroupConsumer(FakeShell(), *both, GROUP_REPAIR, SHARDS, idle_ms=0)
    await one.ensure()
    assert ids_of((await one.read(count=4))[FIRST]) == ids[:4]
    streams.read_group([FIRST], GROUP_REPAIR, "dead", count=2)
    trim_before(streams, FIRST, ids[1])
    pages = [page async for page in one.pending(room)]
    assert [(ids_of(page.entries), page.gone) for page in pages] == [(ids[1:2], ids[:1]), (ids[2:4], [])]
    assert streams.pending_count(FIRST, GROUP_REPAIR) == 5
    claimed = [entry async for page in one.idle(room) for entry in ids_of(page.entries)]
    assert claimed == ids[1:]
    rejected = [Rejected(FIRST, entry_id, {}, "no good") for entry_id in ids[4:]]
    await asyncio.gather(*(one.bury([each]) for each in rejected))
    await one.acknowledge({FIRST: ids})
    assert [entry.fields[b"seq"] for entry in streams.range(SHARDS[FIRST].dead)] == [b"1", b"2"]
    assert streams.pending_count(FIRST, GROUP_REPAIR) == 0


def test_what_was_cut_while_another_held_it_is_named_once_and_at_once(streams: Streams) -> None:
    """Without waiting for the other consumer to be idle, and not again when its entries are taken over."""
    ids = fill(streams, 4)
    consumer(streams, "dead").read()
    alive = consumer(streams, idle_ms=0)
    due_before = alive.gone_due
    assert list(alive.gone_elsewhere()) == []
    assert (due_before, alive.gone_due) == (True, False)
    trim_before(streams, FIRST, ids[2])
    assert [(page.stream, page.entries, page.gone) for page in alive.gone_elsewhere()] == [(FIRST, [], ids[:2])]
    assert list(alive.gone_elsewhere()) == []
    assert [page.gone for page in alive.idle()] == [[]]


def test_what_is_gone_is_counted(streams: Streams) -> None:
    ids = fill(streams, 4)
    consumer(streams).read()
    trim_before(streams, FIRST, ids[3])
    shell = FakeShell()
    one = GroupConsumer(shell, streams, GROUP_REPAIR, SHARDS)
    assert shell.stats.counters["lost"] == 0
    for _ in one.pending():
        pass
    assert shell.stats.counters["lost"] == 3


def test_a_consumer_that_holds_nothing_leaves_after_a_while(streams: Streams, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(streams, 4)
    consumer(streams, "busy").read(count=1)
    consumer(streams, "done").acknowledge({FIRST: ids_of(consumer(streams, "done").read(count=1)[FIRST])})
    alive = consumer(streams, "alive")
    alive.read(count=1)
    list(alive.idle())
    assert streams.drop_consumers(FIRST, GROUP_REPAIR, "alive", 3_600_000) == []
    monkeypatch.setattr(group_consumer, "DEAD_CONSUMER_S", 0)
    list(alive.idle())
    assert streams.drop_consumers(FIRST, GROUP_REPAIR, "alive", 0) == [], "it has left, and who holds something stays"
    assert streams.pending_of_others(FIRST, GROUP_REPAIR, "alive", count=10) != []

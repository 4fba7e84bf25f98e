"""The sender: nothing is lost and the order stays, whatever happens to writes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from aggregator.feed_sequences import FeedSequences
from ingest.feed_capacity import FeedFull
from ingest.sender import Leftover, Sender
from ingest.timings import Timings
from klagg.drivers.redis_streams import Append, AsyncStreams
from klagg.embedded import RedisServer
from klagg.errors import KlaggError, RedisRefused, RedisUnavailable
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats
from klagg.wire.entries import TradeRow, trades_entry_of_rows
from klagg.wire.fields import Fields
from tests.ingest.kit import standing
from tests.kit import eventually_async as eventually
from tests.kit import nearly_full


class Unreliable:
    """A Redis that takes writes, refuses them, or takes them and loses the reply, as `plan` says; then all is well."""

    def __init__(self, plan: Sequence[str] = ()) -> None:
        self.plan = list(plan)
        self.streams: dict[str, list[Fields]] = {}
        self.writes = 0

    async def append_all(self, entries: Sequence[Append]) -> None:
        self.writes += 1
        await asyncio.sleep(0)
        step = self.plan.pop(0) if self.plan else "take"
        if step == "away":
            raise RedisUnavailable
        for each in entries[: len(entries) // 2] if step == "half" else entries:
            self.streams.setdefault(each.key, []).append(dict(each.fields))
        if step in ("half", "lost"):
            raise RedisUnavailable
        if step == "refuse":
            raise RedisRefused


SHORT = Timings(write_retry_first_s=0.001, write_retry_cap_s=0.002)


class SomeCapacity:
    """Feeds with as much room as a test says."""

    def __init__(self) -> None:
        self.full: dict[str, KlaggError] = {}
        self.findings = {"feed:{0}": "findings:{0}", "feed:{1}": "findings:{1}"}

    async def measure(self) -> None:
        await asyncio.sleep(0)


def a_sender(
    redis: Unreliable,
    *,
    bytes_max: int = 1 << 24,
    age_s_max: float = 60,
    shutdown_s: float = 10.0,
    capacity: SomeCapacity | None = None,
) -> Sender:
    return Sender(
        redis,
        capacity or SomeCapacity(),
        writer="w@1",
        bytes_max=bytes_max,
        age_s_max=age_s_max,
        shutdown_s=shutdown_s,
        stats=Stats(),
        log=logging.getLogger("test"),
        timings=SHORT,
    )


@asynccontextmanager
async def running(sender: Sender) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(sender.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def first_seen(entries: Sequence[Fields]) -> list[str]:
    """The `seq` of entries in the order in which each came first."""
    return list(dict.fromkeys(fields["seq"] for fields in entries))


async def test_entries_reach_their_streams_in_order() -> None:
    redis = Unreliable()
    sender = a_sender(redis)
    async with running(sender) as task:
        for number in range(200):
            sender.outbox.put(f"feed:{{{number % 2}}}", {"n": str(number)})
        sender.finish()
        await task
    for shard in (0, 1):
        entries = redis.streams[f"feed:{{{shard}}}"]
        assert [fields["n"] for fields in entries] == [str(number) for number in range(shard, 200, 2)]
        assert [fields["seq"] for fields in entries] == [str(number) for number in range(1, 101)]
    assert sender._stats.counters["entries"] == 200
    assert redis.writes < 10


@pytest.mark.parametrize("seed", range(20))
async def test_failures_and_lost_replies_lose_nothing(seed: int) -> None:
    chance = random.Random(seed)
    redis = Unreliable(chance.choices(["take", "away", "lost", "half", "refuse"], k=30))
    sender = a_sender(redis)
    async with running(sender) as task:
        for number in range(300):
            sender.outbox.put("feed:{0}", {"n": str(number)})
            if chance.random() < 0.2:
                await asyncio.sleep(0)
        sender.finish()
        await task
    entries = redis.streams["feed:{0}"]
    assert first_seen(entries) == [str(number) for number in range(1, 301)]
    # What came twice is the same entry: it kept its number.
    assert {(fields["seq"], fields["n"]) for fields in entries} == {(str(n + 1), str(n)) for n in range(300)}


async def test_it_waits_for_entries_without_turning() -> None:
    redis = Unreliable()
    sender = a_sender(redis)
    async with running(sender):
        sender.outbox.put("feed:{0}", {"n": "1"})
        await eventually(lambda: redis.writes == 1)
        for _ in range(50):
            await asyncio.sleep(0)
        assert redis.writes == 1
        sender.outbox.put("feed:{0}", {"n": "2"})
        await eventually(lambda: redis.writes == 2)


async def test_what_is_left_at_the_end_is_an_error() -> None:
    sender = a_sender(Unreliable(["away"] * 10_000), shutdown_s=0.05)
    async with running(sender) as task:
        sender.outbox.put("feed:{0}", {"n": "1"})
        sender.finish()
        with pytest.raises(Leftover, match=r"1 entries could not be written .* Redis does not answer") as left:
            await task
    assert left.value.entries == 1
    assert left.value.exit_code != 0


async def test_a_write_that_never_ends_does_not_hold_the_shutdown() -> None:
    class Silent(Unreliable):
        async def append_all(self, entries: Sequence[Append]) -> None:
            await asyncio.Event().wait()

    sender = a_sender(Silent(), shutdown_s=0.05)
    async with running(sender) as task:
        sender.outbox.put("feed:{0}", {"n": "1"})
        sender.finish()
        with pytest.raises(Leftover):
            await task


async def test_an_outage_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    redis = Unreliable(["away"] * 5)
    sender = a_sender(redis)
    async with running(sender) as task:
        sender.outbox.put("feed:{0}", {"n": "1"})
        await eventually(lambda: redis.streams)
        sender.finish()
        await task
    said = [record.getMessage() for record in caplog.records]
    assert [sentence for sentence in said if "held back" in sentence] == [
        "Redis does not answer.; trades are held back meanwhile"
    ]
    assert "Redis takes entries again after 5 tries" in said
    assert sender._stats.counters["write_failures"] == 5


def trades(*ids: int) -> Fields:
    rows = [TradeRow("BTCUSDT", number, "1", "1", number, number, 1000 + number, False) for number in ids]
    return trades_entry_of_rows(rows, line="A", ids="agg", recv_ms=1)


def ids_named(finding: Fields) -> list[int]:
    """The ids that a finding names."""
    named = finding["evidence"].partition(" ids ")[2].partition(", of ")[0]
    ends = [each.split(" to ") for each in named.split(", ")]
    return [number for each in ends for number in range(int(each[0]), int(each[-1]) + 1)]


async def test_what_a_full_buffer_dropped_is_told_when_redis_is_back(caplog: pytest.LogCaptureFixture) -> None:
    redis = Unreliable(["away"] * 20)
    sender = a_sender(redis, bytes_max=20_000)
    async with running(sender) as task:
        for number in range(300):
            sender.outbox.put("feed:{0}", trades(number))
            await asyncio.sleep(0)
        await eventually(lambda: redis.streams)
        sender.finish()
        await task
    feed, (finding,) = redis.streams["feed:{0}"], redis.streams["findings:{0}"]
    written = {int(fields["id"]) for fields in feed}
    missing = sorted(set(range(300)) - written)
    assert 100 < len(missing) < 300
    assert [fields["seq"] for fields in feed] == [str(number) for number in range(1, len(feed) + 1)], "no loss to tell"
    assert (finding["kind"], finding["symbol"], finding["seq"]) == ("INGEST_DROPPED", "BTCUSDT", "1")
    assert f"w@1 dropped {len(missing)} trades" in finding["evidence"]
    assert ids_named(finding) == missing
    assert f", of {1000 + missing[0]} to {1000 + missing[-1]} ms: " in finding["evidence"]
    assert "Redis does not answer" in finding["evidence"]
    assert sender._stats.counters["dropped_trades"] == len(missing)
    assert standing(sender._stats) == {AlarmKind.BUFFER_FULL}
    said = [record.getMessage() for record in caplog.records]
    assert len([each for each in said if each.startswith("ALARM: the buffer is full and drops")]) == 1
    assert len([each for each in said if "were dropped before they reached the feed" in each]) == 1


async def test_a_full_feed_is_left_alone_until_it_has_room_again() -> None:
    redis, capacity = Unreliable(), SomeCapacity()
    capacity.full = {"feed:{0}": FeedFull("feed:{0}", 5 << 20, 5 << 20)}
    sender = a_sender(redis, bytes_max=20_000, capacity=capacity)
    async with running(sender) as task:
        sender.outbox.put("feed:{0}", trades(0))
        await eventually(lambda: "streams.feed_percent" in sender.outbox.trouble)
        for number in range(1, 101):
            sender.outbox.put("feed:{0}", trades(number))
        sender.outbox.put("feed:{1}", trades(5))
        await eventually(lambda: "feed:{1}" in redis.streams)
        assert "feed:{0}" not in redis.streams
        capacity.full = {}
        await eventually(lambda: "feed:{0}" in redis.streams)
        sender.finish()
        await task
    written = {int(fields["id"]) for fields in redis.streams["feed:{0}"]}
    told = redis.streams["findings:{0}"][-1]["evidence"]
    assert max(written) == 100
    assert "streams.feed_percent" in told
    assert "findings:{1}" not in redis.streams


async def test_a_process_that_must_end_names_what_it_still_held(caplog: pytest.LogCaptureFixture) -> None:
    sender = a_sender(Unreliable(["away"] * 10_000), shutdown_s=0.05)
    async with running(sender) as task:
        sender.outbox.put("feed:{0}", trades(7, 8))
        sender.finish()
        with pytest.raises(Leftover):
            await task
    assert "2 trades of 1 symbols were dropped before they reached the feed" in caplog.text
    assert "BTCUSDT ids 7 to 8" in caplog.text


@pytest.mark.servers
async def test_an_entry_refused_in_the_middle_lets_none_behind_it_pass(redis_server: RedisServer) -> None:
    """Redis weighs its memory before each command: one large entry is refused where small ones around it are not."""
    redis_server.command("FLUSHALL")
    streams = AsyncStreams(redis_server.url)
    sender = Sender(
        streams,
        SomeCapacity(),
        writer="w@1",
        bytes_max=1 << 24,
        age_s_max=60,
        shutdown_s=10.0,
        stats=Stats(),
        log=logging.getLogger("test"),
        timings=SHORT,
    )
    sizes = [10, 10, 1_000_000, 10, 10]
    async with running(sender) as task:
        with nearly_full(redis_server, room=600_000):
            for size in sizes:
                sender.outbox.put("feed:{0}", {"n": "x" * size})
            await eventually(lambda: sender._stats.counters.get("write_failures"))
        sender.finish()
        await task
    entries = (await streams.read({"feed:{0}": "0-0"}, count=100))["feed:{0}"]
    await streams.close()
    assert [(int(each.fields[b"seq"]), len(each.fields[b"n"])) for each in entries] == list(enumerate(sizes, 1))
    sequences = FeedSequences()
    assert [sequences.note(each.id, each.fields, 0) for each in entries] == [None] * len(sizes)


async def test_the_alarm_over_a_full_buffer_ends_when_nothing_was_dropped_for_a_while() -> None:
    redis = Unreliable(["away"] * 20)
    sender = a_sender(redis, bytes_max=20_000)
    async with running(sender) as task:
        for number in range(300):
            sender.outbox.put("feed:{0}", trades(number))
            await asyncio.sleep(0)
        await eventually(lambda: standing(sender._stats) == {AlarmKind.BUFFER_FULL})
        for number in itertools.count(300):  # as watermarks go on to come
            sender.outbox.put("feed:{0}", trades(number))
            await asyncio.sleep(0.05)
            if not standing(sender._stats):
                break
            assert number < 1_000, "the alarm stands for ever"
        sender.finish()
        await task

"""Room in the feeds: writing stops at the cap and goes on well below it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ingest.feed_capacity import MEASURE_MS, FeedCapacity, HighWaterMark
from klagg.drivers.redis_streams import Append, AsyncStreams
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats
from klagg.settings import from_tree
from tests.ingest.kit import standing


class Measured:
    """Says what a test says that a feed takes."""

    def __init__(self) -> None:
        self.used = {"feed:{0}": 0, "feed:{1}": 0}
        self.measurements = 0

    async def run_script(self, script: str, key: str, arguments: Sequence[str | int]) -> list[int]:
        self.measurements += 1
        return [self.used[key], 100 << 20]


def test_a_feed_is_full_at_its_cap_and_until_it_is_well_below() -> None:
    mark = HighWaterMark()
    found = []
    for used in (0, 99, 100, 120, 95, 90, 89, 99, 100):
        mark.update(used, 100)
        found.append(mark.full)
    assert found == [False, False, True, True, True, True, False, False, True]


async def test_it_looks_now_and_then_and_says_what_changed(caplog: pytest.LogCaptureFixture) -> None:
    redis, stats, now = Measured(), Stats(), [1000.0]
    settings = from_tree({"shards": 2, "streams": {"feed_percent": 20}})
    capacity = FeedCapacity(redis, settings, stats=stats, now_ms=lambda: now[0])
    await capacity.measure()
    await capacity.measure()
    assert redis.measurements == 2
    redis.used["feed:{1}"] = 10 << 20
    now[0] += MEASURE_MS
    await capacity.measure()
    assert list(capacity.full) == ["feed:{1}"]
    assert standing(stats) == {AlarmKind.FEED_FULL}
    now[0] += MEASURE_MS
    redis.used["feed:{1}"] = 8 << 20
    await capacity.measure()
    assert capacity.full == {}
    assert standing(stats) == set()
    assert [record.getMessage() for record in caplog.records] == [
        "ALARM: feed:{1} takes 10 MB of the 10 MB that streams.feed_percent allows: the aggregator falls behind; "
        "trades are held back meanwhile",
        "the alarm feed_full is over after 0 s: feed:{1} takes 10 MB of the 10 MB that streams.feed_percent allows: "
        "the aggregator falls behind; trades are held back meanwhile",
    ]
    assert stats.counters["feed_full"] == 1


@pytest.mark.servers
async def test_it_measures_a_real_feed_against_the_real_maxmemory(redis_url: str) -> None:
    streams = AsyncStreams(redis_url)
    settings = from_tree({"streams": {"feed_percent": 1}, "redis": {"maxmemory_mb": 64}})
    capacity = FeedCapacity(streams, settings, stats=Stats(), now_ms=iter(range(0, 10**9, 10**6)).__next__)
    await capacity.measure()
    assert capacity.full == {}
    for _ in range(8):
        await streams.append_all([Append("feed:{0}", {"a": "x" * 100_000}) for _ in range(10)])
    measured = await streams.run_script("return {redis.call('MEMORY', 'USAGE', KEYS[1])}", "feed:{0}", [])
    maxmemory = int(
        (
            await streams.run_script(
                "return {tonumber(string.match(redis.call('INFO', 'memory'), 'maxmemory:(%d+)'))}", "k", []
            )
        )[0]
    )
    await capacity.measure()
    assert bool(capacity.full) == (measured[0] >= capacity.cap(maxmemory))
    assert capacity.full or maxmemory > 100 * (8 << 20)
    await streams.close()

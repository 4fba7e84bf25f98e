"""The pen: numbers are used up by entries that Redis acknowledged, and writes do not overlap."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from ingest.sequenced_writer import SequencedWriter
from klagg.drivers.redis_streams import Append
from klagg.errors import RedisUnavailable


class Noting:
    """A Redis that notes writes, and fails while `away`."""

    def __init__(self) -> None:
        self.away = False
        self.busy = False
        self.noted: list[tuple[str, str, str]] = []

    async def append_all(self, entries: Sequence[Append]) -> None:
        assert not self.busy
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        if self.away:
            raise RedisUnavailable
        for each in entries:
            assert each.fields["writer"] == "clock@1"
            self.noted.append((each.key, each.fields["seq"], each.fields["time"]))


async def test_each_stream_counts_for_itself() -> None:
    redis = Noting()
    pen = SequencedWriter(redis, "clock@1")
    await pen.write(lambda: [Append("a", {"time": "1"}), Append("b", {"time": "1"}), Append("a", {"time": "2"})])
    await pen.write(lambda: [Append("b", {"time": "3"})])
    assert redis.noted == [("a", "1", "1"), ("b", "1", "1"), ("a", "2", "2"), ("b", "2", "3")]


async def test_a_dropped_entry_leaves_no_gap() -> None:
    redis = Noting()
    pen = SequencedWriter(redis, "clock@1")
    await pen.write(lambda: [Append("a", {"time": "1"})])
    redis.away = True
    with pytest.raises(RedisUnavailable):
        await pen.write(lambda: [Append("a", {"time": "2"})])
    redis.away = False
    await pen.write(lambda: [Append("a", {"time": "3"})])
    assert redis.noted == [("a", "1", "1"), ("a", "2", "3")]


async def test_entries_are_composed_when_it_is_their_turn() -> None:
    redis = Noting()
    pen = SequencedWriter(redis, "clock@1")
    times = iter(range(1, 100))
    await asyncio.gather(*(pen.write(lambda: [Append("a", {"time": str(next(times))})]) for _ in range(10)))
    assert redis.noted == [("a", str(each), str(each)) for each in range(1, 11)]

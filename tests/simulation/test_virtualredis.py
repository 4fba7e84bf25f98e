"""The virtual Redis means what the real one means: the same steps on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from klagg.drivers.commands import Append, HashUpdate, Trim
from klagg.drivers.redis_streams import Streams
from klagg.errors import CommitConflict, CommitDoubt, RedisRefused, RedisUnavailable
from tests.simulation.virtualredis import Crash, VirtualRedis, VirtualStreams

FEED, COMMIT = "feed:{0}", "commit:{0}"


@pytest.fixture(params=["virtual", "real"])
def streams(request: pytest.FixtureRequest) -> Any:
    """Both kinds, empty. The virtual one's ids begin at 1."""
    if request.param == "virtual":
        server = VirtualRedis()
        server.now_ms = 1
        return VirtualStreams(server)
    url = request.getfixturevalue("redis_url")
    redis.Redis.from_url(url).flushall()
    return Streams(url)


def fields(entries: list[Any]) -> list[bytes]:
    return [entry.fields[b"n"] for entry in entries]


def test_streams(streams: Any) -> None:
    ids = streams.write([Append(FEED, {"n": str(each)}) for each in range(5)])
    assert streams.length(FEED) == 5
    assert streams.last_id(FEED) == ids[-1]
    assert fields(streams.read({FEED: ids[1]}, count=2)[FEED]) == [b"2", b"3"]
    assert streams.read({FEED: ids[-1]}, count=2) == {}
    assert fields(streams.range(FEED, ids[1], ids[3])) == [b"1", b"2", b"3"]
    assert fields(streams.range(FEED, count=2)) == [b"0", b"1"]
    assert fields(streams.newest(FEED, count=2)) == [b"4", b"3"]
    streams.trim_to(FEED, 3)
    assert fields(streams.range(FEED)) == [b"2", b"3", b"4"]
    streams.append(FEED, {"n": "5"}, maxlen=0)
    assert streams.last_id(FEED) > ids[-1]


def test_groups(streams: Any) -> None:
    ids = streams.write([Append(FEED, {"n": str(each)}) for each in range(3)])
    streams.ensure_group(FEED, "g")
    streams.ensure_group(FEED, "g")
    before = streams.groups(FEED)["g"]
    assert before <= ids[0]
    assert fields(streams.read_group([FEED], "g", "me", count=2)[FEED]) == [b"0", b"1"]
    assert fields(streams.read_pending(FEED, "g", "me", after="0-0", count=9).entries) == [b"0", b"1"]
    assert fields(streams.read_pending(FEED, "g", "me", after=ids[0], count=9).entries) == [b"1"]
    assert (streams.pending_count(FEED, "g"), streams.group_lag(FEED, "g")) == (2, 1)
    assert streams.groups(FEED)["g"] == ids[0]
    streams.ack(FEED, "g", ids[:2])
    assert ids[1] < streams.groups(FEED)["g"] <= ids[2]
    assert fields(streams.read_group([FEED], "g", "me", count=2)[FEED]) == [b"2"]
    assert streams.read_group([FEED], "g", "me", count=2) == {}
    reads: list[Callable[[], object]] = [
        lambda: streams.read_group([FEED], "none", "me", count=1),
        lambda: streams.read_pending(FEED, "none", "me", after="0-0", count=1),
    ]
    for read in reads:
        with pytest.raises(RedisRefused, match="NOGROUP"):
            read()


def test_trimming(streams: Any) -> None:
    ids = streams.write([Append(FEED, {"n": str(each)}) for each in range(250)])
    assert streams.trim_slice(FEED, ids[0], 100) == 0
    assert 0 < streams.trim_slice(FEED, ids[150], 100) <= 100
    (first, *_) = streams.range(FEED, count=1)
    assert first.id in ids[:151]
    assert streams.trim_to(FEED, 10) >= 90
    assert fields(streams.range(FEED)) == [str(each).encode() for each in range(240, 250)]
    assert streams.last_id("none") == "0-0"


def test_hashes_and_values(streams: Any) -> None:
    streams.write([HashUpdate("h", {"a": "1", "b": "2"}), HashUpdate("h", {"c": "3"}, remove=["a", "x"])])
    assert streams.hash_of("h") == {b"b": b"2", b"c": b"3"}
    assert streams.hash_of("none") == {}
    streams.set_bytes("v", b"\0\xff")
    assert streams.get_bytes(["v", "none"]) == [b"\0\xff", None]
    streams.delete("v", "none")
    assert streams.get_bytes(["v"]) == [None]


def test_commits(streams: Any) -> None:
    streams.commit(COMMIT, {}, {"seq": "1"}, [Append(FEED, {"n": "1"})])
    with pytest.raises(CommitConflict) as conflict:
        streams.commit(COMMIT, {}, {"seq": "2"}, [Append(FEED, {"n": "2"})])
    assert conflict.value.found == {b"seq": b"1"}
    (first,) = streams.range(FEED)
    writes = [Append(FEED, {"n": "3"}), Trim(FEED, first.id), HashUpdate("h", {"a": "1"})]
    streams.commit(COMMIT, {b"seq": b"1"}, {"seq": "2"}, writes)
    assert fields(streams.range(FEED)) == [b"1", b"3"]
    assert streams.hash_of(COMMIT) == {b"seq": b"2"}


def test_what_a_client_of_the_virtual_one_meets() -> None:
    server = VirtualRedis()
    one, other = VirtualStreams(server), VirtualStreams(server)
    one.append(FEED, {"n": "1"})
    before = server.state.copy()
    one.append(FEED, {"n": "2"})
    server.restart(before)
    with pytest.raises(RedisUnavailable):
        one.length(FEED)
    assert one.length(FEED) == 1
    server.full = True
    with pytest.raises(RedisUnavailable):
        other.append(FEED, {"n": "3"})
    with pytest.raises(RedisRefused):
        other.append(FEED, {"n": "3"})
    with pytest.raises(CommitDoubt):
        other.commit(COMMIT, {}, {"seq": "1"}, [])
    assert other.length(FEED) == 1
    server.full, other.fuse, other.fuse_after = False, 1, True
    other.append(FEED, {"n": "3"})
    with pytest.raises(Crash, match="after write"):
        other.append(FEED, {"n": "4"})
    assert one.length(FEED) == 3
    one.doubt = 0
    with pytest.raises(CommitDoubt):
        one.commit(COMMIT, {}, {"seq": "1"}, [])
    assert one.hash_of(COMMIT) == {}
    one.doubt, one.doubt_after = 0, True
    with pytest.raises(CommitDoubt):
        one.commit(COMMIT, {}, {"seq": "1"}, [])
    assert one.hash_of(COMMIT) == {b"seq": b"1"}


def test_a_replica_that_is_behind_gives_ids_again_and_keeps_connections() -> None:
    server = VirtualRedis()
    server.now_ms = 1_000
    client = VirtualStreams(server)
    client.append(FEED, {"n": "1"})
    before = server.state.copy()
    server.now_ms = 1_100
    lost = client.append(FEED, {"n": "2"})
    server.now_ms = 1_200
    server.fail_over(before, skew_ms=100)
    assert client.append(FEED, {"n": "3"}) == lost
    assert [each[b"n"] for each in server.state.streams[FEED].all()] == [b"1", b"3"]
    assert [each[b"n"] for each in server.ever[FEED]] == [b"1", b"2", b"3"]

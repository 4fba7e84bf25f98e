"""The commit: all of it or nothing, once, and every doubt is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from klagg.drivers.redis_streams import Append, AsyncStreams, HashUpdate, Streams, Write
from klagg.errors import CommitConflict, CommitDoubt, RedisUnavailable
from klagg.wire.keys import Keys
from tests.contract.conftest import REAL, Place
from tests.contract.kit import Blocking, closed_port, cutting_proxy, silent_server

KEYS = Keys(0)
POSITION = {"epoch": "1", "seq": "7", "feed": "5-0"}
BELIEVED = {b"epoch": b"1", b"seq": b"7", b"feed": b"5-0"}
NEXT = {"epoch": "1", "seq": "8", "feed": "6-0"}
WRITES: list[Write] = [
    Append(KEYS.klines, {"n": "1"}),
    HashUpdate(KEYS.bars, {"b": "2"}, ["a"]),
    Append(KEYS.live, {"n": "2"}, 100),
    Append(KEYS.klines, {"n": "3"}),
]


Contents = tuple[list[bytes], list[bytes], Mapping[bytes, bytes], Mapping[bytes, bytes]]


def contents(streams: Streams) -> Contents:
    """What `klines` and `live`, `bars` and `commit` hold."""
    klines, live = (
        [entry.fields[b"n"] for entry in streams.range(key)] if streams.length(key) else []
        for key in (KEYS.klines, KEYS.live)
    )
    return klines, live, streams.hash_of(KEYS.bars), streams.hash_of(KEYS.commit)


BEFORE: Contents = ([], [], {b"a": b"1"}, BELIEVED)
AFTER: Contents = ([b"1", b"3"], [b"2"], {b"b": b"2"}, {name.encode(): value.encode() for name, value in NEXT.items()})


@pytest.fixture(autouse=True)
def begun(place: Place) -> None:
    """The shard is at POSITION and has one bar."""
    streams = place.streams()
    streams.write([HashUpdate(KEYS.commit, POSITION), HashUpdate(KEYS.bars, {"a": "1"})])
    streams.close()


def test_a_commit_writes_everything_and_the_position(streams: Streams, other: Streams) -> None:
    streams.commit(KEYS.commit, BELIEVED, NEXT, WRITES)
    assert contents(other) == AFTER


def test_the_first_commit_believes_in_an_empty_hash(streams: Streams, other: Streams) -> None:
    other.delete(KEYS.commit)
    streams.commit(KEYS.commit, {}, POSITION, [])
    assert other.hash_of(KEYS.commit) == BELIEVED


def test_commits_follow_one_another_over_one_client(streams: Streams, other: Streams) -> None:
    believed: dict[bytes, bytes] = BELIEVED
    for number in range(8, 20):
        position = {"epoch": "1", "seq": str(number), "feed": f"{number}-0"}
        streams.commit(KEYS.commit, believed, position, [Append(KEYS.klines, {"n": str(number)})])
        believed = {name.encode(): value.encode() for name, value in position.items()}
    assert contents(other)[0] == [str(number).encode() for number in range(8, 20)]
    assert other.hash_of(KEYS.commit) == believed


@pytest.mark.parametrize(
    "believed", [{}, BELIEVED | {b"epoch": b"2"}, BELIEVED | {b"more": b""}, {b"epoch": b"1"}], ids=str
)
def test_a_wrong_belief_writes_nothing(streams: Streams, other: Streams, believed: dict[bytes, bytes]) -> None:
    with pytest.raises(CommitConflict, match="where this process left"):
        streams.commit(KEYS.commit, believed, NEXT, WRITES)
    assert contents(other) == BEFORE


def test_a_lost_hash_is_a_conflict(streams: Streams, other: Streams) -> None:
    other.delete(KEYS.commit)
    with pytest.raises(CommitConflict):
        streams.commit(KEYS.commit, BELIEVED, NEXT, WRITES)
    assert contents(other) == ([], [], {b"a": b"1"}, {})


class Meanwhile(list[Write]):
    """Writes that, when the commit queues them, let another process come in between its look and its EXEC."""

    def __init__(self, writes: list[Write], other: Streams, change: HashUpdate) -> None:
        super().__init__(writes)
        self._other, self._change = other, change

    def __iter__(self):  # type: ignore[no-untyped-def]
        self._other.write([self._change])
        return super().__iter__()


def test_a_change_between_the_look_and_exec_is_a_conflict(streams: Streams, other: Streams) -> None:
    taken_over = Meanwhile(WRITES, other, HashUpdate(KEYS.commit, {"epoch": "2"}))
    with pytest.raises(CommitConflict, match="changed during a commit"):
        streams.commit(KEYS.commit, BELIEVED, NEXT, taken_over)
    assert contents(other) == ([], [], {b"a": b"1"}, BELIEVED | {b"epoch": b"2"})


def test_others_may_write_elsewhere_meanwhile(streams: Streams, other: Streams) -> None:
    meanwhile = Meanwhile(WRITES, other, HashUpdate(KEYS.checkpoint, {"x": "y"}))
    streams.commit(KEYS.commit, BELIEVED, NEXT, meanwhile)
    assert contents(other) == AFTER


def test_the_client_is_usable_after_a_conflict(streams: Streams, other: Streams) -> None:
    with pytest.raises(CommitConflict):
        streams.commit(KEYS.commit, {}, NEXT, WRITES)
    streams.commit(KEYS.commit, BELIEVED, NEXT, WRITES)
    assert contents(other) == AFTER


def test_a_command_that_fails_inside_leaves_a_doubt_because_redis_does_not_roll_back(
    streams: Streams, other: Streams
) -> None:
    broken = [Append(KEYS.klines, {"n": "1"}), Append(KEYS.bars, {"n": "a hash is no stream"}), WRITES[2]]
    with pytest.raises(CommitDoubt, match=r"a command inside a commit failed: .*WRONGTYPE"):
        streams.commit(KEYS.commit, BELIEVED, NEXT, broken)
    assert contents(other) == ([b"1"], [b"2"], {b"a": b"1"}, AFTER[3])


@pytest.mark.parametrize("place", [REAL], indirect=True)
@pytest.mark.servers
def test_an_exec_whose_reply_is_lost_is_told_and_sent_once(place: Place) -> None:
    """Redis executed it; nobody told the client, which must neither repeat it nor take it for done."""
    with cutting_proxy(place.url, deliver=True) as proxy:
        streams, other = Streams(proxy.url, timeout_ms=2000), Streams(place.url)
        with pytest.raises((CommitDoubt, CommitConflict), match="reply"):
            streams.commit(KEYS.commit, BELIEVED, NEXT, WRITES)
        assert proxy.seen == 1
        assert contents(other) == AFTER
        with pytest.raises(CommitConflict, match="where this process left"):
            streams.commit(KEYS.commit, BELIEVED, NEXT, WRITES)
        assert proxy.seen == 1
        assert contents(other) == AFTER
        streams.close()
        other.close()


@pytest.mark.parametrize("place", [REAL], indirect=True)
@pytest.mark.parametrize("kind", [Streams, AsyncStreams])
@pytest.mark.servers
def test_an_append_whose_reply_is_lost_is_told_and_sent_once(
    place: Place, kind: type[Streams] | type[AsyncStreams]
) -> None:
    """Sent twice it would be there twice; whoever writes decides, and the ledger drops what comes again."""
    with cutting_proxy(place.url, deliver=True, at=b"XADD") as proxy, asyncio.Runner() as runner:
        made = kind(proxy.url, timeout_ms=2000)
        streams = made if isinstance(made, Streams) else Blocking(made, runner)
        with pytest.raises(RedisUnavailable, match="Redis does not answer while writing"):
            streams.write([Append(KEYS.feed, {"n": "1"})])
        assert proxy.seen == 1
        streams.close()
        other = Streams(place.url)
        assert other.length(KEYS.feed) == 1
        other.close()


@pytest.mark.parametrize("place", [REAL], indirect=True)
@pytest.mark.servers
def test_an_exec_that_never_arrived_is_told_and_sent_once(place: Place) -> None:
    with cutting_proxy(place.url, deliver=False) as proxy:
        streams, other = Streams(proxy.url, timeout_ms=2000), Streams(place.url)
        with pytest.raises((CommitDoubt, CommitConflict), match="reply"):
            streams.commit(KEYS.commit, BELIEVED, NEXT, WRITES)
        assert proxy.seen == 1
        assert contents(other) == BEFORE
        streams.close()
        other.close()


def test_without_redis_a_commit_says_so_and_is_no_doubt() -> None:
    """Nothing was sent yet, so nothing can have happened."""
    streams = Streams(f"redis://127.0.0.1:{closed_port()}/0")
    with pytest.raises(RedisUnavailable, match="Redis does not answer while preparing a commit"):
        streams.commit(KEYS.commit, BELIEVED, NEXT, WRITES)
    with silent_server() as port:
        streams = Streams(f"redis://127.0.0.1:{port}/0", timeout_ms=100)
        with pytest.raises(RedisUnavailable, match="Redis does not answer while preparing a commit"):
            streams.commit(KEYS.commit, BELIEVED, NEXT, WRITES)

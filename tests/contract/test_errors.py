"""What redis-py calls a dozen things is one of klagg's errors, in one sentence that says what was being done."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest

from klagg.drivers.redis_streams import Append, AsyncStreams, HashUpdate, Streams
from klagg.embedded import RedisServer
from klagg.errors import CommitDoubt, ConfigError, KlaggError, RedisRefused, RedisUnavailable
from klagg.wire.keys import Keys
from tests.contract.conftest import FAKE, REAL, Place
from tests.contract.kit import Blocking, closed_port, silent_server
from tests.kit import nearly_full, trim_before

KEYS = Keys(0)


@pytest.fixture(params=[Streams, AsyncStreams])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Makes a client of either kind at a URL, blocking to use."""
    with asyncio.Runner() as runner:

        def make(url: str, timeout_ms: int = 5000) -> Any:
            made = request.param(url, timeout_ms=timeout_ms)
            return made if request.param is Streams else Blocking(made, runner)

        yield make


CALLS = {
    "connecting": lambda streams: streams.ping(),
    "writing": lambda streams: streams.write([Append(KEYS.feed, {"n": "1"})]),
    "reading": lambda streams: streams.read({KEYS.feed: "0-0"}, count=1),
    "reading a hash": lambda streams: streams.hash_of(KEYS.commit),
    "writing a heartbeat": lambda streams: streams.set_with_ttl("heartbeat:x", "{}", 1),
    "deleting": lambda streams: streams.delete("heartbeat:x"),
}
MORE_CALLS = {
    "writing": lambda streams: streams.append(KEYS.feed, {"n": "1"}),
    "reading": lambda streams: streams.range(KEYS.feed),
    "counting": lambda streams: streams.length(KEYS.feed),
    "creating a consumer group": lambda streams: streams.ensure_group(KEYS.feed, "group"),
    "reading for a group": lambda streams: streams.read_group([KEYS.feed], "group", "one", count=1),
    "reading pending entries": lambda streams: streams.read_pending(KEYS.feed, "group", "one", after="0", count=1),
    "claiming entries": lambda streams: streams.claim_idle(KEYS.feed, "group", "one", idle_ms=1, count=1),
    "looking for pending entries": lambda streams: streams.pending_of_others(KEYS.feed, "group", "one", count=1),
    "looking for entries": lambda streams: streams.absent(KEYS.feed, ["1-1"]),
    "removing consumers": lambda streams: streams.drop_consumers(KEYS.feed, "group", "one", 1),
    "counting pending entries": lambda streams: streams.pending_count(KEYS.feed, "group"),
    "asking for groups": lambda streams: streams.group_lag(KEYS.feed, "group"),
    "acknowledging": lambda streams: streams.ack(KEYS.feed, "group", ["1-1"]),
    "trimming": lambda streams: streams.trim_to(KEYS.feed, 1),
    "asking for a stream": lambda streams: streams.last_id(KEYS.feed),
    "asking for memory": lambda streams: streams.memory(KEYS.feed),
    "writing a value": lambda streams: streams.set_bytes("x", b""),
    "reading values": lambda streams: streams.get_bytes(["x"]),
    "looking up keys": lambda streams: streams.values_like("*"),
    "asking for information": lambda streams: streams.information(),
}


def check_sentence(error: KlaggError, start: str) -> None:
    said = str(error)
    assert said.startswith(start)
    assert "\n" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("action", CALLS)
def test_nobody_listening(client: Any, action: str) -> None:
    with pytest.raises(RedisUnavailable) as raised:
        CALLS[action](client(f"redis://127.0.0.1:{closed_port()}/0"))
    check_sentence(raised.value, f"Redis does not answer while {action}: ")


@pytest.mark.parametrize("action", MORE_CALLS)
def test_nobody_listening_to_what_only_the_blocking_client_says(action: str) -> None:
    with pytest.raises(RedisUnavailable) as raised:
        MORE_CALLS[action](Streams(f"redis://127.0.0.1:{closed_port()}/0"))
    check_sentence(raised.value, f"Redis does not answer while {action}: ")


def test_a_server_that_stays_silent_is_unavailable_after_the_timeout(client: Any) -> None:
    with silent_server() as port, pytest.raises(RedisUnavailable) as raised:
        client(f"redis://127.0.0.1:{port}/0", timeout_ms=100).ping()
    check_sentence(raised.value, "Redis does not answer while connecting: ")


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost"])
def test_a_url_that_is_none_is_an_error_of_the_configuration(client: Any, url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        client(url)
    check_sentence(raised.value, f"redis.url {url!r} cannot be used: ")


def test_the_wrong_type_of_key_is_refused(either: Any) -> None:
    either.write([HashUpdate(KEYS.feed, {"a": "1"})])
    with pytest.raises(RedisRefused) as raised:
        either.write([Append(KEYS.feed, {"n": "1"})])
    check_sentence(raised.value, "Redis refused while writing: ")
    assert "WRONGTYPE" in str(raised.value)


def test_a_write_that_fails_in_the_middle_leaves_the_others_written(either: Any, other: Streams) -> None:
    """One round trip is no transaction: who needs all or nothing commits."""
    either.write([HashUpdate(KEYS.bars, {"a": "1"})])
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        either.write([Append(KEYS.live, {"n": "1"}), Append(KEYS.bars, {"n": "2"}), Append(KEYS.live, {"n": "3"})])
    assert [entry.fields for entry in other.range(KEYS.live)] == [{b"n": b"1"}, {b"n": b"3"}]


def test_the_client_is_usable_after_a_refusal(either: Any) -> None:
    either.write([HashUpdate(KEYS.bars, {"a": "1"})])
    with pytest.raises(RedisRefused):
        either.write([Append(KEYS.bars, {"n": "2"})])
    assert either.hash_of(KEYS.bars) == {b"a": b"1"}


@pytest.fixture
def full_redis(redis_server: RedisServer) -> Iterator[None]:
    """The real server at its maxmemory: it answers reads and refuses whatever needs memory."""
    most = redis_server.command("CONFIG", "GET", "maxmemory").split()[-1]
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    yield
    redis_server.command("CONFIG", "SET", "maxmemory", most)


@pytest.mark.servers
@pytest.mark.parametrize("place", [REAL], indirect=True)
@pytest.mark.usefixtures("place")
class TestAtMaxmemory:
    """The real server alone: the fake knows no maxmemory (see test_the_fake_has_no_maxmemory)."""

    def test_writing_is_refused_and_reading_goes_on(self, either: Any, request: pytest.FixtureRequest) -> None:
        either.write([Append(KEYS.feed, {"n": "1"})])
        request.getfixturevalue("full_redis")
        with pytest.raises(RedisRefused) as raised:
            either.write([Append(KEYS.feed, {"n": "2"})])
        check_sentence(raised.value, "Redis refused while writing: ")
        assert "maxmemory" in str(raised.value)
        assert len(either.read({KEYS.feed: "0-0"}, count=10)[KEYS.feed]) == 1

    def test_an_entry_too_large_takes_those_beside_it_along(self, place: Place, redis_server: RedisServer) -> None:
        """One transaction per stream: the small ones behind it would fit, and must not overtake it."""
        with asyncio.Runner() as runner, nearly_full(redis_server, room=600_000):
            streams = Blocking(place.async_streams(), runner)
            sizes = [10, 10, 1_000_000, 10]
            with pytest.raises(RedisRefused, match="maxmemory"):
                streams.append_all(
                    [
                        Append(KEYS.live, {"n": "1"}),
                        *(Append(KEYS.feed, {"n": "x" * size}) for size in sizes),
                    ]
                )
            read = streams.read({KEYS.feed: "0-0", KEYS.live: "0-0"}, count=10)
            streams.close()
        assert list(read) == [KEYS.live]

    def test_a_commit_is_in_doubt_and_wrote_nothing(self, streams: Streams, request: pytest.FixtureRequest) -> None:
        streams.append(KEYS.live, {"n": "1"})
        request.getfixturevalue("full_redis")
        with pytest.raises(CommitDoubt, match="maxmemory"):
            streams.commit(KEYS.commit, {}, {"epoch": "1"}, [Append(KEYS.live, {"n": "2"})])
        assert streams.length(KEYS.live) == 1
        assert streams.hash_of(KEYS.commit) == {}

    def test_trimming_and_acknowledging_still_work(self, streams: Streams, request: pytest.FixtureRequest) -> None:
        """They free memory: a reader that catches up is what ends the shortage."""
        ids = streams.write([Append(KEYS.klines, {"n": "1"}), Append(KEYS.klines, {"n": "2"})])
        streams.ensure_group(KEYS.klines, "writers")
        streams.read_group([KEYS.klines], "writers", "one", count=10)
        request.getfixturevalue("full_redis")
        streams.ack(KEYS.klines, "writers", ids)
        assert streams.pending_count(KEYS.klines, "writers") == 0
        assert trim_before(streams, KEYS.klines, ids[1]) == 1


@pytest.mark.parametrize("place", [FAKE], indirect=True)
def test_the_fake_has_no_maxmemory(streams: Streams, place: Place) -> None:
    """Known difference, which is why TestAtMaxmemory runs on the real server alone."""
    assert place.fake
    with pytest.raises(RedisRefused, match="unknown command"):
        streams.information("memory")


class Swallowing:
    """A client whose call ends well although it was cancelled, as asyncio.wait_for may before Python 3.12."""

    async def ping(self) -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return True
        raise AssertionError


async def test_a_cancellation_is_not_lost_in_a_call() -> None:
    streams = AsyncStreams("", client=cast(Any, Swallowing()))
    task = asyncio.create_task(streams.ping())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await streams.ping()

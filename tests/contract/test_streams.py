"""Streams, hashes and values as klagg.drivers.redis_streams speaks to them: blocking and asyncio, fake and real."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from klagg.drivers.redis_streams import Append, Delete, HashUpdate, Streams, Trim
from klagg.errors import RedisRefused
from klagg.wire.entries import tick_entry
from klagg.wire.fields import VERSION, stamp
from klagg.wire.keys import CLOCK_KEY, HEARTBEAT_PATTERN, Keys, heartbeat_key
from tests.contract.conftest import Place
from tests.contract.kit import Blocking
from tests.kit import eventually, trim_before

KEYS = Keys(0)


def id_parts(entry_id: str) -> tuple[int, int]:
    milliseconds, number = entry_id.split("-")
    return int(milliseconds), int(number)


def fill(streams: Streams, key: str, count: int) -> list[str]:
    """Entries 0 … count−1 with their number in the field `n`; their ids."""
    return streams.write([Append(key, {"n": str(number)}) for number in range(count)])


def test_entries_are_read_in_the_order_written_with_rising_ids(either: Any) -> None:
    ids = either.write([Append(KEYS.feed, stamp(tick_entry(time_ms), "clock@1", time_ms)) for time_ms in range(5)])
    assert [id_parts(each) for each in ids] == sorted({id_parts(each) for each in ids})
    assert len(ids) == 5
    (key,) = read = either.read({KEYS.feed: "0-0"}, count=100)
    assert key == KEYS.feed
    assert [entry.id for entry in read[key]] == ids
    assert [entry.fields[b"time"] for entry in read[key]] == [b"0", b"1", b"2", b"3", b"4"]
    assert read[key][3].fields == {
        b"v": str(VERSION).encode(),
        b"writer": b"clock@1",
        b"seq": b"3",
        b"kind": b"tick",
        b"time": b"3",
    }


def test_entries_of_several_streams_go_out_together_in_the_order_of_each(place: Place, other: Streams) -> None:
    with asyncio.Runner() as runner:
        streams = Blocking(place.async_streams(), runner)
        streams.append_all([Append(key, {"n": str(n)}, maxlen=3) for n in range(3) for key in (KEYS.feed, KEYS.live)])
        streams.append_all([])
        streams.close()
    for key in (KEYS.feed, KEYS.live):
        assert [entry.fields for entry in other.range(key)] == [{b"n": b"0"}, {b"n": b"1"}, {b"n": b"2"}]


def test_reading_goes_on_behind_an_id_at_most_count_entries_a_stream(either: Any) -> None:
    ids = either.write([Append(key, {"n": str(n)}) for n in range(4) for key in (KEYS.feed, KEYS.live)])
    feed, live = ids[::2], ids[1::2]
    read = either.read({KEYS.feed: feed[0], KEYS.live: "0-0"}, count=2)
    assert {key: [entry.id for entry in entries] for key, entries in read.items()} == {
        KEYS.feed: feed[1:3],
        KEYS.live: live[:2],
    }


def test_a_stream_without_news_is_not_in_the_answer(either: Any) -> None:
    newest = either.write([Append(KEYS.feed, {"n": "1"})])[0]
    assert either.read({KEYS.feed: newest, KEYS.live: "0-0"}, count=10) == {}


def test_waiting_for_news_ends_empty_after_block_ms(either: Any) -> None:
    began = time.monotonic()
    assert either.read({KEYS.feed: "0-0"}, count=10, block_ms=60) == {}
    assert 0.05 <= time.monotonic() - began < 5


def test_waiting_is_over_at_once_when_there_is_news(either: Any) -> None:
    either.write([Append(KEYS.feed, {"n": "1"})])
    began = time.monotonic()
    assert len(either.read({KEYS.feed: "0-0"}, count=10, block_ms=2000)[KEYS.feed]) == 1
    assert time.monotonic() - began < 1.9


def test_any_bytes_come_back_as_they_were(either: Any) -> None:
    text = "币安人生USDT ⓈM\r\n\x00,;\t\"'"
    either.write([Append(KEYS.feed, {"symbol": text, "币": ""})])
    assert either.read({KEYS.feed: "0-0"}, count=1)[KEYS.feed][0].fields == {
        b"symbol": text.encode(),
        "币".encode(): b"",
    }


def test_a_write_puts_and_removes_fields_of_a_hash_and_gives_the_ids_of_entries_alone(either: Any) -> None:
    either.write([HashUpdate(KEYS.bars, {"a": "1", "b": "2", "c": "3"})])
    ids = either.write(
        [
            HashUpdate(KEYS.bars, {"b": "20", "d": "4"}, ["a", "never there"]),
            Append(KEYS.live, {"n": "1"}),
            HashUpdate(KEYS.bars, remove=["c"]),
            HashUpdate(KEYS.bars),
            Append(KEYS.live, {"n": "2"}),
        ]
    )
    assert either.hash_of(KEYS.bars) == {b"b": b"20", b"d": b"4"}
    assert [entry.id for entry in either.read({KEYS.live: "0"}, count=10)[KEYS.live]] == ids


def test_a_field_that_is_both_removed_and_put_is_there(either: Any) -> None:
    either.write([HashUpdate(KEYS.bars, {"a": "1"})])
    either.write([HashUpdate(KEYS.bars, {"a": "2"}, ["a"])])
    assert either.hash_of(KEYS.bars) == {b"a": b"2"}


def test_a_hash_that_is_not_there_is_empty(either: Any) -> None:
    assert either.hash_of(KEYS.commit) == {}


def test_writing_nothing_is_no_error(either: Any) -> None:
    assert either.write([]) == []


def test_a_heartbeat_lives_as_long_as_its_ttl_and_can_be_taken_away(either: Any, other: Streams) -> None:
    either.set_with_ttl(heartbeat_key("clock"), '{"state":"läuft"}', 100)
    either.set_with_ttl(heartbeat_key("ingest-A"), "{}", 1)
    assert other.values_like(HEARTBEAT_PATTERN) == {
        "heartbeat:clock": '{"state":"läuft"}',
        "heartbeat:ingest-A": "{}",
    }
    assert eventually(lambda: list(other.values_like(HEARTBEAT_PATTERN)) == ["heartbeat:clock"])
    either.delete(heartbeat_key("clock"), "never there")
    either.delete()
    assert other.values_like(HEARTBEAT_PATTERN) == {}


def test_values_like_looks_at_matching_text_keys_alone(streams: Streams) -> None:
    streams.set_with_ttl("heartbeat:a", "1", 100)
    streams.set_with_ttl("heart", "2", 100)
    streams.append("heartbeat:stream", {"n": "1"})
    assert streams.values_like(HEARTBEAT_PATTERN) == {"heartbeat:a": "1"}
    assert streams.values_like("nothing:*") == {}


def test_ping(either: Any) -> None:
    assert either.ping() is None


def test_append_gives_the_id_of_its_entry(streams: Streams) -> None:
    entry_id = streams.append(CLOCK_KEY, {"name": "snapshot"})
    assert [entry.id for entry in streams.range(CLOCK_KEY)] == [entry_id]


def test_ranges_and_the_newest(streams: Streams) -> None:
    ids = fill(streams, KEYS.feed, 6)
    assert [entry.id for entry in streams.range(KEYS.feed, count=2)] == ids[:2]
    assert [entry.id for entry in streams.range(KEYS.feed, ids[1], ids[3])] == ids[1:4]
    assert [entry.id for entry in streams.range(KEYS.feed, f"({ids[1]}", "+")] == ids[2:]
    assert [entry.id for entry in streams.newest(KEYS.feed)] == ids[-1:]
    assert [entry.id for entry in streams.newest(KEYS.feed, count=3)] == ids[:2:-1]
    assert streams.range(KEYS.live) == []
    assert streams.newest(KEYS.live) == []
    assert streams.length(KEYS.feed) == 6
    assert streams.length(KEYS.live) == 0


def test_values_of_any_bytes(streams: Streams) -> None:
    every_byte = bytes(range(256)) * 300
    streams.set_bytes(KEYS.checkpoint, every_byte)
    streams.set_bytes("empty", b"")
    assert streams.get_bytes([KEYS.checkpoint, "missing", "empty"]) == [every_byte, None, b""]
    assert streams.get_bytes([]) == []
    streams.delete(KEYS.checkpoint, "empty")
    assert streams.get_bytes([KEYS.checkpoint, "empty"]) == [None, None]


def test_trimming_before_an_id_is_exact(streams: Streams) -> None:
    ids = fill(streams, KEYS.feed, 250)
    assert trim_before(streams, KEYS.feed, ids[137]) == 137
    assert [entry.id for entry in streams.range(KEYS.feed)] == ids[137:]
    assert trim_before(streams, KEYS.feed, "0-0") == 0


def test_an_append_with_a_length_takes_only_the_oldest_and_never_too_much(streams: Streams) -> None:
    """Redis drops whole nodes of 100 entries, and so keeps up to a node more than told; the fake does likewise."""
    ids = fill(streams, KEYS.feed, 1001)
    ids.append(streams.append(KEYS.feed, {"n": "1001"}, maxlen=250))
    left = [entry.id for entry in streams.range(KEYS.feed)]
    assert left == ids[len(ids) - len(left) :]
    assert 250 <= len(left) < 350


def test_trimming_in_slices_ends_near_the_id_and_not_behind_it(streams: Streams) -> None:
    ids = fill(streams, KEYS.feed, 1001)
    gone, slices = 0, 0
    while part := streams.trim_slice(KEYS.feed, ids[730], 200):
        assert part <= 200
        gone, slices = gone + part, slices + 1
    assert 600 <= gone <= 730
    assert slices >= 4
    assert [entry.id for entry in streams.range(KEYS.feed)] == ids[gone:]
    assert streams.trim_slice(KEYS.live, ids[730], 200) == 0


def test_trimming_to_a_length_is_exact(streams: Streams) -> None:
    ids = fill(streams, KEYS.feed, 250)
    assert streams.trim_to(KEYS.feed, 137) == 113
    assert [entry.id for entry in streams.range(KEYS.feed)] == ids[113:]
    assert streams.trim_to(KEYS.feed, 200) == 0


def test_a_trim_among_writes_is_exact(streams: Streams) -> None:
    ids = fill(streams, KEYS.feed, 250)
    written = streams.write([Trim(KEYS.feed, ids[137]), Append(KEYS.feed, {"n": "250"})])
    assert [entry.id for entry in streams.range(KEYS.feed)] == [*ids[137:], *written]


def test_values_are_deleted_among_writes(streams: Streams) -> None:
    for key in ("one", "other", "kept"):
        streams.set_bytes(key, b"1")
    streams.write([Delete(["one", "never there"]), Delete(["other"])])
    assert streams.get_bytes(["one", "other", "kept"]) == [None, None, b"1"]


def test_memory_grows_with_a_stream(streams: Streams, place: Place) -> None:
    if place.fake:
        pytest.skip("the fake knows no MEMORY USAGE")
    assert streams.memory(KEYS.feed) == 0
    for number in range(300):
        streams.append(KEYS.feed, {"n": str(number), "text": f"{number}" * 100})
    assert 300 * 100 <= streams.memory(KEYS.feed) < 300 * 1000


def test_information_about_the_server(streams: Streams, place: Place) -> None:
    """Known difference: the fake knows no INFO."""
    if place.fake:
        with pytest.raises(RedisRefused, match="unknown command"):
            streams.information()
    else:
        assert "redis_version" in streams.information()
        assert int(streams.information("memory")["maxmemory"]) > 0


def test_the_last_id_stays_when_entries_go(streams: Streams) -> None:
    assert streams.last_id(KEYS.feed) == "0-0"
    for at in range(1, 4):
        streams.append(KEYS.feed, {"n": str(at)})
    newest = streams.newest(KEYS.feed)[0].id
    assert streams.last_id(KEYS.feed) == newest
    trim_before(streams, KEYS.feed, "18446744073709551615-0")
    assert streams.length(KEYS.feed) == 0
    assert streams.last_id(KEYS.feed) == newest
    streams.set_bytes(KEYS.live, b"no stream")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        streams.last_id(KEYS.live)

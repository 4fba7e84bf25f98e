"""Consumer groups: nothing that was appended is ever missed, and nothing is done with before it is acknowledged."""

from __future__ import annotations

import pytest

from klagg.drivers.redis_streams import Append, Streams
from klagg.errors import RedisRefused
from klagg.wire.entry_id import next_id
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.kit import eventually, trim_before

KLINES = Keys(0).klines
OTHER = Keys(1).klines


def fill(streams: Streams, count: int, key: str = KLINES) -> list[str]:
    return streams.write([Append(key, {"n": str(number)}) for number in range(count)])


def read(streams: Streams, consumer: str = "one", count: int = 100) -> list[str]:
    """What is new for the group, given to `consumer`: ids."""
    found = streams.read_group([KLINES], GROUP_WRITERS, consumer, count=count)
    return [entry.id for entry in found.get(KLINES, [])]


def test_a_group_sees_what_was_appended_before_it_was_made(streams: Streams) -> None:
    ids = fill(streams, 3)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert read(streams) == ids


def test_a_group_can_be_made_before_the_first_entry(streams: Streams) -> None:
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert streams.length(KLINES) == 0
    ids = fill(streams, 2)
    assert read(streams) == ids


def test_making_a_group_again_changes_nothing(streams: Streams) -> None:
    ids = fill(streams, 3)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert read(streams, count=2) == ids[:2]
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert streams.pending_count(KLINES, GROUP_WRITERS) == 2
    assert read(streams) == ids[2:]


def test_a_group_on_something_else_than_a_stream_is_an_error(streams: Streams) -> None:
    streams.set_bytes(KLINES, b"text")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        streams.ensure_group(KLINES, GROUP_WRITERS)


def test_reading_for_a_group_that_is_not_there_is_an_error(streams: Streams) -> None:
    fill(streams, 1)
    with pytest.raises(RedisRefused, match="NOGROUP"):
        read(streams)


def test_every_entry_goes_to_one_consumer(streams: Streams, other: Streams) -> None:
    ids = fill(streams, 5)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert read(streams, "one", 2) == ids[:2]
    assert read(other, "two", 2) == ids[2:4]
    assert read(streams, "one") == ids[4:]
    assert read(other, "two") == []


def test_several_streams_are_read_at_once(streams: Streams) -> None:
    for key in (KLINES, OTHER):
        streams.ensure_group(key, GROUP_WRITERS)
    ids, others = fill(streams, 2), fill(streams, 3, OTHER)
    found = streams.read_group([KLINES, OTHER], GROUP_WRITERS, "one", count=2)
    assert {key: [entry.id for entry in entries] for key, entries in found.items()} == {KLINES: ids, OTHER: others[:2]}


def test_waiting_for_a_group_ends_empty(streams: Streams) -> None:
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert streams.read_group([KLINES], GROUP_WRITERS, "one", count=1, block_ms=30) == {}


def test_what_was_not_acknowledged_is_read_again_after_a_restart(streams: Streams) -> None:
    ids = fill(streams, 4)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    read(streams)
    streams.ack(KLINES, GROUP_WRITERS, [ids[1]])
    streams.ack(KLINES, GROUP_WRITERS, [])
    pending = streams.read_pending(KLINES, GROUP_WRITERS, "one", after="0-0", count=2).entries
    assert [entry.id for entry in pending] == [ids[0], ids[2]]
    assert pending[1].fields == {b"n": b"2"}
    rest = streams.read_pending(KLINES, GROUP_WRITERS, "one", after=pending[-1].id, count=2).entries
    assert [entry.id for entry in rest] == [ids[3]]
    assert streams.read_pending(KLINES, GROUP_WRITERS, "one", after=ids[3], count=2).entries == []
    assert streams.read_pending(KLINES, GROUP_WRITERS, "two", after="0-0", count=2).entries == []


def test_acknowledged_entries_are_done_with(streams: Streams) -> None:
    ids = fill(streams, 3)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert streams.pending_count(KLINES, GROUP_WRITERS) == 0
    read(streams)
    assert streams.pending_count(KLINES, GROUP_WRITERS) == 3
    streams.ack(KLINES, GROUP_WRITERS, ids[:2])
    streams.ack(KLINES, GROUP_WRITERS, ids[:2])
    assert streams.pending_count(KLINES, GROUP_WRITERS) == 1
    streams.ack(KLINES, GROUP_WRITERS, ids)
    assert streams.pending_count(KLINES, GROUP_WRITERS) == 0
    assert streams.read_pending(KLINES, GROUP_WRITERS, "one", after="0-0", count=9).entries == []


def test_entries_that_another_left_behind_are_claimed_once_idle(streams: Streams, other: Streams) -> None:
    ids = fill(streams, 3)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    read(streams, "dead")
    assert other.claim_idle(KLINES, GROUP_WRITERS, "alive", idle_ms=60_000, count=10) == ("0-0", [], [])
    claimed: list[str] = []

    def idle() -> bool:
        claimed.extend(
            entry.id for entry in other.claim_idle(KLINES, GROUP_WRITERS, "alive", idle_ms=20, count=10).entries
        )
        return bool(claimed)

    eventually(idle)
    assert claimed == ids
    pending = other.read_pending(KLINES, GROUP_WRITERS, "alive", after="0-0", count=10).entries
    assert [(entry.id, entry.fields) for entry in pending] == [
        (entry_id, {b"n": str(number).encode()}) for number, entry_id in enumerate(ids)
    ]
    assert streams.read_pending(KLINES, GROUP_WRITERS, "dead", after="0-0", count=10).entries == []


def test_claiming_goes_on_from_where_it_says(streams: Streams) -> None:
    ids = fill(streams, 5)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    read(streams, "dead")
    start, claimed = "0-0", []
    for _ in range(5):
        start, entries, _ = streams.claim_idle(KLINES, GROUP_WRITERS, "alive", idle_ms=0, count=2, start=start)
        claimed += [entry.id for entry in entries]
        if start == "0-0":
            break
    assert claimed == ids


def test_a_group_needs_its_oldest_pending_entry_else_what_comes_next(streams: Streams) -> None:
    assert streams.groups(KLINES) == {}
    ids = fill(streams, 4)
    assert streams.groups(KLINES) == {}
    streams.ensure_group(KLINES, GROUP_WRITERS)
    streams.ensure_group(KLINES, "another")
    assert streams.groups(KLINES) == {GROUP_WRITERS: "0-1", "another": "0-1"}
    read(streams, count=3)
    assert streams.groups(KLINES) == {GROUP_WRITERS: ids[0], "another": "0-1"}
    streams.ack(KLINES, GROUP_WRITERS, [ids[0], ids[2]])
    assert streams.groups(KLINES)[GROUP_WRITERS] == ids[1]
    streams.ack(KLINES, GROUP_WRITERS, [ids[1]])
    assert streams.groups(KLINES)[GROUP_WRITERS] == next_id(ids[2])


def test_trimming_before_what_is_needed_takes_nothing_that_the_group_needs(streams: Streams) -> None:
    ids = fill(streams, 6)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    read(streams, count=4)
    streams.ack(KLINES, GROUP_WRITERS, ids[:2])
    assert trim_before(streams, KLINES, streams.groups(KLINES)[GROUP_WRITERS]) == 2
    pending = streams.read_pending(KLINES, GROUP_WRITERS, "one", after="0-0", count=10).entries
    assert [entry.id for entry in pending] == ids[2:4]
    assert read(streams) == ids[4:]


@pytest.mark.parametrize("count", [1, 2, 10])
def test_pending_entries_that_were_trimmed_hide_none_that_are_there(streams: Streams, count: int) -> None:
    """Redis gives an entry that is gone without fields; a page of such entries must not look like the end."""
    ids = fill(streams, 5)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    read(streams)
    trim_before(streams, KLINES, ids[3])
    found, gone, after = [], [], "0-0"
    while (page := streams.read_pending(KLINES, GROUP_WRITERS, "one", after=after, count=count)).last:
        found += [(entry.id, entry.fields) for entry in page.entries]
        gone += page.gone
        after = page.last
    assert found == [(ids[3], {b"n": b"3"}), (ids[4], {b"n": b"4"})]
    assert gone == ids[:3]


def test_claiming_drops_pending_entries_that_were_trimmed(streams: Streams) -> None:
    """They are counted as pending until somebody claims; then Redis itself forgets them."""
    ids = fill(streams, 3)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    read(streams)
    trim_before(streams, KLINES, ids[2])
    assert streams.pending_count(KLINES, GROUP_WRITERS) == 3
    _, claimed, gone = streams.claim_idle(KLINES, GROUP_WRITERS, "two", idle_ms=0, count=10)
    assert [entry.id for entry in claimed] == ids[2:]
    assert gone == ids[:2]
    assert streams.pending_count(KLINES, GROUP_WRITERS) == 1


def test_the_lag_is_what_the_group_has_not_read(streams: Streams) -> None:
    fill(streams, 5)
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert streams.group_lag(KLINES, GROUP_WRITERS) == 5
    read(streams, count=2)
    assert streams.group_lag(KLINES, GROUP_WRITERS) == 3
    assert streams.group_lag(KLINES, "unknown") is None


def test_a_group_tells_when_somebody_last_read_for_it(streams: Streams) -> None:
    assert streams.consumers_idle_ms(KLINES, GROUP_WRITERS) is None, "there is no stream"
    fill(streams, 1)
    assert streams.consumers_idle_ms(KLINES, GROUP_WRITERS) is None, "there is no group"
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert streams.consumers_idle_ms(KLINES, GROUP_WRITERS) is None, "nobody has ever read for it"
    read(streams, "one")
    idle_ms = eventually(lambda: streams.consumers_idle_ms(KLINES, GROUP_WRITERS))
    assert idle_ms is not None
    assert idle_ms < 10_000


def test_what_others_hold_is_named_and_what_of_it_is_gone(streams: Streams, other: Streams) -> None:
    ids = streams.write([Append(KLINES, {"n": str(number)}) for number in range(4)])
    streams.ensure_group(KLINES, GROUP_WRITERS)
    assert streams.delivered_id(KLINES, GROUP_WRITERS) == "0-0"
    assert streams.pending_of_others(KLINES, GROUP_WRITERS, "mine", count=10) == []
    streams.read_group([KLINES], GROUP_WRITERS, "mine", count=1)
    other.read_group([KLINES], GROUP_WRITERS, "theirs", count=2)
    assert streams.delivered_id(KLINES, GROUP_WRITERS) == ids[2]
    assert streams.pending_of_others(KLINES, GROUP_WRITERS, "mine", count=10) == ids[1:3]
    assert streams.pending_of_others(KLINES, GROUP_WRITERS, "mine", count=1) == ids[1:2]
    assert streams.absent(KLINES, ids) == []
    trim_before(streams, KLINES, ids[2])
    assert streams.absent(KLINES, ids) == ids[:2]


def test_only_consumers_that_hold_nothing_and_are_idle_are_removed(streams: Streams, other: Streams) -> None:
    streams.write([Append(KLINES, {"n": str(number)}) for number in range(3)])
    streams.ensure_group(KLINES, GROUP_WRITERS)
    for name in ("mine", "busy", "done"):
        (entry,) = other.read_group([KLINES], GROUP_WRITERS, name, count=1)[KLINES]
        if name != "busy":
            other.ack(KLINES, GROUP_WRITERS, [entry.id])
    assert streams.drop_consumers(KLINES, GROUP_WRITERS, "mine", 60_000) == []
    assert streams.drop_consumers(KLINES, GROUP_WRITERS, "mine", 0) == ["done"]
    assert streams.drop_consumers(KLINES, GROUP_WRITERS, "mine", 0) == []
    assert streams.pending_count(KLINES, GROUP_WRITERS) == 1

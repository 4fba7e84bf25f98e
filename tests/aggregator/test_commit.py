"""The one transaction, on the in-memory Redis and on the real one: epochs, fencing, running numbers."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import fakeredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.commit import KLINES_MAX, START, STREAMS, Committer, Position, after, split_outputs
from aggregator.publisher import Outputs
from klagg.drivers.redis_streams import Append, HashUpdate, Streams
from klagg.errors import CommitConflict, CommitDoubt, ContractError, RedisOlder
from klagg.wire.entries import BARS_POSITION, DEAD_ENTRIES
from klagg.wire.fields import texts_of
from klagg.wire.keys import Keys

KEYS = Keys(0)
IDS = st.tuples(st.integers(0, 2**63), st.integers(0, 2**63)).map(lambda parts: f"{parts[0]}-{parts[1]}")


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.servers)])
def streams(request: pytest.FixtureRequest) -> Streams:
    if request.param == "fake":
        return Streams("", client=fakeredis.FakeRedis())
    return Streams(request.getfixturevalue("redis_url"))


def outputs_of(number: int, *names: str) -> Outputs:
    outputs = Outputs(number)
    for name in names or STREAMS:
        getattr(outputs, name).append({"value": str(number)})
    return outputs


COUNTS = st.integers(0, 2**62)


def everything(streams: Streams) -> dict[str, Any]:
    found: dict[str, Any] = {name: streams.range(getattr(KEYS, name)) for name in STREAMS}
    return found | {"commit": streams.hash_of(KEYS.commit), "bars": streams.hash_of(KEYS.bars)}


@given(COUNTS, COUNTS, IDS, COUNTS, st.lists(COUNTS, min_size=len(STREAMS), max_size=len(STREAMS)))
def test_a_position_comes_back_as_it_was_written(
    epoch: int, seq: int, feed: str, step: int, numbers: list[int]
) -> None:
    position = Position(epoch, seq, feed, step, dict(zip(STREAMS, numbers, strict=True)))
    raw = {name.encode(): value.encode() for name, value in position.to_fields().items()}
    assert Position.from_hash(raw) == position


def test_no_hash_is_the_start() -> None:
    assert Position.from_hash({}) == Position(0, 0, START, 0, dict.fromkeys(STREAMS, 0))


@pytest.mark.parametrize("name", list(Position().to_fields()))
@pytest.mark.parametrize("damage", [None, "", "x", "1-", "-1-2", "1-2-3", "1.5", "\udcff"])
def test_a_damaged_position_is_refused(name: str, damage: str | None) -> None:
    raw = {each.encode(): value.encode() for each, value in Position(1, 2, "3-4").to_fields().items()}
    if damage is None:
        del raw[name.encode()]
    else:
        raw[name.encode()] = damage.encode(errors="surrogateescape")
    with pytest.raises(ContractError):
        Position.from_hash(raw)


@given(IDS, IDS)
def test_ids_compare_as_numbers(one: str, other: str) -> None:
    pairs = [tuple(map(int, each.split("-"))) for each in (one, other)]
    assert after(one, other) == (pairs[0] > pairs[1])
    assert after("10-0", "9-99")
    assert not after(one, one)


def test_each_take_over_is_a_higher_epoch_and_goes_on_where_the_last_stood(streams: Streams) -> None:
    for epoch in range(1, 4):
        committer = Committer(streams, KEYS, f"aggregator-0@{epoch}")
        found = committer.take_over(0)
        assert (found.epoch, found.feed) == (epoch, START if epoch == 1 else f"{epoch - 1}-5")
        for number in range(6):
            committer.commit(outputs_of(number), f"{epoch}-{number}")
    for name in STREAMS:
        entries = streams.range(getattr(KEYS, name))
        assert [int(each.fields[b"seq"]) for each in entries] == list(range(1, 19)), name
        assert [each.fields[b"writer"] for each in entries[::6]] == [b"aggregator-0@%d" % at for at in (1, 2, 3)]
        assert {each.fields[b"v"] for each in entries} == {b"3"}
    held = Position.from_hash(streams.hash_of(KEYS.commit))
    assert held == committer.position
    assert held.seq == 3 + 18, "one for each take-over and each commit"


def test_the_fenced_committer_writes_nothing_more(streams: Streams) -> None:
    first, second = Committer(streams, KEYS, "one"), Committer(streams, KEYS, "two")
    first.take_over(0)
    first.commit(outputs_of(1), "1-1")
    second.take_over(0)
    before = everything(streams)
    pointer = HashUpdate(KEYS.checkpoint, {"prefix": "mine"})
    with pytest.raises(CommitConflict, match="another process"):
        first.commit(outputs_of(2), "1-2", [pointer])
    with pytest.raises(CommitConflict):
        first.commit(outputs_of(3), "1-3")
    assert everything(streams) == before
    assert streams.hash_of(KEYS.checkpoint) == {}
    second.commit(outputs_of(2), "1-2")
    assert [int(each.fields[b"value"]) for each in streams.range(KEYS.klines)] == [1, 2]


def test_epochs_follow_the_wall_clock_and_never_go_back(streams: Streams) -> None:
    epochs = [Committer(streams, KEYS, "one").take_over(now_ms).epoch for now_ms in (1000.9, 5000, 5000, 3000, 9000)]
    assert epochs == [1000, 5000, 5001, 5002, 9000]


def test_what_is_published_after_redis_came_back_older_beats_what_was_before(streams: Streams) -> None:
    """The lost process took its epoch at 5,000; the Redis that came back knows of 1,000 alone."""
    Committer(streams, KEYS, "one").take_over(1000)
    older = texts_of(streams.hash_of(KEYS.commit))
    lost = Committer(streams, KEYS, "two").take_over(5000)
    streams.delete(KEYS.commit)
    streams.write([HashUpdate(KEYS.commit, older)])
    assert Committer(streams, KEYS, "three").take_over(5001).epoch > lost.epoch


@pytest.mark.parametrize("change", ["higher", "more"])
def test_a_redis_that_is_not_where_it_was_left_ends_the_commit(streams: Streams, change: str) -> None:
    committer = Committer(streams, KEYS, "one")
    committer.take_over(0)
    committer.commit(outputs_of(1), "1-1")
    streams.write([HashUpdate(KEYS.commit, {"epoch": "7"} if change == "higher" else {"other": "1"})])
    before = everything(streams)
    with pytest.raises(CommitConflict, match="another process") as conflict:
        committer.commit(outputs_of(2), "1-2")
    assert not isinstance(conflict.value, RedisOlder)
    assert everything(streams) == before


@pytest.mark.parametrize("change", ["flushed", "commits", "epoch"])
def test_a_redis_that_came_back_older_is_told_from_another_process(streams: Streams, change: str) -> None:
    committer = Committer(streams, KEYS, "one@7")
    committer.take_over(5000)
    first = texts_of(streams.hash_of(KEYS.commit))
    committer.commit(outputs_of(1), "1-1")
    committer.commit(outputs_of(2), "1-2")
    if change == "flushed":
        streams.delete(KEYS.commit)
    else:
        streams.write([HashUpdate(KEYS.commit, first if change == "commits" else {"epoch": "4999", "seq": "9"})])
    before = everything(streams)
    with pytest.raises(RedisOlder, match="came back older") as error:
        committer.commit(outputs_of(3), "1-3")
    held = {"flushed": "nothing", "commits": "epoch 5000, commit 1, feed 0-0", "epoch": "epoch 4999, commit 9"}[change]
    assert held in str(error.value)
    assert "had committed epoch 5000, commit 3, feed 1-2" in str(error.value)
    *kept, finding = streams.range(KEYS.findings)
    assert finding.fields[b"kind"] == b"REDIS_OLDER"
    assert finding.fields[b"severity"] == b"error"
    assert finding.fields[b"writer"] == b"one@7/older", "outside of the commits it counts for itself"
    assert held in finding.fields[b"evidence"].decode()
    assert everything(streams) | {"findings": kept} == before


def test_a_finding_that_cannot_be_written_does_not_hide_the_error(streams: Streams) -> None:
    committer = Committer(streams, KEYS, "one")
    committer.take_over(0)
    streams.delete(KEYS.commit)
    streams.set_bytes(KEYS.findings, b"no stream")
    with pytest.raises(RedisOlder):
        committer.commit(Outputs(1), "1-1")


def test_a_damaged_hash_is_a_conflict_and_not_old(streams: Streams) -> None:
    committer = Committer(streams, KEYS, "one")
    committer.take_over(0)
    streams.write([HashUpdate(KEYS.commit, {"epoch": "x"})])
    with pytest.raises(CommitConflict) as error:
        committer.commit(Outputs(1), "1-1")
    assert not isinstance(error.value, RedisOlder)


def test_a_command_that_fails_inside_a_commit_is_a_doubt(streams: Streams) -> None:
    committer = Committer(streams, KEYS, "one")
    committer.take_over(0)
    streams.set_bytes(KEYS.events, b"no stream")
    with pytest.raises(CommitDoubt):
        committer.commit(outputs_of(1, "events"), "1-1")


def test_a_taken_over_shard_whose_hash_is_damaged_is_left_alone(streams: Streams) -> None:
    streams.write([HashUpdate(KEYS.commit, {"epoch": "3", "feed": "1-1"})])
    before = everything(streams)
    with pytest.raises(ContractError):
        Committer(streams, KEYS, "one").take_over(0)
    assert everything(streams) == before


def test_more_writes_go_with_the_commit_and_the_dead_are_bounded(streams: Streams) -> None:
    committer = Committer(streams, KEYS, "one")
    committer.take_over(0)
    for number in range(3):
        outputs = Outputs(number, dead=[{"a": "1"}] * DEAD_ENTRIES, klines=[{"k": "1"}] * 2)
        committer.commit(outputs, f"1-{number}", [Append(KEYS.requests, {"n": str(number)})])
    assert streams.length(KEYS.requests) == 3
    assert streams.length(KEYS.klines) == 6
    assert DEAD_ENTRIES <= streams.length(KEYS.dead) < DEAD_ENTRIES + 200
    assert committer.position.numbers["dead"] == 3 * DEAD_ENTRIES


def test_bars_that_are_gone_leave_the_hash(streams: Streams) -> None:
    committer = Committer(streams, KEYS, "test")
    committer.take_over(0)
    committer.commit(Outputs(1, bars={"A:1m": "1", "B:1m": "1"}), "1-1")
    committer.commit(Outputs(2, bars={"A:1m": "2"}, bars_gone=["B:1m", "B:1h"]), "1-2")
    assert set(streams.hash_of(KEYS.bars)) == {b"A:1m", BARS_POSITION.encode()}
    committer.commit(Outputs(3, bars_gone=["A:1m"]), "1-3")
    assert set(streams.hash_of(KEYS.bars)) == {BARS_POSITION.encode()}


def test_bars_say_from_where_to_read_live(streams: Streams) -> None:
    committer = Committer(streams, KEYS, "one")
    committer.take_over(0)
    newest = [START]
    for number in range(4):
        committer.commit(Outputs(number, live=[{"A:1m": str(number)}], bars={"A:1m": str(number)}), f"1-{number}")
        position = streams.hash_of(KEYS.bars)[BARS_POSITION.encode()].decode()
        assert position == newest[-1], "what came before is in the hash; this commit's own entries come once more"
        newest.append(streams.newest(KEYS.live)[0].id)
    other = Committer(streams, KEYS, "two")
    other.take_over(0)
    other.commit(Outputs(9, bars={"A:1m": "9"}), "1-9")
    assert streams.hash_of(KEYS.bars)[BARS_POSITION.encode()].decode() == newest[-1]


# A large tick is committed in parts: together they are the whole, and their cuts depend on the klines alone.

WHAT = st.dictionaries(st.sampled_from([*STREAMS, "bars"]), st.integers(0, 7))


def outputs_with(counts: dict[str, int], *, last: bool = True) -> Outputs:
    made = Outputs(5, last=last)
    for name, count in counts.items():
        if name == "bars":
            made.bars = {f"b{number}": "1" for number in range(count)}
        else:
            setattr(made, name, [{name: str(number)} for number in range(count)])
    return made


def values_of(outputs: Outputs) -> dict[str, Any]:
    return {each.name: getattr(outputs, each.name) for each in fields(Outputs) if not each.name.startswith("_")}


@given(WHAT, st.booleans(), st.integers(1, 4))
def test_the_parts_are_the_whole_in_order(counts: dict[str, int], last: bool, klines_max: int) -> None:
    whole = values_of(outputs_with(counts, last=last))
    parts = [values_of(part) for part in split_outputs(outputs_with(counts, last=last), klines_max)]
    for name in STREAMS:
        assert [entry for part in parts for entry in part[name]] == whole[name]
    assert [part["bars"] for part in parts if part["bars"]] == ([whole["bars"]] if whole["bars"] else [])
    assert all(len(part["klines"]) <= klines_max for part in parts)
    assert [part["last"] for part in parts] == [*[False] * (len(parts) - 1), last]
    assert {part["time_ms"] for part in parts} == {5}


def test_many_klines_go_first_and_what_shows_the_present_by_itself() -> None:
    counts = {"klines": 7, "live": 2, "bars": 5, "events": 3, "findings": 1}
    parts = [values_of(part) for part in split_outputs(outputs_with(counts), 3)]
    filled = [{name: len(value) for name, value in part.items() if name in counts and value} for part in parts]
    assert filled == [{"klines": 3}, {"klines": 3}, {"klines": 1, "events": 3, "findings": 1}, {"live": 2}, {"bars": 5}]


@given(WHAT, WHAT, st.integers(1, 4))
def test_what_shows_the_present_does_not_move_the_cuts(one: dict[str, int], other: dict[str, int], most: int) -> None:
    """A restarted core shows every open bar again, so it must not matter how many there are."""
    same = {"klines": one.get("klines", 0)}
    first, second = (list(split_outputs(outputs_with(counts | same), most)) for counts in (one, other))
    assert [part.klines for part in first] == [part.klines for part in second], "as many, with the same klines"


def test_an_ordinary_tick_is_one_part() -> None:
    outputs = outputs_with({"klines": 7, "live": 2})
    assert list(split_outputs(outputs)) == [outputs]
    assert len(list(split_outputs(outputs_with({"klines": KLINES_MAX})))) == 1
    assert len(list(split_outputs(outputs_with({"klines": KLINES_MAX + 1})))) == 4


def test_fields_that_leave_bars_go_out_once_and_last() -> None:
    whole = Outputs(1, klines=[{"n": str(number)} for number in range(7)], bars={"A": "1"}, bars_gone=["B"])
    parts = list(split_outputs(whole, 3))
    assert [part.bars_gone for part in parts] == [[], [], [], [], ["B"]]
    assert parts[-1].bars == {"A": "1"}

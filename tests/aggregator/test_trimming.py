"""What is trimmed and what stays, on a real Redis: readers, retention, caps, groups that nobody configured."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from aggregator.commit import Committer, after
from aggregator.publisher import Outputs
from aggregator.trimming import (
    BURST,
    CUT_ENTRIES,
    EVERY_S,
    FEED_PERCENT,
    KEPT_ENTRIES,
    KEPT_MS,
    LIVE_BURST,
    Trimmer,
    back,
    oldest,
    ranges,
    streams_of,
)
from klagg import settings
from klagg.drivers.redis_streams import Entry, Streams
from klagg.embedded import RedisServer
from klagg.process.alarms import Alarms
from klagg.settings import Settings
from klagg.wire.fields import Fields, stamp, texts_of
from klagg.wire.groups import groups_of
from klagg.wire.keys import GROUP_COMPLETENESS, GROUP_HISTORY, GROUP_LIFECYCLE, GROUP_REPAIR, GROUP_WRITERS, Keys
from tests.aggregator.stall import pinging

KEYS = Keys(0)
UNAUDITED = Settings(audit=settings.Audit(full=False))
"""One group on the klines and none on the events."""
IDS = st.tuples(st.integers(0, 10**13), st.integers(0, 9)).map(lambda parts: f"{parts[0]}-{parts[1]}")
LOG = logging.getLogger("test")
MINUTE_MS = 60_000
NODE = 100
"""Entries of a node, which slices leave whole."""


@pytest.fixture
def streams(redis_url: str) -> Iterator[Streams]:
    made = Streams(redis_url)
    yield made
    made.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    made = redis.Redis.from_url(redis_url)
    yield made
    made.close()


def put(client: redis.Redis, key: str, count: int, *, first_ms: int = 1, step_ms: int = 1, size: int = 1) -> list[str]:
    """Entries 1 … count with chosen ids, stamped by one writer; the ids."""
    pipe = client.pipeline(transaction=False)
    for number in range(1, count + 1):
        entry: dict[str, str] = stamp({"text": f"{number:0{size}}"}, "aggregator-0@1", number)
        pipe.xadd(key, entry, id=f"{first_ms + (number - 1) * step_ms}-0")  # type: ignore[arg-type]
    return [each.decode() for each in pipe.execute()]


def trimmer_of(streams: Streams, **changes: int) -> Trimmer:
    shares = {f"{name}_percent": 1 for name in changes} | {"feed_percent": 20}
    made = Trimmer(streams, KEYS, replace(UNAUDITED, streams=settings.Streams(**shares)), LOG, Alarms())
    made.ensure_groups()
    return made


def rounds(trimmer: Trimmer, checkpoint_id: str = "0-0") -> None:
    """Rounds as the service runs them, until none is due at once."""
    trimmer.round(0.0, checkpoint_id, 7)
    for _ in range(100):
        if not trimmer.due(1.0):
            return
        trimmer.round(0.0, checkpoint_id, 7)
    raise AssertionError("the rounds do not end")


@given(IDS, st.integers(0, 10**6))
def test_back_is_that_much_earlier_and_never_negative(entry_id: str, by_ms: int) -> None:
    milliseconds = int(entry_id.partition("-")[0])
    assert back(entry_id, by_ms) == f"{max(0, milliseconds - by_ms)}-0"


@given(st.lists(IDS, max_size=5))
def test_the_oldest_of_ids(ids: list[str]) -> None:
    lowest = oldest(ids)
    assert not any(after(lowest, each) for each in ids)
    assert lowest in ids or not ids
    assert after(oldest([]), "9" * 19 + "-0")


def test_ranges_name_every_writer_with_its_own_numbers() -> None:
    entries = [
        Entry(f"{at}-0", {b"writer": writer, b"seq": b"%d" % seq})
        for at, (writer, seq) in enumerate([(b"a@1", 5), (b"a@1", 6), (b"b@2", 7), (b"b@2", 8)])
    ]
    assert ranges(entries) == "seq 5 to 6 of a@1, seq 7 to 8 of b@2"
    assert "unknown writer" in ranges([Entry("1-0", {b"x": b"y"})])


def test_the_configuration_says_who_reads() -> None:
    assert groups_of(Settings()) == {
        "klines": (GROUP_WRITERS, GROUP_COMPLETENESS),
        "requests": (GROUP_REPAIR,),
        "findings": (GROUP_HISTORY,),
        "events": (GROUP_HISTORY, GROUP_COMPLETENESS, GROUP_LIFECYCLE),
    }
    assert groups_of(UNAUDITED) == {
        "klines": (GROUP_WRITERS,),
        "requests": (GROUP_REPAIR,),
        "events": (GROUP_HISTORY,),
        "findings": (GROUP_HISTORY,),
    }
    without = settings.Database(enabled=False)
    assert groups_of(replace(UNAUDITED, database=without)) == {"requests": (GROUP_REPAIR,)}
    trimmed = streams_of(Settings(), KEYS)
    assert {each.key for each in trimmed} == {
        KEYS.feed,
        KEYS.klines,
        KEYS.events,
        KEYS.live,
        KEYS.requests,
        KEYS.findings,
        KEYS.dead,
    }
    assert sum(each.cap_percent for each in trimmed) <= 60


@pytest.mark.servers
def test_the_feed_is_trimmed_behind_the_checkpoint_and_the_retention(streams: Streams, client: redis.Redis) -> None:
    ids = put(client, KEYS.feed, 10_000, first_ms=10**12, step_ms=1000)
    trimmer = trimmer_of(streams)
    rounds(trimmer)
    assert streams.length(KEYS.feed) == 10_000, "without a checkpoint all of it is needed"
    rounds(trimmer, ids[5000])
    kept = [entry.id for entry in streams.range(KEYS.feed)]
    needed = 10_000 - 5000 + KEPT_MS // 1000
    assert kept == ids[-len(kept) :]
    assert needed <= len(kept) <= needed + NODE
    assert trimmer.drain() == ([], [])


@pytest.mark.servers
@pytest.mark.parametrize(("key", "group"), [(KEYS.klines, GROUP_WRITERS), (KEYS.requests, GROUP_REPAIR)])
def test_what_a_group_has_not_done_with_stays(streams: Streams, client: redis.Redis, key: str, group: str) -> None:
    trimmer = trimmer_of(streams)
    ids = put(client, key, 3000, first_ms=10**12, step_ms=1000)
    rounds(trimmer)
    assert streams.length(key) == 3000, "nothing was read"
    streams.read_group([key], group, "one", count=2500)
    streams.ack(key, group, [*ids[:1500], *ids[1501:2500]])
    rounds(trimmer)
    needed = 3000 - 1500 + KEPT_MS // 1000
    assert needed <= streams.length(key) <= needed + NODE, "one entry is pending"
    streams.ack(key, group, [ids[1500]])
    rounds(trimmer)
    needed = 500 + KEPT_MS // 1000
    assert needed <= streams.length(key) <= needed + NODE


@pytest.mark.servers
@pytest.mark.parametrize(
    ("name", "group"),
    [("klines", GROUP_COMPLETENESS), ("events", GROUP_COMPLETENESS), ("events", GROUP_LIFECYCLE)],
)
def test_the_switch_decides_whether_auditors_hold_entries_back(
    streams: Streams, client: redis.Redis, name: str, group: str
) -> None:
    key, kept = getattr(KEYS, name), KEPT_ENTRIES[name]
    unstored = settings.Database(enabled=False)
    audited = Trimmer(streams, KEYS, Settings(database=unstored), LOG, Alarms())
    audited.ensure_groups()
    entries = kept + 2000
    ids = put(client, key, entries, first_ms=10**12, step_ms=1000)
    for other in streams.groups(key).keys() - {group}:
        streams.read_group([key], other, "one", count=entries)
        streams.ack(key, other, ids)
    rounds(audited)
    assert streams.length(key) == entries, f"{group} has read nothing"
    unaudited = Trimmer(streams, KEYS, replace(UNAUDITED, database=unstored), LOG, Alarms())
    unaudited.ensure_groups()
    assert group in streams.groups(key), "left from the time before the switch"
    rounds(unaudited)
    assert streams.length(key) <= kept + NODE
    findings, _ = unaudited.drain()
    assert any(group in each["evidence"] and each["severity"] == "warning" for each in findings)


@pytest.mark.servers
def test_streams_for_people_keep_their_newest_entries(streams: Streams, client: redis.Redis) -> None:
    trimmer = Trimmer(streams, KEYS, Settings(database=settings.Database(enabled=False)), LOG, Alarms())
    trimmer.ensure_groups()
    streams.ensure_group(KEYS.findings, GROUP_HISTORY)  # from a time when there was a database
    for name in ("live", "findings", "dead"):
        put(client, getattr(KEYS, name), KEPT_ENTRIES[name] + 1000)
    rounds(trimmer)
    for name in ("live", "findings", "dead"):
        length = streams.length(getattr(KEYS, name))
        assert KEPT_ENTRIES[name] <= length < KEPT_ENTRIES[name] + NODE, name


@pytest.mark.servers
@pytest.mark.parametrize("name", ["events", "findings"])
def test_what_people_read_waits_for_the_history_too(streams: Streams, client: redis.Redis, name: str) -> None:
    key, kept = getattr(KEYS, name), KEPT_ENTRIES[name]
    trimmer = trimmer_of(streams)
    ids = put(client, key, kept + 2000)
    rounds(trimmer)
    assert streams.length(key) == kept + 2000, "the history has read nothing"
    streams.read_group([key], GROUP_HISTORY, "writer-snapshot", count=1000)
    streams.ack(key, GROUP_HISTORY, ids[:1000])
    rounds(trimmer)
    assert streams.length(key) == kept + 2000, "what was done with is kept for a while"
    (newest,) = put(client, key, 1, first_ms=KEPT_MS + 10**6)
    streams.read_group([key], GROUP_HISTORY, "writer-snapshot", count=kept + 1001)
    streams.ack(key, GROUP_HISTORY, [*ids[1000:], newest])
    rounds(trimmer)
    assert kept <= streams.length(key) < kept + NODE, "of what was read, people keep a number of entries"


@pytest.mark.servers
def test_live_stays_for_a_slow_reader_while_it_says_that_it_reads(streams: Streams, client: redis.Redis) -> None:
    ids = put(client, KEYS.live, 3000)
    streams.set_with_ttl(KEYS.reader("gateway"), ids[1000], 60)
    streams.set_with_ttl(KEYS.reader("another"), ids[2900], 60)
    streams.set_with_ttl(KEYS.reader("broken"), "yesterday", 60)
    trimmer = trimmer_of(streams)
    rounds(trimmer)
    assert 2000 <= streams.length(KEYS.live) < 2000 + NODE
    streams.delete(KEYS.reader("gateway"))
    rounds(trimmer)
    assert KEPT_ENTRIES["live"] <= streams.length(KEYS.live) < KEPT_ENTRIES["live"] + NODE, "the others read further"


@pytest.mark.servers
def test_live_beyond_its_cap_waits_for_no_reader(
    streams: Streams, client: redis.Redis, redis_server: RedisServer
) -> None:
    ids = put(client, KEYS.live, 1500, size=20_000)
    streams.set_with_ttl(KEYS.reader("gateway"), ids[0], 60)
    cap = redis_server.maxmemory_mb << 20
    assert streams.memory(KEYS.live) > cap // 100
    trimmer = trimmer_of(streams, live=1)
    for _ in range(3):
        rounds(trimmer)
    assert cap // 200 < streams.memory(KEYS.live) <= cap // 100
    assert trimmer.drain() == ([], []), "it loads the bars anew; nothing is lost"


@pytest.mark.servers
def test_a_few_huge_entries_are_held_to_the_cap_too(
    streams: Streams, client: redis.Redis, redis_server: RedisServer
) -> None:
    put(client, KEYS.live, 40, size=400_000)
    for _ in range(3):
        rounds(trimmer_of(streams, live=1))
    assert 0 < streams.memory(KEYS.live) <= (redis_server.maxmemory_mb << 20) // 100
    assert streams.length(KEYS.live) > 5


@pytest.mark.servers
def test_klines_over_their_cap_lose_the_retention_first(
    streams: Streams, client: redis.Redis, redis_server: RedisServer
) -> None:
    trimmer = trimmer_of(streams, klines=1)
    ids = put(client, KEYS.klines, 8000, size=1000)
    streams.read_group([KEYS.klines], GROUP_WRITERS, "one", count=7000)
    streams.ack(KEYS.klines, GROUP_WRITERS, ids[:7000])
    for _ in range(3):
        rounds(trimmer)
        findings, cuts = trimmer.drain()
        assert findings == [], "all that went had been read"
        streams.write(cuts)
    assert streams.memory(KEYS.klines) <= (redis_server.maxmemory_mb << 20) // 100
    assert streams.length(KEYS.klines) >= 1000


@pytest.mark.servers
def test_unread_klines_over_the_cap_are_cut_in_the_commit_that_says_so(
    streams: Streams, client: redis.Redis, redis_server: RedisServer
) -> None:
    trimmer, cap = trimmer_of(streams, klines=1), (redis_server.maxmemory_mb << 20) // 100
    committer = Committer(streams, KEYS, "aggregator-0@2")
    committer.take_over(0)
    put(client, KEYS.klines, 8000, size=1000)
    streams.read_group([KEYS.klines], GROUP_WRITERS, "one", count=10)
    streams.ack(KEYS.klines, GROUP_WRITERS, [entry.id for entry in streams.range(KEYS.klines, count=10)])
    for number in range(50):
        if streams.memory(KEYS.klines) <= cap:
            break
        before = streams.length(KEYS.klines)
        rounds(trimmer)
        assert streams.length(KEYS.klines) >= before - 10, "only what was read goes outside of a commit"
        findings, cuts = trimmer.drain()
        assert len(findings) == len(cuts) == 1
        assert trimmer.due(0.0), "while it is too large the next cut is due at once"
        committer.commit(Outputs(number, findings=findings), f"1-{number}", cuts)
        assert before - CUT_ENTRIES - 10 <= streams.length(KEYS.klines) < before
    assert cap // 2 < streams.memory(KEYS.klines) <= cap
    oldest_kept = int(streams.range(KEYS.klines, count=1)[0].fields[b"seq"])
    said = [texts_of(each.fields) for each in streams.range(KEYS.findings)]
    assert {(each["kind"], each["severity"], each["time"]) for each in said} == {("DATA_LOSS", "error", "7")}
    assert "seq 11 to " in said[0]["evidence"], "10 of the first cut had been read"
    for one, other in itertools.pairwise(said):
        last, first = (
            re.findall(r"seq (\d+) to (\d+) of aggregator-0@1, ids", each["evidence"])[0] for each in (one, other)
        )
        assert int(last[1]) + 1 == int(first[0])
    assert f"to {oldest_kept - 1} of aggregator-0@1" in said[-1]["evidence"]
    rounds(trimmer)
    assert trimmer.drain() == ([], [])


@pytest.mark.servers
def test_a_feed_over_its_cap_is_alarmed_and_never_cut(
    streams: Streams, client: redis.Redis, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    put(client, KEYS.feed, 3000, size=10_000)
    rounds(Trimmer(streams, KEYS, replace(UNAUDITED, streams=settings.Streams(feed_percent=1)), LOG, Alarms()))
    assert streams.length(KEYS.feed) == 3000
    alarms = [record for record in caplog.records if "ALARM: feed:{0} takes" in record.message]
    assert [(record.levelname, "cap of 5 MB" in record.message) for record in alarms] == [("ERROR", True)]


@pytest.mark.servers
def test_a_feed_near_its_cap_gives_up_what_is_kept_for_people_but_nothing_behind_the_checkpoint(
    streams: Streams, client: redis.Redis, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    ids = put(client, KEYS.feed, 3000, size=10_000)
    trimmer = Trimmer(streams, KEYS, replace(UNAUDITED, streams=settings.Streams(feed_percent=1)), LOG, Alarms())
    rounds(trimmer, ids[1000])
    kept = streams.range(KEYS.feed)
    assert kept[-1].id == ids[-1]
    assert 2000 <= len(kept) <= 2000 + NODE, "over its cap, and still all that is needed"
    assert trimmer.pressed, "a newer checkpoint would help"
    rounds(trimmer, ids[-1])
    caplog.clear()
    cap = (int(streams.information("memory").get("maxmemory", 0)) or Settings().redis.maxmemory_mb << 20) // 100
    used = streams.memory(KEYS.feed)
    assert cap // 4 < used < cap * FEED_PERCENT // 100, "not more than it must"
    rounds(trimmer, ids[-1])
    assert caplog.records == []
    assert not trimmer.pressed


@pytest.mark.servers
def test_an_unknown_group_is_told_once_and_holds_nothing(streams: Streams, client: redis.Redis) -> None:
    trimmer = trimmer_of(streams)
    streams.ensure_group(KEYS.feed, "curious")
    streams.ensure_group(KEYS.klines, "curious")
    put(client, KEYS.klines, 3000, first_ms=10**12, step_ms=1000)
    for entry in streams.read_group([KEYS.klines], GROUP_WRITERS, "one", count=3000)[KEYS.klines]:
        streams.ack(KEYS.klines, GROUP_WRITERS, [entry.id])
    for _ in range(3):
        rounds(trimmer)
    findings, cuts = trimmer.drain()
    assert [(each["kind"], each["severity"]) for each in findings] == [("UNKNOWN_GROUP", "warning")] * 2
    assert ["feed:{0}" in findings[0]["evidence"], "klines:{0}" in findings[1]["evidence"]] == [True, True]
    assert cuts == []
    assert streams.length(KEYS.klines) <= KEPT_MS // 1000 + NODE
    rounds(trimmer)
    assert trimmer.drain() == ([], [])


@pytest.mark.servers
def test_a_group_that_was_destroyed_begins_anew(streams: Streams, client: redis.Redis) -> None:
    trimmer = trimmer_of(streams)
    put(client, KEYS.klines, 1000, first_ms=10**12, step_ms=10_000)
    client.xgroup_destroy(KEYS.klines, GROUP_WRITERS)
    rounds(trimmer)
    assert streams.length(KEYS.klines) == 1000
    assert list(streams.groups(KEYS.klines)) == [GROUP_WRITERS]


def test_rounds_have_their_cadence_and_come_early_after_a_burst(redis_url: str) -> None:
    streams = Streams(redis_url)
    trimmer, one = Trimmer(streams, KEYS, UNAUDITED, LOG, Alarms()), Outputs(0)
    now_s = time.monotonic()
    assert trimmer.due(now_s)
    trimmer.round(now_s, "0-0", 0)
    assert not trimmer.due(now_s + EVERY_S - 0.1)
    assert trimmer.due(now_s + EVERY_S)
    entry: Fields = {"a": "b"}
    for name, burst in (("live", LIVE_BURST), ("klines", BURST)):
        setattr(one, name, [entry] * (burst // 2))
        trimmer.note(one)
        assert not trimmer.due(now_s)
        trimmer.note(one)
        assert trimmer.due(now_s)
        trimmer.round(now_s, "0-0", 0)
        assert not trimmer.due(now_s)
        setattr(one, name, [])
    streams.close()


@pytest.mark.servers
@pytest.mark.parametrize(("count", "size"), [(400_000, 1), (6_000, 30_000)])
def test_a_long_backlog_goes_in_slices_and_keeps_nobody_waiting(
    streams: Streams, client: redis.Redis, redis_url: str, redis_server: RedisServer, count: int, size: int
) -> None:
    """The best of a few, because this machine may do something else meanwhile."""
    waits: list[float] = []
    while len(waits) < 3 and not (waits and waits[-1] <= 20):
        redis_server.command("FLUSHALL")
        text = "x" * size
        for start in range(0, count, 10_000):
            pipe = client.pipeline(transaction=False)
            for at in range(start, min(start + 10_000, count)):
                pipe.xadd(KEYS.feed, {"n": text}, id=f"{1 + at}-0")
            pipe.execute()
        trimmer = trimmer_of(streams)
        with pinging(redis_url) as pings:
            rounds(trimmer, "99999999999-0")
        assert streams.length(KEYS.feed) <= NODE
        waits.append(pings.worst_ms)
    assert min(waits) <= 20, waits

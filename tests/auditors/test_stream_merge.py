"""Two streams as one log: whatever is read when, the order is that of the commits."""

from __future__ import annotations

import random

import pytest

from auditors.stream_merge import StreamMerge
from klagg.drivers.commands import Entry


def commits(rng: random.Random) -> list[tuple[str, str]]:
    """Stream and id in the order of the log; several entries in a millisecond, klines of a commit first."""
    log, now_ms = [], 1000
    for _ in range(rng.randrange(1, 30)):
        now_ms += rng.randrange(1, 4)
        log += [("klines", f"{now_ms}-{n}") for n in range(rng.choice((0, 0, 1, 5)))]
        log += [("events", f"{now_ms}-{n}") for n in range(rng.choice((1, 1, 3)))]
    return log


@pytest.mark.parametrize("seed", range(60))
def test_the_order_is_that_of_the_log(seed: int) -> None:
    rng = random.Random(seed)
    log = commits(rng)
    unread = {name: [entry_id for stream, entry_id in log if stream == name] for name in ("klines", "events")}
    visible, merge = 0, StreamMerge()
    given: list[tuple[str, str]] = []
    while len(given) < len(log):
        visible = min(len(log), visible + rng.randrange(0, 8))
        there = set(log[:visible])
        size = rng.choice((1, 2, 50))
        found = {name: [each for each in ids if (name, each) in there][:size] for name, ids in unread.items()}
        for name, ids in found.items():
            unread[name] = unread[name][len(ids) :]
        merge.add_events([Entry(each, {}) for each in found["events"]])
        merge.add_klines([Entry(each, {}) for each in found["klines"]], klines_at_end=len(found["klines"]) < size)
        given += [(stream, entry.id) for stream, entry in merge.drain_ready()]
        if visible == len(log) and not unread["klines"] and not unread["events"]:
            merge.add_klines([], klines_at_end=True)
            given += [(stream, entry.id) for stream, entry in merge.drain_ready()]
    assert given == log


def test_klines_wait_for_the_events_of_their_commit() -> None:
    merge = StreamMerge()
    merge.add_klines([Entry("5-0", {})], klines_at_end=True)
    assert list(merge.drain_ready()) == []
    merge.add_events([Entry("5-0", {})])
    merge.add_klines([], klines_at_end=True)
    assert [stream for stream, _ in merge.drain_ready()] == ["klines", "events"]
    merge.add_events([Entry("6-0", {})])
    assert list(merge.drain_ready()) == [], "nobody has looked for klines since"
    merge.clear()
    merge.add_klines([], klines_at_end=True)
    assert list(merge.drain_ready()) == []

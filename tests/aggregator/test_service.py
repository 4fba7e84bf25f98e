"""The process itself on a real Redis: killed, restarted, doubled, misled; what is out in the end is what one
undisturbed run of the core says."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import signal
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from aggregator.commit import KLINES_MAX, Committer, after, split_outputs
from aggregator.service import COUNTED, Service
from klagg.embedded import RedisServer
from klagg.process.service import Context
from klagg.settings import Redis
from klagg.wire.entries import (
    REQUEST_KLINES,
    REQUEST_TRADES,
    TICK,
    TRADES,
    request_of,
    tick_entry,
    trades_entry_of_rows,
)
from klagg.wire.fields import Fields, stamp, texts_of
from klagg.wire.findings import FindingKind
from klagg.wire.keys import FEED, heartbeat_key
from tests.aggregator.kit import T0, new_core, raw, trade
from tests.aggregator.shardkit import INTERVALS, KEYS, LONG, SHORT, Shard, check_end, log_of, undisturbed
from tests.kit import eventually, trim_before

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("checkpoint_s", [SHORT, LONG])
def test_killed_anywhere_it_ends_where_an_undisturbed_run_ends(shard: Shard, checkpoint_s: str) -> None:
    rng = random.Random(7)
    entries = log_of(7, 30)
    cuts = [0, *sorted(rng.sample(range(len(entries)), 4)), len(entries)]
    for start, end in itertools.pairwise(cuts):
        shard.put(entries[start:end])
        child = shard.start("--checkpoint-s", checkpoint_s)
        ticks = [entry_id for entry_id, fields in entries[start:end] if fields["kind"] == TICK]
        if end < len(entries):
            shard.reached(rng.choice(ticks[: len(ticks) // 2 + 1]))
            assert child.end(signal.SIGKILL) == -signal.SIGKILL
    shard.reached(entries[-1][0])
    assert shard.children[-1].end() == 0
    check_end(shard, entries)
    assert bool(shard.streams.hash_of(KEYS.checkpoint)) == (checkpoint_s == SHORT)
    if checkpoint_s == SHORT:
        oldest = int(shard.streams.range(KEYS.feed, count=1)[0].id.partition("-")[0])
        reached = int(shard.streams.hash_of(KEYS.checkpoint)[b"feed"].decode().partition("-")[0])
        assert T0 < oldest <= reached, "the feed was trimmed, but not beyond the checkpoint"
        assert reached - 900_000 <= oldest, "ten minutes are kept, and what lies with them in a node of the stream"


def test_what_had_to_be_read_again_counts_for_the_next_checkpoint(shard: Shard) -> None:
    entries = log_of(7, 30)
    half = len(entries) // 2
    ticks = [entry_id for entry_id, fields in entries[:half] if fields["kind"] == TICK]
    shard.put(entries[:half])
    child = shard.start("--checkpoint-s", "600")
    shard.reached(ticks[-1])
    assert child.end(signal.SIGKILL) == -signal.SIGKILL
    assert not shard.streams.hash_of(KEYS.checkpoint)
    # A quarter of an hour of the feed lies behind the next process: more than the ten minutes of a checkpoint.
    shard.put(entries[half:])
    child = shard.start("--checkpoint-s", "600")
    shard.reached(entries[-1][0])
    assert child.end() == 0
    assert b"header" in shard.streams.hash_of(KEYS.checkpoint)
    check_end(shard, entries)


def test_what_is_missing_is_asked_for_once_across_a_restart(shard: Shard) -> None:
    entries, core = log_of(7, 30), new_core(*INTERVALS)
    half = len(entries) // 2
    shard.put(entries[:half])
    shard.start("--checkpoint-s", SHORT)
    shard.reached(next(entry_id for entry_id, each in entries[half // 2 :] if each["kind"] == TICK))
    shard.children[-1].end(signal.SIGKILL)
    shard.put(entries[half:])
    child = shard.start("--checkpoint-s", SHORT)
    shard.reached(entries[-1][0])
    assert child.end() == 0
    expected = [
        request_of(raw(each))
        for entry_id, fields in entries
        for outputs in core.apply(entry_id, raw(fields))
        for each in outputs.requests
    ]
    found = [request_of(each.fields) for each in shard.streams.range(KEYS.requests)]
    assert found == expected
    assert {each.kind for each in found} == {REQUEST_TRADES, REQUEST_KLINES}


def test_only_the_blocks_of_the_newest_checkpoint_stay(shard: Shard) -> None:
    entries = log_of(3, 10)
    shard.streams.set_bytes(f"{KEYS.checkpoint}:0.1:0", b"left by a crash")
    shard.client.hset(KEYS.checkpoint, mapping={"writing": f"{KEYS.checkpoint}:0.1", "writing_blocks": "1"})
    shard.put(entries[:-20])
    child = shard.start("--checkpoint-s", "0")
    shard.reached(entries[-21][0] if entries[-21][1]["kind"] == TICK else entries[-22][0])
    shard.put(entries[-20:])
    shard.reached(entries[-1][0])
    assert child.end() == 0
    pointer = shard.streams.hash_of(KEYS.checkpoint)
    kept, found = f"{pointer[b'prefix'].decode()}:0".encode(), set(shard.client.keys(f"{KEYS.checkpoint}:*"))
    assert kept in found
    assert len(found) <= 3, "the newest, the one before it until the next tick, and one in the making"
    assert f"{KEYS.checkpoint}:0.1:0".encode() not in found
    assert int(pointer[b"prefix"].decode().rpartition(".")[2]) > 10, "many checkpoints were made"


def test_a_restart_needs_nothing_behind_the_checkpoint(shard: Shard) -> None:
    entries = log_of(11, 20)
    half = len(entries) // 2
    shard.put(entries[:half])
    shard.start("--checkpoint-s", SHORT)
    pointer = eventually(lambda: shard.alive() and shard.streams.hash_of(KEYS.checkpoint).get(b"feed"), 20)
    shard.children[-1].end(signal.SIGKILL)
    pointer = shard.streams.hash_of(KEYS.checkpoint)[b"feed"]
    trim_before(shard.streams, KEYS.feed, pointer.decode())
    shard.put(entries[half:])
    child = shard.start("--checkpoint-s", LONG)
    shard.reached(entries[-1][0])
    assert child.end() == 0
    check_end(shard, entries)


@pytest.mark.parametrize("damage", ["block", "missing", "header", "layout"])
def test_a_checkpoint_that_cannot_be_used_is_left_and_the_feed_read_anew(shard: Shard, damage: str) -> None:
    entries = log_of(5, 6)
    half = len(entries) // 2
    shard.put(entries[:half])
    shard.start("--checkpoint-s", SHORT)
    eventually(lambda: shard.alive() and b"header" in shard.streams.hash_of(KEYS.checkpoint), 20)
    shard.children[-1].end(signal.SIGKILL)
    pointer = shard.streams.hash_of(KEYS.checkpoint)
    block = pointer[b"prefix"].decode() + ":0"
    if damage == "block":
        shard.streams.set_bytes(block, b"x" * 100)
    elif damage == "missing":
        shard.streams.delete(block)
    else:
        header = pointer[b"header"].decode()
        changed = header.replace('"last_id"', '"lost_id"') if damage == "header" else "{}"
        assert changed != header
        shard.client.hset(KEYS.checkpoint, "header", changed)
    shard.put(entries[half:])
    child = shard.start("--checkpoint-s", LONG)
    shard.reached(entries[-1][0])
    assert child.end() == 0
    assert "the feed is read anew" in child.text()
    check_end(shard, entries)


def test_a_second_aggregator_fences_the_first(shard: Shard) -> None:
    entries = log_of(2, 4)
    half = len(entries) // 2
    shard.put(entries[:half])
    first = shard.start()
    eventually(lambda: shard.position().seq > 1)
    epoch = shard.position().epoch
    second = shard.start()
    eventually(lambda: shard.position().epoch > epoch)
    shard.put(entries[half:])
    assert first.process.wait(20) == 1
    critical = [line for line in first.text().splitlines() if "CRITICAL" in line]
    assert len(critical) == 1
    assert "another process" in critical[0]
    assert "b'" not in critical[0]
    assert "Traceback" not in first.text()
    shard.reached(entries[-1][0])
    assert second.end() == 0
    check_end(shard, entries)


def test_a_bad_entry_ends_in_dead_and_the_rest_goes_on(shard: Shard) -> None:
    entries = log_of(4, 4)
    bad = {**tick_entry(T0), "kind": "trades", "n": "٣"}
    nonsense = {**next(each for _, each in entries if each["kind"] == TRADES), "price": "1 2"}
    shard.put([*entries[:40], (f"{T0 + 10**6}-0", bad), (f"{T0 + 10**6}-1", nonsense)])
    later = [(f"{T0 + 10**6 + at}-9", fields) for at, (_, fields) in enumerate(entries[40:])]
    shard.put(later)
    child = shard.start()
    shard.reached(later[-1][0])
    dead = [texts_of(each.fields) for each in shard.streams.range(KEYS.dead)]
    assert [each["id"] for each in dead] == [f"{T0 + 10**6}-0", f"{T0 + 10**6}-1"]
    assert all(each["reason"] and each["stream"] == FEED for each in dead)
    assert child.end() == 0
    check_end(shard, [*entries[:40], *later])


def test_a_damaged_position_ends_the_start_in_a_sentence(shard: Shard) -> None:
    shard.client.hset(KEYS.commit, mapping={"epoch": "3"})
    child = shard.start()
    assert child.process.wait(20) == 1
    assert "Traceback" not in child.text()
    assert shard.client.hgetall(KEYS.commit) == {b"epoch": b"3"}


def test_an_unreachable_redis_and_an_unknown_shard_end_the_start_in_a_sentence(shard: Shard) -> None:
    unknown = shard.start("--shard", "1")
    shard.settings = replace(shard.settings, redis=Redis(url="redis://127.0.0.1:1", timeout_ms=500))
    unreachable = shard.start()
    assert unknown.process.wait(20) == 2
    assert "shard 1 does not exist" in unknown.text()
    assert unreachable.process.wait(20) == 1
    assert "Redis does not answer" in unreachable.text()
    assert "Traceback" not in unknown.text() + unreachable.text()


def test_asked_to_end_it_ends_well_and_takes_its_heartbeat_away(shard: Shard, redis_server: RedisServer) -> None:
    child = shard.start()
    eventually(lambda: shard.alive() and shard.client.exists(heartbeat_key("aggregator-0")))
    assert child.end() == 0
    assert not shard.client.exists(heartbeat_key("aggregator-0"))


@pytest.mark.parametrize("parts_out", range(1, 5))
def test_killed_between_the_parts_of_a_tick_it_says_the_rest_and_nothing_twice(shard: Shard, parts_out: int) -> None:
    """A core and a committer of the test's own stand for the process that was killed."""
    names = [f"S{number}USDT" for number in range(KLINES_MAX)]
    entries = []
    for number, time_ms in enumerate((T0 + 3_599_000, T0 + 3_600_001, T0 + 3_660_001)):
        rows = [trade(number + 1, time_ms, symbol=name) for name in names]
        entry = trades_entry_of_rows(rows, line="A", ids="agg", recv_ms=time_ms)
        entries += [(f"{time_ms}-1", entry), (f"{time_ms}-2", tick_entry(time_ms))]
    shard.put(entries)
    core, committer = new_core(*INTERVALS), Committer(shard.streams, KEYS, "killed@1")
    committer.take_over(1)
    for entry_id, fields in entries[:4]:
        for outputs in core.apply(entry_id, raw(fields)):
            parts = list(split_outputs(outputs.encode()))
            for part in parts if len(parts) == 1 else parts[:parts_out]:
                committer.commit(part, entry_id)
    assert (shard.position().feed, shard.position().step) == (entries[1][0], parts_out)
    assert len(shard.klines()) == min(parts_out, 3) * KLINES_MAX
    child = shard.start()
    shard.reached(entries[-1][0])
    assert child.end() == 0
    published = shard.klines()
    expected = undisturbed(entries)
    assert len(published) == len(expected) == 4 * KLINES_MAX
    assert {kline.key: replace(kline, epoch=1) for kline in published} == expected
    numbers = [int(each.fields[b"seq"]) for each in shard.streams.range(KEYS.klines)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert shard.position().step == 0


def test_the_process_trims_and_says_what_it_found(shard: Shard) -> None:
    """Findings of trimming go out with the next tick; the feed goes behind the checkpoint."""
    entries = log_of(8, 30)
    shard.streams.ensure_group(KEYS.events, "curious")
    shard.put(entries)
    child = shard.start("--checkpoint-s", SHORT)
    shard.reached(entries[-1][0])
    eventually(lambda: shard.alive() and shard.streams.length(KEYS.feed) < len(entries) - 100)
    last_ms = T0 + 10**8
    shard.client.xadd(KEYS.feed, stamp(tick_entry(last_ms), "test", 0), id=f"{last_ms}-1")  # type: ignore[arg-type]
    shard.reached(f"{last_ms}-1")
    found = [texts_of(each.fields) for each in shard.streams.range(KEYS.findings)]
    unknown = [each for each in found if each["kind"] == "UNKNOWN_GROUP"]
    assert len(unknown) == 1
    assert unknown[0]["writer"].startswith("aggregator-0@")
    assert [int(each["seq"]) for each in found] == list(range(1, len(found) + 1)), "numbered with the commits"
    assert "repair" in shard.streams.groups(KEYS.requests)
    assert child.end() == 0


class Killed(Exception):
    """The end of a process that has no say in it."""


def context_of(shard: Shard, checkpoint_s: float) -> Context:
    return Context("aggregator-0", shard.settings, argparse.Namespace(checkpoint_s=checkpoint_s), None)


def live_for(shard: Shard, commits: int, last_id: str, checkpoint_s: float) -> int:
    """A process of its own state that is killed behind so many commits, if it does not reach `last_id` before; how many
    parts of the tick that it was at are out."""
    service = Service(context_of(shard, checkpoint_s), 0)
    service.start()
    commit = service._committer.commit
    left = itertools.count(commits - 1, -1)

    def commit_and_die(*arguments: Any) -> None:
        commit(*arguments)
        if not next(left):
            raise Killed

    with contextlib.suppress(Killed), patch.object(service._committer, "commit", commit_and_die):
        while service._read_id != last_id:
            service.turn()
    service.close()
    return shard.position().step


@pytest.mark.parametrize("checkpoint_s", [0.0, 1e5])
@pytest.mark.parametrize("commits", [1, 2, 3])
@pytest.mark.parametrize("silent", ["the clock", "everybody"])
def test_killed_within_a_long_jump_it_says_every_step_once(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, silent: str, commits: int, checkpoint_s: float
) -> None:
    """No tick for forty minutes: the next one speaks in steps of five minutes, each a commit. One process after the
    other lives for a few commits."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    entries = [
        (entry_id, fields)
        for entry_id, fields in log_of(13, 50)
        if not 300_000 < int(entry_id.partition("-")[0]) - T0 < 2_700_000
        or (silent == "the clock" and fields["kind"] != TICK)
    ]
    jump = next(at for at, (entry_id, _) in enumerate(entries) if entry_id >= f"{T0 + 2_700_000}-3")
    shard.put(entries[:jump])
    live_for(shard, 10**6, entries[jump - 1][0], checkpoint_s)
    assert bool(shard.streams.hash_of(KEYS.checkpoint)) == (checkpoint_s == 0)
    shard.put(entries[jump:], jump)
    steps = []
    while after(entries[jump][0], shard.position().feed):
        steps.append(live_for(shard, commits, entries[-1][0], checkpoint_s))
    assert steps == [*range(commits, 8, commits), 0], "killed within the jump, wherever a process ended"
    live_for(shard, 10**6, entries[-1][0], checkpoint_s)
    core = new_core(*INTERVALS)
    expected = [each.encode() for entry_id, fields in entries for each in core.apply(entry_id, raw(fields))]
    for name in ("klines", "events", "requests", "findings"):
        found = [texts_of(each.fields) for each in shard.streams.range(getattr(KEYS, name))]
        assert [int(each["seq"]) for each in found] == list(range(1, len(found) + 1))
        said = [fields for outputs in expected for fields in getattr(outputs, name)]
        assert [bare(each) for each in found] == [bare(each) for each in said], name


def test_counters_are_those_of_the_process_and_begin_at_0(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus takes a counter that falls for one that began anew: one that came back with most of what a checkpoint
    knew would have grown by all of that."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    entries = log_of(9, 20)
    half = len(entries) // 2
    traded, findings = [], 0
    for part, first_seq in ((entries[:half], 1), (entries[half:], half + 6)):
        context = context_of(shard, checkpoint_s=0.0)
        stats, service = context.stats, Service(context, 0)
        service.start()
        assert {stats.counters[each] for each in (*COUNTED, "lost_entries", "repeated_entries", "findings")} == {0}
        assert stats.labelled_counters["findings", (("kind", FindingKind.DATA_LOSS),)] == 0
        shard.put(part, first_seq)
        while service._read_id != part[-1][0]:
            service.turn()
        service.close()
        traded.append(stats.counters["trades"])
        findings += stats.counters["findings"]
    assert bool(shard.streams.hash_of(KEYS.checkpoint))
    assert 0 < traded[1] < 2 * traded[0]
    assert stats.counters["lost_entries"] == 5
    assert stats.labelled_counters["findings", (("kind", FindingKind.DATA_LOSS),)] == 1
    assert findings == shard.streams.length(KEYS.findings)


def bare(fields: Fields) -> Fields:
    """An entry without what tells one process from another."""
    return {name: value for name, value in fields.items() if name not in ("v", "writer", "seq", "epoch")}

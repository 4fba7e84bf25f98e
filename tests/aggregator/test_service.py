"""The process itself on a real Redis: killed, restarted, doubled, misled; what is out in the end is what one
undisturbed run of the core says."""

from __future__ import annotations

import itertools
import random
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import redis

from aggregator.commit import STREAMS, Position, after
from klagg import contract
from klagg.contract import Fields, Keys
from klagg.embedded import RedisServer
from klagg.kline import Kline
from klagg.redisio import Streams
from klagg.settings import Aggregator, Database, Redis, Settings, to_toml
from tests.aggregator.kit import T0, klines, newest, raw
from tests.aggregator.kit import new_core as core_of
from tests.aggregator.test_core import market
from tests.endtoend.kit import Child, spawn
from tests.kit import eventually

pytestmark = pytest.mark.servers

KEYS = Keys(0)
INTERVALS = ("1m", "5m", "1h")
LONG = "1000"
SHORT = "0.05"


def log_of(seed: int, minutes: int, every_ms: int = 2000) -> list[tuple[str, Fields]]:
    """A feed with its ids: duplicates, losses, some repaired late, marks, a listing, and ticks as barriers."""
    rng, rows, entries = random.Random(seed), market(seed, 5, minutes * 60, minutes * 60_000), []
    late: list[contract.TradeRow] = []
    listing = contract.listing_entries([contract.Listing("S0USDT", T0, 2, 1, "TRADING", 10**13)])
    entries += [(f"{T0}-{at}", each) for at, each in enumerate(listing)]
    at = 0
    for time_ms in range(T0, T0 + minutes * 60_000 + 20_000, every_ms):
        part = []
        while at < len(rows) and rows[at].time <= time_ms:
            part.append(rows[at])
            at += 1
        lost = [row for row in part if rng.random() < 0.05]
        part = [row for row in part if row not in lost] + rng.sample(part, len(part) // 3)
        late += [row for row in lost if rng.random() < 0.7]
        if late and rng.random() < 0.1:
            part, late = part + late, []
        if part:
            entry = contract.trades_entry_of_rows(part, line="A", ids="agg", recv_ms=time_ms)
            entries.append((f"{time_ms}-1", entry))
        if rng.random() < 0.3:
            entries.append((f"{time_ms}-2", contract.mark_entry("A", ("S0USDT", "S1USDT"), time_ms)))
        entries.append((f"{time_ms}-3", contract.tick_entry(time_ms)))
    return entries


def undisturbed(entries: list[tuple[str, Fields]]) -> dict[tuple[str, str, int], Kline]:
    core = core_of(*INTERVALS)
    return newest(klines([each.encode() for entry_id, fields in entries for each in core.apply(entry_id, raw(fields))]))


@dataclass
class Shard:
    """Redis, a configuration, and the processes that a test started over it."""

    folder: Path
    url: str
    client: redis.Redis
    streams: Streams
    children: list[Child] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)

    def start(self, *arguments: str) -> Child:
        config = self.folder / "klagg.toml"
        config.write_text(to_toml(self.settings), encoding="utf-8")
        command = [sys.executable, "-m", "aggregator.service", "--config", str(config), *arguments]
        child = spawn(f"aggregator-{len(self.children)}", command, self.folder)
        self.children.append(child)
        return child

    def put(self, entries: list[tuple[str, Fields]]) -> None:
        pipe = self.client.pipeline(transaction=False)
        for number, (entry_id, fields) in enumerate(entries):
            pipe.xadd(KEYS.feed, contract.stamp(fields, "test", number), id=entry_id)  # type: ignore[arg-type]
        pipe.execute()

    def position(self) -> Position:
        return Position.from_hash(self.streams.hash_of(KEYS.commit))

    def reached(self, entry_id: str) -> None:
        """Wait until this entry's outputs are committed."""
        eventually(lambda: self.alive() and not after(entry_id, self.position().feed), 30)

    def alive(self) -> bool:
        child = self.children[-1]
        if child.process.poll() is not None:
            raise RuntimeError(f"the aggregator ended with {child.process.returncode}:\n{child.text()[-3000:]}")
        return True

    def klines(self) -> list[Kline]:
        return [Kline.from_fields(contract.texts_of(each.fields)) for each in self.streams.range(KEYS.klines)]


@pytest.fixture
def shard(tmp_path: Path, redis_url: str) -> Iterator[Shard]:
    chosen = Settings(
        redis=Redis(url=redis_url, block_ms=20), database=Database(enabled=False),
        aggregator=Aggregator(intervals=INTERVALS),
    )  # fmt: skip
    made = Shard(tmp_path, redis_url, redis.Redis.from_url(redis_url), Streams(redis_url), settings=chosen)
    yield made
    for child in made.children:
        if child.process.poll() is None:
            child.process.kill()
            child.process.wait(10)
    made.streams.close()
    made.client.close()


def check_end(shard: Shard, entries: list[tuple[str, Fields]]) -> None:
    """Highest versions as of an undisturbed run; every number of every stream once; every tick once."""
    expected, found = undisturbed(entries), newest(shard.klines())
    assert found.keys() == expected.keys()
    for key, kline in expected.items():
        assert replace(found[key], epoch=1) == kline, key
    position = shard.position()
    for name in STREAMS:
        numbers = [int(each.fields[b"seq"]) for each in shard.streams.range(getattr(KEYS, name))]
        assert numbers == list(range(position.numbers[name] - len(numbers) + 1, position.numbers[name] + 1)), name
        assert len(numbers) == position.numbers[name] or name == "live", "only `live` was long enough to be trimmed"
    spoken = [each.fields for each in shard.streams.range(KEYS.events)]
    ticks = [int(each[b"time"]) for each in spoken if each[b"kind"] == contract.EVENT_TICK.encode()]
    assert ticks == [int(fields["time"]) for _, fields in entries if fields["kind"] == contract.TICK]
    assert position.seq == len(ticks) + position.epoch


@pytest.mark.parametrize("checkpoint_s", [SHORT, LONG])
def test_killed_anywhere_it_ends_where_an_undisturbed_run_ends(shard: Shard, checkpoint_s: str) -> None:
    rng = random.Random(7)
    entries = log_of(7, 30)
    cuts = [0, *sorted(rng.sample(range(len(entries)), 4)), len(entries)]
    for start, end in itertools.pairwise(cuts):
        shard.put(entries[start:end])
        child = shard.start("--checkpoint-s", checkpoint_s)
        ticks = [entry_id for entry_id, fields in entries[start:end] if fields["kind"] == contract.TICK]
        if end < len(entries):
            shard.reached(rng.choice(ticks[: len(ticks) // 2 + 1]))
            assert child.end(signal.SIGKILL) == -signal.SIGKILL
    shard.reached(entries[-1][0])
    assert shard.children[-1].end() == 0
    check_end(shard, entries)
    assert shard.position().epoch == len(cuts) - 1
    assert bool(shard.streams.hash_of(KEYS.checkpoint)) == (checkpoint_s == SHORT)
    if checkpoint_s == SHORT:
        oldest = int(shard.streams.range(KEYS.feed, count=1)[0].id.partition("-")[0])
        reached = int(shard.streams.hash_of(KEYS.checkpoint)[b"feed"].decode().partition("-")[0])
        assert T0 < oldest <= reached, "the feed was trimmed, but not beyond the checkpoint"
        assert reached - 610_000 <= oldest


def test_what_is_missing_is_asked_for_once_across_a_restart(shard: Shard) -> None:
    entries, core = log_of(7, 30), core_of(*INTERVALS)
    half = len(entries) // 2
    shard.put(entries[:half])
    shard.start("--checkpoint-s", SHORT)
    shard.reached(next(entry_id for entry_id, each in entries[half // 2 :] if each["kind"] == contract.TICK))
    shard.children[-1].end(signal.SIGKILL)
    shard.put(entries[half:])
    child = shard.start("--checkpoint-s", SHORT)
    shard.reached(entries[-1][0])
    assert child.end() == 0
    expected = [
        contract.request_of(raw(each))
        for entry_id, fields in entries
        for outputs in core.apply(entry_id, raw(fields))
        for each in outputs.requests
    ]
    found = [contract.request_of(each.fields) for each in shard.streams.range(KEYS.requests)]
    assert found == expected
    assert {each.kind for each in found} == {contract.REQUEST_TRADES, contract.REQUEST_KLINES}


def test_only_the_blocks_of_the_newest_checkpoint_stay(shard: Shard) -> None:
    entries = log_of(3, 10)
    shard.streams.set_bytes(f"{KEYS.checkpoint}:0.1:0", b"left by a crash")
    shard.client.hset(KEYS.checkpoint, mapping={"writing": f"{KEYS.checkpoint}:0.1", "writing_blocks": "1"})
    shard.put(entries[:-20])
    child = shard.start("--checkpoint-s", "0")
    shard.reached(entries[-21][0] if entries[-21][1]["kind"] == contract.TICK else entries[-22][0])
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
    shard.streams.trim_before(KEYS.feed, pointer.decode())
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
    second = shard.start()
    eventually(lambda: shard.position().epoch == 2)
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
    bad = {**contract.tick_entry(T0), "kind": "trades", "n": "٣"}
    nonsense = {**next(each for _, each in entries if each["kind"] == contract.TRADES), "price": "1 2"}
    shard.put([*entries[:40], (f"{T0 + 10**6}-0", bad), (f"{T0 + 10**6}-1", nonsense)])
    later = [(f"{T0 + 10**6 + at}-9", fields) for at, (_, fields) in enumerate(entries[40:])]
    shard.put(later)
    child = shard.start()
    shard.reached(later[-1][0])
    dead = [contract.texts_of(each.fields) for each in shard.streams.range(KEYS.dead)]
    assert [each["id"] for each in dead] == [f"{T0 + 10**6}-0", f"{T0 + 10**6}-1"]
    assert all(each["reason"] and each["stream"] == contract.FEED for each in dead)
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
    eventually(lambda: shard.alive() and shard.client.exists(contract.heartbeat_key("aggregator-0")))
    assert child.end() == 0
    assert not shard.client.exists(contract.heartbeat_key("aggregator-0"))

"""A Redis that comes back older than a process left it: told as what it is, and healed by the restart."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from klagg.drivers.redis_streams import Streams
from klagg.embedded import RedisServer
from klagg.kline import Kline
from klagg.settings import Redis
from klagg.wire.entries import TICK, TRADES, tick_entry
from klagg.wire.fields import Fields, stamp, texts_of
from klagg.wire.findings import FindingKind
from tests.aggregator.kit import newest, values
from tests.aggregator.shardkit import KEYS, LONG, SHORT, Shard, log_of, undisturbed
from tests.kit import eventually, trim_before

pytestmark = pytest.mark.servers

Log = list[tuple[str, Fields]]


def findings(shard: Shard, kind: str) -> list[Fields]:
    found = [texts_of(each.fields) for each in shard.streams.range(KEYS.findings)]
    return [each for each in found if each["kind"] == kind]


def kept(client: redis.Redis) -> dict[bytes, Any]:
    """Every key, as Redis would restore it."""
    keys: list[Any] = client.keys("*")
    return {key: client.dump(key) for key in keys if not key.startswith(b"heartbeat")}


def bring_back(client: redis.Redis, keys: dict[bytes, Any]) -> None:
    """At one blow, Redis is what it was."""
    pipe = client.pipeline(transaction=True)
    pipe.flushall()
    for key, value in keys.items():
        pipe.restore(key, 0, value)
    pipe.execute()


def check_table(published: list[Kline], entries: Log) -> None:
    """The newest versions, over all that any process ever published, are those of an undisturbed run."""
    expected, found = undisturbed(entries), newest(published)
    assert found.keys() == expected.keys()
    for key, kline in expected.items():
        assert replace(found[key], epoch=1, revision=1) == replace(kline, revision=1), key


@pytest.mark.parametrize("checkpoint_s", [SHORT, LONG])
def test_brought_back_under_a_running_process_it_ends_and_the_next_one_heals(shard: Shard, checkpoint_s: str) -> None:
    entries = log_of(21, 20)
    third, half = len(entries) // 3, len(entries) // 2
    shard.put(entries[:third])
    shard.start("--checkpoint-s", checkpoint_s)
    shard.reached(ticks(entries[:third])[-1])
    older = kept(shard.client)
    shard.put(entries[third:half])
    shard.reached(ticks(entries[third:half])[-1])
    believed = shard.position()
    lost_timeline = shard.klines()
    bring_back(shard.client, older)
    assert len(lost_timeline) > len(shard.klines()), "more was published than Redis now knows of"
    again: dict[Any, Any] = stamp(entries[half][1], "test", 0)
    shard.client.xadd(KEYS.feed, again, id=entries[half][0])
    shard.put([each for each in entries[half + 1 :] if each[1]["kind"] == TICK][:1])
    assert shard.children[-1].process.wait(20) == 1
    (critical,) = [line for line in shard.children[-1].text().splitlines() if "CRITICAL" in line]
    assert "came back older" in critical
    (finding,) = findings(shard, "REDIS_OLDER")
    assert f"feed {believed.feed}" in finding["evidence"]
    assert f"commit {believed.seq}" in finding["evidence"]

    bring_back(shard.client, older)
    child = shard.start("--checkpoint-s", checkpoint_s)
    shard.put(entries[third:])
    shard.reached(entries[-1][0])
    assert child.end() == 0
    check_table([*lost_timeline, *shard.klines()], entries)


def test_entries_lost_with_the_tail_are_named_and_their_trades_heal_when_they_come_again(shard: Shard) -> None:
    """The writers of the feed go on with their numbers: what is missing between them is lost."""
    entries = log_of(26, 20)
    third, half = len(entries) // 3, len(entries) // 2
    shard.put(entries[:third])
    shard.start("--checkpoint-s", SHORT)
    shard.reached(ticks(entries[:third])[-1])
    older = kept(shard.client)
    shard.put(entries[third:half], third)
    shard.reached(ticks(entries[third:half])[-1])
    published = shard.klines()
    shard.children[-1].end(signal.SIGKILL)
    bring_back(shard.client, older)
    child = shard.start("--checkpoint-s", SHORT)
    shard.put(entries[half:], half)
    shard.reached(entries[-1][0])
    (loss,) = findings(shard, FindingKind.DATA_LOSS)
    assert f"seq {third} to {half - 1} of test, after {entries[third - 1][0]} " in loss["evidence"]
    assert f"before {entries[half][0]} " in loss["evidence"]
    missing = [fields for _, fields in entries[third:half] if fields["kind"] == TRADES]
    last_ms = int(entries[-1][1]["time"])
    again = [(f"{last_ms + 1}-{at}", fields) for at, fields in enumerate([*missing, tick_entry(last_ms)])]
    shard.put(again, len(entries))
    shard.reached(again[-1][0])
    assert child.end() == 0
    check_table([*published, *shard.klines()], entries)
    assert len(findings(shard, FindingKind.DATA_LOSS)) == 1


def ticks(entries: Log) -> list[str]:
    return [entry_id for entry_id, fields in entries if fields["kind"] == TICK]


def test_flushed_under_a_running_process_it_ends_and_begins_anew(shard: Shard) -> None:
    entries = log_of(22, 10)
    half = len(entries) // 2
    shard.put(entries[:half])
    shard.start("--checkpoint-s", SHORT)
    shard.reached(ticks(entries[:half])[-1])
    published = shard.klines()
    shard.client.flushall()
    shard.put([each for each in entries[half:] if each[1]["kind"] == TICK][:1])
    assert shard.children[-1].process.wait(20) == 1
    assert "is at nothing" in shard.children[-1].text()
    assert len(findings(shard, "REDIS_OLDER")) == 1
    shard.client.delete(KEYS.feed)
    shard.put(entries)
    child = shard.start()
    shard.reached(entries[-1][0])
    assert child.end() == 0
    check_table([*published, *shard.klines()], entries)


def test_a_feed_that_ends_before_the_commit_is_read_on_from_its_end(shard: Shard) -> None:
    """Only the feed is older: what comes next has ids below the committed one, and must not be passed over."""
    entries = log_of(23, 10)
    third, half = len(entries) // 3, len(entries) // 2
    shard.put(entries[:third])
    feed = shard.client.dump(KEYS.feed)
    shard.put(entries[third:half])
    shard.start("--checkpoint-s", SHORT)
    shard.reached(ticks(entries[:half])[-1])
    eventually(lambda: shard.alive() and b"header" in shard.streams.hash_of(KEYS.checkpoint))
    shard.children[-1].end(signal.SIGKILL)
    committed = shard.position().feed
    shard.client.restore(KEYS.feed, 0, feed, replace=True)  # type: ignore[arg-type]
    child = shard.start("--checkpoint-s", SHORT)
    eventually(lambda: shard.alive() and "read on from" in child.text())
    shard.put(entries[third:])
    shard.reached(entries[-1][0])
    assert child.end() == 0
    (finding,) = findings(shard, "REDIS_OLDER")
    assert finding["evidence"].endswith(f"ends at {entries[third - 1][0]}, before what was committed, {committed}")
    check_table(shard.klines(), entries)


def test_a_damaged_checkpoint_whose_feed_was_trimmed_says_what_is_lost_and_goes_on(shard: Shard) -> None:
    entries = log_of(24, 20)
    half, cut = len(entries) // 2, len(entries) // 4
    shard.put(entries[:half])
    shard.start("--checkpoint-s", SHORT)
    shard.reached(ticks(entries[:half])[-1])
    shard.children[-1].end(signal.SIGKILL)
    pointer = shard.streams.hash_of(KEYS.checkpoint)
    shard.streams.set_bytes(pointer[b"prefix"].decode() + ":0", b"noise")
    trim_before(shard.streams, KEYS.feed, entries[cut][0])
    child = shard.start("--checkpoint-s", LONG)
    shard.put(entries[half:])
    shard.reached(entries[-1][0])
    assert child.end() == 0
    assert "the checkpoint is damaged" in child.text()
    (finding,) = findings(shard, FindingKind.DATA_LOSS)
    assert finding["severity"] == "error"
    assert f"seq 1 to {cut - 1} of test, its first one and before {entries[cut][0]}" in finding["evidence"]
    found, expected = newest(shard.klines()), undisturbed(entries)
    assert found.keys() == expected.keys()
    for key, kline in found.items():
        if kline.complete:
            assert values(kline) == values(expected[key]), key


@pytest.fixture
def own_redis(redis_server: RedisServer, tmp_path: Path) -> Iterator[OwnRedis]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = OwnRedis(redis_server.program, tmp_path, port)
    server.start()
    yield server
    server.kill()


class OwnRedis:
    """A Redis whose append-only file can be cut while it is down; it comes back at the same place."""

    def __init__(self, program: str, folder: Path, port: int) -> None:
        self._command = [
            program,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--appendonly",
            "yes",
            "--save",
            "",
        ]
        self._folder = folder
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis.from_url(self.url)

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.ConnectionError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)

    @property
    def log(self) -> Path:
        (found,) = (self._folder / "appendonlydir").glob("*.incr.aof")
        return found


def test_a_tail_cut_off_the_append_only_file_is_noticed_and_healed(shard: Shard, own_redis: OwnRedis) -> None:
    """A power cut: Redis comes back without its last second, its clients were there all the time."""
    shard.client, shard.streams = own_redis.client, Streams(own_redis.url)
    shard.settings = replace(shard.settings, redis=Redis(url=own_redis.url, block_ms=20))
    entries = log_of(25, 20)
    third, half = len(entries) // 3, len(entries) // 2
    child = shard.start("--checkpoint-s", SHORT)
    shard.put(entries[:third])
    shard.reached(ticks(entries[:third])[-1])
    size = own_redis.log.stat().st_size
    shard.put(entries[third:half])
    shard.reached(ticks(entries[third:half])[-1])
    published = shard.klines()
    own_redis.kill()
    with own_redis.log.open("r+b") as log:
        log.truncate(size + 100)  # in the middle of a command, too
    own_redis.start()
    assert child.process.wait(20) == 1
    assert "came back older" in child.text()
    (finding,) = findings(shard, "REDIS_OLDER")
    assert finding["severity"] == "error"
    assert len(shard.klines()) < len(published)
    reached = shard.streams.last_id(KEYS.feed)
    child = shard.start("--checkpoint-s", SHORT)
    at = next(number for number, (entry_id, _) in enumerate(entries) if entry_id == reached) + 1
    shard.put(entries[at:])
    shard.reached(entries[-1][0])
    assert child.end() == 0
    check_table([*published, *shard.klines()], entries)
    shard.streams.close()


def test_a_lost_connection_alone_is_no_older_redis(shard: Shard) -> None:
    entries = log_of(27, 4)
    shard.put(entries)
    child = shard.start()
    shard.reached(ticks(entries)[-1])
    shard.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # type: ignore[no-untyped-call]
    assert child.process.wait(20) == 1
    assert "Redis does not answer" in child.text()
    assert "older" not in child.text()
    assert "Traceback" not in child.text()
    assert findings(shard, "REDIS_OLDER") == []
    child = shard.start()
    eventually(lambda: shard.alive() and "read on from" in child.text())
    assert child.end() == 0
    check_table(shard.klines(), entries)


def test_without_redis_it_ends_after_looking_for_a_while(shard: Shard, own_redis: OwnRedis) -> None:
    shard.client, shard.streams = own_redis.client, Streams(own_redis.url)
    shard.settings = replace(shard.settings, redis=Redis(url=own_redis.url, block_ms=20))
    entries = log_of(28, 2)
    shard.put(entries)
    child = shard.start()
    shard.reached(ticks(entries)[-1])
    own_redis.kill()
    assert child.process.wait(20) == 1
    (critical,) = [line for line in child.text().splitlines() if "CRITICAL" in line]
    assert "Redis does not answer" in critical
    shard.streams.close()

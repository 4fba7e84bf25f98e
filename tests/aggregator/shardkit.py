"""One shard with real processes over a real Redis: a feed to give them, and what must be out in the end."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import redis

from aggregator.commit import STREAMS, Position, after
from klagg.drivers.redis_streams import Streams
from klagg.kline import Kline
from klagg.settings import Settings, to_toml
from klagg.wire.entries import (
    EVENT_TICK,
    TICK,
    Listing,
    TradeRow,
    listing_entries,
    tick_entry,
    trades_entry_of_rows,
    watermark_entry,
)
from klagg.wire.fields import Fields, stamp, texts_of
from klagg.wire.keys import Keys
from tests.aggregator.kit import T0, klines, newest, raw
from tests.aggregator.kit import new_core as core_of
from tests.aggregator.test_core import market
from tests.endtoend.kit import Child, spawn
from tests.kit import eventually

KEYS = Keys(0)
INTERVALS = ("1m", "5m", "1h")
LONG = "100000"
SHORT = "0.05"


def log_of(seed: int, minutes: int, every_ms: int = 2000) -> list[tuple[str, Fields]]:
    """A feed with its ids: duplicates, losses, some repaired late, watermarks, a listing, and ticks as barriers."""
    rng, rows, entries = random.Random(seed), market(seed, 5, minutes * 60, minutes * 60_000), []
    late: list[TradeRow] = []
    listing = listing_entries([Listing("S0USDT", T0, 2, 1, "TRADING", 10**13)])
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
            entry = trades_entry_of_rows(part, line="A", ids="agg", recv_ms=time_ms)
            entries.append((f"{time_ms}-1", entry))
        if rng.random() < 0.3:
            entries.append((f"{time_ms}-2", watermark_entry("A", ("S0USDT", "S1USDT"), time_ms)))
        entries.append((f"{time_ms}-3", tick_entry(time_ms)))
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

    def put(self, entries: list[tuple[str, Fields]], first_seq: int = 0) -> None:
        pipe = self.client.pipeline(transaction=False)
        for number, (entry_id, fields) in enumerate(entries, first_seq):
            pipe.xadd(KEYS.feed, stamp(fields, "test", number), id=entry_id)  # type: ignore[arg-type]
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
        return [Kline.from_fields(texts_of(each.fields)) for each in self.streams.range(KEYS.klines)]


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
    ticks = [int(each[b"time"]) for each in spoken if each[b"kind"] == EVENT_TICK.encode()]
    assert ticks == [int(fields["time"]) for _, fields in entries if fields["kind"] == TICK]
    assert position.seq == len(ticks) + len(shard.children), "one for each take-over and each commit"

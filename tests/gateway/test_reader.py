"""A shard's reader on a real Redis: the load, gaps, entries that are none, the position, the floor of finals."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.health import Health
from gateway.live import Change, LiveState
from gateway.market import Shard
from gateway.reader import ShardReader, floor_ms
from klagg.clock import steady_ms
from klagg.drivers.redis_streams import AsyncStreams, Streams
from klagg.process.stats import Stats
from klagg.wire.fields import stamp
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.gateway.kit import FINAL, MINUTE_MS, NOW_MS, Teller, value
from tests.kit import trim_before

pytestmark = pytest.mark.servers

BTC, ETH = ("BTCUSDT", "1m"), ("ETHUSDT", "1m")
KEYS = Keys(0)


@dataclass
class Reading:
    """A reader, what it published, and its shard."""

    reader: ShardReader
    shard: Shard
    stats: Stats
    changes: list[Change] = field(default_factory=list)

    async def turn(self) -> list[Change]:
        """What one turn published."""
        self.changes.clear()
        await self.reader.turn(steady_ms())
        return list(self.changes)


@pytest.fixture
async def reading(redis_url: str) -> AsyncIterator[Reading]:
    pulling, blocking, stats = AsyncStreams(redis_url, timeout_ms=500), Streams(redis_url), Stats()
    shard = Shard(LiveState(), Health(200, 500, steady_ms()))
    changes: list[Change] = []
    log = logging.getLogger("gateway")
    reader = ShardReader(shard, KEYS, pulling, blocking, changes.extend, 300_000, stats, log)
    yield Reading(reader, shard, stats, changes)
    await pulling.close()
    blocking.close()


def of(changes: list[Change]) -> list[tuple[str, int, int, bool]]:
    return [
        (each.symbol, (each.bar.open_time - NOW_MS) // MINUTE_MS, each.bar.trades, each.bar.closed) for each in changes
    ]


async def test_an_empty_redis_is_an_empty_market_until_something_is_told(reading: Reading, teller: Teller) -> None:
    assert await reading.turn() == []
    teller.tell({BTC: {"trades": 1}})
    assert of(await reading.turn()) == [("BTCUSDT", 0, 1, False)]


async def test_a_load_has_bars_recent_finals_and_then_what_follows(reading: Reading, teller: Teller) -> None:
    teller.tell({BTC: {"trades": 5, **FINAL}})
    teller.tell({BTC: {"open_time": NOW_MS + MINUTE_MS, "trades": 1}, ETH: {"trades": 2}})
    await reading.turn()
    assert [each.closed for each in reading.shard.state.bars(*BTC)] == [True, False]
    assert reading.shard.state.newest(*ETH) is not None
    teller.tell({ETH: {"trades": 3}})
    assert of(await reading.turn()) == [("ETHUSDT", 0, 3, False)]
    assert reading.shard.position == teller.position
    assert reading.stats.counters["loads"] == 1


async def test_a_gap_is_seen_by_its_number_and_the_finals_in_it_are_told(reading: Reading, teller: Teller) -> None:
    teller.tell({BTC: {"trades": 1}})
    await reading.turn()
    missed = teller.tell({BTC: {"trades": 4, **FINAL}})
    teller.tell({BTC: {"open_time": NOW_MS + MINUTE_MS, "trades": 1}})
    trim_before(teller.streams, KEYS.live, teller.position)
    assert missed != teller.position
    await reading.turn()
    assert of(await reading.turn()) == [("BTCUSDT", 0, 4, True), ("BTCUSDT", 1, 1, False)]
    assert (reading.stats.counters["sequence_gaps"], reading.stats.counters["loads"]) == (1, 2)
    teller.tell({BTC: {"open_time": NOW_MS + MINUTE_MS, "trades": 2}})
    assert of(await reading.turn()) == [("BTCUSDT", 1, 2, False)]


@pytest.mark.parametrize(
    "fields",
    [
        stamp({"BTCUSDT:1m": value()}, "x", 2),
        stamp({"time": "1", "BTCUSDT:1m": "1,2"}, "x", 2),
        stamp({"time": "1", "what": "ever"}, "x", 2),
        {"v": "9", "seq": "2", "time": "1"},
        {"v": "2", "time": "1"},
    ],
)
async def test_an_entry_that_is_none_is_left_out(reading: Reading, teller: Teller, fields: dict[str, str]) -> None:
    teller.tell({BTC: {"trades": 1}})
    await reading.turn()
    teller.streams.append(KEYS.live, fields)
    assert await reading.turn() == []
    assert reading.stats.counters.get("rejected", 0) + reading.stats.counters.get("entries", 0) >= 1
    teller.seq += 1
    teller.tell({BTC: {"trades": 2}})
    await reading.turn()
    await reading.turn()
    newest: Any = reading.shard.state.newest(*BTC)
    assert newest.trades == 2


async def test_the_position_is_published_with_an_end(reading: Reading, teller: Teller) -> None:
    teller.tell({BTC: {}})
    await reading.turn()
    published = teller.streams.values_like(KEYS.reader("*"))
    assert published == {KEYS.reader("gateway"): reading.shard.position}


async def test_finals_that_the_writer_has_not_stored_are_loaded_however_old(reading: Reading, teller: Teller) -> None:
    teller.streams.ensure_group(KEYS.klines, GROUP_WRITERS)
    teller.tell({BTC: {**FINAL}})
    reading.reader._kept_ms = -(10**9)
    await reading.turn()
    assert reading.shard.state.bars(*BTC), "it waits for the writer"


def test_the_floor_of_finals() -> None:
    assert floor_ms(10_000, 3000, None) == 7000
    assert floor_ms(10_000, 3000, 9000) == 7000
    assert floor_ms(10_000, 3000, 5000) == 4000

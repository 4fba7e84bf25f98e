"""What must hold when a world has become calm."""

from __future__ import annotations

import numpy as np

from aggregator.ledger import NO_TIME
from klagg import contract
from klagg.intervals import MINUTE_MS, interval
from klagg.kline import Kline
from tests.aggregator.kit import values
from tests.aggregator.oracle import fold
from tests.simulation.world import INTERVALS, KEYS, World


def check(world: World) -> None:
    """The table against the oracle; versions that rise; numbers without a gap; nothing dead."""
    expected = fold(world.rows, INTERVALS)
    ends = {name: max(row.time for row in world.rows if row.symbol == name) for name in world.certain}
    table = world.writer.table
    for key, wanted in expected.items():
        if interval(key[1]).close_time(key[2]) < ends[key[0]] and not _unknown(world, key):
            if _beyond_healing(world, key) and not table[key].complete:
                continue
            assert key in table, f"{key} is missing"
            known = 13 if table[key].source == "own" else 9  # the exchange's own klines say no ids
            assert values(table[key])[:known] == wanted[:known], f"{key}: {table[key]} instead of {wanted}"
            assert table[key].complete == 1, f"{key} is not complete: {table[key]}"
    for key in table:
        assert key in expected or _unknown(world, key), f"{key} should not be there"
    _check_streams(world)


def _unknown(world: World, key: tuple[str, str, int]) -> bool:
    """Whether a bar opened before anything could be known of its symbol: at the first trade that the shard ever saw, or
    before it. Where ids begin at 1 there is no such bar."""
    core = world.aggregators[0]._core
    start_ms = int(core.ledger.start_time[core.symbols.index[key[0].encode()]])
    assert not world.born or start_ms == NO_TIME
    return key[2] <= start_ms


def _beyond_healing(world: World, key: tuple[str, str, int]) -> bool:
    """Whether a bar is shorter than a minute and lies in one that the exchange gave, or that was not seen from its
    beginning: the exchange's minutes say nothing of its parts."""
    symbol, name, opening = key
    core = world.aggregators[0]._core
    slot, times = core.symbols.index[symbol.encode()], np.array([opening])
    joined = opening < core.official.live_from[slot]
    given = slot in core.ledger.coverage.ranges and core.ledger.coverage.overlaps(slot, times, times + 1)[0]
    return interval(name).shortest_ms < MINUTE_MS and bool(joined or given)


def _check_streams(world: World) -> None:
    state = world.redis.state
    versions: dict[tuple[str, str, int], tuple[int, int, int]] = {}
    numbers = []
    for _, fields in state.streams[KEYS.klines].entries:
        kline = Kline.from_fields(contract.texts_of(fields))
        assert kline.version > versions.get(kline.key, (0, 0, 0)), f"{kline.key} goes back"
        versions[kline.key] = kline.version
        numbers.append(int(fields[b"seq"]))
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    ticks = [
        int(fields[b"time"])
        for _, fields in state.streams[KEYS.events].entries
        if fields[b"kind"] == contract.EVENT_TICK.encode()
    ]
    assert ticks == sorted(set(ticks)), "a tick was said twice"
    dead = state.streams.get(KEYS.dead)
    assert dead is None or not dead.entries, dead.entries[0]

"""What a checkpoint leaves when Redis comes back older at the worst moment, found by the simulation."""

from __future__ import annotations

import pytest

from aggregator.checkpoint import block_keys
from aggregator.service import Service
from klagg.errors import RedisOlder
from klagg.wire.entries import tick_entry, watermark_entry
from tests.simulation.actors import KEYS, Sender
from tests.simulation.virtualredis import VirtualRedis
from tests.simulation.world import Context, World


def lacking(server: VirtualRedis) -> list[str]:
    """The blocks that the pointer of the checkpoint names and that are not there."""
    pointer = server.state.hashes[KEYS.checkpoint]
    return [
        key
        for key in block_keys(pointer[b"prefix"].decode(), int(pointer[b"blocks"]))
        if key not in server.state.values
    ]


def test_the_blocks_of_a_pointer_outlive_a_failover_right_behind_its_flip() -> None:
    """The connection stays, so the process learns of it at its next commit alone; until then it may delete nothing."""
    world, server = World(0), VirtualRedis()
    world.redis = server
    clock, headers, before = Sender(world, "clock"), set[bytes](), server.state
    context = Context(world, 1)
    context.arguments.checkpoint_s = 0.0
    service = Service(context, 0)  # type: ignore[arg-type]
    service.start()
    clock.send([watermark_entry("A", ["BTCUSDT"], world.shape.begun_ms)])
    for number in range(100):
        before = server.state.copy()
        server.now_ms += 250
        clock.send([tick_entry(world.shape.begun_ms + 250 * number)])
        service.turn()
        headers.add(server.state.hashes.get(KEYS.checkpoint, {}).get(b"header", b""))
        if len(headers) == 3:
            break
    assert len(headers) == 3, "none, one, another"
    assert not lacking(server)
    server.fail_over(before, skew_ms=0)
    assert not lacking(server)
    server.now_ms += 250
    clock.send([tick_entry(world.shape.begun_ms + 60_000)])
    with pytest.raises(RedisOlder):
        service.turn()
    assert not lacking(server)

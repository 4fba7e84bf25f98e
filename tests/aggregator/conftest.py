"""A shard on the session's Redis, for the tests that run the process itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from klagg.drivers.redis_streams import Streams
from klagg.settings import Aggregator, Database, Redis, Settings
from tests.aggregator.shardkit import INTERVALS, Shard


@pytest.fixture
def shard(tmp_path: Path, redis_url: str) -> Iterator[Shard]:
    chosen = Settings(
        redis=Redis(url=redis_url, block_ms=20),
        database=Database(enabled=False),
        aggregator=Aggregator(intervals=INTERVALS),
    )
    made = Shard(tmp_path, redis_url, redis.Redis.from_url(redis_url), Streams(redis_url), settings=chosen)
    yield made
    for child in made.children:
        if child.process.poll() is None:
            child.process.kill()
            child.process.wait(10)
    made.streams.close()
    made.client.close()

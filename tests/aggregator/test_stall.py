"""No other client of Redis waits long for a commit, not even for that of the largest tick."""

from __future__ import annotations

import pytest

from aggregator.commit import KLINES_MAX
from klagg.drivers.redis_streams import Streams
from klagg.embedded import RedisServer
from klagg.kline import Kline
from klagg.wire.keys import Keys
from tests.aggregator.stall import measure, pinging, rollover

pytestmark = pytest.mark.servers

CLOSING = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "1w")
"""The default intervals of which a bar closes at that midnight: it is within a three-day bar and within a month."""
KLINES = 750 * len(CLOSING)
PARTS = 22
"""Commits of it: 20 of klines, two of what a tick publishes besides."""
SHARE_MAX = 1 / 3
"""The longest wait beside a commit in parts, of that beside the same outputs in one commit. `klagg bench aggregator
--live` measures it in milliseconds."""


def test_a_rollover_of_750_symbols_keeps_nobody_waiting(redis_server: RedisServer, redis_url: str) -> None:
    """The best of a few pairs, because this machine may do something else meanwhile."""
    outputs = rollover()
    at_once: list[float] = []
    in_parts: list[float] = []
    for _ in range(20):
        for klines_max, commits, waits in ((10**9, 1, at_once), (KLINES_MAX, PARTS, in_parts)):
            redis_server.command("FLUSHALL")
            stall = measure(redis_url, outputs, klines_max)
            assert (stall.klines, stall.commits) == (KLINES, commits)
            assert stall.pings.count > 0
            waits.append(stall.pings.worst_ms)
        if min(in_parts) <= SHARE_MAX * min(at_once):
            break
    assert min(in_parts) <= SHARE_MAX * min(at_once), (in_parts, at_once)
    streams = Streams(redis_url)
    assert streams.length(Keys(0).klines) == KLINES
    streams.close()


def test_the_ping_sees_a_redis_that_is_busy(redis_server: RedisServer, redis_url: str) -> None:
    """Otherwise it would prove nothing."""
    with pinging(redis_url) as pings:
        redis_server.command("CLIENT", "PAUSE", "200", "ALL")
        redis_server.command("PING")  # waits likewise
    assert 150 < pings.worst_ms < 2000


def test_a_rollover_closes_a_bar_of_nearly_every_interval_for_every_symbol() -> None:
    outputs = rollover(3)
    bars = {(fields["symbol"], fields["interval"]) for fields in outputs.klines}
    assert len(bars) == len(outputs.klines) == 3 * len(CLOSING)
    assert {fields["interval"] for fields in outputs.klines} == set(CLOSING)
    assert {Kline.from_fields(fields).revision for fields in outputs.klines} == {1}

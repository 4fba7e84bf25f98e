"""A cold start's requests for 750 symbols, within the weight that the exchange allows an address."""

from __future__ import annotations

import argparse
import asyncio
import time

import pytest

from ingest.repair_service import repair
from klagg.binance.weight_account import ROLE_REPAIR, share_of
from klagg.drivers.redis_streams import Append, Streams
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS
from klagg.process.service import AsyncContext
from klagg.settings import from_tree
from klagg.simulator import Simulator, SyntheticMarket
from klagg.wire.entries import REQUEST_KLINES, Request, request_entry
from klagg.wire.fields import stamp
from klagg.wire.keys import GROUP_REPAIR, WEIGHTS_KEY, Keys
from tests.kit import eventually_async as eventually
from tests.simulator.kit import START_MS, running

SYMBOLS = 750
KEYS = Keys(0)


@pytest.mark.endtoend
@pytest.mark.servers
@pytest.mark.timeout(400)
async def test_750_symbols_are_ready_within_three_minutes_and_the_limit(redis_url: str) -> None:
    """The simulator counts weight per real minute as Binance does, and says 429 to whoever takes more."""
    now_ms = START_MS + 30 * MINUTE_MS
    hour_ms, day_ms = now_ms // HOUR_MS * HOUR_MS, now_ms // DAY_MS * DAY_MS
    # Listed two hours ago: the market computes every bar from its trades, and a day of them takes as long as the wait.
    market = SyntheticMarket(SYMBOLS, 750, seed=5, listed_ms=hour_ms - 2 * HOUR_MS)
    ranges = (("1m", hour_ms, now_ms), ("1h", day_ms, hour_ms), ("1d", day_ms - 5 * DAY_MS, day_ms))
    requests = [
        Request(REQUEST_KLINES, f"{each.symbol}{interval}", each.symbol, interval, first, last, now_ms + HOUR_MS)
        for each in market.listings(now_ms)
        for interval, first, last in ranges
    ]
    streams = Streams(redis_url)
    streams.write(
        [Append(KEYS.requests, stamp(request_entry(each), "test@1", at)) for at, each in enumerate(requests, 1)]
    )
    async with running(Simulator(market, start_ms=now_ms)) as exchange:
        tree = {"redis": {"url": redis_url}, "exchange": {"rest_url": exchange.rest_url}}
        context = AsyncContext("repair", from_tree(tree), argparse.Namespace(), None)
        counters, started_s = context.stats.counters, time.monotonic()
        task = asyncio.create_task(repair(context))
        most = 0

        def all_served() -> bool:
            nonlocal most
            account = streams.hash_of(WEIGHTS_KEY)
            most = max([most, *(int(used) for name, used in account.items() if name.endswith(b":repair"))])
            return counters.get("served", 0) == len(requests)

        await eventually(all_served, 180)
        took_s = time.monotonic() - started_s
        context.stopping.set()
        await asyncio.wait_for(task, 20)
    print(f"{SYMBOLS} symbols took {took_s:.0f} s; at most {most} of weight in a minute")
    assert counters.get("refused", 0) == counters.get("dead", 0) == counters.get("expired", 0) == 0
    assert counters["weight"] == counters["calls"] == len(requests) == 3 * SYMBOLS
    assert most <= share_of(ROLE_REPAIR, context.settings.rest).own
    assert streams.pending_count(KEYS.requests, GROUP_REPAIR) == 0
    answered = {entry.fields[b"request"].decode(): int(entry.fields[b"n"]) for entry in streams.range(KEYS.feed)}
    assert answered == {each.id: {"1m": 30, "1h": 2, "1d": 0}[each.interval] for each in requests}

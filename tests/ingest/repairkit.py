"""What tests of klagg-repair share: its body running, requests, and an exchange whose answers a test makes."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import ujson
from aiohttp import web

from ingest.repair_service import repair
from ingest.timings import Timings
from klagg.drivers.redis_streams import Append, Streams
from klagg.errors import RedisRefused
from klagg.intervals import HOUR_MS, MINUTE_MS
from klagg.process.service import AsyncContext
from klagg.settings import from_tree
from klagg.simulator import Simulator, SyntheticMarket
from klagg.simulator.synthetic import LISTED_MS
from klagg.wire.entries import OFFICIAL_COLUMNS, REQUEST_KLINES, REQUEST_TRADES, Official, Request, request_entry
from klagg.wire.fields import stamp
from klagg.wire.keys import GROUP_REPAIR, Keys
from tests.simulator.kit import START_MS
from tests.webkit import serving

KEYS = Keys(0)
NOW_MS = START_MS + 30 * MINUTE_MS
SHORT = Timings(
    repair_retry_first_s=0.02,
    repair_retry_cap_s=0.1,
    not_yet_s=0.05,
    sweep_s=0.02,
    full_s=0.02,
    sync_s_min=0.02,
    sync_retry_s=0.02,
)
"""What a test of repair need not wait for."""


def a_context(rest_url: str, redis_url: str, **sections: Any) -> AsyncContext:
    tree = {
        **sections,
        "exchange": {"rest_url": rest_url, **sections.get("exchange", {})},
        "redis": {"url": redis_url, "timeout_ms": 500, "block_ms": 50},
    }
    return AsyncContext("repair", from_tree(tree), argparse.Namespace(), None)


@asynccontextmanager
async def repairing(context: AsyncContext, timings: Timings = SHORT) -> AsyncIterator[AsyncContext]:
    """The process's body, running; at the end it is asked to stop, and must have ended well."""
    task = asyncio.create_task(repair(context, timings))
    try:
        yield context
        assert not task.done(), task.exception()
    finally:
        context.stopping.set()
        await asyncio.wait_for(task, 20)


def local(**options: Any) -> Simulator:
    return Simulator(SyntheticMarket(8, 400, seed=5), **{"start_ms": NOW_MS} | options)


def trades_request(
    number: int, first: int, last: int, symbol: str = "BTCUSDT", deadline_ms: int = NOW_MS + HOUR_MS
) -> Request:
    return Request(REQUEST_TRADES, f"t{number}", symbol, "", first, last, deadline_ms)


def klines_request(number: int, interval: str, first: int, last: int, symbol: str = "BTCUSDT") -> Request:
    return Request(REQUEST_KLINES, f"k{number}", symbol, interval, first, last, NOW_MS + HOUR_MS)


def ask(streams: Streams, *requests: Request, shard: int = 0) -> None:
    """Write requests as an aggregator does."""
    key = Keys(shard).requests
    entries = [stamp(request_entry(each), "test@1", number) for number, each in enumerate(requests, 1)]
    streams.write([Append(key, fields) for fields in entries])


def count(context: AsyncContext, name: str) -> int:
    return context.stats.counters.get(name, 0)


def settled(streams: Streams, requests: int, shard: int = 0) -> Callable[[], bool]:
    """Whether so many requests were delivered, and none of them is pending."""
    key = Keys(shard).requests

    def check() -> bool:
        try:
            lag, pending = streams.group_lag(key, GROUP_REPAIR), streams.pending_count(key, GROUP_REPAIR)
        except RedisRefused:  # the group is not there yet
            return False
        return streams.length(key) == requests and not lag and not pending

    return check


def rows_of(official: Official) -> list[tuple[bytes, ...]]:
    """The rows of an `official` entry, in the order of OFFICIAL_COLUMNS."""
    columns = [official.columns[name].split(b",") for name in OFFICIAL_COLUMNS] if official.count else []
    return list(zip(*columns, strict=True))


async def record(exchange: Simulator, symbol: str, wanted: range) -> list[dict[str, Any]]:
    """The exchange's own record of these aggregate trades."""
    async with aiohttp.ClientSession(exchange.rest_url) as client:
        query = {"symbol": symbol, "from": str(LISTED_MS), "to": str(LISTED_MS + 5 * MINUTE_MS)}
        async with client.get("/klagg/trades", params=query) as response:
            rows = [ujson.loads(line) for line in (await response.text()).splitlines()]
    return [row for row in rows if row["id"] in wanted]


class Stub:
    """REST of an exchange whose answers to trades and klines a test makes; `asked` are the local times of them."""

    def __init__(self, answer: Callable[[web.Request, int], web.Response]) -> None:
        self._answer = answer
        self.asked: list[float] = []
        self.rest_url = ""

    async def _time(self, _: web.Request) -> web.Response:
        return web.json_response({"serverTime": NOW_MS})

    async def _data(self, request: web.Request) -> web.Response:
        self.asked.append(time.monotonic())
        return self._answer(request, len(self.asked))

    @asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Stub]:
        application = web.Application()
        application.router.add_get("/fapi/v1/time", self._time)
        application.router.add_get("/fapi/v1/{name}", self._data)
        async with serving(application, port) as taken:
            self.rest_url = f"http://127.0.0.1:{taken}"
            yield self


def good_trades(request: web.Request) -> web.Response:
    first, limit = int(request.query["fromId"]), int(request.query["limit"])
    row = {"p": "1.0", "q": "1", "f": 1, "l": 1, "T": NOW_MS, "m": True}
    return web.json_response([{**row, "a": each} for each in range(first, first + limit)])

"""A whole line process in a test: its context, its body, and a market that trades over a SmallExchange."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from ingest.service import ingest
from ingest.timings import Timings
from klagg.drivers.redis_streams import Streams
from klagg.process.service import AsyncContext
from klagg.settings import from_tree
from klagg.simulator import Simulator
from tests.ingest.kit import SmallExchange, agg_trade, column_of, day_ticker, feed_of, frame_of

SHORT = Timings(reconnect_first_s=0.01, start_first_s=0.01)
"""What a test of a line need not wait for."""


TIMINGS = replace(SHORT, overlap_s=0.05, tend_s=0.02, guard_s=0.05, apart_ms=200, request_least_s=0.1)
"""For tests of what a line notices and heals."""


def a_context(source: SmallExchange | Simulator, redis_url: str, **sections: Any) -> AsyncContext:
    """The context of line A of `source`, with further sections of settings."""
    tree = {
        **sections,
        "exchange": {
            "websocket_url": source.websocket_url,
            "rest_url": source.rest_url,
            **sections.get("exchange", {}),
        },
        "redis": {"url": redis_url, "timeout_ms": 500, "block_ms": 100},
        "service": {"shutdown_s": 5},
    }
    return AsyncContext("ingest-A", from_tree(tree), argparse.Namespace(line="A"), None)


def hasty(**exchange: Any) -> dict[str, Any]:
    """Settings with which dead symbols are noticed soon, and further ones of the exchange."""
    return {"ingest": {"dead_symbol_ms": 1000, "watermark_ms": 100, "silent_s": 5}, "exchange": exchange}


def marked(streams: Streams) -> set[str]:
    """The symbols of the newest watermark."""
    watermarks = feed_of(streams, "watermark")
    return set(column_of(watermarks[-1:], "symbols"))


@asynccontextmanager
async def a_line(context: AsyncContext, timings: Timings = SHORT) -> AsyncIterator[asyncio.Task[None]]:
    """The process's body, running; at the end it is asked to stop, and must have ended well."""
    task = asyncio.create_task(ingest(context, timings))
    try:
        yield task
    finally:
        context.stopping.set()
        await asyncio.wait_for(task, 20)


class Market:
    """Every 50 ms a trade of each of the `trading` symbols, and a ticker of each.

    A trade goes to every connection that is there, but where `withheld(connection, symbol)`; `tickers` may be off.
    """

    def __init__(self, exchange: SmallExchange, trading: list[str]) -> None:
        self._exchange = exchange
        self.trading = trading
        self.withheld: Callable[[ServerConnection, str], bool] = lambda _, __: False
        self.tickers = True
        self.price = "85266.00"
        self.trades = 0

    async def _run(self) -> None:
        exchange = self._exchange
        while True:
            await asyncio.sleep(0.05)
            self.trades += 1
            for symbol in self.trading:
                event = agg_trade(self.trades, s=symbol, T=exchange.now_ms() - 5, p=self.price)
                for each in exchange.connections:
                    if each.state is State.OPEN and not self.withheld(each, symbol):
                        with suppress(ConnectionClosed):
                            await each.send(frame_of(event), text=True)
            if self.tickers:
                rows = [day_ticker(symbol, exchange.now_ms(), self.trades) for symbol in self.trading]
                await exchange.publish("!ticker@arr", [*rows, day_ticker("BTCUSD_PERP", 1, 1) | {"st": 2}])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Market]:
        task = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled(), "the market must not fail"

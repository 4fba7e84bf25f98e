"""What the tests of the simulator share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from klagg.simulator import Simulator
from klagg.simulator.market import MarketTrade

START_MS = 1_767_268_800_000
"""2026-01-01 12:00 UTC, half a day after a synthetic market's listing."""


def trade(
    trade_id: int,
    price: str = "1.00",
    qty: str = "1.0",
    time_ms: int = START_MS,
    *,
    fills: int = 1,
    maker: bool = False,
    execution: str = "",
    symbol: str = "AUSDT",
) -> MarketTrade:
    """A trade whose fill ids end at `trade_id`."""
    first = trade_id - fills + 1
    return MarketTrade(symbol, trade_id, price, qty, qty, first, trade_id, time_ms, time_ms + 5, maker, execution)


@asynccontextmanager
async def running(exchange: Simulator) -> AsyncIterator[Simulator]:
    """A started exchange that must not have failed by the end."""
    await exchange.start()
    try:
        yield exchange
    finally:
        await exchange.stop()
        await exchange.failed()


@asynccontextmanager
async def connected(exchange: Simulator, path: str) -> AsyncIterator[ClientConnection]:
    """A client connection to a path of the exchange."""
    async with websockets.connect(
        exchange.websocket_url + path, compression=None, max_size=None, max_queue=None
    ) as client:
        yield client


async def receive(client: ClientConnection, within_s: float = 30.0) -> Any:
    """The next message as JSON."""
    return json.loads(await asyncio.wait_for(client.recv(), within_s))


async def ask(client: ClientConnection, method: str, params: Any = None, request_id: Any = 1) -> Any:
    """Sends a control message and returns its answer, passing over events."""
    request = {"method": method, "id": request_id} | ({} if params is None else {"params": params})
    await client.send(json.dumps(request))
    while True:
        message = await receive(client)
        if isinstance(message, dict) and ("result" in message or "error" in message):
            return message

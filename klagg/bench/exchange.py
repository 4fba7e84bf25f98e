"""A tiny exchange for `klagg bench ingest`, a process of its own: it sends prepared frames as fast as they are read.

REST knows `time` and `exchangeInfo`, and for the bench `ready` (how many trade streams are subscribed to) and `go`
(send now). Run as `python -m klagg.bench.exchange SYMBOLS FRAMES`; it prints its WebSocket and REST URLs and ends
with stdin.
"""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from typing import Any, Final

import ujson
from aiohttp import web
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

FRAMES_IN_BLOB: Final = 256
TRADES_PER_MS: Final = 100
MARK: Final = "@aggTrade"


def names(symbols: int) -> list[str]:
    """The symbols of this exchange."""
    return [f"S{number:04}USDT" for number in range(symbols)]


def messages(symbols: int, frames: int, now_ms: int) -> list[bytes]:
    """aggTrade messages of a combined endpoint, ids contiguous by symbol, the last of them at `now_ms`."""
    made = []
    known, start_ms = names(symbols), now_ms - frames // TRADES_PER_MS
    for number in range(frames):
        name, trade_id = known[number % symbols], 3_000_000_000 + number // symbols
        time_ms = start_ms + number // TRADES_PER_MS
        made.append(
            f'{{"stream":"{name.lower()}@aggTrade","data":{{"e":"aggTrade","E":{time_ms + 5},"a":{trade_id},'
            f'"s":"{name}","p":"{850 + number % 97}.{number % 100:02}","q":"0.{number % 999 + 1:03}","nq":"0.100",'
            f'"f":{2 * trade_id},"l":{2 * trade_id + 1},"T":{time_ms},"m":{"true" if number % 2 else "false"},'
            f'"st":1}}}}'.encode()
        )
    return made


def blobs(symbols: int, frames: int, now_ms: int) -> list[bytes]:
    """The same messages as WebSocket frames, some hundred in each piece."""
    encoded = [Frame(Opcode.TEXT, each).serialize(mask=False) for each in messages(symbols, frames, now_ms)]
    return [b"".join(encoded[at : at + FRAMES_IN_BLOB]) for at in range(0, frames, FRAMES_IN_BLOB)]


class FrameServer:
    """Sends all frames, once for each `go`, to the one connection that subscribes to trades."""

    def __init__(self, symbols: int, frames: int) -> None:
        self._symbols, self._blobs = symbols, blobs(symbols, frames, int(time.time() * 1000))
        self._streams: dict[ServerConnection, int] = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def accept(self, connection: ServerConnection) -> None:
        """Serve one client: acknowledge its messages, count its subscriptions to streams of trades."""
        assert connection.request is not None
        self._streams[connection] = connection.request.path.count(MARK)
        with suppress(ConnectionClosed):
            async for message in connection:
                said = ujson.loads(message)
                if said.get("method") == "SUBSCRIBE":
                    self._streams[connection] += sum(MARK in each for each in said["params"])
                await connection.send(ujson.dumps({"result": None, "id": said.get("id")}))
        del self._streams[connection]

    async def ready(self, _: web.Request) -> web.Response:
        """How many streams of trades are subscribed."""
        return web.json_response({"streams": sum(self._streams.values())})

    async def go(self, _: web.Request) -> web.Response:
        """Begin to send all frames once."""
        for connection, streams in self._streams.items():
            if streams:
                task = asyncio.create_task(self._send(connection))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
        return web.json_response({})

    async def _send(self, connection: ServerConnection) -> None:
        for blob in self._blobs:
            if connection.transport.is_closing():
                return
            connection.transport.write(blob)
            await connection.drain()
            await asyncio.sleep(0)  # pings and the REST side get their turns

    async def time(self, _: web.Request) -> web.Response:
        """`/fapi/v1/time`: the time of this machine in ms."""
        return web.json_response({"serverTime": int(time.time() * 1000)})

    async def exchange_info(self, _: web.Request) -> web.Response:
        """`/fapi/v1/exchangeInfo` with the fields that klagg reads."""
        row: dict[str, Any] = {
            "status": "TRADING",
            "quoteAsset": "USDT",
            "contractType": "PERPETUAL",
            "pricePrecision": 2,
            "quantityPrecision": 3,
            "onboardDate": 1569398400000,
            "deliveryDate": 4133404800000,
        }
        return web.json_response({"symbols": [row | {"symbol": name} for name in names(self._symbols)]})


async def main(symbols: int, frames: int) -> None:
    """Serve until stdin ends."""
    exchange = FrameServer(symbols, frames)
    application = web.Application()
    for path, handler in (
        ("/fapi/v1/time", exchange.time),
        ("/fapi/v1/exchangeInfo", exchange.exchange_info),
        ("/ready", exchange.ready),
        ("/go", exchange.go),
    ):
        application.router.add_get(path, handler)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with serve(exchange.accept, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"ws://127.0.0.1:{port} http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:3])))

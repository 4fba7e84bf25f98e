"""The WebSocket clients of `klagg bench gateway`, in a process of their own: `PORT CLIENTS STREAMS STUCK SYMBOLS`.

It prints `ready` when all are connected, and at the end of its input one JSON object: how many events came, and how
late. The clients read frames with the least that can be done, so that the gateway is what is measured.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import time
from array import array
from typing import Any, Final, cast

import ujson

CONNECTING_AT_ONCE: Final = 50
STUCK_BUFFER_BYTES: Final = 4096
_EVENT_TIME: Final = b'"E":'
_DIGITS: Final = 13


def handshake(names: list[str]) -> bytes:
    """The request for a combined connection."""
    return (
        f"GET /stream?streams={'/'.join(names)} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


class Reader(asyncio.Protocol):
    """One client: notes how late each event is, in ms."""

    def __init__(self, request: bytes, late_ms: array[float], upgraded: asyncio.Future[None]) -> None:
        self._request, self._late_ms, self._upgraded = request, late_ms, upgraded
        self._data = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(Any, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._upgraded.done():
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            if b" 101 " not in self._data[:end]:
                self._upgraded.set_exception(ConnectionError(self._data[:80].decode(errors="replace")))
                return
            del self._data[: end + 4]
            self._upgraded.set_result(None)
        del self._data[: self._frames(time.time() * 1000)]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._upgraded.done():
            self._upgraded.set_exception(exc or ConnectionError("the gateway closed the connection"))

    def _frames(self, now_ms: float) -> int:
        """Note the events of all whole frames; how many bytes they take."""
        data, at = self._data, 0
        while len(data) - at >= 4:
            size, start = data[at + 1], at + 2
            if size == 126:
                size, start = int.from_bytes(data[at + 2 : at + 4]), at + 4
            elif size == 127:
                size, start = int.from_bytes(data[at + 2 : at + 10]), at + 10
            if len(data) < start + size:
                break
            if data[at] == 0x81:
                place = data.find(_EVENT_TIME, start, start + size) + len(_EVENT_TIME)
                self._late_ms.append(now_ms - int(data[place : place + _DIGITS]))
            at = start + size
        return at


async def run(port: int, clients: int, streams: int, stuck: int, symbols: int) -> dict[str, float]:
    """Connect, say so, read until the input ends; what came."""
    pick, late_ms, loop = random.Random(6), array("d"), asyncio.get_running_loop()
    silent = []
    for _ in range(stuck):
        names = [f"s{number}usdt@kline_1m" for number in range(symbols)]
        peer = socket.socket()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STUCK_BUFFER_BYTES)
        peer.connect(("127.0.0.1", port))
        peer.sendall(handshake(names))
        silent.append(peer)
    for start in range(0, clients, CONNECTING_AT_ONCE):
        upgrades = []
        for _ in range(min(CONNECTING_AT_ONCE, clients - start)):
            request = handshake([f"s{number}usdt@kline_1m" for number in pick.sample(range(symbols), streams)])
            upgraded: asyncio.Future[None] = loop.create_future()
            await loop.create_connection(lambda r=request, u=upgraded: Reader(r, late_ms, u), "127.0.0.1", port)  # type: ignore[misc]
            upgrades.append(upgraded)
        await asyncio.gather(*upgrades)
    await asyncio.sleep(0.5)  # what each bar is at the time of subscription is no update
    del late_ms[:]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for peer in silent:
        peer.close()
    ordered = sorted(late_ms)
    if not ordered:
        return {"events": 0}
    return {
        "events": len(ordered),
        "p50_ms": round(ordered[len(ordered) // 2], 1),
        "p99_ms": round(ordered[len(ordered) * 99 // 100], 1),
        "max_ms": round(ordered[-1], 1),
    }


def main() -> int:
    """The program."""
    port, clients, streams, stuck, symbols = map(int, sys.argv[1:])
    print(ujson.dumps(asyncio.run(run(port, clients, streams, stuck, symbols))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

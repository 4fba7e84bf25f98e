"""WebSocketServer that are sent nonsense, too much, and half of what they need: clear answers, and all goes on."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from typing import Any

import aiohttp
import pytest

from tests.gateway.kit import FINAL, MINUTE_MS, NOW_MS, Client, Teller, running
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

BTC = ("BTCUSDT", "1m")
METHODS = ["SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS", "SET_PROPERTY", "GET_PROPERTY", "DANCE", None, 5]
NAMES: list[Any] = [
    "btcusdt@kline_1m",
    "BTCUSDT@kline_1m",
    "",
    "@",
    "x" * 200,
    "!miniTicker@arr",
    "a\0b",
    "💩@kline_1m",
    None,
    7,
    [],
    {},
]
IDS: list[Any] = [1, 0, -1, 2**70, "text", "", "x" * 100, None, 1.5, True, [], {}]


def command(pick: random.Random) -> str:
    """Something between a good command and noise."""
    kind = pick.randrange(6)
    if kind == 0:
        return "".join(
            chr(pick.choice([0, 34, 91, 123, 44, 58, 0x1F4A9, pick.randrange(32, 0x3000)])) for _ in range(40)
        )
    if kind == 1:
        return "[" * pick.randrange(1, 30_000)
    message: dict[str, Any] = {"method": pick.choice(METHODS), "id": pick.choice(IDS)}
    names = [pick.choice(NAMES) for _ in range(pick.randrange(4))]
    message["params"] = pick.choice([None, "x", {}, names, names, ["combined", True]])
    for name in list(message):
        if pick.random() < 0.1:
            del message[name]
    text = json.dumps(message)
    return text[: pick.randrange(len(text))] if pick.random() < 0.1 else text


async def serves(client: Client, teller: Teller, trades: int) -> None:
    """A fresh client still gets what is told."""
    async with client.socket("/ws/btcusdt@kline_1m") as peer:
        await peer.receive_json(timeout=30)
        teller.tell({BTC: {"trades": trades}})
        while (await peer.receive_json(timeout=30))["k"]["n"] != trades:
            pass


async def test_any_command_has_an_answer(redis_url: str, teller: Teller) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    pick = random.Random(seed)
    teller.tell({BTC: {}})
    async with running(redis_url, messages_per_second=10_000) as client:
        async with client.socket("/ws") as peer:
            for _ in range(400):
                text = command(pick)
                await (peer.send_bytes(text.encode()) if pick.random() < 0.1 else peer.send_str(text))
                answer = await peer.receive_json(timeout=30)
                while "e" in answer or "stream" in answer:
                    answer = await peer.receive_json(timeout=30)
                assert set(answer) in ({"result", "id"}, {"error", "id"}), (text, answer)
        await serves(client, teller, 7)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 200,
        b"\x81\x05hello",
        b"\x89\x00",
        b"\xc1\x85\0\0\0\0hello",
        b"\x83\x80\0\0\0\0",
        b"\x09\x80\0\0\0\0",
        b"\x81\xff" + (2**62).to_bytes(8) + b"\0\0\0\0",
        b"\x80\x81\0\0\0\0x",
        b"\x88\x81\0\0\0\0\x03",
        b"",
    ],
)
async def test_bytes_that_are_no_frames_end_that_connection_alone(redis_url: str, teller: Teller, data: bytes) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url) as client:
        host, port = client.gateway.server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.write(data)
        await writer.drain()
        writer.close()
        await serves(client, teller, 8)
        await eventually(lambda: not client.gateway.hub.clients)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST /api/status HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", b"405"),
        (b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /fapi/v1/klines?symbol=%00&interval=1m HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    ],
)
async def test_bad_requests_are_refused(redis_url: str, teller: Teller, data: bytes, status: bytes) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url) as client:
        host, port = client.gateway.server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(data)
        line = await asyncio.wait_for(reader.readline(), 5)
        assert line.split()[1] == status
        writer.close()
        await serves(client, teller, 9)


async def test_ten_thousand_subscriptions(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, messages_per_second=100) as client:
        hub = client.gateway.hub
        sockets = [await client.socket("/ws") for _ in range(10)]
        for number, peer in enumerate(sockets):
            names = [f"s{number}x{each}usdt@kline_1m" for each in range(1023)] + ["btcusdt@kline_1m"]
            for start in range(0, len(names), 512):
                await peer.send_json({"method": "SUBSCRIBE", "params": names[start : start + 512], "id": start})
        await eventually(lambda: hub.streams == 10 * 1023 + 1)
        teller.tell({BTC: {"trades": 77}, ("S3X500USDT", "1m"): {"trades": 5}})
        for number, peer in enumerate(sockets):
            seen = set()
            while ("BTCUSDT", 77) not in seen or (number == 3 and ("S3X500USDT", 5) not in seen):
                message = await peer.receive_json(timeout=30)
                if "k" in message:
                    seen.add((message["s"], message["k"]["n"]))
        await sockets[0].send_json({"method": "SUBSCRIBE", "params": ["one@more"], "id": 1})
        closing = await sockets[0].receive(timeout=30)
        assert closing.type == aiohttp.WSMsgType.CLOSE
        assert closing.extra == "too many streams"
        for peer in sockets:
            await peer.close()
        await eventually(lambda: (hub.streams, len(hub.clients)) == (0, 0))


async def test_a_client_that_never_reads_is_told_why_and_cut_off_while_others_get_everything(
    redis_url: str, teller: Teller
) -> None:
    series = [(f"S{number}USDT", "1m") for number in range(200)]
    names = "/".join(f"{symbol.lower()}@kline_1m" for symbol, _ in series)
    teller.tell({each: {} for each in series})
    async with running(redis_url, client_buffer_kb=64) as client:
        host, port = client.gateway.server.address.split(":")
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((host, int(port)))
        stuck.sendall(
            f"GET /stream?streams={names} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        async with client.socket(f"/stream?streams={names}") as reading:
            await eventually(lambda: len(client.gateway.hub.clients) == 2)
            told = 0
            while client.gateway.hub.dismissed == 0:
                told += 1
                assert told < 100, "a hundred times two hundred finals must be too much"
                opening = NOW_MS + told * MINUTE_MS
                teller.tell({each: {"open_time": opening, "trades": told, **FINAL} for each in series})
                finals = 0
                while finals < len(series):
                    event = (await reading.receive_json(timeout=30))["data"]["k"]
                    finals += event["x"] and event["t"] == opening
            await eventually(lambda: len(client.gateway.hub.clients) == 1)
        stuck.close()

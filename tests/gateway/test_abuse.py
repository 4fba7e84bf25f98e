"""The real process under clients that mean no good, round after round: it serves on, and its memory stays flat."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from klagg.embedded.traces import free_port
from klagg.settings import from_tree, to_toml
from tests.gateway.kit import Teller
from tests.gateway.test_fuzz import command
from tests.kit import eventually_async as eventually

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

SOCKETS, NAMES_EACH, COMMANDS, DAWDLERS = 20, 500, 200, 50
WARM, ROUNDS = 4, 10
GROWTH_MAX = 1.05
BTC = ("BTCUSDT", "1m")


@pytest.fixture
def gateway(redis_url: str, tmp_path: Path, teller: Teller) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process, and its address."""
    teller.tell({BTC: {}})
    port = free_port()
    tree = {
        "redis": {"url": redis_url},
        "database": {"enabled": False},
        "gateway": {"port": port, "idle_s": 1, "messages_per_second": 10_000},
    }
    config = tmp_path / "klagg.toml"
    config.write_text(to_toml(from_tree(tree)), encoding="utf-8")
    with (tmp_path / "gateway.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.service", "--config", str(config)], stdout=log, stderr=log
        )
    try:
        yield process, f"127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, (tmp_path / "gateway.log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait(20)


def resident_kb(pid: int) -> int:
    """The memory that a process has now."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


async def abuse(session: aiohttp.ClientSession, address: str, pick: random.Random, turn: int) -> None:
    """Ten thousand subscriptions to what is not there, noise, frames that are too long, requests that never end."""
    host, port = address.split(":")
    dawdlers = []
    async with AsyncExitStack() as stack:
        for number in range(SOCKETS):
            peer = await stack.enter_async_context(session.ws_connect(f"http://{address}/ws"))
            names = [f"t{turn}x{number}x{each}usdt@kline_1m" for each in range(NAMES_EACH)]
            await peer.send_json({"method": "SUBSCRIBE", "params": names, "id": 1})
            assert await peer.receive_json(timeout=20) == {"result": None, "id": 1}
            for _ in range(COMMANDS // SOCKETS):
                await peer.send_str(command(pick))
            await (peer.send_bytes(b"\xff" * 100_000) if number % 2 else peer.send_str("[" * 100_000))
        for _ in range(DAWDLERS):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /fapi/v1/ping HTTP/1.1\r\nHost:")
            dawdlers.append((reader, writer))
    for reader, writer in dawdlers:
        assert await asyncio.wait_for(reader.read(), 20) == b"", "who never ends a request is closed without an answer"
        writer.close()


async def test_memory_stays_flat_whatever_clients_do(gateway: tuple[subprocess.Popen[bytes], str]) -> None:
    process, address = gateway
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    pick, sizes = random.Random(seed), []
    async with aiohttp.ClientSession() as session:

        async def pings() -> bool:
            try:
                async with session.get(f"http://{address}/fapi/v1/ping") as response:
                    return bool(response.status == 200)
            except aiohttp.ClientConnectionError:
                return False

        await eventually(pings, 30)
        for turn in range(ROUNDS):
            await abuse(session, address, pick, turn)
            assert await pings()
            sizes.append(resident_kb(process.pid))
    print(f"resident kB by round: {sizes}")
    assert max(sizes[-3:]) <= GROWTH_MAX * max(sizes[:WARM]), sizes

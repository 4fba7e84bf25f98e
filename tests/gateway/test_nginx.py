"""The gateway behind the real nginx with config/nginx.conf: TLS, WebSocket, Origin, weight by client, and parts."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from klagg.embedded.prefix import bring_prefix
from klagg.embedded.traces import free_port
from tests.gateway.kit import Teller, running
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

CONFIG = Path(__file__).parents[2] / "config" / "nginx.conf"
BTC = ("BTCUSDT", "1m")


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost that signs itself, and its key."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not here to make a certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    options = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([program, *options.split(), *names, *files], check=True, capture_output=True)
    return cert, key


@asynccontextmanager
async def nginx(folder: Path, gateway: str, secure: int, plain: int) -> AsyncIterator[ssl.SSLContext]:
    """nginx with the recipe, at two ports instead of 443 and 80; what trusts its certificate."""
    cert, key = certificate(folder)
    changes = {
        "server 127.0.0.1:8470;": f"server {gateway};",
        "listen 443 ssl;": f"listen 127.0.0.1:{secure} ssl;",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "klagg.example": "localhost",
        "/etc/ssl/klagg/fullchain.pem": str(cert),
        "/etc/ssl/klagg/privkey.pem": str(key),
    }
    recipe = CONFIG.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert recipe.count(old) == 1, old
        recipe = recipe.replace(old, new)
    temporary = "".join(
        f"{name}_temp_path {folder / name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user}daemon off;\npid {folder / 'pid'};\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{recipe}}}\n",
        encoding="utf-8",
    )
    program = bring_prefix("nginx") / "bin" / "nginx"
    process = await asyncio.create_subprocess_exec(str(program), "-p", str(folder), "-c", str(config), "-e", "stderr")
    try:
        await eventually(lambda: process.returncode is not None or (folder / "pid").is_file())
        assert process.returncode is None
        yield ssl.create_default_context(cafile=str(cert))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_clients_behind_nginx_are_served_as_in_front_of_it(
    redis_url: str, teller: Teller, tmp_path: Path
) -> None:
    teller.tell({BTC: {}})
    secure, plain = free_port(), free_port()
    async with (
        running(redis_url, weight_per_minute=1000, trusted_proxies=["127.0.0.1"]) as client,
        nginx(tmp_path, client.gateway.server.address, secure, plain) as trust,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as session,
    ):
        for scheme, port in (("https", secure), ("http", plain)):
            url = f"{scheme}://localhost:{port}"
            stream = url.replace("http", "ws", 1) + "/ws/btcusdt@kline_1m"
            async with session.ws_connect(stream, ssl=trust, origin=url) as socket:
                assert (await socket.receive_json(timeout=30))["k"]["s"] == "BTCUSDT"
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await session.ws_connect(stream, ssl=trust, origin="https://elsewhere.example")
            names = "/".join(f"s{number}xxxxxxxusdt@kline_1m" for number in range(1024))
            async with session.ws_connect(f"{url}/stream?streams={names}".replace("http", "ws", 1), ssl=trust):
                pass
            part = {"Range": "bytes=0-8"}
            query = "symbol=BTCUSDT&interval=1m&start=0"
            async with session.get(f"{url}/api/download?{query}", ssl=trust, headers=part) as response:
                assert (response.status, await response.text()) == (206, "open_time")
        used = []
        for forged in ("", "", "203.0.113.9"):  # left of what nginx writes, and so of no weight
            headers = {"X-Forwarded-For": forged} if forged else {}
            async with session.get(f"https://localhost:{secure}/fapi/v1/ping", ssl=trust, headers=headers) as response:
                used.append(int(response.headers["X-MBX-USED-WEIGHT-1M"]))
        own = int((await client.ask("/fapi/v1/ping"))[1]["X-MBX-USED-WEIGHT-1M"])
        assert used == [1, 2, 3]
        assert own == 1, "who comes past nginx has a weight of its own"

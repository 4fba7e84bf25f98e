"""The ways to the exchange: through real small proxies, and never to a server whose certificate is not trusted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from websockets.asyncio.server import serve

from ingest.connection import Connection
from ingest.session import ConnectionOptions
from ingest.timings import Timings
from klagg.binance.endpoints import Endpoint, StreamUrl
from klagg.binance.rest_client import ExchangeRest
from klagg.errors import ConfigError, ExchangeRefused, ExchangeUnavailable
from klagg.process.stats import Stats
from tests.binance.proxies import SmallProxy, self_signed
from tests.ingest.kit import SmallExchange, agg_trade, frame_of, port_of
from tests.kit import eventually_async as eventually
from tests.webkit import serving

SCHEMES = ("http", "socks5", "socks5h")


@asynccontextmanager
async def connecting(url: str, proxy: str = "") -> AsyncIterator[tuple[Connection, list[bytes], Stats]]:
    """A connection to `url`, running, with its frames."""
    frames: list[bytes] = []
    stats = Stats()
    connection = Connection(
        "A1",
        StreamUrl.of(url, Endpoint.COMBINED, "aggTrade"),
        ["btcusdt@aggTrade"],
        frames.append,
        options=ConnectionOptions(proxy=proxy, timings=Timings(reconnect_first_s=0.01)),
        stats=stats,
        log=logging.getLogger("test"),
    )
    task = asyncio.create_task(connection.run())
    try:
        yield connection, frames, stats
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_both_clients_go_through_the_proxy(scheme: str) -> None:
    async with SmallExchange().running() as exchange, SmallProxy(scheme).running() as proxy:
        websocket_url = exchange.websocket_url.replace("127.0.0.1", "localhost")
        rest_url = exchange.rest_url.replace("127.0.0.1", "localhost")
        async with connecting(websocket_url, proxy.url) as (connection, frames, _):
            await eventually(lambda: connection.is_up)
            await exchange.send(frame_of(agg_trade(1)))
            assert await eventually(lambda: frames) == [frame_of(agg_trade(1))]
        async with ExchangeRest(rest_url, proxy=proxy.url) as rest:
            assert (await rest.time()).time_ms > 0
    # Only with socks5 this side resolves names itself.
    host = "127.0.0.1" if scheme == "socks5" else "localhost"
    assert set(proxy.reached) == {f"{host}:{urlsplit(url).port}" for url in (websocket_url, rest_url)}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_proxy_that_refuses_is_named(scheme: str, caplog: pytest.LogCaptureFixture) -> None:
    async with SmallExchange().running() as exchange, SmallProxy(scheme).running() as proxy:
        proxy.refusing = True
        async with connecting(exchange.websocket_url, proxy.url) as (connection, _, stats):
            await eventually(lambda: stats.counters.get("reconnects", 0) >= 2)
            down = [
                text for text in map(logging.LogRecord.getMessage, caplog.records) if "connection A1 is down" in text
            ]
            assert "proxy" in down[0]
            proxy.refusing = False
            await eventually(lambda: connection.is_up)
        proxy.refusing = True
        async with ExchangeRest(exchange.rest_url, proxy=proxy.url) as rest:
            refusal = ExchangeRefused if scheme == "http" else ExchangeUnavailable
            with pytest.raises(refusal, match="HTTP 403" if scheme == "http" else "the proxy does not lead"):
                await rest.time()


async def test_a_proxy_that_is_not_there_is_an_exchange_that_is_not_there() -> None:
    async with ExchangeRest("http://127.0.0.1:1", proxy="socks5://127.0.0.1:1") as rest:
        with pytest.raises(ExchangeUnavailable, match="the proxy does not lead"):
            await rest.time()


async def test_a_proxy_without_an_address_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match=r"exchange\.proxy cannot be used"):
        async with ExchangeRest("http://127.0.0.1:1", proxy="socks5://"):
            pass


async def test_an_untrusted_certificate_is_refused_with_a_sentence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = self_signed(tmp_path)

    async def answer(_: web.Request) -> web.Response:
        raise AssertionError("nothing may be asked of this server")

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    async with serving(application, tls=context) as port, ExchangeRest(f"https://localhost:{port}") as rest:
        with pytest.raises(ExchangeUnavailable, match=r"certificate of the exchange at .* is not trusted"):
            await rest.time()
    async with (
        serve(SmallExchange().accept, "127.0.0.1", 0, ssl=context) as server,
        connecting(f"wss://localhost:{port_of(server)}") as (connection, _, stats),
    ):
        await eventually(lambda: stats.counters.get("reconnects"))
        assert not connection.is_up
    assert "connection A1 is down (the exchange's certificate is not trusted: self-signed certificate)" in caplog.text

"""The HTTP server behind its guard: the token, foreign origins, connections that are slow."""

from __future__ import annotations

import asyncio
import contextlib

import aiohttp
import pytest

from tests.gateway.kit import BTC, Teller, running

pytestmark = pytest.mark.servers


async def test_a_token_is_asked_for_where_one_is_set(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, token="a-long-secret") as client:
        status, _, body = await client.ask("/fapi/v1/ping")
        assert (status, body["code"]) == (401, -2015)
        assert await client.get("/fapi/v1/ping", token="a-long-secret") == {}
        for headers in ({"X-MBX-APIKEY": "a-long-secret"}, {"Authorization": "Bearer a-long-secret"}):
            async with client.session.get(client.url + "/fapi/v1/ping", headers=headers) as response:
                assert response.status == 200
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await client.socket("/ws/btcusdt@kline_1m")
        async with client.socket("/ws/btcusdt@kline_1m?token=a-long-secret") as socket:
            assert (await socket.receive_json(timeout=30))["s"] == "BTCUSDT"


async def test_pages_of_other_origins_are_kept_out_unless_configured(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    foreign = {"Origin": "https://example.org"}
    async with running(redis_url) as client:
        async with client.session.get(client.url + "/fapi/v1/ping", headers=foreign) as response:
            assert "Access-Control-Allow-Origin" not in response.headers
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await client.socket("/ws", headers=foreign)
        own = {"Origin": client.url}
        async with client.socket("/ws", headers=own) as socket:
            assert not socket.closed
    async with running(redis_url, cors_origins=["https://example.org"]) as client:
        async with client.session.get(client.url + "/fapi/v1/ping", headers=foreign) as response:
            assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"
        async with client.session.options(client.url + "/fapi/v1/ping", headers=foreign) as response:
            assert response.status == 204
        async with client.socket("/ws", headers=foreign) as socket:
            assert not socket.closed


async def test_a_connection_that_sends_its_header_slowly_is_closed(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, idle_s=1) as client:
        host, port = client.gateway.server.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /fapi/v1/ping HTTP/1.1\r\nHost: x\r\n")
        async with client.socket("/ws/btcusdt@kline_1m") as socket:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            await socket.receive_json(timeout=30)
            teller.tell({BTC: {"trades": 5}})
            assert (await socket.receive_json(timeout=30))["k"]["n"] == 5, "a socket at work stays"
        writer.close()

"""WebSocket clients of a running gateway: streams, control messages, limits."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.gateway.kit import BTC, ETH, FINAL, Teller, at, running
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers


async def test_streams_tell_every_change_raw_and_combined(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {"trades": 1}})
    async with (
        running(redis_url) as client,
        client.socket("/ws/btcusdt@kline_1m") as raw,
        client.socket("/market/stream?streams=btcusdt@kline_1m/ethusdt@kline_1m") as combined,
    ):
        assert (await raw.receive_json(timeout=30))["k"]["n"] == 1
        assert (await combined.receive_json(timeout=30))["stream"] == "btcusdt@kline_1m"
        teller.tell({BTC: {"trades": 2, **FINAL}, ETH: {"trades": 9}}, time_ms=at(1) + 5)
        final = await raw.receive_json(timeout=30)
        assert (final["e"], final["E"], final["k"]["n"], final["k"]["x"]) == ("kline", at(1) + 5, 2, True)
        found = [await combined.receive_json(timeout=30) for _ in range(2)]
        assert {each["stream"]: each["data"]["k"]["n"] for each in found} == {
            "btcusdt@kline_1m": 2,
            "ethusdt@kline_1m": 9,
        }
        teller.tell({BTC: {"trades": 3, "closed": 1, "revision": 2, "complete": 1}})
        assert (await raw.receive_json(timeout=30))["k"]["revision"] == 2


@pytest.mark.parametrize("path", ["/private/ws", "/private/ws/aListenKey", "/private/stream?streams="])
async def test_the_route_of_account_data_is_open_and_silent(redis_url: str, teller: Teller, path: str) -> None:
    """Both official SDKs open it at every connect, and npm's ends the process if it cannot."""
    teller.tell({BTC: {"trades": 1}})
    async with running(redis_url) as client, client.socket(path) as private, client.socket("/ws") as market:
        for socket in (private, market):
            await socket.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@kline_1m"], "id": 1})
            assert await socket.receive_json(timeout=30) == {"result": None, "id": 1}
        assert (await market.receive_json(timeout=30))["s"] == "BTCUSDT"
        teller.tell({BTC: {"trades": 2}})
        assert (await market.receive_json(timeout=30))["k"]["n"] == 2
        await private.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        assert (await private.receive_json(timeout=30))["id"] == 2, "what came first is the answer"


async def test_control_messages(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url) as client, client.socket("/ws") as socket:

        async def ask(**message: Any) -> Any:
            await socket.send_json(message)
            return await socket.receive_json(timeout=30)

        assert await ask(method="SUBSCRIBE", params=["btcusdt@kline_1m", "nosuch@kline_1m"], id=1) == {
            "result": None,
            "id": 1,
        }
        assert (await socket.receive_json(timeout=30))["s"] == "BTCUSDT"
        assert await ask(method="LIST_SUBSCRIPTIONS", id="a-text") == {
            "result": ["btcusdt@kline_1m", "nosuch@kline_1m"],
            "id": "a-text",
        }
        assert (await ask(method="UNSUBSCRIBE", params=["btcusdt@kline_1m"], id=3))["result"] is None
        assert (await ask(method="SUBSCRIBE", params=["x" * 129], id=4))["error"]["code"] == 2
        teller.tell({BTC: {"trades": 9}})
        assert (await ask(method="LIST_SUBSCRIPTIONS", id=5))["result"] == ["nosuch@kline_1m"]
        await socket.send_bytes(b"\xff\x00")
        assert (await socket.receive_json(timeout=30))["error"]["code"] == 3


async def test_limits_of_a_socket(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, streams_per_connection=2, messages_per_second=3, connections_max=1) as client:
        async with client.socket("/ws") as socket:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await client.socket("/ws")
            await socket.send_json({"method": "SUBSCRIBE", "params": ["a@x", "b@x", "c@x"], "id": 1})
            assert (await socket.receive(timeout=30)).type == aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1008
        await eventually(lambda: not client.gateway.hub.clients)
        async with client.socket("/ws") as socket:
            for _ in range(4):
                await socket.send_str("nonsense")
            kinds = [(await socket.receive(timeout=30)).type for _ in range(4)]
            assert kinds[-1] == aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1008
        await eventually(lambda: not client.gateway.hub.clients)
        async with client.socket("/ws") as socket:
            await socket.send_str("x" * 100_000)
            assert (await socket.receive(timeout=30)).type == aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1009

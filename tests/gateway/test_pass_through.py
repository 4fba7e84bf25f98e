"""Requests for data that klagg does not have, forwarded to a server that answers like the exchange; on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from klagg.binance.limits import depth_weight
from tests.gateway.kit import BTC, Client, Teller, running

pytestmark = pytest.mark.servers


@dataclass
class Exchange:
    """Notes what it is asked; `status` and `headers` are those of every answer."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        headers = {"X-MBX-USED-WEIGHT-1M": "7", "ETag": "abc", **self.headers}
        return web.Response(
            text='{"markPrice":"1.50"}', status=self.status, headers=headers, content_type="application/json"
        )


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    made = Exchange()
    app = web.Application()
    app.add_routes([web.get("/{path:.*}", made.answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = "http://{}:{}".format(*runner.addresses[0])
    yield made
    await runner.cleanup()


@asynccontextmanager
async def forwarding(redis_url: str, rest_url: str, share_percent: int = 10) -> AsyncIterator[Client]:
    """A gateway that forwards, with `share_percent` of a weight of 100."""
    rest = {"weight_per_minute": 100, "share_pass_through_percent": share_percent}
    async with running(redis_url, rest_url=rest_url, rest=rest, pass_through=True) as client:
        yield client


async def test_an_answer_comes_back_as_it_was(redis_url: str, teller: Teller, exchange: Exchange) -> None:
    teller.tell({BTC: {}})
    async with forwarding(redis_url, exchange.url, 80) as client:
        for status in (200, 400):
            exchange.status = status
            url = f"{client.url}/fapi/v1/premiumIndex?symbol=BTCUSDT&x=%20"
            async with client.session.get(url) as answer:
                assert (answer.status, await answer.text()) == (status, '{"markPrice":"1.50"}')
                assert (answer.headers["X-MBX-USED-WEIGHT-1M"], answer.headers["ETag"]) == ("7", "abc")
                assert answer.content_type == "application/json"
        assert exchange.asked == ["/fapi/v1/premiumIndex?symbol=BTCUSDT&x=+"] * 2
        assert client.gateway._context.stats.counters["passed_through"] == 2
        assert len(await client.get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m")) == 1, "that is klagg's own"
        assert len(exchange.asked) == 2


async def test_nothing_is_forwarded_without_being_asked_for(redis_url: str, teller: Teller, exchange: Exchange) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, rest_url=exchange.url) as client:
        status, _, body = await client.ask("/fapi/v1/premiumIndex")
    assert (status, body["code"], exchange.asked) == (404, -5000, [])


async def test_what_the_share_cannot_pay_is_refused_and_not_asked(
    redis_url: str, teller: Teller, exchange: Exchange
) -> None:
    teller.tell({BTC: {}})
    async with forwarding(redis_url, exchange.url) as client:
        statuses = []
        for _ in range(3):
            status, headers, body = await client.ask("/fapi/v1/premiumIndex")
            statuses.append(status)
        assert statuses[-1] == 429, "three times 10, and at most two minutes in which to pay with 10"
        assert 1 <= int(headers["Retry-After"]) <= 62
        assert body["code"] == -1003
        assert len(exchange.asked) == statuses.count(200)
        assert await client.get("/fapi/v1/klines", symbol="BTCUSDT", interval="1m")


async def test_a_pause_that_the_exchange_demands_is_kept(redis_url: str, teller: Teller, exchange: Exchange) -> None:
    teller.tell({BTC: {}})
    exchange.status, exchange.headers = 418, {"Retry-After": "40"}
    async with forwarding(redis_url, exchange.url, 80) as client:
        for status in (418, 429):
            found, headers, _ = await client.ask("/fapi/v1/openInterest", symbol="BTCUSDT")
            assert found == status
            assert 30 <= int(headers["Retry-After"]) <= 40
    assert len(exchange.asked) == 1


async def test_an_exchange_that_is_away(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with forwarding(redis_url, "http://127.0.0.1:9", 80) as client:
        status, _, body = await client.ask("/fapi/v1/depth", symbol="BTCUSDT", limit=5)
    assert (status, body["code"]) == (503, -1001)


@pytest.mark.parametrize(("limit", "weight"), [(5, 2), (50, 2), (100, 5), (500, 10), (1000, 20)])
def test_the_weight_of_an_order_book(limit: int, weight: int) -> None:
    assert depth_weight(limit) == weight

"""The clock process keeps exchangeInfo in a real Redis: as it came, again after a loss, with the time of asking."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from ingest.exchange_info import ExchangeInfoKeeper
from klagg.clock import ExchangeClock, steady_ms
from klagg.drivers.redis_streams import AsyncStreams, HashUpdate, Streams
from klagg.wire.exchange_info import KeptExchangeInfo, kept_exchange_info_of
from klagg.wire.fields import VERSION
from klagg.wire.keys import EXCHANGE_INFO_KEY
from tests.ingest.kit import NOW_MS, SYMBOLS, SmallExchange
from tests.ingest.test_clock_service import SHORT, a_clock, a_context
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


def kept_in(streams: Streams) -> KeptExchangeInfo | None:
    raw = streams.hash_of(EXCHANGE_INFO_KEY)
    return kept_exchange_info_of(raw) if raw else None


class WordyExchange(SmallExchange):
    """Answers exchangeInfo with a text whose spaces and digits a decoder would lose."""

    text, asked = "", 0

    async def exchange_info(self, request: web.Request) -> web.Response:
        decoded = await super().exchange_info(request)
        assert decoded.text is not None
        self.asked += 1
        self.text = decoded.text.replace('"symbols"', '"novel" : 1.50,"symbols"', 1)
        return web.Response(text=self.text, status=decoded.status, content_type="application/json")


async def test_the_answer_is_kept_as_it_came_with_what_klagg_carries(streams: Streams, redis_url: str) -> None:
    async with WordyExchange().running() as exchange:
        exchange.symbols = [*SYMBOLS, "BTCUSDT_260327", "币安人生USDT"]
        chosen: dict[str, Any] = {"exchange": {"symbols": ["BTCUSDT", "币安人生USDT"]}}
        async with a_clock(a_context(exchange, redis_url, **chosen)):
            await eventually(lambda: (found := kept_in(streams)) and found.asked_ms)
            kept = kept_in(streams)
        assert kept is not None
        assert kept.body == exchange.text
        assert '"novel" : 1.50' in kept.body
        assert list(kept.carried) == ["BTCUSDT", "币安人生USDT"]
        assert abs(kept.asked_ms - NOW_MS) < 60_000
        assert streams.hash_of(EXCHANGE_INFO_KEY)[b"v"] == str(VERSION).encode()


async def test_a_list_that_changes_replaces_the_one_before_and_one_that_is_not_believed_does_not(
    streams: Streams, redis_url: str
) -> None:
    hasty = {"listings_s": 1}
    async with WordyExchange().running() as exchange, a_clock(a_context(exchange, redis_url, clock=hasty)):
        await eventually(lambda: kept_in(streams))
        exchange.symbols = [*SYMBOLS, "NEWUSDT"]
        await eventually(lambda: (found := kept_in(streams)) and "NEWUSDT" in found.carried)
        before = kept_in(streams)
        exchange.symbols = ["NEWUSDT"]
        asked = exchange.asked
        await eventually(lambda: exchange.asked >= asked + 3)
        assert before is not None
        assert '"symbol": "BTCUSDT"' in before.body
        assert '"symbol": "BTCUSDT"' not in exchange.text
        assert kept_in(streams) == before


async def test_a_redis_that_lost_it_gets_it_again_without_a_question(streams: Streams, redis_url: str) -> None:
    async with WordyExchange().running() as exchange:
        context = a_context(exchange, redis_url)
        async with a_clock(context, replace(SHORT, restore_s=0.1)):
            await eventually(lambda: (found := kept_in(streams)) and found.asked_ms)
            await eventually(lambda: context.stats.counters.get("listings"))
            asked = context.stats.counters["listings"]
            streams.delete(EXCHANGE_INFO_KEY)
            await eventually(lambda: kept_in(streams))
            assert context.stats.counters["listings"] == asked


async def test_the_time_of_the_question_is_written_once_the_clock_is_known(streams: Streams, redis_url: str) -> None:
    clock, connection = ExchangeClock(), AsyncStreams(redis_url)
    keeper = ExchangeInfoKeeper(connection, "clock@1", clock)
    await keeper.restore()
    assert kept_in(streams) is None
    asked_ms = steady_ms()
    await keeper.keep("{}", ["A"], asked_ms)
    await keeper.restore()
    assert streams.hash_of(EXCHANGE_INFO_KEY)[b"seq"] == b"1"
    found = kept_in(streams)
    assert found is not None
    assert (found.asked_ms, found.speed) == (0, 1.0)
    await keeper.keep("{}", ["A"], asked_ms)
    assert streams.hash_of(EXCHANGE_INFO_KEY)[b"seq"] == b"1"
    clock.observe(asked_ms + 10, asked_ms + 10, NOW_MS + 200, 20.0)
    await keeper.restore()
    found = kept_in(streams)
    assert found is not None
    assert abs(found.asked_ms - NOW_MS) <= 1
    assert found.speed == 20.0
    await keeper.restore()
    assert streams.hash_of(EXCHANGE_INFO_KEY)[b"seq"] == b"1"
    await connection.close()


async def test_the_same_answer_again_writes_its_time_alone(streams: Streams, redis_url: str) -> None:
    clock, connection = ExchangeClock(), AsyncStreams(redis_url)
    keeper = ExchangeInfoKeeper(connection, "clock@1", clock)
    began_ms = steady_ms()
    clock.observe(began_ms, began_ms, NOW_MS)
    answers = [
        ('{"serverTime":1,"a":2}', ["A"]),
        ('{"serverTime": 99,"a":2}', ["A"]),
        ('{"serverTime":1,"a":3}', ["A"]),
        ('{"serverTime":1,"a":3}', ["B"]),
    ]
    seen = []
    for number, (body, carried) in enumerate(answers):
        await keeper.keep(body, carried, began_ms + number * 1000)
        kept = kept_in(streams)
        assert kept is not None
        seen.append((streams.hash_of(EXCHANGE_INFO_KEY)[b"seq"], kept.body, list(kept.carried), kept.asked_ms - NOW_MS))
    assert seen == [
        (b"1", answers[0][0], ["A"], 0),
        (b"1", answers[0][0], ["A"], 1000),
        (b"2", answers[2][0], ["A"], 2000),
        (b"3", answers[2][0], ["B"], 3000),
    ]
    streams.write([HashUpdate(EXCHANGE_INFO_KEY, {"seq": "2", "body": "older"})])
    await keeper.restore()
    kept = kept_in(streams)
    assert kept is not None
    assert (kept.body, kept.asked_ms - NOW_MS) == (answers[3][0], 3000)
    await connection.close()

"""Which symbols a line carries: at the start, as the exchange publishes changes, and where tickers show a doubt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingest.service import ingest
from klagg.drivers.redis_streams import Streams
from klagg.errors import ConfigError, ExchangeRefused
from klagg.process.alarms import AlarmKind
from tests.ingest.kit import (
    SYMBOLS,
    SmallExchange,
    agg_trade,
    alarms_of,
    column_of,
    contract_news,
    feed_of,
    frame_of,
    standing,
)
from tests.ingest.linekit import SHORT, TIMINGS, Market, a_context, a_line, hasty, marked
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

BTC, ETH, CJK = SYMBOLS


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


async def test_subscriptions_follow_what_the_exchange_tells(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, "新USDT"]).running():
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, TIMINGS):
            await eventually(lambda: marked(streams) == set(SYMBOLS))
            # It is carried at once, whatever exchangeInfo says yet; trades before that are none of this line's.
            await exchange.publish("!contractInfo", contract_news("新USDT", "TRADING"))
            await eventually(lambda: "新USDT" in column_of(feed_of(streams, "trades"), "symbol"))
            await eventually(lambda: marked(streams) == {*SYMBOLS, "新USDT"})
            exchange.symbols.append("新USDT")
            exchange.statuses[ETH] = "SETTLING"
            await exchange.publish("!contractInfo", contract_news(ETH, "SETTLING"))
            await eventually(lambda: marked(streams) == {BTC, CJK, "新USDT"})
        said = [(each["method"], each["params"]) for each in exchange.messages]
        assert said == [("SUBSCRIBE", ["新usdt@aggTrade"]), ("UNSUBSCRIBE", ["ethusdt@aggTrade"])]
        assert len(exchange.connections) == 1


async def test_a_symbol_that_ticks_and_is_not_carried_is_asked_about(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, "NEWUSDT", "NEWUSDC"]).running():
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, replace(TIMINGS, overdue_s=0.5)):
            await eventually(lambda: alarms_of(context.stats, "not_carried"))
            exchange.symbols.append("NEWUSDT")
            await eventually(lambda: marked(streams) == {*SYMBOLS, "NEWUSDT"})
            assert alarms_of(context.stats, "not_carried") == 1
            await eventually(lambda: AlarmKind.NOT_CARRIED not in standing(context.stats))
    assert "ALARM: NEWUSDT is traded or was announced, and exchangeInfo does not confirm it" in caplog.text


async def test_a_start_without_an_exchange_gives_up_with_a_sentence(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange:
        exchange.rest_status = 503
        with pytest.raises(ExchangeRefused, match="refused /fapi/v1/exchangeInfo with HTTP 503"):
            await ingest(a_context(exchange, redis_url), replace(SHORT, start_tries=3))
    said = [record.getMessage() for record in caplog.records]
    assert len([sentence for sentence in said if sentence.startswith("no symbols yet, next try in ")]) == 2


async def test_a_start_waits_for_an_exchange_that_comes_late(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        exchange.rest_status = 503
        context = a_context(exchange, redis_url)
        async with a_line(context):
            await eventually(lambda: context.stats.counters.get("sync_failures"))
            exchange.rest_status = 200
            await eventually(lambda: exchange.connections)
            await exchange.send(frame_of(agg_trade(1)))
            await eventually(lambda: context.stats.counters.get("syncs"))


async def test_unknown_symbols_are_an_error(redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        with pytest.raises(ConfigError, match="names 'BTCUSD', which the exchange does not list"):
            await ingest(a_context(exchange, redis_url, exchange={"symbols": ["BTCUSD"]}))

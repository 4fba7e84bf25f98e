"""What a whole line notices, says and heals: dead symbols, silent connections, and a universe that changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from websockets.protocol import State

from klagg.drivers.redis_streams import Streams
from tests.ingest.kit import SYMBOLS, SmallExchange, alarms_of, column_of, contract_news, feed_of
from tests.ingest.linekit import SHORT, Market, a_context, a_line
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

BTC, ETH, CJK = SYMBOLS


TIMINGS = replace(SHORT, overlap_s=0.05, tend_s=0.02, guard_s=0.05, apart_ms=200, request_least_s=0.1)


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


def settings(**exchange: Any) -> dict[str, Any]:
    return {"ingest": {"dead_symbol_ms": 1000, "watermark_ms": 100, "silent_s": 5}, "exchange": exchange}


def marked(streams: Streams) -> set[str]:
    """The symbols of the newest watermark."""
    watermarks = feed_of(streams, "watermark")
    return set(column_of(watermarks[-1:], "symbols"))


async def test_one_dead_symbol_is_unmarked_and_subscribed_to_anew(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, ETH]).running() as market:
        context = a_context(exchange, redis_url, **settings())
        async with a_line(context, TIMINGS):
            await eventually(lambda: marked(streams) == set(SYMBOLS))  # the quiet one as well
            market.withheld = lambda _, symbol: symbol == ETH
            await eventually(
                lambda: any(set(column_of([each], "symbols")) == {BTC, CJK} for each in feed_of(streams, "watermark"))
            )
            await eventually(lambda: exchange.messages and exchange.messages[-1]["method"] == "SUBSCRIBE")
            market.withheld = lambda *_: False
            await eventually(lambda: marked(streams) == set(SYMBOLS))
        assert [message["method"] for message in exchange.messages] == ["UNSUBSCRIBE", "SUBSCRIBE"]
        assert {name for message in exchange.messages for name in message["params"]} == {"ethusdt@aggTrade"}
        assert len(exchange.connections) == 1
        assert alarms_of(context.stats, "dead_symbol") == context.stats.counters["alarms"] == 1
    assert "ALARM: ETHUSDT on connection A1 is silent, trades lag 1." in caplog.text
    assert "trades of ETHUSDT arrive again" in caplog.text


async def test_a_symbol_that_stays_dead_gets_a_new_connection_without_a_gap_for_the_others(
    streams: Streams, redis_url: str
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, ETH]).running() as market:
        context = a_context(exchange, redis_url, **settings())
        async with a_line(context, TIMINGS):
            await eventually(lambda: marked(streams) == set(SYMBOLS))
            old = exchange.connections[0]
            market.withheld = lambda each, symbol: symbol == ETH and each is old
            await eventually(lambda: old.state is State.CLOSED, 20)
            await eventually(lambda: marked(streams) == set(SYMBOLS))
        assert context.stats.counters["hand_overs"] == 1
        assert not context.stats.counters["reconnects"]
    entries = feed_of(streams, "trades")
    ids = zip(column_of(entries, "symbol"), map(int, column_of(entries, "id")), strict=True)
    received = {number for symbol, number in ids if symbol == BTC}
    assert received == set(range(min(received), max(received) + 1))


async def test_a_connection_that_is_acknowledged_and_silent_is_made_anew(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, ETH]).running() as market:
        market.withheld = lambda each, _: each is exchange.connections[0]
        context = a_context(exchange, redis_url, **settings(endpoint="combined"))
        async with a_line(context, TIMINGS):
            await eventually(lambda: len(exchange.connections) == 2 and marked(streams) == set(SYMBOLS))
            assert alarms_of(context.stats, "silent") == context.stats.counters["reconnects"] == 1
            reason = (("connection", "A1"), ("reason", "silent"))
            assert context.stats.labelled_counters["reconnects", reason] == 1
    assert "ALARM: connection A1 is up and silent, trades lag 1." in caplog.text


async def test_a_quiet_connection_is_marked_when_the_tickers_bear_it_out(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC]).running():
        context = a_context(exchange, redis_url, **settings(symbols_per_connection=1))
        async with a_line(context, TIMINGS):
            await eventually(lambda: set(column_of(feed_of(streams, "watermark"), "symbols")) == set(SYMBOLS))
            assert not context.stats.counters["alarms"]


async def test_each_connection_and_each_type_is_counted_apart(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, ETH]).running() as market:
        market.withheld = lambda each, _: each is exchange.connections[1]
        context = a_context(exchange, redis_url, **settings(symbols_per_connection=2))
        counted = context.stats.labelled_counters
        async with a_line(context, TIMINGS):
            await eventually(lambda: counted.get(("connection_trades", (("connection", "A1"),)), 0) >= 10)
            await eventually(lambda: counted.get(("connection_messages", (("connection", "A0"),)), 0) >= 10)
        of = {each: counted["connection_messages", (("connection", each),)] for each in ("A0", "A1", "A2")}
        sizes = {each: counted["connection_bytes", (("connection", each),)] for each in of}
    assert of["A2"] == counted["connection_trades", (("connection", "A2"),)] == 0
    assert counted["connection_trades", (("connection", "A1"),)] <= of["A1"] <= context.stats.counters["trades"]
    assert 150 * of["A1"] < sizes["A1"] < 400 * of["A1"]
    assert sizes["A0"] > 100 * of["A0"]
    assert counted["events", (("type", "aggTrade"),)] == context.stats.counters["trades"]
    assert counted["events", (("type", "24hrMiniTicker"),)] >= 10
    assert {labels for name, labels in context.stats.labelled_gauges if name == "connection_up"} == {
        (("connection", each),) for each in ("A0", "A1", "A2")
    }


async def test_a_silent_control_connection_is_told_by_trades(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC]).running() as market:
        market.tickers = False
        context = a_context(exchange, redis_url, **settings())
        async with a_line(context, TIMINGS):
            await eventually(lambda: alarms_of(context.stats, "silent_control"))
            await eventually(lambda: len(exchange.controls) == 2)
            assert context.stats.counters["alarms"] == 1
            assert marked(streams) == set(SYMBOLS)


async def test_nothing_at_all_is_a_stale_route(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, **settings())
        async with a_line(context, TIMINGS):
            await eventually(lambda: alarms_of(context.stats, "stale_route"), 15)
            await eventually(lambda: len(exchange.connections) == len(exchange.controls) == 2)
            assert feed_of(streams, "watermark") == []


async def test_subscriptions_follow_what_the_exchange_tells(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, "新USDT"]).running():
        context = a_context(exchange, redis_url, **settings())
        async with a_line(context, TIMINGS):
            await eventually(lambda: marked(streams) == set(SYMBOLS))
            # It is carried at once, whatever exchangeInfo says yet; trades before that are none of this line's.
            await exchange.tell("!contractInfo", contract_news("新USDT", "TRADING"))
            await eventually(lambda: "新USDT" in column_of(feed_of(streams, "trades"), "symbol"))
            await eventually(lambda: marked(streams) == {*SYMBOLS, "新USDT"})
            exchange.symbols.append("新USDT")
            exchange.statuses[ETH] = "SETTLING"
            await exchange.tell("!contractInfo", contract_news(ETH, "SETTLING"))
            await eventually(lambda: marked(streams) == {BTC, CJK, "新USDT"})
        said = [(each["method"], each["params"]) for each in exchange.messages]
        assert said == [("SUBSCRIBE", ["新usdt@aggTrade"]), ("UNSUBSCRIBE", ["ethusdt@aggTrade"])]
        assert len(exchange.connections) == 1


async def test_a_symbol_that_ticks_and_is_not_carried_is_asked_about(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, "NEWUSDT", "NEWUSDC"]).running():
        context = a_context(exchange, redis_url, **settings())
        async with a_line(context, replace(TIMINGS, overdue_s=0.5)):
            await eventually(lambda: alarms_of(context.stats, "not_carried"))
            exchange.symbols.append("NEWUSDT")
            await eventually(lambda: marked(streams) == {*SYMBOLS, "NEWUSDT"})
            assert alarms_of(context.stats, "not_carried") == 1
    assert "ALARM: NEWUSDT is traded or was announced, and exchangeInfo does not bear it out" in caplog.text


async def test_finer_trades_than_listed_are_counted_and_taken(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC]).running() as market:
        context = a_context(exchange, redis_url, **settings())
        async with a_line(context, TIMINGS):
            await eventually(lambda: feed_of(streams, "trades"))
            assert "finer_than_listed" not in context.stats.counters
            market.price = "85266.0010"
            await eventually(lambda: context.stats.counters.get("finer_than_listed", 0) > 3)
            await eventually(lambda: context.stats.counters["listings"] == 2)
            assert "85266.0010" in column_of(feed_of(streams, "trades"), "price")
    assert caplog.text.count("BTCUSDT trades at finer steps than exchangeInfo lists (2 and 3 decimals)") == 1

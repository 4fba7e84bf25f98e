"""What a line notices of what does not arrive, and how it heals: dead symbols, silent connections, a stale route."""

from __future__ import annotations

import pytest
from websockets.protocol import State

from klagg.drivers.redis_streams import Streams
from klagg.process.alarms import AlarmKind
from tests.ingest.kit import SYMBOLS, SmallExchange, alarms_of, column_of, feed_of, standing
from tests.ingest.linekit import TIMINGS, Market, a_context, a_line, hasty, marked
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

BTC, ETH, CJK = SYMBOLS


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


async def test_one_dead_symbol_is_unmarked_and_subscribed_to_anew(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, ETH]).running() as market:
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, TIMINGS):
            await eventually(lambda: marked(streams) == set(SYMBOLS))  # the quiet one as well
            market.withheld = lambda _, symbol: symbol == ETH
            await eventually(
                lambda: any(set(column_of([each], "symbols")) == {BTC, CJK} for each in feed_of(streams, "watermark"))
            )
            await eventually(lambda: exchange.messages and exchange.messages[-1]["method"] == "SUBSCRIBE")
            market.withheld = lambda *_: False
            await eventually(lambda: marked(streams) == set(SYMBOLS))
            await eventually(lambda: AlarmKind.DEAD_SYMBOL not in standing(context.stats))
        assert [message["method"] for message in exchange.messages] == ["UNSUBSCRIBE", "SUBSCRIBE"]
        assert {name for message in exchange.messages for name in message["params"]} == {"ethusdt@aggTrade"}
        assert len(exchange.connections) == 1
        assert alarms_of(context.stats, "dead_symbol") == sum(context.stats.alarms.raised.values()) == 1
    assert "ALARM: ETHUSDT on connection A1 is silent, trades lag 1." in caplog.text
    assert "trades of ETHUSDT arrive again" in caplog.text


async def test_a_symbol_that_stays_dead_gets_a_new_connection_without_a_gap_for_the_others(
    streams: Streams, redis_url: str
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, ETH]).running() as market:
        context = a_context(exchange, redis_url, **hasty())
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
        context = a_context(exchange, redis_url, **hasty(endpoint="combined"))
        async with a_line(context, TIMINGS):
            await eventually(lambda: len(exchange.connections) == 2 and marked(streams) == set(SYMBOLS))
            assert alarms_of(context.stats, "silent") == context.stats.counters["reconnects"] == 1
            reason = (("connection", "A1"), ("reason", "silent"))
            assert context.stats.labelled_counters["reconnects", reason] == 1
            await eventually(lambda: AlarmKind.SILENT not in standing(context.stats))
    assert "ALARM: connection A1 is up and silent, trades lag 1." in caplog.text


async def test_a_quiet_connection_is_marked_when_the_tickers_bear_it_out(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC]).running():
        context = a_context(exchange, redis_url, **hasty(symbols_per_connection=1))
        async with a_line(context, TIMINGS):
            await eventually(lambda: set(column_of(feed_of(streams, "watermark"), "symbols")) == set(SYMBOLS))
            assert not sum(context.stats.alarms.raised.values())


async def test_a_silent_control_connection_is_told_by_trades(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC]).running() as market:
        market.tickers = False
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, TIMINGS):
            await eventually(lambda: alarms_of(context.stats, "silent_control"))
            await eventually(lambda: len(exchange.controls) == 2)
            assert sum(context.stats.alarms.raised.values()) == 1
            assert marked(streams) == set(SYMBOLS)
            assert standing(context.stats) == {AlarmKind.SILENT_CONTROL}
            market.tickers = True
            await eventually(lambda: standing(context.stats) == set())


async def test_nothing_at_all_is_a_stale_route(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, TIMINGS):
            await eventually(lambda: alarms_of(context.stats, "stale_route"), 15)
            await eventually(lambda: len(exchange.connections) == len(exchange.controls) == 2)
            assert feed_of(streams, "watermark") == []
            await eventually(lambda: standing(context.stats) == {AlarmKind.STALE_ROUTE, AlarmKind.LINE_SILENT}, 15)
            async with Market(exchange, [BTC]).running():
                await eventually(lambda: standing(context.stats) == set())

"""A whole line: what is counted of each connection, and trades that are finer than listed."""

from __future__ import annotations

import pytest

from ingest.line import by_shard, watermark_interval_s
from klagg.drivers.redis_streams import Streams
from tests.ingest.kit import SYMBOLS, SmallExchange, column_of, day_ticker, feed_of
from tests.ingest.linekit import TIMINGS, Market, a_context, a_line, hasty
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

BTC, ETH, CJK = SYMBOLS


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


async def test_each_connection_and_each_type_is_counted_apart(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC, ETH]).running() as market:
        market.withheld = lambda each, _: each is exchange.connections[1]
        context = a_context(exchange, redis_url, **hasty(symbols_per_connection=2))
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
    assert counted["events", (("type", "24hrTicker"),)] >= 10
    assert {labels for name, labels in context.stats.labelled_gauges if name == "connection_up"} == {
        (("connection", each),) for each in ("A0", "A1", "A2")
    }


async def test_tickers_of_symbols_that_do_not_trade_are_witnesses(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC]).running():
        context = a_context(exchange, redis_url, **hasty())
        sent_ms = []

        async def ticked() -> bool:
            at_ms = exchange.now_ms()
            sent_ms.append(at_ms)
            rows = [day_ticker(BTC, at_ms - 1_000, 5, last_fill=11), day_ticker(ETH, at_ms, 5, last_fill=12)]
            await exchange.publish("!ticker@arr", [*rows, day_ticker("OTHERUSDT", at_ms, 5, last_fill=13)])
            return bool(feed_of(streams, "witness"))

        async with a_line(context, TIMINGS):
            await eventually(lambda: "BTCUSDT" in column_of(feed_of(streams, "trades"), "symbol"))
            await eventually(ticked)
        (entry, *_) = feed_of(streams, "witness")
    assert {name: entry.fields[name].decode() for name in (b"ids", b"source", b"symbol", b"id", b"n")} == {
        b"ids": "trade",
        b"source": "stream",
        b"symbol": ETH,
        b"id": "12",
        b"n": "1",
    }
    assert int(entry.fields[b"time"]) in sent_ms
    assert context.stats.counters["ticker_witnesses"] >= 1


async def test_finer_trades_than_listed_are_counted_and_taken(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Market(exchange, [BTC]).running() as market:
        context = a_context(exchange, redis_url, **hasty())
        async with a_line(context, TIMINGS):
            await eventually(lambda: feed_of(streams, "trades"))
            assert "finer_than_listed" not in context.stats.counters
            market.price = "85266.0010"
            await eventually(lambda: context.stats.counters.get("finer_than_listed", 0) > 3)
            await eventually(lambda: context.stats.counters["listings"] == 2)
            assert "85266.0010" in column_of(feed_of(streams, "trades"), "price")
    assert caplog.text.count("BTCUSDT trades at finer steps than exchangeInfo lists (2 and 3 decimals)") == 1


def test_shards_and_the_interval_of_watermarks() -> None:
    assert by_shard(["BTCUSDT", "ETHUSDT"], 1) == {0: ["BTCUSDT", "ETHUSDT"]}
    assert (
        watermark_interval_s(1000, 1.0),
        watermark_interval_s(1000, 10.0),
        watermark_interval_s(1000, 1000.0),
        watermark_interval_s(1000, 0.0),
    ) == (1.0, 0.1, 0.05, 1.0)

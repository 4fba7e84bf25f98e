"""A whole line: what is counted of each connection, and trades that are finer than listed."""

from __future__ import annotations

import pytest

from ingest.line import by_shard, watermark_interval_s
from klagg.drivers.redis_streams import Streams
from tests.ingest.kit import SYMBOLS, SmallExchange, column_of, feed_of
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
    assert counted["events", (("type", "24hrMiniTicker"),)] >= 10
    assert {labels for name, labels in context.stats.labelled_gauges if name == "connection_up"} == {
        (("connection", each),) for each in ("A0", "A1", "A2")
    }


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

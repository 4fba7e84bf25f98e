"""The line process with a real Redis and a real WebSocket server: what is sent stands in the feed, whatever happens."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ingest.connection import Connection
from ingest.service import main
from klagg.binance.endpoints import Endpoint
from klagg.clock import ExchangeClock
from klagg.drivers.redis_streams import Streams
from klagg.simulator import RecordedMarket, Simulator
from klagg.wire.keys import shard_of
from tests.ingest.kit import (
    NOW_MS,
    SYMBOLS,
    Relay,
    SmallExchange,
    agg_trade,
    column_of,
    feed_of,
    fill,
    frame_of,
)
from tests.ingest.linekit import SHORT, a_context, a_line
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


def ids_in(streams: Streams, key: str = "feed:{0}") -> list[int]:
    return [int(each) for each in column_of(feed_of(streams, "trades", key), "id")]


@pytest.mark.parametrize(
    ("endpoint", "source", "path"),
    [
        ("combined", "aggTrade", "/market/stream?streams=btcusdt@aggTrade"),
        ("raw", "aggTrade", "/market/ws"),
        ("combined", "trade", "/public/stream?streams=btcusdt@trade"),
        ("raw", "trade", "/public/ws"),
    ],
)
async def test_trades_reach_the_feed(streams: Streams, redis_url: str, endpoint: str, source: str, path: str) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, exchange={"endpoint": endpoint, "source": source})
        build = agg_trade if source == "aggTrade" else fill
        async with a_line(context):
            await eventually(lambda: exchange.connections and (endpoint == "combined" or exchange.messages))
            assert exchange.paths[0].startswith(path)
            way = Endpoint(endpoint)
            await exchange.send(*(frame_of(build(n, s=SYMBOLS[n % 3]), way) for n in range(1500)))
            await eventually(lambda: len(ids_in(streams)) == 1500)
    entries = feed_of(streams, "trades")
    assert ids_in(streams) == list(range(1500))
    assert column_of(entries, "symbol") == [SYMBOLS[n % 3] for n in range(1500)]
    assert {entry.fields[b"ids"] for entry in entries} == {b"agg" if source == "aggTrade" else b"trade"}
    assert {entry.fields[b"line"] for entry in entries} == {b"A"}
    assert all(int(entry.fields[b"n"]) <= 512 for entry in entries)
    assert all(abs(int(entry.fields[b"recv"]) - NOW_MS) < 60_000 for entry in entries)
    assert context.stats.counters["trades"] == 1500
    assert context.stats.counters["rejected"] == 0


async def test_bad_input_is_counted_said_and_costs_nothing_else(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {
        "bad_price": agg_trade(901, p="abc"),
        "bad_qty": agg_trade(902, q="-0.158"),
        "future": agg_trade(903, T=NOW_MS + 3_600_000),
    }
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url)
        async with a_line(context):
            await eventually(lambda: exchange.connections)
            for number in range(30):
                some = list(bad.values())[number % 3]
                await exchange.send(frame_of(agg_trade(number)), frame_of(some), frame_of({"e": "kline"}))
            await exchange.send(b"not json", frame_of(agg_trade(30)))
            await eventually(lambda: len(ids_in(streams)) == 31)
    assert ids_in(streams) == list(range(31))
    counters = context.stats.counters
    assert counters["rejected"] == 61
    said = [record.getMessage() for record in caplog.records if "rejected a message" in record.getMessage()]
    assert sorted(sentence.split(":")[0] for sentence in said) == [
        f"rejected a message, {kind}" for kind in ("bad_price", "bad_qty", "future", "not_json", "unknown_event")
    ]


async def test_symbols_are_spread_over_connections_and_shards(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        exchange.symbols = [f"SYM{number}USDT" for number in range(7)]
        context = a_context(
            exchange, redis_url, shards=3, ingest={"watermark_ms": 100}, exchange={"symbols_per_connection": 3}
        )
        async with a_line(context):
            await eventually(lambda: len(exchange.connections) == 3)
            carried = [path.partition("=")[2].split("/") for path in exchange.paths]
            assert sorted(len(each) for each in carried) == [1, 3, 3]
            for streams_of_one, each in zip(carried, exchange.connections, strict=True):
                for stream in streams_of_one:
                    await each.send(frame_of(agg_trade(1, s=stream.partition("@")[0].upper())), text=True)
            keys = [f"feed:{{{shard}}}" for shard in range(3)]
            await eventually(lambda: sum(len(ids_in(streams, key)) for key in keys) == 7)
            await eventually(lambda: all(feed_of(streams, "watermark", key) for key in keys))
        for shard, key in enumerate(keys):
            own = {symbol for symbol in exchange.symbols if shard_of(symbol, 3) == shard}
            assert set(column_of(feed_of(streams, "trades", key), "symbol")) == own
            assert set(column_of(feed_of(streams, "watermark", key), "symbols")) == own
            numbers = [int(entry.fields[b"seq"]) for entry in streams.range(key)]
            assert numbers == list(range(1, len(numbers) + 1))


def marked(streams: Streams, more_than: int) -> bool:
    """Whether the feed has more watermarks than so many."""
    return len(feed_of(streams, "watermark")) > more_than


async def test_watermarks_follow_the_connection(
    streams: Streams, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, ingest={"watermark_ms": 100})
        async with a_line(context, replace(SHORT, reconnect_first_s=60.0)):
            await eventually(lambda: exchange.connections)
            for number in range(3):
                await exchange.send(frame_of(agg_trade(number)))
                await eventually(partial(marked, streams, number))
            exchange.connections[-1].transport.abort()
            await eventually(lambda: context.stats.gauges["connections"] == 0)
            # While it is down there is nothing to say, however often a watermark is due.
            count = len(feed_of(streams, "watermark"))
            turns = _turns_of_watermarks(monkeypatch)
            await eventually(lambda: len(turns) >= 3)
            assert len(feed_of(streams, "watermark")) == count
    watermarks = feed_of(streams, "watermark")
    times = [int(entry.fields[b"time"]) for entry in watermarks]
    assert times == sorted(set(times))
    assert all(set(column_of([entry], "symbols")) == set(SYMBOLS) for entry in watermarks)


def _turns_of_watermarks(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with every turn of the task that writes watermarks."""
    turns: list[None] = []
    alive_ms = Connection.alive_ms

    def noted(connection: Connection, clock: ExchangeClock) -> int | None:
        turns.append(None)
        return alive_ms(connection, clock)

    monkeypatch.setattr(Connection, "alive_ms", noted)
    return turns


async def test_a_watermark_stands_behind_the_trades_that_it_vouches_for(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        # Batches would stay open for longer than a watermark may wait.
        context = a_context(exchange, redis_url, ingest={"watermark_ms": 100, "batch_ms": 1000})
        async with a_line(context):
            await eventually(lambda: exchange.connections)
            for number in range(5):
                await exchange.send(frame_of(agg_trade(number)))
                await eventually(partial(marked, streams, number))
    alive_ms = 0
    for entry in streams.range("feed:{0}"):
        if entry.fields[b"kind"] == b"watermark":
            alive_ms = int(entry.fields[b"time"])
        else:
            assert int(entry.fields[b"recv"]) >= alive_ms
    assert alive_ms
    assert ids_in(streams) == list(range(5))


async def test_a_reconnect_goes_on_where_it_can(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url)
        async with a_line(context):
            await eventually(lambda: exchange.connections)
            await exchange.send(frame_of(agg_trade(1)))
            await eventually(lambda: ids_in(streams) == [1])
            exchange.connections[-1].transport.abort()
            await eventually(lambda: len(exchange.connections) == 2)
            await exchange.send(frame_of(agg_trade(2)))
            await eventually(lambda: ids_in(streams) == [1, 2])
        assert context.stats.counters["reconnects"] == 1


@pytest.mark.parametrize("trouble", ["refusing", "deaf"])
async def test_nothing_is_lost_while_redis_is_away(streams: Streams, redis_url: str, trouble: str) -> None:
    async with SmallExchange().running() as exchange, Relay(redis_url).running() as relay:
        context = a_context(exchange, relay.url)
        async with a_line(context):
            await eventually(lambda: exchange.connections)
            await exchange.send(*(frame_of(agg_trade(n)) for n in range(100)))
            await eventually(lambda: len(ids_in(streams)) == 100)
            setattr(relay, trouble, True)
            if trouble == "refusing":
                relay.cut()
            await exchange.send(*(frame_of(agg_trade(n)) for n in range(100, 300)))
            await eventually(lambda: context.stats.counters.get("write_failures", 0) >= 2)
            setattr(relay, trouble, False)
            relay.cut()
            await exchange.send(frame_of(agg_trade(300)))
            await eventually(lambda: 300 in ids_in(streams))
    found = ids_in(streams)
    assert list(dict.fromkeys(found)) == list(range(301))
    numbers = [int(entry.fields[b"seq"]) for entry in streams.range("feed:{0}")]
    assert list(dict.fromkeys(numbers)) == list(range(1, max(numbers) + 1))
    # Where replies were lost, the same entries were sent again, and say so by their number.
    assert (len(found) > 301) == (trouble == "deaf")


async def test_a_stop_hands_over_what_was_received(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, ingest={"batch_ms": 1000, "batch_rows": 65536})
        async with a_line(context):
            await eventually(lambda: exchange.connections)
            await exchange.send(*(frame_of(agg_trade(n)) for n in range(50)))
            # The server has an answer to its ping, so the client has read all that came before.
            await (await exchange.connections[-1].ping())
    assert ids_in(streams) == list(range(50))
    assert context.stats.counters["trades"] == 50


async def test_a_full_buffer_goes_on_receiving_and_tells_what_it_dropped(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Relay(redis_url).running() as relay:
        context = a_context(exchange, relay.url, ingest={"buffer_mb_max": 1})
        counters = context.stats.counters
        async with a_line(context):
            await eventually(lambda: exchange.connections)
            relay.refusing = True
            relay.cut()
            sent = 0
            while counters.get("dropped_trades", 0) < 5000:
                await exchange.send(*(frame_of(agg_trade(number)) for number in range(sent, sent + 1000)))
                sent += 1000
                await eventually(lambda: counters.get("trades", 0) == sent, 30)  # noqa: B023
            assert len(exchange.connections) == 1, "it never stopped reading"
            relay.refusing = False
            await eventually(lambda: streams.range("findings:{0}"), 30)
    ids = set(ids_in(streams))
    (finding,) = streams.range("findings:{0}")
    missing = sorted(set(range(sent)) - ids)
    assert len(missing) == counters["dropped_trades"]
    assert f" dropped {len(missing)} trades " in finding.fields[b"evidence"].decode()
    numbers = [int(entry.fields[b"seq"]) for entry in streams.range("feed:{0}")]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_recording_arrives_whole(streams: Streams, redis_url: str, realdata: Path) -> None:
    """Eight minutes of every fill of BTCUSDT, played fast by the local exchange."""
    market = RecordedMarket.load([str(realdata / "um_trade_btcusdt_2024-07-18_19.txt.gz")])
    exchange = Simulator(market, 200.0)
    await exchange.start()
    try:
        # At ×200 a look at the clock every 100 ms may be 20 s behind.
        context = a_context(exchange, redis_url, exchange={"source": "trade"}, ingest={"future_ms_max": 600_000})
        async with a_line(context):
            await eventually(lambda: len(ids_in(streams)) >= 10_701, 30)
    finally:
        await exchange.stop()
    assert ids_in(streams) == list(range(5182005737, 5182005737 + 10_701))
    assert context.stats.counters["rejected"] == 0


def test_an_unreachable_redis_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "k.toml").write_text('[redis]\nurl = "redis://127.0.0.1:1/0"\n')
    before = logging.getLogger().handlers[:]
    try:
        assert main(["--config", str(tmp_path / "k.toml"), "--line", "B"]) == 1
    finally:
        logging.getLogger().handlers[:] = before
    (line,) = [each for each in capfd.readouterr().err.splitlines() if "CRITICAL" in each]
    assert "ingest-B: Redis does not answer" in line


def test_a_bad_line_name_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--line", "a:b"])
    assert ended.value.code == 2
    assert "is no line: use capital letters and digits" in capfd.readouterr().err

"""`<symbol>@aggTrade` over real sockets on a real Redis: each aggTrade once, in the order of ids, whatever lines do."""

from __future__ import annotations

from typing import Any

import pytest
import ujson

from gateway import trade_streams
from gateway.hub import Hub
from gateway.streams import parse_agg_trade_stream
from gateway.trade_streams import TradeStreams
from klagg.drivers.redis_streams import AsyncStreams
from klagg.process.stats import Stats
from klagg.wire.keys import Keys
from tests.gateway.kit import BTC, Client, Line, Teller, agg_trade, at, running
from tests.kit import eventually_async as eventually


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("btcusdt@aggTrade", "BTCUSDT"),
        ("币usdt@aggTrade", "币USDT"),
        ("BTCUSDT@aggTrade", None),
        ("btcusdt@aggtrade", None),
        ("btcusdt@trade", None),
        ("@aggTrade", None),
        ("aggTrade", None),
    ],
)
def test_names_of_streams(name: str, symbol: str | None) -> None:
    assert parse_agg_trade_stream(name) == symbol


def counters(client: Client) -> dict[str, int]:
    return client.gateway._context.stats.counters


async def following(client: Client) -> None:
    """Wait until the feed is followed."""
    await eventually(lambda: client.gateway._trade_streams[0]._position)


async def event(socket: Any) -> Any:
    return ujson.loads((await socket.receive(timeout=20)).data)


async def ids_of(socket: Any, count: int) -> list[int]:
    return [(await event(socket))["data"]["a"] for _ in range(count)]


COMBINED = "/stream?streams=btcusdt@aggTrade"


@pytest.mark.servers
async def test_each_trade_comes_once_in_raw_and_in_combined_form(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {"open_time": at(1)}})
    a, b = Line(teller.streams), Line(teller.streams, "B")
    a.bring(98, 99)
    async with (
        running(redis_url) as client,
        client.socket("/ws") as raw,
        client.socket(COMBINED) as combined,
    ):
        await raw.send_json({"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 1})
        assert await event(raw) == {"result": None, "id": 1}
        await following(client)
        a.bring(100, 101)
        a.bring(7, symbol="ETHUSDT")
        b.bring(99, 100, 101, 102)
        one, row = await event(raw), agg_trade(100)
        assert one == {
            "e": "aggTrade",
            "E": row.time + 1005,
            "a": 100,
            "s": "BTCUSDT",
            "p": row.price,
            "q": row.qty,
            "f": row.first,
            "l": row.last,
            "T": row.time,
            "m": row.maker,
            "st": 1,
        }
        assert [(await event(raw))["a"] for _ in range(2)] == [101, 102]
        message = await event(combined)
        assert (message["stream"], message["data"]) == ("btcusdt@aggTrade", one)
        assert await ids_of(combined, 2) == [101, 102]
        await raw.send_json({"method": "UNSUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 2})
        assert await event(raw) == {"result": None, "id": 2}
        a.bring(103)
        assert await ids_of(combined, 1) == [103]
        await raw.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 3})
        assert await event(raw) == {"result": [], "id": 3}, "nothing came between"
        assert client.gateway.unserved.counts == {}
        assert counters(client)["trades_sent"] == 4


@pytest.mark.servers
async def test_a_gap_is_waited_for_and_then_skipped(
    redis_url: str, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    teller.tell({BTC: {"open_time": at(1)}})
    a, b = Line(teller.streams), Line(teller.streams, "B")
    async with running(redis_url) as client, client.socket(COMBINED) as socket:
        await following(client)
        a.bring(100, 103)
        assert await ids_of(socket, 1) == [100]
        b.bring(102)
        Line(teller.streams, "rest").bring(101)
        assert await ids_of(socket, 3) == [101, 102, 103]
    monkeypatch.setattr(trade_streams, "PATIENCE_MS", 50)
    async with running(redis_url) as client, client.socket(COMBINED) as socket:
        await following(client)
        a.bring(200, 203)
        assert await ids_of(socket, 2) == [200, 203]
        b.bring(201, 202, 203, 204)
        assert await ids_of(socket, 1) == [204], "what comes too late is never sent"
        assert counters(client)["trades_skipped"] == 2


@pytest.mark.servers
async def test_a_symbol_that_is_listed_again_goes_on_with_its_new_ids(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {"open_time": at(1)}})
    line = Line(teller.streams)
    async with running(redis_url) as client, client.socket(COMBINED) as socket:
        await following(client)
        line.bring(500, 501, times={500: at(0), 501: at(0)})
        line.bring(1, 2, times={1: at(5), 2: at(5)})
        assert await ids_of(socket, 4) == [500, 501, 1, 2]


@pytest.mark.servers
async def test_the_feed_is_read_only_while_somebody_listens(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {"open_time": at(1)}})
    line = Line(teller.streams)
    async with running(redis_url) as client:
        line.bring(1)
        async with client.socket("/ws/btcusdt@kline_1m"):
            pass
        async with client.socket("/ws/btcusdt@aggTrade") as socket:
            await following(client)
            line.bring(2)
            assert (await event(socket))["a"] == 2
        await eventually(lambda: not client.gateway._trade_streams[0]._position)
        read = counters(client)["trade_entries"]
        assert read == 1, "not the one before the subscription"
        line.bring(3)
        async with client.socket("/ws/btcusdt@aggTrade") as socket:
            await following(client)
            line.bring(4)
            assert (await event(socket))["a"] == 4, "it begins anew with what comes next"
        assert counters(client)["trade_entries"] == 2


@pytest.mark.servers
async def test_a_client_that_does_not_read_is_cut_off(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {"open_time": at(1)}})
    line = Line(teller.streams)
    async with (
        running(redis_url, client_buffer_kb=64) as client,
        client.socket(COMBINED) as slow,
        client.socket(COMBINED) as good,
    ):
        await following(client)
        reading = slow._response.connection.transport
        reading.pause_reading()
        number, heard = 1, 0
        while not counters(client).get("clients_dismissed"):
            line.bring(*range(number, number + 1000))
            number += 1000
            for _ in range(1000):
                heard = (await event(good))["data"]["a"]
        assert heard == number - 1, "the other one has everything"
        reading.resume_reading()


@pytest.mark.servers
async def test_what_redis_refuses_is_counted_and_what_cannot_be_read_is_left_out(
    redis_url: str, teller: Teller
) -> None:
    stats, hub, streams = Stats(), Hub(1024), AsyncStreams(redis_url)
    hub.agg_trade_streams["BTCUSDT"] = "btcusdt@aggTrade"
    each = TradeStreams(hub, 0, 1, streams, stats, _Log())  # type: ignore[arg-type]
    try:
        assert await each.turn(0) is False
        teller.streams.write([])
        line = Line(teller.streams)
        line.bring(1)
        bad = {"kind": "trades", "ids": "agg", "symbol": "BTCUSDT", "recv": "x"}
        line.write([bad])
        await each.turn(1)
        assert (stats.counters["trades_sent"], stats.counters["rejected"]) == (1, 1)
        teller.streams.set_bytes(Keys(0).feed, b"no stream")
        await each.turn(2)
        await each.turn(3)
        assert stats.counters["trade_pulls_failed"] == 2
        assert _Log.said == 1
    finally:
        await streams.close()


class _Log:
    """Counts warnings."""

    said = 0

    def warning(self, *_: object) -> None:
        type(self).said += 1

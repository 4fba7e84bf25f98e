"""`GET /fapi/v1/aggTrades` on a real Redis: pages, gaps, repaired trades, what is not held, errors and limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import trade_reader
from gateway.feed_trades import Wanted
from gateway.trade_reader import TradeReader, Trades
from klagg.binance.serving.errors import ApiError
from klagg.drivers.redis_streams import AsyncStreams, Streams
from klagg.process.stats import Stats
from klagg.wire.entries import REST_LINE, tick_entry, trades_entry_of_rows
from klagg.wire.fields import stamp
from klagg.wire.keys import Keys
from tests.gateway.kit import BTC, NOW_MS, Line, Teller, agg_trade, at, info_of, keep_info, row_of, running
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers

PATH = "/fapi/v1/aggTrades"
FEED = Keys(0).feed


def ms(number: int) -> int:
    """The time of the trade with this id."""
    return NOW_MS + number * 1000


def spread(streams: Streams, lines: dict[str, list[list[int]]], symbol: str = "BTCUSDT") -> None:
    """Entries of the lines in turn, each at a millisecond of its own, with ticks and another symbol between them."""
    turns = max(map(len, lines.values()))
    for turn in range(turns):
        for place, (name, batches) in enumerate(lines.items()):
            if turn < len(batches):
                rows = [agg_trade(each, symbol) for each in batches[turn]]
                recv_ms = max(row.time for row in rows) + 5
                fields = trades_entry_of_rows(rows, line=name, ids="agg", recv_ms=recv_ms)
                add(streams, 1000 + turn * 10 + place, fields)
        add(
            streams,
            1000 + turn * 10 + 8,
            tick_entry(ms(max(each for b in lines.values() for each in b[min(turn, len(b) - 1)]))),
        )
        other = [agg_trade(turn + 1, "ETHUSDT", ms(turn))]
        add(streams, 1000 + turn * 10 + 9, trades_entry_of_rows(other, line="A", ids="agg", recv_ms=ms(turn)))


def add(streams: Streams, entry_ms: int, fields: dict[str, str]) -> None:
    """An entry with an id of its own choice."""
    streams._redis.xadd(FEED, stamp(fields, "line@1", 1), id=f"{entry_ms}-0")  # type: ignore[arg-type]


@pytest.fixture
async def reader(redis_url: str) -> AsyncIterator[TradeReader]:
    streams = AsyncStreams(redis_url)
    yield TradeReader(streams, 1, Stats())
    await streams.close()


async def answered(reader: TradeReader, wanted: Wanted, symbol: str = "BTCUSDT") -> tuple[list[int], int, Any, Any]:
    found: Trades = await reader.trades(symbol, wanted, ms(10_000))
    return [each.id for each in found.trades], *found[1:]


def runs(first: int, last: int, size: int) -> list[list[int]]:
    return [list(range(at, min(at + size, last + 1))) for at in range(first, last + 1, size)]


async def test_wherever_a_page_begins_it_is_found(reader: TradeReader, streams: Streams, monkeypatch: Any) -> None:
    monkeypatch.setattr(trade_reader, "PAGE_ENTRIES", 7)
    spread(streams, {"A": runs(100, 399, 3), "B": runs(100, 399, 3)})
    for first in (101, 102, 150, 237, 396):
        page = list(range(first, min(first + 20, 400)))
        assert await answered(reader, Wanted(20, from_id=first)) == (page, 0, None, None), first
        assert await answered(reader, Wanted(20, start_ms=ms(first))) == (page, 0, None, None), first
        window = Wanted(20, start_ms=ms(first) - 999, end_ms=ms(first + 1) + 999)
        assert await answered(reader, window) == ([first, first + 1][: 400 - first], 0, None, None), first
    assert await answered(reader, Wanted(20)) == (list(range(380, 400)), 0, None, None)
    assert await answered(reader, Wanted(20, end_ms=ms(300))) == (list(range(281, 301)), 0, None, None)
    assert await answered(reader, Wanted(20, from_id=400)) == ([], 0, None, None)
    assert await answered(reader, Wanted(20, start_ms=ms(400))) == ([], 0, None, None)


async def test_what_is_not_held_is_said(reader: TradeReader, streams: Streams) -> None:
    assert await answered(reader, Wanted(5)) == ([], 0, ms(10_000), None), "nothing at all is held"
    assert await answered(reader, Wanted(5, from_id=5)) == ([], 0, ms(10_000), None)
    spread(streams, {"A": runs(100, 119, 2)})
    ids, missing, since_ms, _ = await answered(reader, Wanted(5, from_id=90))
    assert (ids, missing) == ([100, 101, 102, 103, 104], 0)
    assert since_ms >= ms(101)
    ids, _, since_ms, _ = await answered(reader, Wanted(50))
    assert (ids, since_ms >= ms(101)) == (list(range(100, 120)), True)
    ids, _, since_ms, _ = await answered(reader, Wanted(5, start_ms=ms(50), end_ms=ms(60)))
    assert (ids, since_ms >= ms(101)) == ([], True)
    ids, _, since_ms, _ = await answered(reader, Wanted(5), "SOLUSDT")
    assert (ids, since_ms >= ms(101)) == ([], True)
    assert await answered(reader, Wanted(50), "ETHUSDT") == (list(range(1, 11)), 0, None, None), (
        "id 1 is the very first"
    )


async def test_ids_decide_and_repaired_trades_lie_where_they_belong(reader: TradeReader, streams: Streams) -> None:
    line_a = [[each] for each in range(100, 160) if each not in {110, 111, 120, 121}]
    line_b = [[each] for each in range(100, 160) if each not in {110, 112, 120, 121}]
    spread(streams, {"A": line_a, "B": line_b})
    repaired = trades_entry_of_rows([agg_trade(110)], line=REST_LINE, ids="agg", recv_ms=ms(160))
    add(streams, 5000, repaired)
    page = [*range(105, 120)]
    assert await answered(reader, Wanted(15, from_id=105)) == (page, 0, None, None)
    window = Wanted(15, start_ms=ms(105), end_ms=ms(119))
    assert await answered(reader, window) == (page, 0, None, None)
    window = Wanted(16, start_ms=ms(105), end_ms=ms(119))
    assert await answered(reader, window) == (page, 2, None, None), "120 and 121 may be of that time"
    ids, missing, *_ = await answered(reader, Wanted(15, from_id=115))
    assert (ids, missing) == ([*range(115, 120), *range(122, 132)], 2)
    assert await answered(reader, Wanted(3, from_id=120)) == ([122, 123, 124], 2, None, None)
    assert await answered(reader, Wanted(40)) == ([*range(118, 120), *range(122, 160)], 2, None, None)
    assert reader.stats.counters["trade_ids_missing"] == 2 + 2 + 2 + 2


async def test_a_repaired_trade_does_not_say_that_older_ones_are_held(reader: TradeReader, streams: Streams) -> None:
    spread(streams, {"A": runs(100, 199, 1)})
    add(streams, 5000, trades_entry_of_rows([agg_trade(50)], line=REST_LINE, ids="agg", recv_ms=ms(200)))
    ids, missing, since_ms, _ = await answered(reader, Wanted(5, from_id=60))
    assert (ids, missing) == ([100, 101, 102, 103, 104], 0)
    assert since_ms is not None


async def test_a_line_that_comes_late_hides_nothing(reader: TradeReader, streams: Streams, monkeypatch: Any) -> None:
    """B writes what it received 100 s ago; what A brought meanwhile, and B lost, lies far before it."""
    monkeypatch.setattr(trade_reader, "PAGE_ENTRIES", 5)
    spread(streams, {"A": [[each] for each in range(100, 200)]})
    for place, each in enumerate(range(100, 200, 2)):
        late = trades_entry_of_rows([agg_trade(each)], line="B", ids="agg", recv_ms=ms(each) + 5)
        add(streams, 9000 + place, late)
    for first in (101, 151, 198):
        page = list(range(first, min(first + 10, 200)))
        assert await answered(reader, Wanted(10, from_id=first)) == (page, 0, None, None), first
        assert await answered(reader, Wanted(10, start_ms=ms(first))) == (page, 0, None, None), first
    assert await answered(reader, Wanted(10)) == (list(range(190, 200)), 0, None, None)


async def test_a_quiet_symbol_is_found_from_its_end(reader: TradeReader, streams: Streams, monkeypatch: Any) -> None:
    monkeypatch.setattr(trade_reader, "PAGE_ENTRIES", 5)
    spread(streams, {"A": [[each] for each in range(100, 200)]})
    for place, number in ((1003, 7), (1333, 8), (1993, 9)):
        quiet = trades_entry_of_rows([agg_trade(number, "XUSDT", ms(100))], line="A", ids="agg", recv_ms=ms(100))
        insert(streams, [(place, quiet)])
    assert await answered(reader, Wanted(10, from_id=8), "XUSDT") == ([8, 9], 0, None, None)
    assert await answered(reader, Wanted(10, from_id=10), "XUSDT") == ([], 0, None, None)
    assert (await answered(reader, Wanted(10), "XUSDT"))[0] == [7, 8, 9]


def insert(streams: Streams, entries: list[tuple[int, dict[str, str]]]) -> None:
    """Put entries into the feed in the place of their ids."""
    held = [(entry.id, dict(entry.fields)) for entry in streams.range(FEED)]
    held += [(f"{entry_ms}-0", stamp(fields, "line@1", 1)) for entry_ms, fields in entries]  # type: ignore[misc]
    streams.delete(FEED)
    for entry_id, fields in sorted(held, key=lambda each: int(each[0].partition("-")[0])):
        streams._redis.xadd(FEED, fields, id=entry_id)  # type: ignore[arg-type]


async def test_a_request_reads_so_much_and_says_where_it_ended(
    reader: TradeReader, streams: Streams, monkeypatch: Any
) -> None:
    spread(streams, {"A": [[each] for each in range(100, 1100)]})
    reader.entries_max = 1000
    monkeypatch.setattr(trade_reader, "PAGE_ENTRIES", 10)
    ids, missing, since_ms, until_ms = await answered(reader, Wanted(1000))
    assert (ids[-1], missing, until_ms) == (1099, 0, None)
    assert 300 < len(ids) < 350
    assert ms(ids[0]) <= since_ms <= ms(ids[0] + 40)
    ids, missing, since_ms, until_ms = await answered(reader, Wanted(1000, from_id=200))
    assert (ids[0], missing, since_ms) == (200, 0, None)
    assert ms(ids[-1]) <= until_ms <= ms(ids[-1] + 40)
    assert reader.stats.counters["trade_entries"] <= 2 * 1100


async def test_few_requests_wait(reader: TradeReader, monkeypatch: Any) -> None:
    monkeypatch.setattr(trade_reader, "WAITING_MAX", 2)
    answers = await asyncio.gather(*(reader.trades("BTCUSDT", Wanted(5), 1) for _ in range(3)), return_exceptions=True)
    refused = [each for each in answers if isinstance(each, ApiError)]
    assert [(each.code, each.status) for each in refused] == [(-1008, 503)]
    assert await reader.trades("BTCUSDT", Wanted(5), 1) == ([], 0, 1, None)


def tell(teller: Teller) -> None:
    teller.tell({BTC: {"open_time": at(1)}}, time_ms=at(1) + 1000)


async def test_answers_as_the_exchange_gives_them(redis_url: str, teller: Teller) -> None:
    tell(teller)
    big = 2**53 + 1
    Line(teller.streams).bring(big, big + 1, times={big: at(0), big + 1: at(0) + 7})
    Line(teller.streams, "B").bring(big, big + 1, times={big: at(0), big + 1: at(0) + 7})
    async with running(redis_url) as client:
        rows = await client.get(PATH, symbol="BTCUSDT", fromId=big + 1)
        assert list(rows[0]) == ["a", "p", "q", "f", "l", "T", "m"]
        row = agg_trade(big + 1)
        assert rows == [
            {"a": big + 1, "p": row.price, "q": "0.120", "f": row.first, "l": row.last, "T": at(0) + 7, "m": True}
        ]
        status, headers, _ = await client.ask(PATH, symbol="BTCUSDT", fromId=big + 1, limit=1)
        assert (status, headers["X-MBX-USED-WEIGHT-1M"]) == (200, "40")
        assert not [name for name in headers if name in {"X-Klagg-Incomplete", "X-Klagg-Since-Ms", "X-Klagg-Until-Ms"}]
        Line(teller.streams).bring(big + 4)
        _, headers, rows = await client.ask(PATH, symbol="BTCUSDT", fromId=big)
        assert (len(rows), headers["X-Klagg-Incomplete"]) == (3, "2")
        assert len(await client.get(PATH, symbol="BTCUSDT", startTime=at(0) + 7)) == 1, "of an hour"
        _, headers, rows = await client.ask(PATH, symbol="BTCUSDT", startTime=at(-9), endTime=at(-8))
        assert (rows, int(headers["X-Klagg-Since-Ms"]) >= at(0)) == ([], True)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, -1102),
        ({"symbol": "NOPEUSDT"}, 400, -1121),
        ({"symbol": "BTCUSDT", "fromId": "x"}, 400, -1100),
        ({"symbol": "BTCUSDT", "fromId": "-1"}, 400, -1100),
        ({"symbol": "BTCUSDT", "startTime": "2", "endTime": "1"}, 400, -1023),
        ({"symbol": "BTCUSDT", "startTime": "0", "endTime": "3600001"}, 400, -1127),
        ({"symbol": "BTCUSDT", "limit": "1001"}, 400, -1130),
        ({"symbol": "BTCUSDT", "limit": "0"}, 400, -1130),
    ],
)
async def test_bad_requests_are_refused_as_by_the_exchange(
    redis_url: str, teller: Teller, query: dict[str, str], status: int, code: int
) -> None:
    tell(teller)
    async with running(redis_url) as client:
        found, _, body = await client.ask(PATH, **query)
        assert (found, body["code"]) == (status, code)


async def test_before_the_first_picture_there_is_no_answer(redis_url: str, teller: Teller) -> None:
    tell(teller)
    async with running(redis_url, info=()) as client:
        status, _, body = await client.ask(PATH, symbol="BTCUSDT")
        assert (status, body["code"]) == (503, -1001)


async def test_fills_are_no_agg_trades(redis_url: str, teller: Teller) -> None:
    tell(teller)
    Line(teller.streams, ids="trade").bring(1, 2)
    async with running(redis_url, source="trade") as client:
        status, _, body = await client.ask(PATH, symbol="BTCUSDT")
        assert (status, body["code"]) == (400, -1020)
        assert "exchange.source" in body["msg"]
        async with client.socket("/ws/btcusdt@aggTrade"):
            await eventually(lambda: client.gateway.unserved.counts == {"btcusdt@aggTrade": 1})


async def test_trades_of_a_listing_before_are_left_out(redis_url: str, teller: Teller) -> None:
    tell(teller)
    keep_info(teller.streams, info_of(row_of("BTCUSDT", onboardDate=at(5))), ["BTCUSDT"])
    Line(teller.streams).bring(1, 2, 3, times={1: at(1), 2: at(2), 3: at(3)})
    Line(teller.streams).bring(2, 3, times={2: at(6), 3: at(7)})
    async with running(redis_url, info=()) as client:
        await eventually(lambda: client.gateway.market.info)
        rows = await client.get(PATH, symbol="BTCUSDT", fromId=1)
        assert [(row["a"], row["T"]) for row in rows] == [(2, at(6)), (3, at(7))]


async def test_a_redis_that_is_away_is_said(redis_url: str, teller: Teller) -> None:
    tell(teller)
    async with running(redis_url) as client:
        teller.streams.delete(FEED)
        teller.streams.set_bytes(FEED, b"no stream")
        status, _, body = await client.ask(PATH, symbol="BTCUSDT")
        assert (status, body["code"]) == (503, -1001)
        teller.streams.delete(FEED)
        assert_empty(await client.ask(PATH, symbol="BTCUSDT"))


def assert_empty(asked: tuple[int, Any, Any]) -> None:
    status, headers, rows = asked
    assert (status, rows) == (200, [])
    assert "X-Klagg-Since-Ms" in headers


async def test_a_feed_that_is_trimmed_while_it_is_read_costs_what_is_gone(
    reader: TradeReader, streams: Streams, monkeypatch: Any
) -> None:
    monkeypatch.setattr(trade_reader, "PAGE_ENTRIES", 10)
    spread(streams, {"A": [[each] for each in range(100, 300)]})
    pages = reader.streams.read

    async def trimming(*args: Any, **options: Any) -> Any:
        found = await pages(*args, **options)
        if reader.stats.counters["trade_entries"] > 30:
            streams._redis.xtrim(FEED, minid="2500-0", approximate=False)
        return found

    monkeypatch.setattr(reader, "streams", _Trimming(reader.streams, trimming))
    ids, missing, *_ = await answered(reader, Wanted(100, from_id=150))
    assert (ids[0], ids[-1]) == (150, 299)
    assert missing == 150 - len(ids) > 0


class _Trimming:
    """AsyncStreams whose reads trim."""

    def __init__(self, streams: AsyncStreams, read: Any) -> None:
        self.newest, self.read = streams.newest, read

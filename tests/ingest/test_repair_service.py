"""klagg-repair with a real Redis: against the simulator, and against one that misbehaves as a test tells it to."""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import ujson
from aiohttp import web

from ingest.repair_service import main, repair
from klagg.drivers.redis_streams import Streams
from klagg.errors import RedisRefused
from klagg.intervals import HOUR_MS, MINUTE_MS
from klagg.process.service import AsyncContext
from klagg.wire.entries import official_of
from klagg.wire.keys import GROUP_REPAIR, WEIGHTS_KEY, Keys, heartbeat_key
from tests.contract.kit import closed_port
from tests.ingest.kit import Relay, column_of, feed_of
from tests.ingest.repairkit import (
    KEYS,
    NOW_MS,
    SHORT,
    Stub,
    a_context,
    ask,
    count,
    good_trades,
    klines_request,
    local,
    record,
    repairing,
    rows_of,
    settled,
    trades_request,
)
from tests.kit import eventually_async as eventually
from tests.kit import trim_before
from tests.simulator.kit import running

pytestmark = pytest.mark.servers


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


async def test_trades_are_answered_exactly_as_the_exchange_recorded_them(streams: Streams, redis_url: str) -> None:
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url)) as context:
        ask(streams, trades_request(1, 100, 2600), trades_request(2, 7, 7, "币安人生USDT"))
        await eventually(settled(streams, 2))
        expected = await record(exchange, "BTCUSDT", range(100, 2601))
        expected += await record(exchange, "币安人生USDT", range(7, 8))
    entries = feed_of(streams, "trades")
    assert {entry.fields[b"line"] for entry in entries} == {b"rest"}
    assert {entry.fields[b"ids"] for entry in entries} == {b"agg"}
    assert max(int(entry.fields[b"n"]) for entry in entries) == 512
    names = ("symbol", "id", "price", "qty", "first", "last", "time", "maker")
    columns = zip(*(column_of(entries, name) for name in names), strict=True)
    found = sorted((symbol, int(number), *rest) for symbol, number, *rest in columns)
    assert len(expected) == 2502
    assert found == sorted(
        (
            row["symbol"],
            row["id"],
            row["price"],
            row["qty"],
            str(row["first"]),
            str(row["last"]),
            str(row["time_ms"]),
            "1" if row["maker"] else "0",
        )
        for row in expected
    )
    assert [int(entry.fields[b"seq"]) for entry in streams.range(KEYS.feed)] == list(range(1, len(entries) + 1))
    assert (count(context, "trades"), count(context, "served"), count(context, "missing")) == (2502, 2, 0)


async def test_klines_are_answered_exactly_and_only_closed_ones(streams: Streams, redis_url: str) -> None:
    hour_ms = NOW_MS // HOUR_MS * HOUR_MS
    requests = [
        klines_request(1, "1m", hour_ms, NOW_MS),
        klines_request(2, "1h", hour_ms - 12 * HOUR_MS, hour_ms),
        klines_request(3, "1d", hour_ms - 12 * HOUR_MS, hour_ms - 11 * HOUR_MS),
        klines_request(4, "1m", hour_ms - 20 * HOUR_MS, hour_ms),
        klines_request(5, "1h", hour_ms - 99 * HOUR_MS, hour_ms - 90 * HOUR_MS),
    ]
    async with running(local(speed=10)) as exchange, repairing(a_context(exchange.rest_url, redis_url)) as context:
        ask(streams, *requests)
        await eventually(lambda: count(context, "served") == 4, 60)
        async with aiohttp.ClientSession(exchange.rest_url) as client:
            answers = {}
            for each in requests:
                query: dict[str, Any] = {"symbol": each.symbol, "interval": each.interval, "limit": 1500}
                query |= {"startTime": each.first, "endTime": each.last - 1}
                async with client.get("/fapi/v1/klines", params=query) as response:
                    answers[each.id] = await response.json()
        # The day is not over for hours: its request waits.
        assert streams.pending_count(KEYS.requests, GROUP_REPAIR) == 1
    found = [official_of(entry.fields) for entry in feed_of(streams, "official")]
    assert {each.request for each in found} == {"k1", "k2", "k4", "k5"}
    places = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    for each in (requests[0], requests[1], requests[3], requests[4]):
        parts = [part for part in found if part.request == each.id]
        assert (parts[0].from_ms, parts[-1].to_ms) == (each.first, each.last)
        assert all(one.to_ms == two.from_ms for one, two in pairwise(parts))
        rows = [row for part in parts for row in rows_of(part)]
        assert rows == [tuple(str(row[place]).encode() for place in places) for row in answers[each.id]]
    assert [len(answers[each]) for each in ("k1", "k2", "k5")] == [30, 12, 0]
    assert len([each for each in found if each.request == "k4"]) == 1
    assert count(context, "klines") == sum(len(answers[each]) for each in ("k1", "k2", "k4", "k5"))


async def test_klines_are_served_once_their_range_is_closed(streams: Streams, redis_url: str) -> None:
    async with running(local(speed=40)) as exchange, repairing(a_context(exchange.rest_url, redis_url)):
        ask(streams, klines_request(1, "1m", NOW_MS, NOW_MS + 2 * MINUTE_MS))
        await eventually(settled(streams, 1), 30)
        assert exchange.rest.played_ms() >= NOW_MS + 2 * MINUTE_MS
    (entry,) = feed_of(streams, "official")
    whole = exchange.source.bar("BTCUSDT", NOW_MS + MINUTE_MS, NOW_MS + 2 * MINUTE_MS - 1, NOW_MS + HOUR_MS)
    assert whole
    assert column_of([entry], "trades")[1] == str(whole.trades)
    assert column_of([entry], "volume")[1] == f"{whole.volume:f}"


async def test_requests_that_touch_are_fetched_once(streams: Streams, redis_url: str) -> None:
    ask(streams, *(trades_request(number, 100 * number, 100 * number + 120) for number in range(1, 6)))
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url)) as context:
        await eventually(settled(streams, 5))
    ids = sorted(map(int, column_of(feed_of(streams, "trades"), "id")))
    assert ids == list(range(100, 621))
    assert (count(context, "calls"), count(context, "weight"), count(context, "served")) == (1, 20, 5)


async def test_more_requests_than_memory_may_hold_are_all_served(streams: Streams, redis_url: str) -> None:
    symbols = [each.symbol for each in local().source.listings(NOW_MS)]
    ask(
        streams,
        *(klines_request(number, "1m", NOW_MS - MINUTE_MS, NOW_MS, symbols[number % 8]) for number in range(60)),
    )
    async with running(local()) as exchange:
        context = a_context(exchange.rest_url, redis_url, repair={"waiting_max": 10, "calls_max": 2})
        async with repairing(context):
            await eventually(settled(streams, 60), 30)
    assert count(context, "served") == 60
    assert len(feed_of(streams, "official")) == 60


async def test_every_shard_is_served_into_its_own_feed(streams: Streams, redis_url: str) -> None:
    for shard in range(2):
        ask(streams, klines_request(shard, "1m", NOW_MS - MINUTE_MS, NOW_MS), shard=shard)
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url, shards=2)):
        for shard in range(2):
            await eventually(settled(streams, 1, shard))
    for shard in range(2):
        (entry,) = feed_of(streams, "official", Keys(shard).feed)
        assert entry.fields[b"request"] == f"k{shard}".encode()


async def test_what_cannot_be_served_dies_with_its_reason_and_the_rest_goes_on(
    streams: Streams, redis_url: str
) -> None:
    ask(
        streams,
        klines_request(1, "1m", NOW_MS - MINUTE_MS, NOW_MS, "NOSUCH"),
        klines_request(2, "7m", NOW_MS - MINUTE_MS, NOW_MS),
        trades_request(3, 5, 9),
    )
    streams.append(KEYS.requests, {"v": "2", "kind": "trades"})
    streams.append(KEYS.requests, {"v": "9"})
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url)) as context:
        await eventually(settled(streams, 5))
    reasons = {entry.fields[b"reason"].decode() for entry in streams.range(KEYS.dead)}
    assert len(reasons) == count(context, "dead") == 4
    for part in ("Invalid symbol", "unknown interval '7m'", "lacks the field id", "contract version"):
        assert any(part in reason for reason in reasons), part
    assert {entry.fields[b"group"] for entry in streams.range(KEYS.dead)} == {b"repair"}
    assert column_of(feed_of(streams, "trades"), "id") == ["5", "6", "7", "8", "9"]


async def test_by_fill_ids_trades_cannot_be_had(streams: Streams, redis_url: str) -> None:
    ask(streams, trades_request(1, 5, 9))
    fills = {"source": "trade"}
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url, exchange=fills)):
        await eventually(settled(streams, 1))
    (dead,) = streams.range(KEYS.dead)
    assert b"aggregate ids" in dead.fields[b"reason"]


async def test_a_request_past_its_deadline_is_acknowledged_unserved(streams: Streams, redis_url: str) -> None:
    ask(streams, trades_request(1, 5, 9, deadline_ms=NOW_MS - 1))
    at_once = replace(SHORT, kept_ms=-1.0)
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url), at_once) as context:
        await eventually(settled(streams, 1))
    assert (count(context, "expired"), count(context, "calls")) == (1, 0)
    assert feed_of(streams, "trades") == []


async def test_an_aggregator_that_is_minutes_behind_gets_what_it_requests(streams: Streams, redis_url: str) -> None:
    """Its deadlines have passed before anybody reads them: they come from its newest tick."""
    ask(streams, trades_request(1, 5, 9, deadline_ms=NOW_MS - 10 * MINUTE_MS))
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url)) as context:
        await eventually(settled(streams, 1))
    assert (count(context, "expired"), count(context, "served")) == (0, 1)
    assert column_of(feed_of(streams, "trades"), "id") == ["5", "6", "7", "8", "9"]


async def test_what_an_earlier_run_or_a_dead_consumer_left_is_served(streams: Streams, redis_url: str) -> None:
    ask(streams, *(trades_request(number, number * 10, number * 10) for number in range(1, 4)))
    streams.ensure_group(KEYS.requests, GROUP_REPAIR)
    streams.read_group([KEYS.requests], GROUP_REPAIR, "repair", count=1)
    streams.read_group([KEYS.requests], GROUP_REPAIR, "dead", count=1)
    at_once = replace(SHORT, reclaim_idle_ms=0)
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url), at_once) as context:
        await eventually(settled(streams, 3))
    assert sorted(column_of(feed_of(streams, "trades"), "id")) == ["10", "20", "30"]
    assert count(context, "served") == 3


async def test_after_429_nobody_asks_before_the_time_that_was_named(streams: Streams, redis_url: str) -> None:
    def answer(request: web.Request, number: int) -> web.Response:
        if number == 1:
            return web.json_response({"code": -1003, "msg": "slow"}, status=429, headers={"Retry-After": "1"})
        return good_trades(request)

    ask(streams, *(trades_request(number, 100 * number, 100 * number + 5) for number in range(1, 4)))
    async with Stub(answer).running() as stub:
        context = a_context(stub.rest_url, redis_url, repair={"calls_max": 1})
        async with repairing(context):
            await eventually(lambda: count(context, "refused") == 1)
            until_ms = int(streams.hash_of(WEIGHTS_KEY)[b"until"])
            assert until_ms > time.time() * 1000
            await eventually(settled(streams, 3))
    assert stub.asked[1] - stub.asked[0] >= 1.0
    assert (count(context, "served"), count(context, "refused")) == (3, 1)


async def test_what_the_exchange_counts_for_others_is_left_to_them(streams: Streams, redis_url: str) -> None:
    def answer(request: web.Request, number: int) -> web.Response:
        response = good_trades(request)
        response.headers["X-MBX-USED-WEIGHT-1M"] = "2399"
        return response

    ask(streams, *(trades_request(number, 100 * number, 100 * number + 5) for number in range(1, 3)))
    async with Stub(answer).running() as stub:
        context = a_context(stub.rest_url, redis_url, repair={"calls_max": 1})
        async with repairing(context):
            await eventually(lambda: count(context, "served") == 1)
            await eventually(lambda: context.stats.gauges.get("weight_wait_s", 0) or len(stub.asked) == 2)
            gauge = context.stats.gauges
            # In the first second of a minute the figure may be of the one before, and is not believed.
            assert gauge["weight_of_minute"] == 2399
            assert len(stub.asked) == 1 or time.time() % 60 < 5, "asked although the minute is used up"


async def test_rest_down_and_back(streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    port = closed_port()
    context = a_context(f"http://127.0.0.1:{port}", redis_url)
    ask(streams, trades_request(1, 100, 130))
    beating = asyncio.create_task(context.beat_for_ever())
    async with repairing(context):
        async with running(local(port=port)):
            await eventually(settled(streams, 1))
        ask(streams, trades_request(2, 200, 230))
        await eventually(lambda: count(context, "failures") >= 3)
        beat = streams.values_like(heartbeat_key("repair"))
        await eventually(lambda: streams.values_like(heartbeat_key("repair")) != beat)
        assert streams.pending_count(KEYS.requests, GROUP_REPAIR) == 1
        async with running(local(port=port)):
            await eventually(settled(streams, 2))
            await eventually(lambda: "the exchange answers again" in caplog.text)
    beating.cancel()
    assert sorted(map(int, column_of(feed_of(streams, "trades"), "id"))) == [*range(100, 131), *range(200, 231)]
    assert caplog.text.count("requests wait meanwhile") == 1


@pytest.mark.parametrize("status", [500, 503, 403])
async def test_a_refusal_that_says_nothing_about_the_request_is_outlived(
    streams: Streams, redis_url: str, status: int
) -> None:
    def answer(request: web.Request, number: int) -> web.Response:
        return web.Response(status=status, text="<html>") if number < 4 else good_trades(request)

    ask(streams, trades_request(1, 100, 130))
    async with Stub(answer).running() as stub, repairing(a_context(stub.rest_url, redis_url)) as context:
        await eventually(settled(streams, 1))
    assert (count(context, "served"), count(context, "refused"), count(context, "dead")) == (1, 3, 0)


async def test_a_malformed_answer_kills_its_request_alone(streams: Streams, redis_url: str) -> None:
    def answer(request: web.Request, number: int) -> web.Response:
        return web.json_response([{"a": 1}]) if request.query["symbol"] == "BAD" else good_trades(request)

    ask(streams, trades_request(1, 1, 5, "BAD"), trades_request(2, 1, 5))
    async with Stub(answer).running() as stub, repairing(a_context(stub.rest_url, redis_url)) as context:
        await eventually(settled(streams, 2))
    (dead,) = streams.range(KEYS.dead)
    assert b"malformed" in dead.fields[b"reason"]
    assert ujson.loads(dead.fields[b"fields"])["symbol"] == "BAD"
    assert (count(context, "served"), count(context, "dead")) == (1, 1)
    (finding,) = streams.range(KEYS.findings)
    assert (finding.fields[b"kind"], finding.fields[b"severity"], finding.fields[b"symbol"]) == (
        b"UNREPAIRED",
        b"error",
        b"BAD",
    )
    assert b"the request t1 for the trades with the ids 1 to 5 is given up: " in finding.fields[b"evidence"]


async def test_ids_that_the_exchange_no_longer_has_are_named(streams: Streams, redis_url: str) -> None:

    def answer(request: web.Request, number: int) -> web.Response:
        rows = ujson.loads(good_trades(request).body)  # type: ignore[arg-type]
        return web.json_response([row for row in rows if row["a"] not in (101, 102, 105, 130)])

    ask(streams, trades_request(1, 100, 130))
    async with Stub(answer).running() as stub, repairing(a_context(stub.rest_url, redis_url)) as context:
        await eventually(settled(streams, 1))
    (finding,) = streams.range(KEYS.findings)
    assert finding.fields[b"evidence"] == b"the exchange no longer has 4 trades: ids 101 to 102, 105, 130"
    assert (count(context, "missing"), count(context, "unrepaired")) == (4, 1)


async def test_answers_wait_while_the_feed_is_at_its_cap(streams: Streams, redis_url: str) -> None:
    """The answer is kept, and nothing is asked for twice."""
    size = (int(streams.information("memory").get("maxmemory", 0)) or 64 << 20) // 100
    filled = [streams.append(KEYS.feed, {"a": "x" * (size // 10)}) for _ in range(11)]
    ask(streams, trades_request(1, 100, 130))
    sections: dict[str, Any] = {"streams": {"feed_percent": 1}}
    async with Stub(lambda request, _: good_trades(request)).running() as stub:
        context = a_context(stub.rest_url, redis_url, **sections)
        context = AsyncContext(
            "repair",
            replace(context.settings, redis=replace(context.settings.redis, maxmemory_mb=64)),
            argparse.Namespace(),
            None,
        )
        async with repairing(context):
            await eventually(lambda: count(context, "feed_full"))
            await eventually(lambda: count(context, "answers") == 1)
            assert streams.length(KEYS.feed) == len(filled)
            trim_before(streams, KEYS.feed, filled[-1])
            await eventually(lambda: count(context, "served") == 1)
    assert count(context, "answers") == 1
    assert streams.length(KEYS.feed) == 2


async def test_redis_away_while_answers_come_loses_none(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    requests = [trades_request(number, 3000 * number, 3000 * number + 2500) for number in range(1, 9)]
    ask(streams, *requests)
    async with Relay(redis_url).running() as relay, running(local()) as exchange:
        context = a_context(exchange.rest_url, relay.url, repair={"calls_max": 3})
        async with repairing(context):
            for at in (2000, 8000, 14_000):

                def come(least: int = at) -> bool:
                    return count(context, "trades") >= least

                await eventually(come, 30)
                relay.refusing = True
                relay.cut()

                def refused(least: int = relay.refused + 2) -> bool:
                    return relay.refused >= least

                await eventually(refused)
                relay.refusing = False
            await eventually(settled(streams, 8), 30)
            await eventually(lambda: "Redis answers again" in caplog.text)
    ids = set(map(int, column_of(feed_of(streams, "trades"), "id")))
    assert ids == {each for request in requests for each in range(request.first, request.last + 1)}
    assert count(context, "dead") == 0


async def test_a_redis_that_lost_everything_is_served_on(streams: Streams, redis_url: str) -> None:
    async with running(local()) as exchange, repairing(a_context(exchange.rest_url, redis_url)):
        ask(streams, trades_request(1, 5, 9))
        await eventually(settled(streams, 1))
        streams.delete(KEYS.requests, KEYS.feed, WEIGHTS_KEY)
        ask(streams, trades_request(2, 10, 12))
        await eventually(settled(streams, 1))
    assert column_of(feed_of(streams, "trades"), "id") == ["10", "11", "12"]


async def test_a_stream_that_is_none_ends_the_process(streams: Streams, redis_url: str) -> None:
    streams.set_bytes(KEYS.requests, b"text")
    async with running(local()) as exchange:
        with pytest.raises(RedisRefused, match="WRONGTYPE"):
            await asyncio.wait_for(repair(a_context(exchange.rest_url, redis_url), SHORT), 10)


def test_without_redis_the_start_is_refused_in_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "klagg.toml"
    config.write_text(f'[redis]\nurl = "redis://127.0.0.1:{closed_port()}/0"\n', encoding="utf-8")
    assert main(["--config", str(config)]) == 1
    assert "Redis does not answer" in capfd.readouterr().err

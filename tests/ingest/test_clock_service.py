"""The clock process with a real Redis and a small exchange: ticks, listings, triggers, and what ends it."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ingest import clock_service
from ingest.clock_service import TRIGGERS_KEPT, ClockJobs, clock, main
from ingest.timings import Timings
from klagg.binance.weight_account import report_weight
from klagg.clock import local_ms
from klagg.drivers.redis_streams import AsyncStreams, Entry, Streams
from klagg.process.alarms import AlarmKind
from klagg.process.service import AsyncContext
from klagg.settings import from_tree
from klagg.wire.entries import TRIGGER_DAYS, TRIGGER_RETENTION, TRIGGER_SNAPSHOT, listings_of, trigger_of
from klagg.wire.fields import VERSION
from klagg.wire.keys import CLOCK_KEY, WEIGHTS_KEY, shard_of
from tests.ingest.kit import NOW_MS, SYMBOLS, Relay, SmallExchange, contract_news, feed_of, standing
from tests.kit import eventually_async as eventually

pytestmark = pytest.mark.servers


SHORT = Timings(sync_retry_s=0.05, listings_retry_first_s=0.05)


@pytest.fixture
def streams(redis_url: str) -> Streams:
    return Streams(redis_url)


def a_context(source: SmallExchange, redis_url: str, **sections: Any) -> AsyncContext:
    """The context of a clock that ticks every 50 ms, with further sections of settings."""
    tree = {
        **sections,
        "exchange": {
            "rest_url": source.rest_url,
            "websocket_url": source.websocket_url,
            **sections.get("exchange", {}),
        },
        "clock": {"tick_ms": 50, "snapshot_s": 1, "sync_s": 1, **sections.get("clock", {})},
        "redis": {"url": redis_url, "timeout_ms": 500, "block_ms": 100},
    }
    return AsyncContext("clock", from_tree(tree), argparse.Namespace(), None)


@asynccontextmanager
async def a_clock(context: AsyncContext, timings: Timings = SHORT) -> AsyncIterator[asyncio.Task[None]]:
    """The process's body, running; at the end it is asked to stop, and must have ended well."""
    task = asyncio.create_task(clock(context, timings))
    try:
        yield task
    finally:
        context.stopping.set()
        await asyncio.wait_for(task, 20)


def times_of(entries: list[Entry]) -> list[int]:
    return [int(entry.fields[b"time"]) for entry in entries]


def arrivals_of(entries: list[Entry]) -> list[int]:
    """When Redis took the entries, in ms."""
    return [int(entry.id.partition("-")[0]) for entry in entries]


async def test_ticks_tell_the_exchanges_time_at_their_pace(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        async with a_clock(a_context(exchange, redis_url)):
            await eventually(lambda: len(feed_of(streams, "tick")) >= 30)
        ticks = feed_of(streams, "tick")
    times, arrivals = times_of(ticks), arrivals_of(ticks)
    assert all(earlier < later for earlier, later in pairwise(times))
    # On average one in 50 ms (more on a busy machine, never less), and no drift against real time.
    assert 45 <= (times[-1] - times[0]) / (len(times) - 1) <= 100
    offsets = [time_ms - arrival for time_ms, arrival in zip(times, arrivals, strict=True)]
    assert max(offsets) - min(offsets) <= 500
    assert abs(times[0] - NOW_MS) < 60_000
    numbers = [int(entry.fields[b"seq"]) for entry in streams.range("feed:{0}")]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_the_last_ids_of_listed_symbols_are_witnesses_once_a_minute(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        exchange.speed = 60.0
        exchange.last_fills = {SYMBOLS[0]: 4711, "UNLISTEDUSDT": 5, SYMBOLS[1]: "none"}
        async with a_clock(a_context(exchange, redis_url), replace(SHORT, witnesses_s=0.1, supervise_s=0.05)):
            await eventually(lambda: len(feed_of(streams, "witness")) >= 2)
        entries = feed_of(streams, "witness")
        names = ("ids", "source", "symbol", "id")
        assert {tuple(entry.fields[name.encode()].decode() for name in names) for entry in entries} == {
            ("trade", "rest", SYMBOLS[0], "4711")
        }
        times = times_of(entries)
        assert all(later // 60_000 > earlier // 60_000 for earlier, later in pairwise(times))
        assert all(time_ms % 60_000 >= 5_000 for time_ms in times)


async def test_ticks_go_on_where_last_ids_cannot_be_had(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, clock={"witness_after_ms": 1})
        async with a_clock(context, replace(SHORT, witnesses_s=0.1, supervise_s=0.05)):
            await eventually(lambda: context.stats.counters.get("witness_failures", 0) >= 1)
            count = len(feed_of(streams, "tick"))
            await eventually(lambda: len(feed_of(streams, "tick")) >= count + 5)
        assert not feed_of(streams, "witness")


async def test_ticks_stand_still_while_the_exchanges_time_is_back(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They still come: what is in progress goes on to be told."""
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url)
        stats = context.stats
        async with a_clock(context):
            await eventually(lambda: len(feed_of(streams, "tick")) >= 10)
            exchange.offset_ms -= 3_600_000
            await eventually(lambda: stats.counters.get("time_went_back"))
            held_ms, count = times_of(feed_of(streams, "tick"))[-1], len(feed_of(streams, "tick"))
            await eventually(lambda: len(feed_of(streams, "tick")) >= count + 20)
            assert set(times_of(feed_of(streams, "tick"))[count:]) == {held_ms}
            assert 3_590_000 < float(stats.gauges["ticks_held_ms"]) <= 3_600_000
            assert AlarmKind.TIME_WENT_BACK in standing(stats)
            exchange.offset_ms += 3_600_000
            await eventually(lambda: times_of(feed_of(streams, "tick"))[-1] > held_ms + 200)
            assert AlarmKind.TIME_WENT_BACK not in standing(stats)
        times = times_of(feed_of(streams, "tick"))
    assert times == sorted(times)
    said = [record.getMessage() for record in caplog.records]
    assert len([each for each in said if each.startswith("ALARM: the exchange's time went back by ")]) == 1
    assert len([each for each in said if each == "the exchange's time has caught up: ticks go on"]) == 1
    assert stats.counters["time_went_back"] == 1


async def test_its_questions_are_on_the_account_and_a_pause_holds_them_back(streams: Streams, redis_url: str) -> None:
    """Ticks go on meanwhile: the clock is known."""
    pausing = AsyncStreams(redis_url)
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url)
        counters = context.stats.counters
        async with a_clock(context):
            await eventually(lambda: counters.get("syncs") and counters.get("listings"))
            account = streams.hash_of(WEIGHTS_KEY)
            assert sum(int(used) for name, used in account.items() if name.endswith(b":clock")) >= 3
            await report_weight(pausing, 0, 0, 1000.0)
            await eventually(lambda: counters.get("sync_failures"))
            syncs, ticks = counters["syncs"], counters["ticks"]
            await eventually(lambda: counters["ticks"] >= ticks + 10)
            assert counters["syncs"] == syncs
            assert not context.stopping.is_set()
    await pausing.close()


async def test_news_of_a_contract_are_a_listing_at_once(streams: Streams, redis_url: str) -> None:
    """Also while exchangeInfo still shows what it showed before; one that is new is requested."""

    def listed_as(symbol: str) -> list[str]:
        told = [each for entry in feed_of(streams, "listing") for each in listings_of(entry.fields)]
        return [each.status for each in told if each.symbol == symbol]

    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url)
        async with a_clock(context, replace(SHORT, request_least_s=0.1)):
            await eventually(lambda: exchange.controls and listed_as(SYMBOLS[0]) == ["TRADING"])
            await exchange.publish("!contractInfo", contract_news(SYMBOLS[0], "SETTLING"))
            await eventually(lambda: len(listed_as(SYMBOLS[1])) >= 3)
            assert listed_as(SYMBOLS[0])[1:] == ["SETTLING"] * (len(listed_as(SYMBOLS[0])) - 1)
            exchange.statuses[SYMBOLS[0]] = "SETTLING"
            exchange.symbols.append("新USDT")
            await exchange.publish("!contractInfo", contract_news("新USDT", "TRADING"))
            await exchange.publish("!contractInfo", contract_news("BTCUSD_PERP", "SETTLING") | {"st": 2})
            await eventually(lambda: listed_as("新USDT"))
        assert context.stats.counters["contract_news"] == 2


async def test_every_shard_gets_every_tick_and_its_own_listings(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        exchange.symbols = [f"SYM{number}USDT" for number in range(30)]
        async with a_clock(a_context(exchange, redis_url, shards=3)):
            await eventually(lambda: len(feed_of(streams, "tick", "feed:{2}")) >= 5)
            await eventually(lambda: all(feed_of(streams, "listing", f"feed:{{{shard}}}") for shard in range(3)))
    ticks = [times_of(feed_of(streams, "tick", f"feed:{{{shard}}}")) for shard in range(3)]
    assert ticks[0] == ticks[1] == ticks[2]
    for shard in range(3):
        entries = feed_of(streams, "listing", f"feed:{{{shard}}}")
        listed = [each for entry in entries for each in listings_of(entry.fields)]
        assert [each.symbol for each in listed] == sorted(s for s in exchange.symbols if shard_of(s, 3) == shard)
        assert {(each.price_scale, each.qty_scale, each.generation) for each in listed} == {(2, 3, 1569398400000)}


async def test_listings_come_before_and_again_after_their_time(streams: Streams, redis_url: str) -> None:
    hasty = {"listings_s": 1}
    async with SmallExchange().running() as exchange, a_clock(a_context(exchange, redis_url, clock=hasty)):
        await eventually(lambda: len(feed_of(streams, "listing")) >= 1)
        exchange.symbols = [*SYMBOLS, "NEWUSDT"]
        await eventually(lambda: len(feed_of(streams, "listing")) >= 2)
    first, second = feed_of(streams, "listing")[:2]
    assert [each.symbol for each in listings_of(first.fields)] == sorted(SYMBOLS)
    assert [each.symbol for each in listings_of(second.fields)] == sorted([*SYMBOLS, "NEWUSDT"])


def statuses(entry: Entry) -> dict[str, str]:
    return {each.symbol: each.status for each in listings_of(entry.fields)}


@pytest.mark.parametrize("named", [[], ["BTCUSDT", "ETHUSDT"], ["ETHUSDT"]])
async def test_a_name_that_vanishes_is_ended_and_one_that_comes_back_lives(
    streams: Streams,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
    named: list[str],
) -> None:
    timings = replace(SHORT, confirm_ms=200.0, confirm_margin_s=0.05)
    context_of = {"exchange": {"symbols": named}, "clock": {"listings_s": 1}}
    others = {name: "TRADING" for name in named or SYMBOLS if name != "ETHUSDT"}
    async with SmallExchange().running() as exchange, a_clock(a_context(exchange, redis_url, **context_of), timings):
        await eventually(lambda: feed_of(streams, "listing"))
        exchange.symbols.remove("ETHUSDT")
        await eventually(lambda: statuses(feed_of(streams, "listing")[-1]) == {**others, "ETHUSDT": "CLOSE"})
        exchange.symbols.append("ETHUSDT")
        await eventually(lambda: statuses(feed_of(streams, "listing")[-1]) == {**others, "ETHUSDT": "TRADING"})
    (said,) = [each.getMessage() for each in caplog.records if "no longer listed" in each.getMessage()]
    assert said.startswith("ETHUSDT ")


async def test_an_answer_that_lacks_most_symbols_is_not_believed(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, clock={"listings_s": 1})
        async with a_clock(context) as task:
            await eventually(lambda: feed_of(streams, "listing"))
            exchange.symbols = ["BTCUSDT"]
            await eventually(lambda: "lacks 2 of the 3 symbols listed before" in caplog.text)
            assert not task.done()
            exchange.symbols = ["BTCUSDT", "ETHUSDT", "OTHERUSDT"]
            await eventually(lambda: len(feed_of(streams, "listing")) >= 2)
    found = [statuses(each) for each in feed_of(streams, "listing")]
    assert {status for each in found for status in each.values()} == {"TRADING"}
    assert "ETHUSDT" in found[1]


def newest(streams: Streams) -> list[Entry]:
    return streams.newest(CLOCK_KEY, count=10)


async def test_triggers_and_their_trimming(streams: Streams, redis_url: str) -> None:
    for number in range(TRIGGERS_KEPT * 2):
        streams.append(CLOCK_KEY, {"name": "old", "time": str(number)})
    async with SmallExchange().running() as exchange, a_clock(a_context(exchange, redis_url)):
        await eventually(lambda: {b"snapshot", b"retention"} <= {each.fields[b"name"] for each in newest(streams)})
    told = [each for each in newest(streams) if each.fields[b"name"] != b"old"]
    assert [each.fields[b"seq"] for each in reversed(told)] == [b"%d" % seq for seq in range(1, len(told) + 1)]
    for each in told:
        name, time_ms = trigger_of(each.fields)
        assert each.fields[b"v"] == str(VERSION).encode()
        assert name in {TRIGGER_SNAPSHOT, TRIGGER_RETENTION, TRIGGER_DAYS}
        assert abs(time_ms - NOW_MS) < 60_000
    # Redis trims whole nodes of 100 entries.
    assert TRIGGERS_KEPT <= streams.length(CLOCK_KEY) <= TRIGGERS_KEPT + 100


async def test_a_fast_exchange_gets_fast_ticks_and_a_held_one_waits(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        exchange.speed = 0.0
        context = a_context(exchange, redis_url, clock={"tick_ms": 250})
        async with a_clock(context):
            await eventually(lambda: len(feed_of(streams, "tick")) >= 2)
            assert set(times_of(feed_of(streams, "tick"))) == {NOW_MS}
            exchange.offset_ms = NOW_MS - local_ms()
            exchange.speed = 20.0
            await eventually(lambda: context.stats.gauges.get("clock_speed") == 20.0)
            began = len(feed_of(streams, "tick"))
            await eventually(lambda: len(feed_of(streams, "tick")) >= began + 80)
    times = times_of(feed_of(streams, "tick"))
    assert times == sorted(times)
    fast = times[began:]
    assert 240 <= (fast[-1] - fast[0]) / (len(fast) - 1) <= 1000


async def test_no_tick_is_sent_before_the_time_is_known(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange:
        exchange.rest_status = 503
        context = a_context(exchange, redis_url)
        async with a_clock(context):
            await eventually(lambda: context.stats.counters.get("sync_failures", 0) >= 5)
            assert streams.length("feed:{0}") == 0
        async with a_clock(a_context(exchange, redis_url), replace(SHORT, unreachable_ms=100.0)):
            await eventually(lambda: feed_of(streams, "tick"))
    assert abs(times_of(feed_of(streams, "tick"))[0] - local_ms()) < 60_000
    said = [record.getMessage() for record in caplog.records]
    assert said.count("the exchange's clock cannot be read: ticks follow this machine's clock") == 1


async def test_ticks_go_on_when_redis_is_back(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange, Relay(redis_url).running() as relay:
        context = a_context(exchange, relay.url)
        async with a_clock(context):
            await eventually(lambda: len(feed_of(streams, "tick")) >= 3)
            relay.refusing = True
            relay.cut()
            await eventually(lambda: context.stats.counters.get("ticks_dropped", 0) >= 3)
            relay.refusing = False
            count = len(feed_of(streams, "tick"))
            await eventually(lambda: len(feed_of(streams, "tick")) >= count + 3)
    times = times_of(feed_of(streams, "tick"))
    assert times == sorted(times)
    numbers = [int(entry.fields[b"seq"]) for entry in streams.range("feed:{0}")]
    assert list(dict.fromkeys(numbers)) == list(range(1, max(numbers) + 1))
    said = [record.getMessage() for record in caplog.records]
    assert len([sentence for sentence in said if "dropped meanwhile" in sentence]) == 1
    assert said.count("Redis takes ticks again") == 1


async def test_listings_are_tried_again_until_redis_has_them(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange, Relay(redis_url).running() as relay:
        exchange.rest_status = 503
        context = a_context(exchange, relay.url)
        async with a_clock(context) as task:
            await eventually(lambda: context.stats.counters.get("sync_failures"))
            relay.refusing = True
            relay.cut()
            exchange.rest_status = 200
            await eventually(lambda: relay.refused >= 3)
            relay.refusing = False
            await eventually(lambda: feed_of(streams, "listing"))
            assert not task.done()


async def test_an_unexpected_error_of_a_job_ends_the_process(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_: ClockJobs) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(ClockJobs, "snapshot", broken)
    async with SmallExchange().running() as exchange:
        with pytest.raises(LookupError, match="a bug"):
            await asyncio.wait_for(clock(a_context(exchange, redis_url), SHORT), 20)


def told_by(context: AsyncContext) -> dict[AlarmKind, str]:
    """The alarms that stand, by kind."""
    return {each.kind: each.sentence for each in context.stats.alarms.standing}


@pytest.mark.parametrize("status", ["TRADING_HALT", "BREAK_2027"])
async def test_a_halt_is_written_at_once_and_an_alarm_that_ends(
    streams: Streams, redis_url: str, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    """Only what changed is written again, and `!contractInfo` tells nothing."""
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, clock={"statuses_s": 1})
        async with a_clock(context):
            await eventually(lambda: feed_of(streams, "listing"))
            exchange.statuses["ETHUSDT"] = status
            await eventually(lambda: len(feed_of(streams, "listing")) == 2)
            sentence = f"the exchange lists ETHUSDT as {status}: it stays as it is, its bars go on, also without trades"
            assert told_by(context) == {AlarmKind.HALTED: sentence}
            exchange.statuses.clear()
            await eventually(lambda: len(feed_of(streams, "listing")) == 3)
            assert told_by(context) == {}
    assert [statuses(entry) for entry in feed_of(streams, "listing")[1:]] == [
        {"ETHUSDT": status},
        {"ETHUSDT": "TRADING"},
    ]
    said = [each.getMessage() for each in caplog.records]
    assert said.count(f"ALARM: {sentence}") == 1
    assert len([each for each in said if "has a new word, status" in each]) == (status == "BREAK_2027")


async def test_a_choice_that_is_not_there_is_waited_for(streams: Streams, redis_url: str) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, exchange={"symbols": ["SOLUSDT"]}, clock={"statuses_s": 1})
        async with a_clock(context) as task:
            await eventually(lambda: context.stats.counters.get("listings", 0) >= 2)
            assert not task.done()
            why = "exchange.symbols names 'SOLUSDT', which the exchange does not list"
            assert told_by(context)[AlarmKind.WAITING].startswith(f"{why}: klagg waits")
            exchange.symbols.append("SOLUSDT")
            await eventually(lambda: feed_of(streams, "listing"))
            await eventually(lambda: not told_by(context))
            exchange.rows = {"contractType": "DELIVERING"}
            exchange.statuses["SOLUSDT"] = "SETTLING"
            await eventually(lambda: statuses(feed_of(streams, "listing")[-1]) == {"SOLUSDT": "SETTLING"})
            assert not task.done()


async def test_a_wall_clock_that_is_set_starts_all_jobs_anew(
    streams: Streams, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with SmallExchange().running() as exchange:
        context = a_context(exchange, redis_url, clock={"sync_s": 3600})
        async with a_clock(context, replace(SHORT, supervise_s=0.02)):
            await eventually(lambda: len(feed_of(streams, "tick")) >= 2)
            assert context.stats.counters["syncs"] == 1
            true_ms = local_ms
            monkeypatch.setattr(clock_service, "local_ms", lambda: true_ms() - 3_600_000)
            await eventually(lambda: context.stats.counters["syncs"] == 2)
            await eventually(lambda: context.stats.counters["listings"] >= 2)
    assert len([each for each in caplog.records if "this machine's clock was set by -3600" in each.getMessage()]) == 1
    times = times_of(feed_of(streams, "tick"))
    assert times == sorted(times)


def test_an_unreachable_redis_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "k.toml").write_text('[redis]\nurl = "redis://127.0.0.1:1/0"\n')
    before = logging.getLogger().handlers[:]
    try:
        assert main(["--config", str(tmp_path / "k.toml")]) == 1
    finally:
        logging.getLogger().handlers[:] = before
    (line,) = [each for each in capfd.readouterr().err.splitlines() if "CRITICAL" in each]
    assert "clock: Redis does not answer" in line

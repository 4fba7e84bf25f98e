"""What the gateway says of the data it serves, each with a fault that ends it.

The bars are those of the real aggregator core; a real gateway serves them from a real Redis and table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest

from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Append, HashUpdate, Streams, Write
from klagg.embedded import RedisServer
from klagg.intervals import DAY_MS, MINUTE_MS
from klagg.kline import Kline
from klagg.process.alarms import AlarmKind
from klagg.wire.entries import BARS_POSITION
from klagg.wire.fields import stamp
from klagg.wire.keys import Keys, heartbeat_key
from tests.aggregator.kit import T0, feed, new_core, tick, trade
from tests.aggregator.listingkit import list_, listed
from tests.gateway.kit import BTC, FINAL, NOW_MS, Client, Line, Teller, info_of, keep_info, kline, running
from tests.kit import eventually_async as eventually
from tests.trust.boardkit import (
    Fault,
    a_bar_of_the_exchange,
    a_bar_that_may_lack_trades,
    a_lost_bar,
    a_wrong_volume,
    fill_table,
    nothing,
)
from tests.trust.catalogue import Sentence
from tests.trust.test_processes import beat
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

KEYS = Keys(0)

# --- bars: `closed`, `complete`, `official`, `x` ---


def minutes(*, lost: int = 0, last: int = 9) -> Core:
    """Three trades a minute with ids 1 to `last`, the first a minute before T0; the trade with the id `lost` is."""
    core = new_core("1m", "1d")
    tick(core, T0 - MINUTE_MS)
    rows = [trade(number, T0 + (number - 4) * 20_000 + 5000) for number in range(1, last + 1)]
    feed(core, [each for each in rows if each.id != lost])
    return core


def after(core: Core, time_ms: int) -> list[Outputs]:
    """What the core puts out at a tick."""
    return [tick(core, time_ms)]


def proven() -> list[Outputs]:
    return after(minutes(), T0 + 2 * MINUTE_MS)


def without_a_trade() -> list[Outputs]:
    return after(minutes(lost=5), T0 + 2 * MINUTE_MS + 30_000)


def without_the_next_trade() -> list[Outputs]:
    return after(minutes(last=6), T0 + MINUTE_MS + 500)


def with_listing(status: str) -> list[Outputs]:
    core = minutes()
    list_(core, listed())
    said = after(core, T0 + 2 * MINUTE_MS)
    list_(core, listed(status))
    return [*said, tick(core, T0 + 2 * MINUTE_MS + 5000), tick(core, T0 + 3 * MINUTE_MS)]


def publish(streams: Streams, outputs: list[Outputs]) -> None:
    """As the aggregator commits them."""
    for number, each in enumerate(outputs, 1):
        writer = "aggregator-0@1"
        writes: list[Write] = [Append(KEYS.klines, stamp(fields, writer, number)) for fields in each.klines]
        writes += [Append(KEYS.live, stamp(fields, writer, number)) for fields in each.live]
        writes.append(HashUpdate(KEYS.bars, {**each.bars, BARS_POSITION: "0-0"}))
        writes.append(HashUpdate(KEYS.commit, {"seq": str(number)}))
        streams.write(writes)


async def said_of_bar(client: Client, interval: str = "1m") -> str:
    """What /api/klines says of the first minute, or of the day."""
    open_ms = T0 if interval == "1m" else T0 // DAY_MS * DAY_MS
    rows = (await client.get("/api/klines", symbol="BTCUSDT", interval=interval))["klines"]
    (bar,) = [each for each in rows if each["open_time"] == open_ms]
    return f"closed {bar['closed']} complete {bar['complete']} official {bar['official']}"


class Bar(NamedTuple):
    """A row of the catalogue: what is said of a bar that the aggregator published, without and with the fault."""

    sentence: Sentence
    say: Callable[[Client], Awaitable[str]]
    well: Callable[[], list[Outputs]]
    faulty: Callable[[], list[Outputs]]


WHOLE = "closed True complete True official False"
BARS = [
    Bar(
        Sentence("/api/klines", WHOLE, "a trade in it never came", "closed True complete False official False"),
        said_of_bar,
        proven,
        without_a_trade,
    ),
    Bar(
        Sentence("/api/klines", WHOLE, "the trade that proves it has not come", "closed False complete False"),
        said_of_bar,
        proven,
        without_the_next_trade,
    ),
    Bar(
        Sentence("/api/klines, the day", "closed True", "the symbol is merely halted", "closed False"),
        partial(said_of_bar, interval="1d"),
        partial(with_listing, "CLOSE"),
        partial(with_listing, "TRADING_HALT"),
    ),
    Bar(
        Sentence("/api/klines, the day", "closed True", "a status that nobody has seen", "closed False"),
        partial(said_of_bar, interval="1d"),
        partial(with_listing, "SETTLING"),
        partial(with_listing, "BREAK"),
    ),
]


@pytest.mark.parametrize("row", BARS, ids=lambda row: f"{row.sentence.where}: {row.sentence.fault}")
async def test_the_words_of_a_bar_are_true(redis_url: str, redis_server: RedisServer, row: Bar) -> None:
    said = []
    for outputs in (row.well(), row.faulty()):
        redis_server.command("FLUSHALL")
        streams = Streams(redis_url)
        publish(streams, outputs)
        streams.close()
        async with running(redis_url, stale_ms=60_000) as client:
            await eventually(partial(client.gateway.market.newest, "BTCUSDT", "1m"))
            said.append(await row.say(client))
    assert row.sentence.wrong(*said) == []


EVENT = Sentence("WebSocket", "x True", "another trade of the minute comes instead of the next one's", "x False")


async def test_the_event_that_ends_a_bar_is_true(redis_url: str, redis_server: RedisServer) -> None:
    said = []
    for time_ms in (T0 + MINUTE_MS + 5000, T0 + MINUTE_MS - 100):
        redis_server.command("FLUSHALL")
        core, streams = minutes(last=6), Streams(redis_url)
        publish(streams, after(core, T0 + MINUTE_MS - 1000))
        feed(core, [trade(7, time_ms)])
        async with running(redis_url, stale_ms=60_000) as client, client.socket("/ws/btcusdt@kline_1m") as socket:
            first = (await socket.receive_json(timeout=30))["k"]
            assert (first["t"], first["n"], first["x"]) == (T0, 3, False)
            await asyncio.to_thread(publish, streams, after(core, T0 + MINUTE_MS + 5000))
            event = (await socket.receive_json(timeout=30))["k"]
            assert event["t"] == T0
            said.append(f"x {event['x']}")
        streams.close()
    assert EVENT.wrong(*said) == []


STORED = [
    (Sentence("/api/klines", WHOLE, "it is the exchange's row", "complete False official True"), {"official": 1}),
    (Sentence("/api/klines", WHOLE, "a later version lost its proof", "complete False official False"), {}),
]


@pytest.mark.parametrize(("sentence", "changes"), STORED, ids=lambda each: getattr(each, "fault", ""))
async def test_the_words_of_a_stored_bar_are_true(
    redis_url: str, database_url: str, database: Database, teller: Teller, sentence: Sentence, changes: dict[str, int]
) -> None:
    def stored(**changes: Any) -> Kline:
        return kline(open_time=T0, **changes)

    upsert(database, [stored()])
    teller.tell({BTC: {}})
    async with running(redis_url, database_url, stale_ms=60_000) as client:
        without_fault = await said_of_bar(client)
        upsert(database, [stored(revision=2, complete=0, source="mixed", **changes)])
        assert sentence.wrong(without_fault, await said_of_bar(client)) == []


# --- /api/status, headers, and answers ---


@dataclass
class World:
    """What a fault is planted into."""

    client: Client
    streams: Streams
    database: Database


async def said_by_status(client: Client) -> str:
    """The words of /api/status about the whole."""
    found = await client.get("/api/status")
    missing, silent = ", ".join(found["missing"]), ", ".join(found["silent"])
    states = {each["state"] for each in found["processes"]}
    return (
        f"ok {found['ok']}; stale {found['stale']}; missing [{missing}]; silent [{silent}]; "
        f"market [{found['market']}]; alarms {[each['kind'] for each in found['alarms']]}; states {sorted(states)}"
    )


async def said_by_header(name: str, client: Client, path: str = "/fapi/v1/klines?symbol=BTCUSDT&interval=1m") -> str:
    """A header of an answer on Binance's path, and whether there is one."""
    status, headers, _ = await client.ask(path)
    return f"{status}: {name}: {headers[name]}" if name in headers else f"{status}: {name} is absent"


async def said_by_klines(client: Client) -> str:
    found = await client.get("/api/klines", symbol="BTCUSDT", interval="1m")
    return f"stale_for_ms {'counts' if found['stale_for_ms'] else 0}"


async def a_missing_process(world: World) -> None:
    await asyncio.to_thread(world.streams.delete, heartbeat_key("clock"))


async def says(world: World, name: str, **changes: object) -> None:
    said = beat(name, **changes)  # type: ignore[arg-type]
    await asyncio.to_thread(world.streams.set_with_ttl, heartbeat_key(name), said, 60)


async def a_frozen_process(world: World) -> None:
    await says(world, "repair", age_ms=20_000)


async def an_alarm(world: World) -> None:
    await says(world, "aggregator-0", alarms=(AlarmKind.NO_OUTPUT,))


async def a_look_that_redis_refuses(world: World) -> None:
    """The gateway's last look at the heartbeats was good, and it gets no other one."""
    for name in world.client.gateway.expected:
        await says(world, name, age_ms=7_000)
    await eventually(lambda: all(each.age_ms for each in world.client.gateway.report.seen))
    await asyncio.to_thread(world.streams.write, [HashUpdate("feed:{0}", {"no": "stream"})])


async def no_commit(world: World) -> None:
    """Live state stands still from here on: the next commit does not come."""
    world.client.gateway.market.shards[0].health.stale_ms = 500


async def no_trades(world: World) -> None:
    """No line brings a trade from the beginning on; what is waited for is that it is said."""


async def no_table(world: World) -> None:
    world.database.execute("ALTER TABLE klines_minutes RENAME TO elsewhere")
    world.database.execute("DROP VIEW klines CASCADE")


async def a_minute_that_may_lack_trades(world: World) -> None:
    """Of the day before."""
    row = kline(open_time=NOW_MS - MINUTE_MS, complete=0)
    await asyncio.to_thread(upsert, world.database, [row])


class Served(NamedTuple):
    """A row of the catalogue: what the gateway says of the whole."""

    sentence: Sentence
    say: Callable[[Client], Awaitable[str]]
    plant: Callable[[World], Awaitable[None]]


def served(
    where: str,
    said: str,
    plant: Callable[[World], Awaitable[None]],
    then: str,
    say: Callable[[Client], Awaitable[str]] = said_by_status,
) -> Served:
    return Served(Sentence(where, said, plant.__name__.replace("_", " "), then), say, plant)


OK = "ok True; stale False; missing []; silent []; market []; alarms []"
NO_ALARM, FRESH = "200: X-Klagg-Alarm is absent", "200: X-Klagg-Stale-Ms is absent"
says_alarms, says_age = partial(said_by_header, "X-Klagg-Alarm"), partial(said_by_header, "X-Klagg-Stale-Ms")
says_minutes = partial(said_by_header, "X-Klagg-Incomplete", path="/fapi/v1/ticker/24hr?symbol=BTCUSDT")

SERVED = [
    served("/api/status", OK, a_missing_process, "ok False; stale False; missing [clock]"),
    served("/api/status", OK, a_frozen_process, "missing []; silent [repair]; market []; alarms ['process_silent']"),
    served("/api/status", "states ['running']", a_frozen_process, "states ['running', 'silent']"),
    served("/api/status", OK, an_alarm, "alarms ['no_output']"),
    served("/api/status", OK, no_commit, "ok False; stale True"),
    served("/api/status", OK, no_trades, "market [no market data comes: no trade of any symbol has come for "),
    served("/api/status", OK, a_look_that_redis_refuses, "states ['silent']"),
    served("X-Klagg-Alarm", NO_ALARM, an_alarm, "X-Klagg-Alarm: no_output", says_alarms),
    served("X-Klagg-Alarm", NO_ALARM, a_frozen_process, "X-Klagg-Alarm: process_silent", says_alarms),
    served("X-Klagg-Alarm", NO_ALARM, no_trades, "X-Klagg-Alarm: no_market_data", says_alarms),
    served("X-Klagg-Alarm", NO_ALARM, a_look_that_redis_refuses, "X-Klagg-Alarm: process_silent", says_alarms),
    served("X-Klagg-Stale-Ms", FRESH, no_commit, "200: X-Klagg-Stale-Ms: ", says_age),
    served(
        "/fapi/v1/ticker/24hr",
        "200: X-Klagg-Incomplete is absent",
        a_minute_that_may_lack_trades,
        "200: X-Klagg-Incomplete: 1",
        says_minutes,
    ),
    served("/fapi/v1/klines", "200: ", no_table, "503: ", says_age),
    served("/api/klines", "stale_for_ms 0", no_commit, "stale_for_ms counts", said_by_klines),
]


@pytest.mark.parametrize("row", SERVED, ids=lambda row: f"{row.sentence.where}: {row.sentence.fault}")
async def test_the_words_of_the_gateway_are_true(
    redis_url: str, database_url: str, database: Database, streams: Streams, teller: Teller, row: Served
) -> None:
    teller.tell({BTC: FINAL})
    silent_s = 5 if row.plant is no_trades else 600
    options: dict[str, Any] = {"silent_s": silent_s, "stale_ms": 60_000, "pull_timeout_ms": 60_000}
    async with running(redis_url, database_url, **options) as client:
        for name in client.gateway.expected:
            streams.set_with_ttl(heartbeat_key(name), beat(name, age_ms=-600_000), 60)
        await eventually(lambda: len(client.gateway.report.seen) == len(client.gateway.expected))
        without_fault = await row.say(client)
        await row.plant(World(client, streams, database))

        async def told() -> str:
            said = await row.say(client)
            return said if row.sentence.then in said and row.sentence.said not in said else ""

        with_fault = await eventually(told, 30, 0.2)
        assert row.sentence.wrong(without_fault, with_fault) == []


FIRST_LOOK = Sentence(
    "/api/status", "ok True", "the gateway has not looked yet", "ok False; stale False; missing [aggr"
)


async def test_before_the_first_look_nothing_is_ok(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, stale_ms=60_000, pull_timeout_ms=60_000) as client:
        for name in client.gateway.expected:
            teller.streams.set_with_ttl(heartbeat_key(name), beat(name, age_ms=-600_000), 60)
        await eventually(lambda: len(client.gateway.report.seen) == len(client.gateway.expected))
        without_fault = await said_by_status(client)
    fresh = type(client.gateway)(client.gateway._context)
    try:
        assert not fresh.report.ok
        with_fault = f"ok {fresh.report.ok}; stale False; missing [{', '.join(fresh.report.missing)}]"
        assert FIRST_LOOK.wrong(without_fault, with_fault) == []
    finally:
        await fresh._pulling[0].close()


UNREADY = Sentence("/fapi/v1/exchangeInfo", "200: ", "exchangeInfo was not read yet", "503: ")


async def test_half_a_picture_is_no_answer(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, info=(), stale_ms=60_000) as client:
        with_fault = await said_by_header("Content-Type", client, "/fapi/v1/exchangeInfo")
        await asyncio.to_thread(keep_info, teller.streams, info_of("BTCUSDT"), ["BTCUSDT"])
        await eventually(lambda: client.gateway.market.info)
        without_fault = await said_by_header("Content-Type", client, "/fapi/v1/exchangeInfo")
    assert UNREADY.wrong(without_fault, with_fault) == []


# --- aggTrades ---


async def a_trade_that_no_line_brought(_: World, line: Line) -> str:
    line.bring(13)
    return "fromId=10"


async def a_time_that_the_feed_does_not_hold(_: World, __: Line) -> str:
    return "fromId=3"


async def more_than_a_request_may_read(world: World, _: Line) -> str:
    assert world.client.gateway.trades
    world.client.gateway.trades.entries_max = 0
    return "fromId=10"


TRADES_PATH = "/fapi/v1/aggTrades"
Planted = Callable[[World, Line], Awaitable[str]]
TRADES: list[tuple[Sentence, str, Planted]] = [
    (
        Sentence(TRADES_PATH, f"200: {name} is absent", planted.__name__.replace("_", " "), f"200: {name}: {then}"),
        name,
        planted,
    )
    for name, planted, then in (
        ("X-Klagg-Incomplete", a_trade_that_no_line_brought, "1"),
        ("X-Klagg-Since-Ms", a_time_that_the_feed_does_not_hold, ""),
        ("X-Klagg-Until-Ms", more_than_a_request_may_read, ""),
    )
]


@pytest.mark.parametrize(("sentence", "name", "plant"), TRADES, ids=lambda each: getattr(each, "fault", ""))
async def test_the_words_of_trades_are_true(
    redis_url: str, teller: Teller, database_url: str, database: Database, sentence: Sentence, name: str, plant: Planted
) -> None:
    teller.tell({BTC: {}})
    line = Line(teller.streams)
    line.bring(9, 10, 11)
    async with running(redis_url, database_url, stale_ms=60_000) as client:
        path = f"{TRADES_PATH}?symbol=BTCUSDT"
        without_fault = await said_by_header(name, client, f"{path}&fromId=10")
        query = await plant(World(client, teller.streams, database), line)
        with_fault = await said_by_header(name, client, f"{path}&{query}")
    assert sentence.wrong(without_fault, with_fault) == []


# --- the scoreboard ---


async def said_by_scoreboard(client: Client) -> str:
    found = await client.get("/api/scoreboard", interval="1m", start=T0 - DAY_MS, end=T0)
    (day,) = found["days"]
    explained = day["audited"] == day["exact"] + day["edge_shift"] + day["exchange_gap"]
    return (
        f"expected {day['expected']} complete {day['complete']} official {day['official']} missing {day['missing']} "
        f"unexplained {day['unexplained']} all explained {explained} local gap {day['local_gap']}"
    )


COUNTED = "expected 30 complete 30 official 0 missing 0 unexplained 0 all explained True local gap 0"
BOARD: list[tuple[Sentence, Fault]] = [
    (
        Sentence("/api/scoreboard", COUNTED, "a bar was lost", "complete 29 official 0 missing 1 unexplained 0"),
        a_lost_bar,
    ),
    (
        Sentence("/api/scoreboard", COUNTED, "a bar has a wrong volume", "all explained False"),
        a_wrong_volume,
    ),
    (
        Sentence("/api/scoreboard", COUNTED, "a bar may lack trades", "expected 30 complete 29 official 0 missing 0"),
        a_bar_that_may_lack_trades,
    ),
    (
        Sentence("/api/scoreboard", COUNTED, "a bar is the exchange's", "expected 30 complete 29 official 1 missing 0"),
        a_bar_of_the_exchange,
    ),
]


async def test_the_numbers_of_the_scoreboard_are_true(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    teller.tell({BTC: {}}, time_ms=NOW_MS)
    wrong = []
    async with running(redis_url, database_url, stale_ms=60_000) as client:
        fill_table(database, database_url, nothing)
        without_fault = await said_by_scoreboard(client)
        for sentence, fault in BOARD:
            fill_table(database, database_url, fault)
            wrong += sentence.wrong(without_fault, await said_by_scoreboard(client))
    assert wrong == []

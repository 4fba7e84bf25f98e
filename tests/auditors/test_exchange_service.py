"""The shell of the auditor of the exchange: what it writes and where, what it does when something is away."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from auditors import exchange_service
from auditors.amended import Amendment
from auditors.day_counts import JudgedBar
from auditors.exchange import DATABASE, EXCHANGE
from auditors.exchange_service import ExchangeAuditor
from auditors.schedule import AuditedSeries, Look, SeriesKey
from klagg import settings
from klagg.clock import ExchangeClock, steady_ms
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.errors import DatabaseUnavailable, ExchangeRefused, ExchangeUnavailable
from klagg.intervals import MINUTE, MINUTE_MS, Interval
from klagg.kline import Kline
from klagg.process.service import AsyncContext
from klagg.settings import to_toml
from klagg.wire.entries import request_of
from klagg.wire.fields import texts_of
from klagg.wire.findings import FindingKind
from klagg.wire.keys import Keys, heartbeat_key, shard_of
from tests.auditors.exchangekit import NAMES, SOUND_MS, World, clean, put
from tests.auditors.test_exchange import NAME, busy
from tests.conftest import ROOT
from tests.kit import eventually

pytestmark = pytest.mark.servers

AUDIT = settings.Audit(weight_per_minute=600_000)


class Rest:
    """The exchange's REST API over a world. `trouble` is raised instead of an answer, if there is any."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.trouble: Callable[[str], Exception | None] = lambda symbol: None
        self.asked: list[str] = []

    async def synchronise(self, clock: ExchangeClock) -> float:
        if trouble := self.trouble(""):
            raise trouble
        return clock.observe(steady_ms(), steady_ms(), SOUND_MS, 0)

    async def exchange_info(self) -> Any:
        rows = [
            {
                "symbol": each.symbol,
                "status": each.status,
                "pricePrecision": 2,
                "quantityPrecision": 3,
                "onboardDate": each.generation,
                "deliveryDate": each.delivery,
                "quoteAsset": "USDT",
                "contractType": "PERPETUAL",
            }
            for each in self.world.listings
        ]
        return {"symbols": rows}

    async def get(self, path: str, weight: int, **query: Any) -> Any:
        self.asked.append(query["symbol"])
        if trouble := self.trouble(query["symbol"]):
            raise trouble
        assert path == "/fapi/v1/klines"
        rows = self.world.theirs[query["symbol"], query["interval"]]
        chosen = [(at, row) for at, row in sorted(rows.items()) if query["startTime"] <= at <= query["endTime"]]
        return [
            [
                at,
                str(row["open"]),
                str(row["high"]),
                str(row["low"]),
                str(row["close"]),
                str(row["volume"]),
                at + MINUTE_MS - 1,
                str(row["quote_volume"]),
                int(row["trades"] or 0),
                str(row["taker_buy_volume"]),
                str(row["taker_buy_quote_volume"]),
                "0",
            ]
            for at, row in chosen[: query["limit"]]
        ]


class Store:
    """The database over a world."""

    def __init__(self, world: World) -> None:
        self.world, self.away, self.stood = world, False, set[str]()
        self.changed: list[Amendment] = []

    def _there(self) -> None:
        if self.away:
            raise DatabaseUnavailable("the database does not answer: nobody is there")

    def klines(self, look: Look) -> dict[int, Kline]:
        self._there()
        bars = self.world.ours.get(look.key, {})
        return {at: bar for at, bar in bars.items() if look.ours_from_ms <= at < look.end_ms}

    def minutes_of(self, look: Look, opens: Sequence[int]) -> dict[int, Kline]:
        raise AssertionError("minutes are no puzzle")

    def newest_minute(self, since_ms: int) -> int:
        self._there()
        return self.world.stored_ms(SOUND_MS)

    def first_bars(self, series: Sequence[AuditedSeries], since_ms: Sequence[int]) -> dict[SeriesKey, int]:
        return {each.key: min(self.world.ours[each.key]) for each in series if each.key in self.world.ours}

    def amended(self, intervals: Sequence[Interval], oldest_ms: int, since_ms: int) -> list[Amendment]:
        return self.changed

    def day_counts(self, now_ms: int) -> list[Any]:
        self._there()
        return [(symbol, MINUTE, counts) for (symbol, _), counts in self.world.day_counts.items()]

    def record(self, look: Look, judged: Sequence[JudgedBar], now_ms: int) -> None:
        self._there()
        self.world.record(look, judged)

    def open_of(self, ids: Iterable[str]) -> set[str]:
        return {each for each in ids if each in self.stood}

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def streams(redis_url: str) -> Iterator[Streams]:
    made = Streams(redis_url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDLE_S", "RETRY_FIRST_S", "HELD_S", "STORED_S"):
        monkeypatch.setattr(exchange_service, name, 0.01)


@asynccontextmanager
async def auditing(world: World, redis_url: str, shards: int = 1) -> AsyncIterator[tuple[ExchangeAuditor, Rest, Store]]:
    """A running auditor of a world."""
    chosen = replace(world.settings, redis=settings.Redis(url=redis_url), audit=AUDIT, shards=shards)
    context = AsyncContext("auditor-exchange", chosen, argparse.Namespace(), None)
    connection = context.connect()
    rest, store = Rest(world), Store(world)
    auditor = ExchangeAuditor(context, connection, rest, store)  # type: ignore[arg-type]
    task = asyncio.create_task(auditor.run())
    try:
        yield auditor, rest, store
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        auditor.close()
        await connection.close()
        await context.farewell()


def behind(said: list[dict[str, str]]) -> None:
    """What is said of a symbol that cannot be compared: that the auditor is behind with it."""
    assert [each["kind"] for each in said] in ([], [FindingKind.LAGGING])
    assert all(f"(of {NAME})" in each["evidence"] for each in said)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def entries(streams: Streams, key: str) -> list[dict[str, str]]:
    return [texts_of(each.fields) for each in streams.range(key)]


async def test_findings_requests_and_tallies_go_where_they_belong(streams: Streams, redis_url: str) -> None:
    """Each symbol's to its own shard, numbered."""
    shards = 3
    world = clean(edges=False)
    for name in NAMES:
        put(world, name, busy(world, name), complete=0, trades=0, volume="0")
    async with auditing(world, redis_url, shards) as (auditor, _, _):
        await until(lambda: len(world.day_counts) == len(NAMES) and auditor.audit.schedule.laps)
    assert world.counts["local_gap"] == len(NAMES)
    for name in NAMES:
        keys = Keys(shard_of(name, shards))
        (found,) = [each for each in entries(streams, keys.findings) if each["symbol"] == name]
        assert (found["kind"], found["interval"], found["severity"]) == ("LOCAL_GAP", "1m", "warning")
        (asked,) = [each for each in streams.range(keys.requests) if request_of(each.fields).symbol == name]
        assert request_of(asked.fields).first == int(found["open_time"])
    for shard in range(shards):
        for key in (Keys(shard).findings, Keys(shard).requests):
            said = entries(streams, key)
            assert [int(each["seq"]) for each in said] == list(range(1, len(said) + 1))


async def test_splits_at_a_close_are_claimed_with_the_exchange_s_rows(streams: Streams, redis_url: str) -> None:
    """Each in the feed of its symbol's shard, once."""
    shards = 2
    world = clean()
    async with auditing(world, redis_url, shards) as (auditor, _, _):
        await until(lambda: auditor.audit.schedule.laps)
    claims = {shard: entries(streams, Keys(shard).feed) for shard in range(shards)}
    assert {each["kind"] for said in claims.values() for each in said} == {"edges"}
    assert {each["symbol"] for said in claims.values() for each in said} == set(NAMES)
    for shard, said in claims.items():
        assert {shard_of(each["symbol"], shards) for each in said} == {shard}
        assert len({(each["symbol"], each["open_time"]) for each in said}) == len(said)
        for each in said:
            rows = world.theirs[each["symbol"], "1m"]
            opens = [int(opening) for opening in each["open_time"].split(",")]
            assert each["volume"].split(",") == [str(rows[opening]["volume"]) for opening in opens]


async def test_an_exchange_that_is_away_is_said_once_and_then_settled(streams: Streams, redis_url: str) -> None:
    world = clean(edges=False)
    async with auditing(world, redis_url) as (auditor, rest, _):
        rest.trouble = lambda symbol: ExchangeUnavailable("nobody answers")
        await until(lambda: entries(streams, "findings:{0}"))
        rest.trouble = lambda symbol: ExchangeRefused("not now", status=418) if symbol else None
        await until(lambda: len(rest.asked) > 3)
        rest.trouble = lambda symbol: None
        await until(lambda: auditor.audit.schedule.laps)
    said = entries(streams, "findings:{0}")
    kinds = [(each["kind"], each.get("closed", "0")) for each in said]
    assert kinds[0] == (FindingKind.UNREACHABLE, "0")
    assert kinds[-1] == (FindingKind.UNREACHABLE, "1")
    assert len({each["id"] for each in said}) == 1
    assert len(said) <= 4, "once for each time that it was away"
    assert EXCHANGE in said[0]["evidence"]
    assert world.counts["bars"] == world.counts["exact"] > 0


async def test_a_database_that_is_away_is_waited_for(streams: Streams, redis_url: str) -> None:
    world = clean(edges=False)
    async with auditing(world, redis_url) as (auditor, _, store):
        await until(lambda: auditor.audit.schedule.laps)
        before = world.counts["bars"]
        store.away = True
        await until(lambda: entries(streams, "findings:{0}"))
        store.away = False
        await until(lambda: len(entries(streams, "findings:{0}")) == 2)
    said = entries(streams, "findings:{0}")
    assert [(each["kind"], each.get("closed", "0")) for each in said] == [
        (FindingKind.UNREACHABLE, "0"),
        (FindingKind.UNREACHABLE, "1"),
    ]
    assert DATABASE in said[0]["evidence"]
    assert world.counts["bars"] == before


@pytest.mark.parametrize("status", [400, 404])
async def test_a_symbol_that_is_refused_holds_up_no_other(streams: Streams, redis_url: str, status: int) -> None:
    world = clean(edges=False)
    async with auditing(world, redis_url) as (_, rest, _):
        rest.trouble = lambda symbol: (
            ExchangeRefused("Invalid symbol.", status=status, code=-1121) if symbol == NAME else None
        )
        await until(lambda: len(world.day_counts) == len(NAMES) - 1)
        await until(lambda: NAME in rest.asked)
    behind(entries(streams, "findings:{0}"))
    assert rest.asked.count(NAME) == 1


async def test_a_row_that_cannot_be_is_told_and_the_others_are_compared(streams: Streams, redis_url: str) -> None:
    world = clean(edges=False)
    at = busy(world)
    world.theirs[NAME, "1m"][at] = {**world.theirs[NAME, "1m"][at], "volume": "much"}  # type: ignore[dict-item]
    async with auditing(world, redis_url) as (auditor, _, _):
        await until(lambda: len(world.day_counts) == len(NAMES))
        await until(lambda: any(each["kind"] == "EXCHANGE_GAP" for each in entries(streams, "findings:{0}")))
        assert auditor.audit.bars > 0
    (found,) = [each for each in entries(streams, "findings:{0}") if each["kind"] == "EXCHANGE_GAP"]
    assert (found["symbol"], found["open_time"]) == (NAME, str(at))
    assert "the exchange has a row that cannot be (a value is not a decimal" in found["evidence"]


async def test_what_stood_about_itself_before_a_restart_is_settled(streams: Streams, redis_url: str) -> None:
    world = clean(edges=False)
    ids = {what: name for name, what in world.audit.own_finding_ids().items()}
    async with auditing(world, redis_url) as (_, rest, store):
        store.stood = {f"0:{ids[EXCHANGE]}"}
        await until(lambda: entries(streams, "findings:{0}") or len(rest.asked) > 3)
    for each in entries(streams, "findings:{0}"):
        assert (each["id"], each["closed"]) == (ids[EXCHANGE], "1")


async def test_what_is_amended_after_it_was_compared_is_compared_again(streams: Streams, redis_url: str) -> None:
    world = clean(edges=False)
    at = busy(world)
    async with auditing(world, redis_url) as (auditor, _, store):
        await until(lambda: auditor.audit.schedule.laps)
        put(world, NAME, at, high="999.00", revision=2)
        store.changed = [Amendment(NAME, "1m", at, (1, 2, 1, 0), 5)]
        await until(lambda: entries(streams, "findings:{0}") and world.counts["unexplained"])
        asked = len(auditor.audit.amended)
    (found,) = entries(streams, "findings:{0}")
    assert (found["kind"], found["open_time"]) == ("UNEXPLAINED", str(at))
    assert (asked, world.counts["unexplained"]) == (0, 1)


# --- the store ---


# --- the process ---


def process(config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "auditors.exchange_service", "--config", str(config)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def test_without_a_database_it_refuses_to_start(redis_url: str, tmp_path: Path) -> None:
    config = tmp_path / "klagg.toml"
    config.write_text(f'[redis]\nurl = "{redis_url}"\n[database]\nenabled = false\n', encoding="utf-8")
    started = process(config)
    _, told = started.communicate(timeout=30)
    assert started.returncode == 2
    assert "database.enabled is false" in told.decode()


def test_it_lives_without_the_exchange_and_ends_when_asked(
    database: Database, database_url: str, streams: Streams, redis_url: str, tmp_path: Path
) -> None:
    """Nobody answers at its address: it says so, and goes on asking."""
    config = tmp_path / "klagg.toml"
    chosen = settings.Settings(
        redis=settings.Redis(url=redis_url),
        database=settings.Database(url=database_url),
        exchange=settings.Exchange(rest_url="http://127.0.0.1:9"),
    )
    config.write_text(to_toml(chosen), encoding="utf-8")
    started = process(config)
    try:
        eventually(lambda: entries(streams, "findings:{0}"), 60, 0.1)
        assert streams.values_like(heartbeat_key("auditor-exchange"))
        started.send_signal(signal.SIGTERM)
        _, told = started.communicate(timeout=30)
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()
    assert started.returncode == 0, told.decode()
    assert "UNREACHABLE" in told.decode()
    assert "summary: 0 bars compared" in told.decode()
    assert streams.values_like(heartbeat_key("auditor-exchange")) == {}

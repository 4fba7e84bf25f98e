"""`klagg audit` on demand: the database against the exchange's REST API, within the weight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
import ujson

from klagg.cli.main import main as klagg
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.intervals import HOUR_MS, MINUTE_MS
from klagg.simulator import Simulator, SyntheticMarket
from klagg.wire.keys import WEIGHTS_KEY
from tests.cli.test_backfill_command import MARKET
from tests.simulator.kit import START_MS, running
from writers.migrate import migrate

pytestmark = pytest.mark.servers

NOW_MS = START_MS + 10 * MINUTE_MS
CHANGED = """
UPDATE klines_minutes SET high = high + 1
WHERE symbol = %(symbol)s AND open_time = timestamptz 'epoch' + %(at_ms)s * interval '1 millisecond'
"""
DROPPED = """
DELETE FROM klines_hours
WHERE symbol = %(symbol)s AND open_time = timestamptz 'epoch' + %(at_ms)s * interval '1 millisecond'
"""


@pytest.fixture
def database(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A fresh database with the schema, which the command finds by the environment, as it finds Redis."""
    monkeypatch.setenv("KLAGG_DATABASE__URL", database_url)
    monkeypatch.setenv("KLAGG_REDIS__URL", redis_url)
    made = Database(database_url)
    migrate(made)
    yield made
    made.close()


@pytest_asyncio.fixture
async def exchange(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Simulator]:
    market = SyntheticMarket(**MARKET)
    async with running(Simulator(market, start_ms=NOW_MS)) as local:
        monkeypatch.setenv("KLAGG_EXCHANGE__REST_URL", local.rest_url)
        yield local


async def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], dict[str, Any]]:
    """The exit code, the lines and the summary."""
    code = await asyncio.to_thread(klagg, list(arguments))
    *lines, last = capsys.readouterr().out.splitlines()
    return code, lines, ujson.loads(last)


async def test_what_was_loaded_is_right_and_what_was_changed_is_found(
    database: Database, exchange: Simulator, redis_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, _, _ = await run(capsys, "backfill", "--intervals", "1m,1h", "--from", "2025-12", "--json")
    assert loaded == 0
    asked = ["audit", "--intervals", "1m", "1h", "--from", "2026-01-01T09:00", "--to", "2026-01-01T11:00"]
    code, lines, whole = await run(capsys, *asked)
    assert (code, lines) == (0, [])
    assert whole["bars"] == whole["exact"] == 2 * (120 + 2)

    symbols = [each.symbol for each in SyntheticMarket(**MARKET).listings(NOW_MS)]
    at_ms = START_MS - 2 * HOUR_MS
    assert database.execute(CHANGED, {"symbol": symbols[1], "at_ms": at_ms}) == 1
    assert database.execute(DROPPED, {"symbol": symbols[0], "at_ms": at_ms}) == 1
    code, lines, wrong = await run(capsys, *asked)
    assert (code, wrong["unexplained"], wrong["local_gap"]) == (1, 1, 1)
    assert wrong["bars"] == whole["bars"]
    assert [line.split()[0] for line in lines if " UNEXPLAINED: high " in line] == [symbols[1]]
    code, lines, one = await run(capsys, *asked, "--symbols", symbols[0].lower(), "--json")
    assert (code, one["bars"], one["unexplained"]) == (0, 122, 0)
    assert next(each for each in map(ujson.loads, lines) if each["verdict"] == "LOCAL_GAP")["interval"] == "1h"
    account = {name.decode(): int(used) for name, used in Streams(redis_url).hash_of(WEIGHTS_KEY).items()}
    assert sum(used for name, used in account.items() if name.endswith(":backfill")) > 0


async def test_without_a_range_it_is_the_last_hour(
    database: Database, exchange: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await run(capsys, "backfill", "--intervals", "1m", "--from", "2025-12", "--json"))[0] == 0
    code, lines, found = await run(capsys, "audit", "--intervals", "1m")
    assert (code, lines) == (0, [])
    assert 2 * 57 <= found["bars"] == found["exact"] <= 2 * 60


async def test_what_cannot_be_asked_is_said(
    database: Database, exchange: Simulator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await asyncio.to_thread(klagg, ["audit", "--symbols", "NOSUCHUSDT"]) == 2
    assert "does not list NOSUCHUSDT" in capsys.readouterr().err
    assert await asyncio.to_thread(klagg, ["audit", "--intervals", "5s"]) == 2
    assert "no klines of 5s" in capsys.readouterr().err
    monkeypatch.delenv("KLAGG_REDIS__URL")
    assert await asyncio.to_thread(klagg, ["audit"]) == 2
    assert "set redis.url, or name dumps with --klines" in capsys.readouterr().err

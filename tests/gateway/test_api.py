"""klagg's own API on a real Redis and TimescaleDB; every answer is held against its own description."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import aiohttp
import pytest

from gateway import downloads
from gateway.endpoints import TIME_MAX
from gateway.store import HistoryStore
from klagg.drivers.postgres import Database
from klagg.errors import DatabaseUnavailable
from klagg.intervals import DAY_MS
from klagg.wire.fields import stamp
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import Keys
from tests.gateway.kit import FINAL, MINUTE_MS, NOW_MS, Client, Teller, info_of, keep_info, kline, row_of, running
from tests.kit import eventually_async as eventually
from writers.history_findings import FindingRow, finding_of
from writers.history_table import keep
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

BTC = ("BTCUSDT", "1m")
SERIES = {"symbol": "BTCUSDT", "interval": "1m"}
KINDS: dict[str, type] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


def check(value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str = "$") -> None:
    """Whether a value keeps its schema, as far as these schemas go."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(type(value) is KINDS[kind] for kind in kinds), f"{where} is {value!r}, not {kinds}"
    if isinstance(value, dict) and "properties" in schema:
        assert set(value) == set(schema["properties"]) == set(schema["required"]), where
        for name, inner in schema["properties"].items():
            check(value[name], inner, schemas, f"{where}.{name}")
    if isinstance(value, list):
        for each in value:
            check(each, schema["items"], schemas, f"{where}[]")
    if isinstance(value, str) and "pattern" in schema:
        assert re.fullmatch(schema["pattern"], value), where


async def described(client: Client, name: str, **query: Any) -> Any:
    """The answer of an endpoint that keeps its description."""
    document = await client.get("/api/openapi.json")
    body = await client.get(f"/api/{name}", **query)
    schema = document["paths"][f"/api/{name}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    check(body, schema, document["components"]["schemas"])
    return body


def at(number: int) -> int:
    return NOW_MS + number * MINUTE_MS


async def test_klines_come_with_their_provenance(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    told_by_exchange: dict[str, Any] = {"revision": 2, "source": "mixed", "complete": 0, "official": 1}
    upsert(database, [kline(open_time=at(0)), kline(open_time=at(1), **told_by_exchange)])
    teller.tell({BTC: {"open_time": at(2), **FINAL}})
    teller.tell({BTC: {"open_time": at(3)}})
    async with running(redis_url, database_url) as client:
        found = await described(client, "klines", **SERIES)
        names = ("revision", "complete", "official", "source", "closed")
        told = [tuple(each[name] for name in names) for each in found["klines"]]
        assert told == [
            (1, True, False, "own", True),
            (2, False, True, "mixed", True),
            (1, True, False, None, True),
            (0, False, False, None, False),
        ]
        assert (found["symbol"], found["interval"], found["stale_for_ms"]) == ("BTCUSDT", "1m", 0)
        part = await described(client, "klines", **SERIES, start=at(1), end=at(2), limit=1)
        assert [each["open_time"] for each in part["klines"]] == [at(1)]
        status, _, body = await client.ask("/api/klines", symbol="NOSUCH", interval="1m")
        assert (status, body["error"]) == (404, "unknown_symbol")
        status, _, body = await client.ask("/api/klines", **SERIES, limit="x")
        assert (status, body["error"]) == (400, "bad_parameter")


async def test_symbols_have_prices_and_their_day(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    upsert(database, [kline("GONEUSDT")])
    teller.tell({BTC: {"close": "110.00"}, ("BTCUSDT", "1d"): {"open": "100.00", "quote_volume": "5.5"}})
    keep_info(teller.streams, info_of(row_of("BTCUSDT", status="TRADING_HALT")), ["BTCUSDT"])
    async with running(redis_url, database_url, info=()) as client:
        await eventually(lambda: client.gateway.market.stored and client.gateway.market.carried)
        btc, gone = (await described(client, "symbols"))["symbols"]
        assert (btc["status"], gone["status"]) == ("TRADING_HALT", None)
        assert (btc["symbol"], btc["price"], btc["change_percent"], btc["quote_volume"], btc["live"]) == (
            "BTCUSDT",
            "110.00",
            "10.00",
            "5.5",
            True,
        )
        assert (gone["symbol"], gone["live"], gone["price"]) == ("GONEUSDT", False, None)


def stands(number: int, evidence: str, symbol: str = "BTCUSDT", closed: bool = False) -> FindingRow:
    """The row of a finding with an id."""
    fields = finding_entry(
        FindingKind.LOCAL_GAP,
        Severity.ERROR,
        evidence,
        symbol=symbol,
        time_ms=number,
        finding_id=f"gap {symbol}",
        interval="1m",
        open_time=60_000,
        closed=closed,
    )
    raw = {name.encode(): value.encode() for name, value in stamp(fields, "a", number).items()}
    return finding_of(raw, 0, f"{number}-0")


async def test_gaps_and_findings(redis_url: str, database_url: str, database: Database, teller: Teller) -> None:
    database.execute(
        "INSERT INTO gaps (symbol, generation, ids, from_id, to_id, opened_at, ended_at, reason) VALUES"
        " ('BTCUSDT', 0, 'agg', 5, 9, to_timestamp(100), NULL, NULL),"
        " ('ETHUSDT', 0, 'agg', 1, 2, to_timestamp(200), to_timestamp(201), 'repaired')"
    )
    database.execute(
        "INSERT INTO findings (id, shard, kind, severity, symbol, writer, said_at, evidence) VALUES"
        " ('0:a:1', 0, 'DATA_LOSS', 'error', NULL, 'a', to_timestamp(7), '\"a sentence\"'),"
        " ('0:a:2', 0, 'UNREPAIRED', 'warning', 'BTCUSDT', 'a', NULL, '{\"ids\": [1]}')"
    )
    teller.tell({BTC: {}})
    async with running(redis_url, database_url) as client:
        eth, btc = (await described(client, "gaps"))["gaps"]
        assert (eth["opened_at"], eth["reason"], btc["ended_at"]) == (200_000, "repaired", None)
        assert [each["symbol"] for each in (await described(client, "gaps", open="true"))["gaps"]] == ["BTCUSDT"]
        loss, unrepaired = (await described(client, "findings"))["findings"]
        assert (loss["evidence"], loss["said_at"]) == ("a sentence", 7000)
        assert json.loads(unrepaired["evidence"]) == {"ids": [1]}
        assert (await described(client, "findings", severity="error", limit=1))["findings"] == [loss]
        assert (loss["standing"], loss["closed_at"], loss["closed_by"]) == (False, None, None)
        standing = [stands(1, "lacks 3"), stands(2, "amended", symbol="ETHUSDT"), stands(3, "amended", "ETHUSDT", True)]
        keep(database, [], standing, "agg")
        settled, gap = (each for each in (await described(client, "findings"))["findings"] if each["standing"])
        assert (gap["interval"], gap["open_time"], gap["closed_at"]) == ("1m", 60_000, None)
        assert (settled["symbol"], settled["closed_at"], settled["closed_by"]) == ("ETHUSDT", 3, "amended")
        assert (await described(client, "findings", open="true"))["findings"] == [gap]


async def test_the_scoreboard(redis_url: str, database_url: str, database: Database, teller: Teller) -> None:
    day_ms = NOW_MS // DAY_MS * DAY_MS
    database.execute(
        'INSERT INTO symbol_days (symbol, "interval", day, expected, bars, complete, amended, own, official)'
        " SELECT symbol, kind, to_timestamp(%(day_s)s) - ago * INTERVAL '1 day', 10, 9, 6, 1, 7, 2"
        " FROM unnest(ARRAY['BTCUSDT', 'ETHUSDT']) AS symbol, unnest(ARRAY['1m', '1d', '5s']) AS kind,"
        " unnest(ARRAY[0, 1, 29, 30]) AS ago",
        {"day_s": day_ms // 1000},
    )
    database.execute(
        "INSERT INTO audits VALUES ('ETHUSDT', to_timestamp(%(day_s)s), '1m', 9, 6, 1, 0, 0, 1, 1, now())",
        {"day_s": day_ms // 1000},
    )
    teller.tell({BTC: {}})
    async with running(redis_url, database_url) as client:
        found = await described(client, "scoreboard")
        assert [(day_ms - each["day"]) // DAY_MS for each in found["days"]] == [0, 1, 29]
        assert (found["first"], found["last"]) == (day_ms - 29 * DAY_MS, day_ms)
        assert "5s" not in found["intervals"], "only what klagg makes counts"
        today = found["days"][0]
        assert (today["symbols"], today["expected"], today["missing"], today["audited"]) == (2, 40, 4, 9)
        assert (today["complete"], today["official"]) == (24, 8)
        assert (today["exact"], today["unexplained"], found["days"][1]["audited_at"]) == (6, 1, None)
        assert [(each["symbol"], each["days"], each["unexplained"]) for each in found["symbols"]] == [
            ("ETHUSDT", 3, 1),
            ("BTCUSDT", 3, 0),
        ]
        one = await described(
            client, "scoreboard", symbol="BTCUSDT", interval="1m", start=day_ms - 30 * DAY_MS, end=day_ms - 1, limit=1
        )
        assert [each["expected"] for each in one["days"]] == [10, 10, 10]
        assert [each["symbol"] for each in one["symbols"]] == ["BTCUSDT"]
        for query in ("interval=7m", "limit=0", "day=1"):
            status, _, body = await client.ask(f"/api/scoreboard?{query}")
            assert status == 400, body
        assert (await described(client, "scoreboard", start=0, end=1))["days"] == []
        assert (await described(client, "scoreboard", start=day_ms, end=day_ms - 1))["days"] == []
        long = await described(client, "scoreboard", start=0, end=day_ms)
        assert (long["first"], long["last"], long["days"]) == (0, 365 * DAY_MS, [])
        assert (await described(client, "scoreboard", start=TIME_MAX, end=TIME_MAX))["days"] == []


async def test_the_status_shows_processes_streams_and_shards(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    finding = finding_entry(FindingKind.DATA_LOSS, Severity.ERROR, "gone", time_ms=7)
    teller.streams.append(Keys(0).findings, stamp(finding, "a", 1))
    teller.streams.set_with_ttl("heartbeat:clock", json.dumps({"process": "clock", "state": "running"}), 60)
    async with running(redis_url, stale_ms=60_000) as client, client.socket("/ws"):
        await eventually(lambda: client.gateway.report.seen)
        found = await described(client, "status")
        assert (found["stale"], found["clients"], found["database"]) == (False, 1, False)
        assert found["exchange"] == "fstream.binance.com"
        assert [each["process"] for each in found["processes"]] == ["clock"]
        assert found["streams"]["live:{0}"] == 1
        (shard,) = found["shards"]
        assert (shard["position"], shard["bars"], shard["alarm"]) == (teller.position, 1, False)
        status, _, body = await client.ask("/api/gaps")
        assert (status, body["error"]) == (503, "no_database")
        (row,) = (await described(client, "findings"))["findings"]
        assert (row["kind"], row["said_at"]) == ("DATA_LOSS", 7)
        assert (await client.ask("/api/nothing"))[0] == 404


async def test_a_range_is_downloaded_in_pages(
    redis_url: str, database_url: str, database: Database, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PAGE_ROWS", 10)
    upsert(database, [kline(open_time=at(number), trades=number) for number in range(30)])
    teller.tell({BTC: {"open_time": at(30), "trades": 30}}, time_ms=at(31))
    async with running(redis_url, database_url) as client:
        rows = await client.get("/api/download", **SERIES, start=at(0), format="json")
        assert [each["trades"] for each in rows] == list(range(31))
        url = client.url + "/api/download"
        async with client.session.get(url, params={**SERIES, "start": at(5), "end": at(14)}) as response:
            lines = (await response.text()).splitlines()
            assert (response.content_type, len(lines)) == ("text/csv", 11)
            assert "klines_BTCUSDT_1m_" in response.headers["Content-Disposition"]
        assert (await client.get("/api/download", **SERIES, start=at(90), end=at(80), format="json")) == []
        everything = await client.get("/api/download", **SERIES, start=0, format="json")
        assert [each["trades"] for each in everything] == list(range(31))


async def test_what_goes_wrong_in_a_download_is_told_before_it_begins_and_cuts_it_after(
    redis_url: str, database_url: str, database: Database, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PAGE_ROWS", 10)
    monkeypatch.setattr(downloads, "FILE_BYTES_MAX", 1000)
    upsert(database, [kline(open_time=at(number)) for number in range(30)])
    teller.tell({BTC: {"open_time": at(30)}}, time_ms=at(31))
    async with running(redis_url, database_url) as client:
        store = client.gateway.store
        assert store is not None
        klines = store.klines
        pages = 1

        async def failing(self: HistoryStore, *arguments: Any) -> Any:
            nonlocal pages
            pages -= 1
            if pages < 0:
                raise DatabaseUnavailable("gone")
            return await klines(*arguments)

        monkeypatch.setattr(HistoryStore, "klines", failing)
        with pytest.raises(aiohttp.ClientError):
            await client.ask("/api/download", **SERIES, start=at(0))
        status, _, body = await client.ask("/api/download", **SERIES, start=at(0))
        assert (status, body["error"]) == (503, "database_away")


async def test_hostile_texts_are_plain_texts(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    upsert(database, [kline()])
    teller.tell({BTC: {}})
    async with running(redis_url, database_url) as client:
        for text in ("'; DROP TABLE klines; --", "../../etc/passwd", "%00", "{{7*7}}", "\U0001f4a9", "BTCUSDT:1m"):
            assert (await client.ask("/api/klines", symbol=text, interval="1m"))[0] == 404
            assert (await client.ask("/api/gaps", symbol=text))[0] == 200
        async with client.session.get(client.url + "/../../../etc/passwd") as response:
            assert response.status == 404
        assert database.query("SELECT count(*) AS n FROM klines")[0]["n"] == 1
        await asyncio.gather(*(client.ask("/api/klines", **SERIES) for _ in range(30)))

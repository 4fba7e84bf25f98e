"""Downloads as clients ask for them: with a length, in parts, of many symbols, named, too long to keep, and cut."""

from __future__ import annotations

import asyncio
import io
from typing import Any

import pytest

from gateway import downloads
from gateway.downloads import FRESH_S, KEPT_S, KeptFile, KeptFiles, NotSatisfiable, part_of
from gateway.endpoints import TIME_MAX, time_of
from klagg.drivers.postgres import Database
from tests.gateway.kit import Client, Teller, at, kline, running
from writers.kline_table import upsert

SERIES = {"symbol": "BTCUSDT", "interval": "1m"}
BTC, ETH = ("BTCUSDT", "1m"), ("ETHUSDT", "1m")


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-3", (0, 4)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=8-99", (8, 10)),
        ("bytes=9-9", (9, 10)),
        ("bytes=3-2", None),
        ("bytes=-", None),
        ("bytes=0-1,4-5", None),
        ("bytes=x-1", None),
        ("rows=0-1", None),
    ],
)
def test_a_range_is_read_as_rfc_9110_says(header: str, part: tuple[int, int] | None) -> None:
    assert part_of(header, 10) == part


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=99-100", "bytes=-0"])
def test_a_range_without_a_byte_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(NotSatisfiable):
        part_of(header, 10)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-29", 1_795_910_400_000),
        ("2026-11-29T01:02", 1_795_914_120_000),
        ("2026-11-29T01:02:03Z", 1_795_914_123_000),
        ("2026-11-29t01:02:03.0459z", 1_795_914_123_045),
        ("2026-11-29T01:02:03+02:00", 1_795_906_923_000),
        ("2026-11-29 01:02:03 02:00", 1_795_906_923_000),
        ("2026-11-29 01:02:03-0130", 1_795_919_523_000),
        ("2016-12-31T23:59:60Z", 1_483_228_800_000),
        ("0000-02-29", 0),
        ("1969-12-31", 0),
        ("9999-12-31T23:59:59.999999-23:59", TIME_MAX),
    ],
)
def test_iso_times(text: str, ms: int) -> None:
    assert time_of(text) == ms


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13-01", "2026-02-29", "2026-11-29T24:00", "2026-11-29T01:02:61Z", "29.11.2026", "now"]
)
def test_what_is_no_iso_time(text: str) -> None:
    assert time_of(text) is None


def test_a_date_that_ends_a_range_is_its_last_millisecond() -> None:
    assert time_of("2026-11-29", ends=True) == 1_795_910_400_000 + 86_400_000 - 1
    assert time_of("2026-11-29T00:00", ends=True) == 1_795_910_400_000


def test_kept_files_grow_old_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, file = KeptFiles(), KeptFile()
    made_s = file.made_s
    kept.keep(("a",), file)
    assert kept.find(("a",), parts=False, now_s=made_s + FRESH_S - 1) is file
    assert kept.find(("a",), parts=False, now_s=made_s + FRESH_S) is None, "a new one must be made"
    assert kept.find(("a",), parts=True, now_s=made_s + FRESH_S + 40) is file, "parts are of one file"
    assert kept.find(("a",), parts=True, now_s=made_s + FRESH_S + 40 + KEPT_S) is None
    monkeypatch.setattr(downloads, "KEPT_FILES_MAX", 2)
    for name in "bcd":
        kept.keep((name,), KeptFile())
    assert [kept.find((name,), parts=True, now_s=made_s) is None for name in "bcd"] == [True, False, False]
    kept.clear()


async def fetched(client: Client, query: dict[str, Any], **options: Any) -> tuple[int, Any, bytes]:
    method = options.pop("method", "GET")
    async with client.session.request(method, f"{client.url}/api/download", params=query, **options) as response:
        return response.status, response.headers, await response.read()


@pytest.mark.servers
async def test_a_file_has_its_length_and_comes_in_parts(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    upsert(database, [kline(open_time=at(number), trades=number) for number in range(30)])
    teller.tell({BTC: {"open_time": at(30)}}, time_ms=at(31))
    query = {**SERIES, "start": at(0), "format": "parquet"}
    async with running(redis_url, database_url) as client:
        status, head, _ = await fetched(client, query, method="HEAD")
        assert (status, head["Accept-Ranges"]) == (200, "bytes")
        teller.tell({BTC: {"open_time": at(30), "trades": 5_000}}, time_ms=at(31))
        tail = await fetched(client, query, headers={"Range": "bytes=-8"})
        assert (tail[0], tail[2][-4:]) == (206, b"PAR1")
        size = int(head["Content-Length"])
        assert tail[1]["Content-Range"] == f"bytes {size - 8}-{size - 1}/{size}"
        first = await fetched(client, query, headers={"Range": f"bytes=0-{size - 9}"})
        whole = await fetched(client, query, headers={"Range": "bytes=0-3", "If-Range": '"another"'})
        assert (whole[0], whole[2]) == (200, first[2] + tail[2]), "all parts are of one file"
        status, headers, _ = await fetched(client, query, headers={"Range": f"bytes={size}-"})
        assert (status, headers["Content-Range"]) == (416, f"bytes */{size}")
        names = [
            (await fetched(client, {**SERIES, "start": day}))[1]["Content-Disposition"] for day in (0, "2026-11-01")
        ]
        assert names == [
            'attachment; filename="klines_BTCUSDT_1m_0.csv"',
            'attachment; filename="klines_BTCUSDT_1m_1793491200000.csv"',
        ]


@pytest.mark.servers
async def test_many_symbols_are_one_file(redis_url: str, database_url: str, database: Database, teller: Teller) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional and not installed here")
    small = {
        "open": "0.1234567",
        "high": "0.1234567",
        "low": "0.1234567",
        "close": "0.1234567",
        "quote_volume": "1.5240730",
    }
    upsert(database, [kline(open_time=at(0)), kline("ETHUSDT", open_time=at(0), **small, taker_buy_quote_volume="0.5")])
    teller.tell({BTC: {"open_time": at(1)}, ETH: {"open_time": at(1), **small}}, time_ms=at(2))
    query = {"interval": "1m", "start": 0, "format": "parquet"}
    async with running(redis_url, database_url, info=("BTCUSDT", "ETHUSDT")) as client:
        for symbols in ("BTCUSDT,ETHUSDT", "*"):
            table = parquet.read_table(io.BytesIO((await fetched(client, {**query, "symbol": symbols}))[2]))
            assert table["symbol"].to_pylist() == ["BTCUSDT", "BTCUSDT", "ETHUSDT", "ETHUSDT"]
            assert [str(each) for each in table["close"].to_pylist()[1:3]] == ["64111.1000000", "0.1234567"]
        assert (await client.ask("/api/download", **query, symbol="BTCUSDT,NOSUCH"))[0] == 404
        assert (await client.ask("/api/download", **query, symbol=","))[0] == 404


@pytest.mark.servers
async def test_a_file_that_is_too_long_to_keep_is_sent_as_it_is_made(
    redis_url: str, database_url: str, database: Database, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "PAGE_ROWS", 10)
    monkeypatch.setattr(downloads, "FILE_BYTES_MAX", 3000)
    upsert(database, [kline(open_time=at(number)) for number in range(60)])
    teller.tell({BTC: {"open_time": at(60)}}, time_ms=at(61))
    query = {**SERIES, "start": at(0)}
    async with running(redis_url, database_url) as client:
        assert "Content-Length" not in (await fetched(client, query, method="HEAD"))[1]
        status, headers, body = await fetched(client, query, headers={"Range": "bytes=0-3"})
        assert (status, len(body.splitlines())) == (200, 62)
        assert "Content-Length" not in headers


async def test_readers_of_one_file_do_not_disturb_each_other() -> None:
    file, data = KeptFile(), bytes(range(256)) * 8192
    file.append(data)

    async def read(first: int, end: int) -> bool:
        return b"".join([part async for part in file.parts(first, end)]) == data[first:end]

    spans = [(at * 10_007, len(data) - at * 5_003) for at in range(16)]
    assert all(await asyncio.gather(*(read(*span) for span in spans)))
    file.drop()

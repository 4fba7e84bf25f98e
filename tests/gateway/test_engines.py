"""A day of real minutes, stored, downloaded as Parquet and computed with in table engines: sums of products are exact.

The minutes are Binance's own of FILUSDT. Engines that are large are in the extra `test-long`, which `make test-long`
installs.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.kline import DECIMAL_FIELDS, Kline
from klagg.recordings import open_klines
from tests.gateway.kit import Client, Teller, kline, running
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

MINUTES = 1440
FIL = "FILUSDT"

Row = tuple[Decimal, float, Decimal]
"""sum(close * volume), the first quote_volume / volume, the first high - low."""


def library(name: str) -> Any:
    """An engine; a test that wants one that is not installed is skipped."""
    return pytest.importorskip(name, reason=f"{name} is not installed here (make test-long installs it)")


def in_pyarrow(path: str) -> Row:
    compute = library("pyarrow.compute")
    table = library("pyarrow.parquet").read_table(path)
    total = compute.sum(compute.multiply(table["close"], table["volume"])).as_py()
    quotient = compute.divide(table["quote_volume"], table["volume"])[0].as_py()
    return total, float(quotient), compute.subtract(table["high"], table["low"])[0].as_py()


def in_duckdb(path: str) -> Row:
    """Its quotient of decimals is a DOUBLE (DuckDB docs, "Numeric Types")."""
    connection = library("duckdb").connect()
    query = "SELECT sum(close * volume), first(quote_volume / volume), first(high - low) FROM read_parquet(?)"
    found: Row = connection.execute(query, [path]).fetchone()
    return found


def in_polars(path: str) -> Row:
    polars = library("polars")
    column = polars.col
    total = (column("close") * column("volume")).sum().alias("total")
    quotient = (column("quote_volume") / column("volume")).first().alias("quotient")
    difference = (column("high") - column("low")).first().alias("difference")
    ((one, two, three),) = polars.scan_parquet(path).select(total, quotient, difference).collect().rows()
    return one, float(two), three


def in_datafusion(path: str) -> Row:
    context = library("datafusion").SessionContext()
    context.register_parquet("bars", path)
    query = "SELECT sum(close * volume) AS a FROM bars"
    first = "SELECT quote_volume / volume AS b, high - low AS c FROM bars ORDER BY open_time LIMIT 1"
    (total,), (row,) = context.sql(query).to_pylist(), context.sql(first).to_pylist()
    return total["a"], float(row["b"]), row["c"]


def in_chdb(path: str) -> Row:
    chdb = library("chdb")
    query = f"SELECT toString(sum(close * volume)) FROM file('{path}', Parquet)"
    first = f"SELECT quote_volume / volume, high - low FROM file('{path}', Parquet) ORDER BY open_time LIMIT 1"
    total = str(chdb.query(query)).strip().strip('"')
    quotient, difference = str(chdb.query(first)).strip().split(",")
    return Decimal(total), float(quotient), Decimal(difference)


ENGINES: dict[str, Callable[[str], Row]] = {
    "pyarrow": in_pyarrow,
    "duckdb": in_duckdb,
    "polars": in_polars,
    "datafusion": in_datafusion,
    "chdb": in_chdb,
}


@pytest.fixture
def minutes(realdata: Path) -> list[Kline]:
    recorded = open_klines(str(realdata / "official_um_klines_1m/FILUSDT-1m-2023-08.csv.gz"), FIL, "1m")
    told: dict[str, Any] = {"source": "exchange", "complete": 0, "official": 1}
    told |= dict.fromkeys(("first_agg_id", "last_agg_id", "first_trade_id", "last_trade_id"), -1)
    rows: list[dict[str, Any]] = [
        {name: getattr(each, name) for name in (*DECIMAL_FIELDS, "trades")} | {"open_time": each.open_time_ms}
        for each in islice(recorded, MINUTES)
    ]
    return [kline(FIL, **row, **told) for row in rows]


def query_of(rows: list[Kline], **other: str) -> dict[str, Any]:
    return {"symbol": FIL, "interval": "1m", "start": rows[0].open_time, "end": rows[-1].open_time, **other}


async def download(client: Client, path: Path, query: dict[str, Any]) -> None:
    async with client.session.get(f"{client.url}/api/download", params=query) as response:
        assert response.status == 200, await response.text()
        path.write_bytes(await response.read())


@pytest.mark.parametrize("name", ENGINES)
async def test_a_days_products_are_exact(
    redis_url: str,
    database_url: str,
    database: Database,
    teller: Teller,
    minutes: list[Kline],
    tmp_path: Path,
    name: str,
) -> None:
    library(name)
    assert len(minutes) == MINUTES
    upsert(database, minutes)
    teller.tell({("BTCUSDT", "1m"): {}})
    path = tmp_path / "day.parquet"
    async with running(redis_url, database_url, info=("BTCUSDT", FIL)) as client:
        await download(client, path, query_of(minutes, format="parquet"))
    total, quotient, difference = await asyncio.to_thread(ENGINES[name], str(path))
    assert total == sum(Decimal(each.close) * Decimal(each.volume) for each in minutes)
    first = minutes[0]
    assert abs(quotient - float(Decimal(first.quote_volume) / Decimal(first.volume))) < 1e-4
    assert difference == Decimal(first.high) - Decimal(first.low)


async def test_polars_reads_the_address_itself_by_parts(
    redis_url: str, database_url: str, database: Database, teller: Teller, minutes: list[Kline]
) -> None:
    polars = library("polars")
    upsert(database, minutes)
    teller.tell({("BTCUSDT", "1m"): {}})
    async with running(redis_url, database_url, info=("BTCUSDT", FIL)) as client:
        query = "&".join(f"{key}={value}" for key, value in query_of(minutes).items())
        url = f"{client.url}/api/download?{query}&format="

        def read() -> list[Decimal]:
            lazy = polars.scan_parquet(f"{url}parquet").select(polars.col("close").sum()).collect().item()
            whole = polars.read_parquet(f"{url}parquet")["close"].sum()
            csv = polars.read_csv(f"{url}csv", schema_overrides={"close": polars.Decimal(18, 4)})["close"].sum()
            return [lazy, whole, csv]

        assert await asyncio.to_thread(read) == [sum(Decimal(each.close) for each in minutes)] * 3
        assert client.gateway.store is not None


async def test_pandas_reads_every_format_from_the_address(
    redis_url: str, database_url: str, database: Database, teller: Teller, minutes: list[Kline]
) -> None:
    pandas = library("pandas")
    library("pyarrow")
    upsert(database, minutes)
    teller.tell({("BTCUSDT", "1m"): {}})
    async with running(redis_url, database_url, info=("BTCUSDT", FIL)) as client:
        query = "&".join(f"{key}={value}" for key, value in query_of(minutes).items())
        url = f"{client.url}/api/download?{query}&format="
        ids = {"first_agg_id": "Int64", "first_trade_id": "Int64"}
        reads: list[Callable[[], Any]] = [
            lambda: pandas.read_csv(f"{url}csv", dtype=ids, float_precision="round_trip"),
            lambda: pandas.read_json(f"{url}json&decimals=float", precise_float=True),
            lambda: pandas.read_parquet(f"{url}parquet&decimals=float", dtype_backend="numpy_nullable"),
        ]
        for read in reads:
            frame = await asyncio.to_thread(read)
            assert frame["close"].tolist() == [float(each.close) for each in minutes]
        frame = await asyncio.to_thread(reads[2])
        assert str(frame["first_trade_id"].dtype) == "Int64"
        assert importlib.import_module("pandas").api.types.is_datetime64_any_dtype(frame["open_time"])

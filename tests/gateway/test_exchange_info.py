"""exchangeInfo on a real Redis: what the exchange lists is served as it came, and nothing half before it is there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from klagg.binance.payloads import listings_of
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import HashUpdate, Streams
from klagg.wire.exchange_info import KeptExchangeInfo
from klagg.wire.keys import EXCHANGE_INFO_KEY
from tests.gateway.kit import BTC, ETH, FINAL, NOW_MS, Client, Teller, info_of, keep_info, kline, row_of, running
from tests.kit import eventually_async as eventually
from writers.kline_table import upsert

pytestmark = pytest.mark.servers


async def served(client: Client) -> dict[str, dict[str, Any]]:
    """The symbols of exchangeInfo by name, in their order."""
    return {row["symbol"]: row for row in (await client.get("/fapi/v1/exchangeInfo"))["symbols"]}


async def shows(client: Client, *symbols: str) -> None:
    await eventually(lambda: list(client.gateway.market.carried) == list(symbols))


async def test_the_recorded_answer_is_served_with_every_tick_size_of_the_exchange(
    redis_url: str, streams: Streams, realdata: Path
) -> None:
    """119 perpetuals and one that is not open yet; 29 of the perpetuals have a tick that pricePrecision does not tell.
    None has had a trade here."""
    recorded = gzip.decompress((realdata / "um_exchangeInfo_2021-07-21.txt.gz").read_bytes()).decode()
    body = recorded.splitlines()[0].partition(": ")[2]
    theirs = json.loads(body)
    chosen = listings_of(theirs, ("USDT", "BUSD"), ("PERPETUAL",)).listings
    keep_info(streams, body, [each.symbol for each in chosen])
    async with running(redis_url, info=()) as client:
        await eventually(lambda: client.gateway.market.info)
        status, headers, found = await client.ask("/fapi/v1/exchangeInfo")
        assert (status, headers["X-Klagg-Left-Out"], headers["X-Klagg-Asked-Ms"]) == (200, "2", str(NOW_MS))
        assert headers["X-MBX-USED-WEIGHT-1M"] == "1"
        rows = [row for row in theirs["symbols"] if row["contractType"] in {"PERPETUAL", ""}]
        assert [row["status"] for row in rows if not row["contractType"]] == ["PENDING_TRADING"]
        assert len(rows) == 120
        assert 0 <= found["serverTime"] - NOW_MS < 60_000
        assert found == {**theirs, "serverTime": found["serverTime"], "symbols": rows}
        ticks = {row["symbol"]: row["filters"][0]["tickSize"] for row in found["symbols"]}
        coarser = [row for row in rows if float(ticks[row["symbol"]]) != float(f"1e-{row['pricePrecision']}")]
        assert (len(coarser), ticks["CTKUSDT"], ticks["YFIUSDT"]) == (29, "0.00100", "1")
        listed = {row["symbol"]: row for row in (await client.get("/api/symbols"))["symbols"]}
        assert {name: row["tick_size"] for name, row in listed.items()} == ticks
        assert not any(row["live"] for row in listed.values())


async def test_nothing_is_answered_by_half_before_the_first_full_picture(
    redis_url: str, streams: Streams, teller: Teller
) -> None:
    teller.tell({BTC: {}})
    paths = {
        "/fapi/v1/exchangeInfo": {},
        "/fapi/v1/klines": {"symbol": "BTCUSDT", "interval": "1m"},
        "/fapi/v1/continuousKlines": {"pair": "BTCUSDT", "contractType": "PERPETUAL", "interval": "1m"},
        "/fapi/v1/ticker/price": {},
        "/fapi/v2/ticker/price": {"symbol": "BTCUSDT"},
    }
    own = {"/api/symbols": {}, "/api/klines": {"symbol": "BTCUSDT", "interval": "1m"}}
    own |= {"/api/download": {**own["/api/klines"], "start": "0"}}
    async with running(redis_url, info=()) as client:
        for path, query in paths.items():
            status, _, body = await client.ask(path, **query)
            assert (status, body["code"]) == (503, -1001), path
            assert "exchangeInfo" in body["msg"]
        for path, query in own.items():
            status, _, body = await client.ask(path, **query)
            assert (status, body["error"]) == (503, "not_ready"), path
        assert await client.get("/fapi/v1/ping") == {}
        keep_info(streams, info_of("BTCUSDT"), ["BTCUSDT"])
        await shows(client, "BTCUSDT")
        for path, query in (paths | own).items():
            if path != "/api/download":
                assert (await client.ask(path, **query))[0] == 200, path


async def test_the_time_is_told_by_a_tick_or_by_the_list_and_never_by_this_machine(
    redis_url: str, streams: Streams, teller: Teller
) -> None:
    async with running(redis_url, info=()) as client:
        status, _, body = await client.ask("/fapi/v1/time")
        assert (status, body["code"]) == (503, -1001)
        keep_info(streams, info_of("BTCUSDT"), ["BTCUSDT"])
        await shows(client, "BTCUSDT")
        assert 0 <= (await client.get("/fapi/v1/time"))["serverTime"] - NOW_MS < 60_000
    teller.tell({BTC: {}}, time_ms=NOW_MS + 3_600_000)
    async with running(redis_url) as client:
        told = (await client.get("/fapi/v1/time"))["serverTime"]
        assert 0 <= told - NOW_MS - 3_600_000 < 60_000


async def test_a_listed_symbol_without_a_trade_is_known(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, info=("ADAUSDT", "BTCUSDT")) as client:
        assert list(await served(client)) == ["ADAUSDT", "BTCUSDT"]
        assert await client.get("/fapi/v1/klines", symbol="ADAUSDT", interval="1m") == []
        assert (await client.get("/api/klines", symbol="ADAUSDT", interval="1m"))["klines"] == []
        status, _, body = await client.ask("/fapi/v1/ticker/price", symbol="ADAUSDT")
        assert (status, body["code"]) == (503, -1001)
        assert "first trade of ADAUSDT" in body["msg"]
        assert [each["symbol"] for each in await client.get("/fapi/v1/ticker/price")] == ["BTCUSDT"]


async def test_news_of_the_exchange_are_served_and_a_restart_keeps_them(
    redis_url: str, streams: Streams, teller: Teller
) -> None:
    """Also fields and statuses that nobody has seen; what klagg does not carry is left out."""
    teller.tell({BTC: {}, ETH: {}})
    rows = [row_of("BTCUSDT", status="TRADING_HALT", novel={"deep": ["1.0", 1.50]}), row_of("XUSDC"), row_of("NEWUSDT")]
    async with running(redis_url) as client:
        assert list(await served(client)) == ["BTCUSDT"]
        keep_info(streams, json.dumps({"symbols": rows, "unheard": {"of": None}}), ["BTCUSDT", "NEWUSDT"], seq=2)
        await shows(client, "BTCUSDT", "NEWUSDT")
        for _ in range(2):
            found = await client.get("/fapi/v1/exchangeInfo")
            assert found["symbols"] == [rows[0], rows[2]]
            assert found["unheard"] == {"of": None}
    async with running(redis_url, info=()) as client:
        await shows(client, "BTCUSDT", "NEWUSDT")
        assert (await served(client))["BTCUSDT"] == rows[0]


async def test_an_answer_that_was_asked_again_has_a_new_time_and_is_not_read_again(
    redis_url: str, streams: Streams
) -> None:
    async with running(redis_url) as client:
        first = client.gateway.market.info
        assert first is not None
        later = KeptExchangeInfo("", (), NOW_MS + 5_000, first.kept.local_ms + 5_000)
        streams.write([HashUpdate(EXCHANGE_INFO_KEY, later.times())])
        await eventually(lambda: client.gateway.market.info is not first)
        _, headers, body = await client.ask("/fapi/v1/exchangeInfo")
        assert (headers["X-Klagg-Asked-Ms"], len(body["symbols"])) == (str(NOW_MS + 5_000), 1)
        assert client.gateway.market.info is not None
        assert client.gateway.market.info.symbols is first.symbols


async def test_an_answer_that_cannot_be_read_leaves_the_last_good_one(
    redis_url: str, streams: Streams, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(redis_url) as client:
        keep_info(streams, '{"symbols":', ["BTCUSDT"], seq=2)
        await eventually(lambda: "the last good one stays" in caplog.text)
        assert list(await served(client)) == ["BTCUSDT"]
        streams.write([HashUpdate(EXCHANGE_INFO_KEY, {"seq": "3", "v": "77"})])
        await eventually(lambda: client.gateway._context.stats.counters.get("rejected") == 2)
        assert list(await served(client)) == ["BTCUSDT"]
        streams.delete(EXCHANGE_INFO_KEY)
        keep_info(streams, info_of("ETHUSDT"), ["ETHUSDT"], seq=4)
        await shows(client, "ETHUSDT")


async def test_a_name_that_only_the_table_knows_is_not_called_invalid_before_the_table_was_read(
    redis_url: str, database_url: str, database: Database, teller: Teller, streams: Streams
) -> None:
    teller.tell({BTC: {}})
    upsert(database, [kline("OLDUSDT", **FINAL)])
    database.execute("ALTER TABLE klines_minutes RENAME TO elsewhere")
    keep_info(streams, info_of("BTCUSDT"), ["BTCUSDT"])
    async with running(redis_url, database_url, info=()) as client:
        await shows(client, "BTCUSDT")
        status, _, body = await client.ask("/fapi/v1/klines", symbol="OLDUSDT", interval="1m")
        assert (status, body["code"]) == (503, -1001)
        status, _, body = await client.ask("/api/klines", symbol="OLDUSDT", interval="1m")
        assert (status, body["error"]) == (503, "not_ready")
        assert (await client.get("/api/symbols"))["names_read"] is False
        assert (await client.get("/fapi/v1/ticker/price", symbol="BTCUSDT"))["price"] == "64111.10"

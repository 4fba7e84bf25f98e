"""Every answer of `/udf` as TradingView's charting library expects it, on a real Redis and database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.intervals import INTERVALS
from tests.gateway.kit import FINAL, NOW_MS, Client, Teller, at, kline, running
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

BTC = ("BTCUSDT", "1m")
S = NOW_MS // 1000


@pytest.fixture
async def client(redis_url: str, database_url: str, database: Database, teller: Teller) -> AsyncIterator[Client]:
    """Minutes 0 to 4 and, behind a hole, 10 in the table; 11 in live state, open; a day."""
    upsert(database, [kline(open_time=at(number)) for number in (*range(5), 10)])
    upsert(database, [kline(interval="1d", open_time=INTERVALS["1d"].open_time(NOW_MS))])
    teller.tell({BTC: {"open_time": at(11), "close": "64112.30"}}, time_ms=at(11) + 5_000)
    async with running(redis_url, database_url, info=("BTCUSDT", "ETHUSDT", "BTCDOMUSDT", "1000BTCUSDT")) as client:
        yield client


async def history(client: Client, **query: Any) -> Any:
    return await client.get("/udf/history", **{"symbol": "BTCUSDT", "resolution": "1", **query})


async def test_config(client: Client) -> None:
    found = await client.get("/udf/config")
    assert (found["supports_search"], found["supports_group_request"], found["supports_time"]) == (True, False, True)
    intervals = [each.name for each in client.gateway.market.intervals]
    resolutions = dict(zip(found["supported_resolutions"], intervals, strict=True))
    expected = {"1": "1m", "5": "5m", "60": "1h", "240": "4h", "1D": "1d", "1W": "1w"}
    assert expected.items() <= resolutions.items()


async def test_time_is_the_exchanges_in_seconds_as_plain_text(client: Client) -> None:
    async with client.session.get(f"{client.url}/udf/time") as response:
        assert response.content_type == "text/plain"
        assert at(11) // 1000 + 5 <= int(await response.text()) <= at(11) // 1000 + 60


async def test_a_symbol_is_described_by_the_exchanges_steps(client: Client) -> None:
    found = await client.get("/udf/symbols", symbol="BINANCE:BTCUSDT")
    assert (found["name"], found["ticker"], found["session"], found["timezone"]) == (
        "BTCUSDT",
        "BTCUSDT",
        "24x7",
        "Etc/UTC",
    )
    assert (found["minmov"], found["pricescale"], found["volume_precision"]) == (1, 10, 3)
    assert (found["has_intraday"], found["has_daily"], found["expired"]) == (True, True, False)
    assert set(found["intraday_multipliers"]) >= {"1", "5", "60", "240"}
    config = await client.get("/udf/config")
    assert found["supported_resolutions"] == config["supported_resolutions"]
    assert await client.get("/udf/symbols", symbol="NOSUCH") == {"s": "error", "errmsg": "unknown_symbol"}
    assert await client.get("/udf/symbols") == {"s": "error", "errmsg": "unknown_symbol"}


async def test_search_finds_names_that_begin_with_the_query_first(client: Client) -> None:
    async def names(**query: Any) -> list[str]:
        found = await client.get("/udf/search", **query)
        assert all({"symbol", "full_name", "description", "exchange", "ticker", "type"} == set(each) for each in found)
        return [each["symbol"] for each in found]

    assert await names(query="btc") == ["BTCDOMUSDT", "BTCUSDT", "1000BTCUSDT"]
    assert await names(query="btc", limit=1) == ["BTCDOMUSDT"]
    assert await names(query="", type="crypto", exchange="BINANCE") == sorted(client.gateway.market.names())
    assert await names(query="btc", exchange="NYSE") == await names(query="btc", type="stock") == []
    assert await names(query="xyz") == []
    assert (await client.get("/udf/search", query="b", limit="x"))["s"] == "error"


async def test_history_is_columns_of_bars_before_to(client: Client) -> None:
    found = await history(client, **{"from": S, "to": S + 120})
    assert found == {
        "s": "ok",
        "t": [S, S + 60],
        "o": [64100.1, 64100.1],
        "h": [64120.0, 64120.0],
        "l": [64090.9, 64090.9],
        "c": [64111.1, 64111.1],
        "v": [12.345, 12.345],
    }
    live = await history(client, **{"from": S + 600, "to": S + 9999})
    assert (live["t"], live["c"]) == ([S + 600, S + 660], [64111.1, 64112.3])


async def test_countback_overrules_from(client: Client) -> None:
    found = await history(client, **{"from": S + 600, "to": S + 720, "countback": 4})
    assert found["t"] == [S + 180, S + 240, S + 600, S + 660]
    assert (await history(client, **{"from": S + 600, "to": S + 720, "countback": 99}))["t"][0] == S


async def test_no_data_says_where_older_bars_are(client: Client) -> None:
    assert await history(client, **{"from": S + 300, "to": S + 600}) == {"s": "no_data", "nextTime": S + 240}
    assert await history(client, **{"from": S - 600, "to": S}) == {"s": "no_data"}
    assert await history(client, **{"from": -600, "to": -1}) == {"s": "no_data"}
    assert await history(client, symbol="ETHUSDT", countback=5, to=S + 9999) == {"s": "no_data"}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"symbol": "NOSUCH"}, "unknown_symbol"),
        ({"resolution": "7"}, "unknown resolution '7': this server has 1, "),
        ({"resolution": ""}, "unknown resolution ''"),
        ({"from": "yesterday"}, "the parameter from must be a whole number"),
    ],
)
async def test_what_is_wrong_is_an_error_with_a_sentence(client: Client, query: dict[str, str], said: str) -> None:
    found = await history(client, **query)
    assert found["s"] == "error"
    assert found["errmsg"].startswith(said)


async def test_the_resolutions_that_charts_ask_for(redis_url: str, teller: Teller) -> None:
    """Each resolution is answered from its own interval, in the short form of older libraries too."""
    names = {"15": "15m", "60": "1h", "1D": "1d", "D": "1d", "1W": "1w", "W": "1w", "1M": "1M", "M": "1M"}
    intervals = [INTERVALS[each] for each in ("1m", "15m", "1h", "1d", "1w", "1M")]
    told = {each.name: each.open_time(NOW_MS) for each in intervals}
    teller.tell({("BTCUSDT", name): {"open_time": opened, **FINAL} for name, opened in told.items()})
    async with running(redis_url) as client:
        client.gateway.market.intervals = intervals
        for resolution, name in names.items():
            found = await history(client, resolution=resolution, to=S + 1)
            assert found["t"] == [told[name] // 1000], resolution
        assert (await client.get("/udf/symbols", symbol="BTCUSDT"))["has_weekly_and_monthly"] is True

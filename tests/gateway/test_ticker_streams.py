"""Streams of 24 hour tickers over real sockets, equal to what REST answers; on a real Redis and TimescaleDB."""

from __future__ import annotations

from typing import Any

import pytest
import ujson

from gateway.streams import TickerKind, parse_ticker_stream
from klagg.drivers.postgres import Database
from tests.gateway.kit import BTC, ETH, FINAL, NOW_MS, Teller, running
from tests.gateway.test_day_ticker import PATH, minute, stored
from writers.kline_table import upsert


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("btcusdt@ticker", (TickerKind.TICKER, "BTCUSDT")),
        ("\u5e01usdt@miniTicker", (TickerKind.MINI_TICKER, "\u5e01USDT")),
        ("!ticker@arr", (TickerKind.TICKER, None)),
        ("!miniTicker@arr", (TickerKind.MINI_TICKER, None)),
        ("BTCUSDT@ticker", None),
        ("btcusdt@miniticker", None),
        ("@ticker", None),
        ("!ticker", None),
        ("!bookTicker@arr", None),
        ("ticker@arr", None),
        ("btcusdt@kline_1m", None),
        ("", None),
    ],
)
def test_names_of_streams(name: str, parsed: tuple[TickerKind, str | None] | None) -> None:
    assert parse_ticker_stream(name) == parsed


async def event(socket: Any) -> Any:
    """The next event of a combined connection."""
    return ujson.loads((await socket.receive()).data)


@pytest.mark.servers
async def test_tickers_are_those_of_rest(redis_url: str, database_url: str, database: Database, teller: Teller) -> None:
    upsert(database, [*stored(range(-1_600, -1)), *stored(range(-1_600, -1), "ETHUSDT")])
    teller.tell({BTC: {**minute(-1), **FINAL}, ETH: {**minute(-1), **FINAL}}, time_ms=NOW_MS)
    teller.tell({BTC: minute(1, opens=0), ETH: minute(2, opens=0)}, time_ms=NOW_MS + 250)
    names = ["btcusdt@ticker", "btcusdt@miniTicker", "!ticker@arr", "!miniTicker@arr"]
    async with (
        running(redis_url, database_url, info=("BTCUSDT", "ETHUSDT")) as client,
        client.socket(f"/stream?streams={'/'.join(names)}") as socket,
    ):
        found: dict[str, Any] = {}
        while len(found) < len(names):
            message = await event(socket)
            found.setdefault(message["stream"], message["data"])
        rest = await client.get(PATH, symbol="BTCUSDT")
        one = found["btcusdt@ticker"]
        told = [one[name] for name in "pPwcohlvqOCFLn"]
        assert told == [value for name, value in rest.items() if name != "symbol"]
        assert (one["e"], one["s"], one["st"]) == ("24hrTicker", "BTCUSDT", 1)
        mini = found["btcusdt@miniTicker"]
        assert list(mini) == ["e", "E", "s", "c", "o", "h", "l", "v", "q", "st"]
        assert (mini["e"], mini["c"], mini["q"]) == ("24hrMiniTicker", rest["lastPrice"], rest["quoteVolume"])
        assert [each["s"] for each in found["!ticker@arr"]] == ["BTCUSDT", "ETHUSDT"]
        assert [each["e"] for each in found["!miniTicker@arr"]] == ["24hrMiniTicker"] * 2

        teller.tell({BTC: {**minute(1, opens=0), "trades": 5}}, time_ms=NOW_MS + 500)
        while (message := await event(socket))["stream"] != "!ticker@arr":
            pass
        assert [(each["s"], each["n"] - one["n"]) for each in message["data"]] == [("BTCUSDT", 2)], "what has changed"
        status = await client.get("/api/status")
        assert status["unserved"] == {}

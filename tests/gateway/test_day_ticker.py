"""ticker/24hr: what klagg's own minutes add up to, on a real Redis and TimescaleDB."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.kline import Kline
from tests.gateway.kit import BTC, ETH, FINAL, NOW_MS, Client, Teller, at, kline, running
from tests.kit import eventually_async as eventually
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

PATH = "/fapi/v1/ticker/24hr"


def minute(number: int, opens: int | None = None) -> dict[str, Any]:
    """The values of a minute with three trades, of which every seventh has none; it opens in minute `opens`."""
    open_time = at(number if opens is None else opens)
    close = 64_000 + number % 50
    if number % 7 == 0:
        flat = dict.fromkeys(("open", "high", "low", "close"), f"{close - 1}.50")
        sums = {"volume": "0.000", "quote_volume": "0.00000", "taker_buy_volume": "0.000"}
        ids = {"first_trade_id": -1, "last_trade_id": -1, "trades": 0, "taker_buy_quote_volume": "0.00000"}
        return {"open_time": open_time, **flat, **sums, **ids}
    return {
        "open_time": open_time,
        "open": f"{close}.10",
        "high": f"{close + number % 3}.90",
        "low": f"{close - number % 5}.00",
        "close": f"{close}.50",
        "volume": "0.003",
        "quote_volume": f"{close * 3}.00000",
        "trades": 3,
        "first_trade_id": 100_000 + 3 * number,
        "last_trade_id": 100_002 + 3 * number,
    }


def stored(numbers: Iterable[int], symbol: str = "BTCUSDT") -> list[Kline]:
    return [kline(symbol, **minute(number)) for number in numbers]


def added_up(minutes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ticker of these minutes, added up one by one."""
    traded = [each for each in minutes if each["trades"]]
    opened, close = Decimal(traded[0]["open"]), Decimal(minutes[-1]["close"])
    volume, quote = (sum(Decimal(each[name]) for each in traded) for name in ("volume", "quote_volume"))
    return {
        "symbol": "BTCUSDT",
        "priceChange": str(close - opened),
        "priceChangePercent": f"{(close - opened) / opened * 100:.3f}",
        "weightedAvgPrice": f"{quote / volume:.2f}",
        "lastPrice": str(close),
        "openPrice": str(opened),
        "highPrice": str(max(Decimal(each["high"]) for each in traded)),
        "lowPrice": str(min(Decimal(each["low"]) for each in traded)),
        "volume": str(volume),
        "quoteVolume": str(quote),
        "openTime": minutes[0]["open_time"],
        "closeTime": NOW_MS + 250,
        "firstId": traded[0]["first_trade_id"],
        "lastId": traded[-1]["last_trade_id"],
        "count": sum(each["trades"] for each in traded),
    }


async def by_symbol(client: Client) -> dict[str, Any]:
    return {each["symbol"]: each for each in await client.get(PATH)}


async def test_a_day_of_minutes_from_table_and_live_state(
    redis_url: str, database_url: str, database: Database, teller: Teller
) -> None:
    """The last two finals are not in the table yet, and of the one before it has an older version."""
    older = kline(**{**minute(-3), "trades": 1, "volume": "0.001", "complete": 0})
    upsert(database, [*stored(range(-1_600, -3)), older, *stored(range(-1_600, -3), "ETHUSDT")])
    for number in (-3, -2, -1):
        finals = {BTC: {**minute(number), **FINAL, "revision": 2}, ETH: {**minute(number), **FINAL}}
        teller.tell(finals, time_ms=at(number + 1))
    now = minute(1, opens=0)
    teller.tell({BTC: now, ETH: minute(2, opens=0)}, time_ms=NOW_MS + 250)
    wanted = added_up([*(minute(number) for number in range(-1_440, 0)), now])
    async with running(redis_url, database_url, info=("BTCUSDT", "ETHUSDT")) as client:
        status, headers, one = await client.ask(PATH, symbol="BTCUSDT")
        assert (status, one, headers.get("X-Klagg-Incomplete")) == (200, wanted, None)
        every = await by_symbol(client)
        assert list(every) == ["BTCUSDT", "ETHUSDT"]
        assert every["BTCUSDT"] == one
        assert every["ETHUSDT"] == await client.get(PATH, symbol="ETHUSDT")

        amended = {**minute(-400), **FINAL, "revision": 2, "trades": 4}
        teller.tell({BTC: amended}, time_ms=NOW_MS + 500)

        async def counted() -> bool:
            found: int = (await client.get(PATH, symbol="BTCUSDT"))["count"]
            return found == int(wanted["count"]) + 1

        await eventually(counted)
        assert (await by_symbol(client))["BTCUSDT"] == await client.get(PATH, symbol="BTCUSDT")


async def test_what_klagg_has_is_less_than_a_day(redis_url: str, teller: Teller) -> None:
    """Without a table, from the oldest minute of live state on; a minute that is not complete is told."""
    teller.tell({BTC: {**minute(1, opens=0), **FINAL, "complete": 0}}, time_ms=at(1))
    teller.tell({BTC: minute(2, opens=1)}, time_ms=at(1) + 250)
    async with running(redis_url, info=("BTCUSDT", "NEWUSDT")) as client:
        _, headers, found = await client.ask(PATH, symbol="BTCUSDT")
        assert (found["openTime"], found["count"], headers["X-Klagg-Incomplete"]) == (at(0), 6, "1")
        status, _, body = await client.ask(PATH, symbol="NEWUSDT")
        assert (status, body["code"]) == (503, -1001), "its first trade is waited for"
        status, _, body = await client.ask(PATH, symbol="XUSDT")
        assert (status, body["code"]) == (400, -1121)


async def test_the_weight_of_one_and_of_all(redis_url: str, teller: Teller) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url) as client:
        _, headers, _ = await client.ask(PATH, symbol="BTCUSDT")
        one = int(headers["X-MBX-USED-WEIGHT-1M"])
        _, headers, _ = await client.ask(PATH)
        assert (one, int(headers["X-MBX-USED-WEIGHT-1M"]) - one) == (1, 40)

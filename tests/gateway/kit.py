"""Bars, an aggregator's words, and a running gateway for these tests."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import ujson

from gateway.live import LiveBar, bar_of
from gateway.service import GatewayService
from klagg.clock import local_ms
from klagg.drivers.redis_streams import Append, HashUpdate, Streams, Write
from klagg.intervals import INTERVALS
from klagg.kline import Kline
from klagg.process.service import AsyncContext
from klagg.settings import from_tree
from klagg.wire.entries import AGG_IDS, BARS_POSITION, LIVE_VALUE, TradeRow, live_field, trades_entry_of_rows
from klagg.wire.exchange_info import KeptExchangeInfo
from klagg.wire.fields import Fields, stamp
from klagg.wire.keys import EXCHANGE_INFO_KEY, Keys
from tests.kit import eventually_async as eventually

MINUTE_MS = 60_000
NOW_MS = 1_794_000_000_000 // MINUTE_MS * MINUTE_MS
"""The beginning of a minute."""
BTC, ETH = ("BTCUSDT", "1m"), ("ETHUSDT", "1m")

PLAIN = {
    "open_time": NOW_MS,
    "open": "64100.10",
    "high": "64120.00",
    "low": "64090.90",
    "close": "64111.10",
    "volume": "12.345",
    "quote_volume": "791234.56780",
    "trades": 321,
    "taker_buy_volume": "6.000",
    "taker_buy_quote_volume": "384570.00000",
    "first_trade_id": 100,
    "last_trade_id": 420,
    "closed": 0,
    "revision": 0,
    "complete": 0,
    "official": 0,
}
"""A live value of BTCUSDT; prices have two decimals, quantities three."""

FINAL: dict[str, Any] = {"closed": 1, "revision": 1, "complete": 1}


def at(number: int) -> int:
    """The open time of the minute with this number, counted from NOW_MS."""
    return NOW_MS + number * MINUTE_MS


def value(**changes: Any) -> str:
    """A live value with some parts changed."""
    values = {**PLAIN, **changes}
    return ",".join(str(values[name]) for name in LIVE_VALUE)


def bar(**changes: Any) -> LiveBar:
    """The same as a bar; at_ms and redis_ms may be given too."""
    at_ms, redis_ms = changes.pop("at_ms", NOW_MS), changes.pop("redis_ms", NOW_MS)
    return bar_of(value(**changes), at_ms, redis_ms)


def kline(symbol: str = "BTCUSDT", interval: str = "1m", **changes: Any) -> Kline:
    """The final of the same values as the aggregator publishes it."""
    values = {**PLAIN, "revision": 1, "complete": 1, **changes}
    values.pop("closed")
    values.setdefault("close_time", INTERVALS[interval].close_time(values["open_time"]))
    rest = {"first_agg_id": 10, "last_agg_id": 90, "epoch": 1, "source": "own", "edge": ""}
    return Kline(symbol=symbol, interval=interval, **{**rest, **values})


def row_of(symbol: str, **changes: Any) -> dict[str, Any]:
    """A symbol of exchangeInfo, with prices in steps of 0.10 though they have two decimals."""
    filters = [
        {"filterType": "PRICE_FILTER", "minPrice": "0.10", "maxPrice": "1000000", "tickSize": "0.10"},
        {"filterType": "LOT_SIZE", "stepSize": "0.001", "minQty": "0.001", "maxQty": "1000"},
    ]
    row = {"symbol": symbol, "status": "TRADING", "pricePrecision": 2, "quantityPrecision": 3, "filters": filters}
    return row | changes


def info_of(*symbols: str | dict[str, Any]) -> str:
    """An answer of exchangeInfo as text, of symbols or of their rows."""
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 2400}
    rows = [row_of(each) if isinstance(each, str) else each for each in symbols]
    return ujson.dumps({"timezone": "UTC", "serverTime": 1, "rateLimits": [limit], "symbols": rows}, ensure_ascii=False)


def keep_info(streams: Streams, body: str, carried: Sequence[str], seq: int = 1) -> None:
    """Keep an answer as the clock process does; it was asked at NOW_MS."""
    kept = KeptExchangeInfo(body, carried, NOW_MS, int(local_ms()))
    streams.write([HashUpdate(EXCHANGE_INFO_KEY, stamp(kept.to_fields(), "clock@1", seq))])


@dataclass(slots=True)
class Teller:
    """An aggregator as far as its readers see it: each `tell` is a tick."""

    streams: Streams
    keys: Keys = field(default_factory=lambda: Keys(0))
    seq: int = 0
    position: str = "0-0"

    def tell(self, bars: dict[tuple[str, str], dict[str, Any]], *, time_ms: int = NOW_MS, skip: int = 0) -> str:
        """One commit: a `live` entry, the `klines` of its finals, `bars` with the rest; the id of the entry.

        `skip` leaves out so many numbers, as if these entries had been trimmed unread.
        """
        self.seq += 1 + skip
        values = {live_field(*series): value(**changes) for series, changes in bars.items()}
        finals = [kline(*series, **changes) for series, changes in bars.items() if changes.get("closed")]
        entry = stamp({"time": str(time_ms), **values}, "aggregator-0@1", self.seq)
        still_open = {
            live_field(*series): value(**changes) for series, changes in bars.items() if not changes.get("closed")
        }
        writes: list[Write] = [
            *(Append(self.keys.klines, stamp(each.to_fields(), "aggregator-0@1", self.seq)) for each in finals),
            Append(self.keys.live, entry),
            HashUpdate(self.keys.bars, {**still_open, BARS_POSITION: self.position}),
            HashUpdate(self.keys.commit, {"seq": str(self.seq)}),
        ]
        self.position = self.streams.write(writes)[-1]
        return self.position


@dataclass(slots=True)
class Client:
    """An HTTP client of a running gateway."""

    gateway: GatewayService
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://{self.gateway.server.address}"

    async def get(self, path: str, **query: Any) -> Any:
        """The decoded JSON of a 200."""
        status, _, body = await self.ask(path, **query)
        assert status == 200, body
        return body

    async def ask(self, path: str, **query: Any) -> tuple[int, Any, Any]:
        """Status, headers and decoded JSON."""
        async with self.session.get(self.url + path, params=query) as response:
            return response.status, response.headers, await response.json(content_type=None)

    def socket(self, path: str, **options: Any) -> Any:
        return self.session.ws_connect(self.url + path, **options)


@asynccontextmanager
async def running(
    redis_url: str,
    database_url: str = "",
    exchange: str = "",
    silent_s: int = 60,
    *,
    rest_url: str = "",
    rest: Mapping[str, int] | None = None,
    source: str = "aggTrade",
    info: Sequence[str] = ("BTCUSDT",),
    **gateway: Any,
) -> AsyncIterator[Client]:
    """A gateway's body, running, and a client of it; at the end it is asked to stop, and must have ended well.

    `info` are the symbols that the exchange lists and klagg carries; empty: the test keeps them itself, or none.
    """
    if info:
        streams = Streams(redis_url)
        keep_info(streams, info_of(*info), info)
        streams.close()
    tree = {
        "exchange": {"source": source}
        | ({"websocket_url": exchange} if exchange else {})
        | ({"rest_url": rest_url} if rest_url else {}),
        "rest": dict(rest or {}),
        "redis": {"url": redis_url, "timeout_ms": 2000},
        "ingest": {"silent_s": silent_s},
        "database": {"url": database_url, "enabled": bool(database_url)},
        "gateway": {"port": 0, "pull_ms": 10, "pull_timeout_ms": 200, "stale_ms": 500, **gateway},
    }
    context = AsyncContext("gateway", from_tree(tree), argparse.Namespace(), None)
    process = GatewayService(context)
    task = asyncio.create_task(process.run())
    try:
        async with aiohttp.ClientSession() as session:
            ready = process.market
            await eventually(
                lambda: task.done() or (ready.shards[0].position and (not info or (ready.info and ready.names_read)))
            )
            assert not task.done(), task.exception()
            yield Client(process, session)
    finally:
        context.stopping.set()
        await asyncio.wait_for(task, 15)
        await context.farewell()


@dataclass(slots=True)
class Line:
    """A line as far as readers of the feed see it: `bring` writes an entry of trades."""

    streams: Streams
    name: str = "A"
    ids: str = AGG_IDS
    seq: int = 0

    def bring(
        self, *ids: int, symbol: str = "BTCUSDT", delay_ms: int = 5, times: Mapping[int, int] | None = None
    ) -> None:
        """One entry with the trades of these ids, received `delay_ms` after the last of them."""
        rows = [agg_trade(each, symbol, (times or {}).get(each)) for each in ids]
        recv_ms = max(row.time for row in rows) + delay_ms
        self.write([trades_entry_of_rows(rows, line=self.name, ids=self.ids, recv_ms=recv_ms)])

    def write(self, entries: Sequence[Fields]) -> None:
        """These entries, in one round trip."""
        first, self.seq = self.seq + 1, self.seq + len(entries)
        numbered = enumerate(entries, first)
        self.streams.write([Append(Keys(0).feed, stamp(each, f"line-{self.name}@1", seq)) for seq, each in numbered])


def agg_trade(number: int, symbol: str = "BTCUSDT", time_ms: int | None = None) -> TradeRow:
    """The aggTrade with this id; its time is that of its id in seconds from NOW_MS, unless it is given."""
    time_ms = NOW_MS + number * 1000 if time_ms is None else time_ms
    return TradeRow(
        symbol, number, f"{64_000 + number % 97}.10", "0.120", number * 2, number * 2 + 1, time_ms, number % 2 == 0
    )

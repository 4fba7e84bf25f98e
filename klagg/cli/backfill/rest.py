"""Official klines over REST for `klagg backfill`, within its share of the address' request weight."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from ingest.repair_pages import SURE_MS
from klagg import __version__
from klagg.backoff import Backoff
from klagg.binance.kline_rows import KLINES_PATH, KlineAnswer, KlineRow, Malformed, RefusedRow, klines_of
from klagg.binance.limits import klines_weight
from klagg.binance.payloads import listings_of
from klagg.binance.rest_client import ExchangeRest
from klagg.binance.weight_account import ROLE_BACKFILL, PatientGate
from klagg.drivers.redis_streams import AsyncStreams
from klagg.errors import ConfigError, ExchangeRefused, ExchangeUnavailable, KlaggError, RedisUnavailable
from klagg.intervals import Interval
from klagg.process.stats import Stats
from klagg.settings import Settings
from writers.backfill_parts import (
    BAD_KEPT_MAX,
    BadRow,
    Failure,
    HistoryRows,
    OfficialRow,
    Part,
    in_order,
    parts_of_range,
)

PAGE_ROWS: Final = 499
"""The most rows of a page that weighs 2: no other page has more rows for its weight."""

TRIES_MAX: Final = 10
TIMEOUT_MS: Final = 20_000
LOOK_S: Final = 0.2
"""How often a wait checks whether it must end."""

PAUSES: Final = frozenset({418, 429})
PASSING: Final = frozenset({403, 408})
"""HTTP statuses below 500 that refuse every request for now, not this one request."""


class Stopped(KlaggError):
    """Asked to end while waiting."""


@dataclass(frozen=True, slots=True)
class ListedSymbols:
    """The exchange's time (exchange ms), and the symbols with the time (exchange ms) of their listing."""

    now_ms: int
    listed_ms: dict[str, int]


class RestHistory:
    """Requests the klines of parts, one page after the other. Its waits end soon after `stopping` is set."""

    def __init__(self, settings: Settings, stats: Stats, stopping: threading.Event) -> None:
        if not settings.redis.url:
            raise ConfigError("the REST weight is shared in Redis: set redis.url, or load dumps with --dir")
        self._settings, self._stats, self._stopping = settings, stats, stopping

    def market(self, symbols: Sequence[str]) -> ListedSymbols:
        """The exchange's time and the requested symbols (none: those of the settings). Raises ConfigError for unknown
        ones."""
        return asyncio.run(self._market(symbols))

    async def _market(self, symbols: Sequence[str]) -> ListedSymbols:
        async with self._session() as rest:
            now_ms = (await rest.time()).time_ms
            info = await rest.exchange_info()
        exchange = self._settings.exchange
        if not symbols:
            chosen = listings_of(info, exchange.quote_assets, exchange.contract_types, exchange.symbols).listings
            return ListedSymbols(now_ms, {each.symbol: each.generation for each in chosen})
        rows = info.get("symbols", []) if isinstance(info, dict) else []
        listed = {row.get("symbol"): row.get("onboardDate") for row in rows if isinstance(row, dict)}
        unknown = [each for each in symbols if each not in listed]
        if unknown:
            raise ConfigError(f"the exchange does not list {', '.join(unknown)}")
        return ListedSymbols(now_ms, {each: _whole(listed[each]) for each in symbols})

    def batches(self, parts: Iterable[Part]) -> Iterator[HistoryRows | Failure]:
        """All rows of the parts. After a refusal the other parts of the same symbol are not requested.

        ExchangeUnavailable or RedisUnavailable if one of them stays away.
        """
        refused: set[str] = set()
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            rest = runner.run(stack.enter_async_context(self._session()))
            try:
                for part in parts:
                    if part.symbol in refused:
                        continue
                    for item in self._part(runner, rest, part):
                        yield item
                        if isinstance(item, Failure) and not item.row:
                            refused.add(part.symbol)
            finally:
                runner.run(stack.aclose())

    def _part(self, runner: asyncio.Runner, rest: ExchangeRest, part: Part) -> Iterator[HistoryRows | Failure]:
        bars, next_ms = part.interval, max(part.start_ms, part.from_ms)
        left_out: list[BadRow] = []
        left_rows = 0
        while next_ms < part.to_ms:
            limit = min(PAGE_ROWS, bars.bucket_of(part.to_ms - 1) - bars.bucket_of(next_ms - 1))
            found = KlineAnswer([], [])
            if limit:
                try:
                    answer = runner.run(self._ask(rest, part, next_ms, limit))
                    found = klines_of(answer, bars, next_ms, limit, part.to_ms)
                except Malformed as bad:
                    if limit > 1 or not (isinstance(answer, list) and len(answer) == 1):
                        yield Failure(part, f"{part.symbol} {bars.name} {part.name}: {bad}")
                        return
                    found.refused.append(RefusedRow(0, next_ms, str(bad)))
                except ExchangeRefused as bad:
                    yield Failure(part, f"{part.symbol} {bars.name} {part.name}: {bad}")
                    return
            (last_ms, refused), asked_ms = found.reach(bars), next_ms
            more = last_ms is not None and found.count == limit and bars.close_time(last_ms) + 1 < part.to_ms
            refused = refused if more else found.refused
            left_rows += len(refused)
            for each in refused:
                if len(left_out) < BAD_KEPT_MAX:
                    left_out.append(BadRow(0, asked_ms if each.open_ms is None else each.open_ms, each.reason))
                said = f"the row of open time {each.open_ms} is refused: {each.reason}"
                yield Failure(part, f"{part.symbol} {bars.name} {part.name}: {said}", row=True)
            next_ms = bars.close_time(last_ms) + 1 if last_ms is not None and more else part.to_ms
            yield HistoryRows(part, [_official(row, bars) for row in found.rows], next_ms, tuple(left_out), left_rows)

    async def _ask(self, rest: ExchangeRest, part: Part, from_ms: int, limit: int) -> Any:
        """One page; temporary errors are retried, and the gate keeps the pauses that the exchange demands."""
        backoff = Backoff(0.5, 30.0, random.random)
        while True:
            try:
                return await rest.get(
                    KLINES_PATH,
                    klines_weight(limit),
                    symbol=part.symbol,
                    interval=part.interval.name,
                    startTime=from_ms,
                    endTime=part.to_ms - 1,
                    limit=limit,
                )
            except ExchangeRefused as refused:
                if refused.status in PAUSES:
                    self._stats.add("pauses")
                    continue
                if (refused.status < 500 and refused.status not in PASSING) or backoff.tries >= TRIES_MAX:
                    raise
            except (ExchangeUnavailable, RedisUnavailable):
                if backoff.tries >= TRIES_MAX:
                    raise
            await self._sleep(backoff.next_s())

    async def _sleep(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (left := end - loop.time()) > 0:
            if self._stopping.is_set():
                raise Stopped
            await asyncio.sleep(min(left, LOOK_S))

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[ExchangeRest]:
        settings = self._settings
        streams = AsyncStreams(settings.redis.url, timeout_ms=settings.redis.timeout_ms)
        try:
            gate = PatientGate(streams, ROLE_BACKFILL, settings.rest, self._stats, self._sleep)
            async with ExchangeRest(
                settings.exchange.rest_url,
                timeout_ms=TIMEOUT_MS,
                gate=gate,
                proxy=settings.exchange.proxy,
                agent=f"klagg/{__version__}",
            ) as rest:
                yield rest
        finally:
            await streams.close()


def parts_of(market: ListedSymbols, intervals: Sequence[Interval], from_ms: int, to_ms: int) -> list[Part]:
    """[from_ms, to_ms) of every symbol since its listing and every interval, as far as bars are closed for certain."""
    found = []
    for bars in intervals:
        end_ms = min(to_ms, bars.open_time(market.now_ms - SURE_MS))
        for symbol, listed_ms in market.listed_ms.items():
            found += parts_of_range(symbol, bars, max(from_ms, bars.open_time(listed_ms)), end_ms)
    return in_order(found)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _official(row: KlineRow, bars: Interval) -> OfficialRow:
    opened, open_, high, low, close, volume, quote, trades, taker, taker_quote = row
    closes = str(bars.close_time(opened))
    return str(opened), open_, high, low, close, volume, closes, quote, str(trades), taker, taker_quote

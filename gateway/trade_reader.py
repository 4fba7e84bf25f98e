"""Reads the aggTrades of one symbol out of the feed for a REST request, in pages, and never more than a set number.

The feed has no index. It is searched by halves for the place where the wanted trades begin, and read from there: back
until an id proves the beginning, on until the answer is whole, and back once more if it is not: a line that was late
may have hidden what another one brought before. Ids decide when nothing more can change the answer (`Gathered`), and
ticks: what was written before a trade took place does not hold it. Between two pages of some 2 ms the event loop serves
others, and a few requests read at once; more than a few waiting ones are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.feed_trades import FeedTrade, Gathered, Wanted, time_in, trades_in
from klagg.binance.serving import errors
from klagg.drivers.redis_streams import AsyncStreams, Entry
from klagg.errors import ContractError
from klagg.process.stats import Stats
from klagg.wire.entries import REST_LINE, TICK
from klagg.wire.entry_id import BEFORE_FIRST, PART_MAX, milliseconds_of
from klagg.wire.keys import Keys, shard_of

PAGE_ENTRIES: Final = 100

ENTRIES_MAX: Final = 100_000
"""Entries of the feed that one request reads at most: some 4 minutes of two lines, and about two seconds of work."""

READS_MAX: Final = 2
"""Requests that read at once."""

WAITING_MAX: Final = 16
"""Requests that wait for their turn; a further one is refused."""


class Trades(NamedTuple):
    """The answer to a request. `missing` counts the ids between its trades that the feed does not have.

    `since_ms`: the request reaches further back than the answer, which has the trades since this exchange time (ms).
    `until_ms`: the feed was read up to this exchange time, and there is more. None: the answer has all of it.
    """

    trades: list[FeedTrade]
    missing: int
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(slots=True)
class TradeReader:
    """Reads the feeds of all shards. Raises ApiError where too many requests wait; RedisUnavailable, RedisRefused."""

    streams: AsyncStreams
    shards: int
    stats: Stats
    entries_max: int = ENTRIES_MAX
    _turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READS_MAX))
    _waiting: int = 0

    def __post_init__(self) -> None:
        for name in ("trade_entries", "trade_ids_missing"):
            self.stats.add(name, 0)  # Prometheus sees growth only in what it saw before

    async def trades(self, symbol: str, wanted: Wanted, now_ms: int) -> Trades:
        """The wanted trades of a symbol; `now_ms` is the exchange's time."""
        if self._waiting >= WAITING_MAX:
            self.stats.add("requests_refused")
            raise errors.busy()
        self._waiting += 1
        try:
            async with self._turn:
                read = _Read(self, Keys(shard_of(symbol, self.shards)).feed, symbol, wanted)
                found = await read.answer(now_ms)
        finally:
            self._waiting -= 1
        self.stats.add("trade_ids_missing", found.missing)
        return found


class _Read:
    """One request's way through one feed."""

    def __init__(self, reader: TradeReader, feed: str, symbol: str, wanted: Wanted) -> None:
        self._streams, self._stats, self._feed = reader.streams, reader.stats, feed
        self._symbols = {symbol.encode(): symbol}
        self._wanted, self._gathered = wanted, Gathered(wanted)
        self._left = reader.entries_max
        self._back = self._on = ""
        """Where reading back and reading on have come to; "" at the end of the feed."""
        self._oldest_ms = self._newest_ms = 0
        self._tick_ms = 0
        """The time of the oldest tick that reading back has come to; ticks of the feed rise."""
        self._at_end = True

    async def answer(self, now_ms: int) -> Trades:
        gathered = self._gathered
        if self._wanted.newest:
            await self._read_back(until=self._is_whole)
        else:
            await self._seek()
            await self._read_back(until=lambda: gathered.begun)
            await self._read_on()
            await self._read_back(until=self._is_whole)
        found = gathered.found()
        since_ms = None if found.begun else self._oldest_ms or now_ms
        return Trades(found.trades, found.missing, since_ms, None if self._at_end else self._newest_ms)

    def _is_whole(self) -> bool:
        """Whether nothing that lies before what was read can change the answer."""
        if self._gathered.enough:
            return True
        floor_ms = self._gathered.floor_ms
        return floor_ms is not None and 0 < self._tick_ms < floor_ms

    async def _read_back(self, until: Callable[[], bool]) -> None:
        """Read towards the beginning of the feed."""
        while not until() and self._left > 0:
            page = await self._streams.newest(
                self._feed, count=PAGE_ENTRIES, last=f"({self._back}" if self._back else "+"
            )
            if not page:
                return
            self._oldest_ms = self._gather(page) or self._oldest_ms
            self._newest_ms = self._newest_ms or self._oldest_ms
            ticks = [time_in(entry.fields) for entry in page if entry.fields.get(b"kind") == TICK.encode()]
            self._tick_ms = ticks[-1] if ticks else self._tick_ms
            self._back = page[-1].id

    async def _read_on(self) -> None:
        """Read towards the end of the feed, from where reading back began."""
        after = self._on
        while after and not self._gathered.enough:
            if self._left <= 0:
                self._at_end = False
                return
            page = await self._page(after)
            if not page:
                return
            self._newest_ms = self._gather(page) or self._newest_ms
            after = page[-1].id

    def _gather(self, page: Sequence[Entry]) -> int:
        """Gather the trades of a page; the latest exchange time (ms) that it names."""
        for entry in page:
            for _, trade in self._trades_in(entry):
                self._gathered.add(trade, repaired=_is_repaired(entry))
        self._left -= len(page)
        self._stats.add("trade_entries", len(page))
        return max(time_in(entry.fields) for entry in page)

    def _trades_in(self, entry: Entry) -> Sequence[tuple[str, FeedTrade]]:
        try:
            return list(trades_in(entry.fields, self._symbols))
        except ContractError:
            self._stats.add("rejected")  # the aggregator says what is wrong with it
            return []

    async def _page(self, after: str) -> list[Entry]:
        found = await self._streams.read({self._feed: after}, count=PAGE_ENTRIES)
        return found.get(self._feed, [])

    async def _seek(self) -> None:
        """Find a place from which the wanted trades begin, or nearly; ids decide later whether they do."""
        page, newest = await self._page(BEFORE_FIRST), await self._streams.newest(self._feed)
        if not page or not newest:
            return
        is_reached = self._is_time_reached if self._wanted.from_id is None else self._is_id_reached
        low, high = milliseconds_of(page[0].id), milliseconds_of(newest[0].id) + 1
        while high - low > 1:
            middle = (low + high) // 2
            page = await self._page(f"{middle}-0")
            self._left -= len(page)
            if not page or is_reached(page):
                high = middle
            else:
                low = middle
        self._back, self._on = f"{high}-0", f"{high - 1}-{PART_MAX}"

    def _is_time_reached(self, page: Sequence[Entry]) -> bool:
        return max(time_in(entry.fields) for entry in page) >= (self._wanted.start_ms or 0)

    def _is_id_reached(self, page: Sequence[Entry]) -> bool:
        """Whether a line brings the id here, or a later one. Where the symbol does not trade it is not: later on it is
        nearer to the end, where clients mostly ask."""
        ids = [
            trade.id
            for entry in page
            if not _is_repaired(entry)
            for _, trade in self._trades_in(entry)
            if trade.time >= self._wanted.onboard_ms
        ]
        return max(ids, default=-1) >= (self._wanted.from_id or 0)


def _is_repaired(entry: Entry) -> bool:
    return entry.fields.get(b"line") == REST_LINE.encode()

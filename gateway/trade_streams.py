"""Sends the streams `<symbol>@aggTrade` out of the feed, which is read only while somebody listens to one.

A stream begins with what comes after its first subscription, and goes on in the order of ids (`InOrder`): each aggTrade
once, however many lines bring it. Ids that do not come within PATIENCE_MS are skipped for good and counted.
"""

from __future__ import annotations

import logging
from typing import Final

from gateway.feed_trades import FeedTrade, InOrder, trades_in
from gateway.hub import Hub
from klagg.drivers.redis_streams import AsyncStreams, Entry
from klagg.errors import ContractError, RedisRefused, RedisUnavailable
from klagg.process.stats import Stats
from klagg.wire.entry_id import BEFORE_FIRST
from klagg.wire.keys import Keys, shard_of

PATIENCE_MS: Final = 3_000
"""How long trades behind a gap wait (ms of this machine): the other line brings what one lost within moments, repair
asks for the rest after `aggregator.ask_after_ms`."""

WAITING_MAX: Final = 5_000
"""Trades of a symbol that wait behind a gap at most; one more, and the gap is skipped at once."""

PAGE_ENTRIES: Final = 100


class TradeStreams:
    """The streams of one shard's symbols. `turn` pulls once; errors of Redis are counted there and never raised."""

    def __init__(
        self, hub: Hub, shard: int, shards: int, streams: AsyncStreams, stats: Stats, log: logging.Logger
    ) -> None:
        self._hub, self._shard, self._shards = hub, shard, shards
        self._streams, self._stats, self._log = streams, stats, log
        self._feed = Keys(shard).feed
        self._position = ""
        self._orders: dict[str, InOrder] = {}
        self._is_lost = False
        for name in ("trades_sent", "trades_skipped", "trade_entries", "trade_pulls_failed"):
            stats.add(name, 0)  # Prometheus sees growth only in what it saw before

    async def turn(self, now_ms: float) -> bool:
        """Pull once at `now_ms` (monotonic), if anybody listens; returns whether there may be more to read."""
        self._follow()
        if not self._orders:
            self._position = ""
            return False
        page: list[Entry] = []
        try:
            page = await self._pull()
            self._is_lost = False
        except (RedisUnavailable, RedisRefused) as lost:
            self._stats.add("trade_pulls_failed")
            if not self._is_lost:
                self._log.warning("%s; streams of aggTrades wait until it is back", lost)
            self._is_lost = True
        symbols = {symbol.encode(): symbol for symbol in self._orders}
        for entry in page:
            try:
                for symbol, trade in list(trades_in(entry.fields, symbols)):
                    self._send(symbol, self._orders[symbol].add(trade, now_ms))
            except ContractError:
                self._stats.add("rejected")  # the aggregator says what is wrong with it
        for symbol, order in self._orders.items():
            self._send(symbol, order.overdue(now_ms))
            self._stats.add("trades_skipped", order.skipped)
            order.skipped = 0
        self._hub.flush()
        return len(page) >= PAGE_ENTRIES

    def _follow(self) -> None:
        """Take up the symbols that somebody listens to now, and let go of the others."""
        wanted = {symbol for symbol in self._hub.agg_trade_streams if shard_of(symbol, self._shards) == self._shard}
        for symbol in self._orders.keys() - wanted:
            del self._orders[symbol]
        for symbol in wanted - self._orders.keys():
            self._orders[symbol] = InOrder(PATIENCE_MS, WAITING_MAX)

    async def _pull(self) -> list[Entry]:
        """The entries behind the position; at first the position is the end of the feed."""
        if not self._position:
            newest = await self._streams.newest(self._feed)
            self._position = newest[0].id if newest else BEFORE_FIRST
            return []
        found = await self._streams.read({self._feed: self._position}, count=PAGE_ENTRIES)
        page = found.get(self._feed, [])
        if page:
            self._position = page[-1].id
        self._stats.add("trade_entries", len(page))
        return page

    def _send(self, symbol: str, trades: list[FeedTrade]) -> None:
        name = self._hub.agg_trade_streams.get(symbol)
        if name is None:
            return
        for trade in trades:
            self._hub.publish_trade(name, trade.event(symbol))
        self._stats.add("trades_sent", len(trades))

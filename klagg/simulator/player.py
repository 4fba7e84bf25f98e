"""Moves through a market's time and publishes what happens. No clock of its own: it is told how far to play."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from functools import partial

from klagg.simulator.bars import Bar, empty_bar
from klagg.simulator.fault_player import TRUTH, FaultPlayer
from klagg.simulator.hub import StreamHub
from klagg.simulator.live_klines import LiveKlines
from klagg.simulator.market import DAY_MS, MarketSource, MarketTrade
from klagg.simulator.payloads import (
    DayTicker,
    agg_trade_event,
    contract_info_event,
    mini_tickers_event,
    tickers_event,
    trade_event,
)
from klagg.simulator.streams import (
    CONTRACT_INFO,
    MINI_TICKERS,
    TICKERS,
    ExchangeStream,
    StreamKind,
    agg_trade_stream,
    trade_stream,
)

_HOUR_MS = 3_600_000


class Player:
    """Plays `source` into `hub`. `position_ms` is the exchange time up to which everything has been published."""

    def __init__(self, source: MarketSource, hub: StreamHub, start_ms: int, faults: FaultPlayer | None = None) -> None:
        self._source = source
        self._hub = hub
        self._faults = faults
        self._agg_names: dict[str, str] = {}
        self._trade_names: dict[str, str] = {}
        self._listings = {listing.symbol: listing for listing in source.listings(start_ms)}
        self._tickers: dict[str, Bar] = {}
        self._changed_tickers: set[str] = set()
        self._last_fills: dict[str, int] = {}
        self._first_fills: dict[str, tuple[int, int]] = {}
        self.klines = LiveKlines()
        self.position_ms = start_ms
        self.last_aggregate: dict[str, int] = {}
        self.last_fill: dict[str, int] = {}
        self.aggregates_played = 0

    def play(self, until_ms: int) -> None:
        """Publishes the trades up to `until_ms` and writes them out."""
        source, after_ms = self._source, self.position_ms
        source.prepare(until_ms)
        aggregates = source.aggregates(after_ms, until_ms)
        self._publish_aggregates(aggregates)
        if self._hub.wants(StreamKind.TRADE) or len(self.klines):
            fills = source.fills(after_ms, until_ms)
            self._publish_fills(fills)
            if len(self.klines):
                self.klines.add(fills)
                self.klines.add(trade for trade in aggregates if not source.has_fills(trade.symbol))
        if self._wants_tickers():
            self._update_tickers(aggregates)
        self.position_ms = until_ms
        self._hub.flush()

    def publish_klines(self) -> None:
        """Publishes the bars that changed; the exchange does it every 250 ms."""
        for stream, payload in list(self.klines.events(self.position_ms)):
            name = f"{stream.symbol.lower()}@kline_{stream.interval}"
            if self._hub.has_listeners(name):
                self._hub.publish(name, str, payload)
            else:
                self.klines.stop(stream)
        self._hub.flush()

    def publish_tickers(self) -> None:
        """Publishes the tickers that changed; the exchange does it once a second."""
        if self._changed_tickers:
            changed = {symbol: self._tickers[symbol] for symbol in sorted(self._changed_tickers)}
            encode = partial(mini_tickers_event, event_ms=self.position_ms, coin_m=True)
            self._hub.publish(MINI_TICKERS, encode, changed)
            if self._hub.wants(StreamKind.TICKERS):
                told = [(symbol, self._day_ticker(symbol, bar)) for symbol, bar in changed.items()]
                days = {symbol: ticker for symbol, ticker in told if ticker is not None}
                self._hub.publish(TICKERS, partial(tickers_event, event_ms=self.position_ms, coin_m=True), days)
            self._changed_tickers.clear()
        if not self._wants_tickers():
            self._tickers.clear()
        self._hub.flush()

    def publish_listings(self) -> None:
        """Publishes the contracts that are new or have changed."""
        listings = {listing.symbol: listing for listing in self._source.listings(self.position_ms)}
        for symbol, before in self._listings.items():
            now = listings.get(symbol)
            if now is None or (now.status, now.onboard_ms) != (before.status, before.onboard_ms):
                self.klines.end(symbol)
                self._tickers.pop(symbol, None)
                self._changed_tickers.discard(symbol)
                self._first_fills.pop(symbol, None)
        for symbol, listing in listings.items():
            if self._listings.get(symbol) != listing:
                self._hub.publish(CONTRACT_INFO, partial(contract_info_event, event_ms=self.position_ms), listing)
        self._listings = listings
        self._hub.flush()

    def seed_kline(self, stream: ExchangeStream, bar: Bar | None) -> None:
        """Gives a kline stream its bar so far."""
        self.klines.seed(stream, bar)

    def _publish_aggregates(self, trades: Sequence[MarketTrade]) -> None:
        publish, names, last = self._hub.publish, self._agg_names, self.last_aggregate
        for trade in trades:
            symbol = trade.symbol
            last[symbol] = trade.id
            name = names.get(symbol) or names.setdefault(symbol, agg_trade_stream(symbol))
            publish(name, agg_trade_event, trade)
        self.aggregates_played += len(trades)

    def _publish_fills(self, fills: Sequence[MarketTrade]) -> None:
        publish, names, last = self._hub.publish, self._trade_names, self.last_fill
        for fill in fills:
            symbol = fill.symbol
            last[symbol] = fill.id
            name = names.get(symbol) or names.setdefault(symbol, trade_stream(symbol))
            publish(name, trade_event, fill)

    def _wants_tickers(self) -> bool:
        return self._hub.wants(StreamKind.MINI_TICKERS) or self._hub.wants(StreamKind.TICKERS)

    def _day_ticker(self, symbol: str, bar: Bar) -> DayTicker | None:
        """The ids of the fills of the last day, which begins with a full hour, or with what the source knows; or what a
        fault makes of them. Fills without an aggregate trade count once the next one comes."""
        tale = self._faults.ticker("stream", symbol) if self._faults is not None else TRUTH
        if tale is None:
            return None
        now_ms, last_id = self.position_ms, self._last_fills[symbol]
        since_ms = max(-(-(now_ms - DAY_MS) // _HOUR_MS) * _HOUR_MS, self._source.history_start_ms(symbol, now_ms))
        known = self._first_fills.get(symbol)
        if known is None or known[0] != since_ms:
            oldest = self._source.aggregates_between(symbol, since_ms, now_ms, 1, now_ms, newest=False)
            known = self._first_fills[symbol] = since_ms, oldest[0].first if oldest else self._last_fills[symbol]
        if tale.behind_ms:
            then_ms = now_ms - tale.behind_ms
            newest = self._source.aggregates_between(symbol, since_ms, then_ms, 1, then_ms, newest=True)
            last_id = newest[0].last if newest else known[1]
        return DayTicker(bar, known[1], last_id + tale.ids, since_ms, now_ms - tale.late_ms)

    def _update_tickers(self, trades: Sequence[MarketTrade]) -> None:
        """Tickers cover the time since somebody listens, not a day: they tell which symbols live."""
        for trade in trades:
            ticker = self._tickers.get(trade.symbol)
            if ticker is None:
                ticker = self._tickers[trade.symbol] = empty_bar(0, 0, trade.price)
            if Decimal(trade.qty):
                ticker.add(trade)
            self._last_fills[trade.symbol] = trade.last
            self._changed_tickers.add(trade.symbol)

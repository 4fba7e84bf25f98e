"""The bars behind `@kline_…` streams: kept for the streams that somebody listens to, from the fills that are played."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from klagg.simulator.bars import Bar, empty_bar
from klagg.simulator.market import KLINE_INTERVALS, MarketTrade
from klagg.simulator.payloads import kline_event
from klagg.simulator.streams import ExchangeStream

SETTLE_MS = 250
"""Exchange time after a bar's end at which the last of its trades has been played and the bar is sent as closed."""


@dataclass(slots=True)
class _Live:
    stream: ExchangeStream
    bar: Bar | None = None
    waiting: list[MarketTrade] | None = field(default_factory=list)
    closed: list[Bar] = field(default_factory=list)
    changed: bool = False

    def add(self, trade: MarketTrade) -> None:
        if self.waiting is not None:
            self.waiting.append(trade)
            return
        open_ms = KLINE_INTERVALS[self.stream.interval].open_time(trade.time_ms)
        if self.bar is not None and open_ms < self.bar.open_ms:
            return
        if self.bar is not None and open_ms > self.bar.open_ms:
            self.closed.append(self.bar)
            self.bar = None
        if self.bar is None:
            self.bar = empty_bar(open_ms, KLINE_INTERVALS[self.stream.interval].close_time(open_ms), trade.price)
        self.bar.add(trade)
        self.changed = True


class LiveKlines:
    """Bars in progress of the subscribed (symbol, interval) pairs. Pure: positions are passed in, payloads come out."""

    def __init__(self) -> None:
        self._live: dict[ExchangeStream, _Live] = {}
        self._by_symbol: dict[str, list[_Live]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def start(self, stream: ExchangeStream) -> bool:
        """Begins to collect a stream's trades; True when it is new and wants `seed` with the bar so far."""
        if stream in self._live:
            return False
        live = self._live[stream] = _Live(stream)
        self._by_symbol.setdefault(stream.symbol, []).append(live)
        return True

    def stop(self, stream: ExchangeStream) -> None:
        """Forgets a stream."""
        live = self._live.pop(stream, None)
        if live is not None:
            self._by_symbol[stream.symbol].remove(live)

    def end(self, symbol: str) -> None:
        """The symbol has been delisted: its bars end where they are, and those of a new listing begin anew."""
        for live in self._by_symbol.get(symbol, ()):
            live.bar, live.changed = None, False

    def seed(self, stream: ExchangeStream, bar: Bar | None) -> None:
        """Gives a stream its bar as of `start`; the trades collected since are added to it."""
        live = self._live.get(stream)
        if live is not None and live.waiting is not None:
            live.bar, live.changed = bar, bar is not None
            waiting, live.waiting = live.waiting, None
            for trade in waiting:
                live.add(trade)

    def add(self, trades: Iterable[MarketTrade]) -> None:
        """Adds played trades; those that do not count are passed over."""
        for trade in trades:
            for live in self._by_symbol.get(trade.symbol, ()):
                if trade.counts:
                    live.add(trade)

    def events(self, position_ms: int) -> Iterator[tuple[ExchangeStream, str]]:
        """(stream, payload) of every bar that closed or changed since the last call; `position_ms` is played so far."""
        for live in self._live.values():
            while live.bar is not None and live.bar.close_ms + SETTLE_MS < position_ms:
                live.closed.append(live.bar)
                open_ms = live.bar.close_ms + 1
                close_ms = KLINE_INTERVALS[live.stream.interval].close_time(open_ms)
                live.bar = empty_bar(open_ms, close_ms, live.bar.close)
                live.changed = True
            for bar in live.closed:
                yield live.stream, self._event(live, bar, position_ms, closed=True)
            live.closed.clear()
            if live.changed and live.bar is not None:
                live.changed = False
                yield live.stream, self._event(live, live.bar, position_ms, closed=False)

    @staticmethod
    def _event(live: _Live, bar: Bar, position_ms: int, *, closed: bool) -> str:
        return kline_event(live.stream.symbol, live.stream.interval, bar, position_ms, closed=closed)

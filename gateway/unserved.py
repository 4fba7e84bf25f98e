"""Streams that clients subscribed to and klagg does not make. Like Binance, klagg acknowledges such a subscription and
sends nothing; so that nobody waits for ever without knowing why, they are counted, logged once, and shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.streams import parse_agg_trade_stream, parse_stream, parse_ticker_stream
from klagg.intervals import Interval

NAMES_MAX: Final = 100
"""Names that are kept; clients choose them. Further ones are counted without their names."""


class UnservedStreams:
    """Counts subscriptions by stream name, in the order of their first one.

    `agg_trades`: whether the lines receive aggTrades, and not fills.
    """

    def __init__(self, intervals: Iterable[Interval], *, agg_trades: bool = True) -> None:
        self._intervals = {interval.name for interval in intervals}
        self._agg_trades = agg_trades
        self.counts: dict[str, int] = {}

    def note(self, names: Sequence[str]) -> tuple[int, list[str]]:
        """Note a client's new subscriptions: how many of them klagg does not make, and the names that are new here."""
        unserved = [name for name in names if not self._makes(name)]
        new = []
        for name in unserved:
            if name in self.counts:
                self.counts[name] += 1
            elif len(self.counts) < NAMES_MAX:
                self.counts[name] = 1
                new.append(name)
        return len(unserved), new

    def _makes(self, name: str) -> bool:
        stream = parse_stream(name)
        if stream is not None:
            return stream.interval in self._intervals
        return parse_ticker_stream(name) is not None or (self._agg_trades and parse_agg_trade_stream(name) is not None)

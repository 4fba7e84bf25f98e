"""What an aggregator commits over some minutes, for the bench of the auditors: the real core over made-up trades."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from aggregator.core import Core
from klagg import settings
from klagg.bench.trades import PRICE_SCALE, QTY_SCALE, START_MS, TradeGenerator
from klagg.drivers.redis_streams import Append
from klagg.intervals import MINUTE_MS
from klagg.wire.entries import Listing, listing_entries, tick_entry, watermark_entry
from klagg.wire.fields import Fields, RawFields, stamp
from klagg.wire.keys import Keys

KEYS: Final = Keys(0)
TICK_MS: Final = 250
LEAD_TICK_MS: Final = 1_000
"""What is not measured has fewer ticks, so that it is made sooner."""
ROWS: Final = 512


@dataclass(frozen=True, slots=True)
class Commit:
    """One tick's entries, stamped: of `klines` first, then of `events`."""

    time_ms: int
    klines: Sequence[Fields]
    events: Sequence[Fields]

    @property
    def writes(self) -> list[Append]:
        """In the order in which an aggregator appends them."""
        return [
            *(Append(KEYS.klines, fields) for fields in self.klines),
            *(Append(KEYS.events, fields) for fields in self.events),
        ]


class Hour:
    """A market of `symbols` symbols with `rate` trades a second from a whole hour on. What it says never repeats."""

    def __init__(self, symbols: int, rate: int) -> None:
        self._market, self._rate = TradeGenerator(symbols), rate
        self._core = Core(settings.Aggregator(), epoch=1)
        self._fed, self._klines, self._events = itertools.count(1), itertools.count(1), itertools.count(1)
        self._time_ms = START_MS
        listings = [
            Listing(name, START_MS - 1, PRICE_SCALE, QTY_SCALE, "TRADING", 4_133_404_800_000)
            for name in self._market.names
        ]
        for entry in listing_entries(listings):
            list(self._core.apply("1-1", self._raw(entry)))

    def minutes(self, count: int, tick_ms: int) -> Iterator[Commit]:
        """The commits of the next minutes, one for each tick."""
        end_ms = self._time_ms + count * MINUTE_MS
        while self._time_ms < end_ms:
            from_ms, self._time_ms = self._time_ms, self._time_ms + tick_ms
            trades = self._market.trades(self._rate * tick_ms // 1000, from_ms, self._time_ms)
            entries = [
                *self._market.entries(trades, ROWS),
                watermark_entry("A", self._market.names, self._time_ms),
                tick_entry(self._time_ms),
            ]
            for entry in entries:
                for outputs in self._core.apply("1-1", self._raw(entry)):
                    said = outputs.encode()
                    yield Commit(
                        self._time_ms,
                        [stamp(each, "bench@1", next(self._klines)) for each in said.klines],
                        [stamp(each, "bench@1", next(self._events)) for each in said.events],
                    )

    def _raw(self, fields: Fields) -> RawFields:
        stamped = stamp(fields, "bench@1", next(self._fed))
        return {name.encode(): value.encode() for name, value in stamped.items()}

"""Bars as texts: what stood in the ring at a tick, copied as arrays, written out only when somebody wants to read it.

Writing is the dearest thing an aggregator does, so it is done by one format string a bar, over columns of integers
that numpy has already split at the decimal point. A tick that is not published (the silent part of a restart) writes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aggregator.ring import FIELD, NO_ID, PRICES, Ring
from aggregator.symbols import SymbolTable
from klagg.decimals import DIGITS_MAX, POWERS
from klagg.intervals import MINUTE, Interval
from klagg.wire.fields import Fields

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

OWN, EXCHANGE, MIXED = "own", "exchange", "mixed"
"""`source` of a bar folded from trades alone, of the exchange's own kline, and of a bar with parts of both."""

_BEYOND = np.iinfo(np.int64).max
"""Stands for a power of ten that 64 bits do not hold: nothing is left of its point."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """N bars of one interval as they were at a tick. `values` is [field, n]."""

    interval: Interval
    slots: Ints
    names: list[str]
    buckets: Ints
    values: Ints
    waiting: Bools
    agg: Bools
    sources: list[str]
    price_scale: Ints
    qty_scale: Ints

    def __len__(self) -> int:
        return len(self.slots)

    def field(self, name: str) -> Ints:
        """One integer field."""
        values: Ints = self.values[FIELD[name]]
        return values

    @property
    def open_time(self) -> Ints:
        """Open times in ms."""
        return self.interval.opens_of(self.buckets)

    @property
    def next_open(self) -> Ints:
        """Open times of the bars behind these, in ms."""
        return self.interval.opens_of(self.buckets + 1)

    @property
    def complete(self) -> Bools:
        done: Bools = (self.field("revision") > 0) & ~self.waiting
        return done

    @property
    def empty(self) -> Bools:
        """Which bars have no trade."""
        none: Bools = self.field("open_id") == NO_ID
        return none

    def live_fields(self) -> list[str]:
        """The names of the bars in `live` and `bars` (contract.live_field)."""
        ending = f":{self.interval.name}"
        names = self.names
        return [names[slot] + ending for slot in self.slots.tolist()]

    def live_values(self) -> list[str]:
        """The compact values of `live` and `bars` (contract.LIVE_VALUE)."""
        revision = self.field("revision")
        return self._written(
            True,
            [self.open_time],
            [
                self.field("first_trade_id"),
                self.field("last_trade_id"),
                revision > 0,
                revision,
                self.complete,
            ],
        )

    def _written(self, live: bool, before: list[Ints], after: list[Ints | Bools]) -> list[str]:
        """Every bar in its symbol's template, filled with whole and fractional parts."""
        price, qty = self.price_scale, self.qty_scale
        columns: list[list[int]] = [column.tolist() for column in before]
        for name, scale in (*((name, price) for name in PRICES), ("volume", qty), ("quote_volume", price + qty)):
            columns += _parts(self.field(name), scale)
        columns.append(self.field("trades").tolist())
        for name, scale in (("taker_buy_volume", qty), ("taker_buy_quote_volume", price + qty)):
            columns += _parts(self.field(name), scale)
        columns += [column.astype(np.int64).tolist() for column in after]
        templates = (_template(*scales, live) for scales in zip(price.tolist(), qty.tolist(), strict=True))
        return [template % values for template, values in zip(templates, zip(*columns, strict=True), strict=True)]

    def klines(self, epoch: int, edges: list[str]) -> list[Fields]:
        """The `klines` entries: field by field those of klagg.kline.Kline. `edges` is each bar's evidence."""
        agg_ids = [
            np.where(self.agg, np.maximum(self.field(name), NO_ID), NO_ID).tolist() for name in ("open_id", "close_id")
        ]
        rest = zip(
            self.slots.tolist(),
            self.open_time.tolist(),
            self.next_open.tolist(),
            self._written(False, [], []),
            *agg_ids,
            self.field("first_trade_id").tolist(),
            self.field("last_trade_id").tolist(),
            self.complete.tolist(),
            self.field("revision").tolist(),
            self.sources,
            edges,
            strict=True,
        )
        written = []
        for slot, opening, next_open, text, first_agg, last_agg, first, last, complete, revision, source, edge in rest:
            open_, high, low, close, volume, quote, trades, taker, taker_quote = text.split(",")
            written.append(
                {
                    "symbol": self.names[slot],
                    "interval": self.interval.name,
                    "open_time": str(opening),
                    "close_time": str(next_open - 1),
                    "open": open_,
                    "high": high,
                    "low": low,
                    "close": close,
                    "volume": volume,
                    "quote_volume": quote,
                    "trades": trades,
                    "taker_buy_volume": taker,
                    "taker_buy_quote_volume": taker_quote,
                    "first_agg_id": str(first_agg),
                    "last_agg_id": str(last_agg),
                    "first_trade_id": str(first),
                    "last_trade_id": str(last),
                    "complete": "1" if complete else "0",
                    "epoch": str(epoch),
                    "revision": str(revision),
                    "source": source,
                    "edge": edge,
                }
            )
        return written


def snapshot(ring: Ring, symbols: SymbolTable, interval: int, rows: Ints, slots: Ints) -> Snapshot:
    """The bars in these cells of one interval, in the order given."""
    return Snapshot(
        ring.intervals[interval],
        slots,
        symbols.names,
        ring.row_bucket[rows],
        np.take(ring.state, rows * ring.capacity + slots, axis=0).T,
        ring.waiting[rows, slots],
        ring.agg[rows, slots],
        _sources(ring, interval, rows, slots),
        symbols.price_scale[slots],
        symbols.qty_scale[slots],
    )


def _sources(ring: Ring, interval: int, rows: Ints, slots: Ints) -> list[str]:
    """Whose values the bars have. An official minute is the exchange's as a whole."""
    sources = [OWN] * len(rows)
    for number in np.flatnonzero(ring.official[rows, slots]).tolist():
        row, slot = int(rows[number]), int(slots[number])
        borrowed = ring.borrowed.get((interval, int(ring.row_bucket[row]), slot), 0)
        whole = ring.intervals[interval] is MINUTE or int(ring.trades[row, slot]) == borrowed
        sources[number] = EXCHANGE if whole else MIXED
    return sources


def _parts(mantissas: Ints, scales: Ints) -> list[list[int]]:
    """What stands before and behind the decimal point."""
    powers = np.where(scales > DIGITS_MAX, _BEYOND, POWERS[np.minimum(scales, DIGITS_MAX)])
    whole, fraction = np.divmod(mantissas, powers)
    return [whole.tolist(), fraction.tolist()]


@lru_cache(maxsize=1024)
def _template(price_scale: int, qty_scale: int, live: bool) -> str:
    """The format of a bar whose symbol has these scales; a scale of 0 has neither point nor fraction."""

    def decimal(scale: int) -> str:
        return f"%d.%0{scale}d" if scale else "%d%.0s"

    price, qty, quote = decimal(price_scale), decimal(qty_scale), decimal(price_scale + qty_scale)
    values = ",".join([*[price] * 4, qty, quote, "%d", qty, quote])
    return f"%d,{values},%d,%d,%d,%d,%d" if live else values

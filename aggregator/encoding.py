"""Bars as the texts of stream entries: what stood in the ring at a tick, copied as arrays, written out when it is read.

Formatting decimals is the most expensive thing an aggregator does. So numpy splits whole columns of mantissas at the
decimal point, one format string per scale puts the pieces together, and a bar that goes to `klines` and to `live` is
formatted once. A tick that is not published (the silent part of a restart) formats nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.ring import FIELD, NO_ID, PRICES, Ring
from aggregator.symbols import SymbolTable
from klagg.decimals import DIGITS_MAX, POWERS
from klagg.intervals import MINUTE, Interval
from klagg.wire.fields import Fields

OWN, EXCHANGE, MIXED = "own", "exchange", "mixed"
"""`source` of a bar folded from trades alone, of the exchange's own kline, and of a bar with parts of both."""

TRADES = "trades"
"""The one of the nine values that is no decimal."""

_BEYOND = np.iinfo(np.int64).max
"""In place of a power of ten that 64 bits do not hold: the whole part of any mantissa is then 0."""


Nine = tuple[str, ...]
"""The nine values of a bar as decimal texts, in the order of a kline: open, high, low, close, volume, quote volume,
trades, taker buy volume, taker buy quote volume."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """N bars of one interval as they were at a tick.

    `slots` and `buckets` are int64 [n]. `values` is int64 [field, n], fields in the order of BAR_INTEGERS; prices,
    volumes and quote volumes are mantissas at the symbol's `price_scale`, at its `qty_scale` (both [n]) and at the sum
    of both. `waiting`, `agg` and `by_exchange` (official rows stand for the bar or for a part of it) are boolean [n],
    `sources` one of OWN, EXCHANGE and MIXED a bar. `names` are all
    symbols' names by slot, as the symbol table holds them: they are valid until the tick is over.
    """

    interval: Interval
    slots: Ints
    names: list[str]
    buckets: Ints
    values: Ints
    waiting: Bools
    agg: Bools
    by_exchange: Bools
    sources: list[str]
    price_scale: Ints
    qty_scale: Ints

    def __len__(self) -> int:
        return len(self.slots)

    def field(self, name: str) -> Ints:
        """One integer field [n] by its name in BAR_INTEGERS."""
        values: Ints = self.values[FIELD[name]]
        return values

    @property
    def open_time(self) -> Ints:
        """Open times [n] in exchange ms."""
        return self.interval.opens_of(self.buckets)

    @property
    def next_open(self) -> Ints:
        """Open times [n] of the next bars, in exchange ms."""
        return self.interval.opens_of(self.buckets + 1)

    @property
    def whole(self) -> Bools:
        """Which bars are published and lack nothing."""
        done: Bools = (self.field("revision") > 0) & ~self.waiting
        return done

    @property
    def complete(self) -> Bools:
        """Which bars are whole, as own ids prove."""
        proven: Bools = self.whole & ~self.by_exchange
        return proven

    @property
    def official(self) -> Bools:
        """Which bars are whole on the word of the exchange."""
        told: Bools = self.whole & self.by_exchange
        return told

    @property
    def empty(self) -> Bools:
        """Which bars have no trade."""
        none: Bools = self.field("open_id") == NO_ID
        return none

    def live_fields(self) -> list[str]:
        """The names of the bars in `live` and `bars` (klagg.wire.entries.live_field)."""
        ending = f":{self.interval.name}"
        names = self.names
        return [names[slot] + ending for slot in self.slots.tolist()]

    def nine_values(self) -> list[Nine]:
        """The nine values of each bar, at its symbol's scales."""
        columns: list[list[str]] = []
        for name, scales in self._decimal_columns():
            if name == TRADES:
                columns.append([str(trades) for trades in self.field(TRADES).tolist()])
                continue
            formats = [_decimal_format(scale) for scale in scales.tolist()]
            pieces = zip(*_split_at_point(self.field(name), scales), strict=True)
            columns.append([pattern % pair for pattern, pair in zip(formats, pieces, strict=True)])
        return list(zip(*columns, strict=True))

    def live_values(self, nine_values: Sequence[Nine] | None = None) -> list[str]:
        """The compact values of `live` and `bars` (klagg.wire.entries.LIVE_VALUE).

        With the `nine_values` of these bars, which a caller that also writes `klines` has, they are only joined.
        """
        revision = self.field("revision")
        opens = self.open_time.tolist()
        flags = [column.astype(np.int64).tolist() for column in (revision > 0, revision, self.complete, self.official)]
        rest = [self.field("first_trade_id").tolist(), self.field("last_trade_id").tolist(), *flags]
        if nine_values is not None:
            return [
                f"{opening},{','.join(nine)},{first},{last},{closed},{version},{complete},{official}"
                for opening, nine, first, last, closed, version, complete, official in zip(
                    opens, nine_values, *rest, strict=True
                )
            ]
        columns: list[list[int]] = [opens]
        for name, scales in self._decimal_columns():
            columns += [self.field(TRADES).tolist()] if name == TRADES else _split_at_point(self.field(name), scales)
        templates = map(_live_template, self.price_scale.tolist(), self.qty_scale.tolist())
        return [
            template % values for template, values in zip(templates, zip(*columns, *rest, strict=True), strict=True)
        ]

    def _decimal_columns(self) -> tuple[tuple[str, Ints], ...]:
        """The nine values in the order of a kline: field and scale (trades have none: 0)."""
        price, qty = self.price_scale, self.qty_scale
        quote = price + qty
        return (
            *((name, price) for name in PRICES),
            ("volume", qty),
            ("quote_volume", quote),
            (TRADES, np.zeros_like(price)),
            ("taker_buy_volume", qty),
            ("taker_buy_quote_volume", quote),
        )

    def klines(self, epoch: int, edges: list[str], nine_values: Sequence[Nine]) -> list[Fields]:
        """The `klines` entries: field by field those of klagg.kline.Kline. `edges` is each bar's edge evidence."""
        agg_ids = [
            np.where(self.agg, np.maximum(self.field(name), NO_ID), NO_ID).tolist() for name in ("open_id", "close_id")
        ]
        rest = zip(
            self.slots.tolist(),
            self.open_time.tolist(),
            self.next_open.tolist(),
            nine_values,
            *agg_ids,
            self.field("first_trade_id").tolist(),
            self.field("last_trade_id").tolist(),
            zip(self.complete.tolist(), self.official.tolist(), strict=True),
            self.field("revision").tolist(),
            self.sources,
            edges,
            strict=True,
        )
        entries = []
        for slot, opening, next_open, nine, first_agg, last_agg, first, last, whose, revision, source, edge in rest:
            open_, high, low, close, volume, quote, trades, taker, taker_quote = nine
            entries.append(
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
                    "complete": "1" if whose[0] else "0",
                    "official": "1" if whose[1] else "0",
                    "epoch": str(epoch),
                    "revision": str(revision),
                    "source": source,
                    "edge": edge,
                }
            )
        return entries


def snapshot(ring: Ring, symbols: SymbolTable, interval: int, rows: Ints, slots: Ints) -> Snapshot:
    """The bars in these cells (ring rows and slots, int64 [n] each) of one interval, in the order given."""
    return Snapshot(
        ring.intervals[interval],
        slots,
        symbols.names,
        ring.row_bucket[rows],
        np.take(ring.state, rows * ring.capacity + slots, axis=0).T,
        ring.waiting[rows, slots],
        ring.agg[rows, slots],
        ring.official[rows, slots] | ring.covered[rows, slots],
        _sources(ring, interval, rows, slots),
        symbols.price_scale[slots],
        symbols.qty_scale[slots],
    )


def _sources(ring: Ring, interval: int, rows: Ints, slots: Ints) -> list[str]:
    """`source` of each bar. An official minute is the exchange's as a whole; a bar of own trades for whose values
    official rows stand is of both."""
    sources = [MIXED if covered else OWN for covered in ring.covered[rows, slots].tolist()]
    for number in np.flatnonzero(ring.official[rows, slots]).tolist():
        row, slot = int(rows[number]), int(slots[number])
        borrowed = ring.borrowed.get((interval, int(ring.row_bucket[row]), slot), 0)
        whole = ring.intervals[interval] is MINUTE or int(ring.trades[row, slot]) == borrowed
        sources[number] = EXCHANGE if whole else MIXED
    return sources


def _split_at_point(mantissas: Ints, scales: Ints) -> list[list[int]]:
    """What stands before and behind the decimal point: two lists of n integers."""
    powers = np.where(scales > DIGITS_MAX, _BEYOND, POWERS[np.minimum(scales, DIGITS_MAX)])
    whole, fraction = np.divmod(mantissas, powers)
    return [whole.tolist(), fraction.tolist()]


@lru_cache(maxsize=64)
def _decimal_format(scale: int) -> str:
    """The format of a whole part and a fraction at this scale; a scale of 0 has neither point nor fraction."""
    return f"%d.%0{scale}d" if scale else "%d%.0s"


@lru_cache(maxsize=1024)
def _live_template(price_scale: int, qty_scale: int) -> str:
    """The format of the live value of a bar whose symbol has these scales."""
    price, qty, quote = map(_decimal_format, (price_scale, qty_scale, price_scale + qty_scale))
    values = ",".join([*[price] * 4, qty, quote, "%d", qty, quote])
    return f"%d,{values},%d,%d,%d,%d,%d,%d"

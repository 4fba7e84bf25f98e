"""From bars to stream entries: the words in which the aggregator speaks. Pure; the shell commits what stands here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from aggregator.edges import Edge, Edges
from aggregator.finality import AMENDED, CONFIRMED, Published
from aggregator.ring import NO_BUCKET, NO_ID, Ring
from aggregator.symbols import SymbolTable
from klagg import contract
from klagg.contract import Fields
from klagg.decimals import to_text

Ints = npt.NDArray[np.int64]

OWN = "own"
"""`source` of a bar folded from trades alone."""

_VALUES = (
    "open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume",
    "open_id", "close_id", "first_trade_id", "last_trade_id", "revision", "waiting", "agg",
)  # fmt: skip


@dataclass(slots=True)
class Outputs:
    """What one tick, or one step of a long jump, puts out: entries without their stamps (version, writer, seq).

    `last` is False for the steps before a tick's last one; `bars_gone` are fields that leave the hash `bars`.
    """

    time_ms: int
    last: bool = True
    klines: list[Fields] = field(default_factory=list)
    live: list[Fields] = field(default_factory=list)
    bars: Fields = field(default_factory=dict)
    bars_gone: list[str] = field(default_factory=list)
    events: list[Fields] = field(default_factory=list)
    requests: list[Fields] = field(default_factory=list)
    findings: list[Fields] = field(default_factory=list)
    dead: list[Fields] = field(default_factory=list)


@dataclass(slots=True)
class Bar:
    """One bar's values as texts and integers, in the words of the wire."""

    symbol: str
    slot: int
    interval: str
    open_time: int
    next_open: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str
    trades: int
    taker_buy_volume: str
    taker_buy_quote_volume: str
    open_id: int
    close_id: int
    first_trade_id: int
    last_trade_id: int
    revision: int
    waiting: int
    agg: int

    @property
    def complete(self) -> int:
        return int(self.revision > 0 and not self.waiting)

    @property
    def empty(self) -> bool:
        return self.open_id == NO_ID

    def live_value(self) -> str:
        """The compact value of `live` and `bars` (contract.LIVE_VALUE)."""
        closed = int(self.revision > 0)
        return (
            f"{self.open_time},{self.open},{self.high},{self.low},{self.close},{self.volume},{self.quote_volume},"
            f"{self.trades},{self.taker_buy_volume},{self.taker_buy_quote_volume},{self.first_trade_id},"
            f"{self.last_trade_id},{closed},{self.revision},{self.complete}"
        )

    def kline(self, epoch: int, edge: str) -> Fields:
        """The `klines` entry: field by field that of klagg.kline.Kline."""
        return {
            "symbol": self.symbol, "interval": self.interval, "open_time": str(self.open_time),
            "close_time": str(self.next_open - 1), "open": self.open, "high": self.high, "low": self.low,
            "close": self.close, "volume": self.volume, "quote_volume": self.quote_volume, "trades": str(self.trades),
            "taker_buy_volume": self.taker_buy_volume, "taker_buy_quote_volume": self.taker_buy_quote_volume,
            "first_agg_id": str(self.open_id if self.agg else NO_ID),
            "last_agg_id": str(self.close_id if self.agg else NO_ID), "first_trade_id": str(self.first_trade_id),
            "last_trade_id": str(self.last_trade_id), "complete": str(self.complete), "epoch": str(epoch),
            "revision": str(self.revision), "source": OWN, "edge": edge,
        }  # fmt: skip


def bars_of(ring: Ring, symbols: SymbolTable, interval: int, rows: Ints, slots: Ints) -> list[Bar]:
    """The bars in these cells of one interval, in the order given."""
    kind = ring.intervals[interval]
    buckets = ring.row_bucket[rows]
    columns = [getattr(ring, name)[rows, slots].tolist() for name in _VALUES]
    bars = []
    for slot, price_scale, qty_scale, open_time, next_open, *values in zip(
        slots.tolist(), symbols.price_scale[slots].tolist(), symbols.qty_scale[slots].tolist(),
        kind.opens_of(buckets).tolist(), kind.opens_of(buckets + 1).tolist(), *columns, strict=True,
    ):  # fmt: skip
        open_, high, low, close, volume, quote, trades, taker, taker_quote, *rest = values
        quote_scale = price_scale + qty_scale
        bars.append(Bar(
            symbols.names[slot], slot, kind.name, open_time, next_open, to_text(open_, price_scale),
            to_text(high, price_scale), to_text(low, price_scale), to_text(close, price_scale),
            to_text(volume, qty_scale), to_text(quote, quote_scale), trades, to_text(taker, qty_scale),
            to_text(taker_quote, quote_scale), *rest,
        ))  # fmt: skip
    return bars


def edge_text(found: Iterable[Edge], price_scale: int, qty_scale: int) -> str:
    """Edge evidence for the wire: `id:first:last:time:price:qty:maker`, joined by semicolons."""
    return ";".join(
        f"{trade}:{first}:{last}:{time_ms}:{to_text(price, price_scale)}:{to_text(qty, qty_scale)}:{maker}"
        for trade, first, last, time_ms, price, qty, maker in found
    )


class Speaker:
    """Turns what finality published, and what changed, into a tick's outputs."""

    def __init__(self, ring: Ring, symbols: SymbolTable, edges: Edges) -> None:
        self._ring, self._symbols, self._edges = ring, symbols, edges
        self._bars: Fields = {}

    def finals(self, outputs: Outputs, published: list[Published], epoch: int) -> None:
        """Klines, their live values with x=1 (the newest version of a bar wins) and their events."""
        live: Fields = {}
        events: dict[str, list[tuple[object, ...]]] = {}
        for group in published:
            bars = bars_of(self._ring, self._symbols, group.interval, group.rows, group.slots)
            for bar, was_waiting in zip(bars, group.was_waiting.tolist(), strict=True):
                edge = edge_text(
                    self._edges.at(bar.slot, bar.next_open),
                    int(self._symbols.price_scale[bar.slot]),
                    int(self._symbols.qty_scale[bar.slot]),
                )
                outputs.klines.append(bar.kline(epoch, edge))
                _put_live(outputs.live, live, bar, outputs.time_ms)
                kind, row = _event_of(group.reason, bar, was_waiting)
                events.setdefault(kind, []).append(row)
        if live:
            outputs.live.append({"time": str(outputs.time_ms), **live})
        outputs.events += [contract.events_entry(kind, outputs.time_ms, rows) for kind, rows in events.items()]

    def changes(self, outputs: Outputs, intervals: Iterable[int], *, with_bars: bool) -> None:
        """A `live` entry with the open bars of these intervals that changed; `with_bars` also writes `bars`.

        A bar that just opened without a trade is a change too: it shows the carried close.
        """
        live: Fields = {}
        for interval in intervals:
            rows, slots = self._opened_empty(interval)
            base, size = self._ring.bases[interval], self._ring.sizes[interval]
            changed = self._ring.live_changed[base : base + size]
            changed[rows - base, slots] = True
            rows, slots = np.nonzero(changed & (self._ring.revision[base : base + size] == 0))
            buckets = self._ring.row_bucket[base + rows]
            oldest_first = np.argsort(buckets, kind="stable")
            np.maximum.at(self._ring.shown[interval], slots, buckets)
            newest = (buckets == self._ring.shown[interval, slots])[oldest_first].tolist()
            bars = bars_of(self._ring, self._symbols, interval, base + rows[oldest_first], slots[oldest_first])
            for bar, is_newest in zip(bars, newest, strict=True):
                name, value = _put_live(outputs.live, live, bar, outputs.time_ms)
                if is_newest:  # a late trade of the bar before it does not bring that one back
                    self._bars[name] = value
            changed[...] = False
        if live:
            outputs.live.append({"time": str(outputs.time_ms), **live})
        if with_bars:
            outputs.bars, self._bars = self._bars, {}

    def forget(self, names: Iterable[str]) -> list[str]:
        """The fields of `bars` of symbols of which nothing more is said; none of them is written any more."""
        gone = [contract.live_field(name, interval.name) for name in names for interval in self._ring.intervals]
        for name in gone:
            self._bars.pop(name, None)
        return gone

    def _opened_empty(self, interval: int) -> tuple[Ints, Ints]:
        """Bars at the cursor that nobody has seen yet and that have no trade; they get the carried close."""
        ring, cursor = self._ring, self._ring.cursor[interval]
        slots = np.flatnonzero((cursor != NO_BUCKET) & (ring.shown[interval] < cursor))
        slots = slots[ring.intervals[interval].opens_of(cursor[slots]) < ring.end_ms[slots]]
        rows = ring.rows_of(interval, cursor[slots])
        empty = ring.open_id[rows, slots] == NO_ID
        rows, slots = rows[empty], slots[empty]
        ring.set_prices(rows, slots, ring.close_before(interval, cursor[slots], slots))
        return rows, slots


def _put_live(entries: list[Fields], live: Fields, bar: Bar, time_ms: int) -> tuple[str, str]:
    """Add a bar to the `live` entry in the making; a field holds one bar, so a second one of it starts a new entry.

    Returns the field and its value.
    """
    name, value = contract.live_field(bar.symbol, bar.interval), bar.live_value()
    if name in live:
        entries.append({"time": str(time_ms), **live})
        live.clear()
    live[name] = value
    return name, value


def _event_of(reason: str, bar: Bar, was_waiting: bool) -> tuple[str, tuple[object, ...]]:
    """The event of a published bar: its kind and its row (contract.EVENT_COLUMNS)."""
    after = "final" if bar.complete else "waiting"
    if reason in (AMENDED, CONFIRMED):
        before = "waiting" if was_waiting else "final"
        kind = contract.EVENT_AMENDED if reason == AMENDED else contract.EVENT_CONFIRMED
        return kind, (bar.symbol, bar.interval, bar.open_time, bar.revision, before, after)
    before = "none" if bar.empty else "open"
    row = (bar.symbol, bar.interval, bar.open_time, reason, int(bar.empty), bar.revision, before, after)
    return contract.EVENT_CLOSE, row

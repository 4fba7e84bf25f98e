"""From what a core decides to the entries of its output streams. Pure; the process commits them (aggregator.commit).

`Outputs` is what one tick puts out. The bars in it are copied as arrays during the tick and written out as texts when
`encode` is called, because a restart runs many ticks that are not published, and formatting is most of their cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.edges import Edge, Edges
from aggregator.encoding import Snapshot, snapshot
from aggregator.finality import AMENDED, CONFIRMED, Published
from aggregator.freshness import Freshness
from aggregator.ledger import LOST, Gap, GapEvent
from aggregator.ring import NO_BUCKET, NO_ID, Ring
from aggregator.symbols import SymbolTable
from klagg.decimals import to_text
from klagg.edge_splits import IN, OUT, moved_text
from klagg.intervals import MINUTE_MS
from klagg.wire.entries import (
    EVENT_AMENDED,
    EVENT_CLOSE,
    EVENT_CONFIRMED,
    EVENT_GAP_CLOSED,
    EVENT_GAP_OPENED,
    events_entry,
    live_field,
)
from klagg.wire.fields import Fields
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.klines import AGAIN_FIELD


@dataclass(slots=True)
class Outputs:
    """What one tick, or one step of a long jump, puts out: entries without their stamps (version, writer, seq).

    `time_ms` is the exchange time of the tick or step. `last` is False for the steps before a tick's last one. `bars`
    are fields to be set in the hash `bars`, `bars_gone` fields that leave it. Each list is a stream of its name.
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
    _deferred: list[Callable[[], None]] = field(default_factory=list)
    _expired: bool = False

    def defer(self, write: Callable[[], None]) -> None:
        """Let `encode` call this, which writes entries into the lists."""
        self._deferred.append(write)

    @property
    def encoded(self) -> bool:
        """Whether everything is in the lists."""
        return not self._deferred

    def encode(self) -> Outputs:
        """Write out what this tick publishes; before it, `klines`, `live`, `bars` and some events are not there.

        Must be called before the core goes on, which may give the slots of these bars to other symbols. Calling it
        again does nothing.
        """
        assert self.encoded or not self._expired, "outputs are encoded before the core goes on"
        deferred, self._deferred = self._deferred, []
        for write in deferred:
            write()
        return self

    def expire(self) -> None:
        """The core goes on: what is not encoded now is not published."""
        self._expired = True


def edge_text(found: Iterable[Edge], price_scale: int, qty_scale: int) -> str:
    """Edge evidence for the wire: `id:first:last:time:price:qty:maker`, joined by semicolons.

    Prices and quantities of `found` are mantissas at these scales; times are exchange ms.
    """
    return ";".join(
        f"{trade}:{first}:{last}:{time_ms}:{to_text(price, price_scale)}:{to_text(qty, qty_scale)}:{maker}"
        for trade, first, last, time_ms, price, qty, maker in found
    )


@dataclass(slots=True)
class Shown:
    """Bars in progress that one tick shows. `newest` (boolean [n]) are those of which nothing later was shown. `more`
    go to `bars` alone: they went to `live` at an earlier tick."""

    bars: Snapshot
    newest: Bools
    more: Snapshot | None


class Publisher:
    """Turns what finality published, and what changed in the ring, into a tick's outputs."""

    def __init__(self, ring: Ring, symbols: SymbolTable, edges: Edges, freshness: Freshness) -> None:
        self._ring, self._symbols, self._edges, self._freshness = ring, symbols, edges, freshness
        self._unsaved: Bools = np.zeros(0, np.bool_)
        """By slot, whether its newest bar of the shortest interval was shown and is not yet in `bars`."""

    def publish_finals(self, outputs: Outputs, published: list[Published], epoch: int) -> None:
        """Klines, their live values with x=1 (the newest version of a bar wins) and their events."""
        groups = []
        for group in published:
            bars = snapshot(self._ring, self._symbols, group.interval, group.rows, group.slots)
            groups.append((group, bars, self.evidence(bars)))
        place = len(outputs.events)
        if groups:
            outputs.defer(lambda: self._write_finals(outputs, place, groups, epoch))

    def publish_again(self, outputs: Outputs, interval: int, rows: Ints, slots: Ints, epoch: int) -> None:
        """Klines of finals (ring rows and slots, int64 [n]) as they are now, marked as repeated. They have no events
        and no live values: nothing has changed."""
        bars = snapshot(self._ring, self._symbols, interval, rows, slots)
        edges = self.evidence(bars)
        outputs.defer(
            lambda: outputs.klines.extend(
                fields | {AGAIN_FIELD: "1"} for fields in bars.klines(epoch, edges, bars.nine_values())
            )
        )

    def publish_left(self, outputs: Outputs, confirmed: list[tuple[Published, Snapshot]], epoch: int) -> None:
        """Confirmations of bars that left the ring; their edge evidence left before them."""
        if confirmed:
            place, groups = len(outputs.events), [(group, bars, [""] * len(bars)) for group, bars in confirmed]
            outputs.defer(lambda: self._write_finals(outputs, place, groups, epoch))

    def _write_finals(
        self, outputs: Outputs, place: int, groups: list[tuple[Published, Snapshot, list[str]]], epoch: int
    ) -> None:
        for group, bars, _ in groups:
            self._freshness.note(self._ring, group, bars)
        _write_finals(outputs, place, groups, epoch)

    def evidence(self, bars: Snapshot) -> list[str]:
        """Each bar's edge evidence as text, in front of it the fills that were moved over its open and its close."""
        edges = self._edges
        if not edges.found and not edges.adopted:
            return [""] * len(bars)
        closes, scales = bars.next_open.tolist(), (bars.price_scale.tolist(), bars.qty_scale.tolist())
        found = {boundary: edges.at(boundary) for boundary in set(closes)}
        texts = [
            edge_text(found[boundary].get(slot, ()), price_scale, qty_scale)
            for slot, boundary, price_scale, qty_scale in zip(bars.slots.tolist(), closes, *scales, strict=True)
        ]
        for way, boundaries in ((OUT, closes), (IN, bars.open_time.tolist())) if edges.adopted else ():
            moved = {boundary: edges.moved_at(boundary) for boundary in edges.adopted.keys() & set(boundaries)}
            for at, (slot, boundary) in enumerate(zip(bars.slots.tolist(), boundaries, strict=True)):
                for trade, first, last, _, price, qty, _ in moved.get(boundary, {}).get(slot, ()):
                    decimals = to_text(qty, scales[1][at]), to_text(price, scales[0][at])
                    said = moved_text(way, trade, last - first + 1, *decimals)
                    texts[at] = f"{said};{texts[at]}" if texts[at] else said
        return texts

    def publish_broken(self, outputs: Outputs) -> None:
        """A finding for every bar of which a sum no longer fits: its values are wrong from here on."""
        for at, bucket, slot in self._ring.broke:
            kind = self._ring.intervals[at]
            evidence = f"a sum of the {kind.name} bar that opens at {kind.open_of(bucket)} does not fit 62 bits"
            outputs.findings.append(
                finding_entry(
                    FindingKind.OVERFLOW,
                    Severity.ERROR,
                    evidence,
                    symbol=self._symbols.names[slot],
                    time_ms=outputs.time_ms,
                )
            )
        self._ring.broke = []

    def publish_gaps(self, outputs: Outputs, events: Sequence[GapEvent]) -> tuple[int, int]:
        """Events of gaps that opened and ended, and a finding a symbol for lost ones; how many opened and ended.

        A gap that is lost in the moment in which it opens has no finding of its own here: its trades came and were
        refused, and the refusal was reported.
        """
        opened, closed = [], []
        before: GapEvent | None = None
        lost: dict[int, list[Gap]] = {}
        for event in events:
            name, gap = self._symbols.names[event.slot], event.gap
            if not event.reason:
                opened.append((name, gap.from_id, gap.to_id, gap.before_time, gap.after_time))
                before = event
                continue
            closed.append((name, gap.from_id, gap.to_id, event.reason))
            if event.reason == LOST and not (before and before.gap is gap):
                lost.setdefault(event.slot, []).append(gap)
        for kind, rows in ((EVENT_GAP_OPENED, opened), (EVENT_GAP_CLOSED, closed)):
            if rows:
                outputs.events.append(events_entry(kind, outputs.time_ms, rows))
        outputs.findings += [
            finding_entry(
                FindingKind.UNREPAIRED,
                Severity.ERROR,
                evidence_of(gaps),
                symbol=self._symbols.names[slot],
                time_ms=outputs.time_ms,
            )
            for slot, gaps in lost.items()
        ]
        return len(opened), len(closed)

    def publish_changes(self, outputs: Outputs, intervals: Iterable[int], *, with_bars: bool) -> None:
        """A `live` entry with the open bars of these intervals that changed; `with_bars` also writes `bars`.

        A bar that just opened without a trade is a change too: it shows the carried close.
        """
        ring, shown = self._ring, []
        for interval in intervals:
            rows, slots = self._opened_empty(interval)
            if len(rows):
                ring.touch(rows * ring.capacity + slots)
            rows, slots = np.divmod(ring.drain_in_progress(interval), ring.capacity)
            buckets = ring.row_bucket[rows]
            if len(buckets) and buckets.min() != buckets.max():
                oldest_first = np.argsort(buckets, kind="stable")
                rows, slots, buckets = rows[oldest_first], slots[oldest_first], buckets[oldest_first]
                np.maximum.at(ring.shown[interval], slots, buckets)
            else:
                ring.shown[interval, slots] = np.maximum(ring.shown[interval, slots], buckets)
            newest = buckets == ring.shown[interval, slots]  # a late trade of the bar before does not bring it back
            more = self._unsaved_but(slots[newest], with_bars=with_bars) if interval == 0 else None
            if len(slots) or more is not None:
                shown.append(Shown(snapshot(ring, self._symbols, interval, rows, slots), newest, more))
        if shown:
            outputs.defer(lambda: _write_shown(outputs, shown, with_bars=with_bars))

    def _unsaved_but(self, slots: Ints, *, with_bars: bool) -> Snapshot | None:
        """The newest shown bars of the shortest interval that `bars` lacks, without those of `slots`.

        The bars of `slots` go to `bars` now if `with_bars`; otherwise they wait there, like the others."""
        if len(self._unsaved) < self._ring.capacity:
            self._unsaved = np.append(self._unsaved, np.zeros(self._ring.capacity - len(self._unsaved), np.bool_))
        self._unsaved[slots] = not with_bars
        if not with_bars:
            return None
        left = np.flatnonzero(self._unsaved)
        self._unsaved[left] = False
        rows = self._ring.rows_of(0, self._ring.shown[0, left])
        open_still = (self._ring.row_bucket[rows] == self._ring.shown[0, left]) & (self._ring.revision[rows, left] == 0)
        if not open_still.any():
            return None
        return snapshot(self._ring, self._symbols, 0, rows[open_still], left[open_still])

    def clear_slot(self, slot: int) -> None:
        """Forget the slot's unsaved bar."""
        self._unsaved[slot : slot + 1] = False

    def forget(self, slots: Ints) -> list[str]:
        """The fields of `bars` of these slots' symbols, which are over; none of them is written any more."""
        if not len(slots):
            return []
        self._unsaved[slots[slots < len(self._unsaved)]] = False
        names = [self._symbols.names[slot] for slot in slots.tolist()]
        return [live_field(name, interval.name) for name in names for interval in self._ring.intervals]

    def _opened_empty(self, interval: int) -> tuple[Ints, Ints]:
        """Rows and slots of bars at the cursor that were not shown yet and have no trade; the carried close is set."""
        ring, cursor = self._ring, self._ring.cursor[interval]
        slots = np.flatnonzero((cursor != NO_BUCKET) & (ring.shown[interval] < cursor))
        # What was closed early, at a symbol's end, has its successor in the future, for which there is no row yet.
        there = cursor[slots] <= ring.head[interval]
        slots = slots[there & (ring.intervals[interval].opens_of(cursor[slots]) < ring.end_ms[slots])]
        if not len(slots):
            return slots, slots
        rows = ring.rows_of(interval, cursor[slots])
        empty = ring.open_id[rows, slots] == NO_ID
        rows, slots = rows[empty], slots[empty]
        lacking = ring.lacks_price(rows, slots)
        its_rows, its_slots = rows[lacking], slots[lacking]
        ring.set_prices(its_rows, its_slots, ring.close_before(interval, cursor[its_slots], its_slots))
        return rows, slots


class _LiveEntries:
    """The `live` entries of one tick in the making. A field holds one bar, so a second one of it begins a new entry."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._fields = self._begun()

    def _begun(self) -> Fields:
        return {"time": str(self._outputs.time_ms)}

    def add(self, names: list[str], values: list[str]) -> None:
        """Add bars by the names of their fields."""
        if self._fields.keys().isdisjoint(names) and len(set(names)) == len(names):
            self._fields.update(zip(names, values, strict=True))
            return
        for name, value in zip(names, values, strict=True):
            if name in self._fields:
                self.finish()
            self._fields[name] = value

    def finish(self) -> None:
        """Put the entry out, if a bar is in it."""
        if len(self._fields) > 1:
            self._outputs.live.append(self._fields)
            self._fields = self._begun()


def _write_finals(
    outputs: Outputs, place: int, groups: list[tuple[Published, Snapshot, list[str]]], epoch: int
) -> None:
    live = _LiveEntries(outputs)
    events: dict[str, list[tuple[object, ...]]] = {}
    for group, bars, edges in groups:
        nine_values = bars.nine_values()
        outputs.klines += bars.klines(epoch, edges, nine_values)
        live.add(bars.live_fields(), bars.live_values(nine_values))
        kind, rows = _events_of(group, bars)
        events.setdefault(kind, []).extend(rows)
    live.finish()
    outputs.events[place:place] = [events_entry(kind, outputs.time_ms, rows) for kind, rows in events.items()]


def _write_shown(outputs: Outputs, shown: list[Shown], *, with_bars: bool) -> None:
    live = _LiveEntries(outputs)
    for each in shown:
        names, values = each.bars.live_fields(), each.bars.live_values()
        live.add(names, values)
        if with_bars:
            outputs.bars.update(
                (name, value) for name, value, newest in zip(names, values, each.newest.tolist(), strict=True) if newest
            )
            if each.more is not None:
                outputs.bars.update(zip(each.more.live_fields(), each.more.live_values(), strict=True))
    live.finish()


def _events_of(group: Published, bars: Snapshot) -> tuple[str, list[tuple[object, ...]]]:
    """The events of published bars: their kind and a row each (EVENT_COLUMNS)."""
    names, interval = bars.names, bars.interval.name
    states = zip(
        bars.slots.tolist(),
        bars.open_time.tolist(),
        bars.field("revision").tolist(),
        bars.empty.tolist(),
        bars.whole.tolist(),
        group.was_waiting.tolist(),
        bars.sources,
        strict=True,
    )
    if group.reason in (AMENDED, CONFIRMED):
        kind = EVENT_AMENDED if group.reason == AMENDED else EVENT_CONFIRMED
        return kind, [
            (names[slot], interval, opening, revision, "waiting" if waited else "final", _after(whole))
            for slot, opening, revision, _, whole, waited, _ in states
        ]
    return EVENT_CLOSE, [
        (
            names[slot],
            interval,
            opening,
            group.reason,
            int(empty),
            revision,
            "none" if empty else "open",
            _after(whole),
            source,
        )
        for slot, opening, revision, empty, whole, _, source in states
    ]


def _after(whole: bool) -> str:
    return "final" if whole else "waiting"


def evidence_of(gaps: Sequence[Gap]) -> str:
    """One sentence about the lost gaps of a symbol."""
    count = sum(gap.to_id - gap.from_id + 1 for gap in gaps)
    ids = ", ".join(_span(gap.from_id, gap.to_id) for gap in gaps)
    minutes = ", ".join(_span(_minute(first), _minute(last)) for first, last in minutes_of(gaps))
    return f"{count} trades could not be had any more: ids {ids}; they belong to the minutes {minutes} (UTC)"


def minutes_of(gaps: Sequence[Gap]) -> list[tuple[int, int]]:
    """The minutes that gaps touch, as [first, last] runs of open times in ms, ascending."""
    found: list[tuple[int, int]] = []
    for low, high in sorted((each.before_time, each.after_time) for each in gaps):
        first, last = low - low % MINUTE_MS, high - high % MINUTE_MS
        if found and first <= found[-1][1] + MINUTE_MS:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def _minute(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _span(first: object, last: object) -> str:
    return f"{first}" if first == last else f"{first} to {last}"

"""What events say, as rows of the tables `symbols` and `gaps`: pure.

The events of a page are applied to a `Record`, which begins with the rows that the tables have. Applying an event again
changes nothing, and neither does an event that is older than the last one known.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from klagg.errors import ContractError
from klagg.wire.entries import (
    EVENT_COLUMNS,
    EVENT_DELISTED,
    EVENT_GAP_CLOSED,
    EVENT_GAP_OPENED,
    EVENT_GENESIS,
    EVENT_LISTED,
    EVENT_TICK,
    event_rows,
)
from klagg.wire.fields import RawFields, integer_of, text_of, texts_of, upgraded

_ABOUT_SYMBOLS: Final = (EVENT_LISTED, EVENT_DELISTED, EVENT_GENESIS)
_ABOUT_GAPS: Final = (EVENT_GAP_OPENED, EVENT_GAP_CLOSED)

GapKey = tuple[str, int, int]
"""Symbol, first and last missing id: what events call a gap by."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A row of `symbols`; times in exchange ms, None where nothing is known."""

    symbol: str
    generation: int
    price_scale: int | None = None
    qty_scale: int | None = None
    status: str = ""
    listed_ms: int | None = None
    delisted_ms: int | None = None
    first_id: int | None = None
    first_trade_ms: int | None = None
    last_seen_ms: int = 0


@dataclass(frozen=True, slots=True)
class Gap:
    """A row of `gaps`; times in exchange ms. `reason` is empty, and `ended_ms` None, while it is open."""

    symbol: str
    generation: int
    ids: str
    from_id: int
    to_id: int
    before_ms: int | None
    after_ms: int | None
    opened_ms: int
    ended_ms: int | None = None
    reason: str | None = None

    @property
    def gap_key(self) -> GapKey:
        """What events call it by."""
        return self.symbol, self.from_id, self.to_id

    @property
    def key(self) -> tuple[str, int, str, int, int, int]:
        """The primary key of its row."""
        return self.symbol, self.generation, self.ids, self.from_id, self.to_id, self.opened_ms

    @property
    def lacks_opening(self) -> bool:
        """Whether only its end is known."""
        return self.before_ms is None and self.opened_ms == self.ended_ms


@dataclass(frozen=True, slots=True)
class Event:
    """One event that the tables keep: its kind, the exchange time of its tick, its columns."""

    kind: str
    time_ms: int
    columns: dict[str, str]

    def integer(self, name: str) -> int:
        """The integer of a column; ContractError if it is none."""
        return integer_of({name.encode(): self.columns[name].encode()}, name)

    @property
    def is_about_gap(self) -> bool:
        """Whether it opens or closes a gap."""
        return self.kind in _ABOUT_GAPS

    @property
    def gap_key(self) -> GapKey:
        """The gap_key that it is about."""
        return self.columns["symbol"], self.integer("from_id"), self.integer("to_id")


def events_of(raw: RawFields) -> list[Event]:
    """The events of an entry of `events:{n}` that the tables keep; ContractError if it cannot be read."""
    raw = upgraded(raw)
    kind = text_of(raw, "kind")
    if kind not in EVENT_COLUMNS and kind != EVENT_TICK:
        raise ContractError(f"unknown event kind {kind[:40]!r}")
    if kind not in _ABOUT_SYMBOLS and kind not in _ABOUT_GAPS:
        return []
    time_ms = integer_of(raw, "time")
    events = [Event(kind, time_ms, columns) for columns in event_rows(texts_of(raw))]
    for event in events:
        for name in _INTEGERS.intersection(event.columns):
            event.integer(name)
    return events


_INTEGERS: Final = frozenset(
    {
        "generation",
        "price_scale",
        "qty_scale",
        "id",
        "trade_time",
        "from_id",
        "to_id",
        "before_time",
        "after_time",
    }
)


@dataclass(slots=True)
class Record:
    """The rows of some symbols and gaps as the tables have them, and what becomes of them: those that `changed`.

    `symbols` are by name and generation, `gaps` by gap_key. It begins with all generations of the symbols that the
    events name, and with all gaps of their gap_keys.
    """

    ids: str
    symbols: dict[str, dict[int, Symbol]] = field(default_factory=dict)
    gaps: dict[GapKey, list[Gap]] = field(default_factory=dict)
    _known: frozenset[Symbol | Gap] = frozenset()

    @classmethod
    def begin(cls, ids: str, symbols: Iterable[Symbol], gaps: Iterable[Gap]) -> Record:
        """With the rows that the tables have; `ids` is what new gaps count (agg or trade)."""
        record = cls(ids)
        rows: list[Symbol | Gap] = []
        for symbol in symbols:
            record.symbols.setdefault(symbol.symbol, {})[symbol.generation] = symbol
            rows.append(symbol)
        for gap in gaps:
            record.gaps.setdefault(gap.gap_key, []).append(gap)
            rows.append(gap)
        record._known = frozenset(rows)
        return record

    def changed_symbols(self) -> list[Symbol]:
        """The rows to write, sorted by key."""
        rows = (row for each in self.symbols.values() for row in each.values() if row not in self._known)
        return sorted(rows, key=lambda row: (row.symbol, row.generation))

    def changed_gaps(self) -> list[Gap]:
        """The rows to write, sorted by key."""
        rows = (row for each in self.gaps.values() for row in each if row not in self._known)
        return sorted(rows, key=lambda row: row.key)

    def gone_gaps(self) -> list[Gap]:
        """The rows to delete: ends whose openings came after all, and are in those rows now."""
        there = {row.key for each in self.gaps.values() for row in each}
        return sorted(
            (row for row in self._known if isinstance(row, Gap) and row.key not in there), key=lambda row: row.key
        )

    def apply(self, events: Iterable[Event]) -> None:
        """Apply events in the order of the stream."""
        by_kind: dict[bool, list[Event]] = {True: [], False: []}
        for event in events:
            by_kind[event.kind in _ABOUT_SYMBOLS].append(event)
        for event in by_kind[True]:
            self._apply_symbol(event)
        for event in by_kind[False]:
            if event.kind == EVENT_GAP_OPENED:
                self._open(event)
        self._close([event for event in by_kind[False] if event.kind == EVENT_GAP_CLOSED])

    def _apply_symbol(self, event: Event) -> None:
        name, generation = event.columns["symbol"], event.integer("generation")
        rows = self.symbols.setdefault(name, {})
        row = rows.get(generation) or Symbol(name, generation)
        if event.kind != EVENT_GENESIS:
            row = self._listed(row, event)
        elif row.first_id is None:
            row = replace(row, first_id=event.integer("id"), first_trade_ms=event.integer("trade_time"))
        rows[generation] = replace(row, last_seen_ms=max(row.last_seen_ms, event.time_ms))

    def _listed(self, row: Symbol, event: Event) -> Symbol:
        over = event.kind == EVENT_DELISTED
        if not over:
            row = replace(row, listed_ms=min(row.listed_ms or event.time_ms, event.time_ms))
        if row.status and event.time_ms < row.last_seen_ms:
            return row  # what came later is known
        return replace(
            row,
            status=event.columns["status"],
            price_scale=event.integer("price_scale"),
            qty_scale=event.integer("qty_scale"),
            delisted_ms=(row.delisted_ms or event.time_ms) if over else None,
        )

    def _open(self, event: Event) -> None:
        gap_key = event.gap_key
        rows = self.gaps.setdefault(gap_key, [])
        if any(gap.opened_ms == event.time_ms for gap in rows):
            return
        before_ms, after_ms = (_time_of(event.integer(each)) for each in ("before_time", "after_time"))
        made = self._gap(gap_key, before_ms, after_ms, event.time_ms)
        ends = [row for row in rows if row.lacks_opening and row.opened_ms >= event.time_ms]
        if ends:
            end = min(ends, key=lambda row: row.opened_ms)
            rows.remove(end)
            made = replace(made, ended_ms=end.ended_ms, reason=end.reason)
        rows.append(made)

    def _gap(self, gap_key: GapKey, before_ms: int | None, after_ms: int | None, time_ms: int) -> Gap:
        """A gap of the newest generation that was listed by then; 0 if none is known."""
        name, from_id, to_id = gap_key
        listed = (row for row in self.symbols.get(name, {}).values() if row.listed_ms is not None)
        generation = max((row.generation for row in listed if (row.listed_ms or 0) <= time_ms), default=0)
        return Gap(name, generation, self.ids, from_id, to_id, before_ms, after_ms, time_ms)

    def _close(self, events: Iterable[Event]) -> None:
        ends: dict[tuple[int, GapKey], list[str]] = {}
        for event in events:
            ends.setdefault((event.time_ms, event.gap_key), []).append(event.columns["reason"])
        for (time_ms, gap_key), reasons in sorted(ends.items()):
            self._end(gap_key, time_ms, reasons)

    def _end(self, gap_key: GapKey, time_ms: int, reasons: list[str]) -> None:
        """A gap_key's ends of one tick end as many of its rows, the oldest first: in one tick it may end, open and end
        again, and the stream holds all openings before all ends. Ends that were applied before change nothing."""
        rows = self.gaps.setdefault(gap_key, [])
        rows.sort(key=lambda gap: gap.opened_ms)
        ended = sum(gap.ended_ms == time_ms for gap in rows)
        left = [at for at, gap in enumerate(rows) if gap.opened_ms <= time_ms and gap.ended_ms is None]
        if not left and not ended:
            # Its opening was cut from the stream, or comes later, from what a dead consumer left.
            rows.append(self._gap(gap_key, None, None, time_ms))
            left = [len(rows) - 1]
        reasons = reasons[ended:]
        for number, at in enumerate(left[: len(reasons)]):
            last = number == len(left) - 1
            rows[at] = replace(rows[at], ended_ms=time_ms, reason=reasons[-1 if last else number])


def _time_of(time_ms: int) -> int | None:
    """A neighbour's time in ms; there is none at the very beginning."""
    return time_ms if time_ms > 0 else None

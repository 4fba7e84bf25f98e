"""Official rows: what the exchange's own klines do to bars and ledger. Pure.

Entries gather like trades and take effect at a tick, after its trades, sorted, so that their order cannot matter. Two
kinds of rows differ in what they do:

- A *minute* of a symbol whose bars have begun replaces the own minute, if that is not proven; longer bars get the
  difference. From then on the minute is covered: later trades in it are dropped.
- The *past*, rows of a minute, an hour or a day from before a symbol's bars began, goes into the bars that were open
  then, each time once. When it joins up with the first whole minute seen live, the ledger's start time is lowered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.columns import Trades
from aggregator.finality import Finality
from aggregator.ledger import NONE, Ledger
from aggregator.official_coverage import Coverage
from aggregator.official_fold import Deltas, close_shorter, fold_in, replace_minutes, same_values
from aggregator.official_rows import CLOSE, Answer, OfficialRows, decode
from aggregator.publisher import Outputs
from aggregator.ring import FIELD, NO_BUCKET, Ring
from aggregator.symbols import SymbolTable
from klagg.decimals import to_text
from klagg.errors import ContractError, KlaggError
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE, MINUTE_MS
from klagg.wire.fields import RawFields
from klagg.wire.findings import FindingKind, Severity, finding_entry

NO_TIME = np.iinfo(np.int64).min
LAST_TIME = np.iinfo(np.int64).max
ROWS_MAX = 2_000_000
"""Official rows that may gather without a tick."""
WAITING_MAX = 5_000
"""Rows of one symbol that may wait for its bars to begin: a cold start needs about 115, and a minute more for each that
it waits."""
REACH_MS = 2 * MINUTE_MS
"""So near to the first whole minute since a symbol's first watermark its official rows must come to begin its bars."""


TOO_FINE = "do not fit 64 bits at the symbol's scales, or are finer than these may become"


class OfficialPilesUp(KlaggError):
    """Official rows pile up and no tick comes: the clock process does not run."""


@dataclass(slots=True)
class _Scaled:
    """Rows, sorted, and their values [8, n] at their symbols' scales."""

    rows: OfficialRows
    values: Ints

    def select(self, which: Ints | Bools) -> _Scaled:
        return _Scaled(self.rows.select(which), self.values[:, which])


class Official:
    """Applies official rows to a ring and its ledger. At each tick the caller drains the answers, gives their names
    slots, calls `place`, raises scales, and calls `apply` after the tick's trades.

    `waiting` are rows of symbols whose bars have not begun. By slot: `live_from` is the first whole minute whose own
    trades were all seen live (ms; LAST_TIME: no trade yet, NO_TIME: seen from the first trade on). `nothing` holds the
    times at which the exchange has no rows.
    """

    def __init__(self, ring: Ring, ledger: Ledger, finality: Finality, symbols: SymbolTable, window_ms: int) -> None:
        self._ring, self._ledger, self._finality = ring, ledger, finality
        self._symbols, self._window_ms = symbols, window_ms
        self._minutes_at = ring.intervals.index(MINUTE) if MINUTE in ring.intervals else None
        self._answers: list[Answer] = []
        self._gathered = 0
        self._placed = OfficialRows.none()
        self._answered: set[int] = set()
        """Slots that had an answer since the last `apply`."""
        self._findings: list[tuple[int, FindingKind, Severity, str]] = []
        self.waiting = OfficialRows.none()
        self.nothing = Coverage()
        self.live_from: Ints = np.full(ring.capacity, LAST_TIME, np.int64)

    def grow(self, capacity: int) -> None:
        """Make the arrays by slot this long."""
        more = capacity - len(self.live_from)
        self.live_from = np.concatenate([self.live_from, np.full(more, LAST_TIME, np.int64)])

    def clear_slot(self, slot: int) -> None:
        """Forget rows and beginning of the slot."""
        self.live_from[slot] = LAST_TIME
        self.nothing.forget(slot)
        self.waiting = self.waiting.select(self.waiting.slot != slot)

    def gather(self, raw: RawFields) -> None:
        """Gather an `official` entry; ContractError if it is none, OfficialPilesUp if far too many rows gather."""
        if self._minutes_at is None:
            raise ContractError("official rows need the interval 1m, which this aggregator does not have")
        answer = decode(raw)
        self._gathered += len(answer.rows)
        if self._gathered > ROWS_MAX:
            raise OfficialPilesUp(f"{self._gathered} official rows came without a tick: is klagg-clock running?")
        self._answers.append(answer)

    def drain_answers(self) -> list[Answer]:
        """The answers that gathered since the last call."""
        answers, self._answers, self._gathered = self._answers, [], 0
        return answers

    def place(self, answers: Sequence[Answer]) -> list[tuple[int, int, int]]:
        """Give the rows of these answers, whose names have slots, to the next `apply`.

        Returns (slot, price scale, quantity scale) of symbols with new rows: the scales that these rows need, but for
        rows that are finer than there is room (`SymbolTable.room`), which are refused. The caller raises them, as far
        as the symbol's other values leave room, before the tick's trades get theirs.
        """
        parts = [self._placed]
        for answer in answers:
            slot = self._symbols.index[answer.symbol.encode()]
            self._answered.add(slot)
            if answer.refused:
                self._find_impossible(slot, answer.refused)
            start, end = answer.nothing
            self._ledger.begin_later(slot, start, end)
            if start < end and start < self._seen_live_from(slot):
                self.nothing.add(slot, np.array([start]), np.array([end]))
            if len(answer.rows):
                parts.append(answer.rows.of_slot(slot))
        self._placed = placed = OfficialRows.joined(parts)
        needed = []
        for slot, own in _by_slot(placed):
            needed.append((slot, *self._scales_needed(own, int(self._symbols.price_scale[slot]))))
        return needed

    def scales_needed(self, slot: int, price_scale: int) -> tuple[int, int]:
        """The scales (of prices, of quantities) that the symbol's waiting rows need, where its price scale is at least
        this: a listing may not take them back."""
        return self._scales_needed(self.waiting.select(self.waiting.slot == slot), price_scale)

    def _scales_needed(self, rows: OfficialRows, price_scale: int) -> tuple[int, int]:
        """The same for these rows, all of one symbol, but for those that are finer than there is room."""
        if not len(rows):
            return 0, 0
        prices, quantities, together = rows.decimals_needed()
        fits = together <= self._symbols.room(int(rows.slot[0]))
        price = int(prices[fits].max(initial=0))
        quotes = int(together[fits].max(initial=0)) - max(price, price_scale)
        return price, max(int(quantities[fits].max(initial=0)), quotes)

    def uncovered(self, trades: Trades) -> Trades:
        """Those of the trades (at least one) that bars count: no others lie in covered minutes, or before the bars of a
        symbol that has got rows of its past. Those rows went into the bars that had begun by then, so no bar may begin
        earlier any more."""
        coverage, begun = self._ledger.coverage, self._finality.begun
        if int(trades.time.min()) >= max(coverage.newest_ms, int(begun.max()) * MINUTE_MS):
            return trades
        old = np.flatnonzero((trades.time < coverage.newest_ms) | (trades.time // MINUTE_MS < begun[trades.slot]))
        keep = np.ones(len(trades), np.bool_)
        for slot in np.unique(trades.slot[old]).tolist():
            if slot in coverage.ranges:
                own = old[trades.slot[old] == slot]
                keep[own] = ~coverage.overlaps(slot, trades.time[own], trades.time[own] + 1)
                if coverage.ranges[slot][0, 0] < begun[slot] * MINUTE_MS:
                    keep[own] &= trades.time[own] // MINUTE_MS >= begun[slot]
        return trades.select(keep)

    @property
    def pressing(self) -> bool:
        """Whether `apply` has rows for bars, which must have all their trades by then."""
        return bool(len(self._placed)) or self._has_begun

    @property
    def _has_begun(self) -> bool:
        """Whether rows wait for symbols whose bars have begun by now."""
        return bool(self._ready(self.waiting).any())

    def _ready(self, rows: OfficialRows) -> Bools:
        """Rows of symbols whose bars have begun. Where those of a generation before are all out and the next one has no
        trade yet, its rows wait as those of a name that is new."""
        slots, ledger = rows.slot, self._ledger
        ready: Bools = self._finality.begun[slots] != NO_BUCKET
        if self._minutes_at is not None:
            idle = (self._ring.cursor[self._minutes_at, slots] == NO_BUCKET) & (ledger.last_id[slots] == 0)
            ready &= ~idle | (rows.end <= ledger.near_time[slots])
        return ready

    def apply(self, step_ms: int, outputs: Outputs) -> None:
        """Apply the rows of bars that are closed at `step_ms` (exchange ms); at a tick's last step others are
        refused."""
        self._finality.look_to(step_ms)
        usable = self._has_begun
        answered, self._answered = self._answered, set()
        touched = answered | {event.slot for event in self._ledger.events}
        if len(self._placed):
            closed = self._placed.end <= step_ms
            due, self._placed = self._placed.select(closed), self._placed.select(~closed)
            if outputs.last:
                self._refuse(self._placed, "are not closed yet")
                self._placed = OfficialRows.none()
            if len(due):
                self._wait(due)
                usable = True
        if usable:
            touched |= self._use(step_ms)
        for slot in sorted(touched & self._ledger.coverage.ranges.keys()):
            self._ledger.heal(slot)
            self._lower_start(slot)
        self._reach()
        for slot, kind, severity, evidence in self._findings:
            outputs.findings.append(
                finding_entry(kind, severity, evidence, symbol=self._symbols.names[slot], time_ms=step_ms)
            )
        self._findings = []

    def _wait(self, rows: OfficialRows) -> None:
        """All rows wait; those of symbols whose bars have begun not for long."""
        self.waiting = OfficialRows.joined([self.waiting, rows]).best()
        slots, counts = np.unique(self.waiting.slot, return_counts=True)
        many = slots[counts > WAITING_MAX]
        for slot in np.setdiff1d(many, self.waiting.slot[self._ready(self.waiting)]).tolist():
            own = np.flatnonzero(self.waiting.slot == slot)
            self._refuse(self.waiting.select(own[:-WAITING_MAX]), "are more than may wait for a symbol's bars to begin")
            self.waiting = self.waiting.select(np.delete(np.arange(len(self.waiting)), own[:-WAITING_MAX]))

    def _use(self, step_ms: int) -> set[int]:
        """Use the waiting rows of symbols whose bars begin now or have begun; the slots."""
        values, unfit = self.waiting.at_scale(self._symbols)
        if unfit.any():
            for slot, lost in _by_slot(self.waiting.select(unfit)):
                self._find(slot, FindingKind.OVERFLOW, Severity.ERROR, lost, TOO_FINE)
            self.waiting, values = self.waiting.select(~unfit), values[:, ~unfit]
        scaled = _Scaled(self.waiting, values)
        self._begin(scaled, step_ms)
        scaled = self._begin_earlier(scaled, step_ms)
        ready = self._ready(scaled.rows)
        scaled, self.waiting = scaled.select(ready), scaled.rows.select(~ready)
        rows = scaled.rows
        if not len(rows):
            return set()
        slots = set(np.unique(rows.slot).tolist())
        live = (rows.length == MINUTE_MS) & (rows.open_time >= self._finality.begun[rows.slot] * MINUTE_MS)
        if live.any():
            self._minutes(scaled.select(live), step_ms)
        for length in (MINUTE_MS, HOUR_MS, DAY_MS):
            part = scaled.select(~live & (rows.length == length))
            if len(part.rows):
                self._past(part)
        return slots

    def _begin(self, scaled: _Scaled, step_ms: int) -> None:
        """Symbols without a trade begin their bars behind an official row, which gives the close to carry: with the
        first whole minute since their first watermark, or behind the newest row, if minutes do not reach back so
        far."""
        rows, finality, ring = scaled.rows, self._finality, self._ring
        quiet = (finality.begun[rows.slot] == NO_BUCKET) & (self._ledger.last_id[rows.slot] == NONE)
        for slot in np.unique(rows.slot[quiet]).tolist():
            own = np.flatnonzero(rows.slot == slot)
            begin_ms, carried_ms = int(rows.end[own].max()), int(finality.carried_from[slot])
            if begin_ms + REACH_MS < carried_ms:
                continue
            if carried_ms != NO_TIME:
                begin_ms = _earliest_begin(rows.select(own), max(carried_ms, self._floor_ms(step_ms)))
            before = own[rows.end[own] == begin_ms][0]
            ring.carry[:, slot] = scaled.values[CLOSE, before]
            for at, kind in enumerate(ring.intervals):
                ring.cursor[at, slot] = max(kind.bucket_of(begin_ms), ring.oldest(at))
            finality.begun[slot] = begin_ms // MINUTE_MS
            finality.official_until[slot] = begin_ms
            self._ledger.start_time[slot] = begin_ms - 1
            finality.look_again()

    def _begin_earlier(self, scaled: _Scaled, step_ms: int) -> _Scaled:
        """Where the first ids of a listing are missing, bars begin with the first official minute that has trades; the
        rows without those before it, which have no trades."""
        ring, ledger, rows = self._ring, self._ledger, scaled.rows
        idle = np.zeros(len(rows), np.bool_)
        for slot in np.unique(rows.slot).tolist():
            front = ledger.front_gap(slot)
            begun_ms = int(self._finality.begun[slot]) * MINUTE_MS
            if front is None:
                continue
            if begun_ms < front.before_time:  # the slot was kept, and these are the bars of the generation before
                begun_ms = front.after_time // MINUTE_MS * MINUTE_MS
            early = (rows.slot == slot) & (rows.length == MINUTE_MS) & (rows.open_time < begun_ms)
            own = np.flatnonzero(early & (rows.end > front.before_time) & (rows.open_time >= self._floor_ms(step_ms)))
            traded = own[rows.trades[own] > 0]
            first_ms = int(rows.open_time[traded[0]]) if len(traded) else begun_ms
            if len(own) and rows.open_time[own[0]] <= front.before_time:
                ledger.begin_later(slot, front.before_time, first_ms)
            idle[own[rows.open_time[own] < first_ms]] = True
            for at, kind in enumerate(ring.intervals):
                if len(traded) and kind.shortest_ms >= MINUTE_MS:
                    self._finality.start(at, np.array([kind.bucket_of(first_ms)]), np.array([slot]))
        return scaled.select(~idle)

    def _floor_ms(self, step_ms: int) -> int:
        """Minutes that opened before it cannot be changed any more."""
        assert self._minutes_at is not None
        return max(MINUTE.open_of(self._ring.oldest(self._minutes_at)), step_ms - self._window_ms)

    def _minutes(self, scaled: _Scaled, step_ms: int) -> None:
        """Official minutes of symbols whose bars have begun."""
        assert self._minutes_at is not None
        ring, at = self._ring, self._minutes_at
        old = scaled.rows.open_time < self._floor_ms(step_ms)
        self._refuse(scaled.rows.select(old), "are older than the window")
        scaled = scaled.select(~old)
        rows = scaled.rows
        if not len(rows):
            return
        buckets = rows.open_time // MINUTE_MS
        cells = ring.rows_of(at, buckets) * ring.capacity + rows.slot
        held, official = ring.state[cells, FIELD["trades"]], ring.official.reshape(-1)[cells]
        whole = self._finality.proven(rows.slot, rows.open_time, rows.end) & ~ring.broken.reshape(-1)[cells]
        whole &= ~official
        deltas = Deltas.of(rows, scaled.values)
        same = same_values(ring, cells, deltas) & ~official
        flat = ~whole & ~official & (rows.trades == 0) & (held > 0)
        known = official & (rows.trades <= held)
        self._report_exchange_gaps(scaled.select(flat), cells[flat])
        usable = ~whole & ~flat & ~known & ~same
        if usable.any():
            differences = replace_minutes(ring, at, deltas.select(usable))
            for other_at, kind in enumerate(ring.intervals):
                if kind.shortest_ms > MINUTE_MS:
                    fold_in(ring, other_at, differences)
                elif kind.shortest_ms < MINUTE_MS:
                    close_shorter(ring, other_at, differences)
        self._cover(rows.select(usable | (same & ~whole)))

    def _past(self, scaled: _Scaled) -> None:
        """Rows of one length from before what was seen live, into the bars that hold them, each time once."""
        rows, begun_ms = scaled.rows, self._finality.begun[scaled.rows.slot] * MINUTE_MS
        live_from = np.array([self._seen_live_from(slot) for slot in rows.slot.tolist()], np.int64)
        traded = (live_from != LAST_TIME) & (live_from != NO_TIME) & (rows.length > MINUTE_MS)
        limit = np.where(traded, live_from - MINUTE_MS, begun_ms)
        early = (rows.end <= limit) & (live_from != NO_TIME)
        coverage = self._ledger.coverage
        held, crossed = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
        for slot in np.unique(rows.slot).tolist():
            own = rows.slot == slot
            held[own] = coverage.holds(slot, rows.open_time[own], rows.end[own])
            crossed[own] = coverage.overlaps(slot, rows.open_time[own], rows.end[own])
        self._refuse(rows.select(~early & ~held), "are not from before what was seen live")
        self._refuse(rows.select(early & crossed & ~held), "overlap rows that were used before")
        scaled = scaled.select(early & ~crossed)
        rows = scaled.rows
        deltas, begun_ms = Deltas.of(rows, scaled.values), self._finality.begun[rows.slot] * MINUTE_MS
        for at, kind in enumerate(self._ring.intervals):
            if kind is MINUTE or kind.shortest_ms < max(MINUTE_MS, int(rows.length.max(initial=0))):
                continue
            buckets = kind.buckets_of(rows.open_time)
            here = (buckets == kind.buckets_of(rows.end - 1)) & (buckets >= kind.buckets_of(begun_ms))
            here &= (buckets >= self._ring.oldest(at)) & (buckets <= self._ring.head[at])
            if here.any():
                fold_in(self._ring, at, deltas.select(here))
        self._cover(rows)

    def _cover(self, rows: OfficialRows) -> None:
        for slot, own in _by_slot(rows):
            self._ledger.coverage.add(slot, own.open_time, own.end)
            self._ring.cover(slot, own.open_time, own.end)

    def _seen_live_from(self, slot: int) -> int:
        """`live_from`, looked at before anything lowers the start time."""
        if self.live_from[slot] == LAST_TIME and self._ledger.last_id[slot] != NONE:
            start_ms = int(self._ledger.start_time[slot])
            self.live_from[slot] = NO_TIME if start_ms == NO_TIME else (start_ms // MINUTE_MS + 1) * MINUTE_MS
        return int(self.live_from[slot])

    def _lower_start(self, slot: int) -> None:
        """Bars are whole from where official rows reach without a gap to what was seen live; from the beginning, if
        the exchange has nothing before them."""
        live_from, begun = self._seen_live_from(slot), int(self._finality.begun[slot])
        if live_from == NO_TIME or begun == NO_BUCKET:
            return
        found = self._ledger.coverage.around(slot, (begun * MINUTE_MS if live_from == LAST_TIME else live_from) - 1)
        if found is None:
            return
        start_ms = found[0] - 1
        if found[0] == int(self._ledger.coverage.ranges[slot][0, 0]):
            before = self.nothing.around(slot, start_ms)
            needed_ms = min(kind.open_time(begun * MINUTE_MS) for kind in self._ring.intervals)
            if before is not None and before[0] <= needed_ms:
                start_ms = NO_TIME
        self._ledger.start_time[slot] = min(start_ms, int(self._ledger.start_time[slot]))

    def _reach(self) -> None:
        """How far official minutes continue what is proven."""
        finality, coverage = self._finality, self._ledger.coverage
        if not coverage.ranges:
            return
        slots = np.fromiter(coverage.ranges, np.int64, len(coverage.ranges))
        newest = np.array([ranges[1, -1] for ranges in coverage.ranges.values()], np.int64)
        seen = np.minimum(self._ledger.last_time[slots], finality.horizon_ms)
        for slot in slots[newest > np.maximum(seen, finality.official_until[slots])].tolist():
            for base_ms in (int(finality.official_until[slot]), int(self._ledger.last_time[slot])):
                found = coverage.around(slot, min(base_ms, finality.horizon_ms)) if base_ms != NO_TIME else None
                if found is not None:
                    finality.official_until[slot] = max(found[1], int(finality.official_until[slot]))

    def expire(self, floor_ms: int) -> None:
        """Forget covered minutes that were seen live once they are older than `floor_ms` (exchange ms) without a
        gap."""
        coverage, ledger = self._ledger.coverage, self._ledger
        for slot in list(coverage.ranges):
            low, high = coverage.ranges[slot]
            live_from, begun = self._seen_live_from(slot), int(self._finality.begun[slot])
            if begun == NO_BUCKET:
                continue
            old = (high <= floor_ms) & (low >= max(begun * MINUTE_MS, NO_TIME if live_from == LAST_TIME else live_from))
            if old.any():
                for gap in (*ledger.gaps.get(slot, ()), *ledger.lost.get(slot, ())):
                    old &= (high <= gap.before_time) | (low > gap.after_time)
                coverage.keep(slot, ~old)

    def _report_exchange_gaps(self, scaled: _Scaled, cells: Ints) -> None:
        """The exchange's rows are flat where trades were seen: one finding a symbol, with the own first minute."""
        for slot in np.unique(scaled.rows.slot).tolist():
            own = np.flatnonzero(scaled.rows.slot == slot)
            bar = self._ring.state[cells[own[0]]]
            volume = to_text(int(bar[FIELD["volume"]]), int(self._symbols.qty_scale[slot]))
            close = to_text(int(bar[FIELD["close"]]), int(self._symbols.price_scale[slot]))
            ours = f"{bar[FIELD['trades']]} trades, volume {volume}, close {close}"
            why = f"are flat where trades were seen, in the first of them {ours}"
            self._find(slot, FindingKind.EXCHANGE_GAP, Severity.WARNING, scaled.rows.select(own), why)

    def _find_impossible(self, slot: int, refused: Sequence[tuple[int, str]]) -> None:
        """One finding of a symbol for rows that cannot be klines, with the first one's reason."""
        (open_ms, reason), count = refused[0], len(refused)
        evidence = f"{count} official rows cannot be klines, the first, of open time {open_ms}, because {reason}"
        self._findings.append((slot, FindingKind.OFFICIAL_REFUSED, Severity.WARNING, evidence))

    def _refuse(self, rows: OfficialRows, why: str) -> None:
        for slot, own in _by_slot(rows):
            self._find(slot, FindingKind.OFFICIAL_REFUSED, Severity.WARNING, own, why)

    def _find(self, slot: int, kind: FindingKind, severity: Severity, rows: OfficialRows, why: str) -> None:
        """One finding of a symbol for rows that are not used."""
        span = f"{len(rows)} official rows, open times {rows.open_time.min()} to {rows.open_time.max()}"
        self._findings.append((slot, kind, severity, f"{span}, {why}"))


def _earliest_begin(rows: OfficialRows, wanted_ms: int) -> int:
    """The end of one of these rows of a symbol, behind which minutes follow without a gap up to the newest row's end:
    the earliest from `wanted_ms` on, or else that newest end."""
    begin_ms, ends = int(rows.end.max()), set(rows.end.tolist())
    minutes = set(rows.open_time[rows.length == MINUTE_MS].tolist())
    earlier_ms = begin_ms - MINUTE_MS
    while earlier_ms >= wanted_ms and earlier_ms in minutes:
        if earlier_ms in ends:
            begin_ms = earlier_ms
        earlier_ms -= MINUTE_MS
    return begin_ms


def _by_slot(rows: OfficialRows) -> Iterable[tuple[int, OfficialRows]]:
    """The rows of every slot."""
    for slot in np.unique(rows.slot).tolist():
        yield slot, rows.select(rows.slot == slot)

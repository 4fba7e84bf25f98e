"""Bars that left the ring unproven because their symbol was silent: its next trade's id may still prove them. Pure.

A bar waits for its proof in the ring, whose window is `aggregator.window_minutes`. A silence may be longer: then its
first bars leave, and nothing is wrong with them but that no trade came after them. Their values are kept here, equal
neighbours as one, until the symbol's next trade: if its id follows, they are confirmed as they were published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.encoding import OWN, Snapshot
from aggregator.finality import CONFIRMED, Finality, Published
from aggregator.ledger import Ledger
from aggregator.ring import ENDLESS, NO_ID, Left, Ring
from aggregator.symbols import SymbolTable

BARS_MAX = 2_880
"""Bars that are kept of a symbol and interval: two days of minutes. Beyond it the oldest stay unproven."""
RUNS_MAX = 8
"""Runs of equal bars that are kept of a symbol and interval: a silence is the bar of its last trade, and empty ones."""
CONFIRMED_MAX = 5_000
"""Bars that are confirmed in one step, unless one symbol alone has more; the others wait for the next step."""


@dataclass(slots=True)
class Run:
    """`count` bars of an interval from the bucket `first` on that are equal in every value (state of the ring, at these
    scales)."""

    first: int
    count: int
    state: list[int]
    agg: bool
    price_scale: int
    qty_scale: int

    def goes_on(self, other: Run) -> bool:
        """Whether the other run follows this one and is equal to it."""
        same = (self.state, self.agg, self.price_scale, self.qty_scale)
        return self.first + self.count == other.first and same == (
            other.state,
            other.agg,
            other.price_scale,
            other.qty_scale,
        )


class Silences:
    """`runs` are by slot, then by index of the interval, oldest first."""

    def __init__(self, ring: Ring, ledger: Ledger, finality: Finality, symbols: SymbolTable) -> None:
        self._ring, self._ledger, self._finality, self._symbols = ring, ledger, finality, symbols
        self.runs: dict[int, dict[int, list[Run]]] = {}

    def clear_slot(self, slot: int) -> None:
        """Forget the bars of a slot: another symbol or generation has it."""
        self.runs.pop(slot, None)

    def note(self, left: Sequence[Left]) -> None:
        """Keep those of the bars that just left the ring unproven that a later trade may prove."""
        ledger, ring = self._ledger, self._ring
        for each in left:
            kind = ring.intervals[each.interval]
            opening = kind.open_of(each.bucket)
            kept = (ledger.start_time[each.slots] < opening) & (ledger.last_id[each.slots] != NO_ID)
            kept &= ring.end_ms[each.slots] == ENDLESS
            for at in np.flatnonzero(kept).tolist():
                slot = int(each.slots[at])
                if slot in ledger.lost or slot in ledger.coverage.ranges:
                    continue
                scales = int(self._symbols.price_scale[slot]), int(self._symbols.qty_scale[slot])
                run = Run(each.bucket, 1, each.state[at].tolist(), bool(each.agg[at]), *scales)
                self._add(self.runs.setdefault(slot, {}).setdefault(each.interval, []), run)

    @staticmethod
    def _add(runs: list[Run], run: Run) -> None:
        if runs and runs[-1].goes_on(run):
            runs[-1].count += 1
        else:
            runs.append(run)
        del runs[:-RUNS_MAX]
        more = sum(each.count for each in runs) - BARS_MAX
        while more > 0:
            gone = min(more, runs[0].count)
            runs[0].first, runs[0].count, more = runs[0].first + gone, runs[0].count - gone, more - gone
            if not runs[0].count:
                del runs[0]

    def confirm(self) -> list[tuple[Published, Snapshot]]:
        """The bars that are proven by now, and from here on forgotten. Those of symbols that lost trades since are
        forgotten without a proof; those behind which no trade came, or a gap is open, stay."""
        found: list[tuple[Published, Snapshot]] = []
        count = 0
        for slot in sorted(self.runs):
            if count >= CONFIRMED_MAX:
                break
            if slot in self._ledger.lost or slot in self._ledger.coverage.ranges:
                del self.runs[slot]
                continue
            for at, runs in sorted(self.runs[slot].items()):
                proven = self._proven(slot, at, runs)
                if proven:
                    found.append(self._published(slot, at, proven))
                    count += sum(each.count for each in proven)
            self.runs[slot] = {at: runs for at, runs in self.runs[slot].items() if runs}
            if not self.runs[slot]:
                del self.runs[slot]
        return found

    def _proven(self, slot: int, at: int, runs: list[Run]) -> list[Run]:
        """Take the proven runs from the front: all bars of a run at once, because no trade came between them."""
        kind, taken = self._ring.intervals[at], 0
        # As a rule the symbol is still silent, which is seen without arrays.
        finality = self._finality
        witnessed_ms, official_ms = int(finality.witnessed_until[slot]), int(finality.official_until[slot])
        passed_ms = max(int(self._ledger.last_time[slot]), witnessed_ms, official_ms)
        if runs and passed_ms < kind.open_of(runs[0].first + 1):
            return []
        for run in runs:
            opens = kind.opens_of(np.array([run.first, run.first + run.count - 1], np.int64))
            nexts = kind.opens_of(np.array([run.first + 1, run.first + run.count], np.int64))
            if not self._finality.proven(np.array([slot, slot]), opens, nexts).all():
                break
            taken += 1
        proven = runs[:taken]
        del runs[:taken]
        return proven

    def _published(self, slot: int, at: int, runs: Sequence[Run]) -> tuple[Published, Snapshot]:
        counts = [run.count for run in runs]
        buckets: Ints = np.concatenate([np.arange(run.first, run.first + run.count) for run in runs])
        values: Ints = np.repeat(np.array([run.state for run in runs], np.int64), counts, axis=0).T
        slots: Ints = np.full(len(buckets), slot, np.int64)
        no: Bools = np.zeros(len(buckets), np.bool_)
        bars = Snapshot(
            self._ring.intervals[at],
            slots,
            self._symbols.names,
            buckets,
            values,
            no,
            np.repeat(np.array([run.agg for run in runs], np.bool_), counts),
            no,
            [OWN] * len(buckets),
            np.repeat(np.array([run.price_scale for run in runs], np.int64), counts),
            np.repeat(np.array([run.qty_scale for run in runs], np.int64), counts),
        )
        return Published(CONFIRMED, at, slots, slots, ~no, ~no), bars

    def to_rows(self) -> list[list[object]]:
        """The state for a checkpoint."""
        return [[slot, at, *_row(run)] for slot, own in sorted(self.runs.items()) for at, run in _each(own)]

    def restore(self, rows: Sequence[Sequence[object]]) -> None:
        """Put a `to_rows` back."""
        self.runs = {}
        for slot, at, *values in rows:
            self.runs.setdefault(slot, {}).setdefault(at, []).append(Run(*values))  # type: ignore[arg-type]


def _each(own: dict[int, list[Run]]) -> Iterator[tuple[int, Run]]:
    return ((at, run) for at, runs in sorted(own.items()) for run in runs)


def _row(run: Run) -> list[object]:
    return [run.first, run.count, run.state, run.agg, run.price_scale, run.qty_scale]

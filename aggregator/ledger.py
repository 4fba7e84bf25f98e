"""The ledger: which ids of each symbol have been seen.

Ids are contiguous per symbol. The ordinary case, the next ids in order, is decided for all symbols at once by numpy;
only a symbol whose ids jump, repeat or arrive late is looked at by itself, and there by runs of ids, never by trades.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from aggregator.arrays import Bools, Ints, rows_by_slot
from aggregator.official_coverage import Coverage
from klagg.intervals import MINUTE_MS

NONE = -1
FIRST_ID = 1
"""The first id of every generation."""
GAPS_MAX = 1_000
"""Open gaps of one symbol; beyond it the oldest is given up as lost, which is an event and a finding."""

LOST_MAX = 100
"""Lost gaps of one symbol that are kept apart; beyond it the oldest two become one that taints what lies between, and
that names no first id (NONE), because ids between the two were seen."""

REPAIRED = "repaired"
HEALED = "healed"
LOST = "lost"
NO_TIME = np.iinfo(np.int64).min
LAST_TIME = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Gap:
    """Missing ids `from_id`…`to_id`. The trades have times between `before_time` and `after_time`, its neighbours'."""

    from_id: int
    to_id: int
    before_time: int
    after_time: int

    def order(self) -> tuple[int, int]:
        """The minute and the id behind which no trade of the gap can be."""
        return self.after_time // MINUTE_MS, self.to_id


@dataclass(frozen=True, slots=True)
class GapEvent:
    """A gap that opened (`reason` empty) or ended."""

    slot: int
    gap: Gap
    reason: str


class Ledger:
    """Frontier and gaps by slot. Arrays are int64 [capacity], times exchange ms.

    `last_id` is the highest id seen (−1: none), `near_time` its time, `last_time` the latest time seen, `start_time`
    the time of the first trade seen: a bar that opened at or before it can never be proven, unless the first id was 1,
    or official rows cover what came before. `coverage` holds the minutes that are official.
    """

    def __init__(self, capacity: int) -> None:
        self.last_id: Ints = np.full(capacity, NONE, np.int64)
        self.last_time: Ints = np.full(capacity, NO_TIME, np.int64)
        self.near_time: Ints = np.full(capacity, NO_TIME, np.int64)
        self.start_time: Ints = np.full(capacity, NO_TIME, np.int64)
        self.gaps: dict[int, list[Gap]] = {}
        self.lost: dict[int, list[Gap]] = {}
        self.events: list[GapEvent] = []
        self.coverage = Coverage()
        self.strange: list[int] = []
        """Rows of the last `admit` that are not new and cannot be duplicates: later than all trades seen before."""

    def clear_slot(self, slot: int) -> None:
        """Forget ids, gaps and coverage of the slot."""
        self.last_id[slot] = NONE
        self.last_time[slot] = self.near_time[slot] = self.start_time[slot] = NO_TIME
        self.gaps.pop(slot, None)
        self.lost.pop(slot, None)
        self.coverage.forget(slot)

    def begin(self, slot: int, generation_ms: int, ended_ms: int) -> None:
        """Begin a new generation, whose ids begin at 1: ids that are missed at the front are a gap like any other.

        The gaps of the generation before are lost, and so are the times before its first known trade and from its last
        known one to its end, `ended_ms` (exchange ms), because no trade of the new generation proves them.
        """
        for gap in self.gaps.pop(slot, []):
            self._give_up(slot, gap)
        if self.last_id[slot] > 0:
            spans = [(int(self.near_time[slot]), ended_ms - 1)]
            if self.start_time[slot] != NO_TIME:
                spans.append((0, int(self.start_time[slot])))
            for low_ms, high_ms in spans:
                self._keep_lost(slot, Gap(NONE, NONE, low_ms, max(low_ms, high_ms)))
        self.last_id[slot], self.near_time[slot], self.start_time[slot] = 0, generation_ms, NO_TIME

    def grow(self, capacity: int) -> None:
        """Make the arrays by slot this long."""
        more = capacity - len(self.last_id)
        self.last_id = np.concatenate([self.last_id, np.full(more, NONE, np.int64)])
        self.last_time = np.concatenate([self.last_time, np.full(more, NO_TIME, np.int64)])
        self.near_time = np.concatenate([self.near_time, np.full(more, NO_TIME, np.int64)])
        self.start_time = np.concatenate([self.start_time, np.full(more, NO_TIME, np.int64)])

    def admit(self, slots: Ints, ids: Ints, times: Ints) -> Bools:
        """Which of these trades are new (boolean [n]); gaps open, shrink and end on the way.

        `slots`, `ids` and `times` (exchange ms) are int64 [n], sorted by slot, n at least 1. Rows that are neither new
        nor duplicates are in `strange` afterwards.
        """
        change = slots[1:] != slots[:-1]
        starts = np.concatenate([[0], np.flatnonzero(change) + 1])
        ends = np.append(starts[1:], len(slots))
        owners = slots[starts]
        last = self.last_id[owners]
        fresh = last == NONE
        jumps = (ids[1:] - ids[:-1] != 1) & ~change
        irregular = ~fresh & (ids[starts] - last != 1)
        if jumps.any():
            irregular |= np.bitwise_or.reduceat(np.append(jumps, False), starts)
        keep = np.ones(len(slots), np.bool_)
        self.strange = []

        regular = ~irregular
        first = regular & fresh
        self.start_time[owners[first]] = self._start(ids[starts[first]], times[starts[first]])
        latest = np.maximum.reduceat(times, starts)
        self.last_id[owners[regular]] = ids[ends[regular] - 1]
        self.near_time[owners[regular]] = times[ends[regular] - 1]
        self.last_time[owners[regular]] = np.maximum(self.last_time[owners[regular]], latest[regular])
        for segment in np.flatnonzero(irregular):
            rows = slice(starts[segment], ends[segment])
            owner = int(owners[segment])
            usual = self._usual(owner, ids[rows], times[rows])
            if usual is None:
                keep[rows] = self._admit_irregular(owner, ids[rows], times[rows])
                continue
            own = np.arange(starts[segment], ends[segment])
            self.strange += own[~usual].tolist()
            keep[own[~usual]] = False
            own = own[usual]
            if len(own):
                keep[own] = self._admit_irregular(owner, ids[own], times[own])
        return keep

    def _usual(self, slot: int, ids: Ints, times: Ints) -> Bools | None:
        """Which of these trades are new, missing or duplicates; None if all of them, as a rule.

        A duplicate has the time of its original. An id that is not missing and at or below the frontier, with a time
        later than all that was seen of the symbol before, is of another generation.
        """
        strange: Bools = (ids <= self.last_id[slot]) & (times > self.last_time[slot])
        if not strange.any():
            return None
        for gap in self.gaps.get(slot, ()):
            strange &= (ids < gap.from_id) | (ids > gap.to_id)
        return ~strange

    @staticmethod
    def _start(ids: Ints, times: Ints) -> Ints:
        """The start time by first id and time: nothing came before id 1."""
        starts: Ints = np.where(ids <= 1, NO_TIME, times)
        return starts

    def _admit_irregular(self, slot: int, ids: Ints, times: Ints) -> Bools:
        """`admit` for one symbol whose ids are not simply the next ones."""
        unique, first_rows = np.unique(ids, return_index=True)
        unique_times = times[first_rows]
        last = int(self.last_id[slot])
        if last == NONE:
            self.start_time[slot] = self._start(unique[:1], unique_times[:1])[0]
            last = int(unique[0]) - 1
            self.last_time[slot] = self.near_time[slot] = unique_times[0]
        new = unique > last
        split = int(np.searchsorted(unique, last, side="right"))
        if split:
            new[:split] = self._fill(slot, unique[:split], unique_times[:split])
        if split < len(unique):
            self._extend(slot, last, unique[split:], unique_times[split:])
        self.last_time[slot] = max(int(self.last_time[slot]), int(unique_times[new].max(initial=NO_TIME)))
        self._bound(slot)
        keep = np.zeros(len(ids), np.bool_)
        keep[first_rows[new]] = True
        return keep

    def _extend(self, slot: int, last: int, ids: Ints, times: Ints) -> None:
        """Ids beyond the frontier, ascending and unique: each jump opens a gap."""
        before_ids = np.concatenate([[last], ids[:-1]])
        before_times = np.concatenate([[self.near_time[slot]], times[:-1]])
        for jump in np.flatnonzero(ids - before_ids > 1):
            near, far = int(before_times[jump]), int(times[jump])
            gap = Gap(int(before_ids[jump]) + 1, int(ids[jump]) - 1, min(near, far), max(near, far))
            self.gaps.setdefault(slot, []).append(gap)
            self.events.append(GapEvent(slot, gap, ""))
        self.last_id[slot], self.near_time[slot] = ids[-1], times[-1]

    def _bound(self, slot: int) -> None:
        """Jumps and half repaired gaps may leave too many."""
        gaps = self.gaps.get(slot, [])
        for gap in gaps[: max(0, len(gaps) - GAPS_MAX)]:
            self._give_up(slot, gap)
        del gaps[: max(0, len(gaps) - GAPS_MAX)]

    def _fill(self, slot: int, ids: Ints, times: Ints) -> Bools:
        """Ids at or below the frontier, ascending and unique: which of them were missing."""
        missing = np.zeros(len(ids), np.bool_)
        remaining: list[Gap] = []
        for gap in self.gaps.get(slot, []):
            low, high = np.searchsorted(ids, [gap.from_id, gap.to_id + 1])
            if low == high:
                remaining.append(gap)
                continue
            missing[low:high] = True
            parts = _split(gap, ids[low:high], times[low:high])
            remaining += parts
            self.events.append(GapEvent(slot, gap, REPAIRED))
            self.events += [GapEvent(slot, part, "") for part in parts]
        if remaining:
            self.gaps[slot] = remaining
        else:
            self.gaps.pop(slot, None)
        return missing

    def _give_up(self, slot: int, gap: Gap) -> None:
        self.events.append(GapEvent(slot, gap, LOST))
        self._keep_lost(slot, gap)

    def _keep_lost(self, slot: int, gap: Gap) -> None:
        lost = self.lost.setdefault(slot, [])
        lost.append(gap)
        while len(lost) > LOST_MAX:
            one, other = lost.pop(0), lost.pop(0)
            lost.insert(
                0,
                Gap(
                    NONE,
                    max(one.to_id, other.to_id),
                    min(one.before_time, other.before_time),
                    max(one.after_time, other.after_time),
                ),
            )

    def lose(self, slots: Ints, ids: Ints, times: Ints) -> None:
        """Make trades that cannot be used taint bars as lost gaps do, one gap for a run of ids.

        The trades (int64 [n] each, in any order, times in exchange ms) were admitted since the last `drain_events`. If
        they filled a gap, no close between that gap's neighbours is sure.
        """
        order = np.lexsort((ids, slots))
        slots, ids, times = slots[order], ids[order], times[order]
        cuts = np.flatnonzero((np.diff(slots) != 0) | (np.diff(ids) != 1)) + 1
        for run in np.split(np.arange(len(slots)), cuts):
            if len(run):
                slot, during = int(slots[run[0]]), times[run]
                gap = self._bracketed(slot, int(ids[run[0]]), int(ids[run[-1]]), int(during.min()), int(during.max()))
                self.events.append(GapEvent(slot, gap, ""))
                self._give_up(slot, gap)

    def reopen(self, slot: int, since_ms: int) -> None:
        """Open the symbol's lost gaps whose trades came at or after `since_ms` (exchange ms) again: something changed,
        so that trades which could not be used may be usable now."""
        kept = self.lost.pop(slot, [])
        again = [gap for gap in kept if gap.from_id >= FIRST_ID and gap.before_time >= since_ms]
        left = [gap for gap in kept if gap not in again]
        if left:
            self.lost[slot] = left
        if again:
            self.gaps[slot] = sorted([*self.gaps.get(slot, ()), *again], key=lambda gap: gap.from_id)
            self.events += [GapEvent(slot, gap, "") for gap in again]
            self._bound(slot)

    def _bracketed(self, slot: int, from_id: int, to_id: int, low_ms: int, high_ms: int) -> Gap:
        for event in self.events:
            filled = event.gap
            if event.slot == slot and event.reason == REPAIRED and filled.from_id <= from_id and to_id <= filled.to_id:
                low_ms, high_ms = min(low_ms, filled.before_time), max(high_ms, filled.after_time)
        return Gap(from_id, to_id, low_ms, high_ms)

    def expire(self, floor_ms: int, forget_ms: int, price_settled: Callable[[int, Gap], bool]) -> None:
        """Give up gaps older than `floor_ms`, whose trades are refused from now on. Lost gaps go on tainting bars until
        they are older than `forget_ms`, when no bar is kept that reaches back to them. Both are exchange ms.

        The last of a slot's old lost gaps stays until `price_settled` says that no bar can carry the price before it.
        """
        for slot in [slot for slot, gaps in self.gaps.items() if gaps[0].after_time < floor_ms]:
            gaps = self.gaps[slot]
            for gap in [gap for gap in gaps if gap.after_time < floor_ms]:
                self._give_up(slot, gap)
            left = [gap for gap in gaps if gap.after_time >= floor_ms]
            if left:
                self.gaps[slot] = left
            else:
                del self.gaps[slot]
        for slot in [slot for slot, gaps in self.lost.items() if gaps[0].after_time < forget_ms]:
            left = [gap for gap in self.lost[slot] if gap.after_time >= forget_ms]
            old = [gap for gap in self.lost[slot] if gap.after_time < forget_ms]
            last = max(old, key=Gap.order)
            if not price_settled(slot, last):
                left.insert(0, last)
            if left:
                self.lost[slot] = left
            else:
                del self.lost[slot]

    def begin_later(self, slot: int, from_ms: int, to_ms: int) -> None:
        """The exchange has no trades in [from_ms, to_ms) (exchange ms): the gap at the front of a symbol's ids, which
        may be as old as its listing, begins after that."""
        front = self.front_gap(slot)
        if front and from_ms <= front.before_time < to_ms:
            self.gaps[slot][0] = replace(front, before_time=min(to_ms, front.after_time))

    def front_gap(self, slot: int) -> Gap | None:
        """The gap from id 1 to the first known trade of a generation, if there is one."""
        gaps = self.gaps.get(slot)
        return gaps[0] if gaps and gaps[0].from_id == FIRST_ID else None

    def heal(self, slot: int) -> None:
        """End the symbol's gaps all of whose minutes are official; lost gaps there no longer taint bars."""
        for held in (self.gaps, self.lost):
            left = [gap for gap in held.get(slot, ()) if not self._covered(slot, gap)]
            if held is self.gaps:
                gone = (gap for gap in held.get(slot, ()) if gap not in left)
                self.events += [GapEvent(slot, gap, HEALED) for gap in gone]
            if left:
                held[slot] = left
            else:
                held.pop(slot, None)

    def _covered(self, slot: int, gap: Gap) -> bool:
        """Whether the gap touches nothing but official minutes."""
        return self.coverage.holds_minutes(slot, gap.before_time, gap.after_time)

    def drain_events(self) -> list[GapEvent]:
        """The gap events since the last call."""
        events, self.events = self.events, []
        return events

    def tainted(self, slots: Ints, opens: Ints, next_opens: Ints) -> Bools:
        """Which of these bars overlap an open or lost gap of their symbol, and not in official minutes alone.

        `slots`, open times `opens` and `next_opens` (exchange ms, exclusive) are int64 [n].
        """
        taint = np.zeros(len(slots), np.bool_)
        if not self.gaps and not self.lost:
            return taint
        for slot, rows in rows_by_slot(slots, np.isin(slots, [*self.gaps, *self.lost])):
            gaps = [*self.gaps.get(slot, ()), *self.lost.get(slot, ())]
            befores_ms = np.array([gap.before_time for gap in gaps], np.int64)
            afters_ms = np.array([gap.after_time for gap in gaps], np.int64)
            opening, closing = opens[rows, None], next_opens[rows, None]
            # [bars, gaps]: which overlap, and of those, which do so in official minutes alone.
            overlap = (befores_ms < closing) & (afters_ms >= opening)
            first_ms = np.maximum(befores_ms, opening)[overlap]
            last_ms = np.minimum(afters_ms, closing - 1)[overlap]
            covered = self.coverage.holds(slot, first_ms - first_ms % MINUTE_MS, last_ms + 1)
            overlap[overlap] = ~covered
            taint[rows] = overlap.any(axis=1)
        return taint


def _split(gap: Gap, ids: Ints, times: Ints) -> list[Gap]:
    """What is left of `gap` once `ids` (inside it, ascending, unique) are there."""
    edges = np.concatenate([[gap.from_id - 1], ids, [gap.to_id + 1]])
    edge_times = np.concatenate([[gap.before_time], times, [gap.after_time]])
    return [
        Gap(int(edges[at]) + 1, int(edges[at + 1]) - 1, *sorted((int(edge_times[at]), int(edge_times[at + 1]))))
        for at in np.flatnonzero(np.diff(edges) > 1)
    ]

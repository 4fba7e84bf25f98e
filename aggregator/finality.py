"""Finality: which bars are published at a tick, and as what.

A bar is *whole* when a trade at or after the next bar's open has been seen, or a witness says that none came before it
(`aggregator.witnesses`), and no gap taints it, or official rows stand for what is missing; a whole bar is final with
complete=1, or with official=1 where official rows stand for a part (`aggregator.encoding`). Otherwise it is *closed by
the clock* after a grace, with neither, and *confirmed* under the same revision once it is whole. A late or repaired
trade *amends*: one revision more, and a changed close is carried on into the empty bars that follow. All of this is
decided over arrays, for all symbols of an interval at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aggregator.arrays import Bools, Ints, rows_by_slot
from aggregator.ledger import Gap, Ledger
from aggregator.ring import AHEAD_MS, NO_BUCKET, NO_ID, OFFICIAL_ID, Ring
from klagg.intervals import MINUTE, MINUTE_MS

NO_TIME = np.iinfo(np.int64).min
LAST_TIME = np.iinfo(np.int64).max >> 1
CLOSED_BY_TRADE = "trade"
CLOSED_BY_CLOCK = "clock"
CONFIRMED = "confirmed"
AMENDED = "amended"


@dataclass(slots=True)
class Published:
    """N bars of one interval that go out at this tick for one reason: rows and slots of the ring.

    `whole` is their state now, `was_waiting` whether a version that may lack trades was out before.
    """

    reason: str
    interval: int
    rows: Ints
    slots: Ints
    whole: Bools
    was_waiting: Bools


@dataclass(frozen=True, slots=True)
class Graces:
    """How long after its close a bar waits for its proof, in ms: with a live line that carries it, and without."""

    watermark_ms: int
    without_watermark_ms: int


class Finality:
    """Decides over a ring and a ledger.

    By slot: `carried_from` is the first whole minute (ms) since a line carried it, `alive_until` the exchange time
    until which one did, `official_until` that until which official minutes continue what is proven, `witnessed_until`
    that before which a witness says that nothing came behind the frontier, and `begun` the minute with which its bars
    begin (NO_BUCKET: none yet).
    """

    def __init__(self, ring: Ring, ledger: Ledger, graces: Graces) -> None:
        self._ring, self._ledger, self._graces = ring, ledger, graces
        self.carried_from: Ints = np.full(ring.capacity, NO_TIME, np.int64)
        self.alive_until: Ints = np.full(ring.capacity, NO_TIME, np.int64)
        self.official_until: Ints = np.full(ring.capacity, NO_TIME, np.int64)
        self.witnessed_until: Ints = np.full(ring.capacity, NO_TIME, np.int64)
        self.begun: Ints = np.full(ring.capacity, NO_BUCKET, np.int64)
        self._time_ms = 0
        self.horizon_ms = 0
        """What is seen beyond it proves nothing yet."""
        self._next_close: Ints = np.full(len(ring.intervals), NO_TIME, np.int64)
        """By interval, the earliest close time of the bars at the cursors; NO_TIME: not known."""
        self._waiting: Ints = np.zeros(0, np.int64)
        """Cells that may be waiting for their proof; the flag in the ring decides."""

    def clear_slot(self, slot: int) -> None:
        """Forget watermarks, beginning and waiting bars of the slot."""
        self.carried_from[slot] = self.alive_until[slot] = self.official_until[slot] = NO_TIME
        self.witnessed_until[slot] = NO_TIME
        self.begun[slot] = NO_BUCKET
        self._waiting = self._waiting[self._waiting % len(self.alive_until) != slot]

    def grow(self, capacity: int) -> None:
        """Make the arrays by slot this long."""
        rows, slots = np.divmod(self._waiting, len(self.alive_until))
        self._waiting = rows * capacity + slots
        more = np.full(capacity - len(self.alive_until), NO_TIME, np.int64)
        self.carried_from = np.concatenate([self.carried_from, more])
        self.alive_until = np.concatenate([self.alive_until, more])
        self.official_until = np.concatenate([self.official_until, more])
        self.witnessed_until = np.concatenate([self.witnessed_until, more])
        self.begun = np.concatenate([self.begun, more])

    def note_watermarks(self, slots: Ints, times: Ints) -> None:
        """Note that lines carried these symbols (slots [n]) until these times ([n], exchange ms)."""
        first = self.carried_from[slots] == NO_TIME
        self.carried_from[slots[first]] = times[first] // MINUTE_MS * MINUTE_MS + MINUTE_MS
        self.alive_until[slots] = np.maximum(self.alive_until[slots], times)

    def start(self, interval: int, buckets: Ints, slots: Ints) -> None:
        """Move cursors to these bars with trades (buckets and slots, int64 [n]), where they begin a symbol's bars or
        lie before the bar that began them."""
        ring, cursor = self._ring, self._ring.cursor[interval]
        begun = cursor[slots]
        early = (begun == NO_BUCKET) | (buckets < begun)
        if not early.any():
            return
        slots, buckets = slots[early], buckets[early]
        published = ring.revision[ring.rows_of(interval, buckets), slots] > 0
        # A bar that was closed early, at the end of a generation, is amended; those of the next one begin behind it.
        buckets = buckets + published
        begins = ~published | (cursor[slots] == NO_BUCKET)
        slots, buckets = slots[begins], buckets[begins]
        cursor[slots] = np.where(cursor[slots] == NO_BUCKET, np.iinfo(np.int64).max, cursor[slots])
        np.minimum.at(cursor, slots, buckets)
        if ring.intervals[interval] is MINUTE:
            known = self.begun[slots]
            self.begun[slots] = np.where(known == NO_BUCKET, cursor[slots], np.minimum(known, cursor[slots]))
        if len(buckets):
            endings = ring.intervals[interval].opens_of(buckets + 1)
            ending = int(np.minimum(endings, ring.end_ms[slots]).min())
            self._next_close[interval] = min(int(self._next_close[interval]), ending)

    def close(self, time_ms: int) -> list[Published]:
        """What is published at `time_ms` (exchange ms): amendments and confirmations, then new finals, oldest first.

        Trades up to AHEAD_MS beyond it are folded; trades further ahead are held back and prove nothing yet.
        """
        self.look_to(time_ms)
        published = self._revise()
        latest_ms = self._latest_passed()
        for interval in range(len(self._ring.intervals)):
            # Some bar at a cursor of the interval may be over; between two closes only this is looked at.
            if max(latest_ms, time_ms - self._graces.watermark_ms) >= self._next_close[interval]:
                published += self._close_interval(interval, time_ms)
        return published

    def reaches_beyond(self, time_ms: int) -> bool:
        """Whether bars may be decided at `time_ms` (exchange ms) that are over only after the minute it is in: official
        rows and witnesses may be of a later time than a tick that is late."""
        self.look_to(time_ms)
        return self._latest_passed() // MINUTE_MS > time_ms // MINUTE_MS

    def _latest_passed(self) -> int:
        return int(self._passed(np.arange(len(self.alive_until))).max())

    def look_to(self, time_ms: int) -> None:
        """Decide from here on as of this time (exchange ms)."""
        self._time_ms, self.horizon_ms = time_ms, time_ms + AHEAD_MS

    def look_again(self) -> None:
        """Look at all bars at the next tick, because something other than time and trades may have closed some."""
        self._next_close[:] = NO_TIME

    def _passed(self, slots: Ints) -> Ints:
        """The time up to which these symbols' trades have been seen and folded, a witness says that there are none, or
        official rows stand for them."""
        seen = np.maximum(self._ledger.last_time[slots], self.witnessed_until[slots])
        return self._within_horizon(seen, slots)

    def _within_horizon(self, seen_ms: Ints, slots: Ints) -> Ints:
        seen = np.minimum(seen_ms, self.horizon_ms)
        passed: Ints = np.maximum(seen, self.official_until[slots])
        return passed

    def proven(self, slots: Ints, opens: Ints, next_opens: Ints) -> Bools:
        """Which of these bars lack no trade, as far as the ledger knows: boolean [n].

        `slots`, open times `opens` and `next_opens` (exchange ms, exclusive) are int64 [n].
        """
        passed = self._passed(slots) >= next_opens
        short = next_opens - opens < MINUTE_MS
        if short.any():  # official rows would never mend what a wrong witness says of a part of a minute
            seen = self._within_horizon(self._ledger.last_time[slots[short]], slots[short])
            passed[short] = seen >= next_opens[short]
        whole = opens > self._ledger.start_time[slots]
        proven: Bools = passed & whole
        # Each check looks at what the one before left, because thousands of bars may wait behind gaps.
        if proven.any():
            proven[proven] = ~self._ledger.tainted(slots[proven], opens[proven], next_opens[proven])
        if proven.any() and opens[proven].min() < self._ledger.coverage.newest_ms:
            proven[proven] = ~self._below_official(slots[proven], opens[proven], next_opens[proven])
        return proven

    def _below_official(self, slots: Ints, opens: Ints, next_opens: Ints) -> Bools:
        """Which of these bars are parts of an official minute, which proves nothing about its parts."""
        coverage = self._ledger.coverage
        below = (next_opens - opens < MINUTE_MS) & np.isin(slots, [*coverage.ranges])
        for slot, rows in rows_by_slot(slots, below):
            below[rows] = coverage.overlaps(slot, opens[rows], next_opens[rows])
        return below

    def _price_unsure(self, interval: int, buckets: Ints, slots: Ints, which: Bools) -> Bools:
        """Which of `which` bars are empty and carry a price that an earlier gap may still change.

        As a rule the trade after a gap shows the price after it; a fill that counts in no kline shows nothing.
        """
        ring, kind, ledger = self._ring, self._ring.intervals[interval], self._ledger
        unsure = np.zeros(len(slots), np.bool_)
        if not ledger.gaps and not ledger.lost:
            return unsure
        which = which & np.isin(slots, [*ledger.gaps, *ledger.lost])
        which[which] = ring.lacks_price(ring.rows_of(interval, buckets[which]), slots[which])
        for row in np.flatnonzero(which):
            slot, bucket = int(slots[row]), int(buckets[row])
            open_ms = kind.open_of(bucket)
            gaps = (*ledger.gaps.get(slot, ()), *ledger.lost.get(slot, ()))
            before = [gap for gap in gaps if gap.after_time < open_ms]
            # What shows the price behind the last of them shows the price behind each.
            last = max(before, key=Gap.order, default=None)
            if last is not None and not self._shown_within(interval, last, slot, bucket):
                left = ring.oldest(interval) > kind.bucket_of(last.after_time)
                unsure[row] = not (left and self._traded_before(last, slot, open_ms))
        return unsure

    def price_settled(self, slot: int, gap: Gap) -> bool:
        """Whether no bar of the slot can carry the price before this gap, which is older than all that the ring holds:
        none that waits for its proof, and none that is still to be published."""
        ring = self._ring
        waiting = np.flatnonzero(ring.waiting[:, slot])
        if ring.lacks_price(waiting, np.full(len(waiting), slot)).any():
            return False
        for interval, kind in enumerate(ring.intervals):
            bucket = int(ring.cursor[interval, slot])
            if bucket == NO_BUCKET:
                continue
            held = bucket <= ring.head[interval] and ring.open_id[ring.row_of(interval, bucket), slot] != NO_ID
            if not held and not self._traded_before(gap, slot, kind.open_of(bucket)):
                return False
        return True

    def _traded_before(self, gap: Gap, slot: int, time_ms: int) -> bool:
        """Whether the last own trade of a bar, of any interval, is behind the gap and of a minute before `time_ms`
        (exchange ms), or of a bar that was over then.

        Official rows do not show it here, because they may have changed some intervals and not others.
        """
        ring, until = self._ring, time_ms // MINUTE_MS
        for interval, kind in enumerate(ring.intervals):
            first, newest = max(kind.bucket_of(gap.after_time), ring.oldest(interval)), int(ring.head[interval])
            buckets = np.arange(first, newest + 1)
            rows = ring.rows_of(interval, buckets)
            before = (kind.opens_of(buckets + 1) <= time_ms) | (ring.close_minute[rows, slot] < until)
            if (before & (ring.close_id[rows, slot] >= 0) & self._closes_behind(gap, rows, slot)).any():
                return True
        return False

    def _closes_behind(self, gap: Gap, rows: Ints, slot: int) -> Bools:
        """Which of these bars close with a trade behind all that is missing, or with an official minute there."""
        minute, last_id = gap.order()
        minutes, ids = self._ring.close_minute[rows, slot], self._ring.close_id[rows, slot]
        behind: Bools = (minutes > minute) | ((minutes == minute) & ((ids > last_id) | (ids == OFFICIAL_ID)))
        return behind

    def _shown_within(self, interval: int, gap: Gap, slot: int, until: int) -> bool:
        """Whether a bar of the interval before the bucket `until` shows the price behind the gap.

        That a bar longer than a minute has an official part says nothing of its close. Without trades it has the price
        of an official minute, which is behind the gap if the whole bar is, or if all of its minutes are official.
        """
        ring, kind = self._ring, self._ring.intervals[interval]
        behind = kind.bucket_of(gap.after_time)
        buckets = np.arange(max(behind, ring.oldest(interval)), until)
        rows = ring.rows_of(interval, buckets)
        official = ring.official[rows, slot]
        if kind.shortest_ms > MINUTE_MS and official.any():
            official &= ring.open_id[rows, slot] == NO_ID
            if buckets[0] == behind and official[0]:
                opening, closing = kind.open_of(behind), kind.open_of(behind + 1)
                official[0] = self._ledger.coverage.holds_minutes(slot, opening, closing - 1)
        return bool((self._closes_behind(gap, rows, slot) | official).any())

    def _over(self, slots: Ints, next_opens: Ints) -> Bools:
        """Whether these bars may be published: a trade after them was seen, or they or their symbol ended a grace
        ago."""
        closes = np.minimum(next_opens, self._ring.end_ms[slots])
        over: Bools = (self._passed(slots) >= next_opens) | (self._time_ms >= closes + self._graces.watermark_ms)
        return over

    def _close_interval(self, interval: int, time_ms: int) -> list[Published]:
        """New finals of one interval: bar after bar, until no symbol has one that can be closed."""
        ring, kind, published = self._ring, self._ring.intervals[interval], []
        cursor = ring.cursor[interval]
        slots = np.flatnonzero(cursor != NO_BUCKET)
        while len(slots):
            buckets = cursor[slots]
            opens, next_opens = kind.opens_of(buckets), kind.opens_of(buckets + 1)
            over = self._over(slots, next_opens) & (opens < ring.end_ms[slots])
            slots, buckets, opens, next_opens = slots[over], buckets[over], opens[over], next_opens[over]
            if not len(slots):
                break
            proven = self.proven(slots, opens, next_opens)
            proven &= ~self._price_unsure(interval, buckets, slots, proven)
            closes = np.minimum(next_opens, ring.end_ms[slots])
            grace = np.where(
                self.alive_until[slots] >= closes, self._graces.watermark_ms, self._graces.without_watermark_ms
            )
            closing = proven | (time_ms >= closes + grace)
            slots, proven, buckets = slots[closing], proven[closing], buckets[closing]
            if len(slots):
                published += self._publish_first(interval, buckets, slots, proven)
                cursor[slots] += 1
        begun = np.flatnonzero(cursor != NO_BUCKET)
        ends = ring.end_ms[begun]
        closes = np.minimum(kind.opens_of(cursor[begun] + 1), ends)[kind.opens_of(cursor[begun]) < ends]
        self._next_close[interval] = int(closes.min(initial=LAST_TIME))
        return published

    def _publish_first(self, interval: int, buckets: Ints, slots: Ints, proven: Bools) -> list[Published]:
        ring = self._ring
        rows = ring.rows_of(interval, buckets)
        new = ring.revision[rows, slots] == 0
        rows, slots, buckets, proven = rows[new], slots[new], buckets[new], proven[new]
        empty = ring.lacks_price(rows, slots)
        if empty.any():
            closes = ring.close_before(interval, buckets[empty], slots[empty])
            self._ring.set_prices(rows[empty], slots[empty], closes)
        proven = proven & ~ring.broken[rows, slots]
        ring.revision[rows, slots] = 1
        self._wait(rows, slots, ~proven)
        ring.changed[rows, slots] = False
        never = np.zeros(len(slots), np.bool_)
        return [
            Published(reason, interval, rows[which], slots[which], proven[which], never[which])
            for reason, which in ((CLOSED_BY_TRADE, proven), (CLOSED_BY_CLOCK, ~proven))
            if which.any()
        ]

    def _revise(self) -> list[Published]:
        """Amendments and confirmations of bars that are already out."""
        ring = self._ring
        published: list[Published] = []
        changed = ring.drain_published()
        if len(changed):
            self._carry_on(changed)
            changed = np.union1d(changed, ring.drain_published())
            published += self._revise_cells(AMENDED, changed)
        if len(self._waiting):
            self._waiting = self._waiting[ring.waiting.reshape(-1)[self._waiting]]
            published += self._revise_cells(CONFIRMED, self._waiting)
        return published

    def _revise_cells(self, reason: str, cells: Ints) -> list[Published]:
        ring = self._ring
        rows, slots = np.divmod(cells, ring.capacity)
        opens, next_opens = ring.bounds_of(rows)
        if reason == AMENDED:
            # Closed early at a delisting, and the symbol trades again: one amendment, once the bar is over.
            over = self._over(slots, next_opens)
            ring.published.append(cells[~over])
            rows, slots, opens, next_opens = rows[over], slots[over], opens[over], next_opens[over]
        proven = self.proven(slots, opens, next_opens) & ~ring.broken[rows, slots]
        if reason == CONFIRMED:
            rows, slots, proven = rows[proven], slots[proven], proven[proven]
        intervals = ring.row_interval[rows]
        published = []
        for interval in np.unique(intervals).tolist():
            here = intervals == interval
            its_rows, its_slots, its_proven = rows[here], slots[here], proven[here]
            its_proven &= ~self._price_unsure(interval, ring.row_bucket[its_rows], its_slots, its_proven)
            if reason == CONFIRMED:
                its_rows, its_slots, its_proven = its_rows[its_proven], its_slots[its_proven], its_proven[its_proven]
                if not len(its_rows):
                    continue
            else:
                ring.revision[its_rows, its_slots] += 1
                ring.changed[its_rows, its_slots] = False
            was_waiting = ring.waiting[its_rows, its_slots]
            self._wait(its_rows, its_slots, ~its_proven)
            published.append(Published(reason, interval, its_rows, its_slots, its_proven, was_waiting))
        return published

    def _wait(self, rows: Ints, slots: Ints, unproven: Bools) -> None:
        """Note which of these published bars wait for their proof."""
        self._ring.waiting[rows, slots] = unproven
        if unproven.any():
            cells = rows[unproven] * self._ring.capacity + slots[unproven]
            self._waiting = np.union1d(self._waiting, cells)

    def find_waiting(self) -> None:
        """Look for the bars that wait for their proof by their flags, after a restart."""
        self._waiting = np.flatnonzero(self._ring.waiting)

    def _carry_on(self, cells: Ints) -> None:
        """Closes of changed, published bars go on into the empty published bars behind them."""
        ring = self._ring
        rows, slots = np.divmod(cells, ring.capacity)
        order = np.argsort(ring.row_bucket[rows], kind="stable")
        for interval in np.unique(ring.row_interval[rows]):
            here = order[ring.row_interval[rows[order]] == interval]
            self._carry_interval(int(interval), ring.row_bucket[rows[here]], slots[here])

    def _carry_interval(self, interval: int, buckets: Ints, slots: Ints) -> None:
        """One step for all symbols at once, then the next bucket, while empty published bars follow; an empty bar in
        progress that was shown is shown anew."""
        ring = self._ring
        while len(slots):
            closes = ring.close[ring.rows_of(interval, buckets), slots]
            buckets = buckets + 1
            rows = ring.rows_of(interval, buckets)
            carries = (ring.row_bucket[rows] == buckets) & ring.lacks_price(rows, slots)
            carries &= ring.close[rows, slots] != closes
            published = ring.revision[rows, slots] > 0
            shown = carries & ~published & (ring.shown[interval, slots] >= buckets)
            self._ring.set_prices(rows[shown], slots[shown], closes[shown])
            ring.touch(rows[shown] * ring.capacity + slots[shown])
            follows = carries & published
            rows, slots, closes, buckets = rows[follows], slots[follows], closes[follows], buckets[follows]
            self._ring.set_prices(rows, slots, closes)
            ring.touch(rows * ring.capacity + slots)

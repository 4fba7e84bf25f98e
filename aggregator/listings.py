"""Listings: when a symbol's bars begin, end and go on, and what is to be done about the ids of a new generation.

A name keeps its slot over its generations until it is freed. A generation is the onboard time of a listing: its ids
begin at 1, whatever the generation before had reached. Pure, and a function of the log: listing entries of a tick are
applied before its trades, in an order of their own, so that it does not matter when between two ticks they came.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from aggregator.arrays import Bools, Ints
from aggregator.columns import Trades
from aggregator.finality import Finality
from aggregator.ledger import Ledger
from aggregator.parking import Parking
from aggregator.ring import ENDLESS, NO_BUCKET, Ring
from aggregator.symbols import SymbolTable
from klagg.binance.contracts import TRADING
from klagg.binance.contracts import is_over as is_over_by
from klagg.errors import ContractError
from klagg.wire.entries import (
    EVENT_DELISTED,
    EVENT_GENESIS,
    EVENT_LISTED,
    SCALE_MAX,
    Listing,
    events_entry,
    listings_of,
)
from klagg.wire.fields import Fields, RawFields

FREED_MAX = 10_000
"""Names of freed slots whose last generation is remembered; beyond it the one freed first is forgotten."""

OLD_GENERATION_REASON = "is of the generation before, whose ids were closed when the symbol was listed again"
UNLISTED_REASON = "begins the ids anew, and no listing says so"

Row = tuple[object, ...]


def usable_listings(raw: RawFields) -> list[Listing]:
    """The listings of a `listing` entry. ContractError if one of them cannot be used; then none of them is."""
    listings = listings_of(raw)
    for listing in listings:
        if not (0 <= listing.price_scale <= SCALE_MAX and 0 <= listing.qty_scale <= SCALE_MAX):
            raise ContractError(f"{listing.symbol} is listed with scales that cannot be used")
    return listings


def is_over(listing: Listing, time_ms: int) -> bool:
    """Whether no more trades are to be expected at `time_ms` (exchange ms); see klagg.binance.contracts."""
    return is_over_by(listing.status, listing.delivery, time_ms)


class Listings:
    """What listings do to the other parts of a core.

    `gone` is, by slot, whether the end was reached and every bar was published; `genesis_due` whether its first trade
    is still to come. `before` holds, by slot of a name listed again, the last id and the latest time of the
    generation before. `first_tick_ms` is the first tick this aggregator ever saw: nothing is known of what was before.
    """

    def __init__(self, symbols: SymbolTable, ring: Ring, ledger: Ledger, finality: Finality) -> None:
        self._symbols, self._ring, self._ledger, self._finality = symbols, ring, ledger, finality
        self.gone: Bools = np.zeros(ring.capacity, np.bool_)
        self.genesis_due: Bools = np.ones(ring.capacity, np.bool_)
        self.before: dict[int, tuple[int, int]] = {}
        self.freed: dict[str, int] = {}
        self._begun: list[int] = []
        self.parking = Parking()
        self.first_tick_ms = 0
        self._late = False
        """Whether this tick's trades are also of symbols that have ended."""

    def grow(self, capacity: int) -> None:
        """Make the arrays by slot this long."""
        more = capacity - len(self.gone)
        self.gone = np.concatenate([self.gone, np.zeros(more, np.bool_)])
        self.genesis_due = np.concatenate([self.genesis_due, np.ones(more, np.bool_)])

    def clear_slot(self, slot: int) -> None:
        """Forget end, genesis and former generation of the slot."""
        self.gone[slot], self.genesis_due[slot] = False, True
        self.before.pop(slot, None)

    def usable(self, listings: Iterable[Listing], time_ms: int) -> list[Listing]:
        """The listings that matter, each once, in an order that does not depend on their arrival.

        A name that has no slot and is over needs none: the exchange goes on listing what is delisted for weeks.
        """
        index = self._symbols.index
        return sorted(
            {each for each in listings if each.symbol.encode() in index or not is_over(each, time_ms)},
            key=lambda each: (
                each.symbol,
                each.generation,
                is_over(each, time_ms),
                each.status,
                each.delivery,
                each.price_scale,
                each.qty_scale,
            ),
        )

    def apply(self, listings: Iterable[Listing], time_ms: int) -> list[Fields]:
        """Apply the usable listings of a tick, whose names have slots; the events of what they change.

        The caller raises the scales. `time_ms` is the tick's exchange time.
        """
        rows: dict[str, list[Row]] = {EVENT_LISTED: [], EVENT_DELISTED: []}
        for listing in listings:
            kind = self._apply(listing, time_ms)
            if kind:
                rows[kind].append(
                    (listing.symbol, listing.generation, listing.status, listing.price_scale, listing.qty_scale)
                )
        return [events_entry(kind, time_ms, found) for kind, found in rows.items() if found]

    def drain_begun(self) -> list[int]:
        """Slots whose ids began anew since the last call."""
        begun, self._begun = self._begun, []
        return begun

    def _apply(self, listing: Listing, time_ms: int) -> str:
        """Apply one listing at a tick; the kind of event that it is, "" if it changes nothing.

        An entry of an earlier generation than the known one is late and changes nothing.
        """
        symbols, slot = self._symbols, self._symbols.index[listing.symbol.encode()]
        known = int(symbols.generation[slot])
        if listing.generation < known:
            return ""
        changed = listing.status != symbols.statuses[slot] or listing.generation != known
        if listing.generation > known:
            self._begin(slot, listing, known)
        symbols.statuses[slot], symbols.generation[slot] = listing.status, listing.generation
        self._finality.look_again()
        over, ended = is_over(listing, time_ms), int(self._ring.end_ms[slot]) != ENDLESS
        if over and not ended:
            end_ms = listing.delivery if listing.generation < listing.delivery <= time_ms else time_ms
            self._ring.end_ms[slot] = max(end_ms, int(self._ledger.last_time[slot]) + 1)
        elif ended and listing.status == TRADING:
            self._ring.end_ms[slot] = ENDLESS
            self._go_on(slot)
        if not changed and (ended or not over):
            return ""
        return EVENT_DELISTED if over else EVENT_LISTED

    def _begin(self, slot: int, listing: Listing, known: int) -> None:
        """A generation that is new to the slot: whether its ids begin at 1 or simply go on.

        They begin anew where another generation was known, or trades of this one are parked. Where trades since its
        onboard time have continued the ids, they are its own: then it is the first listing of a provisional slot, or a
        corrected onboard time. Without any trade it is a beginning that klagg saw, if it came after klagg's own.
        """
        ledger, name = self._ledger, listing.symbol
        traded, generation = int(ledger.last_id[slot]) > 0, listing.generation
        if traded:
            anew = int(ledger.last_time[slot]) < generation and (known > 0 or self.parking.holds(name))
        else:
            anew = known > 0 or generation > self.freed.get(name, self.first_tick_ms)
        if not anew:
            return
        if traded:
            self.before[slot] = int(ledger.last_id[slot]), int(ledger.last_time[slot])
        ended_ms = min(int(self._ring.end_ms[slot]), generation)
        self._end_generation(slot)
        ledger.begin(slot, generation, ended_ms)
        self._begun.append(slot)
        self.genesis_due[slot] = True
        self.parking.release(name)

    def _end_generation(self, slot: int) -> None:
        """Another generation goes on in the slot. Published bars stay; where the last bars are out, the next begin with
        a trade of the new generation, else the bars go on without a gap."""
        if self.gone[slot]:
            self._ring.cursor[:, slot] = NO_BUCKET
        self._ring.end_ms[slot] = ENDLESS
        self.gone[slot] = False

    def _go_on(self, slot: int) -> None:
        """The symbol lives: its bars go on from where they stopped, as far back as the ring will still hold at the next
        step; what is older stays unsaid, as nothing was listed then."""
        ring = self._ring
        self.gone[slot] = False
        self._finality.look_again()
        for at, interval in enumerate(ring.intervals):
            if ring.cursor[at, slot] != NO_BUCKET:
                ahead = interval.bucket_of(interval.open_of(int(ring.head[at]) + 1) + ring.span_ms // 2)
                ring.cursor[at, slot] = max(int(ring.cursor[at, slot]), ahead - ring.sizes[at] + 2)

    def park(self, strange: Trades, time_ms: int) -> Bools:
        """Park trades until their listing comes; which of them cannot be parked (boolean [n]), because there is no
        room or a value does not fit 64 bits."""
        over = np.zeros(len(strange), np.bool_) if strange.unfit is None else strange.unfit.copy()
        counts = np.ones(len(strange), np.bool_) if strange.counts is None else strange.counts
        names = [self._symbols.names[slot] for slot in strange.slot.tolist()]
        columns = (
            strange.price,
            self._symbols.price_scale[strange.slot],
            strange.qty,
            self._symbols.qty_scale[strange.slot],
            strange.first,
            strange.last,
            strange.maker,
            counts,
            strange.agg,
        )
        values = zip(*(column.astype(np.int64).tolist() for column in columns), strict=True)
        keys = zip(names, strange.id.tolist(), strange.time.tolist(), strict=True)
        waiting = {key: each for key, each, unfit in zip(keys, values, over.tolist(), strict=True) if not unfit}
        no_room = self.parking.park(waiting, time_ms)
        if no_room:
            over |= [key in no_room for key in zip(names, strange.id.tolist(), strange.time.tolist(), strict=True)]
        return over

    def give_up(self, time_ms: int) -> tuple[Ints, Ints]:
        """Drop parked trades that waited too long at `time_ms` (exchange ms); their slots and ids, int64 [n] each."""
        late = self.parking.expire(time_ms)
        slots = [self._symbols.index[name.encode()] for name, _, _ in late]
        return np.array(slots, np.int64), np.array([number for _, number, _ in late], np.int64)

    def of_this_generation(self, slots: Ints, ids: Ints, times: Ints) -> tuple[Bools, Bools] | None:
        """Which of these trades (int64 [n] each, times in exchange ms) are of their slot's generation, and which of the
        others were never seen, so that they are no duplicates. None if all are of their slot's generation, which one
        comparison shows as a rule."""
        if not self.before or not len(times):
            return None
        generations = self._symbols.generation
        if int(times.min()) >= max(int(generations[slot]) for slot in self.before):
            return None
        again = np.isin(slots, list(self.before))
        earlier = again & (times < generations[slots])
        unseen = np.zeros(len(slots), np.bool_)
        for row in np.flatnonzero(earlier):
            last_id, last_time = self.before[int(slots[row])]
            unseen[row] = ids[row] > last_id or times[row] > last_time
        return ~earlier, unseen

    def outlive(self, trades: Trades) -> None:
        """Admitted trades at or after a symbol's end count all the same, and the end moves behind them."""
        ends, count = self._ring.end_ms, self._symbols.count
        if not (ends[:count] != ENDLESS).any():
            return
        self._late = bool((ends[trades.slot] != ENDLESS).any())
        for slot in np.flatnonzero(ends[:count] <= self._ledger.last_time[:count]).tolist():
            ends[slot] = self._ledger.last_time[slot] + 1
            self._go_on(slot)

    def genesis(self, trades: Trades, time_ms: int) -> list[Fields]:
        """The first trades of generations among the trades admitted at this tick, as events."""
        count = self._symbols.count
        waiting = np.flatnonzero(self.genesis_due[:count] & (self._ledger.last_id[:count] > 0))
        found: list[Row] = []
        for slot in waiting.tolist():
            own = np.flatnonzero(trades.slot == slot)
            if len(own):
                first = int(own[np.argmin(trades.id[own])])
                found.append(
                    (
                        self._symbols.names[slot],
                        int(self._symbols.generation[slot]),
                        int(trades.id[first]),
                        int(trades.time[first]),
                    )
                )
                self.genesis_due[slot] = False
        return [events_entry(EVENT_GENESIS, time_ms, found)] if found else []

    @property
    def ending(self) -> bool:
        """Whether bars are about to be closed before they are over, or such bars may change: then every trade that was
        admitted must be in them."""
        return bool(self._late or ((self._ring.end_ms != ENDLESS) & ~self.gone).any())

    def leave(self) -> Ints:
        """The slots (int64 [n]) of symbols whose last bars were published since the last call."""
        ring, count = self._ring, self._symbols.count
        ended = np.flatnonzero(self._ring.end_ms[:count] != ENDLESS)
        self._late = False
        if not len(ended):
            return ended
        done = np.ones(len(ended), np.bool_)
        for at, interval in enumerate(ring.intervals):
            cursor = ring.cursor[at, ended]
            begun = cursor != NO_BUCKET
            done[begun] &= interval.opens_of(cursor[begun]) >= self._ring.end_ms[ended[begun]]
        new = ended[done & ~self.gone[ended]]
        self.gone[ended] = done
        ring.shown[:, new] = NO_BUCKET
        return new

    def is_freed(self, name: str) -> bool:
        """Whether the name had a slot and has none since."""
        return name in self.freed and name.encode() not in self._symbols.index

    def free(self) -> list[int]:
        """Slots whose symbol is gone, and of which the ring holds no bar any more: from now on they may be another's.

        Since the bar that holds the end has left the ring in every interval, neither a late trade nor the same name
        listed again can ever touch an open time that was published.
        """
        ring, count, freed = self._ring, self._symbols.count, []
        for slot in np.flatnonzero(self.gone[:count]).tolist():
            last_ms, name = int(self._ring.end_ms[slot]) - 1, self._symbols.names[slot]
            held = (interval.bucket_of(last_ms) >= ring.oldest(at) for at, interval in enumerate(ring.intervals))
            if any(held) or self.parking.holds(name):
                continue
            self.freed.pop(name, None)
            self.freed[name] = int(self._symbols.generation[slot])
            freed.append(slot)
        while len(self.freed) > FREED_MAX:
            del self.freed[next(iter(self.freed))]
        return freed

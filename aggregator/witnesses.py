"""Witnesses: the exchange's word for which id of a symbol is the last one. Pure.

A witness with the id of the symbol's frontier says that nothing came between the frontier and the witness' time, so
bars that end before it are proven without another trade. A lower one is late and says nothing. A higher one says that
something is missing, or that a fill has no aggTrade (insurance fund, ADL): what is behind the frontier is requested.
An empty answer is a witness too.

A witness may be behind its own time stamp, so it is believed up to its time less a margin. A trade that one denied
makes the margin grow. Gaps stay as they are: a witness proves what is behind the frontier, never what is below it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from aggregator.arrays import Ints
from aggregator.finality import NO_TIME, Finality
from aggregator.ledger import NONE, Ledger
from aggregator.repair_budget import PAGE_IDS, TokenBucket, cost_of
from aggregator.symbols import SymbolTable
from klagg.settings import Aggregator
from klagg.wire.entries import REQUEST_BEHIND, Request, Witness

PENDING_MAX_MS = 600_000
"""A witness whose id was not reached for this long (exchange ms) is forgotten; the next one says more."""
WAIT_MS, WAIT_MS_MAX = 30_000, 300_000
"""How long a request has, at first and at most."""
EARLIER_MAX = 16
"""Beliefs of a symbol that are remembered while ids are missing; the oldest ones are forgotten."""
REQUESTS_MAX = 50
"""Requests in one tick; the others wait for the next tick."""


@dataclass(slots=True)
class Pending:
    """A witness of fills that is not reached yet: its `id` and `time_ms`; when to request what is behind the frontier
    (`due_ms`, exchange ms), and how often that was done."""

    id: int
    time_ms: int
    due_ms: int
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Denied:
    """Trade `id` of `time_ms` came, though a witness had called `last_id` the last one until `until_ms`."""

    slot: int
    id: int
    time_ms: int
    last_id: int
    until_ms: int


class Witnesses:
    """By slot (int64 [capacity]): `fill_id` is the highest fill id that is known (−1: none), `frontier` the id that
    was last when `finality.witnessed_until` was set."""

    def __init__(
        self, symbols: SymbolTable, ledger: Ledger, finality: Finality, bucket: TokenBucket, config: Aggregator
    ) -> None:
        self._symbols, self._ledger, self._finality, self._bucket = symbols, ledger, finality, bucket
        self._request_after_ms = config.ask_after_ms
        self.margin_ms = config.witness_margin_ms
        self.fill_id: Ints = np.full(symbols.capacity, NONE, np.int64)
        self.frontier: Ints = np.full(symbols.capacity, NONE, np.int64)
        self.pending: dict[int, Pending] = {}
        self.excused: dict[int, tuple[int, int]] = {}
        """By slot: the frontier, and the higher fill id of a witness behind which an answer found no aggTrade."""
        self.earlier: dict[int, list[tuple[int, int]]] = {}
        """By slot with missing ids: frontiers before the present one, and the time until which each was believed. A
        missing trade may deny them when it is repaired."""

    def grow(self, capacity: int) -> None:
        """Make the arrays by slot this long."""
        more = np.full(capacity - len(self.fill_id), NONE, np.int64)
        self.fill_id = np.concatenate([self.fill_id, more])
        self.frontier = np.concatenate([self.frontier, more])

    def clear_slot(self, slot: int) -> None:
        """Forget what is known of the slot: another symbol or generation has it."""
        self.fill_id[slot] = self.frontier[slot] = NONE
        self._finality.witnessed_until[slot] = NO_TIME
        self.pending.pop(slot, None)
        self.excused.pop(slot, None)
        self.earlier.pop(slot, None)

    def note_fills(self, slots: Ints, last: Ints) -> None:
        """Note the last fill ids of trades that are new to the ledger (int64 [n], sorted by slot, n at least 1)."""
        starts = np.concatenate([[0], np.flatnonzero(slots[1:] != slots[:-1]) + 1])
        owners = slots[starts]
        self.fill_id[owners] = np.maximum(self.fill_id[owners], np.maximum.reduceat(last, starts))

    def denied_by(self, slots: Ints, ids: Ints, times: Ints) -> list[Denied]:
        """What these trades (int64 [n] each), which are new to the ledger, say against a witness: one of each slot, the
        earliest. From here on these witnesses count no longer, and the margin is as wide as it should have been."""
        until = self._finality.witnessed_until
        found: dict[int, Denied] = {}
        for row in np.flatnonzero((times < until[slots]) & (ids > self.frontier[slots])).tolist():
            slot = int(slots[row])
            each = Denied(slot, int(ids[row]), int(times[row]), int(self.frontier[slot]), int(until[slot]))
            if slot not in found or each.time_ms < found[slot].time_ms:
                found[slot] = each
        for slot in found:
            until[slot] = NO_TIME
        for slot in [slot for slot in self.earlier if slot in slots]:
            repaired = slots == slot
            denied = self._earlier_denied(slot, ids[repaired], times[repaired])
            if denied and slot not in found:
                found[slot] = denied
        self.margin_ms += max((each.until_ms - each.time_ms for each in found.values()), default=0)
        return [found[slot] for slot in sorted(found)]

    def _earlier_denied(self, slot: int, ids: Ints, times: Ints) -> Denied | None:
        """The belief of an earlier frontier that is denied most, if one is; what is denied is forgotten."""
        denied: list[Denied] = []
        for frontier, until_ms in list(self.earlier[slot]):
            wrong = np.flatnonzero((ids > frontier) & (times < until_ms))
            if len(wrong):
                row = wrong[np.argmin(times[wrong])]
                denied.append(Denied(slot, int(ids[row]), int(times[row]), frontier, until_ms))
                self.earlier[slot].remove((frontier, until_ms))
        return max(denied, key=lambda each: each.until_ms - each.time_ms, default=None)

    def hear(self, witnesses: Sequence[tuple[int, Witness, bool]], time_ms: int) -> None:
        """Take witnesses (slot, witness, whether its id is an aggTrade's) at the tick of `time_ms` (exchange ms)."""
        for slot, witness, agg in witnesses:
            if self._ledger.last_id[slot] == NONE:
                continue
            if agg:
                self._hear_answer(slot, witness)
                continue
            before = self.pending.get(slot)
            if before is None or witness.time_ms > before.time_ms:
                # A newer witness neither puts off a request nor makes another one before that had its time.
                due_ms, tries = (before.due_ms, before.tries) if before else (time_ms + self._request_after_ms, 0)
                self.pending[slot] = Pending(witness.id, witness.time_ms, due_ms, tries)

    def _hear_answer(self, slot: int, witness: Witness) -> None:
        """Nothing is behind this aggTrade. So fills that a ticker knew by then, and that no trade has, have none."""
        if witness.id != self._ledger.last_id[slot]:
            return
        self._believe(slot, witness.time_ms)
        pending = self.pending.get(slot)
        if pending and pending.time_ms <= witness.time_ms:
            self.excused[slot] = witness.id, pending.id
            del self.pending[slot]

    def _believe(self, slot: int, time_ms: int) -> None:
        until, before = self._finality.witnessed_until, int(self.frontier[slot])
        if slot not in self._ledger.gaps and slot not in self._ledger.lost:
            self.earlier.pop(slot, None)
        elif until[slot] != NO_TIME and before != self._ledger.last_id[slot]:
            beliefs = self.earlier.setdefault(slot, [])
            beliefs.append((before, int(until[slot])))
            del beliefs[:-EARLIER_MAX]
        until[slot] = max(int(until[slot]), time_ms - self.margin_ms)
        self.frontier[slot] = self._ledger.last_id[slot]

    def settle(self, time_ms: int) -> None:
        """Believe the witnesses that the trades until this tick (exchange ms) have reached; forget what is passed."""
        for slot, each in list(self.pending.items()):
            fill_id = self.fill_id[slot]
            reached = each.id == fill_id or self.excused.get(slot) == (self._ledger.last_id[slot], each.id)
            if reached:
                self._believe(slot, each.time_ms)
            if reached or each.id < fill_id or time_ms - each.time_ms > PENDING_MAX_MS:
                del self.pending[slot]

    def due_requests(self, time_ms: int, is_agg: Callable[[int], bool]) -> list[Request]:
        """Requests for what may be behind the frontiers of symbols whose witness is higher, as far as the budget goes.

        Fills cannot be requested by id. Where klagg knows no fill yet, a higher one says nothing.
        """
        requests: list[Request] = []
        for slot, each in self.pending.items():
            if each.due_ms > time_ms or self.fill_id[slot] == NONE or not is_agg(slot):
                continue
            first = int(self._ledger.last_id[slot]) + 1
            if len(requests) == REQUESTS_MAX or not self._bucket.spend(cost_of(first, first)):
                break
            each.due_ms = time_ms + min(WAIT_MS << min(each.tries, 10), WAIT_MS_MAX)
            name = self._symbols.names[slot]
            request_id = f"{name}/{REQUEST_BEHIND}/{first}/{each.id}/{each.tries}"
            each.tries += 1
            requests.append(Request(REQUEST_BEHIND, request_id, name, "", first, first + PAGE_IDS - 1, each.due_ms))
        return requests

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        count = self._symbols.count
        return {
            "margin_ms": self.margin_ms,
            "fill_id": self.fill_id[:count].tolist(),
            "frontier": self.frontier[:count].tolist(),
            "until": self._finality.witnessed_until[:count].tolist(),
            "earlier": [[slot, beliefs] for slot, beliefs in self.earlier.items()],
            "excused": [[slot, *found] for slot, found in self.excused.items()],
            "pending": [[slot, *astuple(each)] for slot, each in self.pending.items()],
        }

    def put_back(self, state: dict[str, Any]) -> None:
        """Put a `state` back; the symbol table must have its slots already."""
        count = self._symbols.count
        self.margin_ms = state["margin_ms"]
        self.fill_id[:count], self.frontier[:count] = state["fill_id"], state["frontier"]
        self._finality.witnessed_until[:count] = state["until"]
        self.earlier = {slot: [(frontier, until_ms) for frontier, until_ms in each] for slot, each in state["earlier"]}
        self.excused = {slot: (frontier, fill_id) for slot, frontier, fill_id in state["excused"]}
        self.pending = {slot: Pending(*values) for slot, *values in state["pending"]}

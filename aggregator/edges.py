"""Edge evidence: aggTrades with more than one fill shortly before a bar's close.

An aggTrade carries the time of its first fill; later fills may come up to 100 ms after it, and the exchange's own
klines count fills. Such a trade next to a close can therefore shift a pair of amounts between two official bars. The
evidence is kept per symbol and boundary, for every bar that closes there; so is which fills were moved over it, where
the exchange's split was adopted (aggregator.edge_claims).
"""

from __future__ import annotations

from typing import cast

import numpy as np

from aggregator.arrays import Ints
from aggregator.columns import Trades
from klagg.intervals import MINUTE_MS

EDGE_MS = 100
EDGES_MAX = 8
"""Pieces of evidence a boundary: those nearest to it by id."""

Edge = tuple[int, int, int, int, int, int, int]
"""id, first fill id, last fill id, time, price and quantity mantissa, maker."""

SLOT, PRICE, QTY = 0, 5, 6


class Edges:
    """Evidence by boundary time in ms: int64 arrays [8, n] of slots and the parts of an Edge, sorted by slot and id."""

    def __init__(self, finest_ms: int) -> None:
        self._finest_ms = finest_ms
        self.found: dict[int, Ints] = {}
        self.adopted: dict[int, Ints] = {}
        """The fills that were moved over a boundary: `first`, `last` and quantity are those of the moved ones."""

    def note(self, trades: Trades) -> None:
        """Keep the evidence among admitted trades (at least one). Their order does not matter."""
        finest_ms, newest_ms = self._finest_ms, int(trades.time.max())
        if newest_ms % finest_ms < finest_ms - EDGE_MS and newest_ms - newest_ms % finest_ms <= int(trades.time.min()):
            return
        near = trades.time % finest_ms >= finest_ms - EDGE_MS
        trades = trades.select(near & trades.agg & (trades.last > trades.first))
        boundaries = trades.time // finest_ms * finest_ms + finest_ms
        parts = (
            trades.slot,
            trades.id,
            trades.first,
            trades.last,
            trades.time,
            trades.price,
            trades.qty,
            trades.maker.astype(np.int64),
        )
        table: Ints = np.stack(parts)
        for boundary in np.unique(boundaries).tolist():
            more = table[:, boundaries == boundary]
            held = self.found.get(boundary)
            self.found[boundary] = _nearest(more if held is None else np.concatenate([held, more], axis=1))

    def at(self, boundary_ms: int) -> dict[int, list[Edge]]:
        """The evidence at the close `boundary_ms` (exchange ms): by slot, ordered by id."""
        return _by_slot(self.found.get(boundary_ms))

    def adopt(self, boundary_ms: int, slot: int, moved: Edge) -> None:
        """Keep which fills of an aggTrade were moved over a boundary (exchange ms)."""
        more: Ints = np.array([slot, *moved], np.int64)[:, None]
        held = self.adopted.get(boundary_ms)
        self.adopted[boundary_ms] = more if held is None else np.concatenate([held, more], axis=1)

    def moved_at(self, boundary_ms: int) -> dict[int, list[Edge]]:
        """The fills that were moved over a boundary (exchange ms), by slot."""
        return _by_slot(self.adopted.get(boundary_ms))

    def expire(self, floor_ms: int, fine_floor_ms: int) -> None:
        """Forget boundaries before `floor_ms`, and those within a minute before `fine_floor_ms` (exchange ms both),
        because no bar that closes there can be published any more."""
        for boundary in [each for each in self.found if each < (fine_floor_ms if each % MINUTE_MS else floor_ms)]:
            del self.found[boundary]

    def clear_slot(self, slot: int) -> None:
        """Forget a symbol."""
        self.found, self.adopted = _without(self.found, slot), _without(self.adopted, slot)

    def rescale(self, slot: int, price_decimals: int, qty_decimals: int) -> None:
        """Multiply the symbol's prices and quantities by ten to these powers, by which its scales rose; negative ones
        divide, and `divides` says whether that is exact."""
        for table in (*self.found.values(), *self.adopted.values()):
            own = table[SLOT] == slot
            for part, decimals in ((PRICE, price_decimals), (QTY, qty_decimals)):
                if decimals > 0 and own.any():
                    table[part, own] *= 10**decimals
                elif decimals < 0:
                    table[part, own] //= 10**-decimals

    def divides(self, slot: int, price_decimals: int, qty_decimals: int) -> bool:
        """Whether the symbol's prices and quantities need none of so many of their decimals."""
        for table in (*self.found.values(), *self.adopted.values()):
            own = table[SLOT] == slot
            for part, decimals in ((PRICE, price_decimals), (QTY, qty_decimals)):
                if (table[part, own] % 10**decimals).any():
                    return False
        return True


def _by_slot(table: Ints | None) -> dict[int, list[Edge]]:
    found: dict[int, list[Edge]] = {}
    for slot, *edge in () if table is None else zip(*table.tolist(), strict=True):
        found.setdefault(slot, []).append(cast(Edge, tuple(edge)))
    return found


def _without(tables: dict[int, Ints], slot: int) -> dict[int, Ints]:
    kept = {boundary: table[:, table[SLOT] != slot] for boundary, table in tables.items()}
    return {boundary: table for boundary, table in kept.items() if table.size}


def _nearest(table: Ints) -> Ints:
    """The last EDGES_MAX of every slot, sorted by slot and id."""
    table = table[:, np.lexsort((table[1], table[SLOT]))]
    behind = np.append(table[SLOT][EDGES_MAX:] == table[SLOT][:-EDGES_MAX], np.zeros(EDGES_MAX, np.bool_))
    return table[:, ~behind[: table.shape[1]]]

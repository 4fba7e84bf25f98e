"""Edge evidence: aggTrades with more than one fill shortly before a bar's close.

An aggTrade carries the time of its first fill; later fills may come up to 100 ms after it, and the exchange's own
klines count fills. Such a trade next to a close can therefore shift a pair of amounts between two official bars. The
evidence is kept per symbol and boundary, for every bar that closes there.
"""

from __future__ import annotations

import numpy as np

from aggregator.fold import Rows

EDGE_MS = 100
EDGES_MAX = 8
"""Pieces of evidence a boundary: those nearest to it by id."""

Edge = tuple[int, int, int, int, int, int, int]
"""id, first fill id, last fill id, time, price and quantity mantissa, maker."""


class Edges:
    """Evidence by (slot, boundary time in ms)."""

    def __init__(self, finest_ms: int) -> None:
        self._finest_ms = finest_ms
        self.found: dict[tuple[int, int], list[Edge]] = {}

    def note(self, rows: Rows) -> None:
        """Pick the evidence out of admitted trades; any order gives the same."""
        newest, oldest = int(rows.time.max()), int(rows.time.min())
        if (
            newest // self._finest_ms == oldest // self._finest_ms
            and newest % self._finest_ms < self._finest_ms - EDGE_MS
        ):
            return
        near = rows.time % self._finest_ms >= self._finest_ms - EDGE_MS
        for row in np.flatnonzero(near & rows.agg & (rows.last > rows.first)):
            time_ms = int(rows.time[row])
            key = int(rows.slot[row]), time_ms - time_ms % self._finest_ms + self._finest_ms
            found = self.found.setdefault(key, [])
            found.append((
                int(rows.id[row]), int(rows.first[row]), int(rows.last[row]), time_ms, int(rows.price[row]),
                int(rows.qty[row]), int(rows.maker[row]),
            ))  # fmt: skip
            found.sort()
            del found[:-EDGES_MAX]

    def at(self, slot: int, boundary_ms: int) -> list[Edge]:
        """The evidence at the close of a bar, by id."""
        return self.found.get((slot, boundary_ms), [])

    def expire(self, floor_ms: int) -> None:
        """Forget what no bar can ask for any more."""
        for key in [key for key in self.found if key[1] < floor_ms]:
            del self.found[key]

    def clear_slot(self, slot: int) -> None:
        """Forget a symbol."""
        for key in [key for key in self.found if key[0] == slot]:
            del self.found[key]

    def rescale(self, slot: int, price_decimals: int, qty_decimals: int) -> None:
        """Follow a change of a symbol's scales."""
        for key, found in self.found.items():
            if key[0] == slot:
                self.found[key] = [
                    (*edge[:4], edge[4] * 10**price_decimals, edge[5] * 10**qty_decimals, edge[6]) for edge in found
                ]

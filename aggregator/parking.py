"""Trades that wait for their listing: ids that begin anew while the ledger knows of no new generation.

A duplicate carries the time of its original. So a trade at or below the frontier, in no gap, that is later than
everything seen of its symbol is no duplicate: a new generation trades before its listing entry is here. Such trades
wait, a bounded number of them for a bounded time, and are admitted once the listing comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aggregator.columns import DecodedTrades

PARKED_MAX = 100_000
"""Trades of one shard that may wait."""
PARKED_MS = 600_000
"""How long a trade waits, in exchange time."""

Key = tuple[str, int, int]
"""symbol, id, time"""
Values = tuple[int, ...]
"""price as an integer, its decimals, quantity, its decimals, first, last, maker, counts, agg"""


class Parking:
    """Waiting trades by key, in the order in which they came, with the tick that parked them."""

    def __init__(self) -> None:
        self.rows: dict[Key, tuple[int, Values]] = {}
        self._names: dict[str, int] = {}
        self._released: list[tuple[Key, Values]] = []

    def holds(self, name: str) -> bool:
        """Whether trades of that symbol wait."""
        return name in self._names

    def park(self, rows: Mapping[Key, Values], time_ms: int) -> set[Key]:
        """Park these trades at the tick `time_ms` (exchange ms), each once; the keys of those that find no room."""
        new = sorted(rows.keys() - self.rows.keys())
        room = max(0, PARKED_MAX - len(self.rows))
        for key in new[:room]:
            self._put(key, time_ms, rows[key])
        return set(new[room:])

    def _put(self, key: Key, time_ms: int, values: Values) -> None:
        self.rows[key] = time_ms, values
        self._names[key[0]] = self._names.get(key[0], 0) + 1

    def _drop(self, keys: list[Key]) -> None:
        for key in keys:
            del self.rows[key]
            self._names[key[0]] -= 1
            if not self._names[key[0]]:
                del self._names[key[0]]

    def release(self, name: str) -> None:
        """Hand that symbol's trades to the next `drain_released`."""
        if self.holds(name):
            keys = [key for key in self.rows if key[0] == name]
            self._released += [(key, self.rows[key][1]) for key in keys]
            self._drop(keys)

    def drain_released(self) -> list[DecodedTrades]:
        """The trades released since the last call, as if they had just been decoded."""
        released, self._released = self._released, []
        return [decoded_of(released)] if released else []

    def expire(self, time_ms: int) -> list[Key]:
        """Drop the trades that were parked PARKED_MS or longer before `time_ms` (exchange ms); their keys."""
        late = []
        for key, (since_ms, _) in self.rows.items():
            if since_ms > time_ms - PARKED_MS:
                break  # those behind it came later
            late.append(key)
        self._drop(late)
        return late

    def dump(self) -> list[list[Any]]:
        """Everything that waits, as plain values for JSON."""
        return [[*key, since_ms, *values] for key, (since_ms, values) in self.rows.items()]

    def load(self, dumped: Iterable[list[Any]]) -> None:
        """What `dump` gave, behind what is there."""
        for name, number, time_ms, since_ms, *values in dumped:
            if len(values) != len(_VALUES):
                raise ValueError(f"a parked trade of {name} holds {len(values)} values")
            self._put((name, number, time_ms), since_ms, tuple(values))


_VALUES = ("price", "price_decimals", "qty", "qty_decimals", "first", "last", "maker", "counts", "agg")


def decoded_of(rows: list[tuple[Key, Values]]) -> DecodedTrades:
    """Parked trades as decoded ones."""
    values = np.array([values for _, values in rows], np.int64)
    part = {name: values[:, at] for at, name in enumerate(_VALUES)}
    flag = {name: part[name].astype(np.bool_) for name in ("maker", "counts", "agg")}
    return DecodedTrades(
        [key[0].encode() for key, _ in rows],
        np.array([key[1] for key, _ in rows], np.int64),
        part["price"],
        part["price_decimals"],
        part["qty"],
        part["qty_decimals"],
        part["first"],
        part["last"],
        np.array([key[2] for key, _ in rows], np.int64),
        flag["maker"],
        flag["counts"],
        flag["agg"],
    )

"""Symbols and their slots: the stable integer under which a symbol's state stands in every array.

A symbol gets a slot at its first trade or listing, and keeps it until long after it was delisted; then another may get
it. Position is never identity elsewhere.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from aggregator.arrays import Ints

FIRST_CAPACITY = 64
ROOM_SCALES = 6
"""The most decimals, those of price and quantity together, to which values may raise a symbol's scales: 62 bits then
still hold sums of 4.6 · 10^12 in the quote asset. What exchangeInfo lists is taken as it is."""

UNLISTED_SCALES = 9
"""The same for the first values of a name before its listing comes, which may list prices of eight decimals."""

NO_STATUS = ""
"""Status of a provisional slot: trades came before their listing entry."""


class SymbolTable:
    """Names, scales and listing facts by slot.

    Arrays have `capacity` entries of which the first `count` are or were in use; those of `free` have an empty name and
    wait for another symbol. `index` maps the UTF-8 name to the slot and
    makes a provisional slot for a name it has never seen: scales 0, raised as the trades' decimals need it.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.free: list[int] = []
        """Ascending."""
        self.statuses: list[str] = []
        self.capacity = FIRST_CAPACITY
        self.price_scale: Ints = np.zeros(self.capacity, np.int64)
        self.qty_scale: Ints = np.zeros(self.capacity, np.int64)
        self.generation: Ints = np.zeros(self.capacity, np.int64)
        self.index = _Index(self)

    @property
    def count(self) -> int:
        """Slots that are or were in use."""
        return len(self.names)

    def room(self, slot: int) -> int:
        """The most decimals of price and quantity together that values may give this symbol: ROOM_SCALES, or what the
        exchange lists. The first values of a name that no listing told of yet decide for themselves, up to
        UNLISTED_SCALES; its listing takes back what it does not need."""
        if self.statuses[slot] == NO_STATUS and not self.price_scale[slot] and not self.qty_scale[slot]:
            return UNLISTED_SCALES
        return max(ROOM_SCALES, int(self.price_scale[slot] + self.qty_scale[slot]))

    def slots_of(self, names: list[bytes]) -> Ints:
        """The slots (int64 [n]) of a column of UTF-8 names; a new name gets a slot."""
        return np.fromiter(map(self.index.__getitem__, names), np.int64, len(names))

    def new_slots_of(self, names: list[bytes]) -> Ints:
        """`slots_of`, with slots for new names in the order of the names: arrival order cannot matter."""
        try:
            return np.fromiter(map(self.index.get, names), np.int64, len(names))
        except TypeError:  # None stands for a name without a slot
            self.add_all(names)
            return self.slots_of(names)

    def add_all(self, names: list[bytes]) -> None:
        """Slots for the names among these that have none, in the order of the names: arrival order cannot matter."""
        for name in sorted(set(names).difference(self.index)):
            self.index[name]

    def add(self, name: str) -> int:
        """A new provisional slot: the lowest free one."""
        if self.free:
            slot = self.free.pop(0)
            self.names[slot] = name
            return slot
        slot = len(self.names)
        self.names.append(name)
        self.statuses.append(NO_STATUS)
        if slot == self.capacity:
            self.capacity *= 2
            for array in ("price_scale", "qty_scale", "generation"):
                old: Ints = getattr(self, array)
                setattr(self, array, np.concatenate([old, np.zeros(self.capacity - slot, np.int64)]))
        return slot

    def clear_slot(self, slot: int) -> None:
        """Free the slot for another symbol. No other part may refer to it afterwards."""
        del self.index[self.names[slot].encode()]
        self.names[slot], self.statuses[slot] = "", NO_STATUS
        self.price_scale[slot] = self.qty_scale[slot] = self.generation[slot] = 0
        bisect.insort(self.free, slot)

    def load(self, names: Sequence[str], statuses: Sequence[str]) -> None:
        """Into an empty table: the symbols of another one, free slots (empty names) included."""
        for name in names:
            slot = self.add(name)
            if name:
                self.index[name.encode()] = slot
        self.free = [slot for slot, name in enumerate(names) if not name]
        self.statuses[:] = statuses


class _Index(dict[bytes, int]):
    """Name to slot; asking for an unknown name makes its slot."""

    def __init__(self, table: SymbolTable) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, name: bytes) -> int:
        slot = self[name] = self._table.add(name.decode())
        return slot

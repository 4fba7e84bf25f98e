"""Symbols and their slots: the stable integer under which a symbol's state stands in every array.

A symbol gets a slot at its first trade or listing, and keeps it; position is never identity elsewhere.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from klagg.contract import Listing

Ints = npt.NDArray[np.int64]

FIRST_CAPACITY = 64
UNLISTED = ""
"""Status of a provisional slot: trades came before their listing entry."""


class SymbolTable:
    """Names, scales and listing facts by slot.

    Arrays have `capacity` entries of which the first `count` are in use. `index` maps the UTF-8 name to the slot and
    makes a provisional slot for a name it has never seen: scales 0, growing as the trades' decimals ask for it.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.statuses: list[str] = []
        self.capacity = FIRST_CAPACITY
        self.price_scale: Ints = np.zeros(self.capacity, np.int64)
        self.qty_scale: Ints = np.zeros(self.capacity, np.int64)
        self.generation: Ints = np.zeros(self.capacity, np.int64)
        self.index = _Index(self)

    @property
    def count(self) -> int:
        return len(self.names)

    def slots_of(self, names: list[bytes]) -> Ints:
        """The slots of a column of names."""
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
        """A new provisional slot."""
        slot = len(self.names)
        self.names.append(name)
        self.statuses.append(UNLISTED)
        if slot == self.capacity:
            self.capacity *= 2
            for array in ("price_scale", "qty_scale", "generation"):
                old: Ints = getattr(self, array)
                setattr(self, array, np.concatenate([old, np.zeros(self.capacity - slot, np.int64)]))
        return slot

    def describe(self, listing: Listing) -> tuple[int, str]:
        """Take in a listing's status and generation; its slot and the status before. Scales are the caller's to raise.

        A re-listing under a new generation goes on in the same slot; telling the two apart has its place here.
        """
        slot = self.index[listing.symbol.encode()]
        before = self.statuses[slot]
        self.statuses[slot] = listing.status
        self.generation[slot] = listing.generation
        return slot, before


class _Index(dict[bytes, int]):
    """Name to slot; asking for an unknown name makes its slot."""

    def __init__(self, table: SymbolTable) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, name: bytes) -> int:
        slot = self[name] = self._table.add(name.decode())
        return slot

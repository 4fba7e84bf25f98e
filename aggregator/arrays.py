"""The two types of numpy arrays that the aggregator works with, and rows grouped by symbol."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def rows_by_slot(slots: Ints, which: Bools) -> Iterator[tuple[int, Ints]]:
    """The rows of `slots` (int64 [n]) for which `which` (boolean [n]) is true, as one ascending array for each slot."""
    rows = np.flatnonzero(which)
    rows = rows[np.argsort(slots[rows], kind="stable")]
    firsts = np.flatnonzero(np.diff(slots[rows], prepend=-1))
    for group in np.split(rows, firsts[1:]):
        if len(group):
            yield int(slots[group[0]]), group

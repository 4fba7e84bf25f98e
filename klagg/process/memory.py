"""How the C library hands out memory: a process that folds large arrays many times a second keeps what it has freed."""

from __future__ import annotations

import ctypes
from typing import Final

TRIM_THRESHOLD: Final = -1
MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3)."""

KEPT_BYTES_MAX: Final = 128 << 20
"""Freed memory at the end of the heap that stays with the process."""
MAPPED_BYTES_MIN: Final = 32 << 20
"""Blocks from this size on are mapped by themselves; the most that glibc accepts on 64 bits."""


def keep_freed_memory() -> bool:
    """Let the heap serve arrays up to 32 MB, and keep it; whether this C library knows how.

    By default glibc maps large blocks anew and gives them back when they are freed, so that each array of a batch costs
    a page fault for every 4 kB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((MMAP_THRESHOLD, MAPPED_BYTES_MIN), (TRIM_THRESHOLD, KEPT_BYTES_MAX))
    return all(mallopt(name, value) == 1 for name, value in settings)

"""What a core counts, for the statistics of its process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """What the core has seen, for the statistics."""

    trades: int = 0
    duplicates: int = 0
    refused: int = 0
    ticks: int = 0
    finals: int = 0
    gaps_opened: int = 0
    gaps_closed: int = 0
    requests: int = 0
    bad_entries: int = 0
    covered: int = 0
    """Trades of minutes that are official already: the ledger knows them, no bar counts them."""

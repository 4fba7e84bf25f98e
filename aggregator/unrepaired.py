"""What could not be had, said exactly: the ids of a symbol and the minutes in which their trades lie. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from aggregator.ledger import Gap
from klagg.intervals import MINUTE_MS


def evidence_of(gaps: Sequence[Gap]) -> str:
    """One sentence about the lost gaps of a symbol."""
    count = sum(gap.to_id - gap.from_id + 1 for gap in gaps)
    ids = ", ".join(_span(gap.from_id, gap.to_id) for gap in gaps)
    minutes = ", ".join(_span(_minute(first), _minute(last)) for first, last in minutes_of(gaps))
    return f"{count} trades could not be had any more: ids {ids}; they belong to the minutes {minutes} (UTC)"


def minutes_of(gaps: Sequence[Gap]) -> list[tuple[int, int]]:
    """The minutes that gaps touch, as [first, last] runs of open times in ms, ascending."""
    found: list[tuple[int, int]] = []
    for low, high in sorted((each.before_time, each.after_time) for each in gaps):
        first, last = low - low % MINUTE_MS, high - high % MINUTE_MS
        if found and first <= found[-1][1] + MINUTE_MS:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return found


def _minute(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}"


def _span(first: object, last: object) -> str:
    return f"{first}" if first == last else f"{first} to {last}"

"""Which intervals of the exchange's history are held against each other. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from klagg.intervals import DAY_MS, INTERVALS, Interval

SPAN_BARS: Final = 5_000
"""So many bars of the shorter interval are folded at once, about: this bounds the memory."""

Pair = tuple[Interval, Interval]
"""A longer interval and a shorter one into which its bars divide."""


def divides(shorter: Interval, longer: Interval) -> bool:
    """Whether every bar of the longer interval is made of whole bars of the shorter one, and of several."""
    if not shorter.length_ms or shorter.length_ms >= longer.shortest_ms:
        return False
    if not longer.length_ms:
        return DAY_MS % shorter.length_ms == 0
    return longer.length_ms % shorter.length_ms == 0 and (longer.anchor_ms - shorter.anchor_ms) % shorter.length_ms == 0


def relatives(bars: Interval) -> list[str]:
    """The intervals that bars of this one may be held against."""
    return [name for name, each in INTERVALS.items() if divides(bars, each) or divides(each, bars)]


def pairs_of(bars: Interval, there: Collection[str]) -> list[Pair]:
    """What is compared once bars of an interval are loaded, of the intervals that are there.

    Each interval is held against the longest one that divides it: if all of these agree, so do any two of them.
    """
    known = {*there, bars.name}
    found = []
    for longer in (each for name, each in INTERVALS.items() if name in known):
        shorter = [each for name, each in INTERVALS.items() if name in known and divides(each, longer)]
        if shorter and bars in (longer, shorter[-1]):
            found.append((longer, shorter[-1]))
    return found


def spans_of(pair: Pair, from_ms: int, to_ms: int) -> Iterator[tuple[int, int]]:
    """[first, last] ms of pieces of a range: whole bars of the longer interval, at least one."""
    longer, shorter = pair
    step = max(1, SPAN_BARS * shorter.length_ms // longer.shortest_ms)
    bucket, end = longer.bucket_of(from_ms), longer.bucket_of(to_ms - 1)
    while bucket <= end:
        yield longer.open_of(bucket), longer.open_of(min(bucket + step, end + 1)) - 1
        bucket += step

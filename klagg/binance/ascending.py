"""Rows of an answer that should ascend by a key and may hold some that do not. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


def ascending_places(keys: Sequence[int | None]) -> set[int]:
    """The places of the most keys that ascend, each above the one before; None is a row without a key. Of two choices
    of as many, the one whose first and last key are nearer.

    So a row with a wrong key costs itself, and not the rows behind it, however far its key is off.
    """
    forward = _longest(keys)
    turned = _longest([None if key is None else -key for key in reversed(keys)])
    backward = [len(keys) - 1 - place for place in reversed(turned)]

    return set(backward if _span(keys, backward) < _span(keys, forward) else forward)


def _span(keys: Sequence[int | None], places: Sequence[int]) -> int:
    chosen = [key for place in places if (key := keys[place]) is not None]
    return chosen[-1] - chosen[0] if chosen else 0


def _longest(keys: Sequence[int | None]) -> list[int]:
    """The places of a longest ascending choice, in order: of those of each length the one that ends lowest is kept."""
    tails: list[int] = []
    places: list[int] = []
    before = [-1] * len(keys)
    for place, key in enumerate(keys):
        if key is not None:
            length = bisect_left(tails, key)
            before[place] = places[length - 1] if length else -1
            tails[length : length + 1] = [key]
            places[length : length + 1] = [place]
    kept = []
    place = places[-1] if places else -1
    while place >= 0:
        kept.append(place)
        place = before[place]
    return kept[::-1]

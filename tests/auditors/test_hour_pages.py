"""Pages of what is remembered: only what changed is written down, and what is written down is everything."""

from __future__ import annotations

import json
import random

from auditors.bars import Fold
from auditors.hour_pages import PAGE_MS, Shelf
from klagg.intervals import DAY_MS, MINUTE_MS
from tests.aggregator.kit import T0


def saved(pages: dict[int, str], shelf: Shelf) -> dict[int, str]:
    """The pages written down so far and those that changed since."""
    return {number: text for number, text in (pages | shelf.take_dirty()).items() if text}


def restored(pages: dict[int, str]) -> Shelf:
    shelf = Shelf()
    for number, text in pages.items():
        shelf.restore(number, text)
    return shelf


def test_only_changed_pages_are_written_down() -> None:
    shelf = Shelf()
    for number in range(3):
        shelf.put("bar/1m", T0 + number * PAGE_MS, f"value {number}")
    assert len(shelf.take_dirty()) == 3
    assert shelf.take_dirty() == {}
    shelf.put("bar/5m", T0 + PAGE_MS, "more")
    assert list(shelf.take_dirty()) == [T0 // PAGE_MS + 1]
    shelf.touch(T0)
    assert list(shelf.take_dirty()) == [T0 // PAGE_MS]


def test_what_is_written_down_is_everything() -> None:
    """Values come, change and expire at random; a shelf made of the pages holds the same."""
    rng, shelf, pages = random.Random(3), Shelf(), dict[int, str]()
    for step in range(300):
        opening = T0 + rng.randrange(600) * MINUTE_MS
        shelf.put(rng.choice(("bar/1m", "life/5m")), opening, [step, "x"])
        if step % 20 == 0:
            shelf.expire(T0 + step * MINUTE_MS, {})
        if step % 7 == 0:
            pages = saved(pages, shelf)
    pages = saved(pages, shelf)
    again = restored(pages)
    for minute in range(600):
        for table in ("bar/1m", "life/5m"):
            opening = T0 + minute * MINUTE_MS
            assert again.get(table, opening) == shelf.get(table, opening)


def test_old_bars_expire_but_not_those_that_are_still_needed() -> None:
    shelf = Shelf()
    day = T0 // DAY_MS * DAY_MS
    shelf.put("bar/1m", T0, "old")
    shelf.put("bar/1m", T0 + MINUTE_MS, "the newest")
    shelf.put("bar/1d", day, "in progress")
    shelf.expire(T0 + 2 * PAGE_MS - 1, {"bar/1m": T0 + MINUTE_MS})
    assert [shelf.get("bar/1m", T0 + at) for at in (0, MINUTE_MS)] == [None, "the newest"]
    assert shelf.get("bar/1d", day) == "in progress"
    shelf.drop(["bar/1d"])
    assert shelf.get("bar/1d", day) is None


def test_folds_are_written_down_as_what_they_are_made_of() -> None:
    shelf = Shelf()
    shelf.put("fold/5m", T0, Fold(T0))
    again = restored(saved({}, shelf)).get("fold/5m", T0)
    assert Fold.of_json(again) == Fold(T0)
    assert json.dumps(again)

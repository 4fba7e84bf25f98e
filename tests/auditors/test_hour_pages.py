"""Pages of what is remembered: only what changed is written down, and what is written down is everything."""

from __future__ import annotations

import json
import random

from auditors.bars import MinuteFold
from auditors.hour_pages import PAGE_MS, HourPages
from klagg.intervals import DAY_MS, MINUTE_MS
from tests.aggregator.kit import T0


def saved(texts: dict[int, str], pages: HourPages) -> dict[int, str]:
    """The texts written down so far and those that changed since."""
    return {number: text for number, text in (texts | pages.drain_dirty()).items() if text}


def restored(texts: dict[int, str]) -> HourPages:
    pages = HourPages()
    for number, text in texts.items():
        pages.restore(number, text)
    return pages


def test_only_changed_pages_are_written_down() -> None:
    pages = HourPages()
    for number in range(3):
        pages.put("bar/1m", T0 + number * PAGE_MS, f"value {number}")
    assert len(pages.drain_dirty()) == 3
    assert pages.drain_dirty() == {}
    pages.put("bar/5m", T0 + PAGE_MS, "more")
    assert list(pages.drain_dirty()) == [T0 // PAGE_MS + 1]
    pages.touch(T0)
    assert list(pages.drain_dirty()) == [T0 // PAGE_MS]


def test_what_is_written_down_is_everything() -> None:
    """Values come, change and expire at random; a pages made of the texts holds the same."""
    rng, pages, texts = random.Random(3), HourPages(), dict[int, str]()
    for step in range(300):
        opening = T0 + rng.randrange(600) * MINUTE_MS
        pages.put(rng.choice(("bar/1m", "life/5m")), opening, [step, "x"])
        if step % 20 == 0:
            pages.expire(T0 + step * MINUTE_MS, {})
        if step % 7 == 0:
            texts = saved(texts, pages)
    texts = saved(texts, pages)
    again = restored(texts)
    for minute in range(600):
        for table in ("bar/1m", "life/5m"):
            opening = T0 + minute * MINUTE_MS
            assert again.get(table, opening) == pages.get(table, opening)


def test_old_bars_expire_but_not_those_that_are_still_needed() -> None:
    pages = HourPages()
    day = T0 // DAY_MS * DAY_MS
    pages.put("bar/1m", T0, "old")
    pages.put("bar/1m", T0 + MINUTE_MS, "the newest")
    pages.put("bar/1d", day, "in progress")
    pages.expire(T0 + 2 * PAGE_MS - 1, {"bar/1m": T0 + MINUTE_MS})
    assert [pages.get("bar/1m", T0 + at) for at in (0, MINUTE_MS)] == [None, "the newest"]
    assert pages.get("bar/1d", day) == "in progress"
    pages.drop(["bar/1d"])
    assert pages.get("bar/1d", day) is None


def test_folds_are_written_down_as_what_they_are_made_of() -> None:
    pages = HourPages()
    pages.put("fold/5m", T0, MinuteFold(T0))
    again = restored(saved({}, pages)).get("fold/5m", T0)
    assert MinuteFold.of_json(again) == MinuteFold(T0)
    assert json.dumps(again)

"""Bars that were amended after they had been compared wait to be compared again, each version once."""

from __future__ import annotations

from auditors import amended as module
from auditors.amended import Amended, Amendment
from auditors.schedule import Schedule
from klagg.intervals import MINUTE, MINUTE_MS
from tests.aggregator.kit import T0


def an_agenda() -> Schedule:
    schedule = Schedule()
    for name in ("AUSDT", "BUSDT"):
        schedule.add(name, [MINUTE])
        schedule.series[name, "1m"].next_ms = T0 + 1000 * MINUTE_MS
    return schedule


def amendment(minute: int, symbol: str = "AUSDT", revision: int = 2) -> Amendment:
    return Amendment(symbol, "1m", T0 + minute * MINUTE_MS, (1, revision, 1, 0), 1000 + minute)


def test_each_version_is_looked_at_once_and_near_ones_together() -> None:
    amended, schedule = Amended(), an_agenda()
    said = [amendment(5), amendment(7), amendment(500), amendment(9, "BUSDT")]
    amended.note(said, schedule)
    assert (len(amended), amended.since_ms) == (4, 1500)
    spans = []
    while look := amended.again():
        assert look.again
        assert look.weight == 1
        spans.append((look.symbol, (look.from_ms - T0) // MINUTE_MS))
        amended.done(look)
    assert sorted(spans) == [("AUSDT", 5), ("AUSDT", 500), ("BUSDT", 9)]
    amended.note(said, schedule)
    assert len(amended) == 0, "said again"
    amended.note([*said, amendment(7, revision=3)], schedule)
    assert len(amended) == 1


def test_what_is_still_to_be_compared_does_not_wait() -> None:
    amended, schedule = Amended(), an_agenda()
    amended.note([amendment(1000), amendment(3, "NOSUCHUSDT")], schedule)
    assert amended.again() is None


def test_many_in_a_row_are_a_few_looks() -> None:
    amended, schedule = Amended(), an_agenda()
    amended.note([amendment(minute) for minute in range(900)], schedule)
    looks = 0
    while look := amended.again():
        amended.done(look)
        looks += 1
    assert looks == -(-900 // module.SPAN_BARS)

"""What is looked at next: laps within the weight, longer bars now and then, nothing left out."""

from __future__ import annotations

from collections import Counter

import pytest

from auditors.schedule import CHEAP_ROWS, LONG_EVERY, AuditedSeries, Look, Schedule, look_at
from klagg.intervals import HOUR_MS, INTERVALS, MINUTE, MINUTE_MS
from tests.aggregator.kit import T0

WEIGHT = 24
FIVE, WEEK = INTERVALS["5m"], INTERVALS["1w"]


def nothing() -> Look | None:
    return None


def filled(count: int, *names: str) -> Schedule:
    schedule = Schedule()
    intervals = [INTERVALS[each] for each in names]
    for number in range(count):
        schedule.add(f"S{number}USDT", intervals)
    for each in schedule.series.values():
        each.next_ms = each.interval.open_time(T0)
    return schedule


def settle(schedule: Schedule, look: Look, now_ms: int) -> None:
    schedule.done(look, look.until_ms, look.until_ms, now_ms)


def play(schedule: Schedule, minutes: int, first: int = 30) -> tuple[list[Look], Counter[str]]:
    """So many minutes at WEIGHT a minute; the looks, and the weight by interval."""
    looks: list[Look] = []
    used: Counter[str] = Counter()
    spent = 0.0
    for minute in range(minutes):
        now_ms = T0 + (first + minute) * MINUTE_MS
        spent = max(spent, minute * WEIGHT)
        while spent < (minute + 1) * WEIGHT and (look := schedule.next(now_ms, now_ms - MINUTE_MS, nothing)):
            settle(schedule, look, now_ms)
            looks.append(look)
            used[look.interval.name] += look.weight
            spent += look.weight
    return looks, used


def test_a_lap_over_750_symbols_takes_about_half_an_hour() -> None:
    schedule = filled(750, "1m")
    looks, used = play(schedule, 100)
    assert schedule.laps == 3
    assert 30 * MINUTE_MS <= schedule.lap_ms <= 33 * MINUTE_MS
    assert used["1m"] <= 100 * WEIGHT
    assert {each.weight for each in looks} == {1}
    assert schedule.oldest_ms(T0 + 130 * MINUTE_MS) <= 35 * MINUTE_MS


def test_every_bar_is_looked_at_once() -> None:
    schedule = filled(3, "1m", "5m")
    looks, _ = play(schedule, 120)
    for key, series in schedule.series.items():
        mine = [each for each in looks if each.key == key]
        assert [each.from_ms for each in mine[1:]] == [each.until_ms for each in mine[:-1]], "without a gap"
        assert series.next_ms == mine[-1].until_ms >= T0 + 140 * MINUTE_MS


def test_longer_bars_do_not_starve_and_take_a_small_part() -> None:
    """With more minutes than can be looked at, they come when there are a day's, at most every eighth look."""
    schedule = filled(400, "1m", "5m")
    _, early = play(schedule, 60)
    assert early["5m"] == 0
    for each in schedule.series.values():
        if each.interval is FIVE:
            each.next_ms = T0 - 25 * HOUR_MS
    looks, used = play(schedule, 120, first=90)
    assert used["5m"] >= 0.5 * used.total() / LONG_EVERY
    assert sum(each.interval is FIVE for each in looks) <= len(looks) / LONG_EVERY + 1


def test_a_backlog_is_read_in_large_pages() -> None:
    look = look_at("AUSDT", MINUTE, T0, 5_000)
    assert (look.rows, look.weight, look.start_ms) == (499, 2, T0 - MINUTE_MS)
    assert look.until_ms == T0 + 498 * MINUTE_MS
    assert look_at("AUSDT", MINUTE, T0, CHEAP_ROWS - 1).weight == 1
    again = look_at("AUSDT", MINUTE, T0, CHEAP_ROWS - 6, again=True)
    assert (again.rows, again.weight) == (CHEAP_ROWS, 1)
    assert again.ours_from_ms < again.start_ms < again.second_ms < again.from_ms < again.until_ms < again.end_ms
    assert look_at("AUSDT", WEEK, WEEK.open_time(T0), 1).start_ms == WEEK.open_time(T0) - 7 * 24 * HOUR_MS


@pytest.mark.parametrize("name", ["1m", "1h", "1M"])
def test_a_series_that_waits_is_left_alone(name: str) -> None:
    interval = INTERVALS[name]
    series = AuditedSeries("AUSDT", interval, interval.open_time(T0))
    end_ms = interval.close_time(T0) + 1
    assert (series.due(end_ms - 1), series.due(end_ms)) == (0, 1)
    series.more_ms = interval.close_time(end_ms) + 1
    assert (series.due(end_ms), series.due(series.more_ms)) == (0, 2)
    series.until_ms = end_ms
    assert series.due(series.more_ms) == 0


def test_a_look_that_could_not_be_taken_does_not_hold_up_the_others() -> None:
    schedule = filled(2, "1m")
    now_ms = T0 + HOUR_MS
    look = schedule.next(now_ms, now_ms, nothing)
    assert look is not None
    schedule.postpone(look, now_ms + HOUR_MS, now_ms)
    other = schedule.next(now_ms, now_ms, nothing)
    assert other is not None
    assert other.symbol != look.symbol
    settle(schedule, other, now_ms)
    assert schedule.laps == 1, "the lap is over without it"
    assert schedule.next(now_ms, now_ms, nothing) is None
    late = schedule.next(now_ms + HOUR_MS, now_ms, nothing)
    assert late is not None
    assert late.symbol == look.symbol


def test_what_is_looked_at_again_gets_its_turn() -> None:
    schedule = filled(50, "1m")
    again = look_at("XUSDT", MINUTE, T0, 1, again=True)
    now_ms = T0 + HOUR_MS
    taken: Counter[bool] = Counter()
    for _ in range(40):
        look = schedule.next(now_ms, now_ms, lambda: again)
        assert look is not None
        settle(schedule, look, now_ms)
        taken[look.again] += 1
    assert taken == {True: 10, False: 30}


def test_ended_series_are_dropped_when_they_were_looked_at() -> None:
    schedule = filled(2, "1m", "5m")
    schedule.end("S0USDT", T0 + 90_000)
    assert schedule.series["S0USDT", "1m"].until_ms == T0 + 2 * MINUTE_MS
    now_ms = T0 + HOUR_MS
    looks = []
    while look := schedule.next(now_ms, now_ms, nothing):
        settle(schedule, look, now_ms)
        looks.append(look)
    assert [each.until_ms for each in looks if each.key == ("S0USDT", "1m")] == [T0 + 2 * MINUTE_MS]
    assert {each.symbol for each in schedule.series.values()} == {"S1USDT"}
    assert schedule.lap_percent == 0

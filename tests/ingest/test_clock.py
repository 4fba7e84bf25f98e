"""Ticks: never back, never before the time is known; a wall clock that was set is noticed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.clock import STEP_MS, TICK_LEAST_S, TickTime, WallClockMonitor, tick_s
from ingest.timings import DEFAULT_TIMINGS


def test_ticks_follow_the_speed_of_the_exchange() -> None:
    assert tick_s(250, 1.0) == 0.25
    assert tick_s(250, 20.0) == 0.0125
    assert tick_s(250, 1000.0) == TICK_LEAST_S
    assert tick_s(250, 0.0) == 0.25


def test_a_tick_holds_where_the_estimate_goes_back() -> None:
    tick_time = TickTime(0.0)
    assert [tick_time.next_ms(each) for each in (100, 350, 340, 300, 351)] == [100, 350, 350, 350, 351]


def test_time_that_goes_back_is_told_once_and_so_is_its_end() -> None:
    tick_time, told = TickTime(0.0), []
    for estimate in (100_000, 99_500, 40_000, 40_250, 99_999, 100_000, 100_250, 90_000):
        told.append(tick_time.went_back_ms(estimate, 1.0))
        tick_time.next_ms(estimate)
    assert told == [0, 0, 60_000, 0, 0, -1, 0, 10_250]
    assert tick_time.last_ms == 100_250
    fast = TickTime(0.0)
    fast.next_ms(100_000)
    assert [fast.went_back_ms(each, 20.0) for each in (81_000, 79_000)] == [0, 21_000]


@given(st.lists(st.integers(0, 2**50)))
def test_ticks_never_go_back_and_never_ahead(estimates: list[int]) -> None:
    tick_time = TickTime(0.0)
    told = [tick_time.next_ms(each) for each in estimates]
    assert told == sorted(told)
    assert all(time_ms in estimates[: place + 1] for place, time_ms in enumerate(told))


def test_no_tick_before_the_time_is_known_or_the_exchange_silent_for_long() -> None:
    tick_time = TickTime(5_000.0)
    assert not tick_time.may_tick(5_000.0, synced=False)
    assert tick_time.may_tick(5_000.0, synced=True)
    assert not tick_time.may_tick(5_000.0 + DEFAULT_TIMINGS.unreachable_ms - 1, synced=False)
    assert tick_time.may_tick(5_000.0 + DEFAULT_TIMINGS.unreachable_ms, synced=False)


def test_a_step_of_the_wall_clock_is_told_once() -> None:
    watch = WallClockMonitor(1_000_000.0, 50.0)
    assert watch.step_ms(1_000_500.0, 550.0) == 0.0
    assert watch.step_ms(1_000_600.0 + STEP_MS - 1, 650.0) == 0.0
    assert watch.step_ms(940_700.0, 750.0) == -60_000.0
    assert watch.step_ms(940_800.0, 850.0) == 0.0
    assert watch.step_ms(1_000_900.0, 950.0) == 60_000.0

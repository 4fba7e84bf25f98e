"""Exchange time from local time: the first look is taken whole, later ones are smoothed, jumps are not."""

import pytest

from klagg.clock import JUMP_MS, SMOOTHING, ExchangeClock, local_ms, steady_ms


def test_before_the_first_observation_the_local_clock_stands_in() -> None:
    clock = ExchangeClock()
    assert not clock.synced
    assert clock.now_ms(1_700_000_000_123.9) == 1_700_000_000_123
    assert clock.offset_ms(1_700_000_000_000.0) == 0


def test_the_exchange_is_taken_to_speak_midway() -> None:
    clock = ExchangeClock()
    assert clock.observe(1000.0, 1100.0, 5050) == 0.0
    assert clock.synced
    assert clock.now_ms(1050.0) == 5050
    assert clock.now_ms(1150.0) == 5150
    assert clock.delay_ms == 50.0
    assert clock.age_ms(1150.0) == 50.0


def test_small_corrections_are_smoothed_and_converge() -> None:
    clock = ExchangeClock()
    clock.observe(1.0, 1.0, 10_001)
    assert clock.observe(1000.0, 1000.0, 11_100) == pytest.approx(100.0)
    assert clock.now_ms(1000.0) == 11_000 + int(100 * SMOOTHING)
    for second in range(2, 60):
        clock.observe(second * 1000.0, second * 1000.0, 10_100 + second * 1000)
    assert abs(clock.now_ms(60_000.0) - 70_100) <= 1


def test_a_jump_is_taken_over_whole_and_reported() -> None:
    clock = ExchangeClock()
    clock.observe(1.0, 1.0, 10_001)
    assert clock.observe(1000.0, 1000.0, 11_000 + JUMP_MS + 1) == pytest.approx(JUMP_MS + 1)
    assert clock.now_ms(1000.0) == 11_000 + JUMP_MS + 1


def test_a_fast_exchange_runs_at_its_speed() -> None:
    clock = ExchangeClock()
    clock.observe(0.0, 10.0, 1_000_000, speed=20.0)
    assert clock.now_ms(5.0) == 1_000_000
    assert clock.now_ms(105.0) == 1_002_000
    # A jump is one of exchange time: 20 times the local one.
    assert clock.observe(1000.0, 1000.0, 1_000_000 + 995 * 20 + 50_000, speed=20.0) == pytest.approx(50_000.0)
    assert clock.now_ms(1000.0) == 1_000_000 + 995 * 20 + 10_000


def test_a_held_clock_stands_until_its_speed_changes() -> None:
    clock = ExchangeClock()
    clock.observe(1.0, 1.0, 5000, speed=0.0)
    assert clock.now_ms(60_000.0) == 5000
    assert clock.observe(60_000.0, 60_000.0, 5400, speed=4.0) == 0.0
    assert clock.now_ms(60_100.0) == 5800


def test_steady_time_agrees_with_the_wall_clock_and_never_goes_back() -> None:
    assert abs(steady_ms() - local_ms()) < 60_000
    times = [steady_ms() for _ in range(1000)]
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_the_latest_that_it_may_be_ignores_jumps_back() -> None:
    clock = ExchangeClock()
    clock.observe(1000.0, 1000.0, 500_000)
    assert clock.latest_ms(1000.0) == clock.now_ms(1000.0) == 500_000
    clock.observe(2000.0, 2000.0, 441_000)
    assert (clock.now_ms(2000.0), clock.latest_ms(2000.0)) == (441_000, 501_000)
    clock.observe(3000.0, 3000.0, 442_100)
    assert clock.latest_ms(3000.0) - clock.now_ms(3000.0) == 60_000, "no jump changes nothing"
    clock.observe(4000.0, 4000.0, 503_000)
    assert abs(clock.latest_ms(4000.0) - clock.now_ms(4000.0)) <= 100
    clock.observe(5000.0, 5000.0, 900_000)
    assert clock.latest_ms(5000.0) == clock.now_ms(5000.0) == 900_000

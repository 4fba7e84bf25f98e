from __future__ import annotations

import pytest

from klagg.simulator.clock import MarketClock, anchored_start_ms

DAY_MS = 86_400_000


def test_it_runs_at_its_speed_from_its_start() -> None:
    clock = MarketClock(1_000, 20, 50.0, held=False, simulated=True)
    assert clock.ms(50.0) == 1_000
    assert clock.ms(51.5) == 31_000


def test_a_held_clock_stands_until_released() -> None:
    clock = MarketClock(1_000, 2, 50.0, held=True, simulated=True)
    assert clock.ms(90.0) == 1_000
    clock.release(100.0)
    clock.release(150.0)
    assert (clock.held, clock.ms(101.0)) == (False, 3_000)


def test_the_speed_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be above 0, not 0"):
        MarketClock(0, 0, 0, held=False, simulated=True)


def test_a_restart_on_the_same_day_is_further_on() -> None:
    noon = 20_000 * DAY_MS + DAY_MS // 2
    assert anchored_start_ms(noon, 1) == noon
    assert anchored_start_ms(noon, 20) == 20_000 * DAY_MS + 10 * DAY_MS
    assert anchored_start_ms(noon + 1_000, 20) - anchored_start_ms(noon, 20) == 20_000

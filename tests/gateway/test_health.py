"""Timeouts in a row, the alarm after five, and when state is stale."""

from __future__ import annotations

from gateway.health import ALARM_AFTER, Health


def test_five_timeouts_in_a_row_are_one_alarm_until_it_moves_on() -> None:
    health = Health(timeout_ms=1000, stale_ms=3000, moved_ms=0.0)
    assert [health.check(now) for now in (999, 1000, 4999)] == [False, False, False]
    assert (health.timeouts, ALARM_AFTER) == (4, 5)
    assert [health.check(now) for now in (5000, 5001, 9000)] == [True, False, False]
    assert health.moved(9500) is True
    assert (health.timeouts, health.timeouts_total) == (0, 9)
    assert health.moved(9600) is False
    assert health.check(14_600) is True


def test_a_pause_is_not_stale_before_its_time() -> None:
    health = Health(timeout_ms=1000, stale_ms=3000, moved_ms=100.0)
    assert [health.stale_for_ms(now) for now in (100, 3099, 3100, 5100)] == [0, 0, 3000, 5000]
    health.moved(5100)
    assert health.stale_for_ms(5200) == 0

"""How long something has not changed, by looks at it."""

from __future__ import annotations

from klagg.process.silence import LOOK_MS_MAX, SilenceWatch


def test_silence_is_what_was_looked_at_without_a_change() -> None:
    watch = SilenceWatch(10_000)
    assert [watch.check(7, now) for now in (0, 4_000, 8_000, 10_000)] == [0, 0, 0, 0]
    assert [watch.check(7, now) for now in (10_500, 12_000)] == [10_500, 12_000]
    assert watch.check(8, 13_000) == 0
    assert watch.check(8, 14_000) == 0


def test_an_observer_that_stood_still_has_seen_nothing() -> None:
    watch = SilenceWatch(10_000)
    watch.check(7, 0)
    assert watch.check(7, 3_600_000) == 0
    assert watch.check(7, 3_604_000) == 0
    assert watch.check(7, 3_606_000) == LOOK_MS_MAX + 6_000


def test_time_does_not_count_while_nothing_runs_that_could_change_it() -> None:
    watch = SilenceWatch(1_000)
    watch.check(7, 0)
    assert watch.check(7, 4_000, runs=False) == 0
    assert watch.check(7, 4_900) == 0
    assert watch.check(7, 5_100) == 1_100


def test_a_clock_that_is_set_back_takes_nothing_away() -> None:
    watch = SilenceWatch(1_000)
    watch.check(7, 5_000)
    watch.check(7, 5_900)
    assert watch.check(7, 2_000) == 0
    assert watch.check(7, 2_200) == 1_100

"""Waiting times between tries."""

from klagg.backoff import Backoff


def test_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(0.5, 3.0, lambda: 1.0)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.tries == 5


def test_jitter_halves_at_most() -> None:
    assert Backoff(2.0, 9.0, lambda: 0.0).next_s() == 1.0
    assert Backoff(2.0, 9.0, lambda: 0.5).next_s() == 1.5


def test_a_success_begins_anew() -> None:
    backoff = Backoff(0.5, 3.0, lambda: 1.0)
    backoff.next_s()
    backoff.next_s()
    backoff.reset()
    assert (backoff.tries, backoff.next_s()) == (0, 0.5)


def test_a_year_of_failures_is_still_the_cap() -> None:
    backoff = Backoff(0.5, 30.0, lambda: 1.0)
    for _ in range(5000):
        backoff.next_s()
    assert backoff.next_s() == 30.0

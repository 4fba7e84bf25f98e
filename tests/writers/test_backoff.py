from __future__ import annotations

from writers.backoff import Backoff


def test_waits_double_up_to_a_cap() -> None:
    backoff = Backoff(first_s=0.2, most_s=5.0)
    assert [backoff.seconds(failures, 1.0) for failures in (1, 2, 3, 5, 6, 1000)] == [0.2, 0.4, 0.8, 3.2, 5.0, 5.0]


def test_chance_shortens_a_wait_by_half_at_most() -> None:
    backoff = Backoff(first_s=1.0, most_s=8.0)
    assert backoff.seconds(3, 0.0) == 2.0
    assert backoff.seconds(3, 0.5) == 3.0

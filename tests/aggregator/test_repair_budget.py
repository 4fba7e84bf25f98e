"""The budget for missing trades: what flows in, what a page costs, and what a minute sees at most."""

from __future__ import annotations

import random

import pytest

from aggregator.repair_budget import BURST_DIVISOR, PAGE_WEIGHT, TokenBucket, cost_of
from klagg.intervals import MINUTE_MS


@pytest.mark.parametrize(("last", "cost"), [(1, 20), (1000, 20), (1001, 40), (20_000, 400)])
def test_a_page_costs_the_same_however_little_it_brings(last: int, cost: int) -> None:
    assert cost_of(1, last) == cost


def test_weight_flows_in_with_time_up_to_a_burst() -> None:
    bucket = TokenBucket(1080)
    bucket.refill(10**12)
    assert [bucket.spend(20) for _ in range(14)] == [True] * 13 + [False]
    assert bucket.within_a_minute() == 10 + 1080
    bucket.refill(10**12 + 556)
    assert bucket.spend(20)
    assert not bucket.spend(20)
    bucket.refill(10**12 + 10 * MINUTE_MS)
    assert bucket.within_a_minute() == 1080 + 1080 // BURST_DIVISOR


def test_what_costs_more_than_a_burst_is_paid_from_a_full_purse_and_owed() -> None:
    bucket = TokenBucket(1080)
    bucket.refill(MINUTE_MS)
    assert bucket.spend(400)
    assert not bucket.spend(PAGE_WEIGHT)
    assert bucket.within_a_minute() == 1080 - 130
    bucket.refill(MINUTE_MS + 130 * MINUTE_MS // 1080)
    assert not bucket.spend(PAGE_WEIGHT)


@pytest.mark.parametrize("seed", range(5))
def test_no_minute_sees_more_than_five_quarters(seed: int) -> None:
    chance, bucket, spent, time_ms = random.Random(seed), TokenBucket(1080), list[tuple[int, int]](), 10**12
    for _ in range(5000):
        time_ms += chance.randint(0, 3000)
        bucket.refill(time_ms)
        cost = PAGE_WEIGHT * chance.randint(1, 3)
        if bucket.spend(cost):
            spent.append((time_ms, cost))
    assert len(spent) > 500
    for start, _ in spent:
        assert sum(cost for at, cost in spent if start <= at < start + MINUTE_MS) <= 1080 * 5 // 4

from __future__ import annotations

from klagg.binance.serving.limits import Limits, MessageLimiter, WeightLimiter


def test_weight_is_counted_per_address_and_minute() -> None:
    limiter = WeightLimiter(Limits())
    minute_ms = 1_767_268_800_000
    assert [limiter.charge("a", 1000, minute_ms + at).used_weight for at in (0, 1, 2)] == [1000, 2000, 3000]
    assert limiter.charge("b", 5, minute_ms).used_weight == 5
    refused = limiter.charge("a", 1, minute_ms + 15_500)
    assert (refused.status, refused.retry_after_s) == (429, 45)
    served = limiter.charge("a", 1, minute_ms + 60_000)
    assert (served.status, served.used_weight) == (200, 1)


def test_exactly_the_limit_is_served() -> None:
    limiter = WeightLimiter(Limits())
    assert [limiter.charge("a", 20, 0).status for _ in range(121)] == [200] * 120 + [429]


def test_who_goes_on_is_banned_and_longer_each_time() -> None:
    limits = Limits(weight_per_minute=1, refusals_until_ban=2, ban_s=120)
    limiter = WeightLimiter(limits)
    assert [limiter.charge("a", 1, 0).status for _ in range(4)] == [200, 429, 429, 418]
    banned = limiter.charge("a", 1, 60_000)
    assert (banned.status, banned.retry_after_s, banned.banned_until_ms) == (418, 60, 120_000)
    assert [limiter.charge("a", 1, 120_000).status for _ in range(4)] == [200, 429, 429, 418]
    assert limiter.charge("a", 1, 120_001).banned_until_ms == 120_000 + 240_000


def test_idle_addresses_are_forgotten() -> None:
    limiter = WeightLimiter(Limits())
    for number in range(100):
        limiter.charge(f"address {number}", 1, 0)
    limiter.charge("late", 1, 2 * 3_600_000)
    assert len(limiter._addresses) == 1


def test_messages_are_counted_over_a_sliding_second() -> None:
    limiter = MessageLimiter(3)
    assert [limiter.allow(at) for at in (0.0, 0.5, 0.9, 1.0, 1.4, 1.45)] == [True, True, True, True, False, False]
    assert limiter.allow(9.0)

"""The limit on client messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.session import RateLimiter


@given(st.lists(st.floats(0, 0.5), max_size=60), st.integers(1, 10))
def test_no_second_holds_more_than_the_limit(pauses_s: list[float], per_s: int) -> None:
    limiter, now_s, sent_s = RateLimiter(per_s), 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s
        wait_s = limiter.wait_s(now_s)
        assert 0 <= wait_s <= 1
        now_s += wait_s
        sent_s.append(now_s)
        limiter.record(now_s)
    assert all(late - early >= 1 - 1e-9 for early, late in zip(sent_s, sent_s[per_s:], strict=False))


def test_who_has_sent_little_need_not_wait() -> None:
    limiter = RateLimiter(2)
    limiter.record(10.0)
    assert limiter.wait_s(10.0) == 0
    limiter.record(10.25)
    assert limiter.wait_s(10.5) == 0.5
    assert limiter.wait_s(11.0) == 0

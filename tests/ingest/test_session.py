"""The limit on client messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.session import Pace


@given(st.lists(st.floats(0, 0.5), max_size=60), st.integers(1, 10))
def test_no_second_holds_more_than_the_limit(pauses_s: list[float], per_s: int) -> None:
    pace, now_s, said_s = Pace(per_s), 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s
        wait_s = pace.wait_s(now_s)
        assert 0 <= wait_s <= 1
        now_s += wait_s
        said_s.append(now_s)
        pace.said(now_s)
    assert all(late - early >= 1 - 1e-9 for early, late in zip(said_s, said_s[per_s:], strict=False))


def test_who_has_said_little_need_not_wait() -> None:
    pace = Pace(2)
    pace.said(10.0)
    assert pace.wait_s(10.0) == 0
    pace.said(10.25)
    assert pace.wait_s(10.5) == 0.5
    assert pace.wait_s(11.0) == 0

"""The tests' own helps."""

from __future__ import annotations

import pytest

from tests.kit import eventually


def test_eventually_returns_the_first_true_value() -> None:
    values = iter([0, "", 7])
    assert eventually(lambda: next(values)) == 7


def test_eventually_waits_for_assertions_too() -> None:
    values = iter([False, True])

    def condition() -> bool:
        assert next(values)
        return True

    assert eventually(condition)


def test_eventually_fails_with_the_last_value() -> None:
    with pytest.raises(AssertionError, match=r"still not so after 0\.02 s; the last value was \[\]"):
        eventually(list, deadline_s=0.02)

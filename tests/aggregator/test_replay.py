"""Recorded trades through the core: every bar as an oracle folds it, and nothing is refused in silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.replay import replay
from klagg.errors import ContractError
from klagg.intervals import interval
from tests.aggregator.kit import T0, newest, trade, values
from tests.aggregator.oracle import fold
from tests.aggregator.test_core import market


@given(st.integers(0, 2**32), st.sampled_from(["15s", "1m", "5m"]))
def test_a_replay_gives_the_bars_of_an_oracle(seed: int, name: str) -> None:
    rows = market(seed, 1, 60, 400_000)
    found = newest(replay(rows, "agg", interval(name)))
    assert {key: values(kline) for key, kline in found.items()} == fold(rows, [name])
    assert {kline.interval for kline in found.values()} == {name}
    opens = sorted(kline.open_time for kline in found.values())
    assert opens == list(range(opens[0], opens[-1] + 1, interval(name).length_ms)), "quiet bars between them, too"


def test_no_trades_give_no_bars() -> None:
    assert list(replay([], "agg", interval("1m"))) == []


def test_a_recording_that_the_core_refuses_is_an_error() -> None:
    rows = [trade(1, T0 + 3_600_000), trade(2, T0 + 3_600_001), trade(3, T0 - 86_400_000)]
    with pytest.raises(ContractError, match="BTCUSDT: TOO_OLD"):
        list(replay(rows, "agg", interval("1m")))
    with pytest.raises(ContractError):
        list(replay([trade(1, T0, "x")], "agg", interval("1m")))

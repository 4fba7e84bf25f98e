"""Recorded trades through the core: every bar as an oracle folds it, and nothing is refused in silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.replay import BATCH_ROWS, replay
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


def test_a_trade_that_is_too_fine_costs_only_itself() -> None:
    rows = [trade(1, T0, "60000.1"), trade(2, T0 + 1, "60000.1234567891"), trade(3, T0 + 2, "60000.2")]
    refused: list[str] = []
    (kline,) = newest(replay(rows, "agg", interval("1m"), refused.append)).values()
    assert (kline.trades, kline.close, kline.whole) == (2, "60000.2", False)
    assert len(refused) == 1
    assert "BTCUSDT: OVERFLOW: 1 trades, ids 2 to 2" in refused[0]
    with pytest.raises(ContractError, match="ids 2 to 2"):
        list(replay(rows, "agg", interval("1m")))


def test_trades_that_come_behind_the_first_batch_with_lower_ids_are_told() -> None:
    rows = [trade(each, T0 + each * 10) for each in range(10_000, 0, -1)]
    refused: list[str] = []
    bars = newest(replay(rows, "agg", interval("1m"), refused.append)).values()
    counted = sum(kline.trades for kline in bars)
    assert counted == BATCH_ROWS
    assert [sentence.split(":")[1] for sentence in refused] == [
        " 4096 trades, ids 1809 to 5904",
        " 1808 trades, ids 1 to 1808",
    ]

"""Property: whatever the order in which finals and bars in progress reach the table, in whatever batches and epochs,
the highest final is what stands there; without a final, the newest bar in progress."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klagg.drivers.postgres import Database
from klagg.kline import Kline
from tests.writers.support import MINUTE_MS, OPEN_TIME, accepted, kline, stored
from writers.batch import resolve
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

_numbers = itertools.count(1)

finals = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1))
"""(epoch, revision, complete)"""
in_progress = st.tuples(st.integers(1, 3), st.just(0), st.integers(1, 9))
"""(epoch, 0, trades): a bar in progress only grows."""


def version_of(symbol: str, open_time: int, epoch: int, revision: int, third: int) -> Kline:
    if revision:
        return kline(
            symbol=symbol,
            open_time=open_time,
            epoch=epoch,
            revision=revision,
            complete=third,
            trades=100 * epoch + 10 * revision + third,
        )
    return kline(
        symbol=symbol, open_time=open_time, epoch=epoch, revision=0, complete=0, trades=third, last_trade_id=100 + third
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.tuples(st.integers(0, 2), finals | in_progress), min_size=1, max_size=6), max_size=8))
def test_the_highest_final_stands(database: Database, batches: list[list[tuple[int, tuple[int, int, int]]]]) -> None:
    symbol = f"S{next(_numbers)}USDT"
    told: dict[int, list[Kline]] = {}
    for batch in batches:
        klines = [version_of(symbol, OPEN_TIME + bar * MINUTE_MS, *version) for bar, version in batch]
        for each in klines:
            told.setdefault(each.open_time, []).append(each)
        upsert(database, [entry.kline for entry in resolve(accepted(klines))])
    found = {each.open_time: each for each in stored(database) if each.symbol == symbol}
    assert found.keys() == told.keys()
    for open_time, versions in told.items():
        done = [each for each in versions if each.revision]
        if done:
            assert found[open_time] == max(done, key=lambda each: each.version)
        else:
            assert found[open_time] == max(versions, key=lambda each: (each.epoch, each.trades))

"""Binance's limits and weights: one table, which settings and servers agree with."""

from __future__ import annotations

import pytest

from klagg.binance import limits
from klagg.binance.endpoints import MESSAGES_PER_S
from klagg.binance.serving.limits import Limits
from klagg.settings import Gateway, Rest


@pytest.mark.parametrize(
    ("rows", "weight"), [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (1500, 10)]
)
def test_the_weight_of_klines(rows: int, weight: int) -> None:
    """As the page "Kline/Candlestick Data" has it: [1, 100), [100, 500), [500, 1000], more."""
    assert limits.klines_weight(rows) == weight


def test_defaults_of_settings_are_the_exchange_s() -> None:
    assert Rest().weight_per_minute == Gateway().weight_per_minute == limits.WEIGHT_PER_MINUTE
    assert Gateway().streams_per_connection == limits.STREAMS_PER_CONNECTION


def test_what_klagg_serves_has_the_exchange_s_limits() -> None:
    served = Limits()
    assert (served.klines_rows, served.agg_trades_rows) == (limits.KLINES_ROWS_MAX, limits.AGG_TRADES_ROWS_MAX)
    assert (served.messages_per_second, served.connection_s) == (limits.MESSAGES_PER_S, limits.CONNECTION_S)


def test_klagg_leaves_room_for_pings() -> None:
    assert 0 < MESSAGES_PER_S < limits.MESSAGES_PER_S

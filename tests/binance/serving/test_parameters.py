from __future__ import annotations

import pytest

from klagg.binance.serving.errors import ApiError
from klagg.binance.serving.parameters import agg_trades_request, klines_request, requested_limit
from klagg.simulator.market import KLINE_INTERVALS

SYMBOLS = {"AUSDT": None}
GOOD = {"symbol": "AUSDT", "interval": "1m"}


def test_defaults() -> None:
    klines = klines_request(GOOD, SYMBOLS, KLINE_INTERVALS, 1500)
    assert (klines.start_ms, klines.end_ms, klines.limit) == (None, None, 500)
    trades = agg_trades_request({"symbol": "AUSDT", "fromId": "7", "limit": "1000"}, SYMBOLS, 1000)
    assert (trades.from_id, trades.limit) == (7, 1000)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"symbol": ""}, -1102),
        ({"symbol": "BUSDT"}, -1121),
        ({"interval": ""}, -1102),
        ({"interval": "7m"}, -1120),
        ({"interval": "1s"}, -1120),
        ({"limit": "x"}, -1100),
        ({"startTime": "-5"}, -1100),
        ({"limit": "0"}, -1130),
        ({"limit": "1501"}, -1130),
        ({"startTime": "6", "endTime": "5"}, -1023),
    ],
)
def test_bad_klines_requests(change: dict[str, str], code: int) -> None:
    with pytest.raises(ApiError) as caught:
        klines_request(GOOD | change, SYMBOLS, KLINE_INTERVALS, 1500)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert caught.value.body()["code"] == code


def test_agg_trades_span_an_hour_at_most() -> None:
    query = {"symbol": "AUSDT", "startTime": "0"}
    assert agg_trades_request(query | {"endTime": "3600000"}, SYMBOLS, 1000).end_ms == 3_600_000
    with pytest.raises(ApiError) as caught:
        agg_trades_request(query | {"endTime": "3600001"}, SYMBOLS, 1000)
    assert caught.value.code == -1127


def test_the_limit_for_the_weight() -> None:
    assert [requested_limit({"limit": text}) for text in ("1500", "x", "")] == [1500, 500, 500]

"""What repair could not get is named by symbol, ids and minutes."""

from __future__ import annotations

from ingest.unrepaired import given_up, gone
from klagg.wire.entries import REQUEST_KLINES, REQUEST_TRADES, Request

T0 = 1_699_999_200_000


def test_trades_are_named_by_ids_and_klines_by_minutes() -> None:
    trades = Request(REQUEST_TRADES, "t", "币安人生USDT", "", 5, 9, T0)
    klines = Request(REQUEST_KLINES, "k", "BTCUSDT", "1m", T0, T0 + 120_000, T0)
    first = given_up(trades, "it is so", T0 + 1)
    assert first == {
        "kind": "UNREPAIRED",
        "severity": "error",
        "symbol": "币安人生USDT",
        "time": str(T0 + 1),
        "evidence": "the request t for the trades with the ids 5 to 9 is given up: it is so",
    }
    assert given_up(klines, "it is so", T0)["evidence"] == (
        "the request k for the 1m klines that open from 2023-11-14 22:00 until before 2023-11-14 22:02 (UTC) is given "
        "up: it is so"
    )
    lacking = gone(trades, [(5, 5), (7, 9)], T0)
    assert (lacking["severity"], lacking["evidence"]) == (
        "warning",
        "the exchange no longer has 4 trades: ids 5, 7 to 9",
    )

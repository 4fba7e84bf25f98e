from __future__ import annotations

import json
from pathlib import Path

from klagg.binance.serving.payloads import text_frame, unit
from klagg.simulator import payloads
from klagg.simulator.bars import fold
from klagg.simulator.market import MarketTrade
from tests.simulator.kit import trade


def test_aggregate_trades_are_written_as_the_exchange_writes_them(realdata: Path) -> None:
    for line in (realdata / "um_ws_aggtrade_btcusdt_2026-10-06_sample3.jsonl").read_text().splitlines():
        e = json.loads(line)
        written = MarketTrade(e["s"], e["a"], e["p"], e["q"], e["nq"], e["f"], e["l"], e["T"], e["E"], e["m"], "")
        assert payloads.agg_trade_event(written) == line


def test_fills() -> None:
    event = json.loads(
        payloads.trade_event(trade(7, "1.50", "2", 1_000, maker=True, execution="RPI", symbol="币安人生USDT"))
    )
    assert list(event) == ["e", "E", "T", "s", "t", "p", "q", "X", "m", "st"]
    assert event == {
        "e": "trade",
        "E": 1_005,
        "T": 1_000,
        "s": "币安人生USDT",
        "t": 7,
        "p": "1.50",
        "q": "2",
        "X": "RPI",
        "m": True,
        "st": 1,
    }


def test_klines() -> None:
    bar = fold(60_000, 119_999, [trade(5, "2.0", "3", maker=True), trade(6, "4.0", "1")])
    assert bar is not None
    event = json.loads(payloads.kline_event("AUSDT", "1m", bar, 99, closed=True))
    assert event["k"] == {
        "t": 60_000,
        "T": 119_999,
        "s": "AUSDT",
        "i": "1m",
        "f": 5,
        "L": 6,
        "o": "2.0",
        "c": "4.0",
        "h": "4.0",
        "l": "2.0",
        "v": "4",
        "n": 2,
        "x": True,
        "q": "10.0",
        "V": "1",
        "Q": "4.0",
        "B": "0",
    }
    assert (event["e"], event["E"], event["s"]) == ("kline", 99, "AUSDT")
    assert payloads.rest_kline(bar) == [60_000, "2.0", "4.0", "2.0", "4.0", "4", 119_999, "10.0", 2, "1", "4.0", "0"]


def test_sums_have_no_exponent() -> None:
    bar = fold(0, 1, [trade(1, "0.0000001", "0.001")])
    assert bar is not None
    assert payloads.rest_kline(bar)[7] == "0.0000000001"
    assert [unit(precision) for precision in (0, 1, 7)] == ["1", "0.1", "0.0000001"]


def test_mini_tickers_mix_in_coin_m() -> None:
    bar = fold(0, 1, [trade(1)])
    assert bar is not None
    rows = json.loads(payloads.mini_tickers_event({"AUSDT": bar}, 9, coin_m=True))
    assert [(row["e"], row["s"], row["st"]) for row in rows] == [
        ("24hrMiniTicker", "AUSDT", 1),
        ("24hrMiniTicker", "BTCUSD_PERP", 2),
    ]


def test_frames_of_every_length() -> None:
    assert text_frame("a") == b"\x81\x01a"
    assert text_frame("x" * 125)[:2] == b"\x81\x7d"
    assert text_frame("x" * 126)[:4] == b"\x81\x7e\x00\x7e"
    assert text_frame("x" * 65_536)[:10] == b"\x81\x7f" + (65_536).to_bytes(8)

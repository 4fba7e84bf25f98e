from __future__ import annotations

import json
from typing import Any

from klagg.simulator.bars import fold
from klagg.simulator.live_klines import SETTLE_MS, LiveKlines
from klagg.simulator.streams import ExchangeStream, StreamKind
from tests.simulator.kit import trade

MINUTE = ExchangeStream(StreamKind.KLINE, "AUSDT", "1m")


def events(live: LiveKlines, position_ms: int) -> list[dict[str, Any]]:
    return [json.loads(payload)["k"] for _, payload in live.events(position_ms)]


def test_trades_since_the_start_join_the_bar_so_far() -> None:
    live = LiveKlines()
    assert live.start(MINUTE)
    assert not live.start(MINUTE)
    live.add([trade(3, "3.0", time_ms=3)])
    assert events(live, 10) == []
    live.seed(MINUTE, fold(0, 59_999, [trade(1, "1.0", time_ms=1), trade(2, "2.0", time_ms=2)]))
    (kline,) = events(live, 10)
    assert (kline["f"], kline["L"], kline["n"], kline["o"], kline["c"], kline["x"]) == (1, 3, 3, "1.0", "3.0", False)
    assert events(live, 20) == []


def test_a_bar_closes_with_the_next_trade_or_by_time() -> None:
    live = LiveKlines()
    live.start(MINUTE)
    live.seed(MINUTE, None)
    live.add([trade(1, "1.0", time_ms=59_999), trade(2, "2.0", time_ms=60_000)])
    assert [(k["t"], k["x"], k["n"]) for k in events(live, 60_010)] == [(0, True, 1), (60_000, False, 1)]
    assert events(live, 119_999 + SETTLE_MS) == []
    closed, flat = events(live, 120_000 + SETTLE_MS)
    assert (closed["t"], closed["x"]) == (60_000, True)
    assert (flat["t"], flat["n"], flat["o"], flat["f"], flat["x"]) == (120_000, 0, "2.0", -1, False)


def test_only_counting_trades_of_the_symbol_count() -> None:
    live = LiveKlines()
    live.start(MINUTE)
    live.seed(MINUTE, None)
    live.add([trade(1, symbol="BUSDT"), trade(2, execution="INSURANCE_FUND")])
    assert events(live, 10) == []


def test_a_delisted_symbols_bar_ends_and_a_new_listing_begins_anew() -> None:
    live = LiveKlines()
    live.start(MINUTE)
    live.seed(MINUTE, None)
    live.add([trade(7, "7.0", time_ms=10)])
    live.end("AUSDT")
    live.end("BUSDT")
    assert events(live, 300_000) == []
    live.add([trade(1, "1.0", time_ms=240_001)])
    (kline,) = events(live, 240_100)
    assert (kline["t"], kline["f"], kline["o"], kline["n"]) == (240_000, 1, "1.0", 1)


def test_a_stopped_stream_is_forgotten() -> None:
    live = LiveKlines()
    live.start(MINUTE)
    live.stop(MINUTE)
    live.stop(MINUTE)
    live.seed(MINUTE, None)
    live.add([trade(1)])
    assert len(live) == 0
    assert events(live, 10) == []

from __future__ import annotations

import pytest

from klagg.simulator.streams import Kind, Route, Stream, agg_trade_stream, carried, parse_stream, trade_stream


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("btcusdt@aggTrade", Stream(Kind.AGG_TRADE, "BTCUSDT")),
        ("币安人生usdt@trade", Stream(Kind.TRADE, "币安人生USDT")),
        ("btcusdt@kline_1M", Stream(Kind.KLINE, "BTCUSDT", "1M")),
        ("!miniTicker@arr", Stream(Kind.MINI_TICKERS)),
        ("!contractInfo", Stream(Kind.CONTRACT_INFO)),
        ("BTCUSDT@aggTrade", None),
        ("btcusdt@aggtrade", None),
        ("btcusdt@kline_7m", None),
        ("btcusdt@kline_1s", None),
        ("btcusdt@depth", None),
        ("@trade", None),
        ("btcusdt", None),
        ("", None),
    ],
)
def test_names(name: str, stream: Stream | None) -> None:
    assert parse_stream(name) == stream


def test_routes_carry_their_own_streams_only() -> None:
    assert carried(Route.MARKET, "btcusdt@aggTrade")
    assert carried(Route.MARKET, "btcusdt@kline_1m")
    assert not carried(Route.MARKET, "btcusdt@trade")
    assert carried(Route.PUBLIC, "btcusdt@trade")
    assert not carried(Route.PUBLIC, "btcusdt@aggTrade")
    assert not any(carried(Route.RETIRED, name) for name in ("btcusdt@aggTrade", "btcusdt@trade", "!contractInfo"))


def test_made_names_are_parsed() -> None:
    assert parse_stream(agg_trade_stream("币安人生USDT")) == Stream(Kind.AGG_TRADE, "币安人生USDT")
    assert parse_stream(trade_stream("BTCUSDT")) == Stream(Kind.TRADE, "BTCUSDT")

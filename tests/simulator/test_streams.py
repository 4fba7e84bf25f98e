from __future__ import annotations

import pytest

from klagg.simulator.streams import (
    ExchangeStream,
    StreamKind,
    WebSocketRoute,
    agg_trade_stream,
    carried,
    parse_stream,
    trade_stream,
)


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("btcusdt@aggTrade", ExchangeStream(StreamKind.AGG_TRADE, "BTCUSDT")),
        ("币安人生usdt@trade", ExchangeStream(StreamKind.TRADE, "币安人生USDT")),
        ("btcusdt@kline_1M", ExchangeStream(StreamKind.KLINE, "BTCUSDT", "1M")),
        ("!ticker@arr", ExchangeStream(StreamKind.TICKERS)),
        ("!miniTicker@arr", ExchangeStream(StreamKind.MINI_TICKERS)),
        ("!contractInfo", ExchangeStream(StreamKind.CONTRACT_INFO)),
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
def test_names(name: str, stream: ExchangeStream | None) -> None:
    assert parse_stream(name) == stream


def test_routes_carry_their_own_streams_only() -> None:
    assert carried(WebSocketRoute.MARKET, "btcusdt@aggTrade")
    assert carried(WebSocketRoute.MARKET, "btcusdt@kline_1m")
    assert not carried(WebSocketRoute.MARKET, "btcusdt@trade")
    assert carried(WebSocketRoute.PUBLIC, "btcusdt@trade")
    assert not carried(WebSocketRoute.PUBLIC, "btcusdt@aggTrade")
    assert not any(
        carried(WebSocketRoute.RETIRED, name) for name in ("btcusdt@aggTrade", "btcusdt@trade", "!contractInfo")
    )


def test_made_names_are_parsed() -> None:
    assert parse_stream(agg_trade_stream("币安人生USDT")) == ExchangeStream(StreamKind.AGG_TRADE, "币安人生USDT")
    assert parse_stream(trade_stream("BTCUSDT")) == ExchangeStream(StreamKind.TRADE, "BTCUSDT")

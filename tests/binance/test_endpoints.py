"""WebSocket URLs: routes by source, combined and raw, CJK names, long lists."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
import ujson

from klagg.binance.endpoints import PARAMS_MAX, URL_BYTES_MAX, Endpoint, StreamUrl, Target, request, stream_name
from klagg.errors import ConfigError

BASE = "wss://fstream.binance.com"


def route_of(base_url: str, endpoint: Endpoint, source: str, symbols: list[str]) -> Target:
    return StreamUrl.of(base_url, endpoint, source).target([stream_name(symbol, source) for symbol in symbols])


def test_combined_streams_stand_in_the_url() -> None:
    route = route_of(BASE, Endpoint.COMBINED, "aggTrade", ["BTCUSDT", "ETHUSDT"])
    assert route.url == f"{BASE}/market/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade"
    assert route.to_subscribe == ()


def test_every_fill_comes_over_the_public_route() -> None:
    assert route_of(BASE + "/", Endpoint.COMBINED, "trade", ["BTCUSDT"]).url == (
        f"{BASE}/public/stream?streams=btcusdt@trade"
    )
    assert route_of(BASE, Endpoint.RAW, "trade", ["BTCUSDT"]).url == f"{BASE}/public/ws/btcusdt@trade"


def test_a_raw_endpoint_names_one_stream_or_subscribes_to_all() -> None:
    assert route_of(BASE, Endpoint.RAW, "aggTrade", ["BTCUSDT"]).url == f"{BASE}/market/ws/btcusdt@aggTrade"
    route = route_of(BASE, Endpoint.RAW, "aggTrade", ["BTCUSDT", "ETHUSDT"])
    assert route.url == f"{BASE}/market/ws"
    assert route.to_subscribe == ("btcusdt@aggTrade", "ethusdt@aggTrade")


def test_a_message_names_its_streams() -> None:
    assert ujson.loads(request("SUBSCRIBE", ["btcusdt@aggTrade", "ethusdt@aggTrade"], 7)) == {
        "method": "SUBSCRIBE",
        "params": ["btcusdt@aggTrade", "ethusdt@aggTrade"],
        "id": 7,
    }
    with pytest.raises(ValueError, match="it takes 1 to 100"):
        request("SUBSCRIBE", ["x"] * (PARAMS_MAX + 1), 1)


def test_what_is_told_of_all_symbols_comes_over_the_market_route() -> None:
    assert StreamUrl.of(BASE, Endpoint.COMBINED).target(["!contractInfo", "!ticker@arr"]).url == (
        f"{BASE}/market/stream?streams=!contractInfo/!ticker@arr"
    )


def test_cjk_names_are_encoded_in_urls_and_plain_in_messages() -> None:
    name = "币安人生USDT"
    assert stream_name(name, "aggTrade") == "币安人生usdt@aggTrade"
    url = route_of(BASE, Endpoint.COMBINED, "aggTrade", [name]).url
    assert url.isascii()
    assert unquote(urlsplit(url).query) == "streams=币安人生usdt@aggTrade"
    assert "币安人生usdt@aggTrade" in request("SUBSCRIBE", ["币安人生usdt@aggTrade"], 1)


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_a_full_connection_asks_for_every_stream_once(endpoint: Endpoint) -> None:
    symbols = [f"SYM{number:04}USDT" for number in range(1024)]
    route = route_of(BASE, endpoint, "aggTrade", symbols)
    assert len(route.url) <= URL_BYTES_MAX
    asked = urlsplit(route.url).query.removeprefix("streams=").split("/") if urlsplit(route.url).query else []
    asked += route.to_subscribe
    assert asked == [stream_name(symbol, "aggTrade") for symbol in symbols]


@pytest.mark.parametrize("url", ["", "https://host", "wss://", "wss://host?x=1", "fstream.binance.com"])
def test_what_is_no_websocket_url_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"exchange\.websocket_url"):
        route_of(url, Endpoint.COMBINED, "aggTrade", ["BTCUSDT"])

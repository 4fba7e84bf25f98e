"""WebSocket URLs: routes by source, combined and raw, CJK names, long lists."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest
import ujson

from klagg.errors import ConfigError
from klagg.exchange.endpoints import PARAMS_MAX, URL_BYTES_MAX, Endpoint, route_of, stream_name

BASE = "wss://fstream.binance.com"


def test_combined_streams_stand_in_the_url() -> None:
    route = route_of(BASE, Endpoint.COMBINED, "aggTrade", ["BTCUSDT", "ETHUSDT"])
    assert route.url == f"{BASE}/market/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade"
    assert route.subscribe == ()


def test_every_fill_comes_over_the_public_route() -> None:
    assert route_of(BASE + "/", Endpoint.COMBINED, "trade", ["BTCUSDT"]).url == (
        f"{BASE}/public/stream?streams=btcusdt@trade"
    )
    assert route_of(BASE, Endpoint.RAW, "trade", ["BTCUSDT"]).url == f"{BASE}/public/ws/btcusdt@trade"


def test_a_raw_endpoint_names_one_stream_or_subscribes_to_all() -> None:
    assert route_of(BASE, Endpoint.RAW, "aggTrade", ["BTCUSDT"]).url == f"{BASE}/market/ws/btcusdt@aggTrade"
    route = route_of(BASE, Endpoint.RAW, "aggTrade", ["BTCUSDT", "ETHUSDT"])
    assert route.url == f"{BASE}/market/ws"
    assert [ujson.loads(each) for each in route.subscribe] == [
        {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade", "ethusdt@aggTrade"], "id": 1}
    ]


def test_cjk_names_are_encoded_in_urls_and_plain_in_messages() -> None:
    name = "币安人生USDT"
    assert stream_name(name, "aggTrade") == "币安人生usdt@aggTrade"
    url = route_of(BASE, Endpoint.COMBINED, "aggTrade", [name]).url
    assert url.isascii()
    assert unquote(urlsplit(url).query) == "streams=币安人生usdt@aggTrade"
    (message,) = route_of(BASE, Endpoint.RAW, "aggTrade", [name, "BTCUSDT"]).subscribe
    assert "币安人生usdt@aggTrade" in message


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_a_full_connection_asks_for_every_stream_once(endpoint: Endpoint) -> None:
    symbols = [f"SYM{number:04}USDT" for number in range(1024)]
    route = route_of(BASE, endpoint, "aggTrade", symbols)
    assert len(route.url) <= URL_BYTES_MAX
    asked = urlsplit(route.url).query.removeprefix("streams=").split("/") if urlsplit(route.url).query else []
    messages = [ujson.loads(each) for each in route.subscribe]
    assert all(len(each["params"]) <= PARAMS_MAX for each in messages)
    assert [each["id"] for each in messages] == list(range(1, len(messages) + 1))
    for message in messages:
        asked += message["params"]
    assert asked == [stream_name(symbol, "aggTrade") for symbol in symbols]


@pytest.mark.parametrize("url", ["", "https://host", "wss://", "wss://host?x=1", "fstream.binance.com"])
def test_what_is_no_websocket_url_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"exchange\.websocket_url"):
        route_of(url, Endpoint.COMBINED, "aggTrade", ["BTCUSDT"])

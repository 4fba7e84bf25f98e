"""The market over several shards: who has a symbol, its last price, what is missing, the time, what is stale."""

from __future__ import annotations

from typing import Any

from gateway.health import Health
from gateway.live import LiveState
from gateway.market import MarketState, Shard
from klagg.binance.serving.exchange_info import ServedExchangeInfo, served_exchange_info
from klagg.intervals import ordered
from klagg.wire.exchange_info import KeptExchangeInfo
from klagg.wire.keys import shard_of
from tests.gateway.kit import NOW_MS, info_of, value


def a_market(shards: int = 3, **symbols: dict[str, Any]) -> MarketState:
    """Each symbol in its own shard, with the bars that are given by interval."""
    parts = [Shard(LiveState(), Health(1000, 3000, 0.0)) for _ in range(shards)]
    for symbol, bars in symbols.items():
        state = parts[shard_of(symbol, shards)].state
        values = {f"{symbol}:{interval}": value(**changes) for interval, changes in bars.items()}
        state.apply_entry({"time": str(NOW_MS), **values}, 1)
    return MarketState(parts, ordered(("1m", "1d")))


def test_each_symbol_is_found_in_its_shard() -> None:
    names = [f"S{number}USDT" for number in range(20)]
    market = a_market(3, **{name: {"1m": {"trades": len(name)}} for name in names})
    assert market.live_symbols() == sorted(names)
    assert all(market.newest(name, "1m") for name in names)
    assert ("S1USDT" in market, "S99USDT" in market, 5 in market) == (True, False, False)
    market.stored = {"S99USDT"}
    assert "S99USDT" in market


def test_the_last_price_is_that_of_the_shortest_interval() -> None:
    market = a_market(BTCUSDT={"1m": {"close": "2.00"}, "1d": {"close": "1.00"}}, ETHUSDT={"1d": {"close": "3.00"}})
    prices = {name: bar.close for name in ("BTCUSDT", "ETHUSDT", "ADAUSDT") if (bar := market.last(name))}
    assert prices == {"BTCUSDT": "2.00", "ETHUSDT": "3.00"}


def kept(body: str, *carried: str, asked_ms: int = NOW_MS) -> ServedExchangeInfo:
    return served_exchange_info(KeptExchangeInfo(body, carried, asked_ms, 1000, 20.0), 2400)


def test_a_symbol_that_is_carried_is_known_before_its_first_trade() -> None:
    market = a_market(BTCUSDT={"1m": {}})
    assert "ADAUSDT" not in market
    market.info = kept(info_of("ADAUSDT", "BTCUSDT", "ETHUSDT"), "BTCUSDT", "ADAUSDT")
    assert list(market.carried) == ["ADAUSDT", "BTCUSDT"]
    assert ("ADAUSDT" in market, "ETHUSDT" in market) == (True, False)


def test_the_first_full_picture_needs_the_list_every_shard_and_for_a_strange_name_the_table() -> None:
    market = a_market(2, BTCUSDT={"1m": {}})
    assert "exchangeInfo" in market.waits_for()
    market.info = kept(info_of("BTCUSDT"), "BTCUSDT")
    market.shards[0].position = "0-0"
    assert "bars in progress" in market.waits_for()
    market.shards[1].position = "7-0"
    assert (market.waits_for(), market.waits_for("BTCUSDT")) == ("", "")
    assert "database" in market.waits_for("OLDUSDT")
    market.names_read = True
    assert market.waits_for("OLDUSDT") == ""


def test_before_the_first_tick_the_time_goes_on_from_when_the_list_was_asked() -> None:
    market = a_market(1)
    assert market.server_time_ms(5000.0, 3000.0) == 0
    market.info = kept(info_of("BTCUSDT"), asked_ms=0)
    assert market.server_time_ms(5000.0, 3000.0) == 0
    market.info = kept(info_of("BTCUSDT"))
    assert market.server_time_ms(5000.0, 3000.0) == NOW_MS + 2000 * 20
    market.shards[0].state.apply_entry({"time": str(NOW_MS + 77)}, 1)
    assert market.server_time_ms(0.0, 3000.0) == NOW_MS + 77


def test_the_time_goes_on_from_the_newest_tick() -> None:
    market = a_market(1)
    assert market.time_ms(5000.0) == 0
    market.shards[0].state.apply_entry({"time": str(NOW_MS)}, 1)
    market.shards[0].health.moved(1000.0)
    assert market.time_ms(1250.0) == NOW_MS + 250


def test_one_stale_shard_makes_the_market_stale() -> None:
    market = a_market(2)
    for shard in market.shards:
        shard.health.moved(1000.0)
    assert market.stale_for_ms(3000.0) == 0
    market.shards[0].health.moved(4000.0)
    assert market.stale_for_ms(4500.0) == 3500

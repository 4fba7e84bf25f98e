"""The market over several shards: who has a symbol, its last price, its contract, the time, what is stale."""

from __future__ import annotations

from typing import Any

from gateway.health import Health
from gateway.live import LiveState
from gateway.market import MarketState, Shard, StoredListing
from klagg.intervals import ordered
from klagg.wire.keys import shard_of
from tests.gateway.kit import NOW_MS, value


def a_market(shards: int = 3, **symbols: dict[str, Any]) -> MarketState:
    """Each symbol in its own shard, with the bars that are given by interval."""
    parts = [Shard(LiveState(), Health(1000, 3000, 0.0)) for _ in range(shards)]
    for symbol, bars in symbols.items():
        state = parts[shard_of(symbol, shards)].state
        values = {f"{symbol}:{interval}": value(**changes) for interval, changes in bars.items()}
        state.apply_entry({"time": str(NOW_MS), **values}, 1)
    return MarketState(parts, ordered(("1m", "1d")), ("USDT", "USDC"))


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


def test_contracts_come_from_the_listing_or_from_the_bars() -> None:
    market = a_market(BTCUSDC={"1m": {"close": "2.00", "volume": "5"}}, ODD={"1m": {}})
    market.listed = {"ODD": StoredListing(7, 1, None, "SETTLING")}
    btc, odd = market.contracts()
    assert (btc.base, btc.quote, btc.tick_size, btc.step_size, btc.onboard_ms) == ("BTC", "USDC", "0.01", "1", 0)
    assert (odd.base, odd.quote, odd.tick_size, odd.quantity_precision) == ("ODD", "USDT", "0.1", 3)
    assert (odd.onboard_ms, odd.status) == (7, "SETTLING")
    assert [each.symbol for each in market.contracts(["ODD", "NOSUCH"])] == ["ODD"]


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

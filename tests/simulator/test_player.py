from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from klagg.simulator import SyntheticMarket
from klagg.simulator.hub import StreamHub
from klagg.simulator.market import ContractListing
from klagg.simulator.player import Player
from klagg.simulator.streams import WebSocketRoute
from tests.simulator.kit import START_MS
from tests.simulator.test_hub import Sink, connect


def payloads(sink: Sink) -> list[Any]:
    """The JSON texts of all frames written."""
    data, at, found = b"".join(sink.writes), 0, []
    while at < len(data):
        length, skip = data[at + 1], 2
        if length == 126:
            length, skip = int.from_bytes(data[at + 2 : at + 4]), 4
        elif length == 127:
            length, skip = int.from_bytes(data[at + 2 : at + 10]), 10
        found.append(json.loads(data[at + skip : at + skip + length]))
        at += skip + length
    return found


def test_every_trade_is_published_once_and_in_order() -> None:
    market, hub = SyntheticMarket(4, 200, seed=5), StreamHub(10**9)
    player = Player(market, hub, START_MS)
    _, aggregates = connect(hub, WebSocketRoute.MARKET, "btcusdt@aggTrade")
    _, fills = connect(hub, WebSocketRoute.PUBLIC, "btcusdt@trade")
    for until_ms in (START_MS + 17, START_MS + 900, START_MS + 30_000):
        player.play(until_ms)
    ids = [event["a"] for event in payloads(aggregates)]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert player.last_aggregate["BTCUSDT"] == ids[-1]
    fill_ids = [event["t"] for event in payloads(fills)]
    assert fill_ids == list(range(fill_ids[0], fill_ids[0] + len(fill_ids)))
    assert player.last_fill["BTCUSDT"] == fill_ids[-1]
    assert player.aggregates_played == len(market.aggregates(START_MS, START_MS + 30_000))


def test_tickers_that_changed_come_once() -> None:
    hub = StreamHub(10**9)
    player = Player(SyntheticMarket(4, 200, seed=5), hub, START_MS)
    _, sink = connect(hub, WebSocketRoute.MARKET, "!miniTicker@arr")
    player.play(START_MS + 1_000)
    player.publish_tickers()
    player.publish_tickers()
    (tickers,) = payloads(sink)
    assert {row["s"] for row in tickers if row["st"] == 1} <= {"BTCUSDT", "ETHUSDT", "SOLUSDT", "币安人生USDT"}
    assert {row["s"] for row in tickers if row["st"] == 2} == {"BTCUSD_PERP"}


class _Delisting(SyntheticMarket):
    """A market that delists its first symbol after a second."""

    def listings(self, now_ms: int) -> Sequence[ContractListing]:
        first, *rest = super().listings(now_ms)
        return [replace(first, status="SETTLING") if now_ms > START_MS + 1_000 else first, *rest]


def test_a_changed_listing_is_announced() -> None:
    hub = StreamHub(10**9)
    player = Player(_Delisting(2, 20, seed=5), hub, START_MS)
    _, sink = connect(hub, WebSocketRoute.MARKET, "!contractInfo")
    player.publish_listings()
    player.play(START_MS + 2_000)
    player.publish_listings()
    player.publish_listings()
    (event,) = payloads(sink)
    assert (event["e"], event["s"], event["cs"], event["st"]) == ("contractInfo", "BTCUSDT", "SETTLING", 1)

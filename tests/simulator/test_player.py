from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from klagg.simulator import SyntheticMarket
from klagg.simulator.fault_player import FaultPlayer
from klagg.simulator.faults import read_faults
from klagg.simulator.faulty_hub import FaultyHub
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


def test_day_tickers_say_which_fills_were_the_first_and_the_last_ones() -> None:
    market, hub = SyntheticMarket(4, 200, seed=5), StreamHub(10**9)
    player = Player(market, hub, START_MS)
    _, sink = connect(hub, WebSocketRoute.MARKET, "!ticker@arr")
    player.play(START_MS + 1_000)
    player.publish_tickers()
    player.play(START_MS + 2_000)
    player.publish_tickers()
    player.publish_tickers()
    first, second = payloads(sink)
    assert {row["s"] for row in second if row["st"] == 2} == {"BTCUSD_PERP"}
    for row in second:
        if row["st"] == 2:
            continue
        assert (row["e"], row["E"], row["C"]) == ("24hrTicker", START_MS + 2_000, START_MS + 2_000)
        trades = market.aggregates_between(row["s"], row["O"], row["C"], 10**9, row["C"], newest=False)
        assert (row["F"], row["L"], row["n"]) == (trades[0].first, trades[-1].last, trades[-1].last - row["F"] + 1)
        assert row["O"] <= START_MS
    btc = [next(row for row in each if row["s"] == "BTCUSDT") for each in (first, second)]
    assert btc[0]["F"] == btc[1]["F"]
    assert btc[0]["L"] < btc[1]["L"]


def test_day_tickers_tell_what_faults_make_of_them() -> None:
    """A late one has the ids and the time of then, a frozen one the ids of when it began and today's time."""
    script = read_faults(
        '[[fault]]\nkind = "late_ticker"\nlate_ms = 500\nsymbols = ["BTCUSDT"]\n'
        '[[fault]]\nkind = "frozen_ticker"\nat_s = 1\nsymbols = ["ETHUSDT"]\n'
        '[[fault]]\nkind = "wrong_ticker"\nids = 2\nsymbols = ["SOLUSDT"]\n'
        '[[fault]]\nkind = "missing_ticker"\nsymbols = ["XRPUSDT"]\n'
    )
    hub = FaultyHub(10**9, script)
    market, faults = SyntheticMarket(8, 400, seed=5), FaultPlayer(script, hub)
    player = Player(market, hub, START_MS, faults)
    _, sink = connect(hub, WebSocketRoute.MARKET, "!ticker@arr")
    player.play(START_MS + 2_000)
    faults.turn(2_000)
    player.publish_tickers()
    rows = {row["s"]: row for row in payloads(sink)[0]}
    assert "XRPUSDT" not in rows
    now_ms = START_MS + 2_000
    for name, behind_ms, late_ms, ids in (("BTCUSDT", 500, 500, 0), ("ETHUSDT", 1_000, 0, 0), ("SOLUSDT", 0, 0, 2)):
        then_ms = now_ms - behind_ms
        (last,) = market.aggregates_between(name, START_MS - 60_000, then_ms, 1, then_ms, newest=True)
        assert (rows[name]["L"], rows[name]["C"]) == (last.last + ids, now_ms - late_ms)


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

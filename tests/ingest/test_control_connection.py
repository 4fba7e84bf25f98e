"""The control connection: what it hands on, and what it only counts."""

from __future__ import annotations

import logging

import ujson

from ingest.control_connection import ControlConnection
from ingest.session import ConnectionOptions
from klagg.binance.payloads import ContractNews, Ticker
from klagg.process.stats import Stats
from klagg.settings import Settings
from tests.ingest.kit import contract_news, day_ticker


def test_it_hands_on_tickers_and_news_and_counts_the_rest() -> None:
    news: list[ContractNews] = []
    tickers: list[Ticker] = []
    stats = Stats()
    control = ControlConnection(
        "A0",
        Settings(),
        ConnectionOptions(),
        ("!contractInfo", "!ticker@arr"),
        on_news=news.append,
        on_tickers=tickers.extend,
        stats=stats,
        log=logging.getLogger("test"),
    )
    for event in (contract_news("新USDT", "TRADING"), [day_ticker("新USDT", 5, 7)], {"e": "kline"}, [], 7):
        control.receive(ujson.dumps({"stream": "some", "data": event}).encode())
    for frame in (b"", b"\xff\x00", b"[", b"7", b'{"result":null,"id":1}'):
        control.receive(frame)
    assert [each.symbol for each in news] == ["新USDT"]
    assert tickers == [Ticker("新USDT", 5, "85266.00", 7.0)]
    assert (stats.counters["control_messages"], stats.counters["control_rejected"]) == (10, 3)
    events = {labels: count for (name, labels), count in stats.labelled_counters.items() if name == "events"}
    assert events == {(("type", "24hrTicker"),): 1, (("type", "contractInfo"),): 1}

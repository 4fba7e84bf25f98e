"""Names of streams, and events as Binance writes them."""

from __future__ import annotations

import json

import pytest

from gateway.live import Change
from gateway.streams import KlineStream, KlineStreamKind, event_of, names_of, parse_stream, worth_sending
from tests.gateway.kit import FINAL, NOW_MS, bar


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("btcusdt@kline_1m", KlineStream(KlineStreamKind.KLINE, "BTCUSDT", "1m")),
        ("btcusdt@kline_1M", KlineStream(KlineStreamKind.KLINE, "BTCUSDT", "1M")),
        ("btcusdt@kline_1s", KlineStream(KlineStreamKind.KLINE, "BTCUSDT", "1s")),
        ("币安人生usdt@kline_5m", KlineStream(KlineStreamKind.KLINE, "币安人生USDT", "5m")),
        ("btcusdt_perpetual@continuousKline_1m", KlineStream(KlineStreamKind.CONTINUOUS, "BTCUSDT", "1m")),
        ("BTCUSDT@kline_1m", None),
        ("btcusdt@kline_7m", None),
        ("btcusdt@aggTrade", None),
        ("@kline_1m", None),
        ("btcusdt@kline", None),
        ("btcusdt@continuousKline_1m", None),
        ("_perpetual@continuousKline_1m", None),
        ("", None),
    ],
)
def test_names(name: str, expected: KlineStream | None) -> None:
    assert parse_stream(name) == expected
    if expected:
        assert name in names_of(expected.symbol, expected.interval)


def test_a_kline_event_has_binances_fields_in_binances_order() -> None:
    event = json.loads(event_of(KlineStreamKind.KLINE, Change("BTCUSDT", "1m", bar(at_ms=NOW_MS + 7), None)))
    assert list(event) == ["e", "E", "s", "k", "st"]
    assert list(event["k"]) == list("tTsifLochlvnxqVQB")
    assert (event["e"], event["E"], event["s"], event["st"]) == ("kline", NOW_MS + 7, "BTCUSDT", 1)
    assert event["k"] == {
        "t": NOW_MS,
        "T": NOW_MS + 59_999,
        "s": "BTCUSDT",
        "i": "1m",
        "f": 100,
        "L": 420,
        "o": "64100.10",
        "c": "64111.10",
        "h": "64120.00",
        "l": "64090.90",
        "v": "12.345",
        "n": 321,
        "x": False,
        "q": "791234.56780",
        "V": "6.000",
        "Q": "384570.00000",
        "B": "0",
    }


def test_a_first_final_looks_like_binances_and_an_amendment_bears_its_revision() -> None:
    final = json.loads(event_of(KlineStreamKind.KLINE, Change("BTCUSDT", "1m", bar(**FINAL), None)))["k"]
    assert (final["x"], "revision" in final) == (True, False)
    again = json.loads(event_of(KlineStreamKind.KLINE, Change("BTCUSDT", "1m", bar(closed=1, revision=2), None)))["k"]
    assert (again["x"], again["revision"]) == (True, 2)


def test_a_quiet_bar_closes_with_no_ids() -> None:
    quiet = bar(trades=0, volume="0.000", first_trade_id=-1, last_trade_id=-1, **FINAL)
    event = json.loads(event_of(KlineStreamKind.KLINE, Change("BTCUSDT", "1m", quiet, None)))["k"]
    assert (event["f"], event["L"], event["n"], event["x"], event["v"]) == (-1, -1, 0, True, "0.000")


def test_a_continuous_kline_event() -> None:
    event = json.loads(event_of(KlineStreamKind.CONTINUOUS, Change("BTCUSDT", "1m", bar(), None)))
    assert (event["e"], event["ps"], event["ct"]) == ("continuous_kline", "BTCUSDT", "PERPETUAL")
    assert list(event["k"]) == list("tTifLochlvnxqVQB")


def test_a_confirmation_is_not_told_and_an_amendment_is() -> None:
    waiting, proven = bar(closed=1, revision=1, complete=0), bar(closed=1, revision=1, complete=1)
    assert not worth_sending(Change("BTCUSDT", "1m", proven, waiting))
    assert worth_sending(Change("BTCUSDT", "1m", bar(closed=1, revision=2, trades=322), proven))
    assert worth_sending(Change("BTCUSDT", "1m", waiting, bar()))
    assert worth_sending(Change("BTCUSDT", "1m", bar(trades=322), bar()))

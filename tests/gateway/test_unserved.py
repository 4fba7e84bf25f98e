"""Which subscriptions are to nothing that klagg makes, and how many names of them are kept."""

from __future__ import annotations

from gateway.unserved import NAMES_MAX, UnservedStreams
from klagg.intervals import ordered


def test_what_klagg_does_not_make_is_counted_and_named_once() -> None:
    unserved = UnservedStreams(ordered(("1m", "1h")))
    made = ["btcusdt@kline_1m", "btcusdt_perpetual@continuousKline_1h"]
    assert unserved.note(made) == (0, [])
    names = ["btcusdt@kline_15m", *made, "btcusdt@bookTicker", "!markPrice@arr", "BTCUSDT@kline_1m"]
    others = [name for name in names if name not in made]
    assert unserved.note(names) == (4, others)
    assert unserved.note(["btcusdt@bookTicker"]) == (1, [])
    assert unserved.counts == dict.fromkeys(others, 1) | {"btcusdt@bookTicker": 2}


def test_clients_cannot_make_it_grow_for_ever() -> None:
    unserved = UnservedStreams(ordered(("1m",)))
    count, new = unserved.note([f"{number}@trade" for number in range(NAMES_MAX + 5)])
    assert (count, len(new), len(unserved.counts)) == (NAMES_MAX + 5, NAMES_MAX, NAMES_MAX)
    assert unserved.note([f"{NAMES_MAX + 1}@trade", "0@trade"]) == (2, [])

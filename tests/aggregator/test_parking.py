"""Trades that wait for their listing: a bounded number, for a bounded time, each once."""

from __future__ import annotations

import json

import pytest

from aggregator import parking
from aggregator.parking import PARKED_MS, Key, Parking, Values

VALUES: Values = (125, 2, 30, 1, 7, 9, 1, 0, 1)


def rows(*keys: Key) -> dict[Key, Values]:
    return dict.fromkeys(keys, VALUES)


def test_what_is_released_comes_back_as_it_came() -> None:
    lot = Parking()
    assert lot.park(rows(("A", 2, 20), ("B", 1, 10), ("A", 1, 10)), 100) == set()
    assert lot.park(rows(("A", 2, 20)), 200) == set()
    lot.release("A")
    lot.release("C")
    assert (lot.holds("A"), lot.holds("B")) == (False, True)
    (columns,) = lot.drain_released()
    assert columns.names == [b"A", b"A"]
    assert (columns.id.tolist(), columns.time.tolist()) == ([1, 2], [10, 20])
    assert (columns.price[0], columns.price_decimals[0], columns.qty[0], columns.qty_decimals[0]) == (125, 2, 30, 1)
    assert (columns.first[0], columns.last[0]) == (7, 9)
    assert (columns.maker.tolist(), columns.counts.tolist(), columns.agg.tolist()) == (
        [True, True],
        [False, False],
        [True, True],
    )
    assert lot.drain_released() == []


def test_those_that_waited_too_long_go_and_later_ones_stay() -> None:
    lot = Parking()
    lot.park(rows(("A", 1, 10), ("B", 1, 10)), 100)
    lot.park(rows(("A", 2, 20)), 101)
    assert lot.expire(99 + PARKED_MS) == []
    assert sorted(lot.expire(100 + PARKED_MS)) == [("A", 1, 10), ("B", 1, 10)]
    assert (lot.holds("A"), lot.holds("B")) == (True, False)
    assert lot.expire(101 + PARKED_MS) == [("A", 2, 20)]
    assert not lot.holds("A")


def test_there_is_room_for_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_MAX", 2)
    lot = Parking()
    assert lot.park(rows(("A", 3, 30), ("A", 1, 10), ("A", 2, 20)), 100) == {("A", 3, 30)}
    assert lot.park(rows(("A", 1, 10)), 100) == set()
    assert lot.park(rows(("B", 1, 10)), 100) == {("B", 1, 10)}


def test_everything_survives_as_json() -> None:
    lot, other = Parking(), Parking()
    lot.park(rows(("币安USDT", 1, 10), ("A", 2, 20)), 100)
    lot.park(rows(("A", 1, 5)), 99_000)
    other.load(json.loads(json.dumps(lot.dump())))
    assert list(other.rows.items()) == list(lot.rows.items())
    assert other.holds("币安USDT")
    with pytest.raises(ValueError, match="holds 2 values"):
        other.load([["A", 1, 2, 3, 4, 5]])

"""The joint of table and live state, compared with a slow reading of the rule."""

from __future__ import annotations

import random

from gateway.history import Range, joined, kline_of, wire_of
from gateway.live import LiveBar
from klagg.intervals import INTERVALS
from klagg.kline import Kline
from tests.gateway.kit import FINAL, MINUTE_MS, NOW_MS, bar, kline

ONE = INTERVALS["1m"]
ALL = Range(None, None, 500)


def at(number: int) -> int:
    return NOW_MS + number * MINUTE_MS


def times(klines: list[Kline]) -> list[int]:
    return [(each.open_time - NOW_MS) // MINUTE_MS for each in klines]


def test_finals_that_are_not_yet_in_the_table_come_from_live_state() -> None:
    stored = [kline(open_time=at(0)), kline(open_time=at(1))]
    live = [bar(open_time=at(1), **FINAL), bar(open_time=at(2), **FINAL), bar(open_time=at(3))]
    found = joined(stored, live, "BTCUSDT", ONE, ALL)
    assert times(found) == [0, 1, 2, 3]
    assert [each.source for each in found] == ["own", "own", "", ""]
    assert [each.revision for each in found] == [1, 1, 1, 0]


def test_the_higher_version_wins_whichever_side_has_it() -> None:
    amended = [bar(open_time=at(0), close="1.00", closed=1, revision=2, complete=1)]
    (found,) = joined([kline(open_time=at(0))], amended, "BTCUSDT", ONE, ALL)
    assert (found.close, found.revision) == ("1.00", 2)
    (found,) = joined([kline(open_time=at(0), revision=3)], amended, "BTCUSDT", ONE, ALL)
    assert (found.close, found.revision) == ("64111.10", 3)
    (found,) = joined([kline(open_time=at(0))], [bar(open_time=at(0), close="1.00")], "BTCUSDT", ONE, ALL)
    assert found.revision == 1, "a final goes over a bar in progress"
    snapshot = kline(open_time=at(0), revision=0, complete=0)
    (found,) = joined([snapshot], [bar(open_time=at(0), close="1.00")], "BTCUSDT", ONE, ALL)
    assert found.close == "1.00", "the live one is the newer bar in progress"


def test_ranges_count_from_the_side_that_is_asked_for() -> None:
    stored = [kline(open_time=at(number)) for number in range(3)]
    live = [bar(open_time=at(3), **FINAL), bar(open_time=at(4))]
    assert times(joined(stored, live, "BTCUSDT", ONE, Range(None, None, 2))) == [3, 4]
    assert times(joined(stored[:2], live, "BTCUSDT", ONE, Range(at(0), None, 2))) == [0, 1]
    assert times(joined(stored[2:], live, "BTCUSDT", ONE, Range(at(2), at(3), 500))) == [2, 3]
    assert times(joined([], live, "BTCUSDT", ONE, Range(None, at(3), 500))) == [3]


def test_any_split_between_table_and_live_state_gives_the_same_series() -> None:
    pick = random.Random(6)
    whole = [kline(open_time=at(number), trades=number) for number in range(30)]
    for _ in range(300):
        start = pick.choice([None, at(pick.randrange(-2, 32)) + pick.choice([0, 1])])
        end = pick.choice([None, at(pick.randrange(-2, 32))])
        wanted = Range(start, end, pick.randrange(1, 12))
        edge = pick.randrange(31)
        overlap = pick.randrange(edge + 1)
        inside = [each for each in whole if wanted.holds(each.open_time)]
        table = [each for each in whole[:edge] if wanted.holds(each.open_time)]
        cut = slice(-wanted.limit, None) if start is None else slice(wanted.limit)
        live = [as_live(each) for each in whole[edge - overlap :]]
        found = joined(table[cut], live, "BTCUSDT", ONE, wanted)
        assert [each.trades for each in found] == [each.trades for each in inside[cut]]


def as_live(each: Kline) -> LiveBar:
    return bar(open_time=each.open_time, trades=each.trades, **FINAL)


def test_a_live_bar_and_its_row_are_the_same_to_binance() -> None:
    assert wire_of(kline_of(bar(**FINAL), "BTCUSDT", ONE)) == wire_of(kline()) == bar(**FINAL).wire(ONE)

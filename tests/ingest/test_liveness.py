"""What tickers and trades say of each other: dead symbols, silent connections, and what is merely quiet."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.liveness import Action, Liveness, SilenceDetector, TickerReference
from klagg.binance.payloads import Ticker

DEAD_MS = 10_000
T0 = 1_000_000


class Market:
    """Some symbols on the connections A1 (two) and A2 (one), a second at a time. `trading` ones trade every second;
    trades of the `deaf` do not arrive."""

    def __init__(self) -> None:
        self.carriers: dict[str, Collection[str]] = {"A1": ("X", "Y"), "A2": ("Z",)}
        self.now_ms = T0
        self.trading, self.deaf = {"X", "Y", "Z"}, set[str]()
        self.traded_ms: dict[str, int] = {}
        self.volumes = dict.fromkeys("XYZ", 100.0)
        self.reference = TickerReference(10_000)
        self.liveness = Liveness(DEAD_MS)
        self.liveness.expect("XYZ", T0)
        self.acts: list[tuple[int, Action, str, str]] = []

    def run(self, seconds: int, *, tickers: bool = True) -> list[tuple[int, Action, str, str]]:
        """What is to be done, each with the second at which it is, counted from T0."""
        before = len(self.acts)
        for _ in range(seconds):
            self.now_ms += 1000
            for name in self.trading:
                self.volumes[name] += 1
                if name not in self.deaf:
                    self.traded_ms[name] = self.now_ms - 200
            if tickers:
                changed = [Ticker(name, self.now_ms, "1", self.volumes[name]) for name in sorted(self.trading)]
                self.liveness.compare(self.reference.observe(changed), self.traded_ms, 1.0)
            self.liveness.revived(self.traded_ms, 1.0)
            for each in self.liveness.remedies(self.carriers, self.traded_ms, self.now_ms, 1.0):
                self.acts.append(((self.now_ms - T0) // 1000, each.action, each.carrier, each.symbol))
        return self.acts[before:]


def test_where_all_arrives_nothing_is_said() -> None:
    market = Market()
    assert market.run(120) == []
    assert all(market.liveness.is_alive(name) for name in "XYZ")


def test_a_quiet_symbol_is_alive_for_as_long_as_it_is_quiet() -> None:
    market = Market()
    market.trading.remove("Y")
    assert market.run(3600) == []
    assert market.liveness.is_alive("Y")
    assert market.liveness.is_quiet("Y", market.reference)


def test_one_dead_symbol_among_living_ones() -> None:
    market = Market()
    market.run(5)
    market.deaf.add("Y")
    acts = market.run(14)
    assert acts == [(17, Action.RESUBSCRIBE, "A1", "Y")]
    assert market.liveness.dead == ["Y"]
    assert not market.liveness.is_alive("Y")
    # It stays so: the connection is replaced, again and again, in longer and longer pauses.
    acts = market.run(300)
    assert {act[1:] for act in acts} == {(Action.REPLACE, "A1", "Y")}
    pauses = [later[0] - earlier[0] for earlier, later in pairwise(acts)]
    assert pauses == sorted(pauses)
    assert len(acts) == 4
    market.deaf.clear()
    assert market.run(3) == []
    assert market.liveness.is_alive("Y")


def test_a_silent_connection_is_cut_whole() -> None:
    market = Market()
    market.run(30)
    market.deaf |= {"X", "Y"}
    assert market.run(15) == [(42, Action.CUT, "A1", "")]
    assert market.liveness.dead == ["X", "Y"]
    assert market.liveness.is_alive("Z")


def test_a_connection_that_never_brought_anything_is_cut() -> None:
    market = Market()
    market.deaf |= {"Z"}
    assert market.run(15) == [(13, Action.CUT, "A2", "")]


def test_a_symbol_may_be_quiet_on_a_connection_that_is_silent() -> None:
    market = Market()
    market.trading = {"X"}
    market.deaf = {"X"}
    assert [act[1:] for act in market.run(15)] == [(Action.CUT, "A1", "")]
    assert market.liveness.dead == ["X"]


def test_without_the_witness_nothing_is_judged() -> None:
    market = Market()
    market.run(5)
    market.deaf = {"X", "Y", "Z"}
    assert market.run(100, tickers=False) == []
    assert market.liveness.dead == []
    # Its first tickers after the gap say nothing about what was before.
    assert market.run(2) == []


def test_the_first_ticker_of_a_symbol_proves_no_trade() -> None:
    reference = TickerReference(10_000)
    first = Ticker("X", T0, "1", 5.0)
    assert reference.observe([first]) == []
    assert reference.observe([Ticker("X", T0 + 1000, "1", 4.0)]) == []  # the day moved on
    assert reference.observe([Ticker("X", T0 + 1000, "2", 9.0)]) == []  # the same ticker again
    later = Ticker("X", T0 + 2000, "1", 4.5)
    assert reference.observe([later]) == [later]
    dearer = Ticker("X", T0 + 3000, "1.1", 4.4)
    assert reference.observe([dearer]) == [dearer]


def test_a_new_connection_is_judged_anew() -> None:
    market = Market()
    market.run(5)
    market.deaf.add("Y")
    market.run(11)
    market.liveness.renewed(["X", "Y"], market.now_ms)
    assert market.run(11) == []
    assert [act[1] for act in market.run(4)] == [Action.RESUBSCRIBE]


@given(st.lists(st.integers(1, 90_000), min_size=1, max_size=40), st.integers(0, 1_900))
def test_however_sparse_the_trades_who_gets_them_late_by_less_than_two_seconds_is_never_dead(
    pauses_ms: list[int], late_ms: int
) -> None:
    """Trades at any distance; tickers each full second, in any order with the trades, which are up to 1.9 s late."""
    liveness, reference = Liveness(DEAD_MS), TickerReference(10_000)
    liveness.expect(["X"], T0)
    times: list[int] = []
    for pause_ms in pauses_ms:
        times.append((times[-1] if times else T0) + pause_ms)
    for second_ms in range(T0, times[-1] + 5_000, 1000):
        arrived = [each for each in times if each + late_ms <= second_ms]
        traded_ms = {"X": max(arrived)} if arrived else {}
        volume = float(sum(each <= second_ms for each in times))
        liveness.compare(reference.observe([Ticker("X", second_ms, "1", volume)]), traded_ms, 1.0)
        assert liveness.remedies({"A1": ["X"]}, traded_ms, second_ms, 1.0) == []


def test_nothing_at_all_is_said_once_and_then_more_and_more_rarely() -> None:
    silence = SilenceDetector(10_000.0, 60_000.0)
    said = [now for now in range(0, 3600, 1) if silence.check(T0, T0, now * 1000.0, up=True)]
    assert said == [61, 182, 423, 904, 1505, 2106, 2707, 3308]


def test_silence_ends_with_whatever_comes_and_is_not_awaited_from_what_is_down() -> None:
    silence = SilenceDetector(10_000.0, 60_000.0)
    assert silence.check(T0, T0, 0.0, up=True) == 0
    assert silence.check(T0, T0, 59_000.0, up=True) == 0
    assert silence.check(T0, T0 + 1, 61_000.0, up=True) == 0
    assert silence.check(T0, T0 + 1, 121_000.0, up=True) == 0
    assert silence.check(T0, T0 + 1, 122_000.0, up=False) == 0
    assert silence.check(T0, T0 + 1, 182_000.0, up=True) == 0
    assert silence.check(T0, T0 + 1, 182_001.0, up=True) == 60_001.0


@pytest.mark.parametrize(("pause_s", "alarm_s"), [(1, 11), (3, 16), (30, 61)])
def test_sudden_silence_is_noticed_by_how_often_something_came(pause_s: int, alarm_s: int) -> None:
    silence, now_s = SilenceDetector(10_000.0, 60_000.0), 0
    for number in range(60):
        for _ in range(pause_s):
            now_s += 1
            assert silence.check(T0, T0 + number, now_s * 1000.0, up=True) == 0
    said = [each for each in range(1, 70) if silence.check(T0, T0 + 59, (now_s - pause_s + 1 + each) * 1000.0, up=True)]
    assert said[0] == alarm_s

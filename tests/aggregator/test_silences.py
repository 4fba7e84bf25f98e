"""Silences longer than the window: the id behind one proves all of its bars, and only such an id does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.checkpoint import Checkpoint, restore
from aggregator.core import Core
from aggregator.publisher import Outputs
from aggregator.silences import BARS_MAX
from klagg.kline import Kline
from klagg.wire.entries import TradeRow
from tests.aggregator.kit import T0, feed, klines, new_core, newest, steps, trade, values, watermark
from tests.aggregator.oracle import fold

MINUTE = 60_000
INTERVALS = ("1m", "5m", "1h", "4h")


def start() -> list[TradeRow]:
    return [trade(1, T0 + 1000, "5"), trade(2, T0 + MINUTE + 1000, "6"), trade(3, T0 + MINUTE + 2000, "7", "2")]


def silent(core: Core, from_minute: int, until_minute: int, every: int = 5) -> list[Outputs]:
    """Ticks and watermarks, and no trade."""
    said = []
    for minute in range(from_minute, until_minute, every):
        watermark(core, T0 + minute * MINUTE)
        said += steps(core, T0 + minute * MINUTE)
    return said


def restarted(core: Core, *intervals: str) -> Core:
    checkpoint, other = Checkpoint(core), new_core(*intervals)
    restore(other, checkpoint.header, [checkpoint.block(number) for number in range(checkpoint.blocks)])
    return other


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("minutes", [35, 179, 185, 284, 700])
def test_the_trade_behind_a_silence_proves_all_its_bars(minutes: int, restart: bool) -> None:
    core = new_core(*INTERVALS)
    rows = [*start(), trade(4, T0 + minutes * MINUTE + 500, "8")]
    feed(core, rows[:3])
    said = [*steps(core, T0 + 2 * MINUTE), *silent(core, 3, minutes)]
    if restart:
        core = restarted(core, *INTERVALS)
    feed(core, rows[3:])
    said += steps(core, T0 + minutes * MINUTE + 1000)
    found = newest(klines(said))
    expected = fold(rows, INTERVALS, T0 + minutes * MINUTE)
    closed = {key: kline for key, kline in found.items() if kline.close_time < T0 + minutes * MINUTE}
    assert {key: values(kline) for key, kline in closed.items()} == {key: expected[key] for key in closed}
    first = {each for each in closed if each[2] <= T0}
    assert [key for key, kline in closed.items() if not kline.complete and key not in first] == []
    assert all(closed[key].complete for key in first), "nothing came before id 1"
    assert len([key for key in closed if key[1] == "1m"]) == minutes
    assert not core.silences.runs


@pytest.mark.parametrize("next_id", [5, 9])
def test_an_id_that_does_not_follow_proves_nothing(next_id: int) -> None:
    core = new_core("1m")
    feed(core, start())
    said = [*steps(core, T0 + 2 * MINUTE), *silent(core, 3, 284)]
    feed(core, [trade(next_id, T0 + 284 * MINUTE, "8")])
    said += steps(core, T0 + 285 * MINUTE)
    found = newest(klines(said))
    assert {kline.complete for (_, _, opening), kline in found.items() if opening > T0 + MINUTE} == {0}
    feed(core, [trade(each, T0 + 284 * MINUTE - 100, "8") for each in range(4, next_id)])
    found = newest([*klines(said), *klines(steps(core, T0 + 286 * MINUTE))])
    assert {kline.complete for (_, _, opening), kline in found.items() if opening < T0 + 283 * MINUTE} == {1}


def test_a_late_trade_from_within_the_silence_proves_none_of_its_bars() -> None:
    core = new_core("1m")
    feed(core, start())
    said = [*steps(core, T0 + 2 * MINUTE), *silent(core, 3, 284)]
    feed(core, [trade(4, T0 + 30 * MINUTE, "9"), trade(5, T0 + 284 * MINUTE, "8")])
    said += steps(core, T0 + 285 * MINUTE)
    found = newest(klines(said))
    assert found["BTCUSDT", "1m", T0 + 30 * MINUTE].complete == 0
    assert not core.silences.runs


def test_what_is_kept_is_bounded() -> None:
    core = new_core("1m")
    feed(core, start())
    steps(core, T0 + 2 * MINUTE)
    silent(core, 3, BARS_MAX + 500, every=60)
    (runs,) = core.silences.runs[0].values()
    assert sum(each.count for each in runs) == BARS_MAX
    assert len(runs) == 1, "equal bars are one run"


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=1, max_size=4))
def test_any_silences_are_whole_and_equal_the_oracle(waits: list[tuple[int, int]]) -> None:
    """Beside a window of 10 minutes."""
    core, rows, minute, said = new_core("1m", "5m", window_minutes=10), start(), 2, []
    feed(core, rows)
    said += steps(core, T0 + 2 * MINUTE)
    for number, (wait, price) in enumerate(waits, 4):
        said += silent(core, minute + 1, minute + wait, every=4)
        minute += wait
        rows.append(trade(number, T0 + minute * MINUTE + 100, str(price)))
        feed(core, rows[-1:])
        said += steps(core, T0 + minute * MINUTE + 200)
    found: dict[tuple[str, str, int], Kline] = newest(klines(said))
    expected = fold(rows, ("1m", "5m"), T0 + minute * MINUTE)
    for key, kline in found.items():
        if kline.close_time < T0 + minute * MINUTE:
            assert (values(kline), kline.complete) == (expected[key], 1), key

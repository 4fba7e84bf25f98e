"""The publisher: readers of `bars` and `live` see the truth, evidence and lost trades are named exactly."""

from __future__ import annotations

import random
from decimal import Decimal

import fakeredis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator.commit import Committer
from aggregator.core import LONG_A_TURN, Core
from aggregator.encoding import snapshot
from aggregator.ledger import Gap
from aggregator.publisher import edge_text, evidence_of, minutes_of
from aggregator.ring import NO_BUCKET
from klagg.drivers.redis_streams import Streams
from klagg.intervals import BINANCE_INTERVALS, MINUTE_MS
from klagg.wire.entries import BARS_POSITION, LIVE_META, live_value_of
from klagg.wire.fields import texts_of
from klagg.wire.keys import Keys
from tests.aggregator.kit import T0, feed, klines, new_core, tick, trade, watermark
from tests.aggregator.listingkit import copy_of
from tests.aggregator.test_core import market

KEYS = Keys(0)


def numbers(value: str) -> tuple[Decimal, ...]:
    """A live value as numbers: one that was shown before a scale rose has fewer zeros."""
    return tuple(map(Decimal, value.split(",")))


def open_bars(core: Core, intervals: range) -> dict[str, tuple[Decimal, ...]]:
    """The newest bar in progress of every symbol and interval, straight out of the ring: one with trades, or the one
    that is next to be published."""
    ring, found = core.ring, {}
    for at in intervals:
        for slot in np.flatnonzero(ring.cursor[at] != NO_BUCKET).tolist():
            cursor = int(ring.cursor[at, slot])
            for bucket in range(int(ring.head[at]), cursor - 1, -1):
                row = ring.row_of(at, bucket)
                if ring.revision[row, slot] == 0 and (ring.open_id[row, slot] >= 0 or bucket == cursor):
                    bar = snapshot(ring, core.symbols, at, np.array([row]), np.array([slot]))
                    if bar.empty[0]:
                        close = ring.close_before(at, np.array([bucket]), np.array([slot]))
                        assert ring.close[row, slot] == close[0]
                    found[bar.live_fields()[0]] = numbers(bar.live_values()[0])
                    break
    return found


def read_anew(streams: Streams) -> dict[str, tuple[Decimal, ...]]:
    """What a reader knows that loads `bars` and then applies `live` from the position in it: the newest bars."""
    held = {name.decode(): value.decode() for name, value in streams.hash_of(KEYS.bars).items()}
    position = held.pop(BARS_POSITION)
    shown = {name: numbers(value) for name, value in held.items()}
    for entry in streams.read({KEYS.live: position}, count=10_000).get(KEYS.live, []):
        for name, value in texts_of(entry.fields).items():
            if name not in LIVE_META and numbers(value)[0] >= shown.get(name, (Decimal(0),))[0]:
                shown[name] = numbers(value)
    return shown


@hypothesis_settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    long_ms=st.sampled_from([0, 1000]),
    step_ms=st.sampled_from([250, 1000, 7000]),
    restart=st.booleans(),
)
def test_a_reader_of_bars_and_live_sees_the_newest_open_bars(
    seed: int, long_ms: int, step_ms: int, restart: bool
) -> None:
    rng, ticks = random.Random(seed), 60
    rows, late, at = market(seed, 3, ticks * 3, ticks * step_ms), [], 0
    core, streams = new_core("1m", "5m", "1h", live_long_ms=long_ms), Streams("", client=fakeredis.FakeRedis())
    committer = Committer(streams, KEYS, "test")
    committer.take_over(0)
    for number, time_ms in enumerate(range(T0, T0 + ticks * step_ms, step_ms)):
        part = []
        while at < len(rows) and rows[at].time <= time_ms:
            part.append(rows[at])
            at += 1
        late += (lost := [row for row in part if rng.random() < 0.2])
        part = [row for row in part if row not in lost]
        if rng.random() < 0.2:
            part, late = part + late, []
        feed(core, part)
        if rng.random() < 0.5:
            watermark(core, time_ms, "S0USDT", "S1USDT")
        if restart and number == ticks // 2:
            committer = Committer(streams, KEYS, "test2")
            committer.take_over(0)
        outputs = tick(core, time_ms)
        committer.commit(outputs, f"1-{number}")
        everything = long_ms == 0 or bool(outputs.bars)
        truth = open_bars(core, range(3 if everything else 1))
        if not streams.hash_of(KEYS.bars):
            assert not outputs.bars
            continue
        seen = read_anew(streams)
        assert {name: seen.get(name) for name in truth} == truth
        assert not everything or seen.keys() == truth.keys()


def test_long_intervals_take_turns_and_their_finals_wait_for_none() -> None:
    """Every interval of Binance is shown within ceil(12 / LONG_A_TURN) turns, also across a checkpoint."""
    core = new_core(*BINANCE_INTERVALS, live_long_ms=1000)
    feed(core, [trade(1, T0, "5")])
    turns: list[set[str]] = []
    for second in range(9):
        feed(core, [trade(second + 2, T0 + second * 1000 + 1, "6")])
        turns.append({name.partition(":")[2] for name in tick(core, T0 + second * 1000 + 1).bars})
        assert turns[-1] >= {"1m", "3m", "5m"}
        if second == 4:
            core = copy_of(core, *BINANCE_INTERVALS)
    assert [len(each) for each in turns] == [3 + LONG_A_TURN] * 9
    assert turns[1] == {"1m", "3m", "5m", "2h", "4h", "6h"}
    for first in range(6):
        assert set[str]().union(*turns[first : first + 4]) == set(BINANCE_INTERVALS)
    feed(core, [trade(50, T0 + 86_400_000 * 2, "7"), trade(51, T0 + 86_400_000 * 2 + 1, "7")])
    closed = {each.interval for each in klines(tick(core, T0 + 86_400_000 * 2 + 1))}
    assert closed >= {"15m", "1h", "8h", "1d"}


def test_a_late_trade_of_the_bar_before_does_not_bring_that_one_back() -> None:
    core = new_core("1m", live_long_ms=0)
    feed(core, [trade(1, T0, "5")])
    tick(core, T0)
    feed(core, [trade(3, T0 + 60_100, "6")])
    tick(core, T0 + 60_200)
    feed(core, [trade(2, T0 + 59_999, "7")])
    outputs = tick(core, T0 + 60_400)
    assert [each["close"] for each in map(live_value_of, (outputs.live[0]["BTCUSDT:1m"],))] == ["7"]
    assert "BTCUSDT:1m" not in outputs.bars


def test_every_version_of_a_bar_in_one_tick_goes_to_live_in_order() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "5"), trade(2, T0 + 180_000, "6")])
    outputs = tick(core, T0 + 195_000)
    shown = [live_value_of(each["BTCUSDT:1m"]) for each in outputs.live]
    assert [(int(each["open_time"]) - T0, each["closed"]) for each in shown] == [
        (0, "1"),
        (60_000, "1"),
        (120_000, "1"),
        (180_000, "0"),
    ]
    assert [each.open_time - T0 for each in klines(outputs)] == [0, 60_000, 120_000]
    assert {each["time"] for each in outputs.live} == {str(T0 + 195_000)}


@pytest.mark.parametrize(("scales", "text"), [((0, 0), "1:2:3:4:50:60:1"), ((2, 1), "1:2:3:4:0.50:6.0:1")])
def test_edge_evidence_is_at_the_symbols_scales(scales: tuple[int, int], text: str) -> None:
    edge = (1, 2, 3, 4, 50, 60, 1)
    assert edge_text([edge], *scales) == text
    assert edge_text([edge, edge], *scales) == f"{text};{text}"
    assert edge_text([], *scales) == ""


# Trades that could not be had are named by their ids and minutes.


def test_minutes_are_those_that_the_gaps_touch() -> None:
    gaps = [
        Gap(9, 9, T0 + 5 * MINUTE_MS, T0 + 5 * MINUTE_MS + 1),
        Gap(2, 3, T0 + 59_999, T0 + 60_000),
        Gap(5, 6, T0 + 61_000, T0 + 2 * MINUTE_MS),
    ]
    assert minutes_of(gaps) == [(T0, T0 + 2 * MINUTE_MS), (T0 + 5 * MINUTE_MS, T0 + 5 * MINUTE_MS)]


def test_the_sentence() -> None:
    assert evidence_of([Gap(2, 3, T0, T0 + 60_000), Gap(7, 7, T0 + 300_000, T0 + 300_001)]) == (
        "3 trades could not be had any more: ids 2 to 3, 7; they belong to the minutes 2023-11-14 22:00 to "
        "2023-11-14 22:01, 2023-11-14 22:05 (UTC)"
    )

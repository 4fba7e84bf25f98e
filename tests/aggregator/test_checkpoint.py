"""A core put back from its checkpoint says from then on what the first one says.

What may differ: the first `live` entries after a restart show every open bar again, and `bars` repeats
what may not have been written, so a restored core's live outputs may hold more fields, never other values.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator.checkpoint import BLOCK_SYMBOLS, Checkpoint, CheckpointDamaged, fits, restore
from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg.wire.entries import (
    LIVE_META,
    TICK,
    Listing,
    TradeRow,
    listing_entries,
    official_entry,
    tick_entry,
    trades_entry_of_rows,
    watermark_entry,
)
from klagg.wire.fields import Fields
from tests.aggregator.kit import T0, feed, new_core, raw, tick, trade
from tests.aggregator.officialkit import HOUR, MINUTE, exchange_rows
from tests.aggregator.test_core import market

INTERVALS = ("15s", "1m", "1h", "1M")


def entries_of(seed: int, symbols: int, ticks: int) -> list[Fields]:
    """A feed: losses, late repairs, trades ahead of the tick, edges, rising scales, watermarks, listings and official
    rows: minutes that heal, a symbol's past, and one that has no trade."""
    rng = random.Random(seed)
    step_ms = rng.choice((250, 1000, 20_000))
    rows, late, entries, at = market(seed, symbols, ticks * 6, ticks * step_ms + 90_000), [], [], 0
    for time_ms in range(T0, T0 + ticks * step_ms, step_ms):
        part = []
        while at < len(rows) and rows[at].time <= time_ms + rng.choice((0, 0, 75_000)):
            part.append(rows[at])
            at += 1
        late += (lost := [row for row in part if rng.random() < 0.05])
        part = [row for row in part if row not in lost]
        if late and rng.random() < 0.1:
            part, late = part + late[:3], late[3:]
        if part:
            entries.append(trades_entry_of_rows(part, line="A", ids="agg", recv_ms=time_ms))
        if rng.random() < 0.3:
            entries.append(watermark_entry("A", ("S0USDT", "S1USDT"), time_ms))
        if rng.random() < 0.05:
            name = f"S{rng.randrange(symbols)}USDT"
            entries += listing_entries([Listing(name, T0, rng.randrange(6), 3, "TRADING", T0)])
        entries += official_entries(rng, rows, time_ms)
        entries.append(tick_entry(time_ms))
    return entries


def official_entries(rng: random.Random, rows: Sequence[TradeRow], time_ms: int) -> list[Fields]:
    """At some ticks the exchange's rows of a symbol: minutes since T0, and hours before it."""
    if rng.random() < 0.8:
        return []
    flat = ("7", "7", "7", "7", "0", "0", 0, "0", "0")
    kind, name = rng.choice(("minutes", "minutes", "hours", "quiet")), rng.choice(rows).symbol
    if kind == "quiet":
        opens = range(T0 - rng.randrange(1, 90) * MINUTE, T0 - rng.randrange(60) * MINUTE, MINUTE)
        return [official_entry("QUIETUSDT", "1m", T0 - HOUR * 2, T0, [(each, *flat) for each in opens])]
    if kind == "hours":
        opens = range(T0 - rng.randrange(1, 9) * HOUR, T0, HOUR)
        hours = [(each, "7", "8", "6", "7", "5", "35", 9, "1", "7") for each in opens]
        return [official_entry(name, "1h", T0 - 9 * HOUR, T0, hours)]
    known = [row for row in rows if row.symbol == name and row.time < time_ms // MINUTE * MINUTE]
    minutes = exchange_rows(known, "1m", T0, time_ms // MINUTE * MINUTE)
    start = rng.randrange(len(minutes) + 1)
    return [official_entry(name, "1m", T0, T0 + 100 * HOUR, minutes[start : start + 3])]


def copy_of(core: Core) -> Core:
    """A fresh core with the checkpoint of another."""
    checkpoint, other = Checkpoint(core), new_core(*INTERVALS)
    assert fits(other, checkpoint.header)
    restore(other, checkpoint.header, [checkpoint.block(number) for number in range(checkpoint.blocks)])
    return other


def numbers(value: str) -> tuple[Decimal, ...]:
    """A live value; what was shown before a scale rose has fewer zeros."""
    return tuple(map(Decimal, value.split(",")))


def apply_live(shown: dict[str, dict[int, tuple[Decimal, ...]]], outputs: Outputs) -> None:
    for entry in outputs.live:
        for name, value in entry.items():
            if name not in LIVE_META:
                shown.setdefault(name, {})[int(value.partition(",")[0])] = numbers(value)


@hypothesis_settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    symbols=st.sampled_from([2, BLOCK_SYMBOLS + 1, 70]),
    ticks=st.integers(2, 80),
    data=st.data(),
)
def test_restored_at_any_tick_it_goes_on_the_same(seed: int, symbols: int, ticks: int, data: st.DataObject) -> None:
    entries = entries_of(seed, symbols, ticks)
    places = [at for at, each in enumerate(entries) if each["kind"] == TICK]
    cut = data.draw(st.sampled_from(places)) + 1
    core = new_core(*INTERVALS)
    bars: dict[str, tuple[Decimal, ...]] = {}
    shown: dict[str, dict[int, tuple[Decimal, ...]]] = {}
    for each in entries[:cut]:
        for outputs in core.apply("1-1", raw(each)):
            outputs.encode()
            bars |= {name: numbers(value) for name, value in outputs.bars.items()}
            apply_live(shown, outputs)
    other, bars_of_other = copy_of(core), dict(bars)
    shown_of_other = {name: dict(values) for name, values in shown.items()}
    for each in entries[cut:]:
        for one, two in zip(core.apply("1-1", raw(each)), other.apply("1-1", raw(each)), strict=True):
            one.encode(), two.encode()
            assert (one.klines, one.events, one.findings, one.dead) == (two.klines, two.events, two.findings, two.dead)
            assert one.requests == two.requests
            bars |= {name: numbers(value) for name, value in one.bars.items()}
            bars_of_other |= {name: numbers(value) for name, value in two.bars.items()}
            apply_live(shown, one)
            apply_live(shown_of_other, two)
            if one.bars and two.bars:
                assert bars == bars_of_other
                assert shown == shown_of_other
    assert Checkpoint(core).header == Checkpoint(other).header
    assert Checkpoint(copy_of(core)).header == Checkpoint(core).header


def test_what_was_open_and_empty_is_in_bars_after_a_restart() -> None:
    """The bar opened between two writes of `bars`; the process that showed it dies before the next one."""
    core = new_core(*INTERVALS, live_long_ms=1000)
    feed(core, [trade(1, T0, "5")])
    assert tick(core, T0 + 24_500).bars
    between = tick(core, T0 + 25_000)
    assert between.live
    assert not between.bars
    other = copy_of(core)
    one, two = tick(core, T0 + 25_500), tick(other, T0 + 25_500)
    assert one.bars.keys() == {"BTCUSDT:15s"}
    assert one.bars.items() <= two.bars.items()


def test_another_layout_does_not_fit() -> None:
    header = Checkpoint(new_core("1m", "5m")).header
    assert fits(new_core("1m", "5m"), header)
    assert not fits(new_core("1m"), header)
    assert not fits(new_core("1m", "5m", window_minutes=60), header)
    assert fits(new_core("1m", "5m", grace_ms=5), header)
    for nonsense in ("", "{}", "[]", "null", "{", '{"layout": 3}'):
        assert not fits(new_core("1m", "5m"), nonsense)


@pytest.mark.parametrize("damage", ["noise", "short", "long", "lost", "more", "header"])
def test_damage_is_said_and_not_guessed(damage: str) -> None:
    core = new_core(*INTERVALS)
    feed(core, [trade(1, T0, symbol=f"S{at}USDT") for at in range(30)])
    tick(core, T0)
    checkpoint = Checkpoint(core)
    header, blocks = checkpoint.header, [checkpoint.block(number) for number in range(checkpoint.blocks)]
    assert len(blocks) == 2
    if damage == "noise":
        blocks[1] = b"noise"
    elif damage == "short":
        blocks[1] = zlib.compress(zlib.decompress(blocks[1])[:-8])
    elif damage == "long":
        blocks[1] = zlib.compress(zlib.decompress(blocks[1]) + b"12345678")
    elif damage == "lost":
        del blocks[1]
    elif damage == "more":
        blocks.append(blocks[1])
    else:
        header = header.replace('"head"', '"tail"')
    with pytest.raises(CheckpointDamaged):
        restore(new_core(*INTERVALS), header, blocks)


def test_the_copy_does_not_move_with_the_core() -> None:
    core = new_core(*INTERVALS)
    feed(core, [trade(1, T0, "5")])
    tick(core, T0)
    checkpoint = Checkpoint(core)
    before = checkpoint.header, checkpoint.block(0)
    feed(core, [trade(2, T0 + 1, "6.5")])
    tick(core, T0 + 120_000)
    assert (checkpoint.header, checkpoint.block(0)) == before

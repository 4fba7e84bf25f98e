"""The ring: rows for every interval, what leaves it, what it carries, growth and scales."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.ring import AHEAD_MS, BAR_INTEGERS, NO_BUCKET, PRICES, Ring
from klagg.errors import ArithmeticOverflow
from klagg.intervals import INTERVALS, MINUTE_MS, ordered
from klagg.wire.entries import Listing, listing_entries
from tests.aggregator.kit import T0, feed, klines, new_core, newest, raw, tick, trade

ALL = tuple(INTERVALS)


def full(ring: Ring, seed: int = 1) -> None:
    """Every field of every bar holds something that no other holds."""
    rng = np.random.default_rng(seed)
    for name in BAR_INTEGERS:
        getattr(ring, name)[...] = rng.integers(1, 10**6, (ring.rows, ring.capacity))


@given(time_ms=st.integers(1_500_000_000_000, 1_900_000_000_000), jumps=st.lists(st.integers(0, 10**10), max_size=4))
def test_every_bucket_of_the_window_has_a_row_of_its_own(time_ms: int, jumps: list[int]) -> None:
    window_ms = 30 * MINUTE_MS
    ring = Ring(ordered(ALL), window_ms, 2)
    for jump in (0, *jumps):
        time_ms += jump
        ring.advance(time_ms)
        for at, kind in enumerate(ring.intervals):
            behind = window_ms if kind.shortest_ms >= MINUTE_MS else min(window_ms, 180 * kind.shortest_ms)
            first, last = kind.bucket_of(time_ms - behind), kind.bucket_of(time_ms + AHEAD_MS)
            assert ring.head[at] == last
            assert ring.oldest(at) <= first
            buckets = np.arange(first, last + 1)
            rows = ring.rows_of(at, buckets)
            assert rows.tolist() == [ring.row_of(at, each) for each in buckets.tolist()]
            assert len(set(rows.tolist())) == len(buckets)
            assert (ring.row_bucket[rows] == buckets).all()
            assert (ring.row_interval[rows] == at).all()


def test_a_row_is_emptied_for_its_next_bucket_and_its_close_is_carried() -> None:
    ring = Ring(ordered(("1m",)), 5 * MINUTE_MS, 3)
    ring.advance(T0)
    oldest = ring.oldest(0)
    row = ring.row_of(0, oldest)
    full(ring)
    ring.close[row] = 7, 8, 9
    ring.revision[row] = 1, 0, 0
    ring.open_id[row] = -1, 5, -1
    ring.cursor[0] = oldest + 1, oldest + 1, NO_BUCKET
    ring.advance(T0 + MINUTE_MS)
    assert ring.carry[0].tolist() == [7, 8, 0], "published, with trades behind the cursor, never begun"
    assert ring.row_bucket[row] == oldest + ring.sizes[0]
    for name, empty in BAR_INTEGERS.items():
        assert (getattr(ring, name)[row] == empty).all(), name


def test_time_that_stands_still_or_goes_back_changes_nothing() -> None:
    ring = Ring(ordered(ALL), 5 * MINUTE_MS, 2)
    ring.advance(T0)
    full(ring)
    before = {name: getattr(ring, name).copy() for name in BAR_INTEGERS}
    heads, buckets = ring.head.copy(), ring.row_bucket.copy()
    for back in (0, 1, MINUTE_MS, 10**9):
        ring.advance(T0 - back)
    assert all((getattr(ring, name) == values).all() for name, values in before.items())
    assert (ring.head == heads).all()
    assert (ring.row_bucket == buckets).all()


def test_growth_keeps_every_value_in_its_place() -> None:
    ring = Ring(ordered(("1m", "1M")), 5 * MINUTE_MS, 3)
    ring.advance(T0)
    full(ring)
    ring.cursor[...] = 5
    before = {name: getattr(ring, name).copy() for name in (*BAR_INTEGERS, "cursor", "carry", "shown")}
    ring.grow(8)
    for name, values in before.items():
        found = getattr(ring, name)
        assert found.shape == (len(values), 8)
        assert (found[:, :3] == values).all()
        assert (found[:, 3:] == BAR_INTEGERS.get(name, NO_BUCKET if name != "carry" else 0)).all()


def test_symbols_beyond_every_capacity_arrive_while_bars_are_live() -> None:
    """Three growths (64, 128, 256); each symbol's first bar must come out as it was traded."""
    core, said = new_core("1m", "5m"), []
    count = 300
    for at in range(count):
        feed(core, [trade(10, T0 + at * 100, str(at + 1), "2", symbol=f"S{at:03}USDT")])
        if at % 7 == 0:
            said.append(tick(core, T0 + at * 100))
    assert core.ring.capacity == 512
    feed(core, [trade(11, T0 + 60_000, str(at + 2), "1", symbol=f"S{at:03}USDT") for at in range(count)])
    said += [tick(core, T0 + 75_000)]
    found = newest(klines(said))
    assert len(found) == count
    for at in range(count):
        kline = found[f"S{at:03}USDT", "1m", T0]
        assert (kline.open, kline.close, kline.volume, kline.quote_volume) == (
            str(at + 1),
            str(at + 1),
            "2",
            str(2 * (at + 1)),
        )


@given(
    price=st.integers(0, 10**9), qty=st.integers(0, 10**9), price_more=st.integers(0, 17), qty_more=st.integers(0, 17)
)
def test_rescaling_is_exact_or_changes_nothing(price: int, qty: int, price_more: int, qty_more: int) -> None:
    ring = Ring(ordered(("1m", "1h")), 5 * MINUTE_MS, 3)
    powers = {"volume": qty_more, "taker_buy_volume": qty_more, "carry": price_more}
    powers |= dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), price_more + qty_more)
    powers |= dict.fromkeys(PRICES, price_more)
    for name, power in powers.items():
        value = price if power == price_more else qty if power == qty_more else price * qty
        getattr(ring, name)[...] = value
    before = {name: getattr(ring, name).copy() for name in powers}
    try:
        ring.rescale(1, price_more, qty_more)
    except ArithmeticOverflow:
        assert any(int(values.max()) * 10 ** powers[name] > 2**62 for name, values in before.items())
        assert all((getattr(ring, name) == values).all() for name, values in before.items())
        return
    for name, values in before.items():
        found = getattr(ring, name)
        assert found[:, 1].tolist() == [each * 10 ** powers[name] for each in values[:, 1].tolist()], name
        assert (found[:, ::2] == values[:, ::2]).all(), "other symbols keep their scale"


def test_many_decimals_of_a_new_symbol_are_no_overflow() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "0.00000012", "0.7"), trade(2, T0 + 60_000)])
    outputs = tick(core, T0 + 75_000)
    (kline,) = klines(outputs)
    assert (kline.open, kline.volume) == ("0.00000012", "0.7")


def test_a_scale_that_cannot_be_raised_costs_a_trade_and_not_the_process() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "90000", "1000")])
    tick(core, T0)
    feed(core, [trade(2, T0 + 1, "0.00000000000000001", "1"), trade(3, T0 + 2, "5", "1"), trade(4, T0 + 60_000)])
    outputs = tick(core, T0 + 60_000)
    assert {each["kind"] for each in outputs.findings} == {"OVERFLOW"}
    (listing,) = listing_entries([Listing("BTCUSDT", 1, 17, 17, "TRADING", 1)])
    core.apply("1-1", raw(listing))
    later = tick(core, T0 + 75_000)
    assert [each["kind"] for each in later.findings] == ["OVERFLOW"]
    (kline,) = klines([outputs, later])
    assert (kline.low, kline.volume, kline.complete) == ("5", "1001", 0)
    assert core.open_gaps == 0, "the refused trade was seen: nobody needs to ask for it again"


def test_trades_held_back_for_a_later_tick_follow_a_raised_scale() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "5", "2"), trade(2, T0 + 180_000, "6", "3")])
    tick(core, T0)
    assert len(core.held) == 1
    feed(core, [trade(3, T0 + 180_001, "6.25", "0.5")])
    tick(core, T0 + 1000)
    feed(core, [trade(4, T0 + 240_000)])
    said = newest(klines([tick(core, T0 + 180_000), tick(core, T0 + 240_000)]))
    kline = said["BTCUSDT", "1m", T0 + 180_000]
    assert (kline.open, kline.close, kline.volume, kline.quote_volume) == ("6.00", "6.25", "3.5", "21.125")

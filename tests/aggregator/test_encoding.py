"""Bars as texts: klines read back as they were written, and both ways to a live value give the same."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.encoding import Snapshot
from aggregator.ring import BAR_INTEGERS, FIELD
from klagg.decimals import decimals_of, to_text
from klagg.intervals import MINUTE, interval
from klagg.kline import DECIMAL_FIELDS, FIELDS, NINE_VALUES, Kline
from klagg.wire.entries import live_value_of
from tests.aggregator.kit import T0, feed, new_core, tick
from tests.aggregator.test_core import market


@given(seed=st.integers(0, 2**32))
def test_a_kline_entry_reads_back_as_it_was_written(seed: int) -> None:
    rows, core = market(seed, 3, 200, 400_000), new_core("15s", "1m", "1h")
    feed(core, rows[:-1])
    outputs = tick(core, T0 + 500_000)
    assert outputs.klines
    scales = dict(zip(core.symbols.names, core.symbols.price_scale.tolist(), strict=False))
    for written in outputs.klines:
        assert tuple(written) == FIELDS
        kline = Kline.from_fields(written)
        assert kline.to_fields() == written
        assert kline.close_time == interval(kline.interval).close_time(kline.open_time)
        assert len(kline.close.partition(".")[2]) == scales[kline.symbol]
        assert all(decimals_of(getattr(kline, name)) >= 0 for name in DECIMAL_FIELDS)
        assert (kline.first_agg_id, kline.last_agg_id) == (-1, -1) or kline.first_agg_id <= kline.last_agg_id
        assert (kline.trades == 0) == (kline.first_trade_id == -1) == (kline.first_agg_id == -1)
        assert Decimal(kline.low) <= min(Decimal(kline.open), Decimal(kline.close))
        assert Decimal(kline.high) >= max(Decimal(kline.open), Decimal(kline.close))


MANTISSAS = st.integers(0, 2**62)
SCALES = st.integers(0, 17)
BARS = st.lists(st.tuples(SCALES, SCALES, st.lists(MANTISSAS, min_size=9, max_size=9)), min_size=1, max_size=8)


def snapshot_of(bars: list[tuple[int, int, list[int]]]) -> Snapshot:
    """Bars in progress of one minute with these scales and nine values."""
    values = np.repeat(np.array([*BAR_INTEGERS.values()])[:, None], len(bars), axis=1)
    for at, (_, _, nine) in enumerate(bars):
        for name, value in zip(NINE_VALUES, nine, strict=True):
            values[FIELD[name], at] = value
    count, never = len(bars), np.zeros(len(bars), np.bool_)
    names = [f"S{at}USDT" for at in range(count)]
    price, qty = (np.array([bar[at] for bar in bars], np.int64) for at in (0, 1))
    opens = np.full(count, MINUTE.bucket_of(T0))
    return Snapshot(MINUTE, np.arange(count), names, opens, values, never, never, never, ["own"] * count, price, qty)


@given(BARS)
def test_the_nine_values_are_exact_decimals_and_joined_they_are_the_live_value(
    bars: list[tuple[int, int, list[int]]],
) -> None:
    snapshot = snapshot_of(bars)
    scales = dict.fromkeys(("open", "high", "low", "close"), (1, 0)) | {"trades": (0, 0)}
    scales |= dict.fromkeys(("volume", "taker_buy_volume"), (0, 1))
    scales |= dict.fromkeys(("quote_volume", "taker_buy_quote_volume"), (1, 1))
    nine_values = snapshot.nine_values()
    assert nine_values == [
        tuple(
            to_text(value, price * scales[name][0] + qty * scales[name][1])
            for name, value in zip(NINE_VALUES, nine, strict=True)
        )
        for price, qty, nine in bars
    ]
    assert snapshot.live_values() == snapshot.live_values(nine_values)
    for text, nine in zip(snapshot.live_values(), nine_values, strict=True):
        shown = live_value_of(text)
        assert tuple(shown[name] for name in NINE_VALUES) == nine
        assert [shown[name] for name in ("open_time", "closed", "complete", "official")] == [str(T0), "0", "0", "0"]
    assert snapshot.live_fields() == [f"S{at}USDT:1m" for at in range(len(bars))]

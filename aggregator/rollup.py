"""Klines folded into longer klines by the aggregator's own kernel: what `klagg rollup` runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aggregator.arrays import Ints
from aggregator.fold import Segments, longer
from klagg.decimals import decimals_of, to_mantissa, to_text
from klagg.errors import BadDecimal, RecordingError
from klagg.intervals import MINUTE_MS, Interval


@dataclass(frozen=True, slots=True)
class SourceBar:
    """One kline as given: decimals as texts, None for what the source does not have."""

    open_time: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    quote_volume: str | None = None
    trades: int | None = None
    taker_buy_volume: str | None = None
    taker_buy_quote_volume: str | None = None


INT64_SAFE = 1 << 62
PRICES = ("open", "high", "low", "close")
SUMS = ("volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")


def roll_up(bars: Sequence[SourceBar], to: Interval, origin: str) -> list[SourceBar]:
    """The bars of interval `to` that hold `bars`, by open time; exact, as integers at the scales that the bars need.

    Bars may come in any order; one open time twice is a RecordingError, as is a decimal that is none.
    """
    if not bars:
        return []
    bars = sorted(bars, key=lambda bar: bar.open_time)
    for one, other in itertools.pairwise(bars):
        if one.open_time == other.open_time:
            raise RecordingError(origin, 0, f"holds the kline of open time {one.open_time} twice")
    try:
        columns = {name: _column(bars, name) for name in PRICES + SUMS}
    except BadDecimal as bad:
        raise RecordingError(origin, 0, str(bad)) from None
    times = np.array([bar.open_time for bar in bars], np.int64)
    values = {name: mantissas for name, (mantissas, _) in columns.items()}
    ordinal = np.arange(len(bars), dtype=np.int64)
    whole = longer(
        Segments(
            slot=np.zeros(len(bars), np.int64),
            bucket=times // MINUTE_MS,
            open_minute=times // MINUTE_MS,
            open_id=ordinal,
            close_minute=times // MINUTE_MS,
            close_id=ordinal,
            first_trade_id=ordinal,
            last_trade_id=ordinal,
            trades=np.array([bar.trades or 0 for bar in bars], np.int64),
            agg=np.zeros(len(bars), np.bool_),
            **values,
        ),
        to.buckets_of(times),
    )
    lacking = {name for name in (*SUMS, "trades") if getattr(bars[0], name) is None}
    texts = {
        name: [None if name in lacking else to_text(value, columns[name][1]) for value in getattr(whole, name).tolist()]
        for name in PRICES + SUMS
    }
    return [
        SourceBar(
            open_time=open_time,
            trades=None if "trades" in lacking else trades,
            **{name: column[at] for name, column in texts.items()},  # type: ignore[arg-type]
        )
        for at, (open_time, trades) in enumerate(
            zip(to.opens_of(whole.bucket).tolist(), whole.trades.tolist(), strict=True)
        )
    ]


def _column(bars: Sequence[SourceBar], name: str) -> tuple[Ints, int]:
    """A column as mantissas at the scale that all its values need; what is lacking is zero.

    Sums that may not fit 64 bits (tables kept as floats have decimals that no exchange has) stay Python's integers.
    """
    texts = [getattr(bar, name) or "0" for bar in bars]
    scale = max(decimals_of(text) for text in texts)
    mantissas = [to_mantissa(text, scale) for text in texts]
    return np.array(mantissas, np.int64 if sum(mantissas) < INT64_SAFE else np.object_), scale

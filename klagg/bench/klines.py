"""Finals for `klagg bench writer`: values as long as the market's, the same at every run."""

from __future__ import annotations

from typing import Final

from klagg.intervals import DAY_MS, MINUTE_MS, interval
from klagg.kline import Kline

START_MS: Final = 1_767_571_200_000
"""2026-01-05T00:00:00Z, a Monday."""

INTERVALS: Final = ("1m", "5m", "30m", "1h", "4h", "1d", "1w")


def final_bars(symbols: int, count: int) -> list[Kline]:
    """`count` finals of one minute, minute after minute all symbols, as an aggregator publishes them."""
    return [
        _bar(f"S{number % symbols:04d}USDT", "1m", START_MS + number // symbols * MINUTE_MS, number)
        for number in range(count)
    ]


def rollover_bars(symbols: int, week: int) -> list[Kline]:
    """What closes with the Sunday of a week: a final of each symbol and interval. No other week has its open times."""
    end_ms = START_MS + (week + 1) * 7 * DAY_MS
    return [
        _bar(f"S{number:04d}USDT", name, interval(name).open_time(end_ms - 1), number * len(INTERVALS) + at)
        for number in range(symbols)
        for at, name in enumerate(INTERVALS)
    ]


def _bar(symbol: str, name: str, open_time: int, seed: int) -> Kline:
    """A bar whose digits are mixed out of `seed`."""
    mixed = seed * 2_654_435_761 % 2**32
    price, traded = 10_000 + mixed % 5_000_000, mixed % 9_999_999
    return Kline(
        symbol=symbol,
        interval=name,
        open_time=open_time,
        close_time=interval(name).close_time(open_time),
        open=f"{price / 100:.2f}",
        high=f"{(price + 99) / 100:.2f}",
        low=f"{(price - 99) / 100:.2f}",
        close=f"{(price + 7) / 100:.2f}",
        volume=f"{traded / 1000:.3f}",
        quote_volume=f"{traded * 37 / 10000:.5f}",
        trades=traded % 5000,
        taker_buy_volume=f"{traded / 2000:.3f}",
        taker_buy_quote_volume=f"{traded * 17 / 10000:.5f}",
        first_agg_id=mixed,
        last_agg_id=mixed + traded % 5000,
        first_trade_id=mixed + 1,
        last_trade_id=mixed + 1 + traded % 5000,
        complete=1,
        official=0,
        epoch=1_767_000_000_000,
        revision=1,
        source="own",
        edge="",
    )

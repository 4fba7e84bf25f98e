"""Klines from the table and from live state as one series without a gap between the two. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gateway.live import LiveBar
from klagg.binance.serving.payloads import WireKline
from klagg.intervals import Interval
from klagg.kline import Kline


@dataclass(frozen=True, slots=True)
class Range:
    """The wanted bars of a series, as Binance's `startTime`, `endTime` and `limit` mean them (Binance USDⓈ-M docs,
    'Kline/Candlestick Data'): with `start_ms` the first `limit` bars that open at or after it, without it the last
    `limit`; none that opens after `end_ms`. Exchange ms."""

    start_ms: int | None
    end_ms: int | None
    limit: int

    def holds(self, open_time: int) -> bool:
        """Whether a bar with this open time is between the two times."""
        after = self.start_ms is None or open_time >= self.start_ms
        return after and (self.end_ms is None or open_time <= self.end_ms)


def joined(
    stored: Sequence[Kline], live: Iterable[LiveBar], symbol: str, interval: Interval, wanted: Range
) -> list[Kline]:
    """The wanted bars, by open time: rows of the table (the wanted ones of it) and bars of live state.

    Live state must be read before the table is queried. Of two versions of a bar the higher one is used: a final is
    higher than a bar in progress, finals are ordered by (revision, complete, official), and of two bars in progress the
    one of live state is newer.
    """
    bars = {kline.open_time: kline for kline in stored}
    for bar in live:
        if wanted.holds(bar.open_time):
            kept = bars.get(bar.open_time)
            if kept is None or not kept.revision or bar.version > kept.version[1:]:
                bars[bar.open_time] = kline_of(bar, symbol, interval)
    times = sorted(bars)
    chosen = times[-wanted.limit :] if wanted.start_ms is None else times[: wanted.limit]
    return [bars[at] for at in chosen]


def kline_of(bar: LiveBar, symbol: str, interval: Interval) -> Kline:
    """A bar of live state as a Kline. Fields that `live` does not carry are empty: source and edge "", epoch 0,
    aggTrade ids −1; the table has them a moment later."""
    return Kline(
        symbol,
        interval.name,
        bar.open_time,
        interval.close_time(bar.open_time),
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        bar.volume,
        bar.quote_volume,
        bar.trades,
        bar.taker_buy_volume,
        bar.taker_buy_quote_volume,
        -1,
        -1,
        bar.first_trade_id,
        bar.last_trade_id,
        bar.complete,
        bar.official,
        0,
        bar.revision,
        "",
        "",
    )


def wire_of(kline: Kline) -> WireKline:
    """A kline in the form of Binance's payloads."""
    return WireKline(
        kline.open_time,
        kline.close_time,
        kline.open,
        kline.high,
        kline.low,
        kline.close,
        kline.volume,
        kline.quote_volume,
        kline.trades,
        kline.taker_buy_volume,
        kline.taker_buy_quote_volume,
        kline.first_trade_id,
        kline.last_trade_id,
    )

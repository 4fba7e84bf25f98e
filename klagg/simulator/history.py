"""Which klines a REST request gets."""

from __future__ import annotations

from klagg.simulator.bars import Bar
from klagg.simulator.market import KLINE_INTERVALS, MarketSource


def klines(
    source: MarketSource, symbol: str, interval: str, start_ms: int | None, end_ms: int | None, limit: int, now_ms: int
) -> list[Bar]:
    """Up to `limit` bars by open time: the first that open from `start_ms` on, without it the last up to `end_ms`.

    The open bar comes last where the range reaches it. Bars that the source does not wholly know are left out.
    """
    aligned = KLINE_INTERVALS[interval]
    oldest = aligned.open_time(source.history_start_ms(symbol, now_ms))
    newest = aligned.open_time(now_ms if end_ms is None else min(end_ms, now_ms))
    if start_ms is None:
        opens = [newest]
        while len(opens) < limit and opens[-1] > oldest:
            opens.append(aligned.open_time(opens[-1] - 1))
        opens.reverse()
    else:
        at = aligned.open_time(max(start_ms, oldest))
        opens = [at] if at >= start_ms else [aligned.close_time(at) + 1]
        while len(opens) < limit:
            opens.append(aligned.close_time(opens[-1]) + 1)
    bars = []
    for open_ms in opens:
        if oldest <= open_ms <= newest:
            bar = source.bar(symbol, open_ms, aligned.close_time(open_ms), now_ms)
            if bar is not None:
                bars.append(bar)
    return bars

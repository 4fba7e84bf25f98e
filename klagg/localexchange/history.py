"""Which klines a REST request gets."""

from __future__ import annotations

from klagg.localexchange.bars import Bar
from klagg.localexchange.intervals import next_open, open_of, previous_open
from klagg.localexchange.market import Source


def klines(
    source: Source, symbol: str, interval: str, start_ms: int | None, end_ms: int | None, limit: int, now_ms: int
) -> list[Bar]:
    """Up to `limit` bars by open time: the first that open from `start_ms` on, without it the last up to `end_ms`.

    The open bar comes last where the range reaches it. Bars that the source does not wholly know are left out.
    """
    oldest = open_of(interval, source.history_start_ms(symbol, now_ms))
    newest = open_of(interval, now_ms if end_ms is None else min(end_ms, now_ms))
    if start_ms is None:
        opens = [newest]
        while len(opens) < limit and opens[-1] > oldest:
            opens.append(previous_open(interval, opens[-1]))
        opens.reverse()
    else:
        at = open_of(interval, max(start_ms, oldest))
        opens = [at] if at >= start_ms else [next_open(interval, at)]
        while len(opens) < limit:
            opens.append(next_open(interval, opens[-1]))
    bars = []
    for open_ms in opens:
        if oldest <= open_ms <= newest:
            bar = source.bar(symbol, open_ms, next_open(interval, open_ms) - 1, now_ms)
            if bar is not None:
                bars.append(bar)
    return bars

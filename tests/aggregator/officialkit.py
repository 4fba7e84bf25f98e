"""The exchange as the tests of official rows need it: slow, plain Python over all trades."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from decimal import Decimal

from aggregator.core import Core
from klagg.intervals import interval
from klagg.kline import NINE_VALUES, Kline
from klagg.wire.entries import TradeRow, official_entry
from tests.aggregator.kit import raw
from tests.aggregator.oracle import OracleBar

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
Row = tuple[object, ...]


def exchange_rows(trades: Sequence[TradeRow], name: str, from_ms: int, to_ms: int) -> list[Row]:
    """The klines of one symbol's trades (ascending) that open in [from, to), flat where there is no trade; none before
    the bar of the first trade, with which the symbol was listed."""
    kind, times = interval(name), [row.time for row in trades]
    rows: list[Row] = []
    if not trades:
        return []
    bucket = max(kind.bucket_of(from_ms + kind.shortest_ms - 1), kind.bucket_of(times[0]))
    while (opening := kind.open_of(bucket)) < to_ms:
        low, high = (bisect.bisect_left(times, kind.open_of(each)) for each in (bucket, bucket + 1))
        if low == high:
            price = trades[low - 1].price
            rows.append((opening, price, price, price, price, "0", "0", 0, "0", "0"))
        else:
            nine = OracleBar({(row.time // MINUTE, row.id): row for row in trades[low:high]}).values()[:9]
            rows.append((opening, *(f"{each:f}" if isinstance(each, Decimal) else each for each in nine)))
        bucket += 1
    return rows


def send(core: Core, symbol: str, name: str, rows: Iterable[Row], from_ms: int = 0, to_ms: int = 0) -> None:
    """An `official` entry; without a range that of its rows."""
    rows = list(rows)
    if not to_ms:
        times = [int(str(row[0])) for row in rows]
        from_ms, to_ms = times[0], times[-1] + interval(name).length_ms
    assert not list(core.apply("1-1", raw(official_entry(symbol, name, from_ms, to_ms, rows))))


def nine(kline: Kline) -> tuple[Decimal, ...]:
    """The nine values as numbers."""
    return tuple(Decimal(getattr(kline, name)) for name in NINE_VALUES)


def nine_of(row: Row) -> tuple[Decimal, ...]:
    """The nine values of an exchange's row, in the order of NINE_VALUES."""
    return tuple(Decimal(str(each)) for each in row[1:])

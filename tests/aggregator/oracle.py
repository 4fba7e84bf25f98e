"""A slow, plain oracle of the aggregator: Python integers and decimals, one trade at a time. It shares nothing with the
code under test but the names of the fields and the definition of an interval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from klagg.intervals import interval
from klagg.wire.entries import TradeRow


@dataclass
class OracleBar:
    """One bar's trades, by order key."""

    rows: dict[tuple[int, int], TradeRow] = field(default_factory=dict)

    def values(self) -> tuple[Decimal | int, ...]:
        """Nine values and the two id ranges of a bar with trades."""
        rows = [self.rows[key] for key in sorted(self.rows)]
        prices = [Decimal(row.price) for row in rows]
        amounts = [Decimal(row.price) * Decimal(row.qty) for row in rows]
        taker = [(Decimal(row.qty), amount) for row, amount in zip(rows, amounts, strict=True) if not row.maker]
        return (
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
            sum((Decimal(row.qty) for row in rows), Decimal(0)),
            sum(amounts, Decimal(0)),
            sum(row.last - row.first + 1 for row in rows),
            sum((qty for qty, _ in taker), Decimal(0)),
            sum((amount for _, amount in taker), Decimal(0)),
            rows[0].id,
            rows[-1].id,
            min(row.first for row in rows),
            max(row.last for row in rows),
        )


def fold(
    trades: Iterable[TradeRow], names: Iterable[str], until_ms: int = 0
) -> dict[tuple[str, str, int], tuple[Decimal | int, ...]]:
    """Every bar of these intervals from the first to the last one with trades, or to that of `until_ms` if later; empty
    ones carry the close."""
    bars: dict[tuple[str, str, int], OracleBar] = {}
    names = list(names)
    for row in trades:
        if not row.counts:
            continue
        for name in names:
            key = row.symbol, name, interval(name).open_time(row.time)
            bars.setdefault(key, OracleBar()).rows[row.time // 60_000, row.id] = row
    result = {key: bar.values() for key, bar in bars.items()}
    for symbol, name in sorted({key[:2] for key in bars}):
        kind = interval(name)
        opens = sorted(key[2] for key in bars if key[:2] == (symbol, name))
        close = Decimal(0)
        bucket = kind.bucket_of(opens[0])
        while kind.open_of(bucket) <= max(opens[-1], until_ms):
            key = symbol, name, kind.open_of(bucket)
            if key in result:
                close = Decimal(result[key][3])
            else:
                zero = Decimal(0)
                result[key] = (close, close, close, close, zero, zero, 0, zero, zero, -1, -1, -1, -1)
            bucket += 1
    return result

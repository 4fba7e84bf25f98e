"""What the aggregator's tests share: feeding a core, and reading what it said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg import settings
from klagg.kline import Kline
from klagg.wire.entries import TradeRow, tick_entry, trades_entry_of_rows, watermark_entry
from klagg.wire.fields import Fields, stamp

T0 = 1_700_000_000_000 // 3_600_000 * 3_600_000
"""A whole hour."""


def raw(fields: Fields) -> dict[bytes, bytes]:
    """An entry as Redis gives it."""
    return {name.encode(): value.encode() for name, value in stamp(fields, "test", 1).items()}


def new_core(*intervals: str, **changes: Any) -> Core:
    """A core of these intervals, epoch 1."""
    return Core(settings.Aggregator(intervals=intervals or ("1m",), **changes), epoch=1)


def trade(
    number: int,
    time_ms: int,
    price: str = "1",
    qty: str = "1",
    *,
    symbol: str = "BTCUSDT",
    counts: bool = True,
    **more: int,
) -> TradeRow:
    """An aggTrade of one fill whose fill id is its id."""
    return TradeRow(
        symbol,
        number,
        price,
        qty,
        more.get("first", number),
        more.get("last", number),
        time_ms,
        bool(more.get("maker")),
        counts,
    )


def feed(core: Core, rows: Sequence[TradeRow], ids: str = "agg") -> None:
    """Trades as one entry."""
    if rows:
        entry = trades_entry_of_rows(rows, line="A", ids=ids, recv_ms=rows[0].time)
        assert not list(core.apply("1-1", raw(entry)))


def watermark(core: Core, time_ms: int, *symbols: str) -> None:
    """A line carries these symbols until `time_ms`."""
    core.apply("1-1", raw(watermark_entry("A", symbols or ("BTCUSDT",), time_ms)))


def steps(core: Core, time_ms: int) -> list[Outputs]:
    """What a tick put out: one, or after a long gap one for each step of the jump."""
    said = [each.encode() for each in core.apply("1-1", raw(tick_entry(time_ms)))]
    assert [each.last for each in said] == [*[False] * (len(said) - 1), True]
    return said


def tick(core: Core, time_ms: int) -> Outputs:
    """What a tick put out, the steps of a long jump in one."""
    said = steps(core, time_ms)
    for name in ("klines", "live", "events", "findings", "dead"):
        setattr(said[-1], name, [entry for each in said for entry in getattr(each, name)])
    return said[-1]


def klines(outputs: Outputs | Iterable[Outputs]) -> list[Kline]:
    """The klines, in order."""
    every = [outputs] if isinstance(outputs, Outputs) else outputs
    return [Kline.from_fields(fields) for each in every for fields in each.klines]


def newest(published: Iterable[Kline]) -> dict[tuple[str, str, int], Kline]:
    """The highest version of every bar."""
    best: dict[tuple[str, str, int], Kline] = {}
    for kline in published:
        if kline.key not in best or kline.version > best[kline.key].version:
            best[kline.key] = kline
    return best


def values(kline: Kline) -> tuple[Decimal | int, ...]:
    """A kline in the words of the oracle."""
    return (
        Decimal(kline.open),
        Decimal(kline.high),
        Decimal(kline.low),
        Decimal(kline.close),
        Decimal(kline.volume),
        Decimal(kline.quote_volume),
        kline.trades,
        Decimal(kline.taker_buy_volume),
        Decimal(kline.taker_buy_quote_volume),
        kline.first_agg_id,
        kline.last_agg_id,
        kline.first_trade_id,
        kline.last_trade_id,
    )

"""The klines of the window as rows that can be compared: from the table, and recomputed from the market's trades."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from klagg.drivers.postgres import Database
from klagg.intervals import interval
from klagg.wire.entries import TradeRow
from tests.aggregator.oracle import fold
from tests.chaos.market import ChaosMarket
from tests.chaos.shape import INTERVALS, Shape

VALUES = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "first_agg_id",
    "last_agg_id",
)

_WINDOW = f"""
SELECT symbol, "interval" AS name, (extract(epoch FROM open_time) * 1000)::bigint AS open_ms,
       {", ".join(VALUES)}, complete, official
FROM klines WHERE open_time >= to_timestamp(%(from_s)s) AND open_time < to_timestamp(%(to_s)s)
"""

_LAST_IDS = """SELECT symbol, max(last_agg_id) AS id FROM klines WHERE "interval" = %(name)s GROUP BY symbol"""


class Key(NamedTuple):
    """Which bar."""

    symbol: str
    interval: str
    open_ms: int


class Bar(NamedTuple):
    """What is compared: the nine values, the ids of the first and last aggregate trade, `complete` and `official`."""

    values: tuple[str, ...]
    complete: bool
    official: bool


Table = dict[Key, Bar]


def window_of(database: Database, shape: Shape) -> Table:
    """The bars of the window in the table."""
    with database.transaction():
        rows = database.query(_WINDOW, {"from_s": shape.window_from_ms / 1000, "to_s": shape.window_to_ms / 1000})
    bars = {}
    for row in rows:
        key = Key(row["symbol"], row["name"], row["open_ms"])
        if _is_inside(key, shape):
            bars[key] = Bar(tuple(_text(row[name]) for name in VALUES), row["complete"], row["official"])
    return bars


def last_ids(database: Database) -> dict[str, int]:
    """The highest aggregate trade id in the table by symbol."""
    with database.transaction():
        rows = database.query(_LAST_IDS, {"name": INTERVALS[0]})
    return {row["symbol"]: row["id"] for row in rows}


def recomputed(shape: Shape) -> tuple[Table, int]:
    """The bars of the window by the slow oracle, and the trades of the whole market.

    A bar is complete when a trade behind its close has happened; all of them lie behind the symbol's first trade. None
    is official: nothing is missing that the exchange's klines would have to stand for.
    """
    bars: Table = {}
    trades = 0
    for symbol, played in ChaosMarket(shape).by_symbol():
        trades += len(played)
        rows = [
            TradeRow(symbol, each.id, each.price, each.qty, each.first, each.last, each.time_ms, each.maker)
            for each in played
        ]
        last_ms = max(row.time for row in rows)
        for found, values in fold(rows, INTERVALS, shape.window_to_ms).items():
            key = Key(*found)
            if _is_inside(key, shape):
                bars[key] = Bar(tuple(map(_text, values[: len(VALUES)])), last_ms > _close_ms(key), False)
    return bars, trades


def digest(bars: Table) -> str:
    """sha256 over all bars in the order of their keys."""
    total = hashlib.sha256()
    for key in sorted(bars):
        total.update(f"{_line(key, bars[key])}\n".encode())
    return total.hexdigest()


def differences(left: Table, right: Table) -> Iterator[tuple[str, str]]:
    """The bars that differ, in the order of their keys, a line for each side."""
    for key in sorted({*left, *right}):
        if left.get(key) != right.get(key):
            yield _line(key, left.get(key)), _line(key, right.get(key))


def _close_ms(key: Key) -> int:
    return interval(key.interval).close_time(key.open_ms)


def _is_inside(key: Key, shape: Shape) -> bool:
    return shape.window_from_ms <= key.open_ms and _close_ms(key) < shape.window_to_ms


def _line(key: Key, bar: Bar | None) -> str:
    if bar is None:
        return f"{'|'.join(map(str, key))} is missing"
    return "|".join(
        [*map(str, key), *bar.values, "complete" if bar.complete else "official" if bar.official else "waiting"]
    )


def _text(value: Decimal | int) -> str:
    """A number without trailing zeros, so that 1.50 and 1.5 are the same."""
    if isinstance(value, int):
        return str(value)
    return f"{value.normalize():f}" if value else "0"

"""Builds checked records from one message, item or row of a recording. Raises BadValue, never anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from klagg.kline import NINE_VALUES
from klagg.recordings.model import OfficialKline, Trade
from klagg.recordings.values import (
    BadValue,
    boolean,
    decimal_text,
    epoch_ms,
    integer,
    kline_decimal_text,
    open_time_ms,
    symbol_text,
    whole_number,
)
from klagg.row_rules import is_counted_kind, kline_problem, shown, trade_counts, trade_problem, without_residue


def agg_trade(
    fields: Mapping[str, Any], symbol: str, *, recv_ms: int | None = None, event_ms: int | None = None
) -> Trade:
    """An aggregate trade from the exchange's short keys `a p q f l T m` (`nq` is ignored: klines count `q`)."""
    return _trade(
        symbol,
        integer("aggregate trade id", _field(fields, "a")),
        fields,
        integer("first trade id", _field(fields, "f")),
        integer("last trade id", _field(fields, "l")),
        recv_ms,
        event_ms,
        None,
    )


def fill(fields: Mapping[str, Any], symbol: str, *, recv_ms: int | None = None, event_ms: int | None = None) -> Trade:
    """A single fill from the exchange's short keys `t p q T m` and, where recorded, `X`."""
    execution = fields.get("X")
    if execution is not None and not isinstance(execution, str):
        execution = shown(execution)
    trade_id = integer("trade id", _field(fields, "t"))
    return _trade(symbol, trade_id, fields, trade_id, trade_id, recv_ms, event_ms, execution)


def _trade(
    symbol: str,
    trade_id: int,
    fields: Mapping[str, Any],
    first: int,
    last: int,
    recv_ms: int | None,
    event_ms: int | None,
    execution: str | None,
) -> Trade:
    """A trade that keeps the rule of klagg.row_rules; what cannot count in a kline has `counts` False."""
    price = decimal_text("price", without_residue(_field(fields, "p")))
    qty = decimal_text("quantity", without_residue(_field(fields, "q")))
    time_ms = epoch_ms("trade time", _field(fields, "T"))
    maker = boolean("buyer-is-maker flag", _field(fields, "m"))
    counted = is_counted_kind(execution, price)
    problem = trade_problem(trade_id, price, qty, first, last, time_ms, maker, counted_kind=counted)
    if problem is not None:
        raise BadValue(f"{problem.what} of the trade {trade_id}: {problem.reason}")
    counts = trade_counts(qty, counted_kind=counted)
    return Trade(symbol, trade_id, price, qty, first, last, time_ms, maker, counts, recv_ms, event_ms, execution)


def rest_fill(fields: Mapping[str, Any], symbol: str) -> Trade:
    """A single fill from the long keys of REST trades and raw dumps: `id price qty time isBuyerMaker`."""
    short = {
        "t": _field(fields, "id"),
        "p": _field(fields, "price"),
        "q": _field(fields, "qty"),
        "T": _field(fields, "time"),
        "m": _field(fields, "isBuyerMaker"),
    }
    return fill(short, symbol)


def kline_row(row: Sequence[Any], columns: Mapping[str, int]) -> OfficialKline:
    """A kline from a row and the place of each column by `OfficialKline` field name; absent columns give None."""

    def cell(name: str) -> Any:
        place = columns.get(name)
        if place is None:
            return None
        if place >= len(row):
            raise BadValue(f"the row has {len(row)} columns where {place + 1} are expected")
        return row[place]

    def optional(name: str) -> str | None:
        value = cell(name)
        return None if value is None else kline_decimal_text(name.replace("_", " "), value)

    def proven(name: str) -> bool:
        value = cell(name)
        return value not in {None, ""} and boolean(name, value)

    close_time = cell("close_time_ms")
    trades = cell("trades")
    kline = OfficialKline(
        open_time_ms=open_time_ms(cell("open_time_ms")),
        close_time_ms=None if close_time is None else epoch_ms("close time", close_time),
        open=kline_decimal_text("open", cell("open")),
        high=kline_decimal_text("high", cell("high")),
        low=kline_decimal_text("low", cell("low")),
        close=kline_decimal_text("close", cell("close")),
        volume=kline_decimal_text("volume", cell("volume")),
        quote_volume=optional("quote_volume"),
        trades=None if trades is None else whole_number("trade count", trades),
        taker_buy_volume=optional("taker_buy_volume"),
        taker_buy_quote_volume=optional("taker_buy_quote_volume"),
        whole="complete" not in columns or proven("complete") or proven("official"),
    )
    problem = kline_problem({name: getattr(kline, name) for name in NINE_VALUES})
    if kline.close_time_ms is not None and kline.close_time_ms < kline.open_time_ms:
        problem = f"close time {kline.close_time_ms} is before open time {kline.open_time_ms}"
    if problem:
        raise BadKline(problem, kline)
    return kline


class BadKline(BadValue):
    """A row of a recording that cannot be a kline, and what it says."""

    def __init__(self, reason: str, kline: OfficialKline) -> None:
        super().__init__(reason)
        self.kline = kline


def is_closed(row: Sequence[Any], columns: Mapping[str, int]) -> bool:
    """Whether a row is of a bar that is over; a table without such a column holds none but those."""
    place = columns.get("closed")
    if place is None:
        return True
    if place >= len(row):
        raise BadValue(f"the row has {len(row)} columns where {place + 1} are expected")
    return boolean("closed flag", row[place])


KLINE_COLUMNS: Mapping[str, int] = {
    "open_time_ms": 0,
    "open": 1,
    "high": 2,
    "low": 3,
    "close": 4,
    "volume": 5,
    "close_time_ms": 6,
    "quote_volume": 7,
    "trades": 8,
    "taker_buy_volume": 9,
    "taker_buy_quote_volume": 10,
}
"""Places of the columns in Binance's REST rows and kline dumps (the 12th column is unused)."""


def closed_kline_event(fields: Mapping[str, Any]) -> tuple[str, str, OfficialKline] | None:
    """(symbol, interval, kline) of a `kline` event, or None while its bar is still open (`x` false)."""
    k = _field(fields, "k")
    if not isinstance(k, dict):
        raise BadValue("the kline event has no object 'k'")
    if not boolean("closed flag", _field(k, "x")):
        return None
    symbol, interval = _field(k, "s"), _field(k, "i")
    if not isinstance(interval, str):
        raise BadValue("the kline event lacks its interval")
    row = [_field(k, key) for key in ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q")]
    return symbol_text(symbol), interval, kline_row(row, KLINE_COLUMNS)


def _field(fields: Mapping[str, Any], key: str) -> Any:
    try:
        return fields[key]
    except KeyError:
        raise BadValue(f"the field {key!r} is missing") from None

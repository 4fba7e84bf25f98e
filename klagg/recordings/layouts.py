"""Tells what a recording holds from its first characters alone; names of files are never asked."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from klagg.recordings.rows import KLINE_COLUMNS

CAPTURE_PREFIX = re.compile(r"\s*([0-9]{9,20}(?:\.[0-9]+)?)\s*[:,]?\s+(?=[{\[])")
"""The receive time that recorders write before each message."""

LOOKED_AT = 8
"""So many lines of a capture or table are looked at: the first may be damaged."""

SOCKET_URL = re.compile(r"\s*wss?://")
"""Some recorders write the URL they connected to as a line of its own."""


class Content(Enum):
    """What a recording holds."""

    CAPTURE = "WebSocket capture"
    REST_AGG_TRADES = "REST aggregate trades"
    REST_TRADES = "REST trades"
    REST_KLINES = "REST klines"
    CSV_AGG_TRADES = "aggregate trades dump"
    CSV_TRADES = "trades dump"
    CSV_KLINES = "klines table"
    JSON_KLINES = "klines as JSON objects"
    ANSWER_KLINES = "answer of klagg's /api/klines"
    ARROW_KLINES = "Arrow table of klines"
    PARQUET_KLINES = "Parquet table of klines"


@dataclass(frozen=True, slots=True)
class RecordingLayout:
    """What a recording holds; for tables also the place of each column by name, and whether a header comes first.

    `names` are the columns' own names, in their order, where each row brings them along. `exact` says that whoever
    wrote the file writes decimals and not floats: the exchange, or klagg.
    """

    content: Content
    columns: Mapping[str, int] | None = None
    header: bool = False
    names: tuple[str, ...] = ()
    exact: bool = False


_AGG_COLUMNS = ("a", "p", "q", "f", "l", "T", "m")
_TRADE_COLUMNS = ("id", "price", "qty", "quoteQty", "time", "isBuyerMaker")

_HEADERS: Mapping[Content, Mapping[str, Sequence[str]]] = {
    Content.CSV_AGG_TRADES: {
        "a": ("agg_trade_id", "aggregate_trade_id", "a"),
        "p": ("price", "p"),
        "q": ("quantity", "qty", "q"),
        "f": ("first_trade_id", "f"),
        "l": ("last_trade_id", "l"),
        "T": ("transact_time", "timestamp", "time", "t"),
        "m": ("is_buyer_maker", "was_the_buyer_the_maker", "m"),
    },
    Content.CSV_TRADES: {
        "id": ("id", "trade_id"),
        "price": ("price",),
        "qty": ("qty", "quantity"),
        "time": ("time", "timestamp", "transact_time"),
        "isBuyerMaker": ("is_buyer_maker", "isbuyermaker"),
    },
    Content.CSV_KLINES: {
        "open_time_ms": ("open_time", "opentime", "timestamp", "time", "date", "datetime"),
        "open": ("open",),
        "high": ("high",),
        "low": ("low",),
        "close": ("close",),
        "volume": ("volume",),
    },
}
_OPTIONAL_KLINE_HEADERS: Mapping[str, Sequence[str]] = {
    "close_time_ms": ("close_time", "closetime"),
    "quote_volume": ("quote_volume", "quote_asset_volume"),
    "trades": ("count", "trade_count", "trades", "number_of_trades", "num_trades"),
    "taker_buy_volume": ("taker_buy_volume", "taker_buy_base", "taker_buy_base_asset_volume", "taker_buy_base_volume"),
    "taker_buy_quote_volume": ("taker_buy_quote_volume", "taker_buy_quote", "taker_buy_quote_asset_volume"),
    "closed": ("closed",),
    "complete": ("complete",),
    "official": ("official",),
}

_ANSWER = re.compile(
    r"""\{ (?: \s*"(?:symbol|interval|stale_for_ms)"\s*:\s*(?:"[^"]{0,100}"|[0-9]{1,20}|null)\s*, )*
        \s*"klines"\s*:\s*\[""",
    re.VERBOSE,
)
"""How an answer of klagg's /api/klines begins."""


def detect(head: str) -> RecordingLayout | None:
    """The layout of a recording that begins with `head`, or None when it is no known format."""
    text = head.lstrip()
    if not text:
        return None
    if text[0] == "[":
        return _json_array(text)
    if _ANSWER.match(text):
        return RecordingLayout(Content.ANSWER_KLINES, exact=True)
    lines = text.split("\n", LOOKED_AT)[:LOOKED_AT]
    for number, line in enumerate(lines):
        found = _of_line(line)
        if found is not None:
            return None if found.header and number else found
    return None


def _of_line(line: str) -> RecordingLayout | None:
    """The layout of a capture or table that has this line; None if it is no line of one."""
    if line.lstrip()[:1] == "{" or CAPTURE_PREFIX.match(line) or SOCKET_URL.match(line):
        return RecordingLayout(Content.CAPTURE, exact=True)
    try:
        return _table(next(csv.reader([line.rstrip("\r")]), []))
    except csv.Error:  # a field longer than any value
        return None


def _json_array(text: str) -> RecordingLayout | None:
    try:
        item, _ = json.JSONDecoder().raw_decode(text[1:].lstrip())
    except (ValueError, RecursionError):
        return None
    if isinstance(item, list):
        return RecordingLayout(Content.REST_KLINES, exact=True) if len(item) >= len(KLINE_COLUMNS) else None
    if not isinstance(item, dict):
        return None
    fields = unwrapped(item)
    if {"a", "p", "q"} <= fields.keys():
        return RecordingLayout(Content.REST_AGG_TRADES)
    if {"id", "price", "qty", "time"} <= fields.keys():
        return RecordingLayout(Content.REST_TRADES)
    return klines_by_name(list(item), Content.JSON_KLINES)


def klines_by_name(names: Sequence[str], content: Content) -> RecordingLayout | None:
    """The layout of rows of klines that bring their columns' names along; None if these are not those of klines."""
    known = _table_with_header([str(each).strip().lower().replace(" ", "_") for each in names])
    if known is None or known.content is not Content.CSV_KLINES:
        return None
    return replace(known, content=content, header=False, names=tuple(names))


def unwrapped(item: dict[str, Any]) -> dict[str, Any]:
    """The exchange's own item, taken out of the `info` field that the ccxt library keeps it in."""
    info = item.get("info")
    return info if isinstance(info, dict) else item


def _table(cells: Sequence[str]) -> RecordingLayout | None:
    cells = [cell.strip() for cell in cells]
    if len(cells) < 6:
        return None
    if cells[0][:1].isalpha():
        return _table_with_header([cell.lower().replace(" ", "_") for cell in cells])
    return _table_without_header(cells)


def _table_with_header(names: Sequence[str]) -> RecordingLayout | None:
    for content, wanted in _HEADERS.items():
        columns = _places(names, wanted)
        if len(columns) < len(wanted):
            continue
        if content is Content.CSV_KLINES:
            columns |= _places(names, _OPTIONAL_KLINE_HEADERS)
        return RecordingLayout(content, columns, header=True, exact="closed" in columns)
    return None


def _places(names: Sequence[str], wanted: Mapping[str, Sequence[str]]) -> dict[str, int]:
    places = {}
    for column, aliases in wanted.items():
        place = next((names.index(alias) for alias in aliases if alias in names), None)
        if place is not None:
            places[column] = place
    return places


def _table_without_header(cells: Sequence[str]) -> RecordingLayout | None:
    """Dumps of before 2021 have no header: the place of the time column tells the three kinds apart."""
    if len(cells) >= 11 and _is_time(cells[0]) and _is_time(cells[6]):
        return RecordingLayout(Content.CSV_KLINES, KLINE_COLUMNS)
    if len(cells) in {7, 8} and _is_time(cells[5]):
        return RecordingLayout(Content.CSV_AGG_TRADES, {name: place for place, name in enumerate(_AGG_COLUMNS)})
    if len(cells) in {6, 7} and _is_time(cells[4]):
        return RecordingLayout(Content.CSV_TRADES, {name: place for place, name in enumerate(_TRADE_COLUMNS)})
    return None


def _is_time(cell: str) -> bool:
    return cell.isascii() and cell.isdigit() and 13 <= len(cell) <= 19

"""From frames to columns of trades: pure, exact, and never by guessing.

`parse` is the definition: what one frame is, checked field by field. `parse_frames` gives the same for a whole batch;
where every frame is a good trade, which is nearly always, it checks columns instead of fields. Whether the two agree is
tested over arbitrary input.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress
from operator import gt, itemgetter
from typing import Any, Final

import ujson

from klagg.contract import AGG_IDS, TRADE_IDS
from klagg.decimals import DIGITS_MAX, checked
from klagg.errors import BadDecimal
from klagg.exchange.endpoints import Endpoint

INT64_MAX: Final = 2**63 - 1

# Kinds of rejection.
NOT_JSON: Final = "not_json"
NOT_OBJECT: Final = "not_object"
WRONG_WRAPPER: Final = "wrong_wrapper"
UNKNOWN_EVENT: Final = "unknown_event"
COIN_MARGINED: Final = "coin_margined"
MISSING_FIELD: Final = "missing_field"
BAD_SYMBOL: Final = "bad_symbol"
BAD_PRICE: Final = "bad_price"
BAD_QTY: Final = "bad_qty"
BAD_NUMBER: Final = "bad_number"
FUTURE: Final = "future"

COUNTED: Final = frozenset({"MARKET", "RPI"})
"""`X` of the fills that klines count; the others (INSURANCE_FUND, ADL, NA) only keep the ids contiguous (DESIGN §5)."""

Row = tuple[str, int, str, str, int, int, int, bool, bool]
"""One trade in the order of contract.TRADE_COLUMNS."""

Columns = tuple[Sequence[Any], ...]
"""Trades by column, in the order of contract.TRADE_COLUMNS; all of one length."""

_VALUE = r"[0-9]++(?:\.[0-9]++)?+"
_ABOVE_ZERO = rf"(?=[0.]*+[1-9]){_VALUE}"
_QTYS = re.compile(rf"{_VALUE}(?:,{_VALUE})*+", re.ASCII)
_PRICES = re.compile(rf"{_ABOVE_ZERO}(?:,{_ABOVE_ZERO})*+", re.ASCII)
_AGG_FIELDS = itemgetter("e", "s", "a", "p", "q", "f", "l", "T", "m")
_TRADE_FIELDS = itemgetter("e", "s", "t", "p", "q", "T", "m")
_WRAPPER = itemgetter("stream", "data")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a line takes in.

    `source` is aggTrade or trade, the only event that is a trade here. `symbols` are those subscribed to: a name from
    elsewhere could not be told from garbage, and must not reach a column.
    """

    endpoint: Endpoint
    source: str
    symbols: frozenset[str]
    future_ms_max: int

    @property
    def ids(self) -> str:
        """The id space of the trades (contract.AGG_IDS or TRADE_IDS)."""
        return AGG_IDS if self.source == "aggTrade" else TRADE_IDS


@dataclass(frozen=True, slots=True)
class Rejection:
    """A frame that is no trade: of this `kind`, because of `reason`."""

    kind: str
    reason: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """The exchange's answer to a client message; `error` is "" for a plain ACK (which proves nothing: DESIGN §5)."""

    error: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a batch of frames held: trades by column (no columns if there are none), and everything else."""

    columns: Columns
    rejections: list[Rejection]
    replies: list[Reply]

    @property
    def count(self) -> int:
        """How many trades."""
        return len(self.columns[0]) if self.columns else 0


def parse_frames(frames: Sequence[bytes], rules: Rules, now_ms: int) -> Parsed:
    """The trades, rejections and replies of `frames`, in their order. `now_ms` is the exchange's time."""
    columns = _good_columns(frames, rules, now_ms)
    if columns is not None:
        return Parsed(columns, [], [])
    rows: list[Row] = []
    rejections: list[Rejection] = []
    replies: list[Reply] = []
    for frame in frames:
        match parse(frame, rules, now_ms):
            case Rejection() as rejection:
                rejections.append(rejection)
            case Reply() as reply:
                replies.append(reply)
            case row:
                rows.append(row)
    return Parsed(tuple(zip(*rows, strict=True)), rejections, replies)


def parse(frame: bytes, rules: Rules, now_ms: int) -> Row | Rejection | Reply:
    """What one frame is. It raises nothing, whatever the frame holds."""
    try:
        message = ujson.loads(frame)
    except ValueError as bad:
        return Rejection(NOT_JSON, str(bad)[:100], frame)
    if not isinstance(message, dict):
        return Rejection(NOT_OBJECT, "a message must be an object", frame)
    wrapped, bare = "stream" in message and "data" in message, "e" in message
    if rules.endpoint is Endpoint.COMBINED and wrapped:
        event = message["data"]
    elif rules.endpoint is Endpoint.RAW and bare:
        event = message
    elif reply := _reply(message):
        return reply
    elif wrapped or bare:
        return Rejection(WRONG_WRAPPER, f"not what a {rules.endpoint.value} endpoint sends", frame)
    else:
        return Rejection(MISSING_FIELD, "neither an event nor a reply", frame)
    if not isinstance(event, dict):
        return Rejection(NOT_OBJECT, "data must be an object", frame)
    return _trade(event, rules, now_ms, frame)


def _reply(message: dict[str, Any]) -> Reply | None:
    """The reply to a client message: `{"result": null, "id": 1}`, or one of the exchange's two shapes of error."""
    if message.get("result", ...) is None and "id" in message:
        return Reply("")
    error = message.get("error", message)
    if isinstance(error, dict) and "code" in error and "msg" in error:
        return Reply(f"code {error['code']!r}: {error['msg']!r}"[:200])
    return None


def _trade(event: dict[str, Any], rules: Rules, now_ms: int, frame: bytes) -> Row | Rejection:
    """The trade that an event is, or the first thing that is wrong with it."""
    if event.get("e") != rules.source:
        return Rejection(UNKNOWN_EVENT, f"the event is {str(event.get('e'))[:40]!r}, not {rules.source}", frame)
    if event.get("st", 1) != 1:
        return Rejection(COIN_MARGINED, "st is not 1", frame)
    try:
        symbol, trade_id, price, qty, first, last, time_ms, maker = _values(event, rules.source)
    except KeyError as missing:
        return Rejection(MISSING_FIELD, f"the event lacks {missing}", frame)
    counts = rules.source == "aggTrade" or _is_counted(event.get("X", "MARKET"))
    if not isinstance(symbol, str) or symbol not in rules.symbols:
        return Rejection(BAD_SYMBOL, f"not a symbol of this line: {str(symbol)[:40]!r}", frame)
    if reason := _decimal_problem(price, above_zero=counts):
        return Rejection(BAD_PRICE, reason, frame)
    if reason := _decimal_problem(qty, above_zero=False):
        return Rejection(BAD_QTY, reason, frame)
    if any(type(value) is not int or not 0 <= value <= INT64_MAX for value in (trade_id, first, last, time_ms)):
        return Rejection(BAD_NUMBER, "an id or the time is not a whole number from 0 to 2^63 - 1", frame)
    if type(maker) is not bool:
        return Rejection(BAD_NUMBER, "m is neither true nor false", frame)
    if first > last:
        return Rejection(BAD_NUMBER, "f is above l", frame)
    if time_ms > now_ms + rules.future_ms_max:
        return Rejection(FUTURE, f"T is {time_ms - now_ms} ms ahead of the exchange's clock", frame)
    return symbol, trade_id, price, qty, first, last, time_ms, maker, counts


def _values(event: dict[str, Any], source: str) -> tuple[Any, ...]:
    """symbol, id, price, qty, first, last, time, maker of an event, unchecked; KeyError names a missing field."""
    if source == "aggTrade":
        return tuple(_AGG_FIELDS(event)[1:])
    _, symbol, trade_id, price, qty, time_ms, maker = _TRADE_FIELDS(event)
    return symbol, trade_id, price, qty, trade_id, trade_id, time_ms, maker


def _is_counted(kind: Any) -> bool:
    """Whether klines count a fill of this `X`; older recordings have none, and there all fills count."""
    return isinstance(kind, str) and kind in COUNTED


def _decimal_problem(value: Any, *, above_zero: bool) -> str:
    """Why a price or quantity is unusable, "" if it is usable.

    A price of 0 is refused where klines count the fill: it would be the low of its bar. Binance writes 0 for fills of
    kind NA, and those are not counted. A quantity of 0 adds nothing and keeps the ids contiguous, so it may pass.
    """
    if not isinstance(value, str):
        return f"not a text: {str(value)[:40]!r}"
    try:
        checked(value)
    except BadDecimal as bad:
        return str(bad)[:100]
    return "zero" if above_zero and not value.strip("0.") else ""


def _good_columns(frames: Sequence[bytes], rules: Rules, now_ms: int) -> Columns | None:
    """The columns if every frame is a trade that `parse` takes; None otherwise, and then nothing else is known."""
    try:
        messages = list(map(ujson.loads, frames))
        events = [data for _, data in map(_WRAPPER, messages)] if rules.endpoint is Endpoint.COMBINED else messages
        if {event.get("st", 1) for event in events} - {1}:
            return None
        columns = _columns_of(events, rules.source)
        return columns if columns and _are_good(columns, rules, now_ms) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # a frame is no trade, or not even JSON: `parse` will say which and why


def _columns_of(events: Sequence[Any], source: str) -> Columns | None:
    """The columns of events as they are, values unchecked; None if there is another event among them."""
    if source == "aggTrade":
        kinds, *columns = zip(*map(_AGG_FIELDS, events), strict=True)
        counts: Sequence[bool] = (True,) * len(events)
    else:
        kinds, symbols, ids, prices, qtys, times, makers = zip(*map(_TRADE_FIELDS, events), strict=True)
        columns = [symbols, ids, prices, qtys, ids, ids, times, makers]
        counts = [event.get("X", "MARKET") in COUNTED for event in events]
    return None if set(kinds) - {source} else (*columns, counts)


def _are_good(columns: Columns, rules: Rules, now_ms: int) -> bool:
    """Whether every value is one that `_trade` lets pass; a TypeError says that one is of a wrong type."""
    symbols, ids, prices, qtys, firsts, lasts, times, makers, counts = columns
    return (
        rules.symbols.issuperset(symbols)
        and _are_prices(prices, counts)
        and _is_decimal_column(qtys, _QTYS)
        and set(map(type, chain(ids, firsts, lasts, times))) == {int}
        and set(map(type, makers)) == {bool}
        and min(ids) >= 0
        and min(firsts) >= 0
        and min(times) >= 0
        and max(ids) <= INT64_MAX
        and max(lasts) <= INT64_MAX
        and max(times) <= min(INT64_MAX, now_ms + rules.future_ms_max)
        and not any(map(gt, firsts, lasts))
    )


def _are_prices(prices: Sequence[Any], counts: Sequence[bool]) -> bool:
    """Whether all prices are decimals, and above zero where klines count the fill."""
    if all(counts):
        return _is_decimal_column(prices, _PRICES)
    return _is_decimal_column(prices, _QTYS) and all(price.strip("0.") for price in compress(prices, counts))


def _is_decimal_column(column: Sequence[Any], pattern: re.Pattern[str]) -> bool:
    """Whether one match over the joined column proves every value. The commas are counted: a value could hold one."""
    joined = ",".join(column)
    return (
        pattern.fullmatch(joined) is not None
        and joined.count(",") == len(column) - 1
        and max(map(len, column)) <= DIGITS_MAX
    )

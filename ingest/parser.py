"""From frames to columns of trades: pure, exact, and never by guessing.

`parse` is the definition: what one frame is, read as JSON to the letter and checked field by field. `parse_frames`
gives the same for a whole batch; frames that are laid out like their neighbours, as nearly all are, are read and
checked by columns (`ingest.layout`). Whether the two agree is tested over arbitrary input, and by a fuzzer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import gt, itemgetter
from typing import Any, Final, NoReturn

from ingest.layout import Layout, layout_of
from klagg.binance.endpoints import Endpoint
from klagg.row_rules import (
    NUMBER,
    PRICE,
    QUANTITY,
    is_coin_margined,
    is_counted_kind,
    is_new_execution,
    shown,
    trade_counts,
    trade_problem,
    without_residue,
)
from klagg.wire.entries import AGG_IDS, TRADE_COLUMNS, TRADE_IDS

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

KINDS: Final = (
    NOT_JSON,
    NOT_OBJECT,
    WRONG_WRAPPER,
    UNKNOWN_EVENT,
    COIN_MARGINED,
    MISSING_FIELD,
    BAD_SYMBOL,
    BAD_PRICE,
    BAD_QTY,
    BAD_NUMBER,
    FUTURE,
)

EVENT: Final = "event"
SYMBOL_TYPE: Final = "symbol_type"
EXECUTION: Final = "execution"
WORDS: Final = (EVENT, SYMBOL_TYPE, EXECUTION)
"""Kinds of words that may be new where trades come: `e`, of which only the line's source is a trade; `st`, of which
only COIN-M is refused; and `X`, of which only what klines are known to leave out does not count (klagg.row_rules).
Another word changes nothing, and is told."""

_TRADE_EVENTS: Final = frozenset({"aggTrade", "trade"})

Word = tuple[str, str]
"""A word that nobody has seen: its kind (one of WORDS), and itself."""

Row = tuple[str, int, str, str, int, int, int, bool, bool]
"""One trade in the order of TRADE_COLUMNS; its time is in exchange ms."""

Columns = tuple[Sequence[str], ...]
"""Trades by column, in the order of TRADE_COLUMNS and as the texts of a `trades` entry; all of one length."""

_AGG_FIELDS = itemgetter("e", "s", "a", "p", "q", "f", "l", "T", "m")
_TRADE_FIELDS = itemgetter("e", "s", "t", "p", "q", "T", "m")
_BY_PROBLEM: Final = {PRICE: BAD_PRICE, QUANTITY: BAD_QTY, NUMBER: BAD_NUMBER}
_BITS: Final = {"true": "1", "false": "0"}
_TIME: Final = TRADE_COLUMNS.index("time")

_CHUNK: Final = 16
"""Frames of a batch that is not all good are parsed by so many: a bad frame makes only its neighbours slow."""

_LOOKED_AT: Final = 8
"""How many frames of a batch are tried for a layout: the first is nearly always a trade."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a line accepts.

    `source` is aggTrade or trade, the only event that is a trade here. `symbols` are those subscribed to: any other
    name is garbage, and must not reach a column. A trade may be `future_ms_max` (exchange ms) ahead of the exchange's
    clock.
    """

    endpoint: Endpoint
    source: str
    symbols: frozenset[str]
    future_ms_max: int

    @property
    def ids(self) -> str:
        """The id space of the trades: AGG_IDS or TRADE_IDS of klagg.wire.entries."""
        return AGG_IDS if self.source == "aggTrade" else TRADE_IDS


@dataclass(frozen=True, slots=True)
class Rejection:
    """A frame that is no trade: of this `kind` (one of KINDS), because of `reason`."""

    kind: str
    reason: str
    frame: bytes
    symbol: str = ""
    """The name that a trade of a symbol nobody subscribed to bears."""
    event: str = ""
    """The type of an event, where nobody has seen it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The exchange's answer to a client message; `error` is "" for a plain acknowledgement.

    An acknowledgement proves nothing about the data that follows: see liveness.py.
    """

    error: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a batch of frames held: trades by column (no columns if there are none), and everything else."""

    columns: Columns
    rejections: list[Rejection]
    replies: list[Reply]
    newest_ms: int = 0
    """The newest time (exchange ms) among the trades, 0 without trades."""
    words: Mapping[Word, int] = field(default_factory=dict)
    """How many trades had each word that nobody has seen."""

    @property
    def count(self) -> int:
        """How many trades."""
        return len(self.columns[0]) if self.columns else 0


def parse_frames(frames: Sequence[bytes], rules: Rules, now_ms: int) -> Parsed:
    """The trades, rejections and replies of `frames`, in their order. `now_ms` is the time now in exchange ms."""
    layout = _layout_among(frames, rules)
    if layout and (parsed := _all_good(frames, layout, rules, now_ms)):
        return parsed
    found = _Found()
    for start in range(0, len(frames), _CHUNK):
        chunk = frames[start : start + _CHUNK]
        if layout and (parsed := _all_good(chunk, layout, rules, now_ms)):
            found.rows += zip(*parsed.columns, strict=True)
        else:
            for frame in chunk:
                found.add(parse(frame, rules, now_ms, found.words))
    return found.parsed()


@dataclass(slots=True)
class _Found:
    """What was found in a batch that is not all trades of one layout."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    words: Counter[Word] = field(default_factory=Counter)

    def add(self, what: Row | Rejection | Reply) -> None:
        """Note what one frame is."""
        match what:
            case Rejection():
                self.rejections.append(what)
            case Reply():
                self.replies.append(what)
            case _:
                self.rows.append(texts_of(what))

    def parsed(self) -> Parsed:
        """All of it."""
        columns = tuple(zip(*self.rows, strict=True))
        newest_ms = max(map(int, columns[_TIME])) if columns else 0
        return Parsed(columns, self.rejections, self.replies, newest_ms, self.words)


def texts_of(row: Row) -> tuple[str, ...]:
    """A trade as the texts of a `trades` entry, in the order of TRADE_COLUMNS."""
    return tuple(str(int(value)) if isinstance(value, int) else value for value in row)


def parse(frame: bytes, rules: Rules, now_ms: int, words: Counter[Word] | None = None) -> Row | Rejection | Reply:
    """What one frame is: a trade, a rejection or a reply. `now_ms` is exchange ms. It never raises.

    Words of a trade that nobody has seen are counted in `words`.
    """
    try:
        message = _strictly(frame)
    except (ValueError, RecursionError) as bad:
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
    trade = _trade(event, rules, now_ms, frame)
    if words is not None and not isinstance(trade, Rejection):
        words.update(_new_words(event, rules.source))
    return trade


def _strictly(frame: bytes) -> Any:
    """The decoded JSON of a frame; ValueError or RecursionError if it is not JSON, or has a name twice.

    Faster readers read `-` as 0, `01` as 1 and keep the last of two prices: a damaged frame would pass for a trade.
    """
    return _DECODER.decode(frame.decode())


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no name stands twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)


def _reply(message: dict[str, Any]) -> Reply | None:
    """The reply to a client message: `{"result": null, "id": 1}`, or one of the exchange's two shapes of error."""
    if message.get("result", ...) is None and "id" in message:
        return Reply("")
    error = message.get("error", message)
    if isinstance(error, dict) and "code" in error and "msg" in error:
        return Reply(f"code {shown(error['code'])}: {shown(error['msg'])}")
    return None


def _trade(event: dict[str, Any], rules: Rules, now_ms: int, frame: bytes) -> Row | Rejection:
    """The trade that an event is, or the first thing that is wrong with it."""
    if (kind := event.get("e")) != rules.source:
        new = kind if isinstance(kind, str) and kind not in _TRADE_EVENTS else ""
        return Rejection(UNKNOWN_EVENT, f"the event is {shown(kind)}, not {rules.source}", frame, event=new)
    if is_coin_margined(event):
        return Rejection(COIN_MARGINED, "st is 2", frame)
    try:
        symbol, trade_id, price, qty, first, last, time_ms, maker = _values(event, rules.source)
    except KeyError as missing:
        return Rejection(MISSING_FIELD, f"the event lacks {missing}", frame)
    price, qty = without_residue(price), without_residue(qty)
    counted = rules.source == "aggTrade" or is_counted_kind(event.get("X"), price)
    if not isinstance(symbol, str) or symbol not in rules.symbols:
        name = symbol if isinstance(symbol, str) else ""
        return Rejection(BAD_SYMBOL, f"not a symbol of this line: {shown(symbol)}", frame, name)
    if problem := trade_problem(trade_id, price, qty, first, last, time_ms, maker, counted_kind=counted):
        return Rejection(_BY_PROBLEM[problem.what], problem.reason, frame)
    if time_ms > now_ms + rules.future_ms_max:
        return Rejection(FUTURE, f"T is {time_ms - now_ms} ms ahead of the exchange's clock", frame)
    return symbol, trade_id, price, qty, first, last, time_ms, maker, trade_counts(qty, counted_kind=counted)


def _values(event: dict[str, Any], source: str) -> tuple[Any, ...]:
    """symbol, id, price, qty, first, last, time, maker of an event, unchecked; KeyError names a missing field."""
    if source == "aggTrade":
        return tuple(_AGG_FIELDS(event)[1:])
    _, symbol, trade_id, price, qty, time_ms, maker = _TRADE_FIELDS(event)
    return symbol, trade_id, price, qty, trade_id, trade_id, time_ms, maker


def _new_words(event: dict[str, Any], source: str) -> list[Word]:
    """The words of a trade that nobody has seen."""
    found = []
    if "st" in event and not (type(event["st"]) is int and event["st"] == 1):
        found.append((SYMBOL_TYPE, shown(event["st"])))
    if source == "trade" and "X" in event and is_new_execution(event["X"]):
        found.append((EXECUTION, shown(event["X"])))
    return found


def _layout_among(frames: Sequence[bytes], rules: Rules) -> Layout | None:
    """The layout of the first frame that looks like a trade, of the few that are looked at."""
    wrapped = rules.endpoint is Endpoint.COMBINED
    for frame in frames[:_LOOKED_AT]:
        try:
            message = _strictly(frame)
            event = message["data"] if wrapped else message
            _values(event, rules.source)
            return layout_of(message, rules.source, wrapped=wrapped)
        except (ValueError, RecursionError, KeyError, TypeError, IndexError):
            continue  # no trade; `parse` decides what it is
    return None


def _all_good(frames: Sequence[bytes], layout: Layout, rules: Rules, now_ms: int) -> Parsed | None:
    """The trades if every frame has the layout and is one that `parse` accepts; None otherwise."""
    columns = layout.columns(frames)
    if columns is None:
        return None
    symbols, ids, prices, qtys, firsts, lasts, times, makers = columns
    newest_ms = max(map(int, times))
    if (
        not rules.symbols.issuperset(symbols)
        or newest_ms > now_ms + rules.future_ms_max
        or (firsts is not lasts and any(map(gt, map(int, firsts), map(int, lasts))))
    ):
        return None
    bits = tuple(map(_BITS.__getitem__, makers))
    return Parsed((symbols, ids, prices, qtys, firsts, lasts, times, bits, ("1",) * len(ids)), [], [], newest_ms)

"""The entries of every stream: their kinds, their fields, and how they are built and read.

Pure: the module builds and reads field mappings and imports no driver. Entries are plain text, so that a person with
redis-cli can read them. Keys stand in `klagg.wire.keys`, what every entry carries in `klagg.wire.fields`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from klagg.arrays import INT64_MAX
from klagg.errors import ContractError
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.wire.fields import Fields, RawFields, integer_of, text_of

# Feed entry kinds.
TRADES: Final = "trades"
TICK: Final = "tick"
WATERMARK: Final = "watermark"
LISTING: Final = "listing"
OFFICIAL: Final = "official"
AGAIN: Final = "again"
WITNESS: Final = "witness"
EDGES: Final = "edges"

REST_LINE: Final = "rest"
"""The `line` of the trades that repair fetched, which no line received."""

# Id spaces of a `trades` entry.
AGG_IDS: Final = "agg"
TRADE_IDS: Final = "trade"


TRIGGER_SNAPSHOT: Final = "snapshot"
TRIGGER_RETENTION: Final = "retention"
TRIGGER_DAYS: Final = "days"


@dataclass(frozen=True, slots=True)
class TradeRow:
    """One trade on its way into the feed. `price` and `qty` are the exchange's own texts, already checked.

    `id` is the aggTrade id or, with ids=trade, the fill id; `first`/`last` are fill ids; `time` is exchange ms;
    `maker` is whether the buyer was the maker; `counts` is False for fills that klines leave out.
    """

    symbol: str
    id: int
    price: str
    qty: str
    first: int
    last: int
    time: int
    maker: bool
    counts: bool = True


TRADE_COLUMNS: Final = ("symbol", "id", "price", "qty", "first", "last", "time", "maker", "counts")


def trades_entry(columns: Mapping[str, str], *, count: int, line: str, ids: str, recv_ms: int) -> Fields:
    """A `trades` entry from ready columns (comma-separated texts by the names of TRADE_COLUMNS, `count` values each).

    `recv_ms` is when the batch was received, on the exchange's clock as the line knows it.
    """
    return {
        "kind": TRADES,
        "n": str(count),
        "line": line,
        "ids": ids,
        "recv": str(recv_ms),
        **{name: columns[name] for name in TRADE_COLUMNS},
    }


def trades_entry_of_rows(rows: Sequence[TradeRow], *, line: str, ids: str, recv_ms: int) -> Fields:
    """A `trades` entry from rows; for edges where speed does not matter (replay, repair, tests)."""
    columns = {
        "symbol": ",".join(row.symbol for row in rows),
        "id": ",".join(str(row.id) for row in rows),
        "price": ",".join(row.price for row in rows),
        "qty": ",".join(row.qty for row in rows),
        "first": ",".join(str(row.first) for row in rows),
        "last": ",".join(str(row.last) for row in rows),
        "time": ",".join(str(row.time) for row in rows),
        "maker": ",".join("1" if row.maker else "0" for row in rows),
        "counts": ",".join("1" if row.counts else "0" for row in rows),
    }
    return trades_entry(columns, count=len(rows), line=line, ids=ids, recv_ms=recv_ms)


def tick_entry(time_ms: int) -> Fields:
    """A `tick`: the exchange's time, the barrier at which an aggregator publishes."""
    return {"kind": TICK, "time": str(time_ms)}


def watermark_entry(line: str, symbols: Iterable[str], time_ms: int) -> Fields:
    """A `watermark`: `line` carries these symbols and was alive until `time_ms` (exchange ms)."""
    return {"kind": WATERMARK, "line": line, "symbols": ",".join(symbols), "time": str(time_ms)}


SCALE_MAX: Final = 17
"""The most decimals that a listing may give a price or a quantity: one digit of klagg.decimals.DIGITS_MAX is left."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One symbol as the exchange lists it.

    `generation` is its onboard time in ms: a re-listing is another generation with ids of its own. Scales are decimals
    of price and quantity (pricePrecision, quantityPrecision of exchangeInfo). `status` is the exchange's (TRADING, …).
    `delivery` is when it ends, in ms (far in the future for a perpetual).
    """

    symbol: str
    generation: int
    price_scale: int
    qty_scale: int
    status: str
    delivery: int


LISTING_COLUMNS: Final = ("symbol", "generation", "price_scale", "qty_scale", "status", "delivery")
LISTINGS_PER_ENTRY: Final = 512


def listing_entries(listings: Sequence[Listing]) -> list[Fields]:
    """`listing` entries in columns, at most LISTINGS_PER_ENTRY symbols each. Idempotent for a reader."""
    entries = []
    for start in range(0, len(listings), LISTINGS_PER_ENTRY):
        part = listings[start : start + LISTINGS_PER_ENTRY]
        columns = {name: ",".join(str(getattr(each, name)) for each in part) for name in LISTING_COLUMNS}
        entries.append({"kind": LISTING, "n": str(len(part)), **columns})
    return entries


OFFICIAL_COLUMNS: Final = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
)


@dataclass(frozen=True, slots=True)
class Official:
    """The exchange's own closed klines of one symbol with open times in [from_ms, to_ms), ascending.

    `columns` are comma-separated texts by the names of OFFICIAL_COLUMNS, `count` values each; a row that is not there
    is one that the exchange does not have. `request` is the id of the request that this answers (empty: none).
    """

    symbol: str
    interval: str
    from_ms: int
    to_ms: int
    request: str
    count: int
    columns: Mapping[str, bytes]


def official_entry(
    symbol: str, interval: str, from_ms: int, to_ms: int, rows: Sequence[Sequence[object]], request: str = ""
) -> Fields:
    """An `official` entry; each row holds the values of OFFICIAL_COLUMNS, prices and amounts as texts."""
    columns = {name: ",".join(str(row[at]) for row in rows) for at, name in enumerate(OFFICIAL_COLUMNS)}
    return {
        "kind": OFFICIAL,
        "symbol": symbol,
        "interval": interval,
        "from": str(from_ms),
        "to": str(to_ms),
        "request": request,
        "n": str(len(rows)),
        **columns,
    }


def official_of(raw: RawFields) -> Official:
    """The content of an `official` entry; ContractError unless every column holds `n` values."""
    count = integer_of(raw, "n")
    columns = {}
    for name in OFFICIAL_COLUMNS:
        column = raw.get(name.encode())
        if column is None or (column.count(b",") + 1 if column else 0) != count:
            raise ContractError(f"the column {name} of an official entry does not hold {count} values")
        columns[name] = column
    return Official(
        text_of(raw, "symbol"),
        text_of(raw, "interval"),
        integer_of(raw, "from"),
        integer_of(raw, "to"),
        text_of(raw, "request"),
        count,
        columns,
    )


EDGE_ROWS_MAX: Final = 60
"""The most minutes of an `edges` entry."""


def edges_entry(symbol: str, rows: Sequence[Sequence[object]]) -> Fields:
    """An `edges` entry: the exchange's own rows (values of OFFICIAL_COLUMNS, prices and amounts as texts) of two to
    EDGE_ROWS_MAX consecutive minutes, ascending. They differ from the published ones by fills of aggTrades at their
    closes, says who asks; the aggregator judges it by its own bars and ids."""
    first, last = int(str(rows[0][0])), int(str(rows[-1][0]))
    return {**official_entry(symbol, MINUTE.name, first, last + MINUTE_MS, rows), "kind": EDGES}


BarKey = tuple[str, str, int]
"""A bar: symbol, interval, open time (exchange ms)."""

AGAIN_COLUMNS: Final = ("symbol", "interval", "open_time")
AGAIN_PER_ENTRY: Final = 1_000


def again_entries(bars: Sequence[BarKey]) -> list[Fields]:
    """`again` entries in columns, at most AGAIN_PER_ENTRY bars each: finals that somebody lost. The aggregator
    publishes those that it holds again, in the version that it has published last."""
    entries = []
    for start in range(0, len(bars), AGAIN_PER_ENTRY):
        part = bars[start : start + AGAIN_PER_ENTRY]
        columns = zip(AGAIN_COLUMNS, zip(*part, strict=True), strict=True)
        entries.append(
            {"kind": AGAIN, "n": str(len(part)), **{name: ",".join(map(str, values)) for name, values in columns}}
        )
    return entries


def again_of(raw: RawFields) -> list[BarKey]:
    """The bars of an `again` entry; ContractError if columns do not match."""
    names, intervals, opens = (text_of(raw, name).split(",") for name in AGAIN_COLUMNS)
    if not len(names) == len(intervals) == len(opens) == integer_of(raw, "n") <= AGAIN_PER_ENTRY:
        raise ContractError("the columns of an again entry differ in length, or name too many bars")
    if not all(opening.isdecimal() and len(opening) <= OPEN_TIME_DIGITS for opening in opens):
        raise ContractError("an again entry holds an open time that is none")
    return [(name, interval, int(opening)) for name, interval, opening in zip(names, intervals, opens, strict=True)]


OPEN_TIME_DIGITS: Final = 15
"""The most digits of an open time in ms."""

BY_TICKER: Final = "rest"
"""Where a witness is from: `GET /fapi/v1/ticker/24hr`, with the ids of fills."""
BY_STREAM: Final = "stream"
"""Where a witness is from: a row of `!ticker@arr`, with the ids of fills."""
BY_ANSWER: Final = "repair"
"""Where a witness is from: repair asked for the aggTrades behind an id, and there were none."""


@dataclass(frozen=True, slots=True)
class Witness:
    """The exchange said that `id` was the symbol's last one at `time_ms` (exchange ms)."""

    symbol: str
    id: int
    time_ms: int


WITNESS_COLUMNS: Final = ("symbol", "id", "time")
WITNESSES_PER_ENTRY: Final = 1_000


def witness_entries(witnesses: Sequence[Witness], *, ids: str, source: str) -> list[Fields]:
    """`witness` entries in columns, at most WITNESSES_PER_ENTRY symbols each. `ids` is the id space, AGG_IDS or
    TRADE_IDS (those of fills); `source` says where they are from, BY_TICKER, BY_STREAM or BY_ANSWER."""
    entries = []
    for start in range(0, len(witnesses), WITNESSES_PER_ENTRY):
        part = witnesses[start : start + WITNESSES_PER_ENTRY]
        entries.append(
            {
                "kind": WITNESS,
                "n": str(len(part)),
                "ids": ids,
                "source": source,
                "symbol": ",".join(each.symbol for each in part),
                "id": ",".join(str(each.id) for each in part),
                "time": ",".join(str(each.time_ms) for each in part),
            }
        )
    return entries


def witnesses_of(raw: RawFields) -> list[Witness]:
    """The witnesses of a `witness` entry; ContractError if columns do not match or hold what is no id or time."""
    names, ids, times = (text_of(raw, name).split(",") for name in WITNESS_COLUMNS)
    if not len(names) == len(ids) == len(times) == integer_of(raw, "n") <= WITNESSES_PER_ENTRY:
        raise ContractError("the columns of a witness entry differ in length, or name too many symbols")
    if text_of(raw, "ids") not in (AGG_IDS, TRADE_IDS):
        raise ContractError(f"a witness entry has ids {raw[b'ids']!r}")
    if not all(each.isdecimal() and each.isascii() and int(each) <= INT64_MAX for each in (*ids, *times)):
        raise ContractError("a witness entry holds an id or a time that is none")
    if not all(names):
        raise ContractError("a witness entry holds an empty symbol")
    return [Witness(name, int(each), int(time)) for name, each, time in zip(names, ids, times, strict=True)]


REQUEST_TRADES: Final = "trades"
REQUEST_KLINES: Final = "klines"
REQUEST_BEHIND: Final = "behind"


@dataclass(frozen=True, slots=True)
class Request:
    """Something that is missing and requested. After `deadline_ms` (exchange time) the requester has given up on it.

    kind trades: the ids `first`…`last` of the symbol, both included. kind klines: closed klines of `interval` with open
    times (ms) from `first` up to, but without, `last`; `interval` is empty for trades. kind behind: the ids from
    `first` on, up to `last`, where it is not known whether there are any.
    """

    kind: str
    id: str
    symbol: str
    interval: str
    first: int
    last: int
    deadline_ms: int


def request_entry(request: Request) -> Fields:
    """A `requests` entry."""
    common = {"kind": request.kind, "id": request.id, "symbol": request.symbol, "deadline": str(request.deadline_ms)}
    if request.kind != REQUEST_KLINES:
        return {**common, "from_id": str(request.first), "to_id": str(request.last)}
    return {**common, "interval": request.interval, "from": str(request.first), "to": str(request.last)}


def request_of(raw: RawFields) -> Request:
    """The request in an entry; ContractError if it cannot be one."""
    kind, request_id, symbol = (text_of(raw, name) for name in ("kind", "id", "symbol"))
    if kind in (REQUEST_TRADES, REQUEST_BEHIND):
        interval, first, last = "", integer_of(raw, "from_id"), integer_of(raw, "to_id")
        usable = 0 <= first <= last
    elif kind == REQUEST_KLINES:
        interval, first, last = text_of(raw, "interval"), integer_of(raw, "from"), integer_of(raw, "to")
        usable = 0 <= first < last
    else:
        raise ContractError(f"a request of kind {kind!r} means nothing to this version")
    if not usable or not symbol:
        raise ContractError(f"the request {request_id!r} asks for {symbol!r} from {first} to {last}")
    return Request(kind, request_id, symbol, interval, first, last, integer_of(raw, "deadline"))


def trigger_entry(name: str, time_ms: int) -> Fields:
    """A trigger on the `clock` stream: it is time for `name`."""
    return {"name": name, "time": str(time_ms)}


def trigger_of(raw: RawFields) -> tuple[str, int]:
    """The name and the exchange time (ms) of a trigger; ContractError if it cannot be one."""
    return text_of(raw, "name"), integer_of(raw, "time")


def listings_of(raw: RawFields) -> list[Listing]:
    """The listings of a `listing` entry; ContractError if columns do not match."""
    columns = [text_of(raw, name).split(",") for name in LISTING_COLUMNS]
    count = integer_of(raw, "n")
    if any(len(column) != count for column in columns):
        raise ContractError("the columns of a listing entry differ in length")
    try:
        listings = [
            Listing(name, int(generation), int(price_scale), int(qty_scale), status, int(delivery))
            for name, generation, price_scale, qty_scale, status, delivery in zip(*columns, strict=True)
        ]
    except ValueError as bad:
        raise ContractError(f"a listing entry holds a bad number: {bad}") from None
    if not all(each.symbol and 0 <= each.generation <= INT64_MAX for each in listings):
        raise ContractError("a listing entry holds an empty symbol or a generation that is no time")
    return listings


LIVE_VALUE: Final = (
    "open_time",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
    "taker_buy_quote_volume",
    "first_trade_id",
    "last_trade_id",
    "closed",
    "revision",
    "complete",
    "official",
)
"""Parts of a live value, comma-separated; `closed` is 1 when the bar is final (x of a kline event)."""

LIVE_VALUE_OF_VERSION_2: Final = LIVE_VALUE[:-1]
"""Versions 1 and 2 had no `official`, and `complete` was 1 also where the exchange's own klines stood for a bar."""

LIVE_META: Final = frozenset({"v", "writer", "seq", "time"})
"""Fields of a `live` entry that are not bars."""

BARS_POSITION: Final = "@live"
"""Field of the `bars` hash: the `live` id from which a reader goes on after loading the hash."""


def live_field(symbol: str, interval: str) -> str:
    """The field name of one bar in `live` and `bars`."""
    return f"{symbol}:{interval}"


def live_parts_of(text: str) -> list[str]:
    """The parts of a live value in the order of LIVE_VALUE; ContractError if their number does not match.

    In a value of version 1 or 2 nothing tells whose word made a final whole, so it says neither `complete` nor
    `official`; the kline's own entry does.
    """
    parts = text.split(",")
    if len(parts) == len(LIVE_VALUE_OF_VERSION_2):
        parts = [*parts[:-1], "0", "0"]
    if len(parts) != len(LIVE_VALUE):
        raise ContractError(f"a live value has {len(parts)} parts instead of {len(LIVE_VALUE)}")
    return parts


def live_value_of(text: str) -> dict[str, str]:
    """A live value by the names of LIVE_VALUE; ContractError as of `live_parts_of`."""
    return dict(zip(LIVE_VALUE, live_parts_of(text), strict=True))


EVENT_TICK: Final = "tick"
EVENT_GENESIS: Final = "genesis"
EVENT_FIRST_TRADE: Final = "first_trade"
EVENT_CLOSE: Final = "close"
EVENT_CONFIRMED: Final = "confirmed"
EVENT_AMENDED: Final = "amended"
EVENT_GAP_OPENED: Final = "gap_opened"
EVENT_GAP_CLOSED: Final = "gap_closed"
EVENT_LISTED: Final = "listed"
EVENT_DELISTED: Final = "delisted"

EVENT_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    EVENT_GENESIS: ("symbol", "generation", "id", "trade_time"),
    EVENT_FIRST_TRADE: ("symbol", "interval", "open_time"),
    EVENT_CLOSE: ("symbol", "interval", "open_time", "trigger", "empty", "revision", "before", "after", "source"),
    EVENT_CONFIRMED: ("symbol", "interval", "open_time", "revision", "before", "after"),
    EVENT_AMENDED: ("symbol", "interval", "open_time", "revision", "before", "after"),
    EVENT_GAP_OPENED: ("symbol", "from_id", "to_id", "before_time", "after_time"),
    EVENT_GAP_CLOSED: ("symbol", "from_id", "to_id", "reason"),
    EVENT_LISTED: ("symbol", "generation", "status", "price_scale", "qty_scale"),
    EVENT_DELISTED: ("symbol", "generation", "status", "price_scale", "qty_scale"),
}
"""An `events` entry holds all events of one kind of one tick, in columns: `kind`, `time`, `n` and these.

`trigger` is trade or clock, `empty` is 1 for a gap-filled bar; `before`/`after` are bar states: none (no trade and
nothing published), open, waiting (published, not yet proven), final. `source` is the kline's: a bar that is not `own`
may hold trades without a `first_trade`. That event may come up to `aggregator.live_long_ms` later than the close.
"""


def events_entry(kind: str, time_ms: int, rows: Sequence[tuple[object, ...]]) -> Fields:
    """One `events` entry for `rows` (values in the order of EVENT_COLUMNS[kind]); a tick has no rows."""
    fields = {"kind": kind, "time": str(time_ms), "n": str(len(rows))}
    if rows:
        names = EVENT_COLUMNS[kind]
        for name, column in zip(names, zip(*rows, strict=True), strict=True):
            fields[name] = ",".join(map(str, column))
    return fields


def event_rows(fields: Mapping[str, str]) -> list[dict[str, str]]:
    """The events of one entry, each by column name; ContractError if columns are missing or do not match."""
    try:
        kind, number = fields["kind"], fields["n"]
        names = EVENT_COLUMNS[kind] if number != "0" else ()
        columns = [fields[name].split(",") for name in names]
    except KeyError as missing:
        if missing.args[0] == fields.get("kind"):
            raise ContractError(f"unknown event kind {missing.args[0]!r}") from None
        raise ContractError(f"an event lacks the field {missing.args[0]}") from None
    if any(str(len(column)) != number for column in columns):
        raise ContractError(f"the columns of a {kind} event differ in length")
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


DEAD_ENTRIES: Final = 10_000
"""About how many entries a `dead` stream keeps."""

DEAD_TEXT_CHARS: Final = 65_536
"""How much of a dead entry's fields is kept, in characters of JSON."""


def dead_entry(stream: str, entry_id: str, group: str, reason: str, raw: RawFields) -> Fields:
    """An entry that the consumer group `group` could not process, with the reason and its fields as JSON.

    Bytes that are no UTF-8 appear as `\\xNN`; fields of more than DEAD_TEXT_CHARS are cut.
    """
    fields = {
        name.decode(errors="backslashreplace"): value.decode(errors="backslashreplace") for name, value in raw.items()
    }
    text = json.dumps(fields, ensure_ascii=False)[:DEAD_TEXT_CHARS]
    return {"stream": stream, "id": entry_id, "group": group, "reason": reason, "fields": text}

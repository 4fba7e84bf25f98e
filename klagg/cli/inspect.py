"""`klagg inspect`: what flows through the streams, in lines for people or as JSON."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import ujson
from rich.cells import cell_len

from klagg.cli import locate
from klagg.cli.up.screen import moment
from klagg.drivers.redis_streams import Entry, Streams
from klagg.errors import ConfigError, ContractError
from klagg.intervals import interval
from klagg.kline import DECIMAL_FIELDS, Kline
from klagg.wire.entries import EVENT_TICK, LIVE_META, LIVE_VALUE, TRADE_COLUMNS, TRADES, event_rows, live_value_of
from klagg.wire.entry_id import BEFORE_FIRST, EntryId
from klagg.wire.fields import RawFields, integer_of, text_of, texts_of, upgraded
from klagg.wire.keys import Keys, shard_of

PAGE: Final = 100
"""Entries of one read; one of the feed holds up to 512 trades."""

LOOK_BACK_ENTRIES: Final = 20_000
"""How far back, in entries of a stream, the newest lines are looked for."""

SYMBOL_WIDTH: Final = 14

Record = dict[str, Any]
"""One line: a trade, a kline, a bar or an event, by the names of the contract."""


def trades(raw: RawFields) -> list[Record]:
    """The trades of a feed entry, one record each; none for entries of other kinds."""
    if raw.get(b"kind") != TRADES.encode():
        return []
    columns = [text_of(raw, name).split(",") for name in TRADE_COLUMNS]
    if len({len(column) for column in columns}) > 1:
        raise ContractError("the columns of a trades entry differ in length")
    head = {"line": text_of(raw, "line"), "ids": text_of(raw, "ids")}
    whole = {"id", "first", "last", "time", "maker", "counts"}
    return [
        {**_numbered(dict(zip(TRADE_COLUMNS, values, strict=True)), whole), **head}
        for values in zip(*columns, strict=True)
    ]


def klines(raw: RawFields) -> list[Record]:
    """The kline of a `klines` entry."""
    return [asdict(Kline.from_fields(texts_of(raw)))]


def live(raw: RawFields) -> list[Record]:
    """The bars of a `live` entry."""
    records = []
    whole = set(LIVE_VALUE) - set(DECIMAL_FIELDS)
    for name, text in texts_of(raw).items():
        if name not in LIVE_META:
            symbol, _, length = name.rpartition(":")
            value = _numbered(live_value_of(text), whole)
            records.append({"symbol": symbol, "interval": length, **value})
    return records


def events(raw: RawFields) -> list[Record]:
    """The events of an `events` entry, the tick itself included."""
    fields = texts_of(raw)
    head: Record = {"event": text_of(raw, "kind"), "at": integer_of(raw, "time")}
    if head["event"] == EVENT_TICK:
        return [head]
    whole = {"generation", "id", "time", "open_time", "empty", "revision", "price_scale", "qty_scale"}
    whole |= {"from_id", "to_id", "before_time", "after_time"}
    return [{**head, **_numbered(row, whole)} for row in event_rows(fields)]


def _numbered(row: Mapping[str, str], whole: set[str]) -> Record:
    """The row with the values of `whole` as integers; ContractError if one is none."""
    try:
        return {name: int(value) if name in whole else value for name, value in row.items()}
    except ValueError as bad:
        raise ContractError(f"a value is not an integer: {bad}") from None


def trade_line(trade: Record) -> str:
    """A trade; `buy` and `sell` are the taker's side."""
    side = "sell" if trade["maker"] else "buy "
    fills = f"fills {trade['first']}-{trade['last']}" if trade["last"] != trade["first"] else f"fill {trade['first']}"
    uncounted = "" if trade["counts"] else "  not counted in klines"
    return (
        f"{_millis(trade['time'])} {_padded(trade['symbol'])} {side} {trade['qty']} @ {trade['price']}  "
        f"id {trade['id']}  {fills}  line {trade['line']}{uncounted}"
    )


def kline_line(kline: Record) -> str:
    """A version of a kline; `waiting` says that it may lack trades, `official` that it lacks none as the exchange's own
    klines say."""
    state = "complete" if kline["complete"] else "official" if kline["official"] else "waiting "
    source = "" if kline["source"] == "own" else f"  source {kline['source']}"
    return f"{_bar(kline)}  {state} revision {kline['revision']}{source}"


def live_line(bar: Record) -> str:
    """A bar as it was at a tick: open, closed (published, may lack trades), final (proven) or official (the exchange's
    own klines stand for it or for a part)."""
    state = "final" if bar["complete"] else "official" if bar["official"] else "closed" if bar["closed"] else "open"
    return f"{_bar(bar)}  {state}"


def _bar(bar: Record) -> str:
    return (
        f"{moment(bar['open_time'])} {_padded(bar['symbol'])} {bar['interval']:<3} O {bar['open']} H {bar['high']} "
        f"L {bar['low']} C {bar['close']}  volume {bar['volume']}  trades {bar['trades']}"
    )


def event_line(event: Record) -> str:
    """An event with its values by name."""
    values = " ".join(
        f"{name}={moment(value) if name == 'open_time' else value}"
        for name, value in event.items()
        if name not in ("event", "at", "symbol")
    )
    return f"{_millis(event['at'])} {_padded(event.get('symbol', ''))} {event['event']:<11} {values}".rstrip()


def _millis(time_ms: int) -> str:
    return f"{moment(time_ms)}.{time_ms % 1000:03d}"


def _padded(symbol: str) -> str:
    """The symbol in columns of a terminal, where CJK letters are two wide."""
    return symbol + " " * (SYMBOL_WIDTH - cell_len(symbol))


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """How a stream is shown: the attribute of Keys that names it, the records of an entry, and a record as a line."""

    stream: str
    records: Callable[[RawFields], list[Record]]
    line: Callable[[Record], str]


FORMATS: Final = {
    "trades": StreamFormat("feed", trades, trade_line),
    "klines": StreamFormat("klines", klines, kline_line),
    "live": StreamFormat("live", live, live_line),
    "events": StreamFormat("events", events, event_line),
}


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Which records are shown; an empty text means any. `ticks`: whether tick events are shown."""

    symbol: str = ""
    interval: str = ""
    ticks: bool = False

    def matches(self, record: Record) -> bool:
        """Whether a record is shown."""
        return (
            (not self.symbol or record.get("symbol") == self.symbol)
            and (not self.interval or record.get("interval") == self.interval)
            and (self.ticks or record.get("event") != EVENT_TICK)
        )


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `inspect` command to the main parser."""
    parser = commands.add_parser(
        "inspect",
        help="look into the streams",
        description="Prints what is in a stream, newest last: trades of the feed, klines (finals, confirmations, "
        "amendments), live bars, or events. Times are UTC.",
    )
    parser.add_argument("what", choices=tuple(FORMATS))
    parser.add_argument("symbol", nargs="?", default="", metavar="SYMBOL", help="only this symbol")
    parser.add_argument("--interval", default="", help="only this interval (klines, live, events)")
    parser.add_argument("--count", type=_count, default=20, metavar="N", help="how many of the newest lines (20)")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--ticks", action="store_true", help="events: the ticks too")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    locate.add_arguments(parser)
    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Runs the command; 0, also if there was nothing to print."""
    if args.interval:
        interval(args.interval)
        if args.what == "trades":
            raise ConfigError("trades have no interval: leave --interval out")
    settings = locate.running_settings(args)
    wanted = RecordFilter(args.symbol.upper(), args.interval, args.ticks)
    shards = [shard_of(wanted.symbol, settings.shards)] if wanted.symbol else range(settings.shards)
    kind = FORMATS[args.what]
    view = View(locate.connect(settings), kind, [getattr(Keys(each), kind.stream) for each in shards], wanted)
    tips = view.tips()
    records = view.newest(tips, args.count)
    _print(records, kind, as_json=args.json)
    if args.count and not records:
        about = f" of {wanted.symbol}" if wanted.symbol else ""
        print(f"no {args.what}{about} in the newest {view.looked_at:,} entries of {view.place}", file=sys.stderr)
    while args.follow:
        _print(view.next(tips, settings.redis.block_ms), kind, as_json=args.json)
    view.streams.close()
    return 0


def _print(records: Sequence[Record], kind: StreamFormat, *, as_json: bool) -> None:
    for record in records:
        if as_json:
            print(ujson.dumps(record, ensure_ascii=False, escape_forward_slashes=False))
        else:
            print(kind.line(record))
    sys.stdout.flush()


class View:
    """The wanted records of a kind in the streams `keys`. Entries that break the contract are named and passed over."""

    def __init__(self, streams: Streams, kind: StreamFormat, keys: Sequence[str], wanted: RecordFilter) -> None:
        self.streams = streams
        self.looked_at = 0
        self._kind, self._keys, self._filter = kind, keys, wanted

    @property
    def place(self) -> str:
        """The streams, for a sentence."""
        return ", ".join(self._keys)

    def tips(self) -> dict[str, str]:
        """The newest id of each stream: up to it is what was, behind it what comes."""
        newest = {key: self.streams.newest(key) for key in self._keys}
        return {key: entries[0].id if entries else BEFORE_FIRST for key, entries in newest.items()}

    def newest(self, tips: Mapping[str, str], count: int) -> list[Record]:
        """The newest `count` records up to `tips`, oldest first; over several streams by the time of their entries."""
        found: list[tuple[EntryId, Record]] = []
        for key in self._keys:
            found += reversed(self._backwards(key, tips[key], count))
        found.sort(key=lambda each: each[0])
        return [record for _, record in found[max(0, len(found) - count) :]]

    def _backwards(self, key: str, last: str, count: int) -> list[tuple[EntryId, Record]]:
        """The newest records of one stream with their entry's id, newest first, page by page."""
        found: list[tuple[EntryId, Record]] = []
        looked_at = 0
        while len(found) < count and looked_at < LOOK_BACK_ENTRIES:
            page = self.streams.newest(key, last=last, count=PAGE)
            for entry in page:
                place = EntryId.of(entry.id)
                found += [(place, record) for record in reversed(self._wanted(key, entry))]
            looked_at += len(page)
            if len(page) < PAGE:
                break
            last = f"({page[-1].id}"
        self.looked_at += looked_at
        return found[:count]

    def next(self, positions: dict[str, str], block_ms: int) -> list[Record]:
        """What comes behind `positions`, which move on; empty if nothing does within `block_ms`."""
        records = []
        for key, entries in self.streams.read(positions, count=PAGE, block_ms=block_ms).items():
            positions[key] = entries[-1].id
            for entry in entries:
                records += self._wanted(key, entry)
        return records

    def _wanted(self, key: str, entry: Entry) -> list[Record]:
        try:
            return [record for record in self._kind.records(upgraded(entry.fields)) if self._filter.matches(record)]
        except ContractError as bad:
            print(f"entry {entry.id} of {key} is left out: {bad}", file=sys.stderr)
            return []

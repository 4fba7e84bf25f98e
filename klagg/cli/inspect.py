"""`klagg inspect`: what flows through the streams, in lines for people (or JSON)."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ujson

from klagg import contract
from klagg.cli.locate import add_arguments, running_settings
from klagg.cli.screen import moment
from klagg.contract import Keys
from klagg.kline import Kline
from klagg.redisio import Entry, Streams

LOOK_BACK_ENTRIES = 5_000
"""How far back, in entries of a stream, the newest lines are looked for."""
PAGE = 500

Record = dict[str, Any]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `inspect` command to the main parser."""
    parser = commands.add_parser(
        "inspect",
        help="look into the streams",
        description="Prints what is in a stream, newest last: trades of the feed, klines (finals, confirmations, "
        "amendments), live bars, or events.",
    )
    parser.add_argument("what", choices=tuple(_READERS))
    parser.add_argument("symbol", nargs="?", metavar="SYMBOL", help="only this symbol")
    parser.add_argument("--interval", help="only this interval (klines, live, events)")
    parser.add_argument("--count", type=int, default=20, metavar="N", help="how many lines (20)")
    parser.add_argument("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_argument("--ticks", action="store_true", help="events: the ticks too")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; the exit code."""
    settings = running_settings(args)
    streams = Streams(settings.redis.url, timeout_ms=settings.redis.timeout_ms)
    name, records = _READERS[args.what]
    keys = [getattr(Keys(shard), name) for shard in range(settings.shards)]
    positions: dict[str, str] = {}
    found = 0
    for key in keys:
        newest = list(itertools.islice(_backwards(streams, key, positions, records, args), max(0, args.count)))
        for record in reversed(newest):
            _print(record, as_json=args.json)
        found += len(newest)
    if not found and not args.follow:
        about = f" about {args.symbol}" if args.symbol else ""
        print(f"nothing{about} in the newest {LOOK_BACK_ENTRIES} entries of {', '.join(keys)}", file=sys.stderr)
    while args.follow:
        for key, entries in streams.read(positions, count=PAGE, block_ms=settings.redis.block_ms).items():
            for entry in entries:
                for record in _wanted(records(entry), args):
                    _print(record, as_json=args.json)
                positions[key] = entry.id
            sys.stdout.flush()
    streams.close()
    return 0


def _backwards(
    streams: Streams,
    key: str,
    positions: dict[str, str],
    records: Callable[[Entry], list[Record]],
    args: argparse.Namespace,
) -> Iterator[Record]:
    """Wanted records of a stream, newest first; notes where to follow it from."""
    newest = streams.newest(
        key, count=LOOK_BACK_ENTRIES if args.symbol or args.interval else min(args.count, PAGE) + PAGE
    )
    positions[key] = newest[0].id if newest else "0-0"
    for entry in newest:
        yield from reversed(_wanted(records(entry), args))


def _wanted(records: list[Record], args: argparse.Namespace) -> list[Record]:
    return [
        each
        for each in records
        if (not args.symbol or each.get("symbol") == args.symbol)
        and (not args.interval or each.get("interval") == args.interval)
        and (args.ticks or each.get("event") != contract.EVENT_TICK)
    ]


def trades(entry: Entry) -> list[Record]:
    """The trades of a feed entry, one record each; none for entries of other kinds."""
    if entry.fields.get(b"kind") != contract.TRADES.encode():
        return []
    columns = [contract.text_of(entry.fields, name).split(",") for name in contract.TRADE_COLUMNS]
    line = contract.text_of(entry.fields, "line")
    rows = [dict(zip(contract.TRADE_COLUMNS, values, strict=True)) for values in zip(*columns, strict=True)]
    return [{"time": int(row.pop("time")), "line": line, **row} for row in rows]


def klines(entry: Entry) -> list[Record]:
    """The kline of a `klines` entry."""
    kline = Kline.from_fields(contract.texts_of(entry.fields))
    return [
        {"time": kline.open_time, **{name: value for name, value in kline.to_fields().items() if name != "open_time"}}
    ]


def live(entry: Entry) -> list[Record]:
    """The bars of a `live` entry."""
    fields = contract.texts_of(entry.fields)
    shown = []
    for name, text in fields.items():
        if name not in contract.LIVE_META:
            symbol, _, interval = name.rpartition(":")
            value: Mapping[str, str] = contract.live_value_of(text)
            rest = {key: part for key, part in value.items() if key != "open_time"}
            shown.append({"time": int(value["open_time"]), "symbol": symbol, "interval": interval, **rest})
    return shown


def events(entry: Entry) -> list[Record]:
    """The events of an `events` entry."""
    fields = contract.texts_of(entry.fields)
    head = {"time": int(fields["time"]), "event": fields["kind"]}
    if fields["kind"] == contract.EVENT_TICK:
        return [head]
    return [{**head, **row} for row in contract.event_rows(fields)]


_READERS: dict[str, tuple[str, Callable[[Entry], list[Record]]]] = {
    "trades": ("feed", trades),
    "klines": ("klines", klines),
    "live": ("live", live),
    "events": ("events", events),
}


def _print(record: Record, *, as_json: bool) -> None:
    if as_json:
        print(ujson.dumps(record, ensure_ascii=False))
        return
    rest = " ".join(f"{name}={value}" for name, value in record.items() if name not in ("time", "symbol", "edge"))
    millis = int(record["time"]) % 1000
    print(f"{moment(int(record['time']))}.{millis:03d} {record.get('symbol', '')} {rest}")

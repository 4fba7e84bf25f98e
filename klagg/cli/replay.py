"""`klagg replay`: the real aggregator code over recorded trades, compared with the exchange's own klines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import ujson

from klagg.cli.comparison import ComparisonReport, RefusedRows, values_of_kline, values_of_official
from klagg.errors import ConfigError
from klagg.intervals import Interval, interval
from klagg.kline import FIELDS, Kline
from klagg.recordings import OfficialKline, TradeIds, TradeRecording, open_klines, open_trades
from klagg.wire.entries import TradeRow


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `replay` command to the main parser."""
    parser = commands.add_parser(
        "replay",
        help="recorded trades through the real aggregator: print or compare klines",
        description="Folds recorded trades (WebSocket capture, REST JSON, dump CSV; gz or not) with the aggregator's "
        "own code. Without --klines the klines are printed; with it they are compared field by field, and the exit "
        "code is 1 if any differs. The last line is a JSON summary; `partial` counts bars that the trades do not fully "
        "cover. A row that cannot be a trade or a kline is named, and the exit code is then 1; `uncounted` counts "
        "trades that no kline counts (quantity 0, struck out, insurance fund).",
    )
    parser.add_argument("--trades", nargs="+", required=True, metavar="FILE", help="recordings, in order of time")
    parser.add_argument("--klines", metavar="FILE", help="official klines to compare with")
    parser.add_argument("--interval", default="1m", help="interval of the klines (1m)")
    parser.add_argument("--symbol", help="the symbol of recordings that name none; of several symbols, the one to take")
    parser.add_argument("--ids", choices=("agg", "trade"), help="of captures that hold both, which events to take")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; the exit code."""
    kind = interval(args.interval)
    recordings = [open_trades(each, args.symbol, args.ids) for each in args.trades]
    refused = RefusedRows("replay")
    klines = newest_of(recordings, kind, args.symbol, refused)
    if args.klines is None:
        for kline in klines:
            print(ujson.dumps(kline.to_fields(), ensure_ascii=False) if args.json else _line(kline))
        partial = sum(not kline.whole for kline in klines)
        counts = {"bars": len(klines), "exact": 0, "different": 0, "partial": partial}
        print(ujson.dumps({**counts, **refused.summary()}))
        return 1 if refused.count else 0
    return _compare(klines, args, kind, refused)


def _compare(klines: list[Kline], args: argparse.Namespace, kind: Interval, refused: RefusedRows) -> int:
    symbols = sorted({kline.symbol for kline in klines})
    if len(symbols) > 1:
        raise ConfigError(
            f"the recordings hold {len(symbols)} symbols: choose one with --symbol ({' '.join(symbols[:8])} …)"
        )
    rows = open_klines(args.klines, symbols[0] if symbols else None, kind.name)
    official = {row.open_time_ms: row for row in rows.usable(refused)}
    _check_grid(official, kind, args.klines)
    comparison = ComparisonReport(args.json)
    for kline in klines:
        row = official.get(kline.open_time)
        theirs = None if row is None else values_of_official(row)
        comparison.add(kline.symbol, kline.open_time, values_of_kline(kline), theirs, whole=kline.whole)
    if klines:
        ours = {kline.open_time for kline in klines}
        for open_time, row in official.items():
            if min(ours) < open_time < max(ours) and open_time not in ours:
                comparison.add(symbols[0], open_time, None, values_of_official(row), whole=True)
    return comparison.conclude(refused)


def _check_grid(official: dict[int, OfficialKline], kind: Interval, path: str) -> None:
    """Rows of another interval would otherwise look like gaps."""
    for open_time, row in official.items():
        off_grid = kind.open_time(open_time) != open_time
        other_length = row.close_time_ms is not None and row.close_time_ms != kind.close_time(open_time)
        if off_grid or other_length:
            raise ConfigError(f"{path} does not hold {kind.name} klines: see its row of open time {open_time}")


def _one_id_space(recordings: list[TradeRecording]) -> TradeIds:
    spaces = {recording.ids for recording in recordings}
    if len(spaces) > 1:
        raise ConfigError("the recordings mix aggregate trades and single fills: replay them one by one")
    return spaces.pop()


def newest_of(
    recordings: list[TradeRecording], kind: Interval, symbol: str | None, refused: RefusedRows
) -> list[Kline]:
    """The highest version of every kline that the recordings give, by symbol and time; `refused` gets rows that cannot
    be trades, whose ids are then missing."""
    from aggregator.replay import replay

    newest: dict[tuple[str, str, int], Kline] = {}
    for kline in replay(_rows(recordings, symbol, refused), _one_id_space(recordings), kind):
        held = newest.get(kline.key)
        if held is None or kline.version > held.version:
            newest[kline.key] = kline
    return [newest[key] for key in sorted(newest)]


def _rows(recordings: list[TradeRecording], symbol: str | None, refused: RefusedRows) -> Iterator[TradeRow]:
    for recording in recordings:
        for trade in recording.usable(refused):
            if symbol is None or trade.symbol == symbol:
                refused.uncounted += not trade.counts
                yield TradeRow(
                    trade.symbol,
                    trade.id,
                    trade.price,
                    trade.qty,
                    trade.first,
                    trade.last,
                    trade.time_ms,
                    trade.maker,
                    trade.counts,
                )


def _line(kline: Kline) -> str:
    return " ".join(f"{name}={getattr(kline, name)}" for name in FIELDS if name not in ("epoch", "edge"))

"""`klagg replay`: the real aggregator code over recorded trades, compared with the exchange's own klines."""

from __future__ import annotations

import argparse
import heapq
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from klagg.cli.comparison import (
    SUMMARY_HELP,
    ComparisonReport,
    RefusedRows,
    float_columns,
    number,
    values_of_kline,
    values_of_official,
)
from klagg.cli.grid import to_compare
from klagg.cli.missing import Coverage, MissingIds, SeenIds, moment
from klagg.edge_splits import EDGES, EXCHANGE_EDGES, OWN_EDGES, Run, runs
from klagg.errors import ConfigError
from klagg.intervals import Interval, interval
from klagg.kline import FIELDS, Kline
from klagg.recordings import Refuse, RefusedRow, Trade, TradeIds, TradeRecording, open_klines, open_trades
from klagg.wire.entries import TradeRow

REMEMBERED_MAX: Final = 65_536
"""So many of the last trades are remembered, to be compared with those that come again; files are read in the order of
time, so that the same trade of two files comes soon after itself."""
DISORDER_MS: Final = 60_000
"""So much earlier may a trade be than one with a lower id. In recordings of the exchange it is milliseconds."""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `replay` command to the main parser."""
    parser = commands.add_parser(
        "replay",
        help="recorded trades through the real aggregator: print or compare klines",
        description="Folds recorded trades (WebSocket capture, REST JSON, dump CSV; gz or not) with the aggregator's "
        "own code. Without --klines the klines are printed; with it they are compared field by field with official "
        "ones (dumps, REST answers, captures, or klagg's own CSV, JSON, Arrow and Parquet). The files may come in any "
        "order. Ids of trades that are missing between the first and the last are named by range.",
        epilog=SUMMARY_HELP,
    )
    parser.add_argument("--trades", nargs="+", required=True, metavar="FILE", help="recordings, in any order")
    parser.add_argument("--klines", metavar="FILE", help="official klines to compare with")
    parser.add_argument(
        "--edges",
        choices=EDGES,
        default=OWN_EDGES,
        help="where later fills of an aggTrade that straddles a close count: in the bar of its first fill (own, the "
        "default), or where the official klines have them, if that explains a difference to the last digit (exchange)",
    )
    parser.add_argument("--interval", default="1m", help="interval of the klines (1m)")
    parser.add_argument("--symbol", help="the symbol of recordings that name none; of several symbols, the one to take")
    parser.add_argument("--ids", choices=("agg", "trade"), help="of captures that hold both, which events to take")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; the exit code."""
    kind = interval(args.interval)
    if args.edges == EXCHANGE_EDGES and args.klines is None:
        raise ConfigError("--edges exchange needs the official klines: name their file with --klines")
    recordings = [open_trades(each, args.symbol, args.ids) for each in args.trades]
    seen, refused = SeenIds(), RefusedRows("replay")
    klines = newest_of(recordings, kind, args.symbol, refused, seen)
    symbols = sorted({kline.symbol for kline in klines})
    covered = {
        symbol: CoveredBars([each for each in klines if each.symbol == symbol], kind, seen.missing(symbol))
        for symbol in symbols
    }
    if args.klines is not None:
        return _compare(klines, covered, args, kind, refused)
    report = ComparisonReport(args.json, refused)
    for kline in klines:
        report.show(_line(kline), kline.to_fields(), *covered[kline.symbol].of(kline.open_time))
    report.tell_missing([missing for symbol in symbols for missing in covered[symbol].missing])
    return report.conclude()


class CoveredBars:
    """How far a recording covers the bars of one symbol: it begins and ends in its first and its last bar."""

    def __init__(self, klines: Sequence[Kline], kind: Interval, missing: Sequence[MissingIds]) -> None:
        self._kind = kind
        self._whole = {kline.open_time: kline.whole for kline in klines}
        self._ends = {min(self._whole), max(self._whole)}
        self.missing = missing

    def of(self, open_time: int) -> tuple[Coverage, list[MissingIds]]:
        """How far it covers a bar, and the ids that may have been in it."""
        if self._whole.get(open_time, False):
            return Coverage.WHOLE, []
        close_time = self._kind.close_time(open_time)
        lacks = [each for each in self.missing if each.after_ms <= close_time and each.before_ms >= open_time]
        return Coverage.PARTIAL if open_time in self._ends else Coverage.GAP, lacks


def _compare(
    klines: list[Kline],
    covered: Mapping[str, CoveredBars],
    args: argparse.Namespace,
    kind: Interval,
    refused: RefusedRows,
) -> int:
    symbols = list(covered)
    if len(symbols) > 1:
        raise ConfigError(
            f"the recordings hold {len(symbols)} symbols: choose one with --symbol ({' '.join(symbols[:8])} …)"
        )
    if not symbols:
        raise ConfigError("the recordings hold no trades" + (f" of {args.symbol}" if args.symbol else ""))
    (symbol,) = symbols
    official = open_klines(args.klines, symbol, kind.name)
    rows = to_compare(official, kind, refused)
    theirs = {row.open_time_ms: values_of_official(row) for row in rows if row.whole}
    ours = {kline.open_time: kline for kline in klines}
    adopted = list(runs(kind, ours, theirs)) if args.edges == EXCHANGE_EDGES else []
    said = _adopt(ours, adopted)
    values = {open_time: values_of_kline(kline) for open_time, kline in ours.items()}
    report = ComparisonReport(args.json, refused, float_columns(official, rows, values.values()))
    first, last = min(ours), max(ours)
    for open_time in sorted(set(ours) | {each for each in theirs if first < each < last}):
        coverage, lacks = covered[symbol].of(open_time)
        report.compare(
            symbol,
            open_time,
            values.get(open_time),
            theirs.get(open_time),
            coverage=coverage,
            lacks=lacks,
            terms=ours[open_time].trades if open_time in ours else 0,
            due=bool(theirs) and min(theirs) < open_time < max(theirs),
            adopted=said.get(open_time, ""),
        )
    report.tell_missing(covered[symbol].missing)
    return report.conclude(args.klines)


def _adopt(ours: dict[int, Kline], adopted: Iterable[Run]) -> dict[int, str]:
    """Put the exchange's splits into our bars, by open time; what was moved in each of them, in a sentence."""
    said: dict[int, list[str]] = {}
    for run in adopted:
        for kline in run.klines:
            ours[kline.open_time] = kline
        for split, (earlier, later) in zip(run.splits, pairwise(run.klines), strict=True):
            fills = f"{split.fills} of the {split.edge.fills} fills of aggTrade {split.edge.id}, {split.qty} together"
            said.setdefault(earlier.open_time, []).append(f"{fills}, count in the next bar")
            said.setdefault(later.open_time, []).append(f"{fills}, came from the bar before")
    return {opening: "; ".join(sentences) for opening, sentences in said.items()}


def _one_id_space(recordings: Sequence[TradeRecording]) -> TradeIds:
    spaces = {recording.ids for recording in recordings}
    if len(spaces) > 1:
        raise ConfigError("the recordings mix aggregate trades and single fills: replay them one by one")
    return spaces.pop()


def newest_of(
    recordings: Sequence[TradeRecording],
    kind: Interval,
    symbol: str | None,
    refused: RefusedRows,
    seen: SeenIds | None = None,
) -> list[Kline]:
    """The highest version of every kline that the recordings give, by symbol and time. `refused` gets rows that cannot
    be trades, whose ids are then missing, and what the core refuses; `seen` is told the ids."""
    from aggregator.replay import replay

    newest: dict[tuple[str, str, int], Kline] = {}
    for kline in replay(_rows(recordings, symbol, refused, seen), _one_id_space(recordings), kind, refused):
        held = newest.get(kline.key)
        if held is None or kline.version > held.version:
            newest[kline.key] = kline
    return [newest[key] for key in sorted(newest)]


def _rows(
    recordings: Sequence[TradeRecording], symbol: str | None, refused: RefusedRows, seen: SeenIds | None
) -> Iterator[TradeRow]:
    earlier = _Earlier()
    for trade in in_order_of_time(recordings, refused):
        if symbol is None or trade.symbol == symbol:
            if why := earlier.contradiction(trade):
                refused(why)
                continue
            refused.uncounted += not trade.counts
            if seen is not None:
                seen.add(trade.symbol, trade.id, trade.time_ms)
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


@dataclass(slots=True)
class _Earlier:
    """The last REMEMBERED_MAX trades, by symbol and id: which trades come again and say something else, and which have
    a time that cannot be beside that of the trade before them."""

    _held: OrderedDict[tuple[str, int], Trade] = field(default_factory=OrderedDict)
    _last: dict[str, Trade] = field(default_factory=dict)

    def contradiction(self, trade: Trade) -> str:
        """What a trade that came before says otherwise, in a sentence; empty if nothing does."""
        before = self._held.setdefault((trade.symbol, trade.id), trade)
        if before is trade:
            if len(self._held) > REMEMBERED_MAX:
                self._held.popitem(last=False)
            return self._disorder(trade)
        told = ", ".join(
            f"{name} {getattr(trade, name)} instead of {getattr(before, name)}"
            for name in ("price", "qty", "first", "last", "time_ms", "maker", "counts")
            if _value(trade, name) != _value(before, name)
        )
        name = f"{trade.symbol}: trade {trade.id}"
        return f"{name} came before and is contradicted: {told}; the first counts" if told else ""

    def _disorder(self, trade: Trade) -> str:
        """Ids go with time: a trade behind another one cannot be much earlier."""
        last = self._last.get(trade.symbol)
        self._last[trade.symbol] = trade
        if last is None or trade.id < last.id or trade.time_ms >= last.time_ms - DISORDER_MS:
            return ""
        times = f"{moment(trade.time_ms)}, before that of trade {last.id}, {moment(last.time_ms)}"
        return f"{trade.symbol}: trade {trade.id} has the time {times}: one of them is wrong"


def _value(trade: Trade, name: str) -> object:
    value = getattr(trade, name)
    return number(value) if isinstance(value, str) else value


def in_order_of_time(recordings: Sequence[TradeRecording], refuse: Refuse) -> Iterator[Trade]:
    """The trades of all recordings, whatever the order of these; the trades of each keep theirs. `refuse` gets each row
    that cannot be a trade, once.

    A recording is open only while the time is between its first and its last trade.
    """
    waiting = []
    for at, recording in enumerate(recordings):
        passed_over: list[RefusedRow] = []
        first = next(recording.usable(passed_over.append), None)
        if first is not None:
            waiting.append((first.time_ms, at))
        for row in passed_over if first is None else ():
            refuse(row)
    waiting.sort(reverse=True)
    running: list[tuple[int, int, Trade, Iterator[Trade]]] = []
    while waiting or running:
        while waiting and (not running or waiting[-1][0] <= running[0][0]):
            time_ms, at = waiting.pop()
            trades = recordings[at].usable(refuse)
            heapq.heappush(running, (time_ms, at, next(trades), trades))
        _, at, trade, trades = running[0]
        yield trade
        following = next(trades, None)
        if following is None:
            heapq.heappop(running)
        else:
            heapq.heapreplace(running, (following.time_ms, at, following, trades))


def _line(kline: Kline) -> str:
    return " ".join(f"{name}={getattr(kline, name)}" for name in FIELDS if name not in ("epoch", "edge"))

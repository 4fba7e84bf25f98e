"""`klagg rollup`: klines folded into longer klines by the aggregator's own kernel, compared with the exchange's."""

from __future__ import annotations

import argparse
import itertools

import ujson

from aggregator.rollup import SourceBar, roll_up
from klagg.cli.comparison import ComparisonReport, RefusedRows, values_of_official
from klagg.errors import ConfigError
from klagg.intervals import INTERVALS, Interval, interval
from klagg.kline import NINE_VALUES, Values
from klagg.recordings import KlineRecording, OfficialKline, open_klines
from klagg.recordings.files import text_head


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `rollup` command to the main parser."""
    parser = commands.add_parser(
        "rollup",
        help="klines folded into longer klines: print or compare",
        description="Folds klines into those of a longer interval with the aggregator's own kernel. Without --compare "
        "they are printed; with it they are compared field by field with the exchange's own, and the exit code is 1 if "
        "any differs. The last line is a JSON summary; `partial` counts bars that the klines do not fully cover. A "
        "row that cannot be a kline is named, and the exit code is then 1.",
    )
    parser.add_argument("--klines", nargs="+", required=True, metavar="FILE", help="klines of one symbol and interval")
    parser.add_argument("--to", required=True, metavar="INTERVAL", help="the longer interval")
    parser.add_argument("--compare", metavar="FILE", help="official klines of that interval")
    parser.add_argument("--symbol", help="the symbol, where a file holds several")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; the exit code."""
    to = interval(args.to)
    sources = [open_klines(each, args.symbol) for each in args.klines]
    refused = RefusedRows("rollup")
    rows = [row for source in sources for row in source.usable(refused)]
    step = _step(rows, to, args.klines[0])
    rolled = roll_up([_source(row) for row in rows], to, args.klines[0])
    ours = {bar.open_time: _official(bar) for bar in rolled}
    if args.compare is None:
        for open_time, bar in ours.items():
            values = {name: getattr(bar, name) for name in NINE_VALUES}
            print(ujson.dumps({"open_time": open_time, **values}) if args.json else _line(open_time, values))
        partial = sum(not _covered(open_time, rows, step, to) for open_time in ours)
        counts = {"bars": len(ours), "exact": 0, "different": 0, "partial": partial}
        print(ujson.dumps({**counts, **refused.summary()}))
        return 1 if refused.count else 0
    official = open_klines(args.compare, args.symbol, to.name)
    comparison = ComparisonReport(args.json, float_sums=any(_float_sums(each) for each in (*sources, official)))
    theirs = {row.open_time_ms: row for row in official.usable(refused)}
    first, last = min(ours), max(ours)
    for open_time in sorted(set(ours) | {each for each in theirs if first <= each <= last}):
        whole = _covered(open_time, rows, step, to)
        comparison.add(
            args.symbol or "", open_time, _values(ours.get(open_time)), _values(theirs.get(open_time)), whole=whole
        )
    return comparison.conclude(refused)


def _source(row: OfficialKline) -> SourceBar:
    return SourceBar(
        row.open_time_ms,
        row.open,
        row.high,
        row.low,
        row.close,
        row.volume,
        row.quote_volume,
        row.trades,
        row.taker_buy_volume,
        row.taker_buy_quote_volume,
    )


def _official(bar: SourceBar) -> OfficialKline:
    return OfficialKline(
        bar.open_time,
        None,
        bar.open,
        bar.high,
        bar.low,
        bar.close,
        bar.volume,
        bar.quote_volume,
        bar.trades,
        bar.taker_buy_volume,
        bar.taker_buy_quote_volume,
    )


def _values(row: OfficialKline | None) -> Values | None:
    return None if row is None else values_of_official(row)


def _line(open_time: int, values: dict[str, object]) -> str:
    return f"open_time={open_time} " + " ".join(
        f"{name}={value}" for name, value in values.items() if value is not None
    )


def _step(rows: list[OfficialKline], to: Interval, path: str) -> Interval:
    """The interval of the source rows, from the closest pair of open times."""
    times = sorted(row.open_time_ms for row in rows)
    if not times:
        raise ConfigError(f"{path} holds no klines")
    closest = min((late - early for early, late in itertools.pairwise(times) if late > early), default=0)
    step = next((each for each in INTERVALS.values() if each.shortest_ms == closest), None)
    if closest and step is None:
        raise ConfigError(f"{path}: rows {closest} ms apart are of no interval that klagg knows")
    step = step or to
    if step.shortest_ms > to.shortest_ms or any(step.open_time(each) != each for each in times):
        raise ConfigError(f"{path}: its rows do not fit into {to.name} klines")
    return step


def _covered(open_time: int, rows: list[OfficialKline], step: Interval, to: Interval) -> bool:
    """Whether the source reaches over the whole bar: only the first and the last bar may be cut short."""
    first, last = rows[0].open_time_ms, rows[-1].open_time_ms
    return first <= open_time and step.close_time(last) >= to.close_time(open_time)


def _float_sums(recording: KlineRecording) -> bool:
    """Whether the file's sums are floats of whoever kept it: full tables with written-out times, not dumps."""
    columns = recording.layout.columns
    lines = text_head(recording.path).splitlines()
    written_out = len(lines) > 1 and not lines[1].split(",")[0].isdigit()
    return recording.layout.header and columns is not None and "trades" in columns and written_out

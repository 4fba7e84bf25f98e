"""`klagg rollup`: klines folded into longer klines by the aggregator's own kernel, compared with the exchange's."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping, Sequence

from aggregator.rollup import SourceBar, roll_up
from klagg.cli.comparison import (
    SUMMARY_HELP,
    ComparisonReport,
    RefusedRows,
    float_columns,
    number,
    values_of_official,
)
from klagg.cli.grid import kept, once, step_of, to_compare
from klagg.cli.missing import CoveredKlines, moment
from klagg.errors import ConfigError
from klagg.intervals import MINUTE_MS, Interval, interval
from klagg.kline import DECIMAL_FIELDS, NINE_VALUES
from klagg.recordings import KlineRecording, OfficialKline, open_klines


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `rollup` command to the main parser."""
    parser = commands.add_parser(
        "rollup",
        help="klines folded into longer klines: print or compare",
        description="Folds klines into those of a longer interval with the aggregator's own kernel. Without --compare "
        "they are printed; with it they are compared field by field with the exchange's own. The files may come in any "
        "order: dumps (CSV, zip or gz), REST answers, captures, and what klagg itself writes (CSV, JSON, Arrow, "
        "Parquet), whose open bars count nowhere.",
        epilog=f"{SUMMARY_HELP} Sums that a table tool has made in floats are compared to the digits that such a sum "
        "can hold, and the output says so (`float_sums`).",
    )
    parser.add_argument(
        "--klines", nargs="+", required=True, metavar="FILE", help="klines of one symbol and interval, in any order"
    )
    parser.add_argument("--to", required=True, metavar="INTERVAL", help="the longer interval")
    parser.add_argument("--compare", metavar="FILE", help="official klines of that interval, on the exchange's grid")
    parser.add_argument("--symbol", help="the symbol, where a file holds several")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; the exit code."""
    to = interval(args.to)
    sources = [open_klines(each, args.symbol) for each in args.klines]
    refused = RefusedRows("rollup")
    numbered = [list(source.numbered(refused)) for source in sources]
    origin = args.klines[0] if len(sources) == 1 else f"{args.klines[0]} and {len(sources) - 1} more"
    step = step_of([row for each in numbered for _, row in each], origin)
    read = [kept(each, step, str(source.path), refused) for source, each in zip(sources, numbered, strict=True)]
    rows = once(zip(args.klines, read, strict=True), refused)
    _check_nesting(rows, step, to, origin)
    covered = CoveredKlines(
        step, (row.open_time_ms for row in rows), (row.open_time_ms for row in rows if not row.whole)
    )
    rolled = roll_up([_source(row) for row in rows], to, origin)
    ours = {bar.open_time: _official(bar) for bar in rolled}
    if args.compare is None:
        report = ComparisonReport(args.json, refused)
        for open_time, bar in ours.items():
            values = {name: getattr(bar, name) for name in NINE_VALUES}
            report.show(_line(open_time, values), {"open_time": open_time, **values}, *covered.of(to, open_time))
        report.absent(_absent(to, ours))
        report.tell_missing(covered.missing)
        return report.conclude()
    parts = [(source, [row for _, row in each]) for source, each in zip(sources, read, strict=True)]
    return _compare(ours, covered, parts, to, args, refused)


def _compare(
    ours: Mapping[int, OfficialKline],
    covered: CoveredKlines,
    sources: Sequence[tuple[KlineRecording, list[OfficialKline]]],
    to: Interval,
    args: argparse.Namespace,
    refused: RefusedRows,
) -> int:
    official = open_klines(args.compare, args.symbol, to.name)
    rows = to_compare(official, to, refused)
    theirs = {row.open_time_ms: values_of_official(row) for row in rows if row.whole}
    values = {open_time: values_of_official(bar) for open_time, bar in ours.items()}
    floats = float_columns(official, rows, values.values()).union(
        *(float_columns(recording, part, theirs.values()) for recording, part in sources)
    )
    report = ComparisonReport(args.json, refused, floats)
    first, last = min(ours), max(ours)
    opens = set(ours) | {each for each in theirs if first <= each <= last}
    for open_time in sorted(opens):
        coverage, lacks = covered.of(to, open_time)
        report.compare(
            args.symbol or "",
            open_time,
            values.get(open_time),
            theirs.get(open_time),
            coverage=coverage,
            lacks=lacks,
            terms=_terms(to, open_time, covered.step),
            due=bool(theirs) and min(theirs) < open_time < max(theirs),
        )
    report.absent(_absent(to, opens))
    report.tell_missing(covered.missing)
    return report.conclude(args.compare)


def _absent(to: Interval, opens: Collection[int]) -> int:
    """How many bars there are none of between the first and the last of these open times (UTC ms)."""
    return to.bucket_of(max(opens)) - to.bucket_of(min(opens)) + 1 - len(opens)


def _terms(to: Interval, open_time: int, step: Interval) -> int:
    """How many terms a sum over a bar has at most, whatever shorter klines a table tool has made it of: its minutes,
    or the source's klines if these are shorter."""
    length_ms = to.close_time(open_time) + 1 - open_time
    return length_ms // min(MINUTE_MS, step.shortest_ms)


def _check_nesting(rows: Sequence[OfficialKline], step: Interval, to: Interval, origin: str) -> None:
    """Each shorter bar must lie in one longer bar: weeks do not make months."""
    for row in rows:
        opened = row.open_time_ms
        if to.open_time(opened) != to.open_time(step.close_time(opened)) or step.shortest_ms > to.shortest_ms:
            raise ConfigError(
                f"{origin}: its {step.name} klines do not fit into {to.name} klines (the one of {moment(opened)})"
            )


def _source(row: OfficialKline) -> SourceBar:
    texts = {name: getattr(row, name) for name in DECIMAL_FIELDS}
    plain = {name: f"{number(text):f}" if text and "e" in text.lower() else text for name, text in texts.items()}
    return SourceBar(row.open_time_ms, trades=row.trades, **plain)


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


def _line(open_time: int, values: dict[str, object]) -> str:
    return f"open_time={open_time} " + " ".join(
        f"{name}={value}" for name, value in values.items() if value is not None
    )

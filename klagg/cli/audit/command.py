"""`klagg audit`: our klines against the exchange's own, each difference with its class and its evidence."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import ujson

from auditors.classify import EXACT, VERDICTS, Comparison, puzzling
from auditors.exchange_store import finals_of
from klagg.cli import locate
from klagg.cli.audit import rest, summary
from klagg.cli.backfill.command import words
from klagg.cli.comparison import RefusedRows, float_columns, values_of_official
from klagg.cli.grid import on_grid
from klagg.cli.missing import TOLD_MAX, MissingIds, SeenIds, moment
from klagg.cli.replay import newest_of
from klagg.drivers.postgres import Database
from klagg.errors import ConfigError
from klagg.intervals import EVER_MS, MINUTE, Interval, ordered
from klagg.kline import Kline, Values, differences
from klagg.recordings import KlineRecording, RefusedRow, open_klines, open_trades
from klagg.settings import Settings, load
from klagg.wire.findings import FindingKind
from writers.backfill_dumps import OtherKind, find_dumps, refuse_other_kind
from writers.backfill_parts import OTHER_KINDS, span_of
from writers.migrate import require_schema

Key = tuple[str, Interval]


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `audit` command to the main parser."""
    parser = commands.add_parser(
        "audit",
        help="compare our klines with the exchange's own, and explain what differs",
        description="Compares the klines of the database (or those that recorded trades give, --trades) with official "
        "ones: those of the exchange's REST API, a folder of dumps as at data.binance.vision, or one file (a dump, a "
        "capture, or klagg's own CSV, JSON, Arrow or Parquet). A bar is exact, or it differs: EDGE_SHIFT (fills at a "
        "close, proven by the bars' edge evidence), EXCHANGE_GAP, LOCAL_GAP, LATE or UNEXPLAINED. The last line is a "
        "JSON summary; the exit code is 1 if anything is unexplained, "
        "refused or missing.",
    )
    parser.add_argument("--symbols", nargs="+", metavar="SYMBOL", default=[], help="default: all that there are")
    parser.add_argument("--intervals", nargs="+", metavar="INTERVAL", default=[], help="default: all that there are")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="TIME",
        help="2023, 2023-04, 2023-04-30 or 2023-04-30T12:00, UTC; without it and without --klines the last hour",
    )
    parser.add_argument("--to", dest="end", metavar="TIME", help="as --from; a year, month or day to its end")
    parser.add_argument("--klines", metavar="DIR", help="a folder of dumps, or one file of klines; default: REST")
    parser.add_argument("--trades", nargs="+", metavar="FILE", help="recorded trades, instead of the database")
    parser.add_argument("--json", action="store_true", help="one JSON object a bar instead of text")
    summary.add_argument(parser)
    locate.add_arguments(parser)
    parser.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class OfficialSeries:
    """The exchange's klines of one symbol and interval."""

    symbol: str
    interval: Interval
    theirs: dict[int, Values]
    from_ms: int = 0
    """Bars that open before it are only used as evidence for later ones."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Why rows of the exchange cannot be klines, by open time (UTC ms): none of `theirs`."""


def run(args: argparse.Namespace) -> int:
    """Runs the command; 1 if anything is unexplained, refused or missing."""
    from_ms = span_of(args.start)[0] if args.start else 0
    to_ms = span_of(args.end)[1] if args.end else EVER_MS
    if from_ms >= to_ms:
        raise ConfigError(f"--from {args.start} is not before --to {args.end}")
    if args.summary:
        return summary.show(
            _settings(args).database.url,
            from_ms=from_ms if args.start else None,
            to_ms=to_ms if args.end else None,
            symbols=words([each.upper() for each in args.symbols]),
            intervals=[each.name for each in ordered(tuple(words(args.intervals)))],
            as_json=args.json,
        )
    counts: Counter[str] = Counter(dict.fromkeys(VERDICTS, 0))
    refused = RefusedRows("audit")
    source = _Recorded(args.trades, refused) if args.trades else _Stored(args)
    official = _official(args, from_ms, to_ms, refused) if args.klines else _of_rest(args, from_ms, to_ms, refused)
    try:
        for series in official:
            _audit(series, source, from_ms, to_ms, counts, as_json=args.json)
    finally:
        source.close()
    if not counts.total():
        raise ConfigError(f"{args.klines or 'the exchange'} holds no klines of what is asked for")
    verdicts = {kind.lower(): counts[kind] for kind in VERDICTS}
    missing = source.missing(from_ms, to_ms)
    for each in missing[:TOLD_MAX]:
        print(ujson.dumps(each.told()) if args.json else each.sentence())
    lacks = {"refused": refused.count, "missing": sum(each.count for each in missing)}
    print(ujson.dumps({"bars": counts.total(), **verdicts, **{name: count for name, count in lacks.items() if count}}))
    return 1 if counts[FindingKind.UNEXPLAINED] or refused.count or missing else 0


def _audit(
    series: OfficialSeries,
    source: _Recorded | _Stored,
    from_ms: int,
    to_ms: int,
    counts: Counter[str],
    *,
    as_json: bool,
) -> None:
    """Audit one symbol and interval, from the first to the last bar of the exchange's file."""
    interval, theirs = series.interval, series.theirs
    first_ms, last_ms = max(from_ms, series.from_ms, min(theirs)), min(to_ms, max(theirs) + 1)
    before_ms = interval.open_of(interval.bucket_of(first_ms) - 1)
    ours = source.klines(series.symbol, interval, before_ms, interval.close_time(last_ms - 1) + 2)
    minutes: dict[int, Kline] = {}
    for opening in puzzling(interval, ours, theirs):
        minutes |= source.klines(series.symbol, MINUTE, opening, interval.close_time(opening) + 1)
    comparison = Comparison(interval, ours, theirs, minutes=minutes, refused=series.refused)
    for each in comparison.verdicts(first_ms, last_ms):
        counts[each.kind] += 1
        told = {
            "symbol": series.symbol,
            "interval": interval.name,
            "open_time": each.open_time,
            "verdict": each.kind,
            "evidence": each.evidence,
        }
        if as_json:
            print(ujson.dumps(told, ensure_ascii=False))
        elif each.kind != EXACT:
            opened = datetime.fromtimestamp(each.open_time / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
            print(f"{series.symbol} {interval.name} {opened} {each.kind}: {each.evidence}")


class _Stored:
    """Our klines from the database."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._database = Database(_settings(args).database.url, application="klagg-audit")
        require_schema(self._database)

    def klines(self, symbol: str, interval: Interval, from_ms: int, to_ms: int) -> dict[int, Kline]:
        """Finals with open times in [from, to)."""
        return finals_of(self._database, symbol, interval, from_ms, to_ms)

    def missing(self, from_ms: int, to_ms: int) -> list[MissingIds]:
        """None: the database says with each bar whether it lacks trades."""
        return []

    def close(self) -> None:
        self._database.close()


class _Recorded:
    """Our klines as recorded trades give them, by the aggregator's own code."""

    def __init__(self, files: Sequence[str], refused: RefusedRows) -> None:
        self._files, self._refused = files, refused
        self._seen: dict[str, SeenIds] = {}

    def klines(self, symbol: str, interval: Interval, from_ms: int, to_ms: int) -> dict[int, Kline]:
        """The newest versions with open times in [from, to). The first reading of the files tells what is refused."""
        recordings = [open_trades(each, symbol, None) for each in self._files]
        refused, self._refused = self._refused, RefusedRows("audit", quiet=True)
        seen = None if symbol in self._seen else self._seen.setdefault(symbol, SeenIds())
        return {
            kline.open_time: kline
            for kline in newest_of(recordings, interval, symbol, refused, seen)
            if kline.symbol == symbol and from_ms <= kline.open_time < to_ms
        }

    def missing(self, from_ms: int, to_ms: int) -> list[MissingIds]:
        """The trades that the recordings do not hold between others, and that may have been in [from, to)."""
        found = [each for symbol, seen in self._seen.items() for each in seen.missing(symbol)]
        return [each for each in found if each.before_ms >= from_ms and each.after_ms < to_ms]

    def close(self) -> None:
        """Does nothing."""


def _settings(args: argparse.Namespace) -> Settings:
    """The settings of the configuration if it names a database, otherwise those of the running klagg."""
    settings = load(args.config)
    return settings if settings.database.url and args.data_dir is None else locate.running_settings(args)


def _official(args: argparse.Namespace, from_ms: int, to_ms: int, refused: RefusedRows) -> Iterator[OfficialSeries]:
    """The requested klines in the files, one symbol and interval at a time."""
    symbols, intervals = words([each.upper() for each in args.symbols]), ordered(tuple(words(args.intervals)))
    path = Path(args.klines)
    if not path.is_dir():
        refuse_other_kind(path)
        yield from _of_file(path, symbols, intervals, refused)
        return
    files: dict[Key, list[Path]] = {}
    for part in find_dumps(path, from_ms, to_ms).parts:
        wanted = (not symbols or part.symbol in symbols) and (not intervals or part.interval in intervals)
        if wanted and part.path is not None:
            files.setdefault((part.symbol, part.interval), []).append(part.path)
    for (symbol, interval), paths in files.items():
        series = _usable([open_klines(each, symbol, interval.name) for each in paths], symbol, interval, refused)
        if series.theirs:
            yield series


def _usable(files: Sequence[KlineRecording], symbol: str, interval: Interval, refused: RefusedRows) -> OfficialSeries:
    """The rows of files that can be klines of the interval, without those that a file itself calls neither complete nor
    official; `refused` gets what can be no kline. ConfigError for a file on another grid."""
    reasons: dict[int, str] = {}

    def refuse(row: RefusedRow) -> None:
        refused(row)
        if row.open_ms is not None:
            reasons[row.open_ms] = row.reason

    theirs: dict[int, Values] = {}
    origins: dict[int, Path] = {}
    for each in files:
        if each.is_of_spot:
            raise OtherKind(each.path, OTHER_KINDS["spot"])
        rows = on_grid(each, interval, refuse)
        floats = float_columns(each, rows, theirs.values())
        for row in rows:
            if not row.whole:
                continue
            values, opened = values_of_official(row), row.open_time_ms
            terms = dict.fromkeys(floats, max(row.trades or 0, 1))
            if opened in theirs and (found := differences(theirs[opened], values, float_terms=terms)):
                names = ", ".join(one.name for one in found)
                why = f"{names} of {moment(opened)} contradict {origins[opened]}, which is compared"
                refused(RefusedRow(str(each.path), 0, why))
                continue
            theirs[opened], origins[opened] = values, each.path
    return OfficialSeries(symbol, interval, theirs, refused=reasons)


def _of_rest(args: argparse.Namespace, from_ms: int, to_ms: int, refused: RefusedRows) -> Iterator[OfficialSeries]:
    """The requested klines from the exchange, of bars that are certainly closed."""
    symbols, intervals = words([each.upper() for each in args.symbols]), ordered(tuple(words(args.intervals)))
    since_ms, until_ms = from_ms if args.start else None, to_ms if args.end else None
    for symbol, interval, first_ms, theirs in rest.official(
        _settings(args), symbols, intervals, since_ms, until_ms, refused
    ):
        yield OfficialSeries(symbol, interval, theirs, first_ms)


def _of_file(
    path: Path, symbols: Sequence[str], intervals: Sequence[Interval], refused: RefusedRows
) -> Iterator[OfficialSeries]:
    """The klines of one file; a file with several symbols (a capture) needs the options that name them."""
    if not symbols or len(intervals) != 1:
        raise ConfigError(f"{path} is one file: say with --symbols and --intervals whose klines it holds")
    for symbol in symbols:
        series = _usable([open_klines(path, symbol, intervals[0].name)], symbol, intervals[0], refused)
        if series.theirs:
            yield series

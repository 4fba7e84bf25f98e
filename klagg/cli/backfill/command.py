"""`klagg backfill`: years of history from the exchange's own klines, out of dumps or over REST."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from klagg.binance.kline_rows import told_by_rest
from klagg.cli import locate
from klagg.cli.backfill import rest
from klagg.cli.backfill.report import Meter, ReportFile, bad_rows, summary, to_json
from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.errors import ConfigError, KlaggError
from klagg.intervals import EVER_MS, MINUTE_MS, Interval, ordered
from klagg.process.stats import Stats
from klagg.settings import Settings, load
from writers.backfill import Totals, from_dumps
from writers.backfill import load as load_history
from writers.backfill_dumps import Found, find_dumps
from writers.backfill_parts import Failure, HistoryRows, Loaded, Part, in_order, resumed, span_of
from writers.backfill_table import HistoryTable
from writers.migrate import require_schema

PASSED_OVER_SHOWN: Final = 5
STANDING_SHOWN: Final = 10


class NothingFound(KlaggError):
    """Nothing that could be loaded was found."""


@dataclass(slots=True)
class Plan:
    """What there is to load. `problems` make the exit code 1, `notes` do not."""

    parts: list[Part]
    source: Iterable[HistoryRows | Failure] = ()
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `backfill` command to the main parser."""
    parser = commands.add_parser(
        "backfill",
        help="load history from the exchange's own klines",
        description="Loads official klines into the database, from a folder of dumps as at data.binance.vision (or "
        "flat; .csv, .csv.gz, .zip) or over REST. What is loaded is official, not complete: no trade id proves it. "
        "What klagg has computed itself stays: whole bars are never replaced, and where they differ that is said. "
        "Whose klines a file holds is judged by the folders in which it really lies, by its name, and by what its rows "
        "betray: name a folder of data/futures/um/…/klines, or one above it, and no other market (spot, cm, option) or "
        "price (markPriceKlines, indexPriceKlines, premiumIndexKlines). Official rows that contradict each other (two "
        "files, a file and REST, a bar and its shorter ones) are told, and are not official until they agree. Ended in "
        "the middle, the same command goes on where it was. The exit code is 1 if something could not be loaded or "
        "official rows contradict each other; the rest is loaded.",
    )
    parser.add_argument(
        "--from", dest="start", metavar="TIME", help="2023, 2023-04, 2023-04-30 or 2023-04-30T12:00, UTC"
    )
    parser.add_argument(
        "--to", dest="end", metavar="TIME", help="as --from; a year, month or day is loaded to its end (default: now)"
    )
    parser.add_argument("--symbols", nargs="+", metavar="SYMBOL", default=[], help="default: all that there are")
    parser.add_argument("--intervals", nargs="+", metavar="INTERVAL", default=[], help="default: those configured")
    parser.add_argument("--dir", metavar="DUMPS", help="the folder of dumps; without it REST is asked")
    parser.add_argument("--report", metavar="FILE", help="append every difference to FILE: .csv, else JSON lines")
    parser.add_argument("--again", action="store_true", help="load also what an earlier run has loaded")
    parser.add_argument(
        "--settle",
        action="store_true",
        help="the rows of this run are right: they settle contradictions with others, but where others alone have "
        "trades; mostly with --again",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of sentences")
    locate.add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; 0 if all that was asked for is loaded, 1 if not, 130 after Ctrl-C."""
    began_s = time.monotonic()
    start_ms, end_ms = _range(args)
    settings = _settings(args)
    intervals = ordered(tuple(words(args.intervals)) or settings.aggregator.intervals)
    stats, stopping, totals = Stats(), threading.Event(), Totals()
    database = Database(settings.database.url, application="klagg-backfill")
    try:
        require_schema(database)
        settled_ms = int(local_ms()) - settings.aggregator.window_minutes * MINUTE_MS
        table = HistoryTable(database, settled_ms, settle=args.settle)
        loaded = {} if args.again else table.loaded()
        resume = partial(resumed, loaded=loaded)
        if args.dir is not None:
            plan = _plan_dumps(args, intervals, start_ms, end_ms)
            asked, plan.parts = plan.parts, resume(plan.parts)
            plan.source = from_dumps(plan.parts, int(local_ms()))
        else:
            plan = _plan_rest(args, settings, intervals, start_ms, end_ms)
            asked, plan.parts = plan.parts, resume(plan.parts)
            plan.source = rest.RestHistory(settings, stats, stopping).batches(plan.parts)
        if not plan.parts:
            plan.notes.append("all of it had been loaded before: --again loads it anew")
        ended = _load(args, table, plan, totals, stats, stopping)
        if not ended:
            _look_back(table, plan, asked, loaded, totals)
    finally:
        database.close()
    plan.problems += [failure.reason for failure in totals.failures]
    if ended:
        plan.notes.append("ended early: what is stored stays, and the same command goes on from there")
    took_s = time.monotonic() - began_s
    told = to_json(totals, plan.problems, plan.notes, took_s) if args.json else None
    print(told or "\n".join(summary(totals, plan.problems, plan.notes, took_s)))
    return 130 if ended else 1 if plan.problems or totals.contradictory else 0


def _look_back(
    table: HistoryTable,
    plan: Plan,
    asked: Sequence[Part],
    loaded: Mapping[tuple[str, str, str], Loaded],
    totals: Totals,
) -> None:
    """Tell the bad rows of this run, those of earlier runs whose bars still lack, and contradictions that stand."""
    read = {part.key for part in plan.parts}
    for batch in totals.bad.values():
        plan.problems.append(bad_rows(batch.part, batch.bad, batch.bad_rows))
    for part in asked:
        known = loaded.get(part.key)
        if part.key in read or not known or not known.bad:
            continue
        if known.bad_rows > len(known.bad) or table.lacking(part, [each.open_time for each in known.bad]):
            plan.problems.append(bad_rows(part, known.bad, known.bad_rows))
    standing = table.standing({part.symbol for part in asked}, {part.interval.name for part in asked})
    if standing:
        shown = ", ".join(f"{each.symbol} {each.interval} {each.bars:,}" for each in standing[:STANDING_SHOWN])
        more = f" and {len(standing) - STANDING_SHOWN:,} more" if len(standing) > STANDING_SHOWN else ""
        plan.notes.append(
            f"bars that sources of the exchange tell differently, and that are not official: {shown}{more} (see the "
            "view klines_contradicted); load the right file with --again --settle"
        )


def _load(
    args: argparse.Namespace, table: HistoryTable, plan: Plan, totals: Totals, stats: Stats, stopping: threading.Event
) -> bool:
    """Load the plan; whether Ctrl-C ended it."""

    def waits() -> str:
        wait_s = stats.gauges.get("weight_wait_s", 0)
        return f"waits {wait_s} s for the exchange" if wait_s else ""

    with ReportFile(args.report) as report, Meter(plan.parts, waits) as meter:
        try:
            load_history(table, plan.source, totals, report=report.report, done=meter.see, stopping=stopping)
        except KeyboardInterrupt:
            return True
    return False


def words(given: Sequence[str]) -> list[str]:
    """The words of a list option, each once; commas part them too."""
    return list(dict.fromkeys(word for each in given for word in each.split(",") if word))


def _symbols(args: argparse.Namespace) -> list[str]:
    return words([each.upper() for each in args.symbols])


def _range(args: argparse.Namespace) -> tuple[int, int]:
    if args.start is None and args.dir is None:
        raise ConfigError("say with --from since when klines are to be loaded over REST")
    start_ms = span_of(args.start)[0] if args.start else 0
    end_ms = span_of(args.end)[1] if args.end else EVER_MS
    if start_ms >= end_ms:
        raise ConfigError(f"--from {args.start} is not before --to {args.end}")
    return start_ms, end_ms


def _settings(args: argparse.Namespace) -> Settings:
    """Those of the configuration if it names a database, else those of what runs."""
    settings = load(args.config)
    return settings if settings.database.url and args.data_dir is None else locate.running_settings(args)


def _plan_dumps(args: argparse.Namespace, intervals: Sequence[Interval], start_ms: int, end_ms: int) -> Plan:
    folder = Path(args.dir)
    found = find_dumps(folder, start_ms, end_ms)
    symbols = _symbols(args)
    parts = [part for part in found.parts if part.interval in intervals and (not symbols or part.symbol in symbols)]
    if not parts:
        others = f", though {len(found.parts)} others" if found.parts else ""
        raise NothingFound(
            f"{folder} holds no dumps of what is asked for{others}: their files are named like "
            "BTCUSDT-1m-2024-09.zip (.csv, .csv.gz)" + "".join(f"; {note}" for note in _passed_over(found))
        )
    plan = Plan(in_order(parts))
    for symbol in symbols:
        if all(part.symbol != symbol for part in parts):
            plan.problems.append(f"{symbol}: {folder} holds no dumps of it for what is asked")
    missing = [each.name for each in intervals if all(part.interval != each for part in parts)]
    if missing:
        said = f"{folder} holds no dumps of {', '.join(missing)}"
        if args.intervals:
            plan.problems.append(said)
        else:
            plan.notes.append(f"{said}: without --dir REST is asked for them")
    plan.notes += _passed_over(found)
    return plan


def _passed_over(found: Found) -> list[str]:
    """A sentence for each kind of files that were left."""
    return [
        f"{len(names):,} passed over, because {reason}: {', '.join(names[:PASSED_OVER_SHOWN])}"
        + (f" and {len(names) - PASSED_OVER_SHOWN:,} more" if len(names) > PASSED_OVER_SHOWN else "")
        for reason, names in (
            ("they are of another market or price than the trades of the USDⓈ-M futures", found.other),
            ("their names are not those of dumps of klines", found.unnamed),
        )
        if names
    ]


def _plan_rest(
    args: argparse.Namespace, settings: Settings, intervals: Sequence[Interval], start_ms: int, end_ms: int
) -> Plan:
    untold = [each.name for each in intervals if not told_by_rest(each)]
    if untold and args.intervals:
        raise ConfigError(f"the exchange has no klines of {', '.join(untold)}")
    told = [each for each in intervals if told_by_rest(each)]
    market = rest.RestHistory(settings, Stats(), threading.Event()).market(_symbols(args))
    parts = rest.parts_of(market, told, start_ms, end_ms)
    if not parts:
        raise NothingFound("no symbol asked for was listed in that time, or nothing of it is closed yet")
    plan = Plan(parts)
    if untold:
        plan.notes.append(f"the exchange has no klines of {', '.join(untold)}")
    return plan

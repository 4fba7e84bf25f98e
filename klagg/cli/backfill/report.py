"""What `klagg backfill` says: progress while it runs, a report of what differs, and the summary. No database here."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TextIO

import ujson
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from klagg.cli.up.screen import moment
from klagg.errors import ConfigError
from klagg.kline import NINE_VALUES
from writers.backfill import Totals
from writers.backfill_parts import BadRow, Failure, HistoryRows, Part
from writers.backfill_table import CONTRADICTIONS, Disagreement

SERIES_MAX: Final = 20
"""So many symbols and intervals with contradictions are told."""

BAD_SHOWN: Final = 3
"""So many bad rows of a file are told."""

PLAIN_S: Final = 10.0
"""How often progress is told where no terminal shows a bar."""

COLUMNS: Final = (
    "kind",
    "symbol",
    "interval",
    "open_time",
    "open_time_ms",
    "fields",
    *(f"{side}_{name}" for name in NINE_VALUES for side in ("own", "official")),
    "epoch",
    "revision",
    "complete",
    "official",
    "source",
    "edge",
    "own_side",
    "official_side",
)


class ReportFile:
    """Disagreements as rows of a file: CSV if its name ends so, else a JSON object a line. It is appended to.

    A context manager; without a path it does nothing. ConfigError if the file cannot be written.
    """

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: TextIO | None = None

    def __enter__(self) -> ReportFile:
        if self._path is not None:
            try:
                self._file = Path(self._path).open("a", encoding="utf-8", newline="")
            except OSError as bad:
                raise ConfigError(f"the report {self._path} cannot be written: {bad.strerror}") from None
            if self._path.endswith(".csv") and not self._file.tell():
                csv.writer(self._file).writerow(COLUMNS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def report(self, found: Sequence[Disagreement]) -> None:
        """Write rows, and hand them to the system: what is committed after this is in the file."""
        if self._file is None or not found:
            return
        for each in found:
            row = row_of(each)
            if str(self._path).endswith(".csv"):
                csv.writer(self._file).writerow([row[name] for name in COLUMNS])
            else:
                self._file.write(ujson.dumps(row, ensure_ascii=False, escape_forward_slashes=False) + "\n")
        self._file.flush()


def row_of(each: Disagreement) -> dict[str, Any]:
    """A disagreement as a row of the report."""
    values = {f"own_{name}": value for name, value in each.own.items()}
    values |= {f"official_{name}": value for name, value in each.official.items()}
    epoch, revision, complete, official = each.version
    return {
        "kind": each.kind,
        "symbol": each.symbol,
        "interval": each.interval,
        "open_time": moment(each.open_time),
        "open_time_ms": each.open_time,
        "fields": " ".join(each.fields),
        **values,
        "epoch": epoch,
        "revision": revision,
        "complete": complete,
        "official": official,
        "source": each.source,
        "edge": each.edge,
        "own_side": each.sides[0],
        "official_side": each.sides[1],
    }


def sentence_of(each: Disagreement) -> str:
    """A disagreement for people."""
    if each.kind in CONTRADICTIONS:
        said = ", ".join(f"{name} {each.own[name]} against {each.official[name]}" for name in each.fields)
        sides = " against ".join(each.sides)
        return f"{each.kind} {each.symbol} {each.interval} {moment(each.open_time)}, {sides}: {said}"
    said = ", ".join(f"{name} {each.own[name]} (official {each.official[name]})" for name in each.fields)
    edge = f"; trades at the edge: {each.edge}" if each.edge else ""
    return f"{each.kind} {each.symbol} {each.interval} {moment(each.open_time)} {each.source}: {said}{edge}"


class _Rate(ProgressColumn):
    """Rows a second."""

    def render(self, task: Any) -> str:
        return f"{task.speed:,.0f} bars/s" if task.speed else ""


def _name_of(part: Part) -> str:
    return part.name if part.path else f"{part.symbol} {part.interval.name} {part.name}"


class Meter(AbstractContextManager["Meter"]):
    """How far a run is, on standard error: a bar on a terminal, elsewhere a line now and then.

    It counts bars, those of a part that the exchange does not have as soon as the part is done with. `waits` says what
    the run waits for, if it does.
    """

    def __init__(self, parts: Sequence[Part], waits: Callable[[], str] = lambda: "") -> None:
        self._left = {part.key: part.bars for part in parts}
        self._total, self._done, self._waits = sum(self._left.values()), 0, waits
        self._bar: Progress | None = None
        self._told_s = time.monotonic()
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(None),
                TaskProgressColumn(),
                _Rate(Column(no_wrap=True)),
                TimeRemainingColumn(),
                TextColumn("{task.fields[waits]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("backfill", total=self._total, waits="")

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def see(self, item: HistoryRows | Failure) -> None:
        """An item is done with."""
        part = item.part
        left = self._left.get(part.key, 0)
        step = 0 if isinstance(item, Failure) and item.row else left
        if isinstance(item, HistoryRows) and item.until_ms < part.to_ms:
            step = min(len(item.rows), left)
        self._left[part.key] = left - step
        self._done += step
        if self._bar is not None:
            self._bar.update(
                self._task,
                advance=step,
                description=_name_of(part),
                waits=self._waits(),
            )
        elif time.monotonic() - self._told_s >= PLAIN_S:
            self._told_s = time.monotonic()
            print(
                f"klagg backfill: {self._done:,} of {self._total:,} bars, {_name_of(part)} {self._waits()}".rstrip(),
                file=sys.stderr,
                flush=True,
            )


def summary(totals: Totals, problems: Sequence[str], notes: Sequence[str], took_s: float) -> list[str]:
    """What a person should know of a run."""
    rate = f" ({totals.rows / took_s:,.0f} rows/s)" if took_s >= 1 else ""
    lines = [
        f"{totals.rows:,} official rows in {took_s:.1f} s{rate}: {totals.written:,} written, "
        f"{totals.known:,} were there already, {totals.own:,} stand back behind klagg's own bars"
        + (f", {totals.refused:,} contradict official rows that stay" if totals.refused else "")
    ]
    if totals.healed:
        lines.append(f"{totals.healed:,} of the written ones replace incomplete bars of klagg's own")
    if totals.incomplete:
        lines.append(f"{totals.incomplete:,} bars of klagg's own are incomplete and were left as they are")
    if totals.different or totals.gaps:
        lines.append(
            f"klagg's own bars differ in {totals.different:,} cases; {totals.gaps:,} official rows are flat where "
            "klagg saw trades (EXCHANGE_GAP)"
        )
        lines += [f"  {sentence_of(each)}" for each in totals.examples]
        more = totals.different + totals.gaps - len(totals.examples)
        if more:
            lines.append(f"  … and {more:,} more: --report FILE writes all of them")
    elif totals.own:
        lines.append("no whole bar of klagg's own differs from its official row")
    lines += _contradictions(totals)
    lines += [f"note: {note}" for note in notes]
    if problems:
        lines.append(f"{len(problems)} could not be loaded, or not wholly:")
        lines += [f"  {problem}" for problem in problems]
    return lines


def _contradictions(totals: Totals) -> list[str]:
    """What official rows say against each other, by symbol and interval, and the first bars."""
    if not totals.contradictions:
        return []
    count = totals.contradictions.total()
    lines = [
        f"the exchange contradicts itself in {count:,} cases (CONTRADICTED: two sources of one bar; FOLD: a bar and "
        "its shorter ones; REVISED: a source says otherwise than before; SETTLED: by --settle). Trades that were seen "
        "stay; contradicted bars are not official until the sources agree, or until --settle says which is right; "
        "both sides are in the table amendments"
    ]
    series = sorted(totals.contradictions.items())
    lines += [f"  {symbol} {interval} {kind}: {bars:,}" for (symbol, interval, kind), bars in series[:SERIES_MAX]]
    if len(series) > SERIES_MAX:
        lines.append(f"  … and {len(series) - SERIES_MAX:,} more symbols and intervals")
    lines += [f"  {sentence_of(each)}" for each in totals.contradicted]
    if count > len(totals.contradicted):
        lines.append(f"  … and {count - len(totals.contradicted):,} more: --report FILE writes all of them")
    return lines


def bad_rows(part: Part, bad: Sequence[BadRow], count: int) -> str:
    """What is said of a part with rows that cannot be klines: which they are, and what to do."""
    lines = "; ".join(
        f"line or item {each.line}: {each.why}" if part.path else f"{moment(each.open_time)}: {each.why}"
        for each in bad[:BAD_SHOWN]
    )
    more = f"; and {count - BAD_SHOWN:,} more" if count > BAD_SHOWN else ""
    first, last = bad[0].open_time, part.interval.close_time(max(each.open_time for each in bad)) + 1
    since, until = (datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M") for at in (first, last))
    asked = f"klagg backfill --symbols {part.symbol} --intervals {part.interval.name} --from {since} --to {until}"
    todo = f"Get the file anew, which is then read by itself, or ask REST: {asked}"
    return (
        f"{part.path or f'{part.symbol} {part.interval.name} {part.name}'}: {count:,} of its rows cannot be klines and "
        f"{'is' if count == 1 else 'are'} left out ({lines}{more}); its other rows are loaded. "
        f"{todo if part.path else f'Ask again later: {asked} --again'}"
    )


def to_json(totals: Totals, problems: Sequence[str], notes: Sequence[str], took_s: float) -> str:
    """The same for programs: one JSON object."""
    counters = ("rows", "written", "healed", "known", "refused", "own", "incomplete", "different", "gaps")
    return ujson.dumps(
        {
            **{name: getattr(totals, name) for name in counters},
            "took_s": round(took_s, 3),
            "rows_per_s": int(totals.rows / took_s) if took_s else 0,
            "examples": [row_of(each) for each in totals.examples],
            "contradictions": totals.contradictions.total(),
            "contradictions_by_series": {
                f"{symbol} {interval} {kind}": bars
                for (symbol, interval, kind), bars in sorted(totals.contradictions.items())[:SERIES_MAX]
            },
            "contradicted": [row_of(each) for each in totals.contradicted],
            "bad_rows": sum(each.bad_rows for each in totals.bad.values()),
            "notes": list(notes),
            "problems": list(problems),
        },
        ensure_ascii=False,
        escape_forward_slashes=False,
    )

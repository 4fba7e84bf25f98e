"""What `klagg backfill` does to the database: a batch of official rows and the note of it, in one transaction.

A crash before the commit leaves neither; after it, both. So a run that goes on loads nothing twice and misses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from klagg.drivers.postgres import Database, Row
from klagg.drivers.statements import load_statements
from klagg.errors import DatabaseRefused
from klagg.intervals import Interval
from klagg.kline import DECIMAL_FIELDS, NINE_VALUES, differences
from klagg.wire.findings import FindingKind
from writers.backfill_folds import Pair, pairs_of, relatives, spans_of
from writers.backfill_parts import BadRow, HistoryRows, Loaded, Part
from writers.kline_classes import CLASSES, for_table, table_of

DIFFERENT: Final = "DIFFERENT"
"""A whole bar of klagg's own and the official row differ in a value."""

CONTRADICTED: Final = "CONTRADICTED"
"""Two sources of the exchange's history tell one bar differently."""

REVISED: Final = "REVISED"
"""A source of the exchange's history tells a bar otherwise than it did, and no other source tells it."""

SETTLED: Final = "SETTLED"
"""Two sources of the exchange's history told one bar differently, and a person said which is right."""

FOLD: Final = FindingKind.FOLD.value
"""A bar of the exchange's history and the fold of its shorter bars differ."""

UNIQUE_VIOLATION: Final = "23505"

_QUERIES = load_statements(Path(__file__).with_name("backfill.sql"))
_NAMES: Final = (
    "occupied", "heal", "contradict", "insert", "upsert", "settle", "flag", "own", "intervals_there", "folds", "lacking"
)  # fmt: skip
_OF_CLASS: Final = {table: {name: for_table(_QUERIES[name], table) for name in _NAMES} for table in CLASSES}
_SHORTER: Final = "klines_of_shorter"
"""The name that `folds` uses for the table of the shorter interval."""

_TYPES: Final = ("text",) * 11


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A bar of the table and an official row that says otherwise.

    `kind` is EXCHANGE_GAP (the official row is flat, with no trades, where klagg saw trades) or DIFFERENT for a bar of
    klagg's own; CONTRADICTED, SETTLED, REVISED or FOLD for a bar of the exchange's history. `own` and `official` hold
    the nine values of what stays in the table and of what does not, decimals as texts; of a FOLD those of the longer
    bar and of the fold. `fields` names those that differ. `version` is (epoch, revision, complete, official) of the
    bar, `source` and `edge` are its own. `sides` names whose the two are: files, REST and its month or year, or an
    interval.
    """

    kind: str
    symbol: str
    interval: str
    open_time: int
    fields: tuple[str, ...]
    own: Mapping[str, str | int]
    official: Mapping[str, str | int]
    version: tuple[int, int, int, int]
    source: str
    edge: str
    sides: tuple[str, str] = ("", "")


CONTRADICTIONS: Final = (CONTRADICTED, SETTLED, REVISED, FOLD)


@dataclass(slots=True)
class Stored:
    """What became of official rows: `written` are new or take the place of an earlier official row, `healed` of these
    replaced an incomplete bar of klagg's own; `known` were there already; `refused` contradict an official row that
    stays; beside `own` ones klagg has a bar that stays, of which `incomplete` are still young enough for the aggregator
    to complete them. `disagreements` holds every difference, also those among official rows."""

    rows: int = 0
    written: int = 0
    healed: int = 0
    known: int = 0
    refused: int = 0
    own: int = 0
    incomplete: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Standing:
    """How many bars of a symbol and interval sources of the exchange's history tell differently."""

    symbol: str
    interval: str
    bars: int


Report = Callable[[Sequence[Disagreement]], None]


class HistoryTable:
    """The klines and backfilled tables for official history.

    Incomplete bars of klagg's own that closed before `settled_ms` are replaced, because no aggregator amends them any
    more, and those that never were final; each is noted in the table amendments. So is every official row that says
    otherwise than another: a bar that two of them tell differently is official again once they agree, or once a person
    says so (`settle`: the rows that come are right).
    Every method raises DatabaseUnavailable and DatabaseRefused as `Database`; then nothing of its call is stored.
    """

    def __init__(self, database: Database, settled_ms: int, *, settle: bool = False) -> None:
        self._database = database
        self._settled_ms = settled_ms
        self._settle = settle

    def loaded(self) -> dict[tuple[str, str, str], Loaded]:
        """What earlier runs have loaded, by the keys of parts."""
        return {
            (row["symbol"], row["interval"], row["part"]): Loaded(
                row["mark"],
                row["from_ms"],
                row["until_ms"],
                tuple(BadRow(**each) for each in row["bad"]),
                row["bad_rows"],
            )
            for row in self._database.query(_QUERIES["loaded"])
        }

    def lacking(self, part: Part, opens: Sequence[int]) -> int:
        """How many bars of these open times (UTC ms) the table does not have."""
        queries = _OF_CLASS[table_of(part.interval.name)]
        about = {"symbol": part.symbol, "interval": part.interval.name, "opens": sorted(set(opens))}
        lacks: int = self._database.query(queries["lacking"], about)[0]["lacks"]
        return lacks

    def standing(self, symbols: Collection[str], intervals: Collection[str]) -> list[Standing]:
        """Bars of the exchange's history with contradictions that stand, by symbol and interval (no symbols: all)."""
        found = self._database.query(_QUERIES["standing"], {"symbols": list(symbols), "intervals": list(intervals)})
        return [Standing(row["symbol"], row["interval"], row["bars"]) for row in found]

    def store(self, batch: HistoryRows, report: Report) -> Stored:
        """Store a batch and how far its part is loaded with it; at the part's end its days are counted (symbol_days).

        What it found goes to `report` before the commit: a crash in between has it reported again, so none is missed.
        """
        try:
            return self._store(batch, report, empty=None)
        except DatabaseRefused as refused:
            if refused.sqlstate != UNIQUE_VIOLATION:
                raise
        return self._store(batch, report, empty=False)

    def _store(self, batch: HistoryRows, report: Report, *, empty: bool | None) -> Stored:
        """`empty`: whether the table has no bars where these go; None: look."""
        part, rows = batch.part, batch.rows
        stored = Stored(rows=len(rows))
        names = {"symbol": part.symbol, "interval": part.interval.name, "part": part.name, "mark": part.mark}
        with self._database.transaction():
            self._database.query(_QUERIES["lock_symbol"], names)
            if rows:
                about = {
                    **names,
                    "settle": self._settle,
                    "settled_ms": self._settled_ms,
                    "first_ms": int(rows[0][0]),
                    "last_ms": int(rows[-1][0]),
                }
                self._database.execute(_QUERIES["create_official"])
                self._database.copy_rows(_QUERIES["copy_official"], _TYPES, rows)
                queries = _OF_CLASS[table_of(part.interval.name)]
                if empty is None:
                    empty = not self._database.query(queries["occupied"], about)[0]["there"]
                if empty:
                    stored.written = self._database.execute(queries["insert"], about)
                else:
                    self._upsert(stored, batch, about)
            ended = batch.until_ms >= part.to_ms > part.from_ms
            span = {"from_ms": part.from_ms, "to_ms": part.to_ms}
            touched = self._fold(stored, part) if ended else set()
            report(stored.disagreements)
            bad = json.dumps([asdict(each) for each in batch.bad], ensure_ascii=False)
            noted = {
                **names,
                "from_ms": part.from_ms,
                "until_ms": batch.until_ms,
                "bad": bad,
                "bad_rows": batch.bad_rows,
            }
            self._database.execute(_QUERIES["note_loaded"], noted)
            for name in touched:
                self._database.query(_QUERIES["count_days"], {"symbol": part.symbol, "interval": name, **span})
        return stored

    def _upsert(self, stored: Stored, batch: HistoryRows, about: Mapping[str, object]) -> None:
        part, queries = batch.part, _OF_CLASS[table_of(batch.part.interval.name)]
        stored.healed = self._database.execute(queries["heal"], about)
        found = self._database.query(queries["contradict"], about)
        winners = [row["open_time"] for row in found if row["wins"]]
        stored.written = self._database.execute(queries["upsert"], {**about, "winners": winners})
        stored.refused = len(found) - len(winners)
        stored.disagreements += [contradiction_of(row, part, settle=self._settle) for row in found]
        if self._database.query(_QUERIES["contested"], about)[0]["stands"]:
            self._database.execute(queries["settle"], about)
            self._database.execute(queries["flag"], about)
        if stored.written + stored.refused < stored.rows:
            refused = {row["open_time"] for row in found if not row["wins"]}
            own = self._database.query(queries["own"], about)
            self._judge(stored, batch, [row for row in own if row["open_time"] not in refused])

    def _judge(self, stored: Stored, batch: HistoryRows, own: Sequence[Row]) -> None:
        stored.own = len(own)
        stored.known = stored.rows - stored.written - stored.refused - stored.own
        for row in own:
            stored.incomplete += not (row["complete"] or row["official"])
            found = judged(row, batch.part.symbol, batch.part.interval.name)
            if found:
                stored.disagreements.append(found)

    def _fold(self, stored: Stored, part: Part) -> set[str]:
        """Hold a part that is loaded to its end against other intervals; the intervals whose days are to be counted."""
        touched = {part.interval.name}
        about = {"symbol": part.symbol, "first_ms": part.from_ms, "last_ms": part.to_ms - 1}
        there = [
            row["name"]
            for table, queries in _OF_CLASS.items()
            if (names := [each for each in relatives(part.interval) if table_of(each) == table])
            for row in self._database.query(queries["intervals_there"], {**about, "names": names})
        ]
        for pair in pairs_of(part.interval, there):
            for first_ms, last_ms in spans_of(pair, part.from_ms, part.to_ms):
                found = self._compare(pair, {**about, "first_ms": first_ms, "last_ms": last_ms}, part.interval)
                unlike = [fold_of(row, part.symbol, pair) for row in found if not row["agreed"]]
                stored.disagreements += unlike
                if found:
                    touched |= {each.name for each in pair}
        return touched

    def _compare(self, pair: Pair, about: Mapping[str, object], loaded: Interval) -> Sequence[Row]:
        longer, shorter = pair
        queries = _OF_CLASS[table_of(longer.name)]
        found = self._database.query(
            queries["folds"].replace(_SHORTER, table_of(shorter.name)),
            {
                **about,
                "longer": longer.name,
                "shorter": shorter.name,
                "length_ms": longer.length_ms,
                "anchor_ms": longer.anchor_ms,
                "shorter_ms": shorter.length_ms,
                # What a person calls right is not doubted itself.
                "note_longer": not (self._settle and loaded == longer),
                "note_shorter": not (self._settle and loaded == shorter),
            },
        )
        if found:
            for each in pair:
                flag = _OF_CLASS[table_of(each.name)]["flag"]
                self._database.execute(flag, {**about, "interval": each.name})
        return found


def contradiction_of(row: Mapping[str, Any], part: Part, *, settle: bool) -> Disagreement:
    """What a row of the query `contradict` says; `settle`: whether a person says that the new rows are right."""
    others = ", ".join(row["others"]) or f"{part.name} as it was"
    held, said = _values(row["held"]), _values(row["said"])
    stays, goes = (said, held) if row["wins"] else (held, said)
    sides = (part.name, others) if row["wins"] else (others, part.name)
    kind = CONTRADICTED
    if row["wins"]:
        kind = SETTLED if settle else CONTRADICTED if row["others"] else REVISED
    return _official_pair(kind, row, part.symbol, part.interval.name, (stays, goes), sides)


def fold_of(row: Mapping[str, Any], symbol: str, pair: Pair) -> Disagreement:
    """What a row of the query `folds` says of two intervals that contradict each other."""
    longer, shorter = pair
    values = _values(row["held"]), _values(row["said"])
    return _official_pair(FOLD, row, symbol, longer.name, values, (longer.name, f"the fold of {shorter.name}"))


def _values(text: str) -> dict[str, str | int]:
    """The nine values of a JSON object of the database, decimals as the texts that they are there."""
    found = json.loads(text, parse_float=str)
    return {name: found[name] if name == "trades" else str(found[name]) for name in NINE_VALUES}


def _official_pair(
    kind: str,
    row: Mapping[str, Any],
    symbol: str,
    interval: str,
    values: tuple[Mapping[str, str | int], Mapping[str, str | int]],
    sides: tuple[str, str],
) -> Disagreement:
    stays, goes = values
    return Disagreement(
        kind,
        symbol,
        interval,
        row["open_time"],
        tuple(each.name for each in differences(_numbers(stays), _numbers(goes))),
        stays,
        goes,
        (row["epoch"], row["revision"], int(row["complete"]), int(row["official"])),
        "exchange",
        "",
        sides,
    )


def judged(row: Mapping[str, Any], symbol: str, interval: str) -> Disagreement | None:
    """What a row of the query `own` says; None if the two agree, or the own bar may lack trades."""
    own: dict[str, str | int] = {name: row[f"own_{name}"] for name in NINE_VALUES}
    official: dict[str, str | int] = {name: row[f"official_{name}"] for name in NINE_VALUES}
    gap = official["trades"] == 0 and int(own["trades"]) > 0
    if not gap and not (row["complete"] or row["official"]):
        return None
    unlike = tuple(each.name for each in differences(_numbers(own), _numbers(official)))
    if not unlike:
        return None
    return Disagreement(
        FindingKind.EXCHANGE_GAP if gap else DIFFERENT,
        symbol,
        interval,
        row["open_time"],
        unlike,
        own,
        official,
        (row["epoch"], row["revision"], int(row["complete"]), int(row["official"])),
        row["source"],
        row["edge"],
    )


def _numbers(values: Mapping[str, str | int]) -> dict[str, Decimal | int]:
    return {name: Decimal(value) if name in DECIMAL_FIELDS else int(value) for name, value in values.items()}

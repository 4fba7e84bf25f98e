"""The tables of the history as writer-snapshot sees them: what events and findings say, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from pathlib import Path

from klagg.drivers.postgres import Database
from klagg.drivers.statements import load_statements
from writers.history import Event, Gap, Record, Symbol
from writers.history_findings import Finding, changed

_QUERIES = load_statements(Path(__file__).with_name("history.sql"))


def keep(database: Database, events: Sequence[Event], findings: Sequence[Finding], ids: str) -> int:
    """Write what these say, in the order of their streams; how many rows were new or changed.

    `ids` is what gaps count: agg or trade. Repeating it is harmless. DatabaseRefused and DatabaseUnavailable as of
    `Database`; then nothing is written, or, if the connection broke in the commit, all or nothing is.
    """
    if not events and not findings:
        return 0
    with database.transaction():
        database.execute(_QUERIES["lock"])
        notices = {each.id: each for each in findings if not each.standing}
        written = _put(database, "put_notices", notices.values(), Finding)
        written += _put(database, "put_findings", _standing(database, findings), Finding)
        if events:
            record = _record(database, events, ids)
            record.apply(events)
            _put(database, "delete_gaps", record.gone_gaps(), Gap)
            written += _put(database, "put_symbols", record.changed_symbols(), Symbol)
            written += _put(database, "put_gaps", record.changed_gaps(), Gap)
    return written


def _record(database: Database, events: Sequence[Event], ids: str) -> Record:
    """The rows that these events are about."""
    symbols = sorted({event.columns["symbol"] for event in events})
    gap_keys = sorted({event.gap_key for event in events if event.is_about_gap})
    names, first, last = zip(*gap_keys, strict=True) if gap_keys else ((), (), ())
    return Record.begin(
        ids,
        [Symbol(**row) for row in database.query(_QUERIES["known_symbols"], {"symbols": symbols})],
        [
            Gap(**row)
            for row in database.query(
                _QUERIES["known_gaps"], {"symbol": list(names), "from_id": list(first), "to_id": list(last)}
            )
        ],
    )


def _standing(database: Database, findings: Sequence[Finding]) -> list[Finding]:
    """The rows of standing findings that these change."""
    published = [each for each in findings if each.standing]
    if not published:
        return []
    ids = sorted({each.id for each in published})
    return changed((Finding(**row) for row in database.query(_QUERIES["known_findings"], {"ids": ids})), published)


def _put(database: Database, name: str, rows: Iterable[object], kind: type[Symbol | Gap | Finding]) -> int:
    """Run a statement over rows, a list for each of their columns; how many rows of the table it touched."""
    rows = list(rows)
    if not rows:
        return 0
    columns = {each.name: list(map(attrgetter(each.name), rows)) for each in fields(kind)}
    return database.execute(_QUERIES[name], columns)

"""What auditors find: kinds, severities, and ids that stay the same when the same thing is found again. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from klagg.intervals import INTERVALS
from klagg.process.stats import Stats
from klagg.wire.fields import Fields
from klagg.wire.findings import FindingKind, Severity, finding_entry

FINDING_ENTRIES: Final = 10_000
"""About how many entries the stream of findings keeps."""

GAP_PLACE: Final = "gap/"
"""How the place of a finding about missing ids begins."""

_GAP_PLACE_IN_IDS: Final = "hole/"
"""How version 1 of the contract began such a place, and every id still does."""

FOUND_BY_AUDITORS: Final = tuple(
    kind
    for kind in FindingKind
    if kind
    not in {
        FindingKind.REDIS_OLDER,
        FindingKind.UNREPAIRED,
        FindingKind.OFFICIAL_REFUSED,
        FindingKind.OVERFLOW,
        FindingKind.ID_SPACE,
        FindingKind.TOO_OLD,
        FindingKind.OLD_GENERATION,
        FindingKind.UNLISTED,
        FindingKind.WITNESS_WRONG,
        FindingKind.UNKNOWN_GROUP,
        FindingKind.INGEST_DROPPED,
    }
)
"""What auditors find; the other kinds are found by the aggregator and ingest."""

JOINED_SYMBOLS_MIN: Final = 20
"""If the same thing is found of so many symbols at one tick, it is one finding about all of them."""
NAMED_MAX: Final = 10
"""So many of these symbols are named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `place` says where beside the symbol (interval and open time, numbers, a group); the id is made of
    kind, symbol and place, so it does not depend on when or how often the same thing is found. `time_ms` is exchange
    ms. `interval` and `open_time` (exchange ms) name the bar, if it is about one; `closed` closes the finding with the
    same id."""

    kind: FindingKind
    severity: Severity
    symbol: str
    place: str
    time_ms: int
    evidence: str
    interval: str = ""
    open_time: int = 0
    closed: bool = False

    @property
    def id(self) -> str:
        """The stable id: 16 hexadecimal digits. What version 1 of the contract called otherwise stands in the id under
        its name of then, so that a finding of that version can be closed by this one."""
        place = self.place
        if place.startswith(GAP_PLACE):
            place = _GAP_PLACE_IN_IDS + place.removeprefix(GAP_PLACE)
        return hashlib.sha256(f"{self.kind.in_ids}|{self.symbol}|{place}".encode()).hexdigest()[:16]

    def to_fields(self) -> Fields:
        """The entry for `findings:{n}`, without its stamp."""
        return finding_entry(
            self.kind,
            self.severity,
            self.evidence,
            symbol=self.symbol,
            time_ms=self.time_ms,
            finding_id=self.id,
            interval=self.interval,
            open_time=self.open_time,
            closed=self.closed,
        )


def bar_of(place: str) -> tuple[str, int]:
    """Interval and open time (exchange ms) of the bar that a place begins with (of several bars the first); ("", 0) if
    it begins with no bar."""
    interval, _, rest = place.partition("/")
    opening = rest.partition("/")[0].partition("-")[0]
    return (interval, int(opening)) if interval in INTERVALS and opening.isdecimal() else ("", 0)


def count(stats: Stats, findings: Iterable[Finding]) -> None:
    """Count findings in the statistics by kind and severity; closed ones under a name of their own."""
    for each in findings:
        stats.add("closed" if each.closed else "findings", kind=each.kind, severity=each.severity)


def count_from_zero(stats: Stats) -> None:
    """Show what can be counted before it is: Prometheus sees growth only in what it saw before."""
    for kind in FOUND_BY_AUDITORS:
        for severity in Severity:
            stats.add("findings", 0, kind=kind, severity=severity)
            stats.add("closed", 0, kind=kind, severity=severity)


def joined(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of one tick; those of JOINED_SYMBOLS_MIN or more symbols with one kind and place become one
    finding."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for each in findings:
        groups.setdefault((each.kind, each.place), []).append(each)
    combined = []
    for group in groups.values():
        names = sorted({each.symbol for each in group})
        if len(names) < JOINED_SYMBOLS_MIN:
            combined += group
            continue
        more = "" if len(names) <= NAMED_MAX else " …"
        evidence = f"{len(names)} symbols ({', '.join(names[:NAMED_MAX])}{more}), the first: {group[0].evidence}"
        combined.append(replace(group[0], symbol="", evidence=evidence))
    return combined

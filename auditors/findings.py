"""What auditors find: kinds, severities, and ids that stay the same when the same thing is found again. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from auditors.classify import EXCHANGE_GAP, LOCAL_GAP, UNEXPLAINED
from klagg.intervals import INTERVALS
from klagg.process.stats import Stats
from klagg.wire.fields import Fields
from klagg.wire.findings import ERROR, finding_entry

MALFORMED: Final = "MALFORMED"
"""An entry that breaks the contract of its stream."""
ALIGNMENT: Final = "ALIGNMENT"
"""A bar whose open or close time is not on the grid of its interval."""
INVARIANT: Final = "INVARIANT"
"""A bar whose values contradict each other."""
SCALE: Final = "SCALE"
"""A value with other decimals than its symbol's scale gives it."""
DUPLICATE: Final = "DUPLICATE"
"""The same version of a bar twice."""
VERSION: Final = "VERSION"
"""A version that is lower than one before it, or that leaves a revision out."""
MISSING_KLINE: Final = "MISSING_KLINE"
"""Bars that were passed over."""
ORDER: Final = "ORDER"
"""A bar that came behind its successors."""
ABSENT: Final = "ABSENT"
"""A bar that is owed and not there."""
CARRY: Final = "CARRY"
"""An empty bar that does not carry the close before it."""
FOLD: Final = "FOLD"
"""A longer bar that is not the fold of its minutes."""
IDS: Final = "IDS"
"""Complete bars whose ids of aggTrades do not follow each other."""
ILLEGAL: Final = "ILLEGAL"
"""A step in the life of a bar, or of a symbol, that cannot be."""
NO_FIRST_TRADE: Final = "NO_FIRST_TRADE"
"""A final with trades of which no first one was told."""
NEVER_CLOSED: Final = "NEVER_CLOSED"
"""A bar that is over and was not closed."""
TRIGGER: Final = "TRIGGER"
"""A close whose trigger and state do not belong together."""
GAP_FILL: Final = "GAP_FILL"
"""A bar combined to be empty that is not, or the other way round."""
TIME_BACK: Final = "TIME_BACK"
"""A tick before an earlier one."""
DATA_LOSS: Final = "DATA_LOSS"
"""Entries that were gone before the auditor was given them."""
LAGGING: Final = "LAGGING"
"""An auditor that is behind."""
STALLED: Final = "STALLED"
"""Nothing comes any more."""
GROUP_SILENT: Final = "GROUP_SILENT"
"""A configured consumer group without a living consumer."""
UNREACHABLE: Final = "UNREACHABLE"
"""What an auditor needs and cannot ask: the exchange's REST API, the database."""

KINDS: Final = (
    MALFORMED,
    ALIGNMENT,
    INVARIANT,
    SCALE,
    DUPLICATE,
    VERSION,
    MISSING_KLINE,
    ORDER,
    ABSENT,
    CARRY,
    FOLD,
    IDS,
    ILLEGAL,
    NO_FIRST_TRADE,
    NEVER_CLOSED,
    TRIGGER,
    GAP_FILL,
    TIME_BACK,
    DATA_LOSS,
    LAGGING,
    STALLED,
    GROUP_SILENT,
    UNREACHABLE,
    LOCAL_GAP,
    EXCHANGE_GAP,
    UNEXPLAINED,
)

FINDING_ENTRIES: Final = 10_000
"""About how many entries the stream of findings keeps."""

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

    kind: str
    severity: str
    symbol: str
    place: str
    time_ms: int
    evidence: str
    interval: str = ""
    open_time: int = 0
    closed: bool = False

    @property
    def id(self) -> str:
        """The stable id: 16 hexadecimal digits."""
        return hashlib.sha256(f"{self.kind}|{self.symbol}|{self.place}".encode()).hexdigest()[:16]

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
    """Add a count of 0 for each kind: Prometheus' `increase()` sees growth only of a series that it has scraped
    before."""
    for kind in KINDS:
        stats.add("findings", 0, kind=kind, severity=ERROR)


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

"""The standing findings about bars that did not come, until they come: then each is closed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final

from auditors.findings import Finding
from klagg.intervals import Interval
from klagg.wire.entries import BarKey
from klagg.wire.findings import FindingKind, Severity

FINDINGS_MAX: Final = 2_000
"""Findings that are followed; of more, the oldest stand until a person closes them."""
BARS_MAX: Final = 10_000
"""Bars of one finding that are followed; one with more stands."""

AWAITED: Final = frozenset({FindingKind.MISSING_KLINE, FindingKind.ABSENT, FindingKind.NEVER_CLOSED})
"""The kinds that a bar settles by coming."""


def bars_of(finding: Finding, interval: Interval) -> list[int]:
    """The open times (exchange ms) that a finding about bars that did not come names: its place ends with the first of
    them, or with the first and the last."""
    first, _, last = finding.place.rpartition("/")[2].partition("-")
    buckets = range(interval.bucket_of(int(first)), interval.bucket_of(int(last or first)) + 1)
    return [interval.open_of(bucket) for bucket in buckets[: BARS_MAX + 1]]


class MissingFindings:
    """Findings of the kinds AWAITED, each with its bars that have not come."""

    def __init__(self) -> None:
        self._findings: dict[str, Finding] = {}
        self._bars: dict[str, set[BarKey]] = {}
        self._holders: dict[BarKey, set[str]] = {}

    def __len__(self) -> int:
        return len(self._findings)

    def open(self, finding: Finding, bars: Iterable[BarKey]) -> None:
        """Follow a finding that was published, about these bars."""
        missing = set(bars)
        if not 0 < len(missing) <= BARS_MAX:
            return
        self._forget(finding.id)
        self._findings[finding.id], self._bars[finding.id] = finding, missing
        for bar in missing:
            self._holders.setdefault(bar, set()).add(finding.id)
        while len(self._findings) > FINDINGS_MAX:
            self._forget(next(iter(self._findings)))

    def _forget(self, finding_id: str) -> None:
        self._findings.pop(finding_id, None)
        for bar in self._bars.pop(finding_id, ()):
            self._drop(bar, finding_id)

    def _drop(self, bar: BarKey, finding_id: str) -> None:
        holders = self._holders[bar]
        holders.discard(finding_id)
        if not holders:
            del self._holders[bar]

    def came(self, bar: BarKey, time_ms: int) -> list[Finding]:
        """A bar came (at the tick `time_ms`): the closing entries of the findings that it settles."""
        closed = []
        for finding_id in sorted(self._holders.get(bar, ())):
            self._bars[finding_id].discard(bar)
            self._drop(bar, finding_id)
            if not self._bars[finding_id]:
                finding = self._findings[finding_id]
                self._forget(finding_id)
                closed.append(
                    replace(
                        finding,
                        severity=Severity.INFO,
                        time_ms=time_ms,
                        evidence="what did not come has come",
                        closed=True,
                    )
                )
        return closed

    def to_json(self) -> list[Any]:
        """The state for JSON."""
        return [
            [
                [each.kind, each.severity, each.symbol, each.place, each.interval, each.open_time],
                sorted(self._bars[finding_id]),
            ]
            for finding_id, each in self._findings.items()
        ]

    def of_json(self, saved: list[Any]) -> None:
        """Put back the state that `to_json` gave."""
        for (kind, severity, symbol, place, interval, open_time), bars in saved:
            finding = Finding(FindingKind(kind), Severity(severity), symbol, place, 0, "", interval, open_time)
            self.open(finding, [(name, each, opening) for name, each, opening in bars])

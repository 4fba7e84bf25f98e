"""What a clock is needed for: consumer groups without a consumer, streams that stand still, lag. Pure.

`now_ms` is a monotonic clock, the same one in every call; `time_ms` is exchange time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from auditors.findings import Finding
from klagg.wire.findings import FindingKind, Severity

Group = tuple[str, str]
"""Stream and group."""

STALLED_MS: Final = 30_000
"""A tick comes every 250 ms; after so long without one the finding STALLED is reported."""


class GroupMonitor:
    """The configured consumer groups, and since when no consumer has been active in each."""

    def __init__(self, silent_ms: int) -> None:
        self._silent_ms = silent_ms
        self._since: dict[Group, float] = {}
        self._reported: set[Group] = set()
        self._began_ms = math.inf

    def observe(self, idle_ms: Mapping[Group, int | None], now_ms: float, time_ms: int) -> list[Finding]:
        """Take in how long ago (ms) a consumer of each group was active; None without a consumer or without the group.

        Returns the new findings: groups that have been silent for too long, and groups with an active consumer again,
        which closes their finding. Silence before the first call does not count, because all processes may have just
        been started.
        """
        found = []
        self._began_ms = min(self._began_ms, now_ms)
        for group, idle in idle_ms.items():
            if idle is not None and idle <= self._silent_ms:
                self._since.pop(group, None)
                if group in self._reported:
                    self._reported.discard(group)
                    found.append(_silent(group, time_ms, f"a consumer was active {idle} ms ago", closed=True))
                continue
            since_ms = self._since.setdefault(group, max(self._began_ms, now_ms - (idle or 0)))
            if group not in self._reported and now_ms - since_ms > self._silent_ms:
                self._reported.add(group)
                stream, name = group
                what = "has no consumer" if idle is None else f"has had no living consumer for {idle} ms"
                evidence = f"the group {name} of {stream} {what}: what it must read stays, up to the stream's cap"
                found.append(_silent(group, time_ms, evidence))
        return found


def _silent(group: Group, time_ms: int, evidence: str, *, closed: bool = False) -> Finding:
    return Finding(FindingKind.GROUP_SILENT, Severity.ERROR, "", "/".join(group), time_ms, evidence, closed=closed)


class LagMonitor:
    """How far behind an auditor is, in exchange time, and whether ticks come at all. Each is reported once, and closed
    when it is over."""

    def __init__(self, process: str, lag_ms_max: int) -> None:
        self._process, self._lag_ms_max = process, lag_ms_max
        self._behind: Finding | None = None
        self._stalled: Finding | None = None
        self.lag_ms = 0
        self._newest_ms = -1
        self._moved_ms: float | None = None

    def observe(self, judged_ms: int, newest_ms: int, entries: int | None, now_ms: float) -> list[Finding]:
        """Take in the tick judged last (`judged_ms`), the time of the newest event in the stream (`newest_ms`, 0: none)
        and how many entries its group has not read (None: unknown). Returns what is new."""
        found = []
        lag_ms = self.lag_ms = max(0, newest_ms - judged_ms) if judged_ms else 0
        if lag_ms > self._lag_ms_max and self._behind is None:
            count = "an unknown number of" if entries is None else str(entries)
            evidence = f"{self._process} is {lag_ms} ms of exchange time behind, {count} entries, at {judged_ms}"
            self._behind = Finding(
                FindingKind.LAGGING, Severity.WARNING, "", f"{self._process}/{judged_ms}", judged_ms, evidence
            )
            found.append(self._behind)
        elif lag_ms <= self._lag_ms_max and self._behind is not None:
            found.append(_settled(self._behind, judged_ms, f"it is {lag_ms} ms behind"))
            self._behind = None
        if newest_ms != self._newest_ms or self._moved_ms is None:
            if self._stalled is not None:
                found.append(_settled(self._stalled, newest_ms, f"ticks come again, the newest one is {newest_ms}"))
            self._newest_ms, self._moved_ms, self._stalled = newest_ms, now_ms, None
        elif now_ms - self._moved_ms > STALLED_MS and self._stalled is None:
            silent_ms = int(now_ms - self._moved_ms)
            evidence = f"no tick for {silent_ms} ms, the last one is {newest_ms}: klagg-clock or the aggregator is away"
            self._stalled = Finding(
                FindingKind.STALLED, Severity.ERROR, "", f"{self._process}/{newest_ms}", newest_ms, evidence
            )
            found.append(self._stalled)
        return found


def _settled(finding: Finding, time_ms: int, by: str) -> Finding:
    return replace(finding, time_ms=time_ms, evidence=by, closed=True)

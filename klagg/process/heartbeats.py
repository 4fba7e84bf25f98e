"""What heartbeats say: which processes live, which are silent or missing, and which alarms stand. Pure.

`klagg status`, `klagg up` and the gateway judge by this one module, so that they say the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import ujson

from klagg.process.alarms import AlarmKind
from klagg.process.histograms import BOUNDS_MS
from klagg.settings import Service
from klagg.wire.keys import heartbeat_key

SILENT: Final = "silent"
UNREADABLE: Final = "unreadable"

MARKET: Final = "no market data comes"
"""How the sentence begins that says so."""


@dataclass(frozen=True, slots=True)
class ReportedAlarm:
    """An alarm of one process: `kind` is one of AlarmKind, `since_ms` is local time (0: unknown)."""

    process: str
    kind: str
    reason: str
    since_ms: int

    def to_json(self) -> dict[str, Any]:
        """For `klagg status --json` and `/api/status`."""
        return {"process": self.process, "kind": self.kind, "reason": self.reason, "since_ms": self.since_ms}


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """One process by its heartbeat. `beat` is the heartbeat as it was written; `age_ms` how long ago."""

    name: str
    state: str
    expected: bool
    uptime_s: float
    age_ms: int
    beat: Mapping[str, Any] = field(default_factory=dict)

    @property
    def alarms(self) -> list[ReportedAlarm]:
        """What is wrong with it. Of a silent process its silence alone counts: what it said before is old."""
        if self.state == UNREADABLE:
            return [ReportedAlarm(self.name, AlarmKind.PROCESS_SILENT, "its heartbeat cannot be read", 0)]
        if self.state == SILENT:
            reason = f"its last heartbeat is {self.age_ms / 1000:.1f} s old: it is dead or frozen (service.silent_s)"
            return [ReportedAlarm(self.name, AlarmKind.PROCESS_SILENT, reason, int(self.beat.get("time_ms", 0)))]
        found = [
            ReportedAlarm(self.name, str(each["kind"]), str(each["reason"]), int(each["since_ms"]))
            for each in self.beat.get("alarms") or []
        ]
        # Who is silent is judged here, from the same heartbeats.
        return [each for each in found if each.kind != AlarmKind.PROCESS_SILENT]

    def to_json(self) -> dict[str, Any]:
        """The heartbeat with the state, for `klagg status --json` and `/api/status`."""
        own = {"process": self.name, "state": self.state, "expected": self.expected}
        return {**self.beat, **own, "uptime_s": round(self.uptime_s, 1), "age_ms": self.age_ms}


@dataclass(frozen=True, slots=True)
class StatusReport:
    """All heartbeats: expected processes first, in their order, then others by name; and the missing ones."""

    seen: Sequence[ProcessStatus]
    missing: Sequence[str]

    @property
    def alarms(self) -> list[ReportedAlarm]:
        """The alarms of all processes; those about the whole market first."""
        found = [alarm for each in self.seen for alarm in each.alarms]
        return sorted(found, key=lambda each: each.kind != AlarmKind.NO_MARKET_DATA)

    @property
    def silent(self) -> list[str]:
        """The names of the processes that had a heartbeat and lost it."""
        return [each.name for each in self.seen if each.state in (SILENT, UNREADABLE)]

    @property
    def market(self) -> str:
        """The sentence that no market data comes, empty if data come.

        The gateway says so from what it serves. Where it cannot, the lines do: if none of them brings a trade.
        """
        for each in self.alarms:
            if each.kind == AlarmKind.NO_MARKET_DATA:
                return f"{MARKET}: {each.reason}"
        lines = [each for each in self.seen if each.name.startswith("ingest-")]
        without = [each for each in lines if any(a.kind == AlarmKind.LINE_SILENT for a in each.alarms)]
        if lines and len(without) == len([each for each in lines if each.state not in (SILENT, UNREADABLE)]) > 0:
            return f"{MARKET}: {without[0].name}: {without[0].alarms[0].reason}"
        return ""

    @property
    def ok(self) -> bool:
        """Whether every expected process is alive and no alarm stands."""
        return not self.missing and not self.alarms

    def to_json(self) -> dict[str, Any]:
        """The report for `klagg status --json`."""
        return {
            "processes": [each.to_json() for each in self.seen],
            "missing": list(self.missing),
            "silent": self.silent,
            "alarms": [each.to_json() for each in self.alarms],
            "market": self.market,
            "ok": self.ok,
        }


@dataclass(frozen=True, slots=True)
class Freshness:
    """The bars of one interval, over all shards, since their aggregators began: by bucket of BOUNDS_MS how long after
    their close they were final, and how long after it proven by own ids (exchange time)."""

    interval: str
    to_final: Sequence[int]
    to_proof: Sequence[int]


def freshness(found: StatusReport) -> list[Freshness]:
    """What the aggregators say of it, in the order of their intervals; intervals without a final are left out.

    A process that is silent, or that has other bounds, does not count."""
    final: dict[str, list[int]] = {}
    proof: dict[str, list[int]] = {}
    for each in found.seen:
        if each.state in (SILENT, UNREADABLE) or each.beat.get("bounds_ms") != [*BOUNDS_MS]:
            continue
        for name, sums in (("close_to_final_ms", final), ("close_to_proof_ms", proof)):
            for interval, counts in each.beat.get("histograms", {}).get(name, {}).items():
                before = sums.get(interval, [0] * len(counts))
                sums[interval] = [had + more for had, more in zip(before, counts, strict=True)]
    return [
        Freshness(each, counts, proof.get(each, [0] * len(counts))) for each, counts in final.items() if any(counts)
    ]


def silent_after_ms(service: Service) -> int:
    """The age (local ms) at which a process without a new heartbeat is silent."""
    return max(3 * service.heartbeat_ms, 1000 * service.silent_s)


def decoded(text: str) -> dict[str, Any]:
    """A heartbeat; {} if it cannot be read."""
    try:
        found = ujson.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def report(beats: Mapping[str, str], expected: Sequence[str], now_ms: float, silent_ms: int) -> StatusReport:
    """The report from heartbeats (JSON by key) at the local time `now_ms`."""
    by_name = {key.removeprefix(heartbeat_key("")): text for key, text in beats.items()}
    names = [name for name in expected if name in by_name] + sorted(set(by_name) - set(expected))
    seen = [_seen(name, by_name[name], name in expected, now_ms, silent_ms) for name in names]
    return StatusReport(seen, [name for name in expected if name not in by_name])


def _seen(name: str, text: str, expected: bool, now_ms: float, silent_ms: int) -> ProcessStatus:
    try:
        beat = ujson.loads(text)
        state, age_ms = str(beat["state"]), max(0, int(now_ms - beat["time_ms"]))
        uptime_s = max(0.0, (now_ms - beat["started_ms"]) / 1000)
        for each in beat.get("alarms") or []:
            str(each["kind"]), str(each["reason"]), int(each["since_ms"])
    except (ValueError, TypeError, LookupError, AttributeError):
        return ProcessStatus(name, UNREADABLE, expected, 0.0, 0)
    return ProcessStatus(name, SILENT if age_ms > silent_ms else state, expected, uptime_s, age_ms, beat)


def alarm_sentences(found: StatusReport) -> list[str]:
    """The alarms that stand; that no market data come is said first."""
    told = [found.market] if found.market else []
    return told + [f"ALARM {each.process}: {each.kind}: {each.reason}" for each in found.alarms]


def sentences(found: StatusReport) -> list[str]:
    """What a person should know of it, the conclusion last."""
    told = alarm_sentences(found)
    told += [f"missing: {', '.join(found.missing)}"] if found.missing else []
    return told or [f"all {len(found.seen)} processes are alive, and no alarm stands"]

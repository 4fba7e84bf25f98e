"""What the page is told, for the tests of its pure modules: a status, findings, rows of the scoreboard."""

from __future__ import annotations

from typing import Any

NOW_MS = 1_794_000_000_000


def gauges_of(name: str) -> dict[str, int]:
    """An aggregator says how many gaps are open."""
    return {"open_gaps": 0} if name.startswith("aggregator") else {}


def status(**changes: Any) -> dict[str, Any]:
    """What /api/status says when all is well, with some of it changed."""
    names = ["aggregator-0", "ingest-A", "ingest-B", "clock", "auditor-completeness"]
    good = {
        "time": NOW_MS,
        "stale": False,
        "stale_for_ms": 0,
        "database": True,
        "expected": names,
        "processes": [{"process": name, "state": "running", "alarms": [], "gauges": gauges_of(name)} for name in names],
        "shards": [{"unwritten_ms": 0}],
        "missing": [],
        "silent": [],
        "alarms": [],
        "market": "",
    }
    return {**good, **changes}


def without(name: str) -> dict[str, Any]:
    """One process has no heartbeat."""
    return status(processes=[each for each in status()["processes"] if each["process"] != name])


def silent(name: str) -> dict[str, Any]:
    """One process has lost its heartbeat."""
    found = status()["processes"]
    return status(processes=[{**each, "state": "silent"} if each["process"] == name else each for each in found])


ALARM = {"process": "ingest-A", "kind": "dead_symbol", "reason": "ETHUSDT is silent", "since_ms": 1}


def finding(severity: str, **changes: Any) -> dict[str, Any]:
    """A finding of just now."""
    return {"severity": severity, "kind": "K", "said_at": NOW_MS - 1000, "closed_at": None, **changes}


def board(**changes: Any) -> dict[str, Any]:
    """A row of the scoreboard with nothing wrong in it."""
    zeros = dict.fromkeys(
        ("official", "amended", "missing", "edge_shift", "exchange_gap", "local_gap", "late", "unexplained"), 0
    )
    whole = dict.fromkeys(("expected", "bars", "complete", "audited", "exact"), 10)
    return {**zeros, **whole, "official": 0, "open_findings": 0, "counted_at": 5, "audited_at": None, **changes}

"""The processes of a configuration: one list for `klagg up`, `klagg status` and the tests."""

from __future__ import annotations

from dataclasses import dataclass

from klagg.settings import Settings


@dataclass(frozen=True, slots=True)
class Process:
    """One process: `name` is that of its heartbeat; processes are drained in the order of `stage`, 0 first."""

    name: str
    module: str
    arguments: tuple[str, ...]
    stage: int


def processes(settings: Settings) -> list[Process]:
    """In the order of starting: who creates consumer groups before who writes, who reads before who feeds."""
    aggregators = [
        Process(f"aggregator-{shard}", "aggregator.service", ("--shard", str(shard)), 1)
        for shard in range(settings.shards)
    ]
    writers = [
        Process("writer-final", "writers.final_service", (), 2),
        Process("writer-snapshot", "writers.snapshot_service", (), 2),
    ]
    auditors = [
        Process("auditor-completeness", "auditors.completeness_service", (), 2),
        Process("auditor-lifecycle", "auditors.lifecycle_service", (), 2),
        *([Process("auditor-exchange", "auditors.exchange_service", (), 2)] if settings.database.enabled else []),
    ]
    feeders = [
        Process("repair", "ingest.repair_service", (), 0),
        Process("clock", "ingest.clock_service", (), 0),
        *(Process(f"ingest-{line}", "ingest.service", ("--line", line), 0) for line in settings.ingest.lines),
    ]
    gateway = Process("gateway", "gateway.service", (), 2)
    return [
        *aggregators,
        *(writers if settings.database.enabled else []),
        *(auditors if settings.audit.full else []),
        gateway,
        *feeders,
    ]

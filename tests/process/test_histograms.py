"""Histograms: what lies within which bound, in Prometheus and in the heartbeat."""

from __future__ import annotations

import json

import pytest

from klagg import settings
from klagg.process.histograms import BOUNDS_MS, BUCKETS, Histogram, bound_of
from klagg.process.metrics import StatsCollector
from klagg.process.stats import Pulse, Stats


def counts(**at: int) -> list[int]:
    """Counts by bucket: b0=3 are three in the first."""
    return [at.get(f"b{number}", 0) for number in range(BUCKETS)]


def test_the_bound_of_a_part() -> None:
    assert list(BOUNDS_MS) == sorted(set(BOUNDS_MS))
    assert bound_of(counts(b1=98, b4=2), 0.5) == 500
    assert bound_of(counts(b1=98, b4=2), 0.98) == 500
    assert bound_of(counts(b1=98, b4=2), 0.99) == 5_000
    assert bound_of(counts(b1=1, b16=1), 0.99) is None
    assert bound_of(counts(), 0.5) is None
    with pytest.raises(ValueError, match="17 counts, not 2"):
        bound_of([1, 2], 0.5)


def test_prometheus_gets_seconds_and_cumulative_counts() -> None:
    stats, histogram = Stats(), Histogram()
    stats.keep("close_to_proof_ms", "interval", {"1m": histogram})
    histogram.add(counts(b0=2, b2=1, b16=1), 5_000_000)
    families = {each.name: each for each in StatsCollector("aggregator-0", stats, lambda: "running", 0.0).collect()}
    samples = families["klagg_aggregator_close_to_proof_seconds"].samples
    assert {sample.labels["interval"] for sample in samples} == {"1m"}
    buckets = {sample.labels["le"]: sample.value for sample in samples if sample.name.endswith("_bucket")}
    assert [buckets[le] for le in ("0.25", "0.5", "1.0", "14400.0", "+Inf")] == [2, 2, 3, 3, 4]
    assert {sample.name.rpartition("_")[2]: sample.value for sample in samples[-2:]} == {"count": 4, "sum": 5000}


def test_the_heartbeat_has_the_counts() -> None:
    stats, histogram = Stats(), Histogram()
    pulse = Pulse("aggregator-0", stats, settings.Service(), 0.0)
    stats.keep("close_to_final_ms", "interval", {"1m": histogram})
    histogram.add(counts(b3=2), 4_000)
    beat = json.loads(pulse.due(10_000).heartbeat)
    assert beat["bounds_ms"] == [*BOUNDS_MS]
    assert beat["histograms"] == {"close_to_final_ms": {"1m": counts(b3=2)}}

"""What a process counts, for Prometheus: `/metrics` on 127.0.0.1, made from its statistics at every scrape.

Nothing happens per message: a scrape reads `stats`. The counter `rejected` of ingest-A with the label `kind` is
`klagg_ingest_rejected_total{process="ingest-A",kind="price"}`. `klagg.process.metric_names` lists every name.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator
from http.server import HTTPServer
from types import TracebackType
from typing import Final, Self

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from klagg.errors import ConfigError
from klagg.process.alarms import AlarmKind
from klagg.process.histograms import BOUNDS_MS
from klagg.process.metric_names import METRICS, counters_of, family_of
from klagg.process.stats import Labels, Stats

HOST: Final = "127.0.0.1"

PORTS: Final = (
    "ingest-A",
    "ingest-B",
    "repair",
    "clock",
    "aggregator",
    "writer-final",
    "writer-snapshot",
    "gateway",
    "auditor-completeness",
    "auditor-lifecycle",
    "auditor-exchange",
)
"""Processes in the order of their ports: the first serves at `metrics.port_base`, the next one port above, and so on.

A further shard's aggregator and other lines have ports behind these (`port_of`).
"""

_SHARD: Final = re.compile(r"aggregator-([0-9]+)")
_LINE: Final = re.compile(r"ingest-([C-Z])")
_LINES_AT: Final = 20
_SHARDS_AT: Final = 50


def port_of(process: str, port_base: int) -> int:
    """The port of a process by its name, 0 if metrics are off (`port_base` 0). ConfigError if it has no place.

    Lines C to Z are at 20 to 43 above the base, the aggregators of shards 1 and up at 51 and up.
    """
    if not port_base:
        return 0
    if process in PORTS:
        offset = PORTS.index(process)
    elif found := _LINE.fullmatch(process):
        offset = _LINES_AT + ord(found[1]) - ord("C")
    elif found := _SHARD.fullmatch(process):
        offset = PORTS.index("aggregator") if int(found[1]) == 0 else _SHARDS_AT + int(found[1])
    else:
        raise ConfigError(f"the process {process} has no port for metrics: set metrics.port_base to 0")
    port = port_base + offset
    if port > 65_535:
        raise ConfigError(f"the port for the metrics of {process} would be {port}: lower metrics.port_base")
    return port


class StatsCollector(Collector):
    """The statistics of one process as metric families. `state` gives the process's state (starting, running, …)."""

    def __init__(self, process: str, stats: Stats, state: Callable[[], str], started_ms: float) -> None:
        self._process, self._stats, self._state = process, stats, state
        self._started_s = started_ms / 1000
        self._counters = counters_of(process)

    def collect(self) -> Iterator[Metric]:
        """All families, each with one set of label names."""
        start = GaugeMetricFamily(
            "klagg_process_start_time_seconds", METRICS["klagg_process_start_time_seconds"], labels=["process"]
        )
        start.add_metric([self._process], self._started_s)
        yield start
        up = GaugeMetricFamily("klagg_process_running", METRICS["klagg_process_running"], labels=["process"])
        up.add_metric([self._process], 1.0 if self._state() == "running" else 0.0)
        yield up
        yield from self._alarms()
        stats = self._stats
        # Copies: a scrape is served by a thread of its own, and dict() and list() of a dict are atomic.
        by_name: dict[str, list[tuple[Labels, float]]] = {}
        for (name, labels), amount in list(stats.labelled_counters.items()):
            by_name.setdefault(name, []).append((labels, amount))
        # What was not counted yet is there at 0: increase() sees growth only in what was scraped before.
        for name, total in sorted((dict.fromkeys(self._counters, 0) | dict(stats.counters)).items()):
            series = by_name.get(name, [])
            rest = total - sum(amount for _, amount in series)
            if rest > 0 or not series:
                series = [*series, ((), rest)]
            yield self._family(CounterMetricFamily, name, series)
        gauges: dict[str, list[tuple[Labels, float]]] = {}
        for (name, labels), value in list(stats.labelled_gauges.items()):
            gauges.setdefault(name, []).append((labels, value))
        for name, shown in dict(stats.gauges).items():
            if not isinstance(shown, str):
                gauges.setdefault(name, []).append(((), shown))
        for name, series in sorted(gauges.items()):
            yield self._family(GaugeMetricFamily, name, series)
        yield from self._histograms()

    def _histograms(self) -> Iterator[Metric]:
        """Every histogram that is kept, from the first scrape on; durations are seconds."""
        for name, (label, series) in list(self._stats.histograms.items()):
            stem, factor = family_of(self._process, name)
            family = HistogramMetricFamily(stem, METRICS[stem], labels=["process", label])
            names = [*(str(bound * factor) for bound in BOUNDS_MS), "+Inf"]
            for value, each in series.items():
                buckets = list(zip(names, itertools.accumulate(each.counts), strict=True))
                family.add_metric([self._process, value], buckets, each.total_ms * factor)
            yield family

    def _alarms(self) -> Iterator[Metric]:
        """Every kind of the catalogue, from the first scrape on: whether it stands, and how often it was raised."""
        alarms = self._stats.alarms
        standing = {each.kind: each.subjects for each in alarms.standing}
        gauge = GaugeMetricFamily("klagg_process_alarm", METRICS["klagg_process_alarm"], labels=["process", "kind"])
        counter = CounterMetricFamily(
            "klagg_process_alarms", METRICS["klagg_process_alarms_total"], labels=["process", "kind"]
        )
        for kind in AlarmKind:
            gauge.add_metric([self._process, kind], standing.get(kind, 0))
            counter.add_metric([self._process, kind], alarms.raised[kind])
        yield gauge
        yield counter

    def _family(
        self, kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, series: list[tuple[Labels, float]]
    ) -> Metric:
        names = sorted({label for labels, _ in series for label, _ in labels})
        counter = kind is CounterMetricFamily
        stem, factor = family_of(self._process, name)
        text = METRICS.get(f"{stem}_total" if counter else stem, f"{name} of the process's statistics.")
        family = kind(stem, text, labels=["process", *names])
        for labels, value in series:
            known = dict(labels)
            family.add_metric([self._process, *(known.get(each, "") for each in names)], value * factor)
        return family


class MetricsServer:
    """Serves `/metrics` of one process while its context is open; without a port it does nothing."""

    def __init__(self, collector: StatsCollector, port: int) -> None:
        self._port = port
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        self._server: HTTPServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._port:
            try:
                self._server, self._thread = start_http_server(self._port, HOST, self._registry)
            except OSError as taken:
                raise ConfigError(
                    f"the metrics cannot be served at {HOST}:{self._port} ({taken.strerror}): choose another "
                    "metrics.port_base, or 0 for none"
                ) from taken
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server and self._thread:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

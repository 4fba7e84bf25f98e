"""Every metric can be found by the name that Prometheus shows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from klagg.process.metric_names import METRICS, family_of
from klagg.process.metrics import PORTS, StatsCollector
from klagg.process.stats import Stats
from tests.test_architecture import MODULES, ROOT

PROCESSES = {
    "aggregator": ("aggregator",),
    "auditors": ("auditor",),
    "gateway": ("gateway",),
    "writers": ("writer",),
    "ingest": ("ingest", "clock", "repair"),
    "klagg": ("ingest", "clock", "repair", "auditor"),
}
"""By the folder of a module, the processes in which it may count."""

OUTSIDE = {"klagg/cli/backfill/rest.py"}
"""Modules that count in no process that is scraped."""


def statistics() -> Iterator[tuple[str, str, bool]]:
    """(path, name, whether a counter) of every statistic that a module names in a call."""
    for path, tree in MODULES.items():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            owner, name = node.func.value, node.args[0]
            owned = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            shown = node.func.attr in ("add", "show") and owned.lstrip("_") == "stats"
            if shown and isinstance(name, ast.Constant) and path not in OUTSIDE:
                yield path, str(name.value), node.func.attr == "add"


TEXTS = {"address", "last"}
"""Gauges that are texts, which Prometheus does not take."""


def test_every_statistic_has_its_metric() -> None:
    found = list(statistics())
    assert len(found) > 100
    missing = [
        f"{path}: {name}"
        for path, name, counter in found
        if name not in TEXTS
        and not any(
            family_of(process, name)[0] + ("_total" if counter else "") in METRICS
            for process in PROCESSES[path.partition("/")[0]]
        )
    ]
    assert missing == []


@pytest.mark.parametrize("folder", ["config/prometheus", "config/grafana/dashboards"])
def test_rules_and_dashboards_name_metrics_that_exist(folder: str) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).iterdir()) if path.is_file())
    named = set(re.findall(r"\bklagg_(?:process|aggregator|auditor|clock|gateway|ingest|repair|writer)_\w+", text))
    assert named
    assert named <= METRICS.keys()


def test_metrics_are_of_processes_that_there_are() -> None:
    prefixes = {f"klagg_{process.partition('-')[0]}_" for process in (*PORTS, "process")}
    assert all(name.startswith(tuple(prefixes)) for name in METRICS)
    assert all(says.endswith(".") for says in METRICS.values())


def test_a_scrape_shows_the_name_and_what_it_says() -> None:
    stats = Stats()
    stats.show("lag_ms", 1500)
    stats.add("verdicts", 2, verdict="EXACT")
    families = {each.name: each for each in StatsCollector("auditor-exchange", stats, lambda: "running", 0.0).collect()}
    lag, verdicts = families["klagg_auditor_lag_seconds"], families["klagg_auditor_verdicts"]
    assert lag.documentation == METRICS["klagg_auditor_lag_seconds"]
    assert [sample.value for sample in lag.samples] == [1.5]
    assert verdicts.documentation == METRICS["klagg_auditor_verdicts_total"]
    assert [sample.name for sample in verdicts.samples] == ["klagg_auditor_verdicts_total"]

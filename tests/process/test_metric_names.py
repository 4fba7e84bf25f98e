"""Every metric can be found by the name that Prometheus shows."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from klagg.process.alarms import AlarmKind
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
            shown = node.func.attr in ("add", "show", "keep") and owned.lstrip("_") == "stats"
            if shown and isinstance(name, ast.Constant) and path not in OUTSIDE:
                yield path, str(name.value), node.func.attr == "add"


TEXTS = {"address", "last"}
"""Gauges that are texts, which Prometheus does not take."""


HISTOGRAMS = {"klagg_aggregator_close_to_final_seconds", "klagg_aggregator_close_to_proof_seconds"}


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
    parts = {f"{name}_bucket" for name in HISTOGRAMS}
    assert named <= METRICS.keys() | parts


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


@pytest.mark.parametrize("process", [*PORTS, "aggregator-1", "ingest-C"])
def test_every_counter_of_a_process_is_there_at_0_from_the_first_scrape(process: str) -> None:
    """`increase()` over a series that is born above 0 misses its first growth."""
    families = {each.name: each for each in StatsCollector(process, Stats(), lambda: "starting", 0.0).collect()}
    prefix = f"klagg_{process.partition('-')[0]}_"
    owed = {name.removesuffix("_total") for name in METRICS if name.startswith(prefix) and name.endswith("_total")}
    assert owed <= families.keys()
    assert {sample.value for name in owed for sample in families[name].samples} == {0.0}
    alarms = {sample.labels["kind"] for sample in families["klagg_process_alarm"].samples}
    assert alarms == set(AlarmKind)
    assert {sample.labels["kind"] for sample in families["klagg_process_alarms"].samples} == set(AlarmKind)


def test_every_counter_that_a_rule_looks_at_by_a_label_is_there_with_its_labels() -> None:
    """What a rule tells apart by a label has a series of each value before it grows: these are counted in the code."""
    rules = (ROOT / "config/prometheus/klagg.rules.yml").read_text(encoding="utf-8")
    looked_at = set(re.findall(r"increase\((klagg_\w+_total)", rules))
    labelled = {
        "klagg_ingest_rejected_total": "ingest/intake.py",
        "klagg_ingest_reconnects_total": "ingest/connection.py",
        "klagg_ingest_dropped_trades_total": "ingest/sender.py",
        "klagg_aggregator_findings_total": "aggregator/service.py",
        "klagg_auditor_findings_total": "auditors/findings.py",
        "klagg_auditor_verdicts_total": "auditors/exchange_service.py",
    }
    flat = {
        "klagg_ingest_messages_total",
        "klagg_ingest_trades_total",
        "klagg_repair_unrepaired_total",
        "klagg_process_alarms_total",
    }
    assert looked_at == labelled.keys() | flat
    for name, path in labelled.items():
        statistic = name.removesuffix("_total").split("_", 2)[2]
        assert re.search(rf'add\("{statistic}", 0, ', (ROOT / path).read_text(encoding="utf-8")), name

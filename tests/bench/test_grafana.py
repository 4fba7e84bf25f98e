"""The bench of Grafana's panels, small: that it measures what it says, not how fast this machine is."""

from __future__ import annotations

import json

import pytest

from klagg.bench import grafana_panels
from klagg.cli.main import main


@pytest.mark.servers
def test_every_panel_and_variable_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "grafana", "--json", "--days", "2", "--symbols", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    questions = [each for model in grafana_panels.dashboards().values() for each in grafana_panels.questions(model)]
    variables = {each.name for each in questions if each.kind == "variable"}
    assert set(found["variables_ms"]) == variables
    assert set(found["panels_ms"]) == {each.name for each in questions} - variables
    assert all(len(spent) == 2 and min(spent) > 0 for spent in found["panels_ms"].values())
    assert found["rows"] >= 3 * 2 * 1440
    assert found["slowest_ms"] == max(max(spent) for spent in found["panels_ms"].values())
    assert found["within_target"] == (found["slowest_ms"] < found["target_ms"] == 300)

"""The bench of the gateway, small: that it measures what it says, not how fast this machine is."""

from __future__ import annotations

import json

import pytest

from klagg.cli.main import main

pytestmark = pytest.mark.servers


def test_every_update_of_every_stream_reaches_every_client(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--clients", "4", "--streams", "3", "--updates", "5", "--seconds", "1", "--rounds", "1", "--json"]
    assert main(["bench", "gateway", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["clients"], found["streams"], found["rounds"]) == ("gateway", 4, 3, 1)
    assert found["events_per_s"] == 4 * 3 * 5
    assert 0 <= found["p50_ms"] <= found["p99_ms"] < 5000
    assert found["rss_mb"] > 10
    assert found["stuck_ratio"] > 0

"""The bench of chunks, small: that it measures what it says, not how fast this machine is."""

from __future__ import annotations

import json

import pytest

from klagg.bench.chunks import FULLNESSES, LAYOUTS, QUERIES
from klagg.cli.main import main


@pytest.mark.servers
def test_every_layout_is_loaded_and_asked(capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--symbols", "7", "--years", "1", "--days", "2", "--minutes", "3", "--ticks", "2"]
    assert main(["bench", "chunks", "--json", *small]) == 0
    found: dict[str, float] = json.loads(capsys.readouterr().out)
    for layout in LAYOUTS:
        for what in ("load_days", "load_hours", "load_minutes", "live"):
            assert found[f"{layout}_{what}_krows_s"] > 0
        for query in QUERIES:
            assert found[f"{layout}_{query}_ms"] > 0
    for fullness in FULLNESSES:
        assert found[f"fill{fullness}_updates"] == 7 * 3 * (2 - 1)
    # A year is 53 or 54 chunks of a week, but two of a year and five of 90 days.
    assert found["one_chunks"] >= 53 > found["wide_chunks"] > found["classes_chunks"]

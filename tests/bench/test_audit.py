"""The bench of the auditors, small: that it measures what it says, not how fast this machine is."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from auditors.completeness import Completeness
from auditors.lifecycle import Lifecycle
from klagg.bench.recorded_hour import LEAD_TICK_MS, TICK_MS, Hour
from klagg.cli.main import main
from klagg.settings import Settings


def test_its_market_is_what_auditors_find_nothing_in() -> None:
    hour = Hour(40, 50)
    commits = [*hour.minutes(5, LEAD_TICK_MS), *hour.minutes(2, TICK_MS)]
    assert len(commits) == 5 * 60 + 2 * 240
    klines = [fields for commit in commits for fields in commit.klines]
    finals = Counter(fields["interval"] for fields in klines if fields["revision"] == "1")
    assert finals["1m"] >= 40 * 6
    assert finals["5m"] >= 40
    judges = [Completeness(Settings()), Lifecycle(Settings())]
    number = 0
    for commit in commits:
        for write in commit.writes:
            number += 1
            raw = {name.encode(): value.encode() for name, value in write.fields.items()}
            for judge in judges:
                stream = write.key.partition(":")[0]
                if stream in judge.streams:
                    judge.receive(stream, f"{commit.time_ms}-{number}", raw)
    assert [judge.drain_findings() for judge in judges] == [[], []]
    assert judges[0].counts["klines"] == len(klines)


@pytest.mark.servers
def test_it_tells_the_share_of_a_core_and_the_ratio_of_the_writer(capsys: pytest.CaptureFixture[str]) -> None:
    # More klines than the writer's buffer holds (5,000): fewer would be settled at once, and no rate could be told.
    options = ["--symbols", "600", "--rate", "40", "--lead", "7", "--minutes", "2", "--speed", "120", "--rounds", "1"]
    assert main(["bench", "audit", "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["symbols"], found["minutes"], found["rounds"]) == ("audit", 600, 2, 1)
    assert 0 < found["core_share"] == pytest.approx(sum(found["cpu_s"]) / 120, abs=1e-3)
    assert found["klines"] >= 2 * 600
    assert found["events"] > 2 * 240
    assert found["writer_ratio"] == found["ratios"][0] > 0
    assert found["writer_rows_per_s"] > 0

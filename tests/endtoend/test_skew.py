"""The exchange's clock goes back by a minute under the real processes: bars wait, nothing is refused or lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from klagg.intervals import MINUTE_MS
from tests.endtoend.kit import FLOOR, migrated, stack
from tests.endtoend.test_losses import SEED, Run, compare, own_values
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(300)]

SKEW = """
[[fault]]
kind = "clock_skew"
at_s = {at_s}
for_s = {for_s}
jump_ms = -60000
"""


def test_time_that_goes_back_holds_ticks_and_loses_no_trade(tmp_path: Path, redis_url: str, database_url: str) -> None:
    """Trades keep their own times meanwhile; they lie a minute ahead of the clock that the exchange shows."""
    symbols, rate, speed, at_s, for_s = 6, 300, 4, 40, 40
    script = tmp_path / "faults.toml"
    script.write_text(SKEW.format(at_s=at_s, for_s=for_s), encoding="utf-8")
    shape = ["--symbols", str(symbols), "--rate", str(rate), "--seed", str(SEED), "--speed", str(speed), *FLOOR]
    market = [*shape, "--faults", str(script), "--wait"]
    database = migrated(database_url)
    with stack(
        tmp_path, redis_url, database_url, market, clock={"sync_s": 1}, aggregator={"intervals": ("1m",)}
    ) as running:
        running.start("clock", "repair", "aggregator", "writer", "ingest")
        run = Run(running, database)

        def ticks() -> list[int]:
            running.alive()
            entries = run.streams.newest("feed:{0}", count=4000)
            return [int(each.fields[b"time"]) for each in entries if each.fields[b"kind"] == b"tick"][::-1]

        def said(name: str, words: str) -> bool:
            running.alive()
            return words in running.children[name].text()

        eventually(lambda: said("clock", "ALARM: the exchange's time went back by "), 60, 0.1)
        held_ms = ticks()[-1]
        first = held_ms // MINUTE_MS * MINUTE_MS + MINUTE_MS
        eventually(lambda: said("clock", "the exchange's time has caught up: ticks go on"), for_s + 20, 0.1)
        found = ticks()
        assert found == sorted(found), "never back"
        assert found.count(held_ms) > 20, "they stood still, and still came"
        eventually(lambda: ticks()[-1] > first + MINUTE_MS + 5_000, 150, 0.5)
        names = run.busy(first)
        assert len(names) >= 3
        eventually(lambda: run.whole(names, [first]), 60, 0.5)
        assert compare(run, names, [first], own_values(symbols, rate, [first])) == {
            "own": len(names),
            "mixed": 0,
            "exchange": 0,
        }
        assert "rejected_" not in running.children["ingest"].text(), "no trade was taken for one from the future"
        assert set(running.stop("ingest", "repair", "clock", "aggregator", "writer").values()) == {0}
    database.close()

"""The feed at its cap with the real processes: ingest holds, then drops and says what; all of it is repaired."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from klagg.intervals import MINUTE_MS
from klagg.process.alarms import AlarmKind
from tests.endtoend.kit import FLOOR, PROVEN_S, migrated, stack
from tests.endtoend.test_losses import SEED, Run, compare, own_values
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(600)]

FEED_PERCENT = 2
"""Little enough to be full soon, and enough for what comes between two trims while the aggregator keeps up."""


def test_an_aggregator_that_stands_still_costs_no_trade(tmp_path: Path, redis_url: str, database_url: str) -> None:
    """It is stopped until the feed is full and the buffer overflows; Redis never refuses, and numbers have no gap."""
    symbols, rate = 20, 2000
    market = ["--symbols", str(symbols), "--rate", str(rate), "--seed", str(SEED), "--speed", "2", *FLOOR]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        market,
        aggregator={"intervals": ("1m",)},
        streams={"feed_percent": FEED_PERCENT},
        ingest={"buffer_s_max": 3},
    ) as running:
        running.start("clock", "repair", "aggregator", "writer", "ingest")
        run = Run(running, database)
        cap = (int(run.streams.information("memory")["maxmemory"]) or 2048 << 20) * FEED_PERCENT // 100
        eventually(lambda: run.streams.hash_of("bars:{0}"), 60, 0.1)
        aggregator, ingest = running.children["aggregator"], running.children["ingest"]
        aggregator.process.send_signal(signal.SIGSTOP)
        most = 0

        def dropping() -> bool:
            nonlocal most
            running.alive()
            most = max(most, run.streams.memory("feed:{0}"))
            return "ALARM: the buffer is full and drops its oldest trades" in ingest.text()

        eventually(dropping, 120, 0.05)
        stopped_ms = run.now_ms()
        eventually(lambda: dropping() and run.now_ms() > stopped_ms + 3_000, 20, 0.05)
        aggregator.process.send_signal(signal.SIGCONT)
        minute = stopped_ms // MINUTE_MS * MINUTE_MS
        expected = own_values(symbols, rate, [minute])
        busy = {name for (name, _), bar in expected.items() if bar[6] > 20}
        assert len(busy) > 0.6 * symbols

        def told() -> list[dict[str, str]]:
            return [
                {k.decode(): v.decode() for k, v in each.fields.items()} for each in run.streams.range("findings:{0}")
            ]

        def asked() -> bool:
            """That everything is told, and that repair has taken weight; the account is of this minute only."""
            return bool(run.now_ms() and run.weight_most) and busy <= {each["symbol"] for each in told()}

        eventually(asked, 150, 0.1)
        assert most < cap * 1.5, f"the feed took {most} bytes of its {cap}"
        assert f"the alarm {AlarmKind.FEED_FULL} is over" in ingest.text()
        findings = told()
        assert {each["kind"] for each in findings} == {"INGEST_DROPPED"}, findings
        names = sorted({each["symbol"] for each in findings})
        assert "OOM" not in ingest.text()
        eventually(lambda: run.whole(sorted(busy), [minute]), 240, 0.5)
        eventually(lambda: run.whole(names, [minute]), PROVEN_S, 0.5)
        sources = compare(run, names, [minute], expected)
        kinds = {each.fields[b"kind"] for each in run.streams.range("findings:{0}")}
        assert kinds == {b"INGEST_DROPPED"}, "no DATA_LOSS beside what was told"
        run.end()
    database.close()
    print(f"{sources}; the feed took {most >> 10} KB of {cap >> 10} KB; weight {run.weight_most}")

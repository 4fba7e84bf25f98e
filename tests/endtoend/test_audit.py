"""The real klagg-auditor-exchange beside the real pipeline: what is right is said to be, and a lost stretch of trades
ends in a finding, a request, an amendment, and the finding closed."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.intervals import MINUTE_MS
from klagg.wire.fields import texts_of
from klagg.wire.keys import WEIGHTS_KEY
from tests.endtoend.kit import Stack, migrated, stack
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(300)]

SPEED = 10
WEIGHT = 120
"""In a minute of real time, which is ten of the exchange's."""
EDGES = ("--edges", "0.25")
"""Many more than the exchange has, so that every interval has some."""
LOSS = """
seed = 3

[[fault]]
kind = "lose"
at_s = 200
for_s = 20
share = 1
"""
COUNTS = """
SELECT "interval", sum(bars) AS bars, sum(exact) AS exact, sum(edge_shift) AS edge_shift, sum(late) AS late,
    sum(exchange_gap) AS exchange_gap, sum(local_gap) AS local_gap, sum(unexplained) AS unexplained,
    sum(adopted) AS adopted
FROM audits GROUP BY 1
"""
AMENDED = """
SELECT count(*) AS found FROM amendments
WHERE symbol = %(symbol)s AND "interval" = '1m' AND was <> '{}' AND revision > 1
    AND open_time = timestamptz 'epoch' + %(open_ms)s * interval '1 millisecond'
"""
EDGES_AMENDED = "SELECT DISTINCT why FROM amendments WHERE became ->> 'edge' ~ '^[<>]'"
CLOSED = "SELECT id FROM findings WHERE kind = 'LOCAL_GAP' AND standing AND closed_at IS NOT NULL"


def entries(running: Stack, key: str) -> list[dict[str, str]]:
    streams = running.streams()
    found = [texts_of(each.fields) for each in streams.range(key)]
    streams.close()
    return found


def findings(running: Stack) -> list[dict[str, str]]:
    running.alive()
    return entries(running, "findings:{0}")


def gaps_told(running: Stack) -> list[dict[str, str]]:
    """The findings that minutes are lacking."""
    return [each for each in findings(running) if (each["kind"], each.get("interval")) == ("LOCAL_GAP", "1m")]


def counts(database: Database) -> dict[str, Counter[str]]:
    """What the tallies hold, by interval."""
    with database.transaction():
        rows: list[dict[str, Any]] = database.query(COUNTS)
    return {row["interval"]: Counter({name: int(row[name]) for name in row if name != "interval"}) for row in rows}


def test_a_lost_stretch_ends_in_an_amendment_and_its_finding_is_closed(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    script = tmp_path / "faults.toml"
    script.write_text(LOSS, encoding="utf-8")
    market = ["--symbols", "4", "--rate", "60", "--speed", str(SPEED), "--faults", str(script), "--seed", "7", *EDGES]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        market,
        aggregator={"intervals": ("1m", "5m")},
        audit={"full": True, "weight_per_minute": WEIGHT},
    ) as running:
        running.start("writer", "snapshot", "clock", "aggregator", "ingest", "auditor-exchange")
        first = eventually(lambda: gaps_told(running)[:1], 120, 0.2)[0]
        assert first["severity"] == "warning"
        asked = [each for each in entries(running, "requests:{0}") if each["id"].startswith("audit-")]
        assert any(each["symbol"] == first["symbol"] for each in asked)
        assert {(each["kind"], each["interval"]) for each in asked} == {("klines", "1m")}

        running.start("repair")
        gaps = {each["id"]: each for each in findings(running) if each["kind"] == "LOCAL_GAP"}

        def closed() -> set[str]:
            return {each["id"] for each in findings(running) if each.get("closed") == "1"}

        eventually(lambda: closed() >= gaps.keys(), 120, 0.3)
        for each in gaps.values():
            open_ms = int(each["open_time"])
            with database.transaction():
                (row,) = database.query(AMENDED, {"symbol": each["symbol"], "open_ms": open_ms})
            assert row["found"] > 0 or each["interval"] != "1m", each
        eventually(lambda: len(database.query(CLOSED)) >= len(gaps), 30, 0.3)
        eventually(lambda: not any(each["local_gap"] for each in counts(database).values()), 60, 0.3)

        # Killed, it goes on where it was, and says nothing twice.
        said = len(findings(running))
        assert running.children["auditor-exchange"].end(signal.SIGKILL) == -signal.SIGKILL
        bars = counts(database)["1m"]["bars"]
        running.start("auditor-exchange")
        eventually(lambda: counts(database)["1m"]["bars"] >= bars + 8, 60, 0.3)
        anew = [each for each in findings(running)[said:] if "id" in each]
        assert not anew, "\n".join(f"{each['kind']} {each['symbol']} {each['evidence']}" for each in anew)
        after = counts(database)
        for judged in after.values():
            assert judged["bars"] == judged["exact"] + judged["edge_shift"] + judged["late"] > 0, after
        assert after["1m"]["exact"] > 5
        streams = running.streams()
        used = [int(value) for name, value in streams.hash_of(WEIGHTS_KEY).items() if name.endswith(b":audit")]
        streams.close()
        assert 0 < max(used) <= WEIGHT
        ended = running.stop("auditor-exchange", "ingest", "repair", "clock", "aggregator", "snapshot", "writer")
        assert set(ended.values()) == {0}
        told = running.children["auditor-exchange"].text()
    database.close()
    print(after, next(line for line in reversed(told.splitlines()) if "summary: " in line))
    assert int(first["open_time"]) % MINUTE_MS == 0


def test_where_nothing_is_lost_nothing_is_said(tmp_path: Path, redis_url: str, database_url: str) -> None:
    """A quarter of an hour with quiet symbols, whose bars wait long for their proof: every minute is compared."""
    speed, symbols, minutes = 15, 10, 15  # a bar has a minute to come whole: four seconds here, on a busy machine too
    market = ["--symbols", str(symbols), "--rate", "40", "--speed", str(speed), "--seed", "11", *EDGES]
    database = migrated(database_url)
    with stack(
        tmp_path,
        redis_url,
        database_url,
        market,
        aggregator={"intervals": ("1m", "5m")},
        audit={"full": True, "weight_per_minute": 900},
    ) as running:
        processes = ("writer", "snapshot", "clock", "aggregator", "repair", "ingest", "ingest-b", "auditor-exchange")
        running.start(*processes)
        wanted = (minutes - 3) * symbols
        running.wait_until(lambda: counts(database).get("1m", Counter())["bars"] >= wanted, 180, 0.5)
        assert [each for each in findings(running) if "id" in each] == []
        found = counts(database)
        for each in found.values():
            assert each["bars"] == each["exact"] + each["edge_shift"] + each["late"] > 0, found
        eventually(lambda: counts(database)["1m"]["adopted"], 60, 0.5)
        assert "edge" in {row["why"] for row in database.query(EDGES_AMENDED)}
        assert set(running.stop(*reversed(processes)).values()) == {0}
    database.close()

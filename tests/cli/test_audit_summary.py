"""`klagg audit --summary` over a scoreboard that is known."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import ujson

from klagg.cli.main import main as klagg
from klagg.clock import local_ms
from klagg.drivers.postgres import Database
from klagg.intervals import DAY_MS
from writers.migrate import migrate

pytestmark = pytest.mark.servers

TODAY_MS = int(local_ms()) // DAY_MS * DAY_MS
RANGE = ["--from", "2026-03-01", "--to", "2026-03-02"]

DAYS = (
    'INSERT INTO symbol_days (symbol, "interval", day, expected, bars, complete, amended, own, official) VALUES'
    " ('AUSDT', '1m', '2026-03-01Z', 1440, 1440, 1440, 3, 1440, 0),"
    " ('AUSDT', '1h', '2026-03-01Z', 24, 24, 24, 0, 24, 0),"
    " ('BUSDT', '1m', '2026-03-01Z', 1440, 1430, 1420, 0, 1420, 0),"
    " ('BUSDT', '1m', '2026-03-02Z', 1440, 1440, 9, 0, 9, 1431)"
)
AUDITS = (
    "INSERT INTO audits VALUES"
    " ('AUSDT', '2026-03-01Z', '1m', 1440, 1437, 3, 0, 0, 0, 0, now(), DEFAULT, DEFAULT, 7),"
    " ('BUSDT', '2026-03-02Z', '1m', 1440, 1435, 2, 1, 0, 1, %(unexplained)s, now(), DEFAULT, DEFAULT, 0)"
)
FINDINGS = (
    'INSERT INTO findings (id, shard, kind, severity, symbol, "interval", open_time, writer, said_at, closed_at,'
    " evidence, standing) VALUES"
    " ('0:a', 0, 'K', 'error', 'BUSDT', '1m', '2026-03-02T05:00Z', 'w', '2026-03-09Z', NULL, '1', true),"
    " ('0:b', 0, 'K', 'error', 'BUSDT', '1m', '2026-03-02T06:00Z', 'w', '2026-03-09Z', '2026-03-10Z', '1', true),"
    " ('0:c', 0, 'K', 'error', 'BUSDT', NULL, NULL, 'w', '2026-03-02T23:59Z', NULL, '1', true),"
    " ('0:d', 0, 'K', 'error', 'BUSDT', NULL, NULL, 'w', '2026-03-02T23:59Z', NULL, '1', false),"
    " ('0:e', 0, 'K', 'error', NULL, NULL, NULL, 'w', '2026-03-02T23:59Z', NULL, '1', true)"
)


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A fresh database with the schema, which the command finds by the environment."""
    monkeypatch.setenv("KLAGG_DATABASE__URL", database_url)
    made = Database(database_url)
    migrate(made)
    yield made
    made.close()


def test_days_then_the_worst_symbols_then_the_sums(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.execute(DAYS)
    database.execute(AUDITS, {"unexplained": 1})
    database.execute(FINDINGS)
    assert klagg(["audit", "--summary", *RANGE]) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    assert ujson.loads(last) == {
        "days": 2,
        "expected": 4344,
        "bars": 4334,
        "complete": 2893,
        "official": 1431,
        "amended": 3,
        "missing": 10,
        "audited": 2880,
        "exact": 2872,
        "adopted": 7,
        "edge_shift": 5,
        "exchange_gap": 1,
        "local_gap": 0,
        "late": 1,
        "unexplained": 1,
        "open_findings": 3,
    }
    table = [line.split() for line in lines]
    heads = ["day", "2026-03-01", "2026-03-02", "The", "symbol", "BUSDT", "AUSDT", "Of", "Open"]
    assert [row[0] for row in table if row] == heads
    assert table[1][-5:] == ["99.31", "0.00", "99.79", "0.20", "0.00"]
    assert " ".join(table[6]) == "BUSDT 2880 2870 1429 1431 0 10 1440 1435 0 2 1 0 1 1 2 49.61 49.68 99.65 0.20 0.07"
    assert lines[-3] == (
        "Of 2,880 audited bars 99.72 % are exact (2,865 at once, 7 after adoption), 0.20 % differ and are explained "
        "(edge shift 5, exchange gap 1), 0.04 % are unexplained, and 1 are not settled (local gap 0, late 1)."
    )
    assert lines[-1] == "Open findings about no single symbol: 1"


def test_symbols_intervals_and_days_can_be_asked_for(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.execute(DAYS)
    database.execute(AUDITS, {"unexplained": 0})
    asked = ["audit", "--summary", *RANGE, "--symbols", "ausdt", "--intervals", "1h", "--json"]
    assert klagg(asked) == 0
    day, symbol, last = map(ujson.loads, capsys.readouterr().out.splitlines())
    assert (day["day"], day["symbols"], day["expected"], symbol["symbol"], symbol["days"]) == (
        "2026-03-01",
        1,
        24,
        "AUSDT",
        1,
    )
    assert (last["days"], last["expected"], last["audited"]) == (1, 24, 0)
    assert klagg(["audit", "--summary", "--from", "2026-03-02", "--to", "2026-03-02", "--json"]) == 0
    assert ujson.loads(capsys.readouterr().out.splitlines()[0])["day"] == "2026-03-02"


def test_without_a_range_it_is_the_last_days(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert klagg(["audit", "--summary"]) == 0
    said, last = capsys.readouterr().out.splitlines()
    assert said == "No day of this range was counted or audited yet."
    assert ujson.loads(last)["days"] == 0
    for days_ago in (0, 29, 40):
        day = datetime.fromtimestamp((TODAY_MS - days_ago * DAY_MS) / 1000, UTC)
        database.execute(
            'INSERT INTO symbol_days (symbol, "interval", day, expected, bars, complete, amended, own)'
            " VALUES ('AUSDT', '1m', %(day)s, 1440, 1440, 1440, 0, 1440)",
            {"day": day},
        )
    assert klagg(["audit", "--summary"]) == 0
    assert ujson.loads(capsys.readouterr().out.splitlines()[-1])["days"] == 2

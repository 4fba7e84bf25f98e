"""The views and functions of the schema, asked as a person would."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.embedded import PostgresServer
from klagg.errors import DatabaseRefused, EmbeddedServerError
from klagg.intervals import INTERVALS
from klagg.kline import Kline
from tests.writers.support import kline
from writers.kline_classes import table_of
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

DAY = datetime(2026, 3, 2, tzinfo=UTC)
DAY_OPEN_MS = int(DAY.timestamp() * 1000)


def bars(interval: str, numbers: Sequence[int], **changes: Any) -> list[Kline]:
    """The bars of a day with these numbers, from 0 on."""
    length_ms = INTERVALS[interval].length_ms
    opens = [DAY_OPEN_MS + number * length_ms for number in numbers]
    return [kline(interval=interval, open_time=each, close_time=each + length_ms - 1, **changes) for each in opens]


def counted(database: Database, source: str, where: str = "true") -> dict[tuple[str, str, int], tuple[int, ...]]:
    """(symbol, interval, days after DAY) → expected, bars, complete, amended, own, official."""
    rows = database.query(f"SELECT * FROM {source} WHERE {where}")
    return {
        (row["symbol"], row["interval"], (row["day"] - DAY).days): (
            row["expected"],
            row["bars"],
            row["complete"],
            row["amended"],
            row["own"],
            row["official"],
        )
        for row in rows
    }


def test_there_is_a_view_for_every_interval(database: Database) -> None:
    upsert(database, [kline(interval=name, trades=number) for number, name in enumerate(INTERVALS)])
    for number, name in enumerate(INTERVALS):
        view = "klines_1mo" if name == "1M" else f"klines_{name}"
        assert database.query(f'SELECT "interval" AS i, trades FROM {view}') == [{"i": name, "trades": number}]


def test_the_view_of_intervals_agrees_with_the_code(database: Database) -> None:
    rows = database.query('SELECT "interval" AS name, held_in, length_s FROM kline_intervals')
    assert [(row["name"], row["held_in"], (row["length_s"] or 0) * 1000) for row in rows] == [
        (name, table_of(name), each.length_ms) for name, each in INTERVALS.items()
    ]


def test_the_latest_bar_of_each_symbol_and_interval(database: Database) -> None:
    for symbol in ("AUSDT", "BUSDT", "币安人生USDT"):
        for interval in ("1m", "1h"):
            upsert(database, bars(interval, range(3), symbol=symbol))
    upsert(database, bars("1m", [3], symbol="BUSDT", revision=0, complete=0))
    latest = database.query("SELECT * FROM klines_latest ORDER BY symbol, interval")
    assert latest == database.query(
        "SELECT DISTINCT ON (symbol, interval) * FROM klines ORDER BY symbol, interval, open_time DESC"
    )
    assert len(latest) == 6
    (in_progress,) = database.query("SELECT * FROM klines_latest WHERE symbol = 'BUSDT' AND \"interval\" = '1m'")
    assert (in_progress["revision"], in_progress["open_time"].minute) == (0, 3)


def test_no_bar_at_all_has_no_latest_one(database: Database) -> None:
    assert database.query("SELECT * FROM klines_latest") == []


def test_completeness_counts_what_is_there(database: Database) -> None:
    upsert(database, bars("1h", range(20)))
    upsert(database, bars("1h", [20, 21], complete=0))
    upsert(database, bars("1h", [22], revision=2, source="mixed", complete=0, official=1))
    upsert(database, bars("1h", [23], revision=0, complete=0))
    upsert(database, bars("1d", [0]))
    expected = {("BTCUSDT", "1h", 0): (24, 23, 20, 1, 22, 1), ("BTCUSDT", "1d", 0): (1, 1, 1, 0, 1, 0)}
    assert counted(database, "klines_completeness") == expected
    assert counted(database, "completeness('2026-03-02Z', '2026-03-03Z')") == expected
    assert counted(database, "completeness('2026-03-03Z', '2026-03-04Z')") == {}


@pytest.mark.parametrize("source", ["klines_completeness", "completeness('-infinity', 'infinity')"])
def test_completeness_of_a_symbol_is_found_by_the_key(database: Database, source: str) -> None:
    upsert(database, [each for name in ("1m", "1h") for each in bars(name, range(20))])
    plan = database.query(f"EXPLAIN SELECT * FROM {source} WHERE symbol = 'BTCUSDT' AND \"interval\" = '1h'")
    text = "\n".join(row["QUERY PLAN"] for row in plan)
    assert re.search(r"Index Cond: \(\(symbol = 'BTCUSDT'::text\) AND \(\"interval\" = '1h'::text", text), text
    assert "klines_minutes" not in text


@pytest.mark.parametrize(
    ("listed", "delisted", "of_the_day"),
    [
        ("2026-01-01T00:00:00Z", None, 24),
        ("2026-03-02T08:30:00Z", None, 16),
        ("2026-01-01T00:00:00Z", "2026-03-02T09:00:00Z", 9),
        ("2026-01-01T00:00:00Z", "2026-03-02T09:00:01Z", 10),
        ("2026-03-02T08:30:00Z", "2026-03-02T08:45:00Z", 1),
    ],
)
def test_what_is_expected_follows_the_life_of_a_symbol(
    database: Database, listed: str, delisted: str | None, of_the_day: int
) -> None:
    database.execute(
        "INSERT INTO symbols (symbol, generation, status, delisted_at, last_seen) VALUES"
        " ('BTCUSDT', extract(epoch FROM %(listed)s::timestamptz) * 1000, 'TRADING', %(delisted)s, %(listed)s)",
        {"listed": listed, "delisted": delisted},
    )
    upsert(database, bars("1h", [8]))
    assert counted(database, "klines_completeness")["BTCUSDT", "1h", 0][0] == of_the_day


def test_today_expects_only_what_is_closed(database: Database) -> None:
    found = database.query(
        "SELECT expected_bars(3600, %(day)s, %(day)s, 'infinity', %(day)s + INTERVAL '90 minutes') AS by_half_past_one,"
        " expected_bars(3600, %(day)s, %(day)s, 'infinity', %(day)s - INTERVAL '1 day') AS in_the_future,"
        " expected_bars(604800, %(day)s, %(day)s, 'infinity', 'infinity') AS week",
        {"day": DAY},
    )
    assert found == [{"by_half_past_one": 1, "in_the_future": 0, "week": 1}]


def test_symbol_days_know_days_without_a_bar(database: Database) -> None:
    upsert(database, bars("1h", range(24)))
    upsert(database, bars("1h", range(72, 73)))
    refresh = "SELECT refresh_symbol_days(%(since)s, %(until)s) AS changed"
    days = {"since": "2026-03-02T12:00Z", "until": "2026-03-05T00:00:01Z"}
    assert database.query(refresh, days) == [{"changed": 4}]
    assert {key[2]: value[:2] for key, value in counted(database, "symbol_days").items()} == {
        0: (24, 24),
        1: (24, 0),
        2: (24, 0),
        3: (24, 1),
    }
    assert database.query(refresh, days) == [{"changed": 0}]
    upsert(database, bars("1h", [30]))
    assert database.query(refresh, days) == [{"changed": 1}]
    assert counted(database, "symbol_days")["BTCUSDT", "1h", 1][:2] == (24, 1)


def test_symbol_days_of_one_symbol_and_interval_alone(database: Database) -> None:
    upsert(database, [each for name in ("1h", "4h") for each in bars(name, range(3))])
    upsert(database, bars("1h", range(3), symbol="AUSDT"))
    refresh = "SELECT refresh_symbol_days(%(day)s, %(day)s::timestamptz + INTERVAL '1 day', %(symbol)s, %(interval)s)"
    database.query(refresh, {"day": DAY, "symbol": "BTCUSDT", "interval": "1h"})
    assert list(counted(database, "symbol_days")) == [("BTCUSDT", "1h", 0)]
    database.query(refresh, {"day": DAY, "symbol": "BTCUSDT", "interval": None})
    assert set(counted(database, "symbol_days")) == {("BTCUSDT", "1h", 0), ("BTCUSDT", "4h", 0)}
    database.query(refresh, {"day": DAY + timedelta(days=1), "symbol": "AUSDT", "interval": None})
    assert len(counted(database, "symbol_days")) == 2, "nothing is known of it before"


def test_symbol_days_go_on_for_a_series_that_fell_silent(database: Database) -> None:
    upsert(database, bars("1h", range(24)))
    refresh = "SELECT refresh_symbol_days(%(since)s, %(since)s::timestamptz + INTERVAL '1 day') AS changed"
    assert database.query(refresh, {"since": DAY}) == [{"changed": 1}]
    assert database.query(refresh, {"since": "2026-03-03Z"}) == [{"changed": 1}]
    assert counted(database, "symbol_days")["BTCUSDT", "1h", 1][:2] == (24, 0)


def test_the_scoreboard_sets_what_is_there_beside_what_was_audited(database: Database) -> None:
    upsert(database, [*bars("1h", range(20)), *bars("1h", [20, 21], source="exchange", complete=0, official=1)])
    database.query("SELECT refresh_symbol_days(%(day)s, %(day)s)", {"day": DAY + timedelta(hours=1)})
    database.execute("INSERT INTO audits VALUES ('BTCUSDT', %(day)s, '1h', 22, 19, 1, 1, 1, 0, 0, now())", {"day": DAY})
    database.execute("INSERT INTO audits VALUES ('GONEUSDT', %(day)s, '1h', 2, 0, 0, 0, 0, 1, 1, now())", {"day": DAY})
    database.execute(
        'INSERT INTO findings (id, shard, kind, severity, symbol, "interval", open_time, writer, said_at, evidence,'
        " standing, closed_at) VALUES"
        " ('a', 0, 'K', 'error', 'BTCUSDT', '1h', %(day)s, 'w', '2026-04-01Z', '1', true, NULL),"
        " ('b', 0, 'K', 'error', 'BTCUSDT', '1h', %(day)s, 'w', '2026-04-01Z', '1', true, '2026-04-02Z'),"
        " ('c', 0, 'K', 'error', 'BTCUSDT', '1h', %(day)s, 'w', '2026-04-01Z', '1', false, NULL)",
        {"day": DAY},
    )
    names = (
        "symbol",
        "expected",
        "bars",
        "complete",
        "official",
        "missing",
        "audited",
        "exact",
        "edge_shift",
        "exchange_gap",
        "local_gap",
        "late",
        "unexplained",
        "open_findings",
    )
    rows = database.query(
        "SELECT * FROM scoreboard WHERE \"interval\" = '1h' AND day = %(day)s ORDER BY symbol", {"day": DAY}
    )
    assert [tuple(row[name] for name in names) for row in rows] == [
        ("BTCUSDT", 24, 22, 20, 2, 2, 22, 19, 1, 1, 1, 0, 0, 1),
        ("GONEUSDT", 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 1, 0),
    ]


def test_the_scoreboard_of_some_days_is_found_by_keys(database: Database) -> None:
    where = "\"interval\" = '1m' AND day >= '2026-03-01Z' AND day < '2026-03-31Z'"
    plan = database.query(f"EXPLAIN SELECT symbol, sum(exact) FROM scoreboard WHERE {where} GROUP BY symbol")
    text = "\n".join(row["QUERY PLAN"] for row in plan)
    conditions = re.findall(r"Index Cond: \(\(\"interval\" = '1m'::text\) AND \(day >= ", text)
    assert len(conditions) == 2, text
    assert "findings_open" in text


AMENDMENT = """
INSERT INTO amendments (
    symbol, "interval", open_time, epoch, revision, complete, source, replaced_epoch, replaced_revision,
    replaced_complete, was, became
) VALUES (
    'BTCUSDT', '1m', '2026-03-02Z', %(epoch)s, 2, true, 'own', %(replaced)s, 1, true, %(was)s, %(became)s
)
"""


@pytest.mark.parametrize(
    ("epoch", "replaced", "was", "became", "why"),
    [
        (1, 1, '{"trades": 7, "volume": 1.10}', '{"trades": 9, "volume": 1.30}', "2 trades came late"),
        (1, 1, '{"trades": 9}', '{"trades": 7}', "2 trades fell away"),
        (1, 1, '{"source": "own", "trades": 1}', '{"source": "mixed", "trades": 2}', "official rows took the place"),
        (1, 1, '{"source": "mixed"}', '{"source": "own"}', "trades took the place of official rows"),
        (1, 1, '{"close": 1.0, "open": 1.0}', '{"close": 2.0, "open": 2.0}', "the close that it carries changed"),
        (2, 1, '{"volume": 1.0}', '{"volume": 2.0}', "a later run of the aggregator"),
        (1, None, "{}", "{}", "the version before it was never stored"),
        (1, 1, '{"edge": ""}', '{"edge": "1"}', "its values changed"),
    ],
)
def test_an_amended_bar_says_why(
    database: Database, epoch: int, replaced: int | None, was: str, became: str, why: str
) -> None:
    database.execute(AMENDMENT, {"epoch": epoch, "replaced": replaced, "was": was, "became": became})
    (row,) = database.query("SELECT why, was ->> 'volume' AS volume FROM klines_amended")
    assert row["why"].startswith(why)
    assert row["volume"] in (None, "1.10", "1.0")


def test_a_confirmation_is_no_amendment(database: Database) -> None:
    database.execute(AMENDMENT, {"epoch": 1, "replaced": 1, "was": "{}", "became": "{}"})
    assert database.query("SELECT * FROM klines_amended") == []


def test_everything_has_a_comment(database: Database) -> None:
    bare = database.query(
        "SELECT relname AS name FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND relname <> 'schema_migrations'"
        " AND obj_description(oid, 'pg_class') IS NULL"
        " UNION ALL SELECT proname FROM pg_proc WHERE obj_description(oid, 'pg_proc') IS NULL"
        " AND proname IN ('completeness', 'expected_bars', 'refresh_symbol_days')"
    )
    assert bare == []


def test_the_reader_reads_everything_and_writes_nothing(database: Database, postgres_server: PostgresServer) -> None:
    upsert(database, bars("1m", range(3)))
    name = database.query("SELECT current_database() AS name")[0]["name"]

    def as_reader(statement: str) -> str:
        return postgres_server.sql(f"SET ROLE klagg_reader; {statement}", name)

    relations = database.query(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    )
    for relation in relations:
        as_reader(f"SELECT * FROM {relation['name']} LIMIT 1")
    assert as_reader("SELECT count(*) FROM klines") == "3"
    for statement in (
        "DELETE FROM klines_minutes",
        "UPDATE symbols SET status = ''",
        "CREATE TABLE mine (n integer)",
        "INSERT INTO findings (id) VALUES ('x')",
        "SELECT refresh_symbol_days(now(), now())",
    ):
        with pytest.raises(EmbeddedServerError, match="permission denied"):
            as_reader(statement)
    database.execute("CREATE TABLE later (n integer)")
    assert as_reader("SELECT count(*) FROM later") == "0"


def test_times_of_a_bar_are_utc_days_whatever_the_session_says(database: Database) -> None:
    upsert(database, bars("1h", range(24)))
    with database.transaction():
        database.execute("SET LOCAL TimeZone = 'Asia/Tokyo'")
        assert counted(database, "klines_completeness") == {("BTCUSDT", "1h", 0): (24, 24, 24, 0, 24, 0)}


def test_a_bar_of_another_class_is_refused(database: Database) -> None:
    upsert(database, bars("1m", range(3)))
    with pytest.raises(DatabaseRefused, match="klines_hours_interval"):
        database.execute("INSERT INTO klines_hours SELECT * FROM klines_minutes")

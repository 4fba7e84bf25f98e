"""What the scoreboard expects of a day: bars from where the series begins, and never one that never was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import pytest

from klagg.drivers.postgres import Database
from klagg.intervals import DAY_MS, HOUR_MS, INTERVALS, MINUTE_MS
from klagg.kline import Kline
from klagg.settings import Settings
from tests.writers.support import kline
from writers.days import Counted, Days
from writers.kline_table import upsert
from writers.migrate import migrate
from writers.migrations import load_migrations

pytestmark = pytest.mark.servers

DAY: Final = datetime(2026, 3, 2, tzinfo=UTC)
DAY_OPEN_MS: Final = int(DAY.timestamp() * 1000)
ONBOARD_MS: Final = DAY_OPEN_MS - 900 * DAY_MS


def hours(symbol: str, first: int, until: int, *, epoch: int = 1) -> list[Kline]:
    """Hours with these numbers, counted from the midnight of DAY."""
    return [
        kline(
            symbol=symbol,
            interval="1h",
            open_time=DAY_OPEN_MS + number * HOUR_MS,
            close_time=DAY_OPEN_MS + (number + 1) * HOUR_MS - 1,
            epoch=epoch,
        )
        for number in range(first, until)
    ]


def listed(database: Database, symbol: str, *, generation: int = ONBOARD_MS, **changes: object) -> None:
    """A row of `symbols`, without a trade so far."""
    row = {"status": "TRADING", "first_trade": None, "delisted_at": None} | changes
    database.execute(
        "INSERT INTO symbols (symbol, generation, status, first_trade, delisted_at, last_seen)"
        " VALUES (%(symbol)s, %(generation)s, %(status)s, %(first_trade)s, %(delisted_at)s, now())",
        {"symbol": symbol, "generation": generation, **row},
    )


def count(database: Database, hour: float) -> Counted:
    """As writer-snapshot counts for the first time after a start, so many hours after the midnight of DAY."""
    return Days(database, Settings()).count(DAY_OPEN_MS + int(hour * HOUR_MS))


def board(database: Database) -> dict[tuple[str, int], tuple[int, int, int]]:
    """(symbol, days after DAY) → expected, bars, missing."""
    rows = database.query("SELECT symbol, day, expected, bars, missing FROM scoreboard")
    return {(row["symbol"], (row["day"] - DAY).days): (row["expected"], row["bars"], row["missing"]) for row in rows}


def test_a_symbol_that_has_not_traded_misses_nothing(database: Database) -> None:
    listed(database, "QUIETUSDT")
    upsert(database, hours("QUIETUSDT", 10, 12))
    assert count(database, 12.5).missing == 0
    assert board(database) == {("QUIETUSDT", 0): (2, 2, 0)}
    listed(database, "NEVERUSDT")
    assert count(database, 12.6) == Counted(0, 0)


def test_a_symbol_listed_today_expects_bars_from_its_first(database: Database) -> None:
    listed(database, "NEWUSDT", generation=DAY_OPEN_MS + 8 * HOUR_MS, first_trade=DAY + timedelta(hours=9, minutes=5))
    upsert(database, hours("NEWUSDT", 9, 12))
    assert count(database, 12.5).missing == 0
    assert board(database) == {("NEWUSDT", 0): (3, 3, 0)}


def test_a_hole_in_the_day_is_missing(database: Database) -> None:
    listed(database, "BTCUSDT")
    upsert(database, hours("BTCUSDT", 3, 5) + hours("BTCUSDT", 7, 9))
    assert count(database, 9.5).missing == 2
    assert board(database) == {("BTCUSDT", 0): (6, 4, 2)}
    upsert(database, hours("BTCUSDT", 5, 7))
    assert count(database, 9.5) == Counted(1, 0)


def test_a_halted_symbol_goes_on_to_be_expected(database: Database) -> None:
    listed(database, "HALTUSDT", status="TRADING_HALT")
    upsert(database, hours("HALTUSDT", 0, 12))
    assert count(database, 12.5).missing == 0
    upsert(database, hours("HALTUSDT", 13, 15))
    assert count(database, 15.5).missing == 1, "a halt has bars: they are flat"


def test_a_pause_of_klagg_is_missing_until_it_is_healed(database: Database) -> None:
    listed(database, "BTCUSDT", first_trade=DAY - timedelta(days=3))
    upsert(database, hours("BTCUSDT", 6, 12))
    assert count(database, 12.5).missing == 0
    upsert(database, hours("BTCUSDT", 62, 64))
    assert count(database, 64.5).missing == 50
    assert board(database) == {
        ("BTCUSDT", 0): (18, 6, 12),
        ("BTCUSDT", 1): (24, 0, 24),
        ("BTCUSDT", 2): (16, 2, 14),
    }
    upsert(database, hours("BTCUSDT", 12, 62, epoch=0))
    assert count(database, 64.5).missing == 0


def test_what_was_loaded_begins_the_series(database: Database) -> None:
    """Back-fill counts the days of its own part alone; the day with which the series had begun is expected anew."""
    listed(database, "BTCUSDT")
    upsert(database, hours("BTCUSDT", 34, 40))
    count(database, 40.5)
    assert board(database) == {("BTCUSDT", 1): (6, 6, 0)}
    upsert(database, hours("BTCUSDT", -30, 24, epoch=0))
    refresh = "SELECT refresh_symbol_days(%(since)s, %(until)s, 'BTCUSDT', '1h', %(at)s) AS changed"
    span = {"since": DAY - timedelta(days=2), "until": DAY + timedelta(days=1)}
    database.query(refresh, span | {"at": DAY + timedelta(hours=40, minutes=30)})
    assert board(database) == {
        ("BTCUSDT", -2): (6, 6, 0),
        ("BTCUSDT", -1): (24, 24, 0),
        ("BTCUSDT", 0): (24, 24, 0),
        ("BTCUSDT", 1): (16, 6, 10),
    }, "between what was loaded and what klagg saw itself ten hours are missing"
    upsert(database, hours("BTCUSDT", 24, 34, epoch=0))
    assert count(database, 40.5).missing == 0


def test_nothing_is_expected_between_two_listings(database: Database) -> None:
    ended, again = DAY + timedelta(hours=6, minutes=30), DAY + timedelta(hours=33, minutes=10)
    listed(database, "BACKUSDT", delisted_at=ended, status="SETTLING")
    listed(database, "BACKUSDT", generation=DAY_OPEN_MS + 30 * HOUR_MS)
    upsert(database, hours("BACKUSDT", 0, 7))
    assert count(database, 31).missing == 0
    upsert(database, hours("BACKUSDT", 33, 40))
    database.execute("UPDATE symbols SET first_trade = %(at)s WHERE delisted_at IS NULL", {"at": again})
    assert count(database, 40.5).missing == 0
    assert board(database) == {("BACKUSDT", 0): (7, 7, 0), ("BACKUSDT", 1): (7, 7, 0)}


def test_longer_bars_are_expected_when_they_are_over(database: Database) -> None:
    week = INTERVALS["1w"]
    opening = week.open_time(DAY_OPEN_MS)
    upsert(
        database,
        [
            kline(
                interval="1w",
                open_time=opening + 7 * number * DAY_MS,
                close_time=opening + 7 * (number + 1) * DAY_MS - 1,
                revision=revision,
                complete=revision,
            )
            for number, revision in ((-1, 1), (0, 0))
        ],
    )
    database.query(
        "SELECT refresh_symbol_days(%(since)s, %(until)s, at => %(until)s)",
        {"since": DAY - timedelta(days=8), "until": DAY + timedelta(days=3)},
    )
    assert board(database) == {("BTCUSDT", -7): (1, 1, 0)}, "the week in progress is not missing"


def test_expected_is_never_below_what_is_there(database: Database) -> None:
    """A market ahead of this machine's clock, and a symbol whose end was told before its last bars."""
    listed(database, "OVERUSDT", delisted_at=DAY + timedelta(hours=2), status="CLOSE")
    upsert(database, hours("OVERUSDT", 0, 5))
    count(database, 4.0)
    assert board(database) == {("OVERUSDT", 0): (5, 5, 0)}


def test_a_bar_is_expected_once_it_had_time_to_come(database: Database) -> None:
    minutes = [
        kline(open_time=DAY_OPEN_MS + at * MINUTE_MS, close_time=DAY_OPEN_MS + (at + 1) * MINUTE_MS - 1)
        for at in range(10)
    ]
    upsert(database, minutes)
    assert count(database, 11 / 60).missing == 0
    assert count(database, 20 / 60).missing > 0


def test_the_migration_corrects_what_older_versions_counted(database_url: str) -> None:
    """Three days with 1,440 minutes each were expected of a symbol without a trade: 4,320 missing bars."""
    database = Database(database_url)
    before = [each for each in load_migrations() if each.name != "begins"]
    migrate(database, before)
    listed(database, "QUIETUSDT")
    listed(database, "OLDUSDT", first_trade=DAY - timedelta(days=4))
    upsert(database, hours("QUIETUSDT", 10, 12) + hours("OLDUSDT", -50, 12))
    counted_at = DAY + timedelta(hours=12, minutes=10)
    for symbol, day, expected, bars in [
        ("QUIETUSDT", -2, 24, 0),
        ("QUIETUSDT", -1, 24, 0),
        ("QUIETUSDT", 0, 12, 2),
        ("NEVERUSDT", 0, 12, 0),
        ("GONEUSDT", -40, 24, 20),
        ("GONEUSDT", -39, 24, 23),
        ("OLDUSDT", -3, 24, 2),
        ("OLDUSDT", -2, 24, 24),
        ("OLDUSDT", -1, 24, 24),
        ("OLDUSDT", 0, 9, 12),
    ]:
        database.execute(
            'INSERT INTO symbol_days (symbol, "interval", day, expected, bars, complete, amended, own, counted_at)'
            " VALUES (%(symbol)s, '1h', %(day)s, %(expected)s, %(bars)s, 0, 0, 0, %(at)s)",
            {
                "symbol": symbol,
                "day": DAY + timedelta(days=day),
                "expected": expected,
                "bars": bars,
                "at": max(counted_at, DAY + timedelta(days=day + 1)) if day < 0 else counted_at,
            },
        )
    migrate(database)
    corrected = {
        ("QUIETUSDT", 0): (2, 2, 0),
        ("GONEUSDT", -40): (20, 20, 0),
        ("GONEUSDT", -39): (24, 23, 1),
        ("OLDUSDT", -3): (2, 2, 0),
        ("OLDUSDT", -2): (24, 24, 0),
        ("OLDUSDT", -1): (24, 24, 0),
        ("OLDUSDT", 0): (12, 12, 0),
    }
    assert board(database) == corrected
    assert count(database, 12.5).missing == 0
    assert {key: value[2] for key, value in board(database).items()} == {
        key: value[2] for key, value in corrected.items()
    }
    database.close()

"""docs/elsewhere.md, row by row: where other tools open the bars of three days and of a week, and what mends it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.intervals import INTERVALS

FIRST = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = [FIRST + timedelta(days=number, hours=7) for number in range(60)]
DAY = timedelta(days=1)


def opens(name: str) -> list[datetime]:
    """Where Binance, and so klagg, opens the bar of each of DAYS."""
    return [
        datetime.fromtimestamp(INTERVALS[name].open_time(int(each.timestamp()) * 1000) / 1000, UTC) for each in DAYS
    ]


THREE, WEEK = opens("3d"), opens("1w")
EARLY = [
    (each - FIRST + timedelta(days=(FIRST - datetime(1970, 1, 1, tzinfo=UTC)).days)).days // 3 * 3 for each in DAYS
]
FROM_1970 = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=each) for each in EARLY]
"""Three days counted from 1970-01-01."""


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed here (make test-long installs it)")


def test_binances_own_grid() -> None:
    assert {each.weekday() for each in WEEK} == {0}, "weeks open on Monday"
    assert all((each - datetime(1970, 1, 2, tzinfo=UTC)).days % 3 == 0 for each in THREE)
    assert THREE != FROM_1970


def test_polars() -> None:
    polars = library("polars")
    days = polars.Series("t", DAYS)

    def opened(every: str, offset: str = "0d") -> list[datetime]:
        return list(days.dt.offset_by(f"-{offset}").dt.truncate(every).dt.offset_by(offset).to_list())

    frame = polars.DataFrame({"t": DAYS, "p": range(len(DAYS))})

    def grouped(every: str, **other: str) -> set[datetime]:
        return set(frame.group_by_dynamic("t", every=every, **other).agg(polars.len())["t"].to_list())

    assert opened("3d") == FROM_1970
    assert grouped("3d", offset="1d") == set(THREE)
    assert grouped("1w") == set(WEEK)
    assert {each.weekday() for each in opened("7d")} == {3}, "seven days open on Thursday"


def test_duckdb() -> None:
    connection = library("duckdb").connect()
    connection.execute("SET TimeZone = 'UTC'")

    def opened(what: str) -> list[datetime]:
        query = f"SELECT {what} FROM (SELECT unnest(?::timestamp[]) AS t)"
        return [
            row[0].replace(tzinfo=UTC)
            for row in connection.execute(query, [[str(each)[:19] for each in DAYS]]).fetchall()
        ]

    assert opened("time_bucket(INTERVAL 3 DAY, t)") != THREE
    assert opened("time_bucket(INTERVAL 3 DAY, t, TIMESTAMP '1970-01-02')") == THREE
    assert opened("time_bucket(INTERVAL 7 DAY, t)") == opened("date_trunc('week', t)::timestamp") == WEEK


def test_duckdb_takes_a_close_by_time_alone_from_the_wrong_trade() -> None:
    """Two trades in one millisecond: the close is that of the larger id."""
    query = "SELECT arg_max(p, t), arg_max(p, (t, id)) FROM (VALUES (1, 5, 10.0), (2, 5, 20.0)) AS trades(id, t, p)"
    assert [float(each) for each in library("duckdb").connect().execute(query).fetchone()] == [10.0, 20.0]


def test_sums_of_floats_are_not_the_sum_and_sums_of_decimals_are() -> None:
    polars, pandas, duckdb = library("polars"), library("pandas"), library("duckdb").connect()
    floats, exact = [0.1, 0.1, 0.1], [Decimal("0.1")] * 3
    assert polars.Series(floats).sum() == pandas.Series(floats).sum() == 0.30000000000000004
    query = "SELECT sum(v) FROM (SELECT unnest([0.1, 0.1, 0.1]::{}[]) AS v)"
    assert duckdb.execute(query.format("DOUBLE")).fetchone()[0] == 0.30000000000000004
    right = duckdb.execute(query.format("DECIMAL(18, 1)")).fetchone()[0]
    assert polars.Series(exact).sum() == right == Decimal("0.3")


def test_pyarrow() -> None:
    arrow, compute = library("pyarrow"), library("pyarrow.compute")
    days = arrow.array(DAYS, arrow.timestamp("ms", "UTC"))
    day = arrow.scalar(DAY, arrow.duration("ms"))
    assert compute.floor_temporal(days, 3, "day").to_pylist() == FROM_1970
    moved = compute.floor_temporal(compute.subtract(days, day), 3, "day")
    assert compute.add(moved, day).to_pylist() == THREE
    assert compute.floor_temporal(days, 1, "week").to_pylist() == WEEK


def test_pandas() -> None:
    pandas = library("pandas")

    def opened(index: Any, rule: str, **other: Any) -> list[datetime]:
        counted = pandas.Series(1, index=index).resample(rule, **other).sum()
        return [each.to_pydatetime().replace(tzinfo=UTC) for each in counted[counted > 0].index]

    naive = pandas.DatetimeIndex([each.replace(tzinfo=None) for each in DAYS])
    aware = pandas.DatetimeIndex(DAYS)
    origin = pandas.Timestamp("1970-01-02")
    wanted = sorted(set(THREE))
    assert opened(naive, "3D") != wanted
    assert opened(naive, "3D", origin=origin) == wanted
    assert opened(aware, "3D", origin=origin.tz_localize("UTC")) != wanted, (
        "the origin is ignored where there is a zone"
    )
    assert opened(naive, "W-MON", closed="left", label="left") == sorted(set(WEEK))
    assert opened(naive, "W") != sorted(set(WEEK))


def test_datafusion() -> None:
    context = library("datafusion").SessionContext()

    def opened(what: str) -> list[datetime]:
        values = ", ".join(f"(TIMESTAMP '{str(each)[:19]}')" for each in DAYS)
        rows = context.sql(f"SELECT {what} AS o FROM (VALUES {values}) AS d(t)").to_pylist()
        return [row["o"].replace(tzinfo=UTC) for row in rows]

    assert opened("date_bin(INTERVAL '3 days', t)") == FROM_1970
    assert opened("date_bin(INTERVAL '3 days', t, TIMESTAMP '2001-01-01')") == THREE
    assert opened("date_trunc('week', t)") == WEEK
    assert {each.weekday() for each in opened("date_bin(INTERVAL '7 days', t)")} == {3}


def test_chdb() -> None:
    chdb = library("chdb")
    days = ", ".join(str(int(each.timestamp())) for each in DAYS)

    def opened(what: str) -> list[datetime]:
        table = f"(SELECT toDateTime(arrayJoin([{days}]), 'UTC') AS t)"
        query = f"SELECT toUnixTimestamp(toDateTime({what}, 'UTC')) FROM {table}"
        return [datetime.fromtimestamp(int(each), UTC) for each in str(chdb.query(query)).split()]

    assert opened("toStartOfInterval(t, INTERVAL 3 DAY)") == FROM_1970
    assert opened("toStartOfInterval(t - INTERVAL 1 DAY, INTERVAL 3 DAY) + INTERVAL 1 DAY") == THREE
    assert opened("toStartOfInterval(t, INTERVAL 1 WEEK)") == WEEK


@pytest.mark.servers
def test_timescaledb_and_postgresql(database_url: str) -> None:
    database = Database(database_url)

    def opened(what: str) -> list[datetime]:
        query = f"SELECT {what} AS o FROM unnest(%(days)s::timestamptz[]) AS t ORDER BY t"
        return [row["o"].astimezone(UTC) for row in database.query(query, {"days": DAYS})]

    try:
        assert opened("time_bucket('3 days', t)") != THREE
        assert opened("time_bucket('3 days', t, origin => timestamptz '1970-01-02 00:00Z')") == THREE
        assert opened("date_bin('3 days', t, timestamptz '2001-01-01 00:00Z')") == THREE
        assert opened("time_bucket('7 days', t)") == WEEK
    finally:
        database.close()

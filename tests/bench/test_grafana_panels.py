"""Macros and variables, put in as Grafana does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from klagg.bench.grafana_panels import PanelContext, PanelQuery, dashboards, expand
from klagg.errors import ConfigError

UNTIL = datetime(2026, 11, 1, 12, tzinfo=UTC)


def expanded(sql: str, *, hours: float = 24, repeated: str = "", timescaledb: bool = True, points: int = 1000) -> str:
    variables = {"symbol": ["BTCUSDT", "O'USDT"], "interval": ["1m"]}
    answering = PanelContext(UNTIL - timedelta(hours=hours), UNTIL, variables, points, timescaledb)
    return expand(PanelQuery("market", "Candles", "table", "table", sql, repeated), answering)


@pytest.mark.parametrize(
    ("sql", "becomes"),
    [
        ("$__timeFilter(open_time)", "open_time BETWEEN '2026-10-31T12:00:00Z' AND '2026-11-01T12:00:00Z'"),
        ("$__timeFrom() $__timeTo()", "'2026-10-31T12:00:00Z' '2026-11-01T12:00:00Z'"),
        ("$__timeGroup(open_time,'5m') AS x", "time_bucket('300.000s',open_time) AS x"),
        ("$__timeGroup(open_time, $__interval) AS x", "time_bucket('120.000s',open_time) AS x"),
        ("$__interval_ms $__interval", "120000 2m"),
        ("symbol IN (${symbol:sqlstring})", "symbol IN ('BTCUSDT','O''USDT')"),
        ("x = ${interval:sqlstring}", "x = '1m'"),
        ("regexp_replace(why, '^[0-9]+$', '')", "regexp_replace(why, '^[0-9]+$', '')"),
    ],
)
def test_what_grafana_puts_in(sql: str, becomes: str) -> None:
    assert expanded(sql) == becomes


def test_plain_postgresql_groups_by_epoch_seconds() -> None:
    sql = "$__timeGroup(open_time,'5m') AS x"
    assert expanded(sql, timescaledb=False) == "floor(extract(epoch from open_time)/300)*300 AS x"


def test_a_repeated_panel_sees_one_value_of_its_variable() -> None:
    assert expanded("symbol = ${symbol:sqlstring}", repeated="symbol") == "symbol = 'BTCUSDT'"


@pytest.mark.parametrize(
    ("hours", "points", "length"),
    [(24, 1440, "1m"), (24, 1439, "2m"), (0.1, 1000, "1s"), (720, 1000, "1h"), (720, 30, "1d"), (90_000, 2, "1w")],
)
def test_the_interval_leaves_about_as_many_points_as_there_is_room_for(hours: float, points: int, length: str) -> None:
    assert expanded("$__interval", hours=hours, points=points) == length


@pytest.mark.parametrize(
    "sql",
    [
        "$__timeBucket(open_time)",
        "$__timeFilter()",
        "$__timeGroup(open_time)",
        "$__timeGroup(open_time, '5 min')",
        "${symbols:sqlstring}",
        "${symbol}",
        "${symbol:csv}",
        "symbol = $symbol",
    ],
)
def test_what_grafana_would_not_understand_is_an_error(sql: str) -> None:
    with pytest.raises(ConfigError, match="market: Candles"):
        expanded(sql)


def test_a_folder_without_dashboards_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no dashboard in"):
        dashboards(tmp_path)

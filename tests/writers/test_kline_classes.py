from __future__ import annotations

import pytest

from klagg.errors import UnknownInterval
from klagg.intervals import INTERVALS
from writers.kline_classes import CLASSES, for_table, table_of


def test_every_interval_has_exactly_one_table() -> None:
    assert [name for intervals in CLASSES.values() for name in intervals] == list(INTERVALS)
    assert {table_of(name) for name in INTERVALS} == set(CLASSES)
    assert (table_of("1m"), table_of("1M")) == ("klines_minutes", "klines_days")


def test_an_unknown_interval_has_none() -> None:
    with pytest.raises(UnknownInterval, match="7m"):
        table_of("7m")


def test_a_statement_is_for_one_of_the_tables_only() -> None:
    assert for_table("INSERT INTO klines_of_class AS kept", "klines_hours") == "INSERT INTO klines_hours AS kept"
    with pytest.raises(ValueError, match="klines_weeks"):
        for_table("INSERT INTO klines_of_class AS kept", "klines_weeks")
    with pytest.raises(ValueError, match="does not name"):
        for_table("SELECT FROM klines", "klines_hours")

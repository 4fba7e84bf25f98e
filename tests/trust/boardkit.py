"""Half an hour of one symbol in the real table, compared with the exchange's rows and counted by the real code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from auditors.classify import Comparison
from auditors.day_counts import JudgedBar
from auditors.exchange_store import ExchangeStore
from auditors.schedule import Look
from klagg.drivers.postgres import Database
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.kline import Kline
from klagg.settings import Settings
from tests.aggregator.kit import T0
from tests.auditors.test_classify import LASTING, folded, market, official
from writers.days import Days
from writers.kline_table import upsert

END = T0 + LASTING * MINUTE_MS
Bars = dict[int, Kline]
Fault = Callable[[Bars], None]
"""What is planted into our bars before they are stored."""

MIDDLE = T0 + 12 * MINUTE_MS


def nothing(_: Bars) -> None:
    """All is well."""


def a_lost_bar(bars: Bars) -> None:
    del bars[MIDDLE]


def a_wrong_volume(bars: Bars) -> None:
    bars[MIDDLE] = replace(bars[MIDDLE], volume=str(Decimal(bars[MIDDLE].volume) + 5), edge="")


def a_bar_that_may_lack_trades(bars: Bars) -> None:
    bars[MIDDLE] = replace(bars[MIDDLE], complete=0)


def a_bar_of_the_exchange(bars: Bars) -> None:
    bars[MIDDLE] = replace(bars[MIDDLE], complete=0, official=1, source="exchange")


def fill_table(database: Database, database_url: str, fault: Fault) -> None:
    """Store, compare and count, as the writer, the auditor of the exchange and the writer of snapshots do."""
    rows, fills = market(3)
    bars = folded(rows)
    fault(bars)
    database.execute("TRUNCATE symbol_days, audits, series_begins")
    database.execute("DELETE FROM klines_minutes")
    upsert(database, bars.values())
    verdicts = Comparison(MINUTE, bars, official(fills)).verdicts(T0, END)
    store = ExchangeStore(database_url, "test")
    try:
        judged = [JudgedBar(each.open_time, each.kind) for each in verdicts]
        store.record(Look("BTCUSDT", MINUTE, T0, END), judged, END)
    finally:
        store.close()
    days = Days(database, Settings())
    days.count(END + days._late_ms)

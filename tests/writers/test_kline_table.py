from __future__ import annotations

import itertools
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klagg.database import Database
from klagg.errors import DatabaseRefused
from klagg.kline import DECIMAL_FIELDS, Kline
from tests.writers.support import OPEN_TIME, kline, minutes, stored
from writers.kline_table import upsert, value_is_to_blame

pytestmark = pytest.mark.servers

on_a_server = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_every_field_comes_back_to_the_last_digit(database: Database) -> None:
    klines = [
        kline(),
        kline(
            symbol="币安人生USDT", interval="1w", open_time=0, open="0.00000010", high="0", low="0.000", close="1000"
        ),
        kline(symbol="A", interval="1M", volume="99999999999999999999.00000000000000000001", quote_volume="9" * 38),
        kline(symbol="B", open_time=OPEN_TIME + 1, close_time=253_402_300_799_999, trades=2**63 - 1, epoch=2**63 - 1),
        kline(symbol="C", trades=0, first_agg_id=-1, last_agg_id=-1, first_trade_id=-1, last_trade_id=-1, complete=0),
        kline(symbol="D", source="mixed", edge="123,456", revision=2**31 - 1),
    ]
    assert upsert(database, klines) == len(klines)
    assert stored(database) == sorted(klines, key=lambda each: each.key)


decimals = st.from_regex(r"\A[0-9]{1,38}(\.[0-9]{1,38})?\Z")


@on_a_server
@given(texts=st.lists(decimals, min_size=len(DECIMAL_FIELDS), max_size=len(DECIMAL_FIELDS)), time=st.integers(0, 2**42))
def test_any_decimal_and_any_millisecond_come_back(database: Database, texts: list[str], time: int) -> None:
    database.execute("TRUNCATE klines_minutes")
    each = kline(open_time=time, **dict(zip(DECIMAL_FIELDS, texts, strict=True)))
    upsert(database, [each])
    (back,) = stored(database)
    assert back.open_time == time
    for name in DECIMAL_FIELDS:
        text = getattr(each, name)
        whole, dot, fraction = text.partition(".")
        assert getattr(back, name) == (whole.lstrip("0") or "0") + dot + fraction


VERSIONS = [
    kline(epoch=epoch, revision=revision, complete=complete, trades=1 + n)
    for n, (epoch, revision, complete) in enumerate(itertools.product((1, 2), (1, 2), (0, 1)))
]


@on_a_server
@given(order=st.permutations(VERSIONS))
def test_the_highest_version_wins_in_any_order(database: Database, order: list[Kline]) -> None:
    database.execute("TRUNCATE klines_minutes")
    best = None
    for each in order:
        higher = best is None or each.version > best.version
        assert upsert(database, [each]) == higher
        best = each if best is None or higher else best
        assert stored(database) == [best]


def test_the_same_rows_again_touch_nothing(database: Database) -> None:
    klines = minutes(50)
    assert upsert(database, klines) == 50
    before = database.query("SELECT xmin::text, ctid::text FROM klines_minutes ORDER BY open_time")
    assert upsert(database, klines) == 0
    assert database.query("SELECT xmin::text, ctid::text FROM klines_minutes ORDER BY open_time") == before


def test_symbols_and_intervals_do_not_get_mixed_up(database: Database) -> None:
    klines = [
        kline(symbol=symbol, interval=interval, trades=n)
        for n, (symbol, interval) in enumerate(itertools.product(("BTCUSDT", "ETHUSDT"), ("1m", "5m", "1d")))
    ]
    upsert(database, klines)
    assert stored(database) == sorted(klines, key=lambda each: each.key)


@pytest.mark.parametrize(
    "changes",
    [{"symbol": "a\0b"}, {"open_time": 2**62}, {"revision": 2**31}, {"close": "NaN?"}, {"symbol": "X" * 100_000}],
)
def test_a_value_that_the_database_cannot_take_is_to_blame(database: Database, changes: dict[str, object]) -> None:
    if "symbol" in changes and len(str(changes["symbol"])) > 100:
        changes = {"symbol": "".join(chr(0x4E00 + n % 20_000) for n in range(20_000))}  # does not compress
    with pytest.raises(DatabaseRefused) as caught:
        upsert(database, [kline(trades=7), kline(**{"close_time": 0, **changes})])
    assert value_is_to_blame(caught.value)
    assert stored(database) == []


def test_a_missing_table_is_no_value_to_blame(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(DatabaseRefused, match="klines") as caught:
        upsert(database, [kline()])
    assert not value_is_to_blame(caught.value)
    database.close()


def test_writers_of_the_same_keys_at_once_do_not_deadlock(database: Database, database_url: str) -> None:
    errors: list[BaseException] = []

    def write(revision: int) -> None:
        mine = Database(database_url)
        try:
            for turn in range(5):
                upsert(mine, minutes(300, revision=revision + turn * 8, trades=revision + turn * 8))
        except BaseException as bad:
            errors.append(bad)
        finally:
            mine.close()

    threads = [threading.Thread(target=write, args=(revision,)) for revision in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {(each.revision, each.trades) for each in stored(database)} == {(40, 40)}

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from klagg.drivers.postgres import Database
from klagg.errors import DatabaseUnavailable, RedisUnavailable
from tests.kit import eventually
from tests.writers.backfillkit import CLOSED_MS, official, part_of, rows, write_dump
from tests.writers.support import stored
from writers import backfill
from writers.backfill import ReadAhead, ReaderDied, Totals, from_dumps, load
from writers.backfill_parts import Batch, Failure
from writers.backfill_table import HistoryTable


def test_reading_ahead_keeps_the_order_and_is_bounded() -> None:
    given: list[int] = []

    def source() -> Iterator[int]:
        for number in range(50):
            given.append(number)
            yield number

    ahead = ReadAhead(source(), threading.Event())
    taken = []
    for item in ahead:
        taken.append(item)
        assert len(given) <= len(taken) + backfill.AHEAD_MAX + 1
    assert taken == list(range(50))
    ahead.close()


def test_known_errors_of_the_source_come_out() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise RedisUnavailable("Redis is away")

    found: list[int] = []
    with pytest.raises(RedisUnavailable, match="Redis is away"):
        found.extend(ReadAhead(source(), threading.Event()))
    assert found == [1]


def test_an_unforeseen_error_of_the_source_does_not_look_like_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    printed: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: printed.append(args.exc_type))
    with pytest.raises(ReaderDied):
        list(ReadAhead(source(), threading.Event()))
    eventually(lambda: printed == [ZeroDivisionError])


def test_closing_ends_the_thread() -> None:
    def source() -> Iterator[int]:
        while True:
            yield 1

    stopping = threading.Event()
    ahead = ReadAhead(source(), stopping)
    next(iter(ahead))
    ahead.close()
    assert stopping.is_set()
    eventually(lambda: all(each.name != "backfill-reader" for each in threading.enumerate()))


@pytest.mark.servers
def test_a_bad_file_does_not_stop_the_rest(database: Database, tmp_path: Path) -> None:
    good = part_of(write_dump(tmp_path, rows(3)))
    bad = part_of(write_dump(tmp_path, "hello\n", "AUSDT-1m-2024-09.csv"))
    last = part_of(write_dump(tmp_path, rows(4), "CUSDT-1m-2024-09.csv"))
    totals = Totals()
    seen: list[Batch | Failure] = []
    table = HistoryTable(database, CLOSED_MS)
    load(table, from_dumps([bad, good, last], CLOSED_MS), totals, report=lambda _: None, done=seen.append)
    assert (totals.rows, totals.written) == (7, 7)
    ((failure),) = totals.failures
    assert failure.part == bad
    assert failure.reason == f"{bad.path}: is no known format of klines"
    assert [type(each) for each in seen] == [Failure, Batch, Batch]
    assert set(table.loaded()) == {good.key, last.key}


@pytest.mark.servers
def test_what_the_database_refuses_fails_its_part_alone(database: Database, tmp_path: Path) -> None:
    bad = part_of(write_dump(tmp_path, rows(3), "AUSDT-1m-2024-09.csv"))
    good = part_of(write_dump(tmp_path, rows(3)))
    over = (official(0)[0], "9" * 200_000, *official(0)[2:])
    source = [Batch(bad, [over], bad.to_ms - 1), Batch(bad, rows(3), bad.to_ms), Batch(good, rows(3), good.to_ms)]
    totals = Totals()
    load(HistoryTable(database, CLOSED_MS), source, totals, report=lambda _: None)
    assert [failure.part for failure in totals.failures] == [bad]
    assert "SQLSTATE 22" in totals.failures[0].reason
    assert {each.symbol for each in stored(database)} == {"BTCUSDT"}


def test_a_database_that_stays_away_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_of(write_dump(tmp_path, rows(3)))
    waits: list[float] = []
    monkeypatch.setattr("writers.backfill.time.sleep", waits.append)
    with pytest.raises(DatabaseUnavailable):
        load(
            HistoryTable(Database("postgresql://nobody@127.0.0.1:1/nothing"), CLOSED_MS),
            from_dumps([part], CLOSED_MS),
            Totals(),
            report=lambda _: None,
        )
    assert len(waits) == backfill.TRIES_MAX

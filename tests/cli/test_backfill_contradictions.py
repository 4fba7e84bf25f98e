"""Official sources that contradict each other, as `klagg backfill` meets them: real files, the real database."""

from __future__ import annotations

import asyncio
import csv
import itertools
import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from klagg.cli.main import main as klagg
from klagg.drivers.postgres import Database
from klagg.intervals import INTERVALS, MINUTE_MS
from klagg.simulator import Simulator, SyntheticMarket
from klagg.simulator.history import klines as told_klines
from klagg.simulator.payloads import rest_kline
from tests.cli.test_backfill_command import MARKET, database, exchange_settings, run, run_json
from tests.simulator.kit import START_MS as MARKET_START_MS
from tests.simulator.kit import running
from tests.writers.backfillkit import minute, write_dump
from writers.backfill_parts import OfficialRow, span_of

__all__ = ["database", "exchange_settings"]
pytestmark = pytest.mark.servers

DAY = "BTCUSDT-1m-2024-09-01.csv"
MONTH = "BTCUSDT-1m-2024-09.csv"
FIVES = "BTCUSDT-5m-2024-09-01.csv"
BARS = 120


def bar(at: int, volume: int = 1, trades: int = 1, price: str = "1.50") -> OfficialRow:
    """Minute number `at`: so many trades at one price, of which takers bought none."""
    opened = minute(at)
    quote = str(Decimal(price) * volume)
    closes = str(opened + MINUTE_MS - 1)
    return str(opened), price, price, price, price, str(volume), closes, quote, str(trades), "0", "0"


def flat(at: int) -> OfficialRow:
    return bar(at, 0, 0)


def day() -> list[OfficialRow]:
    return [bar(at) for at in range(BARS)]


def month_with_a_flat_hour() -> list[OfficialRow]:
    return [flat(at) if at < 60 else bar(at) for at in range(BARS)]


def fives(minutes: Sequence[OfficialRow], last_volume: int = 5) -> list[OfficialRow]:
    """The bars of 5m over minutes of volume 1; the last one has another volume."""
    found = []
    for group in zip(*[iter(minutes)] * 5, strict=True):
        volume = last_volume if group[-1] == minutes[-1] else 5
        row = list(bar(0, volume, 5))
        row[0], row[6] = group[0][0], group[-1][6]
        found.append(tuple(row))
    return found  # type: ignore[return-value]


def flags(database: Database, interval: str = "1m") -> list[tuple[int, bool, bool]]:
    """(trades, complete, official) of the bars of BTCUSDT."""
    found = database.query(
        "SELECT trades, complete, official FROM klines WHERE symbol = 'BTCUSDT' AND \"interval\" = %(interval)s"
        " ORDER BY open_time",
        {"interval": interval},
    )
    return [(row["trades"], row["complete"], row["official"]) for row in found]


def noted(database: Database, why: str, interval: str = "1m") -> list[dict[str, Any]]:
    """The notes of one kind, by open time (ms)."""
    return database.query(
        "SELECT (extract(epoch FROM open_time) * 1000)::bigint AS open_time, said_by, was::text AS was,"
        ' became::text AS became, settled FROM amendments WHERE why = %(why)s AND "interval" = %(interval)s'
        " ORDER BY amendments.open_time, said_by",
        {"why": why, "interval": interval},
    )


def values(text: str) -> tuple[int, str]:
    found = json.loads(text, parse_float=str)
    return found["trades"], str(found["volume"])


def folders(tmp_path: Path) -> tuple[Path, Path]:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    write_dump(right, day(), DAY)
    write_dump(wrong, month_with_a_flat_hour(), MONTH)
    return right, wrong


HOUR_OF_DOUBT = [(1, False, False)] * 60 + [(1, False, True)] * 60


def test_a_flat_hour_behind_a_right_file_leaves_the_trades_and_is_told(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = folders(tmp_path)
    run(capsys, "--dir", right)
    report = tmp_path / "report.csv"
    said = run(capsys, "--dir", wrong, "--report", report, code=1)
    assert "0 written, 60 were there already, 0 stand back behind klagg's own bars, 60 contradict" in said
    assert "the exchange contradicts itself in 60 cases" in said
    assert "  BTCUSDT 1m CONTRADICTED: 60" in said
    sides = f"{DAY} against {MONTH}"
    assert f"CONTRADICTED BTCUSDT 1m 2024-09-01 00:00:00, {sides}: volume 1 against 0, quote_volume 1.50" in said
    assert "… and 50 more: --report FILE writes all of them" in said
    assert flags(database) == HOUR_OF_DOUBT
    notes = noted(database, "contradicted")
    assert [(each["open_time"], each["said_by"], each["settled"]) for each in notes] == [
        (minute(at), MONTH, None) for at in range(60)
    ]
    assert {(values(each["was"]), values(each["became"])) for each in notes} == {((1, "1"), (0, "0"))}
    lines = list(csv.DictReader(report.read_text().splitlines()))
    assert [(each["kind"], each["own_trades"], each["official_trades"]) for each in lines] == [
        ("CONTRADICTED", "1", "0")
    ] * 60
    assert (lines[0]["own_side"], lines[0]["official_side"]) == (DAY, MONTH)
    days = database.query("SELECT bars, complete, official FROM symbol_days WHERE day = '2024-09-01'")
    assert [(each["bars"], each["complete"], each["official"]) for each in days] == [(120, 0, 60)]


def test_the_right_file_behind_a_flat_hour_brings_its_trades(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = folders(tmp_path)
    run(capsys, "--dir", wrong)
    found = run_json(capsys, "--dir", right, code=1)
    assert (found["written"], found["known"], found["refused"], found["contradictions"]) == (60, 60, 0, 60)
    assert found["contradictions_by_series"] == {"BTCUSDT 1m CONTRADICTED": 60}
    assert flags(database) == HOUR_OF_DOUBT
    notes = noted(database, "replaced")
    assert {(each["said_by"], values(each["was"]), values(each["became"])) for each in notes} == {
        (MONTH, (0, "0"), (1, "1"))
    }
    assert len(notes) == 60


def test_both_files_in_one_run(database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    found = run_json(capsys, "--dir", tmp_path, code=1)
    assert (found["contradictions"], found["problems"]) == (60, [])
    assert flags(database) == HOUR_OF_DOUBT
    again = run_json(capsys, "--dir", tmp_path, "--again", code=1)
    assert (again["contradictions"], again["written"]) == (60, 0)
    assert flags(database) == HOUR_OF_DOUBT
    later = run_json(capsys, "--dir", tmp_path)
    assert "sources of the exchange tell differently" in later["notes"][-1]
    assert "BTCUSDT 1m 60" in later["notes"][-1]


@pytest.mark.parametrize("order", [*itertools.permutations(["2024-09", "2024-09-01", "again"])])
def test_the_order_of_files_decides_nothing(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], order: Sequence[str]
) -> None:
    """Two files with trades, and one of them a second time: the row with more trades stays."""
    write_dump(tmp_path / "2024-09", [bar(0), bar(1, 7, 3), bar(2)], MONTH)
    write_dump(tmp_path / "2024-09-01", [bar(0), bar(1, 8, 2), bar(2)], DAY)
    first = next(each for each in order if each != "again")
    codes = [
        klagg(["backfill", "--dir", str(tmp_path / (first if each == "again" else each)), "--again"]) for each in order
    ]
    assert 1 in codes
    assert flags(database) == [(1, False, True), (3, False, False), (1, False, True)]
    (note,) = [*noted(database, "replaced"), *noted(database, "contradicted")]
    assert (note["open_time"], note["said_by"], note["settled"]) == (minute(1), DAY, None)


def test_a_corrected_file_settles_what_it_contradicted(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    right, wrong = folders(tmp_path)
    run(capsys, "--dir", right)
    run(capsys, "--dir", wrong, code=1)
    write_dump(wrong, [*day(), *(bar(at) for at in range(BARS, BARS + 10))], MONTH)
    found = run_json(capsys, "--dir", wrong)
    assert (found["contradictions"], found["known"], found["written"], found["notes"][1:]) == (0, BARS, 10, [])
    assert flags(database) == [(1, False, True)] * (BARS + 10)
    assert {each["settled"] for each in noted(database, "contradicted")} == {"agreed"}
    write_dump(wrong, month_with_a_flat_hour(), MONTH)
    assert run_json(capsys, "--dir", wrong, code=1)["contradictions"] == 60
    assert flags(database)[:BARS] == HOUR_OF_DOUBT, "a settled contradiction stands again when it is found again"


def test_two_sources_that_agree_at_last(database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first file is revised to what the second one says: nobody says the old values any more."""
    first, second = tmp_path / "first", tmp_path / "second"
    write_dump(first, [bar(0, 9, 9)], MONTH)
    write_dump(second, [bar(0, 4, 4)], DAY)
    run(capsys, "--dir", first)
    run(capsys, "--dir", second, code=1)
    assert flags(database) == [(9, False, False)]
    write_dump(first, [bar(0, 4, 4), bar(1)], MONTH)
    found = run_json(capsys, "--dir", first, code=1)
    assert found["contradictions_by_series"] == {"BTCUSDT 1m REVISED": 1}
    assert flags(database) == [(4, False, True), (1, False, True)]


def test_a_revised_file_is_told_and_noted(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, volume in enumerate((5, 3, 4)):
        write_dump(tmp_path, [bar(0, volume), *(bar(at) for at in range(1, 3 + number))], DAY)
        assert klagg(["backfill", "--dir", str(tmp_path)]) == (1 if number else 0)
    assert "REVISED BTCUSDT 1m 2024-09-01 00:00:00" in capsys.readouterr().out
    assert flags(database) == [(1, False, True)] * 5
    notes = noted(database, "revised")
    assert [(values(each["was"])[1], values(each["became"])[1]) for each in notes] == [("5", "3"), ("3", "4")]
    assert all(each["said_by"].startswith(f"{DAY} before ") for each in notes)
    write_dump(tmp_path, [flat(0), bar(1)], DAY)
    assert run_json(capsys, "--dir", tmp_path, code=1)["refused"] == 1
    assert flags(database)[0] == (1, False, False), "the same file may not take trades away either"


def test_a_person_settles(database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dump(tmp_path / "month", [bar(0), bar(1, 7, 3), flat(2)], MONTH)
    write_dump(tmp_path / "day", [bar(0), bar(1, 8, 2), bar(2)], DAY)
    run(capsys, "--dir", tmp_path, code=1)
    assert flags(database) == [(1, False, True), (3, False, False), (1, False, False)]
    said = run(capsys, "--dir", tmp_path / "day", "--again", "--settle")
    assert "1 written" in said
    assert f"SETTLED BTCUSDT 1m 2024-09-01 00:01:00, {DAY} against {MONTH}" in said
    assert flags(database) == [(1, False, True), (2, False, True), (1, False, True)]
    assert run_json(capsys, "--dir", tmp_path / "day", "--again")["contradictions"] == 0
    found = run_json(capsys, "--dir", tmp_path / "month", "--again", "--settle", code=1)
    assert (found["written"], found["refused"]) == (1, 1)
    assert flags(database) == [(1, False, True), (3, False, True), (1, False, True)], "never a flat row over trades"


@pytest.mark.parametrize("order", [(DAY, FIVES), (FIVES, DAY), (DAY + FIVES,)])
def test_minutes_and_fives_that_contradict_each_other(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], order: Sequence[str]
) -> None:
    for folder in order:
        if DAY in folder:
            write_dump(tmp_path / folder, day(), DAY)
        if FIVES in folder:
            write_dump(tmp_path / folder, fives(day(), last_volume=2), FIVES)
        said = run(capsys, "--dir", tmp_path / folder, code=int(folder == order[-1]))
    assert "the exchange contradicts itself in 1 cases" in said
    assert "  BTCUSDT 5m FOLD: 1" in said
    assert "FOLD BTCUSDT 5m 2024-09-01 01:55:00, 5m against the fold of 1m: volume 2 against 5" in said
    assert flags(database) == [(1, False, True)] * 115 + [(1, False, False)] * 5
    assert flags(database, "5m") == [(5, False, True)] * 23 + [(5, False, False)]
    (note,) = noted(database, "fold", "5m")
    assert (note["open_time"], note["said_by"]) == (minute(115), "1m")
    assert (values(note["was"]), values(note["became"])) == ((5, "2"), (5, "5"))
    assert [(each["open_time"], each["said_by"]) for each in noted(database, "fold")] == [
        (minute(at), "5m") for at in range(115, 120)
    ]
    days = database.query("SELECT \"interval\", official FROM symbol_days WHERE day = '2024-09-01' ORDER BY 1")
    assert [(each["interval"], each["official"]) for each in days] == [("1m", 115), ("5m", 23)]


def test_a_corrected_longer_file_settles_the_fold(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dump(tmp_path, day(), DAY)
    write_dump(tmp_path, fives(day(), last_volume=2), FIVES)
    run(capsys, "--dir", tmp_path, code=1)
    write_dump(tmp_path, fives(day()), FIVES.replace(".csv", ".csv.gz"))
    found = run_json(capsys, "--dir", tmp_path, code=1)
    assert found["contradictions_by_series"] == {"BTCUSDT 5m CONTRADICTED": 1}
    assert flags(database) == [(1, False, True)] * 120
    assert flags(database, "5m")[-1] == (5, False, False), "the two files of 5m still contradict each other"
    (tmp_path / FIVES).unlink()
    run(capsys, "--dir", tmp_path, "--again", "--intervals", "5m", "--settle")
    assert flags(database, "5m") == [(5, False, True)] * 24


def test_a_flat_hour_of_minutes_beside_right_fives(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dump(tmp_path, month_with_a_flat_hour(), DAY)
    write_dump(tmp_path, fives(day()), FIVES)
    found = run_json(capsys, "--dir", tmp_path, code=1)
    assert found["contradictions_by_series"] == {"BTCUSDT 5m FOLD": 12}
    assert flags(database) == [(0, False, False)] * 60 + [(1, False, True)] * 60
    assert flags(database, "5m") == [(5, False, False)] * 12 + [(5, False, True)] * 12


def test_bars_that_lack_some_of_their_minutes_are_not_compared(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dump(tmp_path, [*day()[:7], *day()[8:]], DAY)
    write_dump(tmp_path, fives(day()), FIVES)
    assert run_json(capsys, "--dir", tmp_path)["contradictions"] == 0
    assert all(official for *_, official in flags(database, "5m"))


async def test_rest_and_dumps_contradict_each_other(
    database: Database,
    exchange_settings: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dump with a flat minute before REST and behind it: the trades stay either way."""
    now_ms = MARKET_START_MS + 10 * MINUTE_MS
    market = SyntheticMarket(**MARKET)
    symbol = market.listings(now_ms)[0].symbol
    told = told_klines(market, symbol, "1m", MARKET_START_MS - 60 * MINUTE_MS, None, 30, now_ms)
    lines = [[str(cell) for cell in rest_kline(each)[:11]] for each in told]
    assert all(int(line[8]) for line in lines), "the market trades in every minute"
    for at in (3, 4):
        price = lines[at - 1][4]
        lines[at][1:6], lines[at][7:11] = [price] * 4 + ["0"], ["0"] * 4
    start = span_of("2026-01-01")[0]
    name = f"{symbol}-1m-2026-01.csv" if int(lines[0][0]) >= start else f"{symbol}-1m-2025-12.csv"
    write_dump(tmp_path, [tuple(line) for line in lines], name)  # type: ignore[misc]
    async with running(Simulator(market, start_ms=now_ms)) as exchange:
        monkeypatch.setenv("KLAGG_EXCHANGE__REST_URL", exchange.rest_url)

        async def ask(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
            rest = ["--from", "2025-12", "--symbols", symbol, "--intervals", "1m"]
            return await asyncio.to_thread(run_json, capsys, *rest, *arguments, code=code)

        await ask("--dir", tmp_path)
        over = await ask("--again", code=1)
        assert (over["contradictions"], over["refused"]) == (2, 0)
        behind = await ask("--again", "--dir", tmp_path, code=1)
        assert (behind["contradictions"], behind["refused"]) == (2, 2)
    bars = INTERVALS["1m"]
    doubtful = database.query(
        "SELECT (extract(epoch FROM open_time) * 1000)::bigint AS at, trades FROM klines WHERE NOT official ORDER BY 1"
    )
    assert [row["at"] for row in doubtful] == [bars.open_time(int(lines[at][0])) for at in (3, 4)]
    assert all(row["trades"] for row in doubtful)

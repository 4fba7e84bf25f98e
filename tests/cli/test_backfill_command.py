"""`klagg backfill` as people call it: against the real database, recorded dumps and the simulator."""

from __future__ import annotations

import argparse
import asyncio
import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from klagg.bench.backfill import measure
from klagg.binance.rest_client import ExchangeRest
from klagg.cli.backfill import rest
from klagg.cli.backfill.command import words
from klagg.cli.backfill.report import COLUMNS, Meter, bad_rows
from klagg.cli.backfill.rest import TRIES_MAX, RestHistory, Stopped, parts_of
from klagg.cli.main import main as klagg
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.errors import ExchangeRefused, ExchangeUnavailable
from klagg.intervals import HOUR_MS, INTERVALS, MINUTE_MS
from klagg.process.stats import Stats
from klagg.settings import Settings, from_tree
from klagg.simulator import Simulator, SyntheticMarket
from klagg.simulator.history import klines as told_klines
from klagg.simulator.payloads import rest_kline
from klagg.wire.keys import WEIGHTS_KEY
from tests.conftest import ROOT
from tests.simulator.kit import START_MS, running
from tests.writers.backfillkit import END_MS, minute, official, rows, write_dump
from tests.writers.support import stored
from tests.writers.test_backfill_table import own
from writers.backfill_parts import Failure, HistoryRows, Part
from writers.kline_table import upsert
from writers.migrate import migrate

pytestmark = pytest.mark.servers


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A fresh database with the schema, which the command finds by the environment."""
    monkeypatch.setenv("KLAGG_DATABASE__URL", database_url)
    database = Database(database_url)
    migrate(database)
    yield database
    database.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    """What `klagg backfill` says on standard output."""
    assert klagg(["backfill", *map(str, arguments)]) == code
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, *arguments, "--json", code=code))
    return found


def counted(database: Database) -> dict[tuple[str, str], int]:
    found = database.query('SELECT symbol, "interval", count(*) AS bars FROM klines GROUP BY 1, 2')
    return {(row["symbol"], row["interval"]): row["bars"] for row in found}


def days_of(database: Database, symbol: str, interval: str) -> list[tuple[int, int]]:
    """(expected, official) of each day of a series, as the table symbol_days has them; no bar of it is complete."""
    found = database.query(
        'SELECT expected, complete, official FROM symbol_days WHERE symbol = %(symbol)s AND "interval" = %(interval)s'
        " ORDER BY day",
        {"symbol": symbol, "interval": interval},
    )
    assert not any(row["complete"] for row in found)
    return [(row["expected"], row["official"]) for row in found]


def test_what_is_loaded_is_counted_by_day_and_nothing_else_is(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upsert(database, [own(1, symbol="BUSDT")])
    write_dump(tmp_path, [*rows(1440), *rows(10, first=2880)])
    run(capsys, "--dir", tmp_path)
    assert days_of(database, "BTCUSDT", "1m")[:4] == [(1440, 1440), (1440, 0), (1440, 10), (1440, 0)]
    assert days_of(database, "BUSDT", "1m") == []


def test_recorded_dumps_of_a_quarter(database: Database, realdata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every bar of every month, to the last digit; a second run finds nothing left to do."""
    folder = realdata / "official_um_klines_1m"
    found = run_json(capsys, "--dir", folder, "--from", "2023-08", "--to", "2023-10")
    assert (found["rows"], found["written"], found["problems"]) == (132_480, 132_480, [])
    assert counted(database) == {("FILUSDT", "1m"): (31 + 30 + 31) * 1440}
    ends = database.query(
        "SELECT sum(quote_volume)::text AS quote, sum(trades)::bigint AS trades, bool_and(official) AS official, "
        "max(epoch) AS epoch, min(source) AS source FROM klines WHERE open_time < '2023-09-01'"
    )[0]
    with_text = _sums(folder / "FILUSDT-1m-2023-08.csv.gz")
    assert (ends["quote"], ends["trades"]) == with_text
    assert (ends["official"], ends["epoch"], ends["source"]) == (True, 0, "exchange")
    again = run_json(capsys, "--dir", folder, "--from", "2023-08", "--to", "2023-10")
    assert (again["rows"], again["notes"][-1]) == (0, "all of it had been loaded before: --again loads it anew")
    anew = run_json(capsys, "--dir", folder, "--from", "2023-09-01", "--to", "2023-09-02", "--again")
    assert (anew["rows"], anew["known"], anew["written"]) == (2880, 2880, 0)


def _sums(path: Path) -> tuple[str, int]:
    """Quote volume and trades of a dump, summed by other means."""
    with gzip.open(path, "rt") as file:
        lines = list(csv.DictReader(file))
    return str(sum(Decimal(line["quote_volume"]) for line in lines)), sum(int(line["count"]) for line in lines)


def test_where_klagg_differs_is_said_and_reported(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bars = [own(1), own(2, trades=8, edge="9:2:1"), own(3), own(4, volume="0.1")]
    upsert(database, bars)
    dump = [official(0), official(1), official(2), official(3, trades=0), *rows(10, first=4)]
    write_dump(tmp_path, dump, "BTCUSDT-1m-2024-09.zip")
    report = tmp_path / "report.csv"
    said = run(capsys, "--dir", tmp_path, "--report", report)
    assert "14 official rows in" in said
    assert "10 written, 0 were there already, 4 stand back" in said
    assert "klagg's own bars differ in 2 cases; 1 official rows are flat" in said
    assert "DIFFERENT BTCUSDT 1m 2024-09-01 00:02:00 own: trades 8 (official 7); trades at the edge: 9:2:1" in said
    assert "EXCHANGE_GAP BTCUSDT 1m 2024-09-01 00:03:00 own: open 1.40 (official 1.50)" in said
    lines = list(csv.DictReader(io.StringIO(report.read_text())))
    assert tuple(lines[0]) == COLUMNS
    assert [(line["kind"], line["open_time_ms"], line["own_volume"], line["official_volume"]) for line in lines] == [
        ("DIFFERENT", str(minute(2)), "3.500", "3.500"),
        ("EXCHANGE_GAP", str(minute(3)), "4.500", "0"),
        ("DIFFERENT", str(minute(4)), "0.1", "5.500"),
    ]
    assert [each for each in stored(database) if each.epoch] == bars
    run(capsys, "--dir", tmp_path, "--report", report, "--again")
    assert len(report.read_text().splitlines()) == 7, "appended, with one header"
    as_json = tmp_path / "report.jsonl"
    found = run_json(capsys, "--dir", tmp_path, "--report", as_json, "--again")
    assert (found["different"], found["gaps"], len(found["examples"])) == (2, 1, 3)
    assert [json.loads(line) for line in as_json.read_text().splitlines()] == found["examples"]


def test_bad_files_are_listed_and_the_rest_is_loaded(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_dump(tmp_path, [*rows(5), official(3)], "AUSDT-1m-2024-09.csv")
    other = write_dump(tmp_path / "data/spot", rows(5), "DUSDT-1m-2024-09.csv")
    cut = write_dump(tmp_path, rows(9000), "BUSDT-1m-2024-09.csv.gz")
    cut.write_bytes(cut.read_bytes()[:-100])
    write_dump(tmp_path, rows(6), "CUSDT-1m-2024-09.csv")
    write_dump(tmp_path, rows(6), "CUSDT-aggTrades-2024-09.csv")
    said = run(capsys, "--dir", tmp_path, code=1)
    assert "2 could not be loaded, or not wholly:" in said
    assert f"{bad}: 1 of its rows cannot be klines and is left out (line or item 7: open time {minute(3)}" in said
    assert f"{cut}: the compressed file is cut off before its end" in said
    assert "1 passed over, because their names are not those of dumps of klines: CUSDT-aggTrades-2024-09.csv" in said
    assert "1 passed over, because they are of another market or price than the trades of the USDⓈ-M futures: " in said
    assert str(other.relative_to(tmp_path)) in said
    assert counted(database)["CUSDT", "1m"] == 6
    write_dump(tmp_path, rows(7), "AUSDT-1m-2024-09.csv")
    write_dump(tmp_path, rows(9000), "BUSDT-1m-2024-09.csv.gz")
    found = run_json(capsys, "--dir", tmp_path)
    assert found["problems"] == []
    assert counted(database) == {("AUSDT", "1m"): 7, ("BUSDT", "1m"): 9000, ("CUSDT", "1m"): 6}


MADE_UP_FROM = {"1m": 0, "1h": 10, "2h": 20}
"""Bars of different times, since made-up ones of one time contradict each other."""


def test_only_the_symbols_and_intervals_asked_for(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAGG_AGGREGATOR__INTERVALS", "1m,5m,30m,1h,4h,1d,1w")
    for symbol in ("AUSDT", "BUSDT", "CUSDT"):
        for interval in ("1m", "1h", "2h"):
            write_dump(tmp_path, rows(3, interval, MADE_UP_FROM[interval]), f"{symbol}-{interval}-2024-09.csv")
    run(capsys, "--dir", tmp_path, "--symbols", "ausdt,BUSDT", "--intervals", "1h", "2h")
    assert set(counted(database)) == {(symbol, each) for symbol in ("AUSDT", "BUSDT") for each in ("1h", "2h")}
    said = run(capsys, "--dir", tmp_path)
    assert ("CUSDT", "1m") in counted(database)
    assert ("CUSDT", "2h") not in counted(database), "not one of the configured intervals"
    assert "holds no dumps of 5m, 30m, 4h, 1d, 1w: without --dir REST is asked for them" in said
    missing = run(capsys, "--dir", tmp_path, "--symbols", "AUSDT", "XUSDT", "--intervals", "1m", "4h", code=1)
    assert "XUSDT: " in missing
    assert "holds no dumps of 4h" in missing


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "say with --from since when"),
        (["--dir", "{}", "--from", "soon"], 2, "'soon' is no time"),
        (["--dir", "{}", "--from", "2024-10", "--to", "2024-09"], 2, "--from 2024-10 is not before --to 2024-09"),
        (["--dir", "{}", "--intervals", "7m"], 2, "unknown interval '7m'"),
        (["--dir", "{}", "--from", "2025"], 1, "holds no dumps of what is asked for"),
        (["--dir", "{}/nowhere"], 1, "is no folder"),
        (["--dir", "{}", "--report", "{}/no/report"], 2, "cannot be written"),
        (["--from", "2024"], 2, "the REST weight is shared in Redis"),
        (["--from", "2024", "--intervals", "1s"], 2, "the exchange has no klines of 1s"),
    ],
)
def test_what_cannot_be_done_is_said(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    write_dump(tmp_path, rows(1))
    assert klagg(["backfill", *(each.format(tmp_path) for each in arguments)]) == code
    assert said in capsys.readouterr().err


def test_a_database_without_the_schema(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAGG_DATABASE__URL", database_url)
    assert klagg(["backfill", "--dir", str(tmp_path)]) == 1
    assert "run `klagg migrate`" in capsys.readouterr().err


def test_lists_of_words() -> None:
    assert words(["a,b", "c", "a", ","]) == ["a", "b", "c"]


FAULT = """
import os, signal
from writers.backfill_table import HistoryTable
store, left = HistoryTable._store, [2]
def store_some_and_die(self, batch, report, *, empty):
    if not left[0]:
        os.kill(os.getpid(), signal.{signal})
    left[0] -= 1
    return store(self, batch, report, empty=empty)
HistoryTable._store = store_some_and_die
"""
PRELUDE = "from writers import backfill_dumps\nbackfill_dumps._READ_BYTES = 50_000\n"


def process(prelude: str, arguments: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with Python that runs first: the place for named faults."""
    script = f"{prelude}\nimport sys\nfrom klagg.cli.main import main\nsys.exit(main(sys.argv[1:]))\n"
    command = [sys.executable, "-c", script, "backfill", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_ended_in_the_middle_of_a_file_it_goes_on_there(
    database: Database, tmp_path: Path, name: str, code: int
) -> None:
    write_dump(tmp_path, rows(5000))
    write_dump(tmp_path, rows(2000), "CUSDT-1m-2024-09.csv")
    ended = process(PRELUDE + FAULT.format(signal=name), ["--dir", tmp_path])
    assert ended.returncode == code, ended.stderr
    if name == "SIGINT":
        assert "the same command goes on from there" in ended.stdout
    kept = sum(counted(database).values())
    assert 1000 < kept < 2000
    rest = process(PRELUDE, ["--dir", tmp_path, "--json"])
    assert rest.returncode == 0, rest.stderr
    found = json.loads(rest.stdout)
    assert (found["rows"], found["written"], found["known"]) == (7000 - kept, 7000 - kept, 0)
    assert counted(database) == {("BTCUSDT", "1m"): 5000, ("CUSDT", "1m"): 2000}
    assert days_of(database, "BTCUSDT", "1m") == [(1440, 1440)] * 3 + [(1440, 680)] + [(1440, 0)] * 26
    assert days_of(database, "CUSDT", "1m")[:3] == [(1440, 1440), (1440, 560), (1440, 0)]


def test_progress_without_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("klagg.cli.backfill.report.PLAIN_S", 0)
    part = Part("BTCUSDT", INTERVALS["1m"], "REST 2024-09", minute(0), minute(100))
    other = replace(part, name="REST 2024-10")
    with Meter([part, other], lambda: "waits 3 s for the exchange") as meter:
        meter.see(HistoryRows(part, rows(10), minute(10)))
        meter.see(HistoryRows(part, rows(5, first=20), minute(100)))
        meter.see(Failure(other, "refused"))
    assert capsys.readouterr().err.splitlines() == [
        f"klagg backfill: {done} of 200 bars, BTCUSDT 1m {name} waits 3 s for the exchange"
        for done, name in ((10, "REST 2024-09"), (100, "REST 2024-09"), (200, "REST 2024-10"))
    ]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    part = Part("BTCUSDT", INTERVALS["1m"], "BTCUSDT-1m-2024-09.zip", minute(0), END_MS)
    with Meter([part]) as meter:
        meter.see(HistoryRows(part, rows(10), END_MS))
    assert "100%" in terminal.getvalue()


MARKET = {"symbols": 2, "rate": 20, "seed": 3, "listed_ms": START_MS - 3 * HOUR_MS}


@pytest.fixture
def exchange_settings(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KLAGG_REDIS__URL", redis_url)
    return redis_url


async def test_rest_loads_what_the_exchange_tells_and_goes_on_where_it_was(
    database: Database, exchange_settings: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "PAGE_ROWS", 50)
    now_ms = START_MS + 10 * MINUTE_MS
    market = SyntheticMarket(**MARKET)
    async with running(Simulator(market, start_ms=now_ms)) as exchange:
        monkeypatch.setenv("KLAGG_EXCHANGE__REST_URL", exchange.rest_url)

        async def ask(*arguments: str) -> dict[str, Any]:
            return await asyncio.to_thread(run_json, capsys, "--intervals", "1m,1h", *arguments)

        first = await ask("--from", "2025-12", "--to", "2026-01-01T11:00")
        assert first["written"] == first["rows"] == 2 * (120 + 2)
        asked = exchange.rest.requests
        more = await ask("--from", "2025-12")
        assert more["written"] == more["rows"] >= 2 * (60 + 1)
        assert exchange.rest.requests - asked <= 2 + 2 * (2 + 1), "what was loaded is not asked for again"
        assert (first["problems"], more["problems"]) == ([], [])
        found = stored(database)
        for listing in market.listings(now_ms):
            for interval in ("1m", "1h"):
                mine = [each for each in found if (each.symbol, each.interval) == (listing.symbol, interval)]
                told = told_klines(market, listing.symbol, interval, START_MS - 3 * HOUR_MS, None, 1000, now_ms)
                told = told[: len(mine)]
                assert [
                    (
                        each.open_time,
                        each.close_time,
                        each.open,
                        each.high,
                        each.low,
                        each.close,
                        each.volume,
                        each.quote_volume,
                        each.trades,
                        each.taker_buy_volume,
                        each.taker_buy_quote_volume,
                    )
                    for each in mine
                ] == [bar_values(bar) for bar in told]
                assert mine[-1].close_time < now_ms < mine[-1].close_time + 4 * MINUTE_MS + HOUR_MS
    assert {(each.epoch, each.revision, each.standing, each.source) for each in found} == {
        (0, 1, "official", "exchange")
    }
    account = {name.decode(): int(used) for name, used in Streams(exchange_settings).hash_of(WEIGHTS_KEY).items()}
    assert sum(used for name, used in account.items() if name.endswith(":backfill")) > 0


def bar_values(bar: Any) -> tuple[Any, ...]:
    row = rest_kline(bar)
    return (row[0], row[6], *row[1:6], *row[7:11])


async def test_a_symbol_that_the_exchange_does_not_list(
    database: Database, exchange_settings: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(Simulator(SyntheticMarket(**MARKET), start_ms=START_MS)) as exchange:
        monkeypatch.setenv("KLAGG_EXCHANGE__REST_URL", exchange.rest_url)
        code = await asyncio.to_thread(klagg, ["backfill", "--from", "2025", "--symbols", "XUSDT"])
    assert code == 2
    assert "the exchange does not list XUSDT" in capsys.readouterr().err


class Scripted(ExchangeRest):
    """Answers in turn: an error is raised, anything else is the answer."""

    def __init__(self, *answers: Any) -> None:
        super().__init__("http://nowhere")
        self.answers = list(answers)
        self.asked: list[tuple[str, int, dict[str, str | int]]] = []

    async def get(self, path: str, weight: int = 1, **query: str | int) -> Any:
        self.asked.append((path, weight, query))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


PART = Part("BTCUSDT", INTERVALS["1m"], "REST 2024-09", minute(0), minute(3))


def history(settings: Settings | None = None) -> RestHistory:
    return RestHistory(settings or from_tree({"redis": {"url": "redis://x"}}), Stats(), threading.Event())


def batches(rest: Scripted, *parts: Part, of: RestHistory | None = None) -> list[HistoryRows | Failure]:
    source = of or history()
    with asyncio.Runner() as runner:
        return [item for part in parts for item in source._part(runner, rest, part)]


def told(at: int) -> list[Any]:
    row = official(at)
    return [int(row[0]), *row[1:6], int(row[6]), row[7], int(row[8]), row[9], row[10], "0"]


def test_pauses_and_passing_troubles_are_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(self: RestHistory, seconds: float) -> None:
        waits.append(seconds)

    waits: list[float] = []
    monkeypatch.setattr(RestHistory, "_sleep", at_once)
    troubles = [
        ExchangeRefused("slower", status=429, retry_after_s=3),
        ExchangeRefused("banned", status=418),
        ExchangeUnavailable("away"),
        ExchangeRefused("firewall", status=403),
        ExchangeRefused("broken", status=502),
    ]
    rest, source = Scripted(*troubles, [told(0), told(1), told(2)]), history()
    assert batches(rest, PART, of=source) == [HistoryRows(PART, rows(3), minute(3))]
    assert (len(waits), source._stats.counters) == (3, {"pauses": 2})
    assert rest.asked[0] == (
        "/fapi/v1/klines",
        1,
        {"symbol": "BTCUSDT", "interval": "1m", "startTime": minute(0), "endTime": minute(3) - 1, "limit": 3},
    )
    away = Scripted(*[ExchangeUnavailable("away")] * 50)
    with pytest.raises(ExchangeUnavailable):
        batches(away, PART)
    assert len(away.asked) == TRIES_MAX + 1


def test_a_refusal_and_a_malformed_answer_fail_the_part() -> None:
    refused = ExchangeRefused("Invalid symbol.", status=400, code=-1121)
    assert batches(Scripted(refused), PART) == [Failure(PART, "BTCUSDT 1m REST 2024-09: Invalid symbol.")]
    one = Part("BTCUSDT", INTERVALS["1m"], "REST 2024-09", minute(0), minute(1))
    answers = [(PART, {"code": 1}), (PART, [told(5)]), (PART, [told(0)[:5]])]
    for part, answer in [*answers, (one, {}), (one, None), (one, [told(0), told(1)])]:
        (failure,) = batches(Scripted(answer), part)
        assert isinstance(failure, Failure)
        assert not failure.row


def test_a_row_that_cannot_be_fails_by_itself() -> None:
    bad = told(1)
    bad[3] = "0.00"
    failure, found = batches(Scripted([told(0), bad, told(2)]), PART)
    assert isinstance(failure, Failure)
    assert failure.row
    assert "low 0.00 is not above 0" in failure.reason
    assert isinstance(found, HistoryRows)
    assert [row[0] for row in found.rows] == [str(minute(0)), str(minute(2))]


def test_a_bad_row_of_an_answer_costs_itself_and_is_remembered() -> None:
    flawed = told(1)
    flawed[3] = "0.00"
    refused, found = batches(Scripted([told(0), flawed, told(2)]), PART)
    assert isinstance(refused, Failure)
    assert refused.row
    assert isinstance(found, HistoryRows)
    assert [row[0] for row in found.rows] == [str(minute(0)), str(minute(2))]
    assert [(each.line, each.open_time) for each in found.bad] == [(0, minute(1))]
    said = bad_rows(found.part, found.bad, found.bad_rows)
    assert said.startswith(
        "BTCUSDT 1m REST 2024-09: 1 of its rows cannot be klines and is left out (2024-09-01 00:01:00:"
    )
    assert said.endswith("--from 2024-09-01T00:01 --to 2024-09-01T00:02 --again")


def test_a_last_row_with_a_wrong_key_inside_the_part_does_not_move_on() -> None:
    part = Part("BTCUSDT", INTERVALS["1m"], "REST 2024-09", minute(0), minute(2000))
    wrong = [minute(1900), *told(498)[1:]]
    page = [*map(told, range(498)), wrong]
    rest = Scripted(page, *[[told(at) for at in range(first, first + 499)] for first in (498, 997, 1496)], [told(1995)])
    found = batches(rest, part)
    assert rest.asked[1][2]["startTime"] == minute(498)
    assert all(isinstance(each, HistoryRows) for each in found), "and the row is told by nobody, since it came right"


def test_a_last_row_with_a_key_beyond_the_request_is_requested_again_and_then_costs_itself() -> None:
    wrong = told(2)
    wrong[0] = minute(100_000)
    first, second = Scripted([told(0), told(1), wrong], [told(2)]), Scripted([told(0), told(1), wrong], [wrong])
    assert batches(first, PART) == [
        HistoryRows(PART, rows(2), minute(2)),
        HistoryRows(PART, rows(1, first=2), minute(3)),
    ]
    assert [each[2]["limit"] for each in first.asked] == [3, 1]
    _, refused, found = batches(second, PART)
    assert isinstance(refused, Failure)
    assert refused.row, "the symbol's other parts are requested all the same"
    assert isinstance(found, HistoryRows)
    assert (found.rows, found.until_ms, [each.open_time for each in found.bad]) == ([], minute(3), [minute(2)])


def test_bars_that_the_exchange_lacks_end_a_part() -> None:
    assert batches(Scripted([told(1)]), PART) == [HistoryRows(PART, rows(1, first=1), minute(3))]
    assert batches(Scripted([]), PART) == [HistoryRows(PART, [], minute(3))]


def test_waits_end_when_asked_to() -> None:
    source = history()
    source._stopping.set()
    with pytest.raises(Stopped):
        batches(Scripted(ExchangeUnavailable("away")), PART, of=source)


def test_only_closed_bars_since_the_listing_are_asked_for() -> None:
    now_ms = minute(100)
    market = rest.ListedSymbols(now_ms, {"BTCUSDT": minute(50) + 7})
    (part,) = parts_of(market, [INTERVALS["1m"]], 0, END_MS)
    assert (part.from_ms, part.to_ms) == (minute(50), minute(98))
    assert parts_of(market, [INTERVALS["4h"]], 0, END_MS) == []


def test_the_bench_measures() -> None:
    found = measure(argparse.Namespace(symbols=1, months=1, rounds=1))
    assert found["rows"] == 31 * 1440
    assert found["rows_per_s"] > 0
    assert 0 < found["ratio"] < 2

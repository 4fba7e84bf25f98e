"""`klagg audit` as people call it: the database or recorded trades against files of official klines."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ujson

from gateway.files import Digits, FileLayout, encoder
from klagg.cli.comparison import RefusedRows
from klagg.cli.main import main as klagg
from klagg.cli.replay import newest_of
from klagg.drivers.postgres import Database
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.kline import Values
from klagg.recordings import open_trades
from tests.aggregator.kit import T0
from tests.auditors.test_classify import LASTING, folded, market, official
from writers.kline_table import upsert
from writers.migrate import migrate

COLUMNS = ("open", "high", "low", "close", "volume")
REST = ("quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")
NAME = "BTCUSDT-1m-2023-11-14.csv"


@pytest.fixture
def database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A fresh database with the schema, which the command finds by the environment."""
    monkeypatch.setenv("KLAGG_DATABASE__URL", database_url)
    made = Database(database_url)
    migrate(made)
    yield made
    made.close()


def write_dump(folder: Path, rows: dict[int, Values]) -> None:
    """A dump as the exchange writes it."""
    lines = [
        ",".join(
            map(
                str,
                [
                    opening,
                    *(values[name] for name in COLUMNS),
                    opening + MINUTE_MS - 1,
                    *(values[name] for name in REST),
                    0,
                ],
            )
        )
        for opening, values in rows.items()
    ]
    (folder / NAME).write_text("\n".join(lines) + "\n", encoding="utf-8")


def summary(text: str) -> dict[str, Any]:
    found: dict[str, Any] = ujson.loads(text.splitlines()[-1])
    return found


@pytest.mark.servers
def test_the_database_against_a_folder_of_dumps(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, fills = market(5)
    ours = folded(rows)
    upsert(database, ours.values())
    write_dump(tmp_path, official(fills))
    assert klagg(["audit", "--klines", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    counts = summary(out)
    assert (counts["bars"], counts["unexplained"], counts["local_gap"]) == (LASTING, 0, 0)
    assert counts["edge_shift"] > 5
    assert out.count(" EDGE_SHIFT: ") == counts["edge_shift"]
    assert "later fills of aggTrade" in out

    wrong = official(fills)
    at = T0 + 12 * MINUTE_MS
    wrong[at] = {**wrong[at], "trades": int(wrong[at]["trades"] or 0) + 1}
    write_dump(tmp_path, wrong)
    assert klagg(["audit", "--klines", str(tmp_path), "--symbols", "btcusdt", "--json"]) == 1
    told = [ujson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(told) == LASTING + 1
    assert told[-1]["unexplained"] >= 1
    assert {each["verdict"] for each in told[:-1]} >= {"EXACT", "EDGE_SHIFT", "UNEXPLAINED"}


@pytest.mark.servers
def test_a_range_and_what_the_table_lacks(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, fills = market(5)
    ours = folded(rows)
    gone = T0 + 21 * MINUTE_MS
    upsert(database, [kline for opening, kline in ours.items() if opening != gone])
    write_dump(tmp_path, official(fills))
    span = ["--from", "2023-11-14T22:20", "--to", "2023-11-14T22:25"]
    klagg(["audit", "--klines", str(tmp_path), *span, "--json"])
    told = [ujson.loads(line) for line in capsys.readouterr().out.splitlines()]
    by_time = {each["open_time"]: each["verdict"] for each in told[:-1]}
    assert list(by_time) == [T0 + minute * MINUTE_MS for minute in range(20, 25)]
    assert by_time[gone] == "LOCAL_GAP"


@pytest.mark.parametrize("day", ["2023-04-04_05", "2024-07-18_19"])
def test_recorded_trades_against_official_rows(realdata: Path, capsys: pytest.CaptureFixture[str], day: str) -> None:
    """Every fill was recorded, so every whole minute is exact; the last one of the file is not whole."""
    trades, rows = realdata / f"um_trade_btcusdt_{day}.txt.gz", realdata / f"official_um_klines_1m_btcusdt_{day}.csv"
    words = ["--symbols", "BTCUSDT", "--intervals", "1m"]
    assert klagg(["audit", "--trades", str(trades), "--klines", str(rows), *words]) == 0
    counts = summary(capsys.readouterr().out)
    assert counts["exact"] == 7
    assert counts["exact"] + counts["local_gap"] == counts["bars"]


RECORDED, OFFICIAL = "um_trade_btcusdt_2023-04-04_05.txt.gz", "official_um_klines_1m_btcusdt_2023-04-04_05.csv"
ONE = ["--symbols", "BTCUSDT", "--intervals", "1m"]


def test_klines_on_another_grid_are_one_sentence(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (realdata / OFFICIAL).read_text(encoding="utf-8").splitlines()
    cells = [line.split(",") for line in lines if line[0].isdigit()]
    moved = tmp_path / "moved.csv"
    rows = [",".join([str(int(each[0]) - 20_000), *each[1:6]]) for each in cells]
    moved.write_text("\n".join(["open_time,open,high,low,close,volume", *rows]), encoding="utf-8")
    assert klagg(["audit", "--trades", str(realdata / RECORDED), "--klines", str(moved), *ONE]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "is on another grid: its 1m bars open 20 seconds earlier than klagg's" in err


def test_ids_that_recorded_trades_lack_are_told(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = gzip.decompress((realdata / RECORDED).read_bytes()).decode().splitlines()
    path, rows = tmp_path / "holed.txt", realdata / OFFICIAL
    path.write_text("\n".join([*lines[:5000], *lines[5040:]]), encoding="utf-8")
    assert klagg(["audit", "--trades", str(path), "--klines", str(rows), *ONE]) == 1
    out = capsys.readouterr().out
    assert "missing: BTCUSDT trade ids " in out
    assert summary(out)["missing"] > 0


def test_files_that_contradict_each_other_are_told(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (realdata / OFFICIAL).read_text(encoding="utf-8").splitlines()
    cells = rows[3].split(",")
    cells[8] = str(int(cells[8]) + 1)
    for name, lines in (("2023-04", rows), ("2023-04-04", [*rows[:3], ",".join(cells), *rows[4:]])):
        (tmp_path / f"BTCUSDT-1m-{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["audit", "--trades", str(realdata / RECORDED), "--klines", str(tmp_path), *ONE]
    assert klagg(words) == 1
    said = capsys.readouterr().err
    assert "BTCUSDT-1m-2023-04.csv:0: trades of 2023-04-0" in said
    assert f"contradict {tmp_path / 'BTCUSDT-1m-2023-04-04.csv'}, which is compared" in said


def test_dumps_of_the_spot_market_are_refused_by_their_times(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (realdata / OFFICIAL).read_text(encoding="utf-8").splitlines()
    cells = [row.split(",") for row in rows if row[0].isdigit()]
    spot = [",".join([f"{row[0]}000", *row[1:6], f"{row[6]}999", *row[7:]]) for row in cells]
    (tmp_path / "BTCUSDT-1m-2023-04-04.csv").write_text("\n".join(spot) + "\n", encoding="utf-8")
    assert klagg(["audit", "--trades", str(realdata / RECORDED), "--klines", str(tmp_path), *ONE]) == 1
    assert "of the spot market" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["csv", "json", "arrow", "parquet"])
def test_klaggs_own_klines_and_no_open_bar(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    trades = realdata / RECORDED
    klines = newest_of([open_trades(trades)], MINUTE, None, RefusedRows("audit"))
    file, path = encoder(name, FileLayout(Digits.of(klines))), tmp_path / f"klines.{name}"
    path.write_bytes(file.page([*klines[:-1], replace(klines[-1], revision=0, volume="1.000")]) + file.end())
    assert klagg(["audit", "--trades", str(trades), "--klines", str(path), *ONE]) == 0
    counts = summary(capsys.readouterr().out)
    assert (counts["bars"], counts["exact"]) == (7, 7), "the first minute is not complete, the last one was open"


def test_a_capture_that_holds_trades_and_klines(realdata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a minute of four symbols: the minute that closes in it began before, and that is what is said."""
    capture = str(realdata / "um_ws_combined_2021-07-22_sushi_akro_keep_ctk.txt.gz")
    names = ["SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT"]
    words = ["--symbols", *names, "--intervals", "1m"]
    assert klagg(["audit", "--trades", capture, "--klines", capture, *words]) == 0
    out = capsys.readouterr().out
    assert summary(out) == {
        "bars": 4,
        "exact": 0,
        "edge_shift": 0,
        "exchange_gap": 0,
        "local_gap": 4,
        "late": 0,
        "unexplained": 0,
    }
    assert all(f"{name} 1m 2021-07-22 22:25:00 LOCAL_GAP: our bar may lack trades" in out for name in names)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--klines", "FOLDER", "--trades", "x"], "holds no klines of what is asked for"),
        (["--klines", "FILE", "--trades", "x"], "say with --symbols and --intervals"),
        (["--klines", "FOLDER", "--trades", "x", "--from", "2024", "--to", "2023"], "is not before"),
    ],
)
def test_what_cannot_be_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    places = {"FOLDER": str(tmp_path / "folder"), "FILE": str(tmp_path / "file")}
    assert klagg(["audit", *(places.get(word, word) for word in words)]) == 2
    assert said in capsys.readouterr().err

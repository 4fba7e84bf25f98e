"""`klagg replay` and `klagg rollup` against the exchange's own rows and a slow oracle."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import ujson

from gateway.files import Digits, FileLayout, encoder
from klagg.cli.comparison import RefusedRows
from klagg.cli.main import main
from klagg.cli.replay import newest_of
from klagg.intervals import DAY_MS, interval
from klagg.recordings import OfficialKline, open_klines, open_trades
from tests.cli.filekit import write_lines


def summary(capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    found: dict[str, int] = ujson.loads(capsys.readouterr().out.splitlines()[-1])
    return found


@pytest.mark.parametrize("day", ["2023-04-04_05", "2024-07-18_19"])
def test_replay_gives_every_covered_official_row(realdata: Path, capsys: pytest.CaptureFixture[str], day: str) -> None:
    trades, official = (
        realdata / f"um_trade_btcusdt_{day}.txt.gz",
        realdata / f"official_um_klines_1m_btcusdt_{day}.csv",
    )
    assert main(["replay", "--trades", str(trades), "--klines", str(official)]) == 0
    uncounted = {"uncounted": 1} if day == "2023-04-04_05" else {}  # a fill of the insurance fund
    assert summary(capsys) == {"bars": 9, "exact": 7, "different": 0, "partial": 2, **uncounted}


def test_replay_tells_a_row_that_differs(realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trades = realdata / "um_trade_btcusdt_2023-04-04_05.txt.gz"
    text = (realdata / "official_um_klines_1m_btcusdt_2023-04-04_05.csv").read_text(encoding="utf-8")
    wrong = tmp_path / "official.csv"
    wrong.write_text(text.replace("113.208", "113.209"), encoding="utf-8")
    assert main(["replay", "--trades", str(trades), "--klines", str(wrong)]) == 1
    out = capsys.readouterr().out
    assert "different: volume 113.208 instead of 113.209" in out
    assert ujson.loads(out.splitlines()[-1]) == {"bars": 9, "exact": 6, "different": 1, "partial": 2, "uncounted": 1}


OFFICIAL = "official_um_klines_1m_btcusdt_2023-04-04_05.csv"
RECORDED = "um_trade_btcusdt_2023-04-04_05.txt.gz"
CUT_MS = (1_680_652_920_000, 1_680_653_040_000)
"""Minutes 00:02 and 00:03 of the recording."""


def recorded_lines(realdata: Path) -> list[str]:
    return gzip.decompress((realdata / RECORDED).read_bytes()).decode().splitlines()


def trade_ms(line: str) -> int:
    return int(line.split('"T":')[1].split(",", maxsplit=1)[0])


def test_trades_missing_in_the_middle_are_a_gap_and_named(realdata: Path, tmp_path: Path) -> None:
    """The real command, in a process of its own."""
    cut = tmp_path / "BTCUSDT.txt"
    kept = [line for line in recorded_lines(realdata) if not CUT_MS[0] <= trade_ms(line) < CUT_MS[1]]
    cut.write_text("\n".join(kept), encoding="utf-8")
    words = ["--trades", str(cut), "--klines", str(realdata / OFFICIAL)]
    done = subprocess.run(
        [sys.executable, "-m", "klagg", "replay", *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    found = ujson.loads(done.stdout.splitlines()[-1])
    assert found == {"bars": 9, "exact": 5, "different": 0, "partial": 2, "gap": 2, "missing": 2844, "uncounted": 1}
    assert done.stdout.count("lacks ids 3535192249 to 3535195092 (2,844)\n") == 2
    between = "between 2023-04-05 00:01:59.889 and 2023-04-05 00:04:00.100"
    assert f"missing: BTCUSDT trade ids 3535192249 to 3535195092 (2,844), {between}\n" in done.stdout


def test_missing_trades_are_named_without_official_rows_too(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "BTCUSDT.txt"
    kept = [line for at, line in enumerate(recorded_lines(realdata)) if at % 500 or at == 0]
    cut.write_text("\n".join(kept), encoding="utf-8")
    assert main(["replay", "--trades", str(cut)]) == 1
    out = capsys.readouterr().out
    assert out.count("\nmissing: BTCUSDT trade ids ") == 20
    assert "\nand 5 more stretches (5)\n" in out
    found = ujson.loads(out.splitlines()[-1])
    assert (found["partial"], found["gap"], found["missing"]) == (2, 7, 25)


@pytest.mark.parametrize("turned", [False, True])
def test_recordings_come_in_any_order_and_may_overlap(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], turned: bool
) -> None:
    lines = recorded_lines(realdata)
    parts = [lines[:5000], lines[4000:9000], lines[8999:]]
    files = [tmp_path / f"BTCUSDT_{at}.txt" for at in range(3)]
    for file, part in zip(files, parts, strict=True):
        file.write_text("\n".join(part), encoding="utf-8")
    order = [str(each) for each in (reversed(files) if turned else files)]
    assert main(["replay", "--trades", *order, "--klines", str(realdata / OFFICIAL)]) == 0
    assert summary(capsys) == {"bars": 9, "exact": 7, "different": 0, "partial": 2, "uncounted": 1}


@pytest.mark.parametrize("name", ["csv", "json", "arrow", "parquet"])
def test_replay_reads_klaggs_own_klines_and_no_open_bar(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """The recording ends within its last minute: klagg's file of it holds that bar as open, with what it had."""
    recording = str(realdata / RECORDED)
    klines = newest_of([open_trades(recording)], interval("1m"), None, RefusedRows("replay"))
    file, path = encoder(name, FileLayout(Digits.of(klines))), tmp_path / f"klines.{name}"
    opened = replace(klines[-1], revision=0, volume="1.000")
    path.write_bytes(file.page([*klines[:-1], opened]) + file.end())
    assert main(["replay", "--trades", recording, "--klines", str(path)]) == 0
    assert summary(capsys) == {"bars": 9, "exact": 7, "different": 0, "partial": 2, "uncounted": 1}
    file = encoder(name, FileLayout(Digits.of(klines)))
    path.write_bytes(file.page([*klines[:4], replace(klines[4], volume="1.000"), *klines[5:]]) + file.end())
    assert main(["replay", "--trades", recording, "--klines", str(path)]) == 1
    assert summary(capsys)["different"] == 1


def test_replay_says_that_klines_are_on_another_grid(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "official.csv"
    lines = (realdata / OFFICIAL).read_text(encoding="utf-8").splitlines()
    moved = [
        ",".join([str(int(line.split(",")[0]) + 30_000), *line.split(",")[1:6]]) for line in lines if line[0].isdigit()
    ]
    other.write_text("\n".join(["open_time,open,high,low,close,volume", *moved]), encoding="utf-8")
    assert main(["replay", "--trades", str(realdata / RECORDED), "--klines", str(other)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "is on another grid: its 1m bars open 30 seconds later than klagg's" in err


def test_replay_fills_the_quiet_minutes(realdata: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trades = realdata / "spot_rest_aggtrades_xrpeth_2019-10-11_13.json.gz"
    assert main(["replay", "--trades", str(trades), "--json"]) == 0
    lines = [ujson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {"bars": 3560, "exact": 0, "different": 0, "partial": 2}
    bars = lines[:-1]
    assert [int(bar["open_time"]) for bar in bars] == list(
        range(int(bars[0]["open_time"]), int(bars[-1]["open_time"]) + 1, 60_000)
    )
    empty = [bar for bar in bars if bar["trades"] == "0"]
    assert len(empty) > 1_000
    assert all(bar["open"] == bar["high"] == bar["low"] == bar["close"] for bar in empty)


@pytest.mark.parametrize("content", ["", "what?", '{"e":"trade"}\n', "1,2,3\n"])
def test_a_corrupt_recording_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    recording = tmp_path / "BTCUSDT.txt"
    recording.write_text(content, encoding="utf-8")
    assert main(["replay", "--trades", str(recording)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_truncated_recording_is_one_sentence(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.gz"
    cut.write_bytes((realdata / "um_trade_btcusdt_2023-04-04_05.txt.gz").read_bytes()[:50_000])
    assert main(["replay", "--trades", str(cut)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def slow(rows: list[OfficialKline], to: str) -> dict[int, tuple[Decimal | int, ...]]:
    """Longer klines by plain Python."""
    kind = interval(to)
    held: dict[int, list[OfficialKline]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.open_time_ms):
        held[kind.open_time(row.open_time_ms)].append(row)
    return {
        opened: (
            Decimal(part[0].open),
            max(Decimal(row.high) for row in part),
            min(Decimal(row.low) for row in part),
            Decimal(part[-1].close),
            sum(Decimal(row.volume) for row in part),
            sum(Decimal(row.quote_volume or 0) for row in part),
            sum(row.trades or 0 for row in part),
            sum(Decimal(row.taker_buy_volume or 0) for row in part),
            sum(Decimal(row.taker_buy_quote_volume or 0) for row in part),
        )
        for opened, part in held.items()
    }


@pytest.mark.parametrize("name", ["ALGOUSDT-1m-2024-09", "FILUSDT-1m-2023-08"])
@pytest.mark.parametrize("to", ["5m", "30m", "1h", "4h", "1d"])
def test_rollup_equals_a_slow_oracle(realdata: Path, capsys: pytest.CaptureFixture[str], name: str, to: str) -> None:
    path = realdata / "official_um_klines_1m" / f"{name}.csv.gz"
    expected = slow(list(open_klines(path)), to)
    assert main(["rollup", "--klines", str(path), "--to", to, "--json"]) == 0
    bars = [ujson.loads(line) for line in capsys.readouterr().out.splitlines()][:-1]
    names = (
        "open",
        "high",
        "low",
        "close",
        "volume",
        "quote_volume",
        "trades",
        "taker_buy_volume",
        "taker_buy_quote_volume",
    )
    assert {bar["open_time"]: tuple(Decimal(bar[each]) for each in names) for bar in bars} == expected


SPOT = [
    ("ADAUSDT_1h.ohlcv", "4h", "ADAUSDT_4h.ohlcv", ["1679659200000"]),
    ("ADAUSDT_1h.ohlcv", "1d", "ADAUSDT_1d.ohlcv", []),
    ("ADAUSDT_1d.ohlcv", "3d", "ADAUSDT_3d.ohlcv", []),
    ("ADAUSDT_1d.ohlcv", "1w", "ADAUSDT_1w.ohlcv", []),
    ("PAXGUSDT_1h.ohlcv", "4h", "PAXGUSDT_4h.ohlcv", ["1600488000000"]),
    ("PAXGUSDT_1h.ohlcv", "1d", "PAXGUSDT_1d.ohlcv", []),
    ("PAXGUSDT_1d.ohlcv", "3d", "PAXGUSDT_3d.ohlcv", []),
    ("PAXGUSDT_1d.ohlcv", "1w", "PAXGUSDT_1w.ohlcv", []),
    ("BTCUSDT_4h.fullfields", "1d", "BTCUSDT_1d.fullfields", []),
    ("BTCUSDT_1d.fullfields", "1w", "BTCUSDT_1w.fullfields", []),
]
"""Source, interval, the exchange's own rows, and the open times that are known to be wrong at the exchange itself."""


@pytest.mark.parametrize(("source", "to", "official", "wrong"), SPOT)
def test_rollup_equals_the_exchanges_own_rows(
    realdata: Path, capsys: pytest.CaptureFixture[str], source: str, to: str, official: str, wrong: list[str]
) -> None:
    folder = realdata / "official_spot_klines_rollup"
    code = main(
        [
            "rollup",
            "--klines",
            str(folder / f"{source}.csv.gz"),
            "--to",
            to,
            "--json",
            "--compare",
            str(folder / f"{official}.csv.gz"),
        ]
    )
    lines = [ujson.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [line for line in lines[:-1] if line["verdict"] in {"different", "gap"}]
    assert [str(line["open_time"]) for line in found] == wrong
    assert all(bool(line["lacks"]) == (line["verdict"] == "gap") for line in found)
    assert code == bool(wrong)
    assert lines[-1]["exact"] > 250
    assert lines[-1]["partial"] <= 1, "an unfinished last row"


def test_rollup_refuses_what_does_not_fit(realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = realdata / "official_spot_klines_rollup"
    assert main(["rollup", "--klines", str(folder / "ADAUSDT_1d.ohlcv.csv.gz"), "--to", "1h"]) == 2
    assert main(["rollup", "--klines", str(folder / "ADAUSDT_1d.ohlcv.csv.gz"), "--to", "1q"]) == 2
    other = tmp_path / "other.csv"
    lines = gzip.decompress((folder / "ADAUSDT_1d.ohlcv.csv.gz").read_bytes()).decode().splitlines()
    changed = lines[2].rpartition(",")[0] + ",1"
    other.write_text("\n".join([*lines[:5], changed]), encoding="utf-8")
    assert main(["rollup", "--klines", str(other), "--to", "1w"]) == 1
    assert capsys.readouterr().err.count("\n") == 3


def test_replay_tells_trades_that_come_too_late_and_ends_with_1(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backwards = tmp_path / "backwards.txt"
    backwards.write_text("\n".join(recorded_lines(realdata)[::-1]) + "\n", encoding="utf-8")
    assert main(["replay", "--trades", str(backwards), "--klines", str(realdata / OFFICIAL)]) == 1
    assert "come too late" in capsys.readouterr().err


@pytest.mark.parametrize(("days", "id_of"), [(-1, 190), (1, 191)])
def test_a_trade_of_another_day_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], days: int, id_of: int
) -> None:
    """Of it and the trade before it one must have a wrong time; the trades behind it count."""
    head = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
    times = [1_795_896_000_000 + at * 1000 + (at == 90) * days * DAY_MS for at in range(180)]
    rows = [f"{100 + at},10.05,1.000,{at},{at},{time_ms},true" for at, time_ms in enumerate(times)]
    path = tmp_path / "BTCUSDT.csv"
    path.write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    assert main(["replay", "--trades", str(path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert [ujson.loads(line).get("trades") for line in out.splitlines()[:3]] == [
        "60",
        str(59 if days < 0 else 58),
        "60",
    ]
    assert f"refused: BTCUSDT: trade {id_of} has the time 2026-11-" in err
    assert ujson.loads(out.splitlines()[-1])["refused"] == 1


def test_files_that_contradict_each_other_over_a_trade_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of klines: the same trade twice counts once, and where it is not the same, somebody must know."""
    head = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
    rows = [f"{100 + at},10.0{at % 9 + 1},1.000,{at},{at},{1_795_896_000_000 + at * 1000},true" for at in range(180)]
    earlier = write_lines(tmp_path / "a.csv", [head, *rows[:120]])
    same = write_lines(tmp_path / "b.csv", [head, *(each.replace(",1.000,", ",1.0,") for each in rows[90:])])
    assert main(["replay", "--trades", earlier, same, "--symbol", "BTCUSDT"]) == 0, "a number written in two ways"
    capsys.readouterr()
    other = write_lines(tmp_path / "c.csv", [head, *rows[90:100], rows[100].replace(",10.02,", ",11.02,"), *rows[101:]])
    assert main(["replay", "--trades", earlier, other, "--symbol", "BTCUSDT"]) == 1
    said = capsys.readouterr()
    assert (
        "BTCUSDT: trade 200 came before and is contradicted: price 11.02 instead of 10.02; the first counts" in said.err
    )
    assert ujson.loads(said.out.splitlines()[-1])["refused"] == 1

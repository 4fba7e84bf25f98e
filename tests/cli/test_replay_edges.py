"""`klagg replay --edges exchange`: where the exchange counts fills of an aggTrade that straddles a close."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ujson

from klagg.cli.main import main
from klagg.intervals import MINUTE_MS
from tests.cli.edgekit import aggregated, official_file, recorded_fills, rest_file, straddled

DAYS = ("2023-04-04_05", "2024-07-18_19")
SECOND_MS = 1_000


def replayed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The bars and the summary of a comparison."""
    main(["replay", "--symbol", "BTCUSDT", "--json", *words])
    *bars, summary = [ujson.loads(line) for line in capsys.readouterr().out.splitlines()]
    return bars, summary


def pairs_at(closes: set[int], length_ms: int) -> set[int]:
    """The open times of the bars on both sides of these closes."""
    return {close - by for close in closes for by in (0, length_ms)}


@pytest.mark.parametrize("day", DAYS)
def test_recorded_days_are_exact_after_adoption(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], day: str
) -> None:
    """Fills cut into aggTrades, against the exchange's own minutes: without adoption exactly the straddled pairs
    differ, with it nothing does."""
    trades = aggregated(recorded_fills(realdata, day))
    closes = straddled(trades, MINUTE_MS)
    assert len(closes) == (1 if day == DAYS[0] else 0)
    recording = str(rest_file(tmp_path / "aggTrades.json", trades))
    words = ["--trades", recording, "--klines", str(realdata / f"official_um_klines_1m_btcusdt_{day}.csv")]
    bars, summary = replayed(capsys, *words)
    assert {bar["open_time"] for bar in bars if bar["verdict"] == "different"} == pairs_at(closes, MINUTE_MS)
    assert summary["exact"] == 7 - 2 * len(closes)
    bars, summary = replayed(capsys, *words, "--edges", "exchange")
    assert {bar["open_time"] for bar in bars if "adopted" in bar} == pairs_at(closes, MINUTE_MS)
    assert (summary["exact"], summary["different"], summary["partial"]) == (7, 0, 2)
    assert summary.get("adopted", 0) == 2 * len(closes)


@pytest.mark.parametrize("day", DAYS)
def test_every_second_of_a_recorded_day_is_exact_after_adoption(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], day: str
) -> None:
    """More closes, and with them runs of several splits and bars that have nothing but later fills. What is true here
    are the recorded fills by their own times."""
    fills = recorded_fills(realdata, day)
    whole_ms = (fills[0].time // SECOND_MS + 1) * SECOND_MS
    fills = [each for each in fills if each.time >= whole_ms]  # no split begins in the first, partial bar
    trades = aggregated(fills)
    pairs = pairs_at(straddled(trades, SECOND_MS), SECOND_MS)
    official = official_file(tmp_path / "official.csv", fills, SECOND_MS)
    recording = str(rest_file(tmp_path / "aggTrades.json", trades))
    words = ["--trades", recording, "--klines", str(official), "--interval", "1s"]
    bars, summary = replayed(capsys, *words)
    differ = {bar["open_time"] for bar in bars if bar["verdict"] == "different"}
    assert differ == pairs
    assert len(differ) > 60
    bars, after = replayed(capsys, *words, "--edges", "exchange")
    assert (after["different"], after["exact"]) == (0, summary["exact"] + len(differ))
    assert {bar["open_time"] for bar in bars if "adopted" in bar} == differ


def test_one_digit_off_is_not_adopted(realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trades = aggregated(recorded_fills(realdata, DAYS[0]))
    (close,) = straddled(trades, MINUTE_MS)
    recording = str(rest_file(tmp_path / "aggTrades.json", trades))
    lines = (realdata / f"official_um_klines_1m_btcusdt_{DAYS[0]}.csv").read_text(encoding="utf-8").splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(str(close)))
    for column in range(1, 11):
        if column == 6:  # the close time
            continue
        cells = lines[at].split(",")
        cells[column] = cells[column][:-1] + str((int(cells[column][-1]) + 1) % 10)
        wrong = tmp_path / f"{column}.csv"
        wrong.write_text("\n".join([*lines[:at], ",".join(cells), *lines[at + 1 :]]), encoding="utf-8")
        bars, summary = replayed(capsys, "--trades", recording, "--klines", str(wrong), "--edges", "exchange")
        assert "adopted" not in summary, column
        assert summary.get("refused", 0) or close in {bar["open_time"] for bar in bars if bar["verdict"] == "different"}


def test_it_says_which_fills_count_where(realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trades = aggregated(recorded_fills(realdata, DAYS[0]))
    recording = str(rest_file(tmp_path / "aggTrades.json", trades))
    official = str(realdata / f"official_um_klines_1m_btcusdt_{DAYS[0]}.csv")
    words = ["replay", "--symbol", "BTCUSDT", "--trades", recording]
    assert main([*words, "--klines", official, "--edges", "exchange"]) == 0
    out = capsys.readouterr().out
    assert "BTCUSDT 1680652800000 exact: 3 of the 4 fills of aggTrade" in out, out
    assert ", count in the next bar\nBTCUSDT 1680652860000 exact: 3 of the 4 fills of aggTrade" in out
    assert main([*words, "--edges", "exchange"]) == 2
    assert "name their file with --klines" in capsys.readouterr().err

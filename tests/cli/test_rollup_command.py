"""`klagg rollup` as people call it: files in any order, gaps, other grids, sums of floats, klagg's own files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import ujson

from gateway.files import MEDIA, Digits, FileLayout, encoder, fields_of
from klagg.binance.serving.payloads import compact
from klagg.cli.main import main
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS, interval
from klagg.kline import Kline
from klagg.recordings import columnar
from tests.cli.filekit import HEADER, T0, dump_row, write_bars, write_hours, write_lines, write_minutes
from tests.gateway.kit import kline


def summary(out: str) -> dict[str, Any]:
    found: dict[str, Any] = ujson.loads(out.splitlines()[-1])
    return found


@pytest.fixture
def hours(tmp_path: Path) -> tuple[str, str, str]:
    """Two hours of minutes, each in a file, and the exchange's hours, of which the second has a wrong volume."""
    first, second = write_minutes(tmp_path / "1.csv", range(60)), write_minutes(tmp_path / "2.csv", range(60, 120))
    return first, second, write_hours(tmp_path / "hours.csv", ["60.000", "999.000"])


@pytest.mark.parametrize("turned", [False, True])
def test_the_order_of_the_files_does_not_matter(hours: tuple[str, str, str], turned: bool) -> None:
    """The real command, in a process of its own."""
    first, second, official = hours
    files = (second, first) if turned else (first, second)
    command = [sys.executable, "-m", "klagg", "rollup", "--klines", *files, "--to", "1h", "--compare", official]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"klagg rollup: refused: {official}:3: quote volume 603.00 is not low 9.9 to high 10.2 times volume 999.000\n"
    )
    assert f"{T0 + HOUR_MS} different: volume 60 instead of 999.000" in done.stdout
    assert summary(done.stdout) == {"bars": 2, "exact": 1, "different": 1, "partial": 0, "refused": 1}


def test_an_only_hour_with_a_hole_is_partial_and_names_the_minutes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_minutes(tmp_path / "hole.csv", [*range(20), *range(50, 60)])
    assert main(["rollup", "--klines", source, "--to", "1h"]) == 1
    out = capsys.readouterr().out
    assert "partial; lacks 2026-11-28 20:20 to 2026-11-28 20:49 (30)" in out
    assert "missing: 1m klines 2026-11-28 20:20 to 2026-11-28 20:49 (30)" in out
    assert summary(out) == {"bars": 1, "exact": 0, "different": 0, "partial": 1, "missing": 30}


def test_a_bar_in_the_middle_that_lacks_minutes_is_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_minutes(tmp_path / "hole.csv", [*range(30, 70), *range(90, 200)])
    assert main(["rollup", "--klines", source, "--to", "1h", "--json"]) == 1
    *bars, found = [ujson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["coverage"] for each in bars] == ["partial", "gap", "whole", "partial"]
    assert [each["lacks"] for each in bars] == ["", "2026-11-28 21:10 to 2026-11-28 21:29 (20)", "", ""]
    stretch = {"first": T0 + 70 * MINUTE_MS, "last": T0 + 89 * MINUTE_MS, "count": 20, "there": False}
    assert found.pop("missing_ranges") == [{"missing": "klines", "interval": "1m", **stretch}]
    assert found == {"bars": 4, "exact": 0, "different": 0, "partial": 2, "gap": 1, "missing": 20}

    official = write_hours(tmp_path / "hours.csv", ["60.000"] * 4)
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 1
    out = capsys.readouterr().out
    assert f"{T0 + HOUR_MS} gap: volume 40 instead of 60.000" in out
    assert summary(out) == {"bars": 4, "exact": 1, "different": 0, "partial": 2, "gap": 1, "missing": 20}


def test_whole_bars_that_are_missing_in_the_middle_are_gaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_minutes(tmp_path / "hole.csv", [*range(60), *range(180, 240)])
    official = write_hours(tmp_path / "hours.csv", ["60.000"] * 4)
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 1
    out = capsys.readouterr().out
    assert out.count(" gap: there is no such bar; lacks 2026-11-28 2") == 2
    assert summary(out) == {"bars": 4, "exact": 2, "different": 0, "partial": 0, "gap": 2, "missing": 120}


@pytest.mark.parametrize("compared", [False, True])
def test_whole_bars_that_nobody_has_are_gaps_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], compared: bool
) -> None:
    first, last = (write_minutes(tmp_path / f"{at}.csv", range(at, at + 60)) for at in (0, 180))
    official = write_hours(tmp_path / "hours.csv", ["60.000", None, None, "60.000"])
    options = ["--compare", official] if compared else []
    assert main(["rollup", "--klines", last, first, "--to", "1h", *options]) == 1
    out = capsys.readouterr().out
    assert "missing: 1m klines 2026-11-28 21:00 to 2026-11-28 22:59 (120)" in out
    exact = 2 if compared else 0
    assert summary(out) == {"bars": 4, "exact": exact, "different": 0, "partial": 0, "gap": 2, "missing": 120}


def test_only_the_first_and_the_last_bar_may_be_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_minutes(tmp_path / "cut.csv", range(30, 150))
    official = write_hours(tmp_path / "hours.csv", ["60.000"] * 3)
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 0
    assert summary(capsys.readouterr().out) == {"bars": 3, "exact": 1, "different": 0, "partial": 2}


def test_many_gaps_are_told_within_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_minutes(tmp_path / "holes.csv", [0, 1, *range(3, 121, 2), 121])
    assert main(["rollup", "--klines", source, "--to", "1h"]) == 1
    out = capsys.readouterr().out
    assert out.count("missing: 1m klines ") == 20
    assert "and 40 more stretches (40)" in out
    assert "2026-11-28 20:06 (1), and 26 more stretches (26)" in out
    assert summary(out)["missing"] == 60


def test_what_the_official_file_lacks_in_the_middle_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_minutes(tmp_path / "1.csv", range(240))
    official = write_hours(tmp_path / "hours.csv", ["60.000", None, "60.000"])
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 1
    out = capsys.readouterr().out
    assert f"{T0 + HOUR_MS} unmatched\n" in out
    assert summary(out) == {"bars": 4, "exact": 2, "different": 0, "partial": 0, "unmatched": 2}
    # Behind the file's end there is nothing to compare with, and nothing is missing.
    official = write_hours(tmp_path / "hours.csv", ["60.000", "60.000", "60.000"])
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 0


def test_nothing_to_compare_with_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_minutes(tmp_path / "1.csv", range(60))
    official = write_lines(tmp_path / "hours.csv", [HEADER, dump_row(T0 + DAY_MS, HOUR_MS, "60", 60)])
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 1
    assert "nothing was compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("to", "first", "step", "said"),
    [
        ("3d", interval("3d").open_time(T0) - DAY_MS, 3 * DAY_MS, "its 3d bars open 1 day earlier than klagg's"),
        ("1w", interval("1w").open_time(T0) + 3 * DAY_MS, 7 * DAY_MS, "its 1w bars open 3 days later than klagg's"),
        ("1w", interval("1w").open_time(T0) - DAY_MS, 7 * DAY_MS, "its 1w bars open 1 day earlier than klagg's"),
        ("1d", T0 // DAY_MS * DAY_MS - 8 * HOUR_MS, DAY_MS, "its 1d bars open 8 hours earlier than klagg's"),
        ("1d", T0 // DAY_MS * DAY_MS, HOUR_MS, "does not hold 1d klines: its bars are 1 hour long"),
        ("3d", interval("1w").open_time(T0), 7 * DAY_MS, "does not hold 3d klines: its bars are 7 days long"),
    ],
)
@pytest.mark.parametrize("close_times", [True, False])
def test_another_grid_is_one_sentence(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    to: str,
    first: int,
    step: int,
    said: str,
    close_times: bool,
) -> None:
    days = (dump_row((T0 // DAY_MS + at) * DAY_MS, DAY_MS) for at in range(40))
    source = write_lines(tmp_path / "days.csv", [HEADER, *days])
    opens = [first + at * step for at in range(6)]
    official = tmp_path / "official.csv"
    if close_times:
        write_lines(official, [HEADER, *(dump_row(at, step) for at in opens)])
    else:
        write_bars(official, opens)
    assert main(["rollup", "--klines", source, "--to", to, "--compare", str(official)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


@pytest.mark.parametrize(("step", "to"), [("1w", "1M"), ("3d", "1w"), ("8h", "12h"), ("1d", "1h")])
def test_bars_that_do_not_lie_in_one_longer_bar_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], step: str, to: str
) -> None:
    kind = interval(step)
    opens = [kind.open_of(kind.bucket_of(T0) + at) for at in range(8)]
    source = write_bars(tmp_path / "bars.csv", opens)
    assert main(["rollup", "--klines", source, "--to", to]) == 2
    assert f"its {step} klines do not fit into {to} klines" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["{!r}", "{:.17g}", "{:.15g}"])
def test_sums_of_floats_are_compared_to_what_they_can_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    monday = interval("1w").open_time(T0)
    volumes = [Decimal(123_456_789_012 + 7_654_321 * at**3).scaleb(-2 - at % 2 * 6) for at in range(70)]
    source = tmp_path / "days.csv"
    days = [f"{monday + at * DAY_MS},1,2,0.5,1.5,{volume}" for at, volume in enumerate(volumes)]
    write_lines(source, ["open_time,open,high,low,close,volume", *days])

    def weeks(wrong: float) -> str:
        sums = [sum(map(float, volumes[at : at + 7]), 0.0) + wrong * (at == 35) for at in range(0, 70, 7)]
        rows = [f"{monday + at * 7 * DAY_MS},1,2,0.5,1.5,{form.format(each)}" for at, each in enumerate(sums)]
        return write_lines(tmp_path / "weeks.csv", ["open_time,open,high,low,close,volume", *rows])

    command = ["rollup", "--klines", str(source), "--to", "1w", "--compare"]
    assert main([*command, weeks(0.0)]) == 0
    out = capsys.readouterr().out
    found = summary(out)
    assert (found["exact"], found["different"]) == (10, 0)
    assert found["float_sums"] > 3
    assert f"{found['float_sums']} of 10 bars were compared as float sums (volume)" in out
    assert main([*command, weeks(0.02)]) == 1, "a trade is more than any rounding"
    assert summary(capsys.readouterr().out)["different"] == 1


def test_exact_sums_are_compared_to_the_last_digit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exchange's own dumps write all values of a column at one scale."""
    minutes = [dump_row(T0 + at * MINUTE_MS, volume="111111111111.111", quote="1116666666666.66") for at in range(120)]
    source = write_lines(tmp_path / "1.csv", [HEADER, *minutes])
    hours = [
        dump_row(T0 + at * HOUR_MS, HOUR_MS, volume, 60, quote="66999999999999.60")
        for at, volume in enumerate(["6666666666666.660", "6666666666666.661"])
    ]
    official = write_lines(tmp_path / "hours.csv", [HEADER, *hours])
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 1
    out = capsys.readouterr().out
    assert "different: volume 6666666666666.660 instead of 6666666666666.661" in out
    assert summary(out) == {"bars": 2, "exact": 1, "different": 1, "partial": 0}


def test_a_bad_row_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row off the grid, and one that cannot be a kline, among the sixty of an hour."""
    good = [dump_row(T0 + at * MINUTE_MS) for at in range(60)]
    bad = [dump_row(T0 + 1_000), dump_row(T0 + 60 * MINUTE_MS, volume="0.000")]
    source = write_lines(tmp_path / "1.csv", [HEADER, *good, *bad])
    assert main(["rollup", "--klines", source, "--to", "1h"]) == 1
    out, err = capsys.readouterr()
    assert summary(out) == {"bars": 1, "exact": 0, "different": 0, "partial": 0, "refused": 2}
    assert f"{source}:62: open time {T0 + 1_000} is not where a bar of 1m opens" in err
    assert f"{source}:63: there are 3 trades and a volume of" in err


def test_files_that_overlap_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_minutes(tmp_path / "1.csv", range(40)), write_minutes(tmp_path / "2.csv", range(30, 60))
    assert main(["rollup", "--klines", *files, "--to", "1h"]) == 0
    out = capsys.readouterr().out
    assert " volume=60 " in out
    assert summary(out) == {"bars": 1, "exact": 0, "different": 0, "partial": 0}


@pytest.mark.parametrize("turned", [False, True])
def test_files_that_contradict_each_other_prove_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], turned: bool
) -> None:
    """Nobody knows which of two rows is right: the hour is not whole, in whatever order they come."""
    one = write_lines(tmp_path / "1.csv", [HEADER, *(dump_row(T0 + at * MINUTE_MS) for at in range(60))])
    other = write_lines(tmp_path / "2.csv", [HEADER, dump_row(T0 + 7 * MINUTE_MS, volume="2.000", quote="20.10")])
    files = (other, one) if turned else (one, other)
    assert main(["rollup", "--klines", *files, "--to", "1h"]) == 1
    out, err = capsys.readouterr()
    values = ("2.000", "1.000") if not turned else ("1.000", "2.000")
    refused = f"the kline that opens at {T0 + 7 * MINUTE_MS} has volume {values[0]}, and {values[1]} in {files[0]}"
    assert f"{files[1]}:{9 if turned else 2}: {refused}" in err
    assert "not complete: 1m klines 2026-11-28 20:07 (1, not complete)" in out
    assert summary(out) == {"bars": 1, "exact": 0, "different": 0, "partial": 1, "missing": 1, "refused": 1}


def own(minute: int, **other: Any) -> Kline:
    """A final minute as klagg serves it."""
    opened = T0 + minute * MINUTE_MS
    values: dict[str, Any] = {"volume": "1.000", "quote_volume": "64100.10000", "taker_buy_volume": "0.500"}
    values |= {"taker_buy_quote_volume": "32050.00000", **other}
    return replace(kline(open_time=opened), **{"close_time": opened + MINUTE_MS - 1, **values})


def write_own(path: Path, rows: list[Kline]) -> str:
    """klagg's own file in the format that the name ends with; `.answer` is what /api/klines gives."""
    name = path.suffix[1:]
    if name == "answer":
        answer = {"symbol": "BTCUSDT", "interval": "1m", "stale_for_ms": 0, "klines": list(map(fields_of, rows))}
        path.write_text(compact(answer), encoding="utf-8")
    else:
        file = encoder(name, FileLayout(Digits.of(rows)))
        path.write_bytes(file.page(rows[:7]) + file.page(rows[7:]) + file.end())
    return str(path)


FORMATS = [*MEDIA, "answer"]


@pytest.mark.parametrize("name", FORMATS)
def test_klaggs_own_files_and_their_open_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    rows = [*(own(at) for at in range(119)), own(119, revision=0, complete=0, volume="0.300")]
    source = write_own(tmp_path / f"minutes.{name}", rows)
    assert main(["rollup", "--klines", source, "--to", "1h", "--json"]) == 0
    *bars, found = [ujson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["coverage"], Decimal(each["volume"])) for each in bars] == [
        ("whole", Decimal(60)),
        ("partial", Decimal(59)),
    ]
    assert found == {"bars": 2, "exact": 0, "different": 0, "partial": 1}


@pytest.mark.parametrize("name", FORMATS)
def test_klaggs_own_files_to_compare_with(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A bar that is open, and one that klagg calls neither complete nor official, are held against nothing."""
    source = write_own(tmp_path / "minutes.csv", [own(at) for at in range(240)])
    sums: dict[str, Any] = {"volume": "60.000", "quote_volume": "3846006.00000", "taker_buy_volume": "30.000"}
    each = own(0)
    sums |= {"trades": each.trades * 60, "taker_buy_quote_volume": str(Decimal(each.taker_buy_quote_volume) * 60)}
    hourly = [
        own(0, close_time=T0 + HOUR_MS - 1, **sums),
        own(60, close_time=T0 + 2 * HOUR_MS - 1, **{**sums, "volume": "59.995"}, complete=0),
        own(120, close_time=T0 + 3 * HOUR_MS - 1, **{**sums, "volume": "59.995"}),
        own(180, close_time=T0 + 4 * HOUR_MS - 1, **{**sums, "volume": "1.000"}, complete=0, revision=0),
    ]
    path = tmp_path / f"hours.{name}"
    official = write_own(path, hourly)
    if name == "answer":
        path.write_text(path.read_text(encoding="utf-8").replace('"1m"', '"1h"'), encoding="utf-8")
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 1
    found = summary(capsys.readouterr().out)
    assert found == {"bars": 4, "exact": 1, "different": 1, "partial": 0, "unmatched": 2}


@pytest.mark.parametrize("proven", [(), range(150, 180), range(10)])
def test_a_bar_in_the_middle_that_nothing_proves_is_a_gap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], proven: Sequence[int]
) -> None:
    """klagg's own file, whose rows say that they are not complete."""
    source = write_own(tmp_path / "own.csv", [own(at, complete=int(at in proven)) for at in range(180)])
    official = write_hours(tmp_path / "hours.csv", ["59.000"] * 3)
    assert main(["rollup", "--klines", source, "--to", "1h", "--compare", official]) == 1
    assert summary(capsys.readouterr().out)["gap"] == 1


def test_bars_that_are_not_complete_leave_a_gap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doubtful = {0, 70, 71, 239}
    source = write_own(tmp_path / "minutes.csv", [own(at, complete=int(at not in doubtful)) for at in range(240)])
    assert main(["rollup", "--klines", source, "--to", "1h"]) == 1
    out = capsys.readouterr().out
    assert "gap; lacks 2026-11-28 21:10 (1, not complete), 2026-11-28 21:11 (1, not complete)" in out
    assert summary(out) == {"bars": 4, "exact": 0, "different": 0, "partial": 2, "gap": 1, "missing": 2}


def test_rows_of_the_exchange_are_whole_by_the_column_official(tmp_path: Path) -> None:
    """Files of older versions have no such column; there `complete` says it of both."""
    lines = Path(write_own(tmp_path / "old.csv", [own(at, complete=0) for at in range(60)])).read_text().splitlines()
    new = write_lines(tmp_path / "new.csv", [f"{lines[0]},official", *(f"{line},true" for line in lines[1:])])
    assert main(["rollup", "--klines", new, "--to", "1h"]) == 0


@pytest.mark.parametrize("name", ["arrow", "parquet"])
def test_arrow_and_parquet_without_their_library_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = write_own(tmp_path / f"minutes.{name}", [own(0)])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["rollup", "--klines", source, "--to", "1h"]) == 1
    err = capsys.readouterr().err
    assert (err.count("\n"), "pip install klagg[arrow]" in err) == (1, True)


@pytest.mark.parametrize("name", ["arrow", "parquet", "json", "answer"])
def test_a_file_that_is_cut_off_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    source = tmp_path / f"minutes.{name}"
    write_own(source, [own(at) for at in range(30)])
    whole = source.read_bytes()
    for size in (len(whole) // 2, len(whole) - 3, 40, 8):
        source.write_bytes(whole[:size])
        assert main(["rollup", "--klines", str(source), "--to", "1h"]) != 0, size
        assert capsys.readouterr().err.count("\n") == 1, size


def test_columns_of_another_table_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Arrow tables need pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Arrow tables need pyarrow")
    parquet.write_table(arrow.table({"a": [1], "b": [2.5]}), tmp_path / "x.parquet")
    assert main(["rollup", "--klines", str(tmp_path / "x.parquet"), "--to", "1h"]) == 1
    assert "its columns are not those of klines" in capsys.readouterr().err


def test_a_parquet_table_of_floats_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrow = pytest.importorskip("pyarrow", reason="Arrow tables need pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet", reason="Arrow tables need pyarrow")
    monkeypatch.setattr(columnar, "ROWS_MAX", 7)
    times = arrow.array([(T0 + at * MINUTE_MS) * 1_000_000 for at in range(60)], arrow.timestamp("ns", "UTC"))
    columns = {name: [1.5] * 60 for name in ("open", "high", "low", "close", "volume")}
    parquet.write_table(arrow.table({"Open time": times, **columns}), tmp_path / "x.parquet")
    assert main(["rollup", "--klines", str(tmp_path / "x.parquet"), "--to", "1h"]) == 0

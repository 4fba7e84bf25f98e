from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.files import Digits, FileLayout, encoder
from klagg.errors import RecordingError
from klagg.intervals import INTERVALS
from klagg.kline import Kline
from klagg.recordings.klines import open_klines
from tests.gateway.kit import kline
from tests.rows import ROW_CASES, RowCase
from tests.writers.backfillkit import (
    CLOSED_MS,
    END_MS,
    EVER_MS,
    HEADER,
    START_MS,
    csv_text,
    minute,
    official,
    part_of,
    rows,
    write_dump,
)
from writers import backfill_dumps
from writers.backfill_dumps import OtherKind, find_dumps, read_dump
from writers.backfill_parts import BAD_KEPT_MAX, BadRow, OfficialRow, Part


def read(part: Part, closed_ms: int = CLOSED_MS) -> list[OfficialRow]:
    """All rows of a part, whose batches must fit together."""
    found: list[OfficialRow] = []
    until_ms = 0
    for batch in read_dump(part, closed_ms):
        assert batch.until_ms > until_ms
        assert all(until_ms <= int(row[0]) < batch.until_ms for row in batch.rows)
        until_ms = batch.until_ms
        found += batch.rows
    return found


@pytest.mark.parametrize("packed", [".csv", ".csv.gz", ".zip"])
@pytest.mark.parametrize("header", [True, False])
def test_a_dump_however_it_is_packed(tmp_path: Path, packed: str, header: bool) -> None:
    wanted = rows(3000)
    path = write_dump(tmp_path, wanted, f"BTCUSDT-1m-2024-09{packed}", header)
    assert read(part_of(path)) == wanted


def test_lines_may_end_as_on_windows_and_the_last_one_not_at_all(tmp_path: Path) -> None:
    text = csv_text(rows(5)).replace("\n", "\r\n").removesuffix("\r\n")
    assert read(part_of(write_dump(tmp_path, text))) == rows(5)


def test_a_file_of_many_blocks_is_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dump(tmp_path, rows(2000))
    for size in (100, 1000, 33_333):
        monkeypatch.setattr(backfill_dumps, "_READ_BYTES", size)
        assert read(part_of(path)) == rows(2000)


def test_only_what_is_asked_for_and_not_yet_loaded(tmp_path: Path) -> None:
    path = write_dump(tmp_path, rows(100))
    part = part_of(path, minute(10), minute(20))
    assert read(part) == rows(10, first=10)
    (batch,) = read_dump(part, CLOSED_MS)
    assert batch.until_ms == minute(20)
    left = Part(part.symbol, part.interval, part.name, part.from_ms, part.to_ms, path, "", part.span, minute(15))
    assert read(left) == rows(5, first=15)


def test_a_bar_that_may_still_change_is_left(tmp_path: Path) -> None:
    path = write_dump(tmp_path, rows(10))
    *_, last = read_dump(part_of(path), minute(7) + 59_999)
    assert [row[0] for row in last.rows] == [row[0] for row in rows(7)]
    assert last.until_ms == minute(7)


@pytest.mark.parametrize("interval", ["1m", "3m", "1h", "1d", "3d", "1w", "1M"])
def test_every_interval(tmp_path: Path, interval: str) -> None:
    name = {"1M": "1mo"}.get(interval, interval)
    bars = INTERVALS[interval]
    wanted = [row for row in rows(5, interval) if bars.open_time(START_MS) <= int(row[0]) < END_MS]
    assert read(part_of(write_dump(tmp_path, wanted, f"BTCUSDT-{name}-2024-09.csv"))) == wanted


def test_a_dump_without_rows(tmp_path: Path) -> None:
    (batch,) = read_dump(part_of(write_dump(tmp_path, HEADER + "\n")), CLOSED_MS)
    assert (batch.rows, batch.until_ms) == ([], END_MS)


def changed(**cells: str) -> OfficialRow:
    """Row 3 with some cells changed."""
    row = list(official(3))
    for name, value in cells.items():
        row[HEADER.split(",").index(name)] = value
    return tuple(row)  # type: ignore[return-value]


BAD = [
    (changed(open="abc"), "open 'abc' is not a decimal"),
    (changed(volume="NaN"), "volume 'NaN' is not a decimal"),
    (changed(quote_volume="675e-2"), "is not written as the exchange writes decimals"),
    (changed(open_time=str(minute(3) + 1)), "is not where a bar of 1m opens"),
    (changed(close_time=str(minute(5))), "is not that of a bar of 1m"),
    (changed(low="1.45"), "cannot be prices of one bar"),
    (changed(high="1.45"), "cannot be prices of one bar"),
    (changed(open_time=str(minute(2)), close_time=str(minute(3) - 1)), "does not come after"),
    (changed(open_time=str(END_MS), close_time=str(END_MS + 59_999)), "name of the file says"),
    (changed(count="x"), "trade count 'x' is not a whole number"),
    (changed(count="-1"), "trade count -1 cannot be"),
]


def bad_of(part: Part) -> list[BadRow]:
    """The bad rows of a part, as its last batch names them."""
    *_, last = read_dump(part, CLOSED_MS)
    assert last.bad_rows == len(last.bad)
    return list(last.bad)


@pytest.mark.parametrize(("row", "reason"), BAD)
@pytest.mark.parametrize("header", [True, False])
def test_a_bad_line_is_named_and_costs_only_itself(tmp_path: Path, row: OfficialRow, reason: str, header: bool) -> None:
    part = part_of(write_dump(tmp_path, [*rows(3), row, *rows(3, first=4)], header=header))
    assert read(part) == [*rows(3), *rows(3, first=4)]
    (bad,) = bad_of(part)
    assert (bad.line, bad.open_time) == (4 + header, minute(3))
    assert reason in bad.why


@pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("fast", [True, False])
def test_a_row_of_each_kind_is_taken_or_refused(tmp_path: Path, case: RowCase, fast: bool) -> None:
    cells = {"count" if name == "trades" else name: str(value) for name, value in case.row.items()}
    text = csv_text([*rows(3), changed(**cells), *rows(3, first=4)])
    part = part_of(write_dump(tmp_path, text if fast else text.replace("\n", "\n\n")))
    assert [row[0] for row in read(part)] == [official(at)[0] for at in range(7) if at != 3 or case.taken]
    assert len(bad_of(part)) == (not case.taken)


def test_a_row_that_runs_ahead_does_not_cost_those_behind_it(tmp_path: Path) -> None:
    part = part_of(write_dump(tmp_path, [*rows(3), official(900), *rows(3, first=4)]))
    assert read(part) == [*rows(3), *rows(3, first=4)]
    (bad,) = bad_of(part)
    assert (bad.line, bad.why) == (5, f"open time {minute(900)} is followed by {minute(4)}, that of the row after")


def test_bad_rows_of_what_is_not_asked_for_are_not_told(tmp_path: Path) -> None:
    path = write_dump(tmp_path, [*rows(3), changed(open="abc"), *rows(16, first=4)])
    assert [each.open_time for each in bad_of(part_of(path, minute(0), minute(4)))] == [minute(3)]
    assert bad_of(part_of(path, minute(4), minute(9))) == []


def test_what_is_remembered_of_bad_rows_is_bounded(tmp_path: Path) -> None:
    given = [changed(open="abc") if at % 2 else official(at) for at in range(2 * BAD_KEPT_MAX + 20)]
    *_, last = read_dump(part_of(write_dump(tmp_path, [*given, *rows(50, first=len(given))])), CLOSED_MS)
    assert (last.bad_rows, len(last.bad)) == (BAD_KEPT_MAX + 10, BAD_KEPT_MAX)


def test_a_file_whose_rows_are_mostly_bad_is_of_something_else(tmp_path: Path) -> None:
    path = write_dump(tmp_path, [*rows(3), *(changed(low="-0.0003") for _ in range(4))])
    with pytest.raises(RecordingError, match=r"line or item 5: .*; so are 3 others of its 7 rows, so none"):
        read(part_of(path))


def test_rows_before_and_behind_a_bad_line_are_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill_dumps, "_READ_BYTES", 1000)
    path = write_dump(tmp_path, [*rows(100), changed(open="abc"), *rows(3, first=101)])
    assert read(part_of(path)) == [*rows(100), *rows(3, first=101)]
    assert [each.line for each in bad_of(part_of(path))] == [102]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("hello,world\n", "no known format"),
        ("timestamp,open,high,low,close,volume\n1725148800000,1,1,1,1,1\n", "there is no quote volume"),
        ("agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n", "of trades"),
    ],
)
def test_what_is_no_dump_of_klines(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(RecordingError, match=reason):
        read(part_of(write_dump(tmp_path, text)))


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write_dump(tmp_path, rows(20_000), "BTCUSDT-1m-2024-09.csv.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(RecordingError, match="cut off"):
        read(part_of(path))


def test_other_forms_are_read_slowly(tmp_path: Path) -> None:
    """Blank lines, other names of columns in another order, times in µs, more digits than 64 bits hold."""
    text = csv_text(rows(4)).replace("\n", "\n\n")
    assert read(part_of(write_dump(tmp_path, text))) == rows(4)
    head = "close,open,high,low,volume,open_time,quote_asset_volume,number_of_trades,taker_buy_base,taker_buy_quote"
    one = official(0)
    line = ",".join((one[4], *one[1:4], one[5], one[0] + "000", *one[7:]))
    assert read(part_of(write_dump(tmp_path, f"{head}\n{line}\n"))) == [one]
    long = changed(volume="123456789012345678901234.5", quote_volume="185185185185185184518518.5")
    assert read(part_of(write_dump(tmp_path, [*rows(3), long]))) == [*rows(3), long]


def test_the_dumps_of_a_folder(tmp_path: Path) -> None:
    um = "data/futures/um"
    write_dump(tmp_path, rows(1), f"{um}/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-09.zip")
    write_dump(tmp_path, rows(1), f"{um}/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-10-01.zip")
    write_dump(tmp_path, rows(1), f"{um}/monthly/indexPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2024-09.zip")
    write_dump(tmp_path, rows(1), "flat/ETHUSDT-1h-2024-09.csv.gz")
    write_dump(tmp_path, "text", "notes.txt")
    found = find_dumps(tmp_path, START_MS, EVER_MS)
    assert sorted(part.name for part in found.parts) == [
        "BTCUSDT-1m-2024-09.zip",
        "BTCUSDT-1m-2024-10-01.zip",
        "ETHUSDT-1h-2024-09.csv.gz",
    ]
    assert found.other == [f"{um}/monthly/indexPriceKlines/BTCUSDT/1m/BTCUSDT-1m-2024-09.zip"]
    assert [part.name for part in find_dumps(tmp_path, END_MS, EVER_MS).parts] == ["BTCUSDT-1m-2024-10-01.zip"]
    with pytest.raises(RecordingError, match="is no folder"):
        find_dumps(tmp_path / "nowhere", 0, EVER_MS)


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("data/spot", "of the spot market"),
        ("data/spot/daily/klines/BTCUSDT/1m", "of the spot market"),
        ("data/futures/cm/monthly", "of the COIN-M futures"),
        ("data/futures/um/daily/markPriceKlines", "of mark prices"),
        ("data/futures/um/monthly/indexPriceKlines/BTCUSDT/1m", "of index prices"),
        ("data/futures/um/monthly/premiumIndexKlines/BTCUSDT", "of the premium index"),
        ("data/option", "of options"),
    ],
)
def test_a_folder_of_another_market_or_price_is_refused_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, kind: str
) -> None:
    inside = tmp_path / folder
    write_dump(inside, rows(1))
    (tmp_path / "link").symlink_to(inside)
    monkeypatch.chdir(inside)
    (inside / "deeper").mkdir()
    for named in (inside, tmp_path / "link", Path("."), inside / "deeper" / "..", inside / "deeper"):
        with pytest.raises(OtherKind, match=f"its klines are {kind}"):
            find_dumps(named, 0, EVER_MS)
    assert find_dumps(tmp_path, 0, EVER_MS).parts == []


def test_files_are_judged_by_where_they_really_lie_and_by_their_names(tmp_path: Path) -> None:
    spot = write_dump(tmp_path / "data/spot/daily", rows(1))
    ours = write_dump(tmp_path / "data/futures/um/daily/klines", rows(1), "ETHUSDT-1m-2024-09.csv")
    stored = write_dump(tmp_path / "store", rows(1), "0a1b2c")
    mixed = tmp_path / "mixed"
    write_dump(mixed, rows(1), "BTCUSD_PERP-1m-2024-09.csv")
    write_dump(mixed, rows(1), "BTCUSDT_240927-1m-2024-09.csv")
    (mixed / "BTCUSDT-1m-2024-09.csv").symlink_to(spot)
    (mixed / "ETHUSDT-1m-2024-09.csv").symlink_to(ours)
    (mixed / "SOLUSDT-1m-2024-09.csv").symlink_to(stored)
    found = find_dumps(mixed, 0, EVER_MS)
    assert sorted(part.symbol for part in found.parts) == ["BTCUSDT_240927", "ETHUSDT", "SOLUSDT"]
    assert found.other == ["BTCUSDT-1m-2024-09.csv", "BTCUSD_PERP-1m-2024-09.csv"]


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("packed", [f"BTCUSDT-1m-2024-09.{ending}" for ending in ("csv", "zip", "csv.gz")])
def test_a_dump_with_times_in_microseconds_is_of_the_spot_market(tmp_path: Path, packed: str, header: bool) -> None:
    spot = [(f"{row[0]}000", *row[1:6], f"{row[6]}999", *row[7:]) for row in rows(5)]
    with pytest.raises(RecordingError, match="its klines are of the spot market, and none of them is loaded"):
        read(part_of(write_dump(tmp_path, spot, packed, header)))


def test_one_time_in_microseconds_costs_nothing(tmp_path: Path) -> None:
    whole = rows(5)
    written = [*whole[:2], (f"{whole[2][0]}123", *whole[2][1:]), *whole[3:]]
    path = write_dump(tmp_path, written)
    assert [row[0] for row in read(part_of(path))] == [row[0] for row in whole]


def test_real_dumps_are_read_fast_and_to_the_last_digit(realdata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the slow way, and equal to what klagg.recordings reads."""
    monkeypatch.setattr(backfill_dumps, "open_klines", None)
    part = part_of(realdata / "official_um_klines_1m" / "ALGOUSDT-1m-2024-09.csv.gz")
    found = read(part)
    assert len(found) == part.bars == 43_200
    recorded = [
        (
            k.open_time_ms,
            k.open,
            k.high,
            k.low,
            k.close,
            k.volume,
            k.close_time_ms,
            k.quote_volume,
            k.trades,
            k.taker_buy_volume,
            k.taker_buy_quote_volume,
        )
        for k in open_klines(str(part.path))
    ]
    assert found == [tuple(map(str, row)) for row in recorded]


@pytest.mark.parametrize("name", ["csv", "json", "arrow", "parquet"])
def test_klaggs_own_download_and_its_open_bar(tmp_path: Path, name: str) -> None:
    """The last bar was open when the file was made: it is no bar of the exchange's history."""
    day = START_MS // 86_400_000 * 86_400_000

    def own(at: int, **other: Any) -> Kline:
        opened = day + at * 60_000
        return replace(kline(open_time=opened), **{"close_time": opened + 59_999, **other})

    bars = [*(own(at) for at in range(5)), own(5, revision=0, complete=0)]
    layout = FileLayout(Digits.of(bars))
    file, path = encoder(name, layout), tmp_path / f"BTCUSDT-1m-2024-09.{name}"
    path.write_bytes(file.page(bars) + file.end())
    (part,) = find_dumps(tmp_path, 0, EVER_MS).parts
    assert [int(row[0]) for row in read(part, EVER_MS)] == [day + at * 60_000 for at in range(5)]
    file = encoder(name, layout)
    path.write_bytes(file.page([*bars[:2], own(2, complete=0)]) + file.end())
    (part,) = find_dumps(tmp_path, 0, EVER_MS).parts
    assert [int(row[0]) for row in read(part, EVER_MS)] == [day, day + 60_000]
    (bad,) = bad_of(part)
    assert (bad.open_time, "that it is not complete" in bad.why) == (day + 120_000, True)

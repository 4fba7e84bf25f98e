from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from klagg.errors import RecordingError
from klagg.intervals import INTERVALS
from klagg.recordings import OfficialKline, RefusedRow, open_klines


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("official_um_klines_1m_btcusdt_2023-04-04_05.csv", 8),
        ("official_um_klines_1m_btcusdt_2024-07-18_19.csv", 7),
        ("official_um_klines_1m/ALGOUSDT-1m-2024-09.csv.gz", 43_200),
        ("official_um_klines_1m/FILUSDT-1m-2023-08.csv.gz", 44_640),
        ("official_spot_klines_rollup/ADAUSDT_1h.ohlcv.csv.gz", 67_622),
        ("official_spot_klines_rollup/ADAUSDT_1w.ohlcv.csv.gz", 404),
        ("official_spot_klines_rollup/PAXGUSDT_3d.ohlcv.csv.gz", 654),
        ("official_spot_klines_rollup/BTCUSDT_4h.fullfields.csv.gz", 17_970),
        ("official_spot_klines_rollup/BTCUSDT_1d.fullfields.csv.gz", 2_998),
        ("official_spot_klines_rollup/BTCUSDT_1w.fullfields.csv.gz", 428),
    ],
)
def test_official_tables(realdata: Path, name: str, count: int) -> None:
    klines = list(open_klines(realdata / name))
    assert len(klines) == count
    assert all(before.open_time_ms < after.open_time_ms for before, after in itertools.pairwise(klines))


@pytest.mark.parametrize("name", ["1h", "4h", "1d", "3d", "1w"])
def test_the_exchange_s_own_bars_open_where_klagg_s_do(realdata: Path, name: str) -> None:
    """All of Binance's rows but the first: the bar in which a symbol was listed bears the hour of its first trade."""
    folder, kind = realdata / "official_spot_klines_rollup", INTERVALS[name]
    files = sorted(folder.glob(f"*_{name}.*.csv.gz"))
    assert files
    for path in files:
        opens = [kline.open_time_ms for kline in open_klines(path)][1:]
        assert [each for each in opens if kind.open_time(each) != each] == []


def test_all_columns_of_a_dump(realdata: Path) -> None:
    first = next(iter(open_klines(realdata / "official_um_klines_1m_btcusdt_2024-07-18_19.csv")))
    assert first == OfficialKline(
        1_721_347_080_000,
        1_721_347_139_999,
        *("63952.70", "63952.70", "63945.20", "63947.90", "33.530"),
        *("2144203.87590", 367, "6.155", "393601.07330"),
    )


def test_tables_with_iso_times_offsets_and_missing_columns(realdata: Path) -> None:
    folder = realdata / "official_spot_klines_rollup"
    hour = next(iter(open_klines(folder / "ADAUSDT_1h.ohlcv.csv.gz")))
    assert hour == OfficialKline(1_523_937_600_000, None, "0.25551", "0.288", "0.25551", "0.26664", "8143693.23")
    four_hours = list(open_klines(folder / "BTCUSDT_4h.fullfields.csv.gz"))
    assert (four_hours[0].open_time_ms, four_hours[0].close_time_ms) == (1_502_942_400_000, 1_502_956_799_999)
    # From 2025 on that file's close times are in µs; they come out in ms like the rest.
    late = [kline for kline in four_hours if kline.open_time_ms >= 1_735_689_600_000]
    assert late
    assert all(kline.close_time_ms == kline.open_time_ms + 14_399_999 for kline in late)


def test_rest_klines(tmp_path: Path) -> None:
    row = [1_725_148_800_000, "1", "2", "0.5", "1.5", "10", 1_725_148_859_999, "15", 3, "4", "6", "0"]
    path = tmp_path / "klines.json"
    path.write_text(json.dumps([row, row]))
    expected = OfficialKline(1_725_148_800_000, 1_725_148_859_999, "1", "2", "0.5", "1.5", "10", "15", 3, "4", "6")
    assert list(open_klines(path)) == [expected, expected]


def test_a_table_without_header(tmp_path: Path) -> None:
    path = tmp_path / "klines.csv"
    path.write_text("1725148800000,1,2,0.5,1.5,10,1725148859999,15,3,4,6,0\n")
    assert [kline.taker_buy_quote_volume for kline in open_klines(path)] == ["6"]


def test_closed_kline_events_of_a_capture(realdata: Path) -> None:
    path = realdata / "um_ws_combined_2021-07-22_sushi_akro_keep_ctk.txt.gz"
    (kline,) = open_klines(path, "SUSHIUSDT", "1m")
    assert (kline.open_time_ms, kline.trades, kline.quote_volume) == (1_626_992_700_000, 113, "22875.8590")
    with pytest.raises(RecordingError, match="several symbols or intervals"):
        list(open_klines(path))
    with pytest.raises(RecordingError, match="no closed kline events"):
        list(open_klines(path, "BTCUSDT"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1725148860000,1,2,0.5,1.\xff5,10,1725148919999,15,3,4,6,0", "the row is not UTF-8 text"),
        (b"1725148860000,1,2,0.5,1.5,10,1725148919999,15,3,4,6," + b"0" * 200_000, "the row cannot be read (field"),
        (b"1725148860000,1,2,0.5,1.5,10,1725148859999,15,3,4,6,0", "close time 1725148859999 is before open time"),
        (b"1725148860000,1,2,0.5,NaN,10,1725148919999,15,3,4,6,0", "close 'NaN' is not a decimal"),
    ],
)
def test_a_row_that_can_be_no_kline_costs_itself(tmp_path: Path, row: bytes, reason: str) -> None:
    path = tmp_path / "klines.csv"
    good = [f"{opened},1,2,0.5,1.5,10,{opened + 59_999},15,3,4,6,0" for opened in (1725148800000, 1725148920000)]
    path.write_bytes(b"\n".join([good[0].encode(), row, good[1].encode()]))
    refused: list[RefusedRow] = []
    found = [kline.open_time_ms for kline in open_klines(path).usable(refused.append)]
    assert found == [1725148800000, 1725148920000]
    assert [(each.number, each.reason[: len(reason)]) for each in refused] == [(2, reason)]


@pytest.mark.parametrize("item", ["null", "7", '"text"', "{}", "[]", '[1725148860000,"1","2","0.5",NaN,"10"]'])
def test_an_item_of_an_answer_that_is_no_kline_costs_itself(tmp_path: Path, item: str) -> None:
    path = tmp_path / "klines.json"
    good = '[%d,"1","2","0.5","1.5","10",%d,"15",3,"4","6","0"]'
    rows = good % (1725148800000, 1725148859999), item, good % (1725148920000, 1725148979999)
    path.write_text(f"[{','.join(rows)}]")
    refused: list[RefusedRow] = []
    found = [kline.open_time_ms for kline in open_klines(path).usable(refused.append)]
    assert found == [1725148800000, 1725148920000]
    assert [each.number for each in refused] == [2]


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("", 0, "is empty"),
        ("hello", 0, "is no known format of klines"),
        ("10,1.50,2.000,100,101,1721347022956,true\n", 0, "is a recording of trades"),
        ("timestamp,open,high,low,close,volume\nsoon,1,1,1,1,1\n", 2, "open time 'soon' is not a time"),
        ("timestamp,open,high,low,close,volume\n2018-04-17,1,1,1,x,1\n", 2, "close 'x' is not a decimal"),
        ("timestamp,open,high,low,close,volume\n2018-04-17,1,1\n", 2, "the row has 3 columns"),
        ('[[1725148800000,"1","2","0.5","1.5","10",1725148859999,"15",3,"4","6","0"],{}]', 2, "is no kline"),
        ('[[1725148800000,"1","2","0.5","1.5","10",1725148859999,"15",3,"4","6","0"]', 0, "is cut off"),
    ],
)
def test_a_corrupt_file_says_where_and_why(tmp_path: Path, text: str, where: int, reason: str) -> None:
    path = tmp_path / "klines"
    path.write_text(text)
    with pytest.raises(RecordingError) as caught:
        list(open_klines(path))
    assert reason in caught.value.reason
    assert caught.value.where == where

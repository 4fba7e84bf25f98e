from __future__ import annotations

import gzip
import itertools
import json
import zipfile
from pathlib import Path

import pytest

from klagg.errors import RecordingError
from klagg.recordings import open_trades
from klagg.recordings.model import RefusedRow, Trade

HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
ROWS = "10,1.50,2.000,100,101,1721347022956,true\n11,1.60,1.000,102,102,1721347022957123,False\n"

# file, ids, trades, first and last id, gaps between trade ids: as README.txt there tells.
RECORDED = [
    ("um_trade_btcusdt_2023-04-04_05.txt.gz", "trade", 12_935, 3_535_186_032, 3_535_198_966, 0),
    ("um_trade_btcusdt_2024-07-18_19.txt.gz", "trade", 10_701, 5_182_005_737, 5_182_016_437, 0),
    ("um_ws_btcusdt_2024-07-18_allstreams.txt.gz", "trade", 974, 5_182_005_737, 5_182_006_710, 0),
    ("um_ws_aggtrade_btcusdt_2026-10-06_sample3.jsonl", "agg", 3, 3_476_323_596, 3_476_323_598, 0),
    ("um_rest_aggtrades_clusdt_2026-05-01.json.gz", "agg", 1_000, 6_133_129, 6_134_128, 2),
    ("spot_rest_aggtrades_xrpeth_2019-10-11_13.json.gz", "agg", 12_477, 13_519_807, 13_532_283, 0),
]


@pytest.mark.parametrize(("name", "ids", "count", "first", "last", "gaps"), RECORDED)
def test_recorded_files(realdata: Path, name: str, ids: str, count: int, first: int, last: int, gaps: int) -> None:
    recording = open_trades(realdata / name)
    trades = list(recording)
    assert (recording.ids, len(trades), trades[0].id, trades[-1].id) == (ids, count, first, last)
    pairs = list(itertools.pairwise(trades))
    assert all(after.id == before.id + 1 for before, after in pairs)
    assert sum(after.first != before.last + 1 for before, after in pairs) == gaps
    assert all(trade.time_ms <= (trade.event_ms or trade.time_ms) for trade in trades)
    assert list(recording) == trades


def test_the_insurance_fund_fill_does_not_count(realdata: Path) -> None:
    left_out = [t for t in open_trades(realdata / "um_trade_btcusdt_2023-04-04_05.txt.gz") if not t.counts]
    assert [(trade.id, trade.execution) for trade in left_out] == [(3_535_191_080, "INSURANCE_FUND")]


def test_a_capture_of_four_symbols(realdata: Path) -> None:
    trades = list(open_trades(realdata / "um_ws_combined_2021-07-22_sushi_akro_keep_ctk.txt.gz"))
    assert len(trades) == 91
    assert {trade.symbol for trade in trades} == {"SUSHIUSDT", "AKROUSDT", "KEEPUSDT", "CTKUSDT"}
    assert trades[0].recv_ms == 1_626_992_742_289
    for symbol in {trade.symbol for trade in trades}:
        ids = [trade.id for trade in trades if trade.symbol == symbol]
        assert ids == list(range(ids[0], ids[0] + len(ids)))


def test_symbols_of_files_that_name_none(realdata: Path, tmp_path: Path) -> None:
    assert next(iter(open_trades(realdata / "um_rest_aggtrades_clusdt_2026-05-01.json.gz"))).symbol == "CLUSDT"
    assert next(iter(open_trades(realdata / "spot_rest_aggtrades_xrpeth_2019-10-11_13.json.gz"))).symbol == "XRPETH"
    path = tmp_path / "trades.csv"
    path.write_text(ROWS)
    assert next(iter(open_trades(path, "AUSDT"))).symbol == "AUSDT"
    with pytest.raises(RecordingError, match="give the symbol"):
        next(iter(open_trades(path)))


@pytest.mark.parametrize("text", [HEADER + ROWS, ROWS, ROWS.replace("\n", "\r\n"), HEADER + ROWS + "\n"])
def test_dumps_of_aggregate_trades(tmp_path: Path, text: str) -> None:
    plain, packed, archive = (tmp_path / f"BTCUSDT-{name}" for name in ("a.csv", "b.csv.gz", "c.zip"))
    plain.write_text(text, newline="")
    packed.write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("BTCUSDT.csv", text)
    expected = [
        Trade("BTCUSDT", 10, "1.50", "2.000", 100, 101, 1_721_347_022_956, maker=True),
        Trade("BTCUSDT", 11, "1.60", "1.000", 102, 102, 1_721_347_022_957, maker=False),
    ]
    for path in (plain, packed, archive):
        recording = open_trades(path)
        assert recording.ids == "agg"
        assert list(recording) == expected


def test_dumps_of_fills(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT-trades.csv"
    path.write_text("id,price,qty,quote_qty,time,is_buyer_maker\n5,1.50,2,3.00,1721347022956,true\n")
    recording = open_trades(path)
    assert recording.ids == "trade"
    assert list(recording) == [Trade("BTCUSDT", 5, "1.50", "2", 5, 5, 1_721_347_022_956, maker=True)]


def test_rest_trades(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT.json"
    row = {"id": 5, "price": "1.5", "qty": "2", "quoteQty": "3", "time": 1_721_347_022_956, "isBuyerMaker": False}
    path.write_text(json.dumps([row]))
    assert [(trade.id, trade.maker) for trade in open_trades(path)] == [(5, False)]


def event(name: str, **fields: object) -> str:
    base = {"e": name, "E": 1_700_000_000_100, "s": "AUSDT", "p": "1", "q": "1", "T": 1_700_000_000_000, "m": True}
    return json.dumps(base | fields)


def test_of_fills_and_aggregates_a_capture_is_read_by_its_fills(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_text("\n".join([event("aggTrade", a=1, f=8, l=9), event("trade", t=8), event("trade", t=9, X="RPI")]))
    assert [(trade.id, trade.execution) for trade in open_trades(path)] == [(8, None), (9, "RPI")]
    assert [trade.id for trade in open_trades(path, ids="agg")] == [1]


def test_what_else_a_capture_may_hold_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    lines = ["wss://x/stream <-> 1", '{"result":null,"id":1}', "", '[{"e":"24hrMiniTicker"}]', event("markPriceUpdate")]
    path.write_text("\n".join([*lines, f"1700000000 {event('trade', t=8)}"]))
    assert [(trade.id, trade.recv_ms) for trade in open_trades(path)] == [(8, 1_700_000_000_000)]


def test_half_a_line_costs_itself_and_other_markets_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    whole, cut = event("trade", t=8), event("trade", t=9)[:-7]
    path.write_text("\n".join([cut, whole, event("trade", t=700, st=2), event("trade", t=10, st=1), cut]))
    refused: list[RefusedRow] = []
    assert [trade.id for trade in open_trades(path).usable(refused.append)] == [8, 10]
    assert [(each.number, each.reason) for each in refused] == [(1, "is not JSON"), (5, "is not JSON")]


AGG_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
AGG_ROW = "{},1.60,2.5,{},{},1700000000000,true"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"11,1.6\xff,2.5,21,21,1700000000000,true", "the row is not UTF-8 text"),
        (b"11,1.60," + b"2" * 200_000 + b",21,21,1700000000000,true", "the row cannot be read (field larger than"),
        (b'11,"1.60,2.5,21,21,1700000000000,true', "the row has 2 columns where 7 are expected"),
    ],
)
def test_a_row_that_no_table_can_have_costs_itself(tmp_path: Path, row: bytes, reason: str) -> None:
    path = tmp_path / "BTCUSDT.csv"
    good = [AGG_ROW.format(each, each + 10, each + 10).encode() for each in (10, 12)]
    path.write_bytes(b"\n".join([AGG_HEADER.encode(), good[0], row, good[1]]))
    refused: list[RefusedRow] = []
    assert [trade.id for trade in open_trades(path).usable(refused.append)] == [10, 12]
    (found,) = refused
    assert (found.number, found.reason[: len(reason)]) == (3, reason)


def test_a_line_of_a_capture_that_is_no_text_costs_itself(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    bad = event("trade", t=9).encode().replace(b'"t"', b'"\xfft"')
    surrogate = event("trade", t=10, s="\udcffUSDT").encode()
    path.write_bytes(b"\n".join([event("trade", t=8).encode(), bad, surrogate, event("trade", t=11).encode()]))
    refused: list[RefusedRow] = []
    assert [trade.id for trade in open_trades(path).usable(refused.append)] == [8, 11]
    reasons = ["is not UTF-8 text", "symbol '\\udcffUSDT' is no symbol"]
    assert [(each.number, each.reason) for each in refused] == list(zip((2, 3), reasons, strict=True))


@pytest.mark.parametrize("item", ["null", "7", '"text"', "[]", '{"a":NaN}'])
def test_an_item_of_an_answer_that_is_no_trade_costs_itself(tmp_path: Path, item: str) -> None:
    path = tmp_path / "BTCUSDT.json"
    good = '{"a":%d,"p":"1","q":"1","f":1,"l":1,"T":1700000000000,"m":true}'
    path.write_text(f"[{good % 1},{item},{good % 3}]")
    refused: list[RefusedRow] = []
    assert [trade.id for trade in open_trades(path).usable(refused.append)] == [1, 3]
    assert [each.number for each in refused] == [2]


GOOD = event("trade", t=8)
BROKEN = [
    ("", 0, "is empty"),
    ("\n\n", 0, "is empty"),
    ("hello\n", 0, "is no known format of recorded trades"),
    ("[]", 0, "is no known format of recorded trades"),
    ("timestamp,open,high,low,close,volume\n", 0, "is a recording of klines"),
    (event("markPriceUpdate"), 0, "holds neither aggTrade nor trade events"),
    (f"{GOOD}\n{GOOD[:-5]}", 2, "is not JSON"),
    (f"{GOOD}\nhello", 2, "is not JSON"),
    (f'{GOOD}\n"text"', 2, "is no WebSocket message"),
    (f"{GOOD}\n{event('trade')}", 2, "the field 't' is missing"),
    (f"{GOOD}\n{event('trade', t=9, p='abc')}", 2, "price 'abc' is not a decimal"),
    (f"{GOOD}\n{event('trade', t=9, q='-1')}", 2, "quantity '-1' is negative"),
    (f"{GOOD}\n{event('trade', t=9, s=None)}", 2, "the field 's' is missing"),
    (f"{GOOD}\n{event('trade', t=9, E='soon')}", 2, "event time 'soon' is not a whole number"),
    (HEADER + ROWS + "12,1.5", 4, "the row has 2 columns where 7 are expected"),
    (HEADER + ROWS.replace("1.60", "1.6O"), 3, "price '1.6O' is not a decimal"),
    ('[{"a":1,"p":"1","q":"1"}]', 1, "the field 'f' is missing"),
    ('[{"a":1,"p":"1","q":"1","f":1,"l":1,"T":1700000000000,"m":true},7]', 2, "is no trade"),
    ('[{"a":1,"p":"1","q":"1","f":1,"l":1,"T":1700000000000,"m":true},[]]', 2, "is no trade"),
    ('[{"a":1,"p":"1","q":"1","f":1,"l":1,"T":1700000000000,"m":true}', 0, "is cut off"),
]


@pytest.mark.parametrize(("text", "where", "reason"), BROKEN)
def test_a_corrupt_recording_says_where_and_why(tmp_path: Path, text: str, where: int, reason: str) -> None:
    path = tmp_path / "BTCUSDT.recording"
    path.write_text(text)
    with pytest.raises(RecordingError) as caught:
        list(open_trades(path))
    assert reason in caught.value.reason
    assert (caught.value.where, caught.value.path) == (where, str(path))


def test_a_truncated_gzip(realdata: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes((realdata / "um_trade_btcusdt_2024-07-18_19.txt.gz").read_bytes()[:50_000])
    with pytest.raises(RecordingError, match="cut off before its end"):
        list(open_trades(path))


def test_ids_that_a_file_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "BTCUSDT.csv"
    path.write_text(ROWS)
    with pytest.raises(RecordingError, match="no 'trade' ids"):
        open_trades(path, ids="trade")

"""Klines as files; what is read back from them is what went in."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest

from gateway import files
from gateway.endpoints import Decimals
from gateway.files import MEDIA, Digits, DigitsChanged, FileLayout, Places, decimal_types, encoder, fields_of
from gateway.history import kline_of
from gateway.openapi import KLINE_FIELDS
from klagg.intervals import INTERVALS
from klagg.kline import Kline
from klagg.recordings import open_klines
from tests.gateway.kit import MINUTE_MS, NOW_MS, bar, kline

ROWS = [kline(open_time=NOW_MS + number * MINUTE_MS, trades=number + 1) for number in range(1, 6)]
LIVE = kline_of(bar(open_time=NOW_MS + 6 * MINUTE_MS, first_trade_id=-1, last_trade_id=-1), "BTCUSDT", INTERVALS["1m"])


def written(name: str, *pages: list[Kline], layout: FileLayout | None = None) -> bytes:
    file = encoder(name, layout or FileLayout(Digits.of(each for page in pages for each in page)))
    return b"".join(map(file.page, pages)) + file.end()


def test_fields_have_their_order_and_what_is_not_known_is_none() -> None:
    stored, live = fields_of(ROWS[0]), fields_of(LIVE)
    assert tuple(stored) == tuple(live) == KLINE_FIELDS
    assert (stored["closed"], stored["complete"], stored["official"], stored["source"], stored["edge"]) == (
        True,
        True,
        False,
        "own",
        "",
    )
    assert (live["closed"], live["complete"], live["official"], live["revision"]) == (False, False, False, 0)
    assert fields_of(kline(complete=0, official=1, source="exchange"))["official"] is True
    for name in ("source", "edge", "epoch", "first_agg_id", "last_agg_id", "first_trade_id", "last_trade_id"):
        assert live[name] is None, name


def test_csv_has_one_header_and_a_line_a_bar() -> None:
    found = list(csv.DictReader(io.StringIO(written("csv", ROWS[:2], ROWS[2:], [LIVE]).decode())))
    assert [row["trades"] for row in found] == ["2", "3", "4", "5", "6", "321"]
    assert (found[0]["open"], found[0]["closed"], found[-1]["source"], found[-1]["closed"]) == (
        "64100.10",
        "true",
        "",
        "false",
    )
    assert written("csv").decode().strip() == ",".join(KLINE_FIELDS)


def test_json_is_one_array() -> None:
    assert json.loads(written("json", ROWS[:2], [], ROWS[2:])) == [fields_of(each) for each in ROWS]
    assert json.loads(written("json")) == json.loads(written("json", [])) == []


def test_arrow_and_parquet_are_offered_with_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert files.formats() == ("csv", "json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert files.formats() == tuple(MEDIA)


@pytest.mark.parametrize("name", ["arrow", "parquet"])
def test_arrow_and_parquet_hold_the_same_rows(name: str) -> None:
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is optional and not installed here")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional and not installed here")
    data = written(name, ROWS[:2], ROWS[2:], [LIVE])
    table = arrow.ipc.open_stream(data).read_all() if name == "arrow" else parquet.read_table(io.BytesIO(data))
    found = table.to_pylist()
    assert [row["trades"] for row in found] == [2, 3, 4, 5, 6, 321]
    assert found[0]["open"] == Decimal("64100.10")
    assert int(found[1]["open_time"].timestamp() * 1000) == NOW_MS + 2 * MINUTE_MS
    assert (found[0]["source"], found[-1]["source"], found[-1]["epoch"]) == ("own", None, None)
    assert table.column_names == list(KLINE_FIELDS)
    empty = written(name)
    again = arrow.ipc.open_stream(empty).read_all() if name == "arrow" else parquet.read_table(io.BytesIO(empty))
    assert again.num_rows == 0


def test_the_types_of_decimals_leave_room_for_a_product_that_every_engine_gets_right() -> None:
    """Prices with two decimals and quantities with three: the product has five, and polars keeps the larger scale."""
    digits = Digits.of(ROWS)
    assert digits == Digits(Places(5, 2), Places(2, 3), Places(6, 5))
    kinds = decimal_types(digits)
    assert (kinds["close"], kinds["volume"], kinds["taker_buy_quote_volume"]) == ((18, 2), (19, 5), (18, 5))
    cheap = decimal_types(Digits(Places(1, 7), Places(13, 0), Places(9, 7)))
    assert (cheap["high"], cheap["volume"], cheap["quote_volume"]) == ((18, 7), (19, 0), (18, 7))
    huge = decimal_types(Digits(Places(12, 8), Places(17, 3), Places(15, 8)))
    assert (huge["open"], huge["taker_buy_volume"], huge["quote_volume"]) == ((38, 8), (38, 3), (38, 8))


@pytest.mark.parametrize("name", ["arrow", "parquet"])
def test_a_bar_with_more_digits_than_the_file_has_places_for_is_refused(name: str) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is optional and not installed here")
    with pytest.raises(DigitsChanged):
        written(name, ROWS, [kline(close="64100.125")], layout=FileLayout(Digits.of(ROWS)))


def test_decimals_are_texts_or_floats_on_wish() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional and not installed here")

    def column(decimals: Decimals) -> tuple[str, object]:
        table = parquet.read_table(io.BytesIO(written("parquet", ROWS, layout=FileLayout(decimals=decimals))))
        return str(table.schema.field("close").type), table["close"][0].as_py()

    assert column(Decimals.TEXT) == ("string", "64111.10")
    assert column(Decimals.FLOAT) == ("double", 64111.1)
    rows = json.loads(written("json", ROWS, layout=FileLayout(decimals=Decimals.FLOAT)))
    assert (rows[0]["close"], rows[0]["quote_volume"]) == (64111.1, 791234.5678)
    assert written("csv", ROWS, layout=FileLayout(decimals=Decimals.FLOAT)) == written("csv", ROWS)


def test_a_file_of_many_symbols_begins_with_the_symbol() -> None:
    pages = [kline("BTCUSDT")], [kline("ETHUSDT")]
    layout = FileLayout(Digits.of([*pages[0], *pages[1]]), with_symbol=True)
    found = list(csv.DictReader(io.StringIO(written("csv", *pages, layout=layout).decode())))
    assert [row["symbol"] for row in found] == ["BTCUSDT", "ETHUSDT"]
    assert next(iter(found[0])) == "symbol"
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional and not installed here")
    table = parquet.read_table(io.BytesIO(written("parquet", *pages, layout=layout)))
    assert table["symbol"].to_pylist() == ["BTCUSDT", "ETHUSDT"]


def test_ids_that_are_not_known_are_null_and_never_minus_one() -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is optional and not installed here")
    table = parquet.read_table(io.BytesIO(written("parquet", ROWS[:1], [LIVE])))
    for name in ("first_agg_id", "last_agg_id", "first_trade_id", "last_trade_id"):
        assert str(table.schema.field(name).type) == "int64", name
        assert table[name].to_pylist()[-1] is None, name


def test_every_format_has_its_type() -> None:
    assert set(MEDIA) == {"csv", "json", "arrow", "parquet"}


def test_a_file_with_and_one_without_official_are_read_alike(tmp_path: Path) -> None:
    """Files that an older klagg wrote lack the column, and call complete what is official now."""
    told = kline(open_time=NOW_MS + 6 * MINUTE_MS, complete=0, official=1, source="exchange")
    lines = written("csv", [*ROWS, told]).decode().splitlines()
    at = lines[0].split(",").index("official")
    new, old = tmp_path / "new.csv", tmp_path / "old.csv"
    new.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    cells = [line.split(",") for line in lines]
    cells[-1][cells[0].index("complete")] = cells[-1][at]
    old.write_text("".join(f"{','.join([*row[:at], *row[at + 1 :]])}\n" for row in cells), encoding="utf-8")
    found = [list(open_klines(str(path), "BTCUSDT", "1m")) for path in (new, old)]
    assert found[0] == found[1]
    assert len(found[0]) == 6

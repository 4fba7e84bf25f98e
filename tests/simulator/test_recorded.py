from __future__ import annotations

import csv
import json
from decimal import Decimal
from pathlib import Path

import pytest

from klagg.errors import RecordingError
from klagg.recordings import open_klines, open_trades
from klagg.simulator import RecordedMarket
from klagg.simulator.history import klines
from klagg.simulator.market import MarketTrade

LATE = 2**60


@pytest.mark.parametrize("days", ["2023-04-04_05", "2024-07-18_19"])
def test_klines_from_fills_equal_the_official_rows(realdata: Path, days: str) -> None:
    market = RecordedMarket.load([realdata / f"um_trade_btcusdt_{days}.txt.gz"])
    first_ms, last_ms = market.span_ms()
    compared = 0
    for official in open_klines(realdata / f"official_um_klines_1m_btcusdt_{days}.csv"):
        assert official.close_time_ms is not None
        if official.open_time_ms < first_ms or official.close_time_ms > last_ms:
            continue
        bar = market.bar("BTCUSDT", official.open_time_ms, official.close_time_ms, LATE)
        assert bar is not None
        assert [Decimal(text) for text in (bar.open, bar.high, bar.low, bar.close)] == [
            Decimal(text) for text in (official.open, official.high, official.low, official.close)
        ]
        assert bar.volume == Decimal(official.volume)
        assert bar.quote_volume == Decimal(official.quote_volume or "")
        assert bar.trades == official.trades
        assert bar.taker_buy_volume == Decimal(official.taker_buy_volume or "")
        assert bar.taker_buy_quote_volume == Decimal(official.taker_buy_quote_volume or "")
        compared += 1
    assert compared == 7


@pytest.fixture(scope="module")
def btc(realdata: Path) -> RecordedMarket:
    return RecordedMarket.load([realdata / "um_trade_btcusdt_2023-04-04_05.txt.gz"])


def test_fills_are_the_recorded_lines(btc: RecordedMarket, realdata: Path) -> None:
    first_ms, last_ms = btc.span_ms()
    fills = btc.fills(first_ms - 1, last_ms)
    recorded = list(open_trades(realdata / "um_trade_btcusdt_2023-04-04_05.txt.gz"))
    assert [(f.id, f.price, f.qty, f.time_ms, f.event_ms, f.maker, f.execution) for f in fills] == [
        (t.id, t.price, t.qty, t.time_ms, t.event_ms, t.maker, t.execution) for t in recorded
    ]


def test_each_counting_fill_is_an_aggregate_trade(btc: RecordedMarket) -> None:
    first_ms, last_ms = btc.span_ms()
    aggregates = btc.aggregates(first_ms - 1, last_ms)
    assert [aggregate.id for aggregate in aggregates] == list(range(1, 12_935))
    assert all(aggregate.first == aggregate.last for aggregate in aggregates)
    assert 3_535_191_080 not in {aggregate.first for aggregate in aggregates}
    assert btc.has_fills("BTCUSDT")


def test_any_cut_of_time_gives_every_trade_once(btc: RecordedMarket) -> None:
    first_ms, last_ms = btc.span_ms()
    pieces: list[MarketTrade] = []
    for after_ms in range(first_ms - 1, last_ms, 7_001):
        pieces += btc.aggregates(after_ms, min(after_ms + 7_001, last_ms))
    assert pieces == btc.aggregates(first_ms - 1, last_ms)


def test_nothing_is_told_before_its_time(btc: RecordedMarket) -> None:
    first_ms, last_ms = btc.span_ms()
    now_ms = first_ms + 100_000
    told = btc.aggregates_between("BTCUSDT", 0, LATE, 10**6, now_ms, newest=False)
    assert told == btc.aggregates(first_ms - 1, now_ms)
    assert btc.aggregates_from("BTCUSDT", told[-1].id, 5, now_ms) == told[-1:]
    open_ms = now_ms // 60_000 * 60_000
    bar, whole = (btc.bar("BTCUSDT", open_ms, open_ms + 59_999, now) for now in (now_ms, last_ms))
    assert bar is not None
    assert whole is not None
    assert bar.trades == sum(trade.time_ms >= open_ms for trade in told)
    assert bar.trades < whole.trades


def test_history_by_id_and_by_time(btc: RecordedMarket) -> None:
    first_ms, last_ms = btc.span_ms()
    every = btc.aggregates(first_ms - 1, last_ms)
    assert btc.aggregates_from("BTCUSDT", 500, 100, LATE) == every[499:599]
    start_ms, end_ms = every[100].time_ms + 1, every[900].time_ms
    inside = [trade for trade in every if start_ms <= trade.time_ms <= end_ms]
    assert btc.aggregates_between("BTCUSDT", start_ms, end_ms, 50, LATE, newest=False) == inside[:50]
    assert btc.aggregates_between("BTCUSDT", start_ms, end_ms, 50, LATE, newest=True) == inside[-50:]
    assert len(btc.fills_between("BTCUSDT", 0, LATE, LATE)) == 12_935


def test_rest_klines_of_a_recording(btc: RecordedMarket) -> None:
    first_ms, last_ms = btc.span_ms()
    every = klines(btc, "BTCUSDT", "1m", None, None, 500, last_ms)
    assert [bar.open_ms for bar in every] == list(range(first_ms // 60_000 * 60_000, last_ms, 60_000))
    assert klines(btc, "BTCUSDT", "1m", None, None, 3, last_ms) == every[-3:]
    assert klines(btc, "BTCUSDT", "1m", every[2].open_ms - 5, None, 2, last_ms) == every[2:4]
    assert klines(btc, "BTCUSDT", "1m", every[2].open_ms + 5, None, 2, last_ms) == every[3:5]
    assert klines(btc, "BTCUSDT", "1m", 0, every[1].open_ms, 500, last_ms) == every[:2]
    (day,) = klines(btc, "BTCUSDT", "1d", last_ms // 86_400_000 * 86_400_000, None, 500, last_ms)
    assert day.trades == sum(bar.trades for bar in every if bar.open_ms >= day.open_ms)
    # After the last trade the clock runs on, and minutes without trades carry its price.
    after = klines(btc, "BTCUSDT", "1m", None, None, 2, last_ms + 180_000)
    assert [(bar.trades, bar.open) for bar in after] == [(0, every[-1].close)] * 2


def test_aggregate_recordings_have_no_fills(realdata: Path) -> None:
    market = RecordedMarket.load([realdata / "um_ws_combined_2021-07-22_sushi_akro_keep_ctk.txt.gz"])
    first_ms, last_ms = market.span_ms()
    assert len(market.aggregates(first_ms - 1, last_ms)) == 91
    assert market.fills(first_ms - 1, last_ms) == []
    assert market.fills_between("CTKUSDT", 0, LATE, LATE) == []
    listings = {listing.symbol: listing for listing in market.listings(first_ms)}
    ctk = listings["CTKUSDT"]
    assert (ctk.price_precision, ctk.quantity_precision, ctk.tick_size, ctk.quote) == (5, 0, "0.00100", "USDT")


def test_several_files_are_merged_and_repeated_rows_taken_once(realdata: Path) -> None:
    whole = realdata / "um_trade_btcusdt_2024-07-18_19.txt.gz"
    part = realdata / "um_ws_btcusdt_2024-07-18_allstreams.txt.gz"
    cl = realdata / "um_rest_aggtrades_clusdt_2026-05-01.json.gz"
    market = RecordedMarket.load([part, whole, cl])
    assert market.describe()["trades"] == 10_701 + 1_000
    assert [market.has_fills(symbol) for symbol in ("BTCUSDT", "CLUSDT")] == [True, False]


def capture(path: Path, *events: dict[str, object]) -> Path:
    base = {"E": 1_700_000_000_100, "s": "AUSDT", "p": "1", "q": "1", "T": 1_700_000_000_000, "m": True}
    path.write_text("\n".join(json.dumps(base | event) for event in events))
    return path


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    fills = capture(tmp_path / "fills", {"e": "trade", "t": 1})
    other = capture(tmp_path / "other", {"e": "trade", "t": 1, "p": "2"})
    aggregates = capture(tmp_path / "aggregates", {"e": "aggTrade", "a": 1, "f": 1, "l": 1})
    with pytest.raises(RecordingError, match="AUSDT has 'trade' ids in another file"):
        RecordedMarket.load([fills, aggregates])
    with pytest.raises(RecordingError, match="AUSDT 1 is recorded twice with different values"):
        RecordedMarket.load([fills, other])


def test_rows_in_disorder_are_played_by_event_time_and_told_by_id(tmp_path: Path) -> None:
    times = {3: 1_700_000_000_200, 1: 1_700_000_000_000, 2: 1_700_000_000_100}
    path = capture(
        tmp_path / "x", *({"e": "aggTrade", "a": a, "f": a, "l": a, "T": at, "E": at} for a, at in times.items())
    )
    market = RecordedMarket.load([path])
    assert [trade.id for trade in market.aggregates(0, LATE)] == [1, 2, 3]
    assert [trade.id for trade in market.aggregates_from("AUSDT", 2, 10, LATE)] == [2, 3]


def test_dumps_are_played_by_their_trade_times(tmp_path: Path) -> None:
    path = tmp_path / "AUSDT-aggTrades.csv"
    with path.open("w", newline="") as out:
        csv.writer(out).writerow([10, "1.50", "2.000", 100, 101, 1_721_347_022_956, "true"])
    market = RecordedMarket.load([path])
    assert market.span_ms() == (1_721_347_022_956, 1_721_347_022_956)
    (listing,) = market.listings(0)
    assert (listing.base, listing.quantity_precision, listing.step_size) == ("A", 3, "0.001")

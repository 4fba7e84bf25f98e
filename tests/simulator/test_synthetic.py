from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from klagg.simulator import SyntheticMarket
from klagg.simulator.bars import Bar, fold
from klagg.simulator.history import klines
from klagg.simulator.market import MarketTrade
from klagg.simulator.synthetic import LISTED_MS
from tests.simulator.kit import START_MS

MINUTE_MS = 60_000
UNCOUNTED = {"INSURANCE_FUND", "ADL", "NA"}


def played(market: SyntheticMarket, start_ms: int, end_ms: int, step_ms: int = 1_000) -> list[MarketTrade]:
    """The aggregate trades as a player would draw them."""
    found: list[MarketTrade] = []
    for after_ms in range(start_ms, end_ms, step_ms):
        market.prepare(after_ms)
        found += market.aggregates(after_ms, min(after_ms + step_ms, end_ms))
    return found


@pytest.mark.parametrize("floor_s", [1, 7, 20, 60])
def test_with_a_floor_no_symbol_is_ever_silent_for_longer(floor_s: float) -> None:
    market = SyntheticMarket(12, 60, seed=5, floor_s=floor_s, straddle_share=1.0)
    first_ms = START_MS + 3_600_000 - 3 * MINUTE_MS
    trades = played(market, first_ms, START_MS + 3_600_000 + 3 * MINUTE_MS)
    assert len(trades) == pytest.approx(60 * 360, rel=0.1), "the floor's trades are part of the rate"
    by_symbol: dict[str, list[MarketTrade]] = defaultdict(list)
    for trade in trades:
        by_symbol[trade.symbol].append(trade)
    assert len(by_symbol) == 12
    for symbol, rows in by_symbol.items():
        times = [first_ms - 150, *(row.time_ms for row in rows), trades[-1].time_ms]
        assert max(after - before for before, after in pairwise(times)) <= floor_s * 1000, symbol
        assert [row.id for row in rows] == list(range(rows[0].id, rows[0].id + len(rows)))
        told = market.aggregates_from(symbol, rows[5].id, len(rows), trades[-1].event_ms)
        assert [row.id for row in told] == [row.id for row in rows[5:]]


def test_without_a_floor_quiet_symbols_are_silent_for_minutes() -> None:
    trades = played(SyntheticMarket(12, 60, seed=5), START_MS, START_MS + 6 * MINUTE_MS)
    longest = 0
    for name in {trade.symbol for trade in trades}:
        times = [trade.time_ms for trade in trades if trade.symbol == name]
        longest = max(longest, *(after - before for before, after in pairwise([START_MS, *times])))
    assert longest > MINUTE_MS


def test_two_instances_agree_whenever_and_however_they_start() -> None:
    whole = played(SyntheticMarket(30, 300, seed=5), START_MS, START_MS + 3 * MINUTE_MS)
    late = played(SyntheticMarket(30, 300, seed=5), START_MS + 100_000, START_MS + 3 * MINUTE_MS, 77)
    assert late == [trade for trade in whole if trade.event_ms > START_MS + 100_000]
    assert played(SyntheticMarket(30, 300, seed=6), START_MS, START_MS + 1_000) != whole[: len(late)]


def test_ids_are_contiguous_across_minutes_and_hours() -> None:
    market = SyntheticMarket(12, 120, seed=5)
    ids: dict[str, list[int]] = defaultdict(list)
    last_fill: dict[str, int] = {}
    for trade in played(market, START_MS + 3_600_000 - 2 * MINUTE_MS, START_MS + 3_600_000 + 2 * MINUTE_MS):
        ids[trade.symbol].append(trade.id)
        assert trade.first > last_fill.get(trade.symbol, 0)
        last_fill[trade.symbol] = trade.last
    assert all(each == list(range(each[0], each[0] + len(each))) for each in ids.values())
    assert len(ids) == 12


def test_the_rate_holds_and_activity_differs() -> None:
    market = SyntheticMarket(200, 2_000, seed=5)
    trades = played(market, START_MS, START_MS + MINUTE_MS)
    assert len(trades) == pytest.approx(2_000 * 60, rel=0.05)
    counts = Counter(trade.symbol for trade in trades)
    assert counts["BTCUSDT"] > len(trades) * 0.1
    assert sum(counts[listing.symbol] == 0 for listing in market.listings(START_MS)) > 5


def test_what_was_played_is_what_history_tells() -> None:
    market, other = SyntheticMarket(8, 200, seed=5), SyntheticMarket(8, 200, seed=5)
    end_ms = START_MS + 2 * MINUTE_MS
    trades = [trade for trade in played(market, START_MS, end_ms) if trade.symbol == "ETHUSDT"]
    start_ms = trades[0].time_ms
    assert other.aggregates_between("ETHUSDT", start_ms, end_ms, 10**6, end_ms, newest=False) == trades
    assert other.aggregates_between("ETHUSDT", start_ms, end_ms, 50, end_ms, newest=False) == trades[:50]
    assert other.aggregates_between("ETHUSDT", start_ms, end_ms, 50, end_ms, newest=True) == trades[-50:]
    assert other.aggregates_from("ETHUSDT", trades[70].id, 900, end_ms) == trades[70:970]
    assert other.aggregates_from("ETHUSDT", trades[-1].id + 1, 10, end_ms) == []
    assert other.aggregates_from("ETHUSDT", 1, 3, end_ms)[0].id == 1


def test_aggregates_and_fills_agree() -> None:
    market = SyntheticMarket(8, 200, seed=5, straddle_share=1.0)
    end_ms = START_MS + 3 * MINUTE_MS
    fills = {fill.id: fill for fill in market.fills_between("BTCUSDT", START_MS, end_ms + 10, end_ms + 1_000)}
    assert list(fills) == list(range(min(fills), max(fills) + 1))
    aggregates = market.aggregates_between("BTCUSDT", START_MS, end_ms - 1, 10**6, end_ms + 1_000, newest=False)
    covered: set[int] = set()
    for aggregate in aggregates:
        parts = [fills[fill_id] for fill_id in range(aggregate.first, aggregate.last + 1)]
        covered.update(part.id for part in parts)
        assert {part.price for part in parts} == {aggregate.price}
        assert {part.maker for part in parts} == {aggregate.maker}
        assert parts[0].time_ms == aggregate.time_ms
        assert parts[-1].time_ms < aggregate.time_ms + 100
        assert sum(float(part.qty) for part in parts) == pytest.approx(float(aggregate.qty))
        normal = sum(float(part.qty) for part in parts if part.execution == "MARKET")
        assert normal == pytest.approx(float(aggregate.normal_qty))
    inside = range(aggregates[0].first, aggregates[-1].last + 1)
    assert {fills[fill_id].execution for fill_id in inside if fill_id not in covered} <= UNCOUNTED
    straddling = [a for a in aggregates if fills[a.last].time_ms // MINUTE_MS > a.time_ms // MINUTE_MS]
    assert len(straddling) == 3


def test_fills_that_klines_leave_out_happen_and_count_nowhere() -> None:
    market = SyntheticMarket(1, 20, seed=5)
    end_ms = START_MS + 240 * MINUTE_MS
    fills = market.fills_between("BTCUSDT", START_MS, end_ms, end_ms)
    assert Counter(fill.execution for fill in fills).keys() == {"MARKET", "RPI", *UNCOUNTED}
    aggregates = market.aggregates_between("BTCUSDT", START_MS, end_ms, 10**6, end_ms, newest=False)
    covered = {fill_id for aggregate in aggregates for fill_id in range(aggregate.first, aggregate.last + 1)}
    assert all(fill.id not in covered for fill in fills if fill.execution in UNCOUNTED)
    assert not any(fill.counts for fill in fills if fill.execution in UNCOUNTED)


def test_the_stream_of_fills_is_in_order_and_complete() -> None:
    market = SyntheticMarket(4, 100, seed=5, straddle_share=1.0)
    end_ms = START_MS + 2 * MINUTE_MS
    streamed: dict[str, list[MarketTrade]] = defaultdict(list)
    for after_ms in range(START_MS - 1, end_ms, 333):
        for fill in market.fills(after_ms, after_ms + 333):
            streamed[fill.symbol].append(fill)
    for symbol, fills in streamed.items():
        ids = [fill.id for fill in fills]
        assert ids == list(range(ids[0], ids[0] + len(ids)))
        assert fills == market.fills_between(symbol, fills[0].time_ms, fills[-1].time_ms, end_ms + 1_000)[: len(fills)]


@pytest.mark.parametrize("symbol", ["BTCUSDT", "APTUSDT", "币安人生USDT"])
def test_klines_equal_a_plain_fold_of_the_fills(symbol: str) -> None:
    market = SyntheticMarket(18, 100, seed=5, straddle_share=1.0)
    now_ms = START_MS + 65 * MINUTE_MS + 30_000
    for open_ms, close_ms in ((START_MS, START_MS + 3_600_000 - 1), (now_ms // MINUTE_MS * MINUTE_MS, now_ms)):
        expected = fold(open_ms, close_ms, market.fills_between(symbol, open_ms, close_ms, now_ms))
        bar = market.bar(symbol, open_ms, close_ms, now_ms)
        assert expected is None or bar == expected
        assert bar is not None


def test_quiet_minutes_carry_the_last_close() -> None:
    market = SyntheticMarket(18, 100, seed=5)
    now_ms = START_MS + 60 * MINUTE_MS
    bars = klines(market, "APTUSDT", "1m", START_MS, None, 60, now_ms - 1)
    assert len(bars) == 60
    quiet = [(before, bar) for before, bar in pairwise(bars) if bar.trades == 0]
    assert len(quiet) > 10
    for before, bar in quiet:
        assert (bar.open, bar.high, bar.low, bar.close) == (before.close,) * 4
        assert bar.volume == 0
        assert bar.first_id == -1


def test_without_straddling_aggregates_fold_to_the_same_klines() -> None:
    market = SyntheticMarket(3, 60, seed=5, straddle_share=0)
    now_ms = START_MS + 10 * MINUTE_MS
    for bar in klines(market, "BTCUSDT", "1m", START_MS, None, 9, now_ms):
        trades = market.aggregates_between("BTCUSDT", bar.open_ms, bar.close_ms, 10**6, now_ms, newest=False)
        assert fold(bar.open_ms, bar.close_ms, trades) == bar


def edges(market: SyntheticMarket, symbol: str, minutes: int) -> int:
    """Minutes at whose end an aggregate trade fills into the next one."""
    end_ms = START_MS + minutes * MINUTE_MS
    fills = {fill.id: fill.time_ms for fill in market.fills_between(symbol, START_MS, end_ms + 10, end_ms + 1_000)}
    trades = market.aggregates_between(symbol, START_MS, end_ms - 1, 10**7, end_ms + 1_000, newest=False)
    return sum(fills[each.last] // MINUTE_MS > each.time_ms // MINUTE_MS for each in trades)


@pytest.mark.parametrize(("symbol", "minutes"), [("BTCUSDT", 1440), ("SOLUSDT", 4320)])
def test_edges_are_a_few_a_day_unless_more_are_asked_for(symbol: str, minutes: int) -> None:
    """However busy a symbol is: BTCUSDT has a trade in the last moment of most minutes."""
    few = SyntheticMarket(4, 40, seed=5)
    assert 1 <= edges(few, symbol, minutes) / (minutes / 1440) <= 8
    assert edges(SyntheticMarket(4, 40, seed=5), symbol, minutes) == edges(few, symbol, minutes)
    assert edges(SyntheticMarket(4, 40, seed=5, straddle_share=0), symbol, minutes // 4) == 0
    many = SyntheticMarket(4, 40, seed=5, straddle_share=0.25)
    assert edges(many, symbol, 240) == pytest.approx(60, abs=20)
    assert many.describe()["edges"] == 0.25
    assert "edges" not in few.describe()


def test_nothing_is_told_before_its_time_or_its_listing() -> None:
    market = SyntheticMarket(2, 20, seed=5)
    assert market.listings(LISTED_MS - 1) == ()
    assert market.aggregates(LISTED_MS - 3 * MINUTE_MS, LISTED_MS) == []
    assert market.bar("BTCUSDT", LISTED_MS - MINUTE_MS, LISTED_MS - 1, LISTED_MS + 1) is None
    now_ms = LISTED_MS + 90_000
    told = market.aggregates_between("BTCUSDT", 0, 2**60, 10**6, now_ms, newest=False)
    assert told[0].id == 1
    assert max(trade.event_ms for trade in told) <= now_ms
    assert told == [trade for trade in market.aggregates(LISTED_MS, now_ms) if trade.symbol == "BTCUSDT"]


def test_history_ends_where_it_would_cost_too_much() -> None:
    market = SyntheticMarket(2, 20, seed=5, history_ms=2 * 3_600_000)
    now_ms = START_MS + 30 * MINUTE_MS
    bars = klines(market, "BTCUSDT", "1h", None, None, 100, now_ms)
    assert [bar.open_ms for bar in bars] == [START_MS - 3_600_000, START_MS]
    assert klines(market, "BTCUSDT", "1d", None, None, 100, now_ms) == []
    since_listing = SyntheticMarket(2, 20, seed=5, listed_ms=START_MS - 3_600_000)
    days: list[Bar] = klines(since_listing, "BTCUSDT", "1d", None, None, 100, now_ms)
    assert [bar.open_ms for bar in days] == [START_MS // 86_400_000 * 86_400_000]
    assert days[0].first_id == 1


def test_prices_are_on_the_tick_grid_and_scales_differ() -> None:
    market = SyntheticMarket(45, 500, seed=5)
    listings = {listing.symbol: listing for listing in market.listings(START_MS)}
    assert {listing.price_precision for listing in listings.values()} == set(range(1, 8))
    assert {listing.quantity_precision for listing in listings.values()} == set(range(4))
    assert {"BTCUSDT", "币安人生USDT", "SYM001USDT"} <= listings.keys()
    for trade in market.aggregates(START_MS, START_MS + 2_000):
        listing = listings[trade.symbol]
        assert len(trade.price.partition(".")[2]) == listing.price_precision
        assert len(trade.qty.partition(".")[2]) == listing.quantity_precision
        ticks = float(trade.price) / float(listing.tick_size)
        assert ticks == pytest.approx(np.rint(ticks))
        assert float(trade.price) > 0
        assert float(trade.qty) > 0


def test_memory_of_past_minutes_is_bounded() -> None:
    market = SyntheticMarket(1, 2_000, seed=5, history_ms=86_400_000)
    market.bar("BTCUSDT", START_MS, START_MS + 3_600_000 - 1, START_MS + 3_600_000 + 10)
    assert market._minutes._rows <= 500_000 + 3 * 2_000 * 60 * 2


@pytest.mark.parametrize(
    ("symbols", "rate", "seed", "sentence"),
    [
        (0, 5, 1, "at least 1 symbol, not 0"),
        (1, 0, 1, "between 0 and 20,000"),
        (1, 30_000, 1, "between 0 and 20,000"),
        (1, 1, -1, "must not be negative"),
    ],
)
def test_values_out_of_range(symbols: int, rate: float, seed: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SyntheticMarket(symbols, rate, seed)


@pytest.mark.parametrize(
    ("floor_s", "sentence"),
    [
        (0.5, "The floor must lie between 1 and 60 seconds, not 0.5"),
        (61, "The floor must lie between 1 and 60 seconds, not 61"),
        (10, "A floor of 10 s for 20 symbols needs more than 2 trades a second, not 2"),
    ],
)
def test_a_floor_that_cannot_be(floor_s: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SyntheticMarket(20, 2, floor_s=floor_s)

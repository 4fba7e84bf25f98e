"""Segments, longer segments and the ring against a slow oracle; the order of trades and batches cannot matter."""

from __future__ import annotations

import itertools
import random
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.columns import TRADE_ARRAYS, TRADE_FLAGS, Trades, quotes_of
from aggregator.fold import Segments, longer, merge, segments_of
from aggregator.ring import BAR_INTEGERS, SUM_MAX, Ring
from klagg.intervals import INTERVALS, MINUTE, MINUTE_MS, interval
from tests.aggregator.kit import T0, feed, klines, new_core, steps, tick, trade

FIELDS = tuple(each.name for each in fields(Segments))[2:]
Plain = dict[str, int]


def trades_of(plain: list[Plain]) -> Trades:
    columns: dict[str, Any] = {
        name: np.array([row[name] for row in plain], np.bool_ if name in TRADE_FLAGS else np.int64)
        for name in TRADE_ARRAYS
    }
    return Trades(**columns)


def trades(seed: int, count: int, spread_ms: int) -> list[Plain]:
    """Trades of three symbols. Times are not monotone in the ids; no id comes twice in a symbol."""
    rng = random.Random(seed)
    made = []
    for number in rng.sample(range(10 * count), count):
        price, qty, first = rng.randrange(1, 10**6), rng.randrange(10**6), rng.randrange(10**6)
        made.append(
            {
                "slot": rng.randrange(3),
                "id": number,
                "price": price,
                "qty": qty,
                "quote": price * qty,
                "first": first,
                "last": first + rng.randrange(4),
                "time": T0 + rng.randrange(spread_ms),
                "maker": rng.randrange(2),
                "agg": 1,
            }
        )
    return made


def bar_of(rows: list[Plain]) -> Plain:
    """One bar, by the words of the design: the order key is (minute, id)."""
    rows = sorted(rows, key=lambda row: (row["time"] // MINUTE_MS, row["id"]))
    first, last, taker = rows[0], rows[-1], [row for row in rows if not row["maker"]]
    return {
        "open_minute": first["time"] // MINUTE_MS,
        "open_id": first["id"],
        "open": first["price"],
        "close_minute": last["time"] // MINUTE_MS,
        "close_id": last["id"],
        "close": last["price"],
        "high": max(row["price"] for row in rows),
        "low": min(row["price"] for row in rows),
        "volume": sum(row["qty"] for row in rows),
        "quote_volume": sum(row["quote"] for row in rows),
        "trades": sum(row["last"] - row["first"] + 1 for row in rows),
        "taker_buy_volume": sum(row["qty"] for row in taker),
        "taker_buy_quote_volume": sum(row["quote"] for row in taker),
        "first_trade_id": min(row["first"] for row in rows),
        "last_trade_id": max(row["last"] for row in rows),
        "agg": 1,
    }


def oracle(rows: list[Plain], name: str) -> dict[tuple[int, int], Plain]:
    groups: dict[tuple[int, int], list[Plain]] = {}
    for row in rows:
        groups.setdefault((row["slot"], interval(name).bucket_of(row["time"])), []).append(row)
    return {key: bar_of(found) for key, found in groups.items()}


def plain(part: Segments) -> dict[tuple[int, int], Plain]:
    keys = list(zip(part.slot.tolist(), part.bucket.tolist(), strict=True))
    assert keys == sorted(set(keys)), "sorted, one segment per bar"
    columns = [getattr(part, name).tolist() for name in FIELDS]
    return {key: dict(zip(FIELDS, map(int, values), strict=True)) for key, *values in zip(keys, *columns, strict=True)}


def segments(rows: list[Plain], name: str) -> Segments:
    kind = interval(name)
    if kind.length_ms and kind.length_ms <= MINUTE_MS:
        return segments_of(trades_of(rows), kind)
    minutes = segments_of(trades_of(rows), MINUTE)
    return longer(minutes, kind.buckets_of(minutes.open_minute * MINUTE_MS))


@pytest.mark.parametrize("name", list(INTERVALS))
@given(seed=st.integers(0, 2**32), count=st.integers(1, 80), spread=st.sampled_from([500, 90_000, 10**7, 10**10]))
def test_segments_equal_the_oracle_in_any_order(name: str, seed: int, count: int, spread: int) -> None:
    rows = trades(seed, count, spread)
    expected = oracle(rows, name)
    assert plain(segments(rows, name)) == expected
    random.Random(seed).shuffle(rows)
    assert plain(segments(rows, name)) == expected


@pytest.mark.parametrize("name", ["1s", "1m", "5m", "1M"])
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), data=st.data())
def test_any_batches_in_any_order_merge_to_the_same_bars(name: str, seed: int, count: int, data: st.DataObject) -> None:
    rows, kind = trades(seed, count, 150_000), interval(name)
    expected = oracle(rows, name)
    ring = Ring((kind,), 10 * MINUTE_MS, 3)
    ring.advance(T0 + 150_000)
    random.Random(seed).shuffle(rows)
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, count), max_size=5))), count]
    touched: set[int] = set()
    for start, end in itertools.pairwise(cuts):
        if start == end:
            continue
        part = segments(rows[start:end], name)
        cells, fresh = merge(ring, 0, part)
        assert fresh.tolist() == [cell not in touched for cell in cells.tolist()]
        touched.update(cells.tolist())
    names = [each for each in BAR_INTEGERS if each != "revision"]
    for (slot, bucket), bar in expected.items():
        row = ring.row_of(0, bucket)
        assert {each: int(getattr(ring, each)[row, slot]) for each in names} == {each: bar[each] for each in names}
        assert ring.changed[row, slot]
        assert ring.live_changed[row, slot]
        assert ring.agg[row, slot]
    assert int((ring.open_id >= 0).sum()) == len(expected) == len(touched), "no other bar was touched"


def test_the_order_key_is_the_minute_then_the_id_where_times_run_against_ids() -> None:
    def row(number: int, time_ms: int) -> Plain:
        each = {"slot": 0, "id": number, "price": number, "qty": 1, "quote": number, "first": 1, "last": 1}
        return {**each, "time": T0 + time_ms, "maker": 0, "agg": 1}

    rows = [row(5, 10), row(4, 50_000), row(9, 20), row(3, 61_000), row(2, 119_999)]
    (minute, other) = plain(segments(rows, "1m")).values()
    assert (minute["open"], minute["close"], other["open"], other["close"]) == (4, 9, 2, 3)
    (five,) = plain(segments(rows, "5m")).values()
    assert (five["open"], five["close"]) == (4, 3)


@given(price=st.integers(0, 2**62), qty=st.integers(0, 2**62))
def test_a_product_is_exact_or_said_not_to_fit(price: int, qty: int) -> None:
    values, too_large = quotes_of(np.array([price]), np.array([qty]))
    if too_large[0]:
        assert price * qty >= 2**62 * (1 - 1e-9)
    else:
        assert int(values[0]) == price * qty


def big(count: int, name: str, value: int) -> list[Plain]:
    rows = trades(1, count, 1000)
    return [{**row, "slot": 0, name: value} for row in rows]


@pytest.mark.parametrize(("name", "total"), [("qty", "volume"), ("quote", "quote_volume")])
@given(parts=st.permutations([1, 1, 2, 1]))
def test_a_sum_that_does_not_fit_stands_at_its_limit_and_breaks_its_bar(
    name: str, total: str, parts: list[int]
) -> None:
    ring = Ring((MINUTE,), 10 * MINUTE_MS, 1)
    ring.advance(T0)
    seen = 0
    for count in parts:
        (cell,), _ = merge(ring, 0, segments(big(count, name, 2**60), "1m"))
        seen += count
        value = getattr(ring, total).reshape(-1)[cell]
        assert (value, ring.broken.reshape(-1)[cell]) == ((seen * 2**60, 0) if seen <= 4 else (SUM_MAX + 1, 1))
    assert len(ring.broke) == (seen > 4)
    assert segments(big(5, name, 2**60), "1m").volume.tolist() == (
        [SUM_MAX + 1] if name == "qty" else [sum(row["qty"] for row in big(5, name, 0))]
    )


def test_large_sums_of_different_bars_are_no_overflow() -> None:
    rows = [{**row, "time": T0 + at * MINUTE_MS} for at, row in enumerate(big(8, "qty", 2**61))]
    assert [bar["volume"] for bar in plain(segments(rows, "1m")).values()] == [2**61] * 8
    assert [bar["volume"] for bar in plain(segments(rows, "1h")).values()] == [SUM_MAX + 1]


def test_a_bar_whose_sum_does_not_fit_is_said_to_be_wrong_and_the_others_go_on() -> None:
    core = new_core("1m", "5m")
    feed(core, [trade(at, T0 + at, "2000000000", "2000000000") for at in range(1, 6)])
    feed(core, [trade(1, T0, symbol="ETHUSDT"), trade(2, T0 + 60_000, symbol="ETHUSDT")])
    (opening,) = steps(core, T0 + 1000)
    assert [(each["kind"], each["symbol"]) for each in opening.findings] == [("OVERFLOW", "BTCUSDT")] * 2
    feed(core, [trade(6, T0 + 30_000, "1", "1"), trade(7, T0 + 60_000, "1", "1")])
    said = {kline.key: kline for kline in klines([opening, tick(core, T0 + 60_000)])}
    assert [said[name, "1m", T0].complete for name in ("BTCUSDT", "ETHUSDT")] == [0, 1]

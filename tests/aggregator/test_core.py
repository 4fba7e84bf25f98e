"""The core against a slow oracle: batching, order and duplication between ticks cannot change what it says."""

from __future__ import annotations

import random

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.wire.entries import (
    EVENT_GAP_OPENED,
    EVENT_LISTED,
    REQUEST_TRADES,
    Listing,
    TradeRow,
    listing_entries,
    live_value_of,
    request_of,
    tick_entry,
    trades_entry_of_rows,
)
from tests.aggregator.kit import T0, feed, klines, new_core, newest, raw, tick, trade, values, watermark
from tests.aggregator.listingkit import list_, listed
from tests.aggregator.officialkit import send
from tests.aggregator.oracle import fold

INTERVALS = ("1m", "5m", "1h", "1d", "1w", "1M")


def market(seed: int, symbols: int, count: int, spread_ms: int) -> list[TradeRow]:
    """Trades of several symbols in order of time; ids and fill ids contiguous per symbol."""
    rng = random.Random(seed)
    numbers = {f"S{each}USDT": (rng.randrange(2, 10**9), rng.randrange(10**9)) for each in range(symbols)}
    decimals = {name: (rng.randrange(4), rng.randrange(4)) for name in numbers}
    rows = []
    for time_ms in sorted(rng.randrange(spread_ms) for _ in range(count)):
        name = rng.choice(list(numbers))
        number, fill = numbers[name]
        fills = rng.choice((1, 1, 2, 5))
        price_decimals, qty_decimals = decimals[name]
        price = f"{rng.randrange(1, 10**6) / 10**price_decimals:.{price_decimals}f}"
        qty = f"{rng.randrange(1, 10**5) / 10**qty_decimals:.{qty_decimals}f}"
        rows.append(TradeRow(name, number, price, qty, fill, fill + fills - 1, T0 + time_ms, rng.random() < 0.5))
        numbers[name] = number + 1, fill + fills
    return rows


@hypothesis.settings(max_examples=30)
@given(seed=st.integers(0, 2**32), symbols=st.integers(1, 6), count=st.integers(1, 300), minutes=st.integers(1, 200))
@pytest.mark.parametrize("shortest", ["1s", "1m"])
def test_finals_equal_the_oracle(shortest: str, seed: int, symbols: int, count: int, minutes: int) -> None:
    minutes = min(minutes, 10) if shortest == "1s" else minutes
    rows = market(seed, symbols, count, minutes * 60_000)
    core, said, at = new_core(shortest, *INTERVALS), [], 0
    rng = random.Random(seed)
    while at < len(rows):
        step = rng.randrange(1, 40)
        part = rows[at : at + step]
        at += step
        feed(core, part)
        said += klines(tick(core, part[-1].time))
    expected = fold(rows, (shortest, *INTERVALS), rows[-1].time)
    times = {name: [row.time for row in rows if row.symbol == name] for name in {row.symbol for row in rows}}
    found = newest(said)
    if minutes > 2 and count > 50 * symbols:
        assert found
    for key, kline in found.items():
        assert values(kline) == expected[key], key
        first, last = min(times[kline.symbol]), max(times[kline.symbol])
        provable = kline.open_time > first and last > kline.close_time
        assert kline.complete <= provable
        if kline.interval != "1s":  # a second's bar may leave its short window before its proof comes
            assert kline.complete == provable


@given(seed=st.integers(0, 2**32), data=st.data())
def test_between_ticks_order_batching_and_duplicates_do_not_matter(seed: int, data: st.DataObject) -> None:
    rows = market(seed, 4, 200, 400_000)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    plain, shuffled = new_core("1m", "5m"), new_core("1m", "5m")
    rng = random.Random(seed)
    start = 0
    for end in [*cuts, len(rows)]:
        part = rows[start:end]
        if not part:
            continue
        start = end
        feed(plain, part)
        mixed = part + rng.sample(part, len(part) // 3)
        rng.shuffle(mixed)
        for cut in range(0, len(mixed), 17):
            feed(shuffled, mixed[cut : cut + 17])
        one, other = tick(plain, part[-1].time), tick(shuffled, part[-1].time)
        assert one == other
    assert plain.counts.trades == shuffled.counts.trades == len(rows)


@given(seed=st.integers(0, 2**32))
def test_after_all_repairs_the_last_versions_are_those_of_an_undisturbed_run(seed: int) -> None:
    """Across ticks: trades lost and repaired later, in any order, still within the window."""
    rows = market(seed, 3, 300, 600_000)
    rng = random.Random(seed)
    straight, disturbed, said, heard = new_core("1m", "5m"), new_core("1m", "5m"), [], []
    lost: list[TradeRow] = []
    firsts = {row.symbol: row for row in reversed(rows)}  # a symbol that begins later begins with another trade
    for at in range(0, len(rows), 10):
        part = rows[at : at + 10]
        feed(straight, part)
        missing = [row for row in part if rng.random() < 0.2 and row is not firsts[row.symbol]]
        feed(disturbed, [row for row in part if row not in missing])
        lost += missing
        if rng.random() < 0.3:
            rng.shuffle(lost)
            feed(disturbed, lost[:5])
            lost = lost[5:]
        said.append(tick(straight, part[-1].time))
        heard.append(tick(disturbed, part[-1].time))
    feed(disturbed, lost)
    end = rows[-1].time + 400_000
    finish = [trade(10**12, end, symbol=f"X{name}") for name in ("A",)]
    for core, outputs in ((straight, said), (disturbed, heard)):
        feed(core, finish)
        outputs.append(tick(core, end))
        outputs.append(tick(core, end + 20_000))
    one, other = newest(klines(said)), newest(klines(heard))
    assert set(one) == set(other)
    for key, kline in one.items():
        assert values(kline) == values(other[key]), key
        assert kline.complete == other[key].complete, key
    assert not disturbed.ledger.gaps


def test_a_proven_bar_is_final_at_once_and_an_unproven_one_after_the_grace() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0 + 1000, "10.5", "2"), trade(2, T0 + 59_000, "11", "1")])
    watermark(core, T0 + 60_500)
    assert klines(tick(core, T0 + 61_999)) == []
    closed = klines(tick(core, T0 + 62_000))
    assert [(each.open_time, each.revision, each.complete, each.close) for each in closed] == [(T0, 1, 0, "11.0")]
    feed(core, [trade(3, T0 + 63_000)])
    confirmed = klines(tick(core, T0 + 63_250))
    assert [(each.open_time, each.revision, each.complete) for each in confirmed] == [(T0, 1, 1)]
    feed(core, [trade(4, T0 + 120_000)])
    proven = klines(tick(core, T0 + 120_000))
    assert [(each.open_time, each.revision, each.complete) for each in proven] == [(T0 + 60_000, 1, 1)]


def test_without_a_watermark_the_grace_is_longer() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0)])
    assert klines(tick(core, T0 + 69_999)) == []
    assert len(klines(tick(core, T0 + 70_000))) == 1


def test_quiet_intervals_carry_the_close_and_a_late_trade_carries_it_on_again() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "5"), trade(3, T0 + 240_000, "9")])
    said = klines(tick(core, T0 + 240_000)) + klines(tick(core, T0 + 250_000))
    assert [(each.open_time - T0, each.close, each.trades, each.complete) for each in said] == [
        (0, "5", 1, 0),
        (60_000, "5", 0, 0),
        (120_000, "5", 0, 0),
        (180_000, "5", 0, 0),
    ]
    assert [(each.first_agg_id, each.last_trade_id) for each in said[1:]] == [(-1, -1)] * 3
    feed(core, [trade(2, T0 + 61_000, "7")])
    amended = klines(tick(core, T0 + 251_000))
    assert [(e.open_time - T0, e.close, e.revision, e.complete) for e in amended] == [
        (60_000, "7", 2, 1),
        (120_000, "7", 2, 1),
        (180_000, "7", 2, 1),
        (0, "5", 1, 1),
    ]


def test_a_gap_taints_only_the_bars_between_its_neighbours() -> None:
    core = new_core("1m")
    feed(
        core,
        [trade(1, T0), trade(2, T0 + 61_000), trade(4, T0 + 62_000), trade(5, T0 + 121_000), trade(6, T0 + 181_000)],
    )
    outputs = tick(core, T0 + 181_000)
    assert core.oldest_gap_ms == 119_000, "since trade 4, which showed that 3 is missing"
    assert [(each.open_time - T0, each.complete) for each in klines(outputs)] == [(0, 1), (60_000, 0), (120_000, 1)]
    opened = next(each for each in outputs.events if each["kind"] == EVENT_GAP_OPENED)
    assert (opened["from_id"], opened["to_id"]) == ("3", "3")
    feed(core, [trade(3, T0 + 61_500, "8")])
    outputs = tick(core, T0 + 182_000)
    assert [(each.open_time - T0, each.revision, each.complete, each.high) for each in klines(outputs)] == [
        (60_000, 2, 1, "8")
    ]
    assert core.open_gaps == core.oldest_gap_ms == 0


def test_a_trade_older_than_the_window_is_refused_with_a_finding() -> None:
    core = new_core("1m", window_minutes=30)
    feed(core, [trade(1, T0), trade(3, T0 + 1000)])
    tick(core, T0 + 1000)
    for minute in range(1, 60):
        tick(core, T0 + minute * 60_000)
    feed(core, [trade(2, T0 + 500)])
    outputs = tick(core, T0 + 60 * 60_000)
    assert klines(outputs)
    assert all(each.open_time > T0 for each in klines(outputs))
    assert core.counts.duplicates == 1, "its gap was lost with the window"
    feed(core, [trade(4, T0 + 2000)])
    outputs = tick(core, T0 + 60 * 60_000 + 250)
    assert [each["kind"] for each in outputs.findings] == ["TOO_OLD"]


def test_a_jump_longer_than_the_window_loses_no_bar() -> None:
    core = new_core("1m", "1h", window_minutes=30)
    feed(core, [trade(1, T0, "3")])
    tick(core, T0)
    jump = T0 + 5 * 3_600_000
    feed(core, [trade(2, jump, "4")])
    said = klines(tick(core, jump))
    minutes = sorted(each.open_time for each in said if each.interval == "1m")
    assert minutes == list(range(T0, jump, 60_000))
    hours = [(each.open_time, each.close) for each in newest(said).values() if each.interval == "1h"]
    assert sorted(hours) == [(T0 + hour * 3_600_000, "3") for hour in range(5)]


def test_one_id_space_per_symbol() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0)])
    feed(core, [trade(9, T0 + 1)], ids="trade")
    outputs = tick(core, T0 + 1000)
    assert [each["kind"] for each in outputs.findings] == ["ID_SPACE"]
    assert core.counts.trades == 1


def test_fills_that_do_not_count_enter_the_ledger_but_not_the_fold() -> None:
    core = new_core("1m")
    insurance = TradeRow("BTCUSDT", 2, "9", "9", 2, 2, T0 + 2000, False, counts=False)
    feed(core, [trade(1, T0 + 1000), insurance, trade(3, T0 + 3000), trade(4, T0 + 60_000)], ids="trade")
    (kline,) = klines(tick(core, T0 + 60_000))
    assert (kline.high, kline.trades, kline.first_trade_id, kline.last_trade_id) == ("1", 2, 1, 3)
    assert (kline.first_agg_id, kline.last_agg_id) == (-1, -1)
    assert core.open_gaps == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("price", "abc"),
        ("qty", "-1"),
        ("price", "1.2.3"),
        ("id", "x"),
        ("time", "-5"),
        ("maker", "7"),
        ("n", "2"),
        ("price", "1" * 19),
        ("kind", "other"),
        ("v", "9"),
        ("ids", "both"),
        ("symbol", ""),
        ("qty", "1,2"),
    ],
)
def test_a_bad_entry_dies_alone(column: str, value: str) -> None:
    core = new_core("1m")
    good = trades_entry_of_rows([trade(1, T0)], line="A", ids="agg", recv_ms=T0)
    core.apply("5-1", raw(good))
    bad = raw(trades_entry_of_rows([trade(2, T0)], line="A", ids="agg", recv_ms=T0))
    core.apply("5-2", {**bad, column.encode(): value.encode()})
    outputs = tick(core, T0 + 1000)
    assert [each["id"] for each in outputs.dead] == ["5-2"]
    assert outputs.dead[0]["reason"]
    assert core.counts.trades == 1


def test_scales_rise_exactly_when_more_decimals_come() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "100.5", "2")])
    tick(core, T0 + 250)
    feed(core, [trade(2, T0 + 500, "100.125", "0.5"), trade(3, T0 + 60_000)])
    (kline,) = klines(tick(core, T0 + 60_000))
    assert (kline.open, kline.close, kline.volume, kline.quote_volume) == ("100.500", "100.125", "2.5", "251.0625")


def test_a_listing_gives_the_scales_of_the_exchange() -> None:
    core = new_core("1m")
    listing = Listing("BTCUSDT", T0 - 10**9, 2, 3, "TRADING", 10**13)
    for entry in listing_entries([listing, Listing("币安人生USDT", 1, 7, 0, "TRADING", 10**13)]):
        core.apply("1-1", raw(entry))
    feed(core, [trade(1, T0, "100.5", "2"), trade(2, T0 + 60_000)])
    outputs = tick(core, T0 + 60_000)
    (kline,) = klines(outputs)
    assert (kline.open, kline.volume, kline.quote_volume) == ("100.50", "2.000", "201.00000")
    assert [each["kind"] for each in outputs.events].count(EVENT_LISTED) == 1


def test_a_product_beyond_64_bits_is_refused_not_wrapped() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "9" * 16, "9" * 16), trade(2, T0 + 1), trade(3, T0 + 60_000)])
    outputs = tick(core, T0 + 60_000)
    assert [each["kind"] for each in outputs.findings] == ["OVERFLOW"]
    (kline,) = klines([outputs, tick(core, T0 + 75_000)])[:1]
    assert kline.volume == "1"
    assert kline.complete == 0, "a bar that lacks a trade is never called complete"


def test_ticks_from_the_past_say_nothing() -> None:
    core = new_core("1m")
    tick(core, T0)
    assert not list(core.apply("1-1", raw(tick_entry(T0 - 1))))


def test_edge_evidence_names_the_trades_that_may_straddle_a_close() -> None:
    core = new_core("1m", "5m")
    feed(core, [trade(1, T0 + 299_950, "7", "3", first=10, last=12), trade(2, T0 + 300_000, first=13, last=13)])
    said = {each.interval: each for each in klines(tick(core, T0 + 300_000))}
    assert said["1m"].edge == said["5m"].edge == f"1:10:12:{T0 + 299_950}:7:3:0"


def test_live_shows_open_bars_and_finals_end_them() -> None:
    core = new_core("1m", "5m")
    feed(core, [trade(1, T0, "7", "3")])
    outputs = tick(core, T0 + 250)
    shown = live_value_of(outputs.live[0]["BTCUSDT:1m"])
    assert (shown["close"], shown["closed"], shown["open_time"]) == ("7", "0", str(T0))
    assert outputs.bars.keys() == {"BTCUSDT:1m", "BTCUSDT:5m"}
    feed(core, [trade(2, T0 + 60_000, "8", "1")])
    outputs = tick(core, T0 + 60_000)
    values_shown = [live_value_of(each["BTCUSDT:1m"]) for each in outputs.live]
    assert [(each["open_time"], each["closed"]) for each in values_shown] == [(str(T0), "1"), (str(T0 + 60_000), "0")]
    watermark(core, T0 + 125_000)
    outputs = tick(core, T0 + 125_000)
    empty = live_value_of(outputs.live[-1]["BTCUSDT:1m"])
    assert (empty["open_time"], empty["close"], empty["trades"], empty["closed"]) == (str(T0 + 120_000), "8", "0", "0")


def test_a_tick_is_read_to_its_end_before_the_next_entry() -> None:
    core = new_core()
    reading = iter(core.apply("1-1", raw(tick_entry(T0))))
    next(reading)
    with pytest.raises(AssertionError, match="all outputs"):
        core.apply("1-2", raw(tick_entry(T0 + 250)))
    assert list(reading) == []
    list(core.apply("1-2", raw(tick_entry(T0 - 250))))
    watermark(core, T0)


def test_outputs_are_encoded_before_the_core_goes_on_or_never() -> None:
    core = new_core()
    feed(core, [trade(1, T0), trade(2, T0 + 60_000)])
    (outputs,) = core.apply("1-1", raw(tick_entry(T0 + 60_000)))
    assert not outputs.encoded
    with pytest.raises(AssertionError, match="encoded"):
        outputs.encode()
    assert tick(core, T0 + 60_250).encode().encoded, "a second time is harmless"


def test_a_price_finer_than_listed_spoils_no_symbol() -> None:
    """BTCUSDT at scales 2 and 3, one trade at 60000.1234567: it is refused by its id, and all else is as before."""
    core = new_core("1m", "1h")
    list_(core, listed())
    feed(core, [trade(1, T0, "60000.10", "1.000"), trade(2, T0 + 1, "60000.1234567"), trade(3, T0 + 2, "60000.20")])
    outputs = tick(core, T0 + 1000)
    assert (int(core.symbols.price_scale[0]), int(core.symbols.qty_scale[0])) == (2, 3)
    (finding,) = [each for each in outputs.findings if each["kind"] == "OVERFLOW"]
    assert finding["symbol"] == "BTCUSDT"
    assert finding["evidence"].startswith("1 trades, ids 2 to 2: ")
    feed(core, [trade(4, T0 + 3, "60000", "9000000"), trade(5, T0 + 60_000, "60000"), trade(6, T0 + 120_000, "60000")])
    found = newest(klines([tick(core, T0 + 120_000), tick(core, T0 + 180_000)]))
    first = found["BTCUSDT", "1m", T0]
    assert (first.quote_volume, first.trades, first.complete) == ("540000120000.30000", 3, 0)
    assert found["BTCUSDT", "1m", T0 + 60_000].complete == 1


def test_without_a_listing_the_scales_that_are_there_bound_it_too() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "60000.25", "1.125")])
    tick(core, T0 + 250)
    feed(core, [trade(2, T0 + 500, "60000.1234567")])
    assert [each["kind"] for each in tick(core, T0 + 1000).findings] == ["OVERFLOW"]
    assert (int(core.symbols.price_scale[0]), int(core.symbols.qty_scale[0])) == (2, 3)


def test_a_listing_that_makes_room_brings_back_the_trades_that_were_too_fine() -> None:
    """The tick size became finer, and trades at it came before their listing: once it is here, they are requested."""
    core = new_core("1m")
    list_(core, Listing("SOLUSDT", T0 - 10**9, 4, 2, "TRADING", 10**13))
    finer = [trade(each, T0 + each, "140.12345", "1.25", symbol="SOLUSDT") for each in (2, 3)]
    feed(core, [trade(1, T0, "140.1234", "1.25", symbol="SOLUSDT"), *finer, trade(4, T0 + 9, "140", symbol="SOLUSDT")])
    assert [each["kind"] for each in tick(core, T0 + 1000).findings] == ["OVERFLOW"]
    feed(core, [trade(5, T0 + 60_000, "140", symbol="SOLUSDT")])
    assert klines(tick(core, T0 + 60_000)) == []
    list_(core, Listing("SOLUSDT", T0 - 10**9, 5, 2, "TRADING", 10**13))
    opened = [each for each in tick(core, T0 + 61_000).events if each["kind"] == EVENT_GAP_OPENED]
    assert [(each["from_id"], each["to_id"]) for each in opened] == [("2", "3")]
    requests = [request_of(raw(each)) for each in tick(core, T0 + 65_000).requests]
    assert [(each.kind, each.first, each.last) for each in requests if each.kind == REQUEST_TRADES] == [
        (REQUEST_TRADES, 2, 3)
    ]
    feed(core, finer)
    (kline,) = klines(tick(core, T0 + 66_000))
    assert (kline.high, kline.volume, kline.trades, kline.complete) == ("140.12345", "4.75", 4, 1)
    feed(core, finer)
    assert klines(tick(core, T0 + 67_000)) == [], "a duplicate counts nothing"


def test_scales_go_back_when_no_bar_needs_them() -> None:
    """A quantity of one decimal more is taken, there is room; at the listing after its bars left it is taken back."""
    core = new_core("1m", window_minutes=3)
    list_(core, listed())
    feed(core, [trade(1, T0, "5.25", "1.0001")])
    tick(core, T0 + 1000)
    assert int(core.symbols.qty_scale[0]) == 4
    list_(core, listed())
    feed(core, [trade(2, T0 + 60_000, "5.5", "2")])
    assert [each.volume for each in klines(tick(core, T0 + 60_000))] == ["1.0001"]
    assert int(core.symbols.qty_scale[0]) == 4, "a bar still needs it"
    for minute in range(2, 9):
        feed(core, [trade(minute + 1, T0 + minute * 60_000, "6", "3")])
        tick(core, T0 + minute * 60_000)
    list_(core, listed())
    feed(core, [trade(10, T0 + 9 * 60_000, "7", "4")])
    assert [(each.close, each.volume) for each in klines(tick(core, T0 + 9 * 60_000))] == [("6.00", "3.000")]
    assert (int(core.symbols.price_scale[0]), int(core.symbols.qty_scale[0])) == (2, 3)


def test_an_official_row_finer_than_listed_is_refused_and_changes_no_scale() -> None:
    core = new_core("1m")
    list_(core, listed())
    feed(core, [trade(1, T0, "100.10"), trade(3, T0 + 1000, "100.30"), trade(9, T0 + 2 * 60_000, "100.20")])
    tick(core, T0 + 3 * 60_000)
    row = (T0, "100.10", "100.30", "100.00", "100.20", "9.000", "900.1000000000001", 9, "1.000", "100.00000")
    send(core, "BTCUSDT", "1m", [row, (T0 + 60_000, *["100.20"] * 4, "0", "0", 0, "0", "0")])
    outputs = tick(core, T0 + 3 * 60_000 + 250)
    assert [each["kind"] for each in outputs.findings] == ["OVERFLOW"]
    assert (int(core.symbols.price_scale[0]), int(core.symbols.qty_scale[0])) == (2, 3)
    assert core.ledger.coverage.ranges[0].tolist() == [[T0 + 60_000], [T0 + 120_000]]


def test_decimals_that_quote_volumes_asked_for_go_to_the_prices_that_need_them() -> None:
    """Listed with no decimals, an official minute has quantities of 1 and a quote volume of 6: that makes 6 together,
    and says nothing of how many the prices may have. A trade at five decimals then fits, and so does a row at five."""
    core = new_core("1m")
    list_(core, Listing("BTCUSDT", T0 - 10**9, 0, 0, "TRADING", 10**13))
    feed(core, [trade(1, T0, "5", "1"), trade(4, T0 + 59_000, "5", "1"), trade(5, T0 + 60_000, "5", "1")])
    send(core, "BTCUSDT", "1m", [(T0, "5", "5.25", "5", "5.25", "2.5", "12.831275", 4, "0", "0")])
    tick(core, T0 + 60_000)
    assert core.symbols.price_scale[0] + core.symbols.qty_scale[0] == 6
    feed(core, [trade(6, T0 + 61_000, "5.12345", "0.5"), trade(7, T0 + 120_000, "5", "1")])
    outputs = tick(core, T0 + 125_000)
    assert outputs.findings == []
    assert (int(core.symbols.price_scale[0]), int(core.symbols.qty_scale[0])) == (5, 1)
    (kline,) = klines(outputs)
    assert (kline.high, kline.volume, kline.quote_volume) == ("5.12345", "1.5", "7.561725")
    row = (T0 + 120_000, "5", "5.00001", "4.99999", "5", "2.5", "12.500003", 4, "0", "0")
    send(core, "BTCUSDT", "1m", [row])
    feed(core, [trade(10, T0 + 179_000, "5", "1"), trade(11, T0 + 180_000, "5", "1")])
    outputs = tick(core, T0 + 185_000)
    assert outputs.findings == []
    assert [(each.low, each.quote_volume, each.standing) for each in klines(outputs)] == [
        ("4.99999", "12.500003", "official")
    ]


def test_decimals_go_from_prices_to_quantities_too() -> None:
    core = new_core("1m")
    list_(core, Listing("BTCUSDT", T0 - 10**9, 0, 0, "TRADING", 10**13))
    feed(core, [trade(1, T0, "5.1234", "1")])
    tick(core, T0 + 1_000)
    feed(core, [trade(2, T0 + 2_000, "5", "0.125")])
    assert [each["kind"] for each in tick(core, T0 + 3_000).findings] == ["OVERFLOW"], "a bar needs the price's four"
    for minute in range(1, 200):
        feed(core, [trade(minute + 2, T0 + minute * 60_000, "5", "1")])
        tick(core, T0 + minute * 60_000)
    feed(core, [trade(202, T0 + 200 * 60_000, "5", "0.125")])
    assert tick(core, T0 + 200 * 60_000).findings == []


def test_a_listing_takes_back_no_decimals_that_rows_are_waiting_for() -> None:
    """Official rows of a symbol without a trade wait for its bars to begin, and are whole then."""
    core = new_core("1m", "1h")
    flat = Listing("BTCUSDT", T0 - 10**9, 0, 0, "TRADING", 10**13)
    list_(core, flat)
    watermark(core, T0 + 9 * 60_000)
    tick(core, T0 + 9 * 60_000)
    send(core, "BTCUSDT", "1m", [(T0, "5.25", "5.5", "5.25", "5.5", "2.5", "13.374", 4, "0", "0")])
    tick(core, T0 + 9 * 60_000 + 1_000)
    list_(core, flat)
    tick(core, T0 + 9 * 60_000 + 2_000)
    feed(core, [trade(5, T0 + 10 * 60_000, "6", "1")])
    assert tick(core, T0 + 10 * 60_000 + 1_000).findings == []
    assert core.ledger.coverage.ranges[0].tolist() == [[T0], [T0 + 60_000]]
    feed(core, [trade(6, T0 + 3_600_000, "6", "1")])
    (bar,) = [each for each in klines(tick(core, T0 + 3_700_000)) if each.interval == "1h"]
    assert (bar.open, bar.quote_volume, bar.trades) == ("5.25", "19.374", 5)

"""Official minutes: after all of them came, every bar is what the exchange says, and no complete minute was touched."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator.publisher import Outputs
from klagg.cli.comparison import values_of_kline, values_of_official
from klagg.intervals import interval
from klagg.kline import Kline, differences
from klagg.recordings import open_klines, open_trades
from klagg.wire.entries import Listing, TradeRow, event_rows, listing_entries, official_entry, trades_entry_of_rows
from tests.aggregator.kit import T0, feed, klines, new_core, newest, raw, tick, trade, watermark
from tests.aggregator.officialkit import MINUTE, exchange_rows, nine, nine_of, send
from tests.aggregator.test_core import market

INTERVALS = ("1m", "5m", "1h")


def healed_run(seed: int, minutes: int) -> tuple[dict[str, list[TradeRow]], int, list[Outputs]]:
    """A market with losses; official minutes come at random, at last all of them. By symbol its trades; the end."""
    rng = random.Random(seed)
    rows = market(seed, 2, 5 * minutes, minutes * MINUTE)
    trades = {name: [row for row in rows if row.symbol == name] for name in ("S0USDT", "S1USDT")}
    trades = {name: own for name, own in trades.items() if own}
    core, said, late, at = new_core(*INTERVALS), [], [], 0
    for time_ms in range(T0, T0 + minutes * MINUTE, rng.choice((7_000, 25_000, 90_000))):
        part = []
        while at < len(rows) and rows[at].time <= time_ms:
            part.append(rows[at])
            at += 1
        late += (lost := [row for row in part if rng.random() < 0.1 and row != trades[row.symbol][0]])
        feed(core, [row for row in part if row not in lost])
        rng.shuffle(late)
        if rng.random() < 0.1:
            feed(core, late[:4])
            del late[:4]
        for name, own in trades.items():
            known = [row for row in own if row.time < time_ms // MINUTE * MINUTE]
            official = exchange_rows(known, "1m", T0, time_ms // MINUTE * MINUTE)
            if official and rng.random() < 0.15:
                start = rng.randrange(len(official))
                send(core, name, "1m", official[start : start + rng.randrange(1, 6)])
        said.append(tick(core, time_ms))
    end_ms = T0 + minutes * MINUTE
    feed(core, rows[at:])
    said.append(tick(core, end_ms))
    for name, own in trades.items():
        send(core, name, "1m", exchange_rows(own, "1m", T0, end_ms), T0, end_ms)
        said.append(tick(core, end_ms + 1000))
    feed(core, late)
    said += [tick(core, end_ms + 15_000), tick(core, end_ms + 20_000)]
    assert not core.ledger.gaps
    return trades, end_ms, said


def check_source(minutes: list[Kline], bar: Kline) -> None:
    """The source and fill ids of a longer bar, by its minutes."""
    official = [each for each in minutes if each.source != "own"]
    own = [each for each in minutes if each.source != "exchange" and each.trades]
    assert bar.source == ("own" if not official else "mixed" if own else "exchange")
    assert bar.first_trade_id == min((each.first_trade_id for each in own), default=-1)
    assert bar.last_trade_id == max((each.last_trade_id for each in own), default=-1)


@hypothesis_settings(max_examples=15)
@given(seed=st.integers(0, 2**32), minutes=st.integers(2, 65))
def test_after_all_official_minutes_every_bar_is_the_exchanges(seed: int, minutes: int) -> None:
    trades, end_ms, said = healed_run(seed, minutes)
    found = newest(klines(said))
    for name, own in trades.items():
        for length in INTERVALS:
            expected = exchange_rows(own, length, T0, end_ms)
            closed = [row for row in expected if interval(length).close_time(int(str(row[0]))) < end_ms]
            for row in closed:
                kline = found[name, length, int(str(row[0]))]
                assert nine(kline) == nine_of(row), kline
                assert (kline.complete, kline.official) == ((1, 0) if kline.source == "own" else (0, 1)), kline
                if length != "1m":
                    opens = range(max(kline.open_time, own[0].time // MINUTE * MINUTE), kline.close_time, MINUTE)
                    check_source([found[name, "1m", each] for each in opens], kline)
    assert not [finding for each in said for finding in each.findings]


@hypothesis_settings(max_examples=8)
@given(seed=st.integers(0, 2**32), minutes=st.integers(2, 40))
def test_a_complete_minute_is_never_replaced(seed: int, minutes: int) -> None:
    _, _, said = healed_run(seed, minutes)
    whole: dict[tuple[str, str, int], Kline] = {}
    for kline in klines(said):
        if kline.key in whole:
            assert (kline.source, nine(kline)) == ("own", nine(whole[kline.key]))
        if kline.interval == "1m" and kline.complete and kline.trades:
            whole[kline.key] = kline


@hypothesis_settings(max_examples=20)
@given(seed=st.integers(0, 2**32))
def test_the_order_of_entries_between_two_ticks_does_not_matter(seed: int) -> None:
    rng = random.Random(seed)
    rows = market(seed, 3, 120, 10 * MINUTE)
    one, other = new_core(*INTERVALS), new_core(*INTERVALS)
    for time_ms in (T0 + 5 * MINUTE, T0 + 10 * MINUTE):
        entries = []
        for name in ("S0USDT", "S1USDT", "S2USDT"):
            own = [row for row in rows if row.symbol == name and row.time < time_ms]
            official = exchange_rows(own, "1m", T0, time_ms)
            for row in rng.sample(official, len(official) // 2):
                opening = int(str(row[0]))
                entries.append(official_entry(name, "1m", opening, opening + MINUTE, [row]))
        part = [row for row in rows if time_ms - 5 * MINUTE <= row.time < time_ms and rng.random() < 0.8]
        entries += [trades_entry_of_rows([row], line="A", ids="agg", recv_ms=0) for row in part]
        mixed = [*entries, *rng.sample(entries, len(entries) // 3)]
        rng.shuffle(mixed)
        for core, order in ((one, entries), (other, mixed)):
            for entry in order:
                core.apply("1-1", raw(entry))
        assert tick(one, time_ms) == tick(other, time_ms)


def test_a_gap_all_of_whose_minutes_are_official_ends_as_healed() -> None:
    core = new_core("15s", "1m", "5m")
    rows = [trade(each, T0 + each * 20_000, str(each), "2") for each in range(1, 20)]
    feed(core, [row for row in rows if row.id not in (5, 6)])
    tick(core, T0 + 400_000)
    send(core, "BTCUSDT", "1m", exchange_rows(rows, "1m", T0 + MINUTE, T0 + 3 * MINUTE))
    outputs = tick(core, T0 + 400_250)
    closed = [row for each in outputs.events if each["kind"] == "gap_closed" for row in event_rows(each)]
    assert [(row["from_id"], row["to_id"], row["reason"]) for row in closed] == [("5", "6", "healed")]
    said = [(each.interval, each.open_time - T0, each.standing, each.source) for each in klines(outputs)]
    assert said == [
        ("15s", 105_000, "waiting", "exchange"),
        ("15s", 120_000, "waiting", "own"),
        ("1m", MINUTE, "official", "exchange"),
        ("1m", 2 * MINUTE, "official", "exchange"),
        ("5m", 0, "official", "mixed"),
    ], "of 15s the minute's close alone, and what carries it"
    feed(core, rows[4:6])
    outputs = tick(core, T0 + 401_000)
    assert not klines(outputs), "ids of a healed gap are known"
    assert (core.counts.duplicates, core.open_gaps) == (2, 0)


def test_parts_of_an_official_minute_are_never_called_complete() -> None:
    core = new_core("15s", "1m")
    rows = [trade(each, T0 + each * 20_000, str(each), "2") for each in range(1, 20)]
    feed(core, [row for row in rows if row.id not in (5, 6)])
    said = [tick(core, T0 + 400_000)]
    send(core, "BTCUSDT", "1m", exchange_rows(rows, "1m", T0, T0 + 3 * MINUTE))
    said += [tick(core, T0 + 400_250), tick(core, T0 + 401_000)]
    found = newest(klines(said))
    said_of = {key[2] - T0: each.standing for key, each in found.items() if key[1] == "15s"}
    assert [said_of[each] for each in (75_000, 90_000, 105_000, 120_000)] == ["waiting"] * 4
    assert said_of[180_000] == "complete"
    standings = [found["BTCUSDT", "1m", T0 + each * MINUTE].standing for each in range(6)]
    assert standings == ["complete", "official", "official", "complete", "complete", "complete"]


def test_a_trade_that_comes_after_its_official_minute_fills_its_gap_and_no_bar() -> None:
    core = new_core("1m", "5m")
    rows = [trade(each, T0 + each * 20_000, str(each), "2") for each in range(1, 20)]
    feed(core, [row for row in rows if row.id not in (4, 5, 6, 7)])
    tick(core, T0 + 400_000)
    send(core, "BTCUSDT", "1m", exchange_rows(rows, "1m", T0 + MINUTE, T0 + 2 * MINUTE))
    assert core.open_gaps == 1
    tick(core, T0 + 400_250)
    feed(core, rows[3:5])
    outputs = tick(core, T0 + 400_500)
    assert (core.counts.covered, core.open_gaps, klines(outputs)) == (2, 1, [])
    feed(core, rows[5:7])
    assert [(each.open_time - T0, each.standing, each.source) for each in klines(tick(core, T0 + 400_750))] == [
        (2 * MINUTE, "complete", "own"),
        (0, "official", "mixed"),
    ]


def test_flat_official_rows_beside_own_trades_are_an_exchange_gap() -> None:
    core = new_core("1m")
    feed(core, [trade(1, T0, "5"), trade(3, T0 + 1000, "6"), trade(4, T0 + MINUTE, "7")])
    before = klines(tick(core, T0 + 80_000))
    send(core, "BTCUSDT", "1m", [(T0, "5", "5", "5", "5", "0", "0", 0, "0", "0")])
    outputs = tick(core, T0 + 80_250)
    (finding,) = outputs.findings
    assert (finding["kind"], finding["severity"], finding["symbol"]) == ("EXCHANGE_GAP", "warning", "BTCUSDT")
    assert "flat where trades were seen, in the first of them 2 trades, volume 2, close 6" in finding["evidence"]
    assert before
    assert klines(outputs) == []
    send(core, "BTCUSDT", "1m", [(T0, "5", "5", "5", "5", "1", "5", 1, "0", "0")])
    outputs = tick(core, T0 + 80_500)
    assert not outputs.findings, "the exchange may count a fill of the minute's edge in the next one"
    assert [(each.trades, each.close, each.standing, each.source) for each in klines(outputs)] == [
        (1, "5", "official", "exchange")
    ]


def test_a_delisted_symbol_has_official_empty_bars_by_flat_rows() -> None:
    core = new_core("1m", "5m")
    rows = [trade(1, T0 + 1000, "5"), trade(2, T0 + 70_000, "6")]
    feed(core, rows)
    said = [tick(core, T0 + 10 * MINUTE)]
    assert newest(klines(said))["BTCUSDT", "1m", T0 + 5 * MINUTE].standing == "waiting"
    send(core, "BTCUSDT", "1m", exchange_rows(rows, "1m", T0 + 2 * MINUTE, T0 + 10 * MINUTE))
    said.append(tick(core, T0 + 10 * MINUTE + 250))
    assert newest(klines(said))["BTCUSDT", "1m", T0 + 5 * MINUTE].standing == "waiting", "its last minute is not proven"
    send(core, "BTCUSDT", "1m", exchange_rows(rows, "1m", T0 + MINUTE, T0 + 2 * MINUTE))
    said.append(tick(core, T0 + 10 * MINUTE + 500))
    found = newest(klines(said))
    first = found["BTCUSDT", "1m", T0]
    assert first.standing == "complete"
    assert {each.standing for each in found.values() if each is not first} == {"official"}
    assert {each.close for each in found.values() if each.open_time > T0} == {"6"}
    assert len(found) == 12


def test_rows_that_cannot_be_used_are_refused_with_a_finding_a_symbol() -> None:
    core = new_core("1m", window_minutes=30)
    feed(core, [trade(5, T0, "5")])
    tick(core, T0)
    tick(core, T0 + 40 * MINUTE)
    flat = ("5", "5", "5", "5", "0", "0", 0, "0", "0")
    send(core, "BTCUSDT", "1m", [(T0 + each * MINUTE, *flat) for each in (2, 3)])
    send(core, "BTCUSDT", "1m", [(T0 + 40 * MINUTE, *flat)])
    send(core, "BTCUSDT", "1h", [(T0 + 60 * MINUTE, *flat)])
    outputs = tick(core, T0 + 40 * MINUTE + 1)
    assert [(each["kind"], each["evidence"].split(", ")[2]) for each in outputs.findings] == [
        ("OFFICIAL_REFUSED", "are not closed yet"),
        ("OFFICIAL_REFUSED", "are older than the window"),
    ]


@pytest.mark.parametrize("day", ["2023-04-04_05", "2024-07-18_19"])
def test_recorded_trades_with_a_piece_cut_out_are_healed_by_the_exchanges_rows(realdata: Path, day: str) -> None:
    official = list(open_klines(realdata / f"official_um_klines_1m_btcusdt_{day}.csv"))[:7]
    recording = open_trades(realdata / f"um_trade_btcusdt_{day}.txt.gz")
    rows = [
        TradeRow("BTCUSDT", each.id, each.price, each.qty, each.id, each.id, each.time_ms, each.maker, each.counts)
        for each in recording
    ]
    cut = official[3].open_time_ms - 20_000, official[3].open_time_ms + 75_000
    core, said = new_core("1m", "5m"), []
    for start in range(0, len(rows), 500):
        part = [row for row in rows[start : start + 500] if not cut[0] <= row.time < cut[1]]
        feed(core, part, ids="trade")
        if part:
            said.append(tick(core, part[-1].time))
            watermark(core, part[-1].time)
    end_ms = rows[-1].time + 1000
    lacking = newest(klines([*said, tick(core, end_ms)]))
    assert [lacking["BTCUSDT", "1m", official[each].open_time_ms].complete for each in range(1, 6)] == [1, 0, 0, 0, 1]
    send(
        core,
        "BTCUSDT",
        "1m",
        [
            (
                row.open_time_ms,
                row.open,
                row.high,
                row.low,
                row.close,
                row.volume,
                row.quote_volume,
                row.trades,
                row.taker_buy_volume,
                row.taker_buy_quote_volume,
            )
            for row in official[1:6]
        ],
    )
    outputs = tick(core, end_ms + 1000)
    found = newest(klines([*said, outputs]))
    for at, row in enumerate(official[1:6], 1):
        kline = found["BTCUSDT", "1m", row.open_time_ms]
        assert not differences(values_of_kline(kline), values_of_official(row)), at
        assert (kline.standing, kline.source) == (("official", "exchange") if at in (2, 3, 4) else ("complete", "own"))
    assert "healed" in [each.get("reason") for each in outputs.events]


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_gap_at_the_front_of_the_ids_is_no_older_than_the_exchanges_first_row(in_pieces: bool) -> None:
    """It may be as old as the listing, and the exchange has no row before the first trade, so none could cover that."""
    core = new_core("1m", "5m")
    rows = [trade(each, T0 + 120_000 + each * 10_000, str(each)) for each in range(1, 20)]
    tick(core, T0)
    (listing,) = listing_entries([Listing("BTCUSDT", T0 + 1, 0, 0, "TRADING", 10**13)])
    core.apply("1-1", raw(listing))
    feed(core, rows[2:])
    tick(core, T0 + 320_000)
    assert core.open_gaps == 1
    rows_of_exchange = exchange_rows(rows, "1m", T0, T0 + 3 * MINUTE)
    assert rows_of_exchange[0][0] == T0 + 2 * MINUTE
    if in_pieces:
        send(core, "BTCUSDT", "1m", [], T0, T0 + MINUTE)
        send(core, "BTCUSDT", "1m", rows_of_exchange, T0 + MINUTE, T0 + 3 * MINUTE)
    else:
        send(core, "BTCUSDT", "1m", rows_of_exchange, T0, T0 + 3 * MINUTE)
    outputs = tick(core, T0 + 321_000)
    assert core.open_gaps == 0
    said = {(each.interval, each.open_time - T0): (each.standing, each.trades) for each in klines(outputs)}
    assert said["1m", 2 * MINUTE] == ("official", 5)
    assert said["5m", 0] == ("official", 17)


def test_a_listing_whose_first_trades_were_missed_begins_with_the_exchanges_first_trades() -> None:
    core = new_core("1m", "5m")
    rows = [trade(each, T0 + 130_000 + each * 50_000, str(each)) for each in range(1, 8)]
    tick(core, T0)
    (listing,) = listing_entries([Listing("BTCUSDT", T0 + 30_001, 0, 0, "TRADING", 10**13)])
    core.apply("1-1", raw(listing))
    watermark(core, T0 + 31_000)
    tick(core, T0 + 31_000)
    feed(core, rows[4:])
    said = [tick(core, T0 + 500_000)]
    assert min(each.open_time for each in klines(said)) == T0 + 6 * MINUTE, "from its own first trade on"
    official = exchange_rows(rows, "1m", T0, T0 + 8 * MINUTE)
    flat = [(T0 + minute * MINUTE, "1", "1", "1", "1", "0", "0", 0, "0", "0") for minute in range(3)]
    send(core, "BTCUSDT", "1m", [*flat, *official], T0, T0 + 8 * MINUTE)
    said.append(tick(core, T0 + 500_250))
    assert core.open_gaps == 0
    assert not [each for outputs in said for each in outputs.findings]
    found = {key: kline for key, kline in newest(klines(said)).items() if key[1] == "1m"}
    assert [key[2] - T0 for key in sorted(found)] == [minute * MINUTE for minute in (3, 4, 5, 6, 7)]
    for row in official:
        assert nine(found["BTCUSDT", "1m", int(str(row[0]))]) == nine_of(row)
    standings = [found[key].standing for key in sorted(found)]
    assert standings == ["official", "official", "official", "official", "complete"], "in the fourth the gap ends"
    five = newest(klines(said))["BTCUSDT", "5m", T0]
    assert (five.trades, five.standing, five.source) == (3, "official", "exchange")

"""Official minutes in the ring: what they replace, what longer and shorter bars get from them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from klagg.intervals import HOUR_MS, interval
from tests.aggregator.kit import T0, feed, klines, new_core, newest, tick, trade
from tests.aggregator.officialkit import MINUTE, exchange_rows, send


def test_the_same_values_make_the_own_minute_official() -> None:
    """Its ids stay, because its values do; but the id that is missing was not seen, so they do not prove it."""
    core = new_core("1m")
    rows = [trade(1, T0, "5"), trade(3, T0 + 1000, "6"), trade(4, T0 + MINUTE, "7")]
    feed(core, rows)
    tick(core, T0 + 80_000)
    send(core, "BTCUSDT", "1m", exchange_rows(rows, "1m", T0, T0 + 2 * MINUTE))
    outputs = tick(core, T0 + 2 * MINUTE)
    said = [(each.revision, each.standing, each.source, each.last_agg_id) for each in klines(outputs)]
    assert said == [(1, "official", "mixed", 3), (1, "official", "mixed", 4)]
    assert "confirmed" in [each["kind"] for each in outputs.events]


def test_a_row_with_more_trades_replaces_an_official_one_that_came_too_early() -> None:
    core = new_core("1m", "5m")
    feed(core, [trade(1, T0, "5"), trade(3, T0 + 2 * MINUTE, "6")])
    tick(core, T0 + 130_000)
    send(core, "BTCUSDT", "1m", [(T0 + MINUTE, "5", "8", "5", "8", "2", "13", 2, "0", "0")])
    tick(core, T0 + 131_000)
    send(core, "BTCUSDT", "1m", [(T0 + MINUTE, "5", "9", "5", "9", "3", "22", 3, "0", "0")])
    said = klines(tick(core, T0 + 132_000))
    assert [(each.open_time - T0, each.close, each.trades, each.revision) for each in said] == [(MINUTE, "9", 3, 3)]
    send(core, "BTCUSDT", "1m", [(T0 + MINUTE, "5", "8", "5", "8", "2", "13", 2, "0", "0")])
    assert klines(tick(core, T0 + 133_000)) == []
    send(core, "BTCUSDT", "1m", [(T0, "5", "5", "5", "5", "1", "5", 1, "1", "5")])
    send(core, "BTCUSDT", "1m", [(T0 + 2 * MINUTE, "6", "6", "6", "6", "1", "6", 1, "1", "6")])
    tick(core, T0 + 3 * MINUTE)
    (bar,) = [each for each in klines(tick(core, T0 + 310_000)) if each.interval == "5m"]
    assert (bar.high, bar.trades, bar.volume, bar.quote_volume, bar.source) == ("9", 5, "5", "33", "mixed")


def test_a_sum_beyond_64_bits_breaks_the_longer_bar() -> None:
    core = new_core("1m", "5m")
    feed(core, [trade(1, T0), trade(2, T0 + 1000)])
    tick(core, T0 + 1000)
    big = str(2**61)[:18] + "0"[:0]
    row = ("1", "1", "1", "1", big, big, 3, "0", "0")
    for minute in range(6):
        send(core, "BTCUSDT", "1m", [(T0 + minute * MINUTE, *row)])
    outputs = tick(core, T0 + 6 * MINUTE)
    assert not [each for each in outputs.findings if each["kind"] != "OVERFLOW"]
    (bar,) = [each for each in klines([outputs, tick(core, T0 + 7 * MINUTE)]) if each.interval == "5m"]
    assert Decimal(bar.volume) == 5 * Decimal(big) or not bar.whole


@pytest.mark.parametrize("out_ms", [64_000, 90_000], ids=["before the empty bars are out", "after"])
def test_an_official_minute_gives_its_close_to_shorter_bars_behind_it(out_ms: int) -> None:
    """They are empty, and proven once the gap before them is filled: they must not carry the close of a bar that lacks
    its last trade."""
    core = new_core("15s", "1m")
    rows = [
        trade(1, T0 + 1_000, "10"),
        trade(2, T0 + 50_000, "11"),
        trade(3, T0 + 55_000, "12"),
        trade(4, T0 + 100_000, "13"),
    ]
    feed(core, rows[:2])
    said = [tick(core, T0 + out_ms)]
    send(core, "BTCUSDT", "1m", exchange_rows(rows, "1m", T0, T0 + MINUTE))
    said.append(tick(core, T0 + 91_000))
    feed(core, rows[3:])
    said.append(tick(core, T0 + 101_000))
    feed(core, rows[2:3])
    said.append(tick(core, T0 + 102_000))
    assert core.counts.covered == 1, "the missing trade came, and its minute is official"
    found = newest(klines(said))
    last, behind = found["BTCUSDT", "15s", T0 + 45_000], found["BTCUSDT", "15s", T0 + 60_000]
    assert (last.open, last.high, last.low, last.close, last.trades, last.complete) == ("11", "12", "11", "12", 1, 0)
    assert last.source == "mixed"
    assert (behind.close, behind.trades, behind.standing, behind.source) == ("12", 0, "complete", "own")
    assert (found["BTCUSDT", "1m", T0].source, found["BTCUSDT", "1m", T0].standing) == ("exchange", "official")


def test_an_official_part_of_a_longer_bar_does_not_prove_the_price_behind_a_gap_elsewhere_in_it() -> None:
    """The bar of five minutes has an official first minute; its last one lacks a fill, and the fill behind that counts
    in no kline. So nothing shows the close that the next, empty bar carries, until the missing fill comes."""
    core, at = new_core("1m", "5m"), T0 + 4 * MINUTE
    rows = [trade(4, T0 + 1_000, "2"), trade(6, at + 1_000, "5"), trade(7, at + 2_000, "6")]
    insurance, later = replace(trade(8, at + 2_001, "9"), counts=False), trade(9, T0 + 10 * MINUTE, "7")
    feed(core, [trade(3, T0 - 1_000, "2"), rows[0], rows[1], insurance], ids="trade")
    said = [tick(core, at + 3_000)]
    send(core, "BTCUSDT", "1m", [(T0, "2", "3", "2", "3", "2", "5", 2, "0", "0")])
    said.append(tick(core, at + 4_000))
    feed(core, [later], ids="trade")
    said += [tick(core, T0 + 10 * MINUTE), tick(core, T0 + 10 * MINUTE + 20_000)]
    empty = "BTCUSDT", "5m", T0 + 5 * MINUTE
    held = newest(klines(said))
    assert held["BTCUSDT", "5m", T0].source == "mixed"
    assert (held[empty].close, held[empty].trades, held[empty].complete) == ("5", 0, 0)
    feed(core, [rows[2]], ids="trade")
    said.append(tick(core, T0 + 10 * MINUTE + 21_000))
    assert (newest(klines(said))[empty].close, newest(klines(said))[empty].complete) == ("6", 1)


@pytest.mark.parametrize("missing_counts", [False, True], ids=["the same values", "a trade more"])
def test_a_longer_bar_stays_official_when_its_covered_minute_is_forgotten(missing_counts: bool) -> None:
    """Covered minutes are forgotten behind the window; the hour that holds one is no own proof all the same."""
    hour = interval("1h")
    start = hour.open_time(T0) + HOUR_MS
    core = new_core("1m", "1h", window_minutes=10)
    rows = [trade(each, start + (each - 2) * 20_000, str(each)) for each in range(1, 370)]
    seen = [row for row in rows if row.id != 6]
    said = []
    for minute in range(123):
        time_ms = start + minute * MINUTE
        feed(core, [row for row in seen if time_ms - MINUTE <= row.time < time_ms])
        said.append(tick(core, time_ms))
        if minute == 3:
            official = exchange_rows(rows if missing_counts else seen, "1m", start + MINUTE, start + 2 * MINUTE)
            send(core, "BTCUSDT", "1m", official)
        if minute == 50:
            assert not core.ledger.coverage.ranges, "it is older than the window"
    found = newest(klines(said))
    first, second = (found["BTCUSDT", "1h", start + at * HOUR_MS] for at in (0, 1))
    assert (first.standing, first.source, first.trades) == ("official", "mixed", 179 + missing_counts)
    assert (second.standing, second.source) == ("complete", "own")
    minutes = {(found["BTCUSDT", "1m", start + at * MINUTE].standing, at) for at in range(60)}
    assert {at for standing, at in minutes if standing == "official"} == {1}
    assert found["BTCUSDT", "1m", start + MINUTE].source == ("exchange" if missing_counts else "mixed")

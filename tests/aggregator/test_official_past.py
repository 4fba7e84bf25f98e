"""A cold start: the exchange's own minutes, hours and days before the first trade seen live, in any order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg.intervals import interval
from klagg.kline import NINE_VALUES, Kline
from klagg.wire.entries import Listing, Request, TradeRow, listing_entries, live_value_of, request_of
from tests.aggregator.kit import T0, feed, klines, new_core, newest, raw, tick, trade, watermark
from tests.aggregator.officialkit import DAY, HOUR, MINUTE, Row, exchange_rows, nine, nine_of, send

INTERVALS = ("5s", "1m", "5m", "1h", "4h", "1d", "3d", "1w", "1M")
LONG = INTERVALS[1:]
NEW_YEAR = 1_704_067_200_000
"""2024-01-01 00:00 UTC, a Monday, on which bars of every interval open: 3d, 1w and 1M too."""
NAME = "BTCUSDT"


def history(rng: random.Random, listed_ms: int, end_ms: int, dense_ms: int) -> list[TradeRow]:
    """One symbol's trades from its listing on, few before `dense_ms` and many after it."""
    times = {rng.randrange(listed_ms, dense_ms) for _ in range(rng.randrange(1, 200)) if listed_ms < dense_ms}
    times |= {rng.randrange(max(listed_ms, dense_ms - HOUR), end_ms) for _ in range(150)} | {listed_ms}
    rows, fill = [], rng.randrange(10**6)
    for number, time_ms in enumerate(sorted(times), rng.randrange(2, 10**6)):
        fills = rng.choice((1, 1, 3))
        price, qty = f"{rng.randrange(1, 10**5) / 100:.2f}", f"{rng.randrange(1, 10**4) / 10:.1f}"
        rows.append(TradeRow(NAME, number, price, qty, fill, fill + fills - 1, time_ms, rng.random() < 0.5))
        fill += fills
    return rows


def pieces(rng: random.Random, rows: list[TradeRow], first_ms: int) -> list[tuple[str, list[Row], int, int]]:
    """What is asked at a cold start, cut into answers: M1 is the minute after `first_ms`."""
    whole_ms = first_ms // MINUTE * MINUTE + MINUTE
    hour_ms, day_ms = first_ms // HOUR * HOUR, first_ms // DAY * DAY
    earliest_ms = min(interval(name).open_time(first_ms) for name in INTERVALS)
    asked = [("1m", hour_ms, whole_ms), ("1h", day_ms, hour_ms), ("1d", earliest_ms, day_ms)]
    found = []
    for name, start_ms, end_ms in asked:
        length = interval(name).length_ms
        while start_ms < end_ms:
            stop_ms = min(end_ms, start_ms + rng.choice((1, 3, 7, 100)) * length)
            found.append((name, exchange_rows(rows, name, start_ms, stop_ms), start_ms, stop_ms))
            start_ms = stop_ms
    return found


@dataclass
class ColdStart:
    """A core joining midway: what it said, and the newest value of every bar that it shows in progress."""

    core: Core = field(default_factory=lambda: new_core(*INTERVALS, live_long_ms=0))
    said: list[Outputs] = field(default_factory=list)
    bars: dict[str, dict[str, str]] = field(default_factory=dict)

    def tick(self, time_ms: int) -> None:
        outputs = tick(self.core, time_ms)
        self.said.append(outputs)
        self.bars |= {name: live_value_of(value) for name, value in outputs.bars.items()}

    def check(self, rows: list[TradeRow], first_ms: int, now_ms: int) -> None:
        """Every bar that was open at the start or opened since is the exchange's: published or in progress."""
        found = newest(klines(self.said))
        for name in LONG:
            kind = interval(name)
            opening = kind.open_time(first_ms)
            for row in exchange_rows(rows, name, opening, now_ms):
                end_ms = kind.close_time(int(str(row[0]))) + 1
                if end_ms + 15_000 < now_ms:
                    kline = found[NAME, name, int(str(row[0]))]
                    assert nine(kline) == nine_of(row), kline
                    assert kline.whole == (end_ms <= rows[-1].time), kline
                    assert not kline.whole or (kline.complete == 1) == (kline.source == "own"), kline
                elif end_ms > now_ms and row[7]:
                    shown = self.bars[f"{NAME}:{name}"]
                    assert shown["open_time"] == str(row[0])
                    assert tuple(Decimal(shown[each]) for each in NINE_VALUES) == nine_of(row), (name, shown)
        assert min(each.open_time for each in found.values() if each.interval == "1m") == first_ms // MINUTE * MINUTE


def run(seed: int, joined_ms: int, listed_ms: int) -> ColdStart:
    """Join at `joined_ms`; trades go on until an hour and three minutes later, answers come in any order."""
    rng = random.Random(seed)
    end_ms = joined_ms + HOUR + 3 * MINUTE
    rows = history(rng, listed_ms, end_ms - 1000, joined_ms)
    live = [row for row in rows if row.time >= joined_ms]
    first_ms, cold = live[0].time, ColdStart()
    answers = pieces(rng, rows, first_ms)
    answers += rng.sample(answers, len(answers) // 2)
    rng.shuffle(answers)
    start_ms = (first_ms // MINUTE + 1) * MINUTE + 1000
    due = sorted(rng.randrange(start_ms, end_ms - 10 * MINUTE) for _ in answers)
    for time_ms in range(joined_ms, end_ms, rng.choice((20_000, 45_000, 90_000))):
        feed(cold.core, [row for row in live if row.time <= time_ms])
        live = [row for row in live if row.time > time_ms]
        while due and due[0] <= time_ms:
            due.pop(0)
            name, part, from_ms, to_ms = answers.pop()
            send(cold.core, NAME, name, part, from_ms, to_ms)
        cold.tick(time_ms)
    feed(cold.core, live)
    for _ in LONG:  # long bars are shown in turns
        cold.tick(end_ms)
    assert not due
    assert not [each for outputs in cold.said for each in (*outputs.findings, *outputs.dead)]
    cold.check(rows, first_ms, end_ms)
    return cold


@hypothesis_settings(max_examples=12)
@given(seed=st.integers(0, 2**32), minutes=st.integers(2, 58), days=st.sampled_from([0, 1, 2, 6, 20, 30, 40]))
def test_across_the_boundary_of_every_interval(seed: int, minutes: int, days: int) -> None:
    """Joined up to an hour before a new year's Monday: every bar closes, and is whole."""
    joined_ms = NEW_YEAR - minutes * MINUTE + seed % MINUTE
    run(seed, joined_ms, joined_ms - days * DAY - 7 * MINUTE - seed % 50_000)


@hypothesis_settings(max_examples=6)
@given(seed=st.integers(0, 2**32), days=st.sampled_from([0, 1, 3, 40]))
def test_anywhere_in_a_month(seed: int, days: int) -> None:
    joined_ms = 1_708_000_000_000 + seed % (20 * DAY)
    run(seed, joined_ms, joined_ms - days * DAY - seed % (3 * HOUR))


@hypothesis_settings(max_examples=5)
@given(minutes=st.sampled_from([0, 1, 59, 60, 61, 119]), seed=st.integers(0, 2**16))
def test_around_the_hours_and_the_days_beginning(seed: int, minutes: int) -> None:
    joined_ms = NEW_YEAR + minutes * MINUTE
    run(seed, joined_ms, joined_ms - 33 * DAY)


def joined_at(joined_ms: int) -> tuple[ColdStart, list[TradeRow]]:
    """Joined in the middle of a history of 40 days, without any answer yet."""
    rng, cold = random.Random(5), ColdStart()
    rows = history(rng, joined_ms - 40 * DAY, joined_ms + HOUR, joined_ms)
    feed(cold.core, [row for row in rows if joined_ms <= row.time < joined_ms + 10 * MINUTE])
    cold.tick(joined_ms + 10 * MINUTE)
    return cold, rows


def test_rows_missing_in_the_middle_break_the_chain() -> None:
    joined_ms = NEW_YEAR - 90 * MINUTE
    cold, rows = joined_at(joined_ms)
    first_ms = next(row.time for row in rows if row.time >= joined_ms)
    start = int(cold.core.ledger.start_time[0])
    assert start == first_ms
    for name, part, from_ms, to_ms in pieces(random.Random(1), rows, first_ms):
        kept = [row for row in part if not (name == "1h" and row[0] == NEW_YEAR - 10 * HOUR)]
        send(cold.core, NAME, name, kept, from_ms, to_ms)
    cold.tick(joined_ms + 11 * MINUTE)
    assert int(cold.core.ledger.start_time[0]) == NEW_YEAR - 9 * HOUR - 1
    missing = exchange_rows(rows, "1h", NEW_YEAR - 10 * HOUR, NEW_YEAR - 9 * HOUR)
    send(cold.core, NAME, "1h", missing)
    cold.tick(joined_ms + 12 * MINUTE)
    assert int(cold.core.ledger.start_time[0]) < interval("1M").open_time(first_ms)


def test_rows_of_a_longer_kind_are_used_once_and_never_after_the_start() -> None:
    joined_ms = NEW_YEAR - 90 * MINUTE
    cold, rows = joined_at(joined_ms)
    day = exchange_rows(rows, "1d", NEW_YEAR - 2 * DAY, NEW_YEAR - DAY)
    send(cold.core, NAME, "1d", day)
    cold.tick(joined_ms + 11 * MINUTE)
    month = dict(cold.bars[f"{NAME}:1M"])
    send(cold.core, NAME, "1d", day)
    send(cold.core, NAME, "1h", exchange_rows(rows, "1h", NEW_YEAR - 2 * DAY, NEW_YEAR - DAY))
    cold.tick(joined_ms + 12 * MINUTE)
    assert cold.bars[f"{NAME}:1M"]["trades"] == month["trades"]
    send(cold.core, NAME, "1h", exchange_rows(rows, "1h", NEW_YEAR - 2 * HOUR, NEW_YEAR - HOUR))
    cold.tick(NEW_YEAR - 30 * MINUTE)
    (finding,) = cold.said[-1].findings
    assert (finding["kind"], "before what was seen live" in finding["evidence"]) == ("OFFICIAL_REFUSED", True)


def test_a_row_across_used_ones_is_refused() -> None:
    joined_ms = NEW_YEAR - 90 * MINUTE
    cold, rows = joined_at(joined_ms)
    send(cold.core, NAME, "1h", exchange_rows(rows, "1h", NEW_YEAR - 2 * DAY, NEW_YEAR - 2 * DAY + 3 * HOUR))
    send(cold.core, NAME, "1d", exchange_rows(rows, "1d", NEW_YEAR - 2 * DAY, NEW_YEAR - DAY))
    cold.tick(joined_ms + 11 * MINUTE)
    (finding,) = cold.said[-1].findings
    assert "overlap" in finding["evidence"]


def quiet(*extra: Row, joined_ms: int = NEW_YEAR - 20 * MINUTE) -> ColdStart:
    """A symbol that is marked and has no trade; the exchange's flat rows of this hour up to its first watermark."""
    cold = ColdStart()
    watermark(cold.core, joined_ms, NAME)
    cold.tick(joined_ms)
    flat = ("5", "5", "5", "5", "0", "0", 0, "0", "0")
    start_ms = joined_ms // HOUR * HOUR
    rows = [(each, *flat) for each in range(start_ms, joined_ms // MINUTE * MINUTE + MINUTE, MINUTE)]
    send(cold.core, NAME, "1m", [*rows, *extra])
    cold.tick(joined_ms + 63_000)
    return cold


def found_of(cold: ColdStart) -> dict[tuple[str, int], Kline]:
    return {(key[1], key[2] - NEW_YEAR): each for key, each in newest(klines(cold.said)).items()}


def test_a_symbol_without_trades_begins_behind_its_official_rows() -> None:
    cold = quiet()
    cold.tick(NEW_YEAR - 10 * MINUTE)
    found = found_of(cold)
    minutes = sorted(opening for name, opening in found if name == "1m")
    assert minutes == list(range(-19 * MINUTE, -10 * MINUTE, MINUTE))[: len(minutes)]
    assert {each.close for each in found.values()} == {"5"}
    assert {each.standing for each in found.values()} == {"waiting"}
    rows = [(NEW_YEAR - each * MINUTE, "5", "5", "5", "5", "0", "0", 0, "0", "0") for each in range(19, 10, -1)]
    send(cold.core, NAME, "1m", rows)
    cold.tick(NEW_YEAR - 10 * MINUTE + 250)
    found = found_of(cold)
    assert {found["1m", opening].standing for opening in minutes} == {"official"}
    assert {found["1m", opening].source for opening in minutes} == {"exchange"}


def test_without_rows_up_to_its_first_watermark_it_waits_for_them() -> None:
    cold = ColdStart()
    watermark(cold.core, NEW_YEAR - 20 * MINUTE, NAME)
    flat = ("5", "5", "5", "5", "0", "0", 0, "0", "0")
    send(cold.core, NAME, "1h", [(NEW_YEAR - each * HOUR, *flat) for each in (3, 2)])
    cold.tick(NEW_YEAR - 18 * MINUTE)
    cold.tick(NEW_YEAR - 5 * MINUTE)
    assert klines(cold.said) == []
    assert len(cold.core.official.waiting) == 2
    send(cold.core, NAME, "1m", [(NEW_YEAR - each * MINUTE, *flat) for each in range(60, 19, -1)])
    send(cold.core, NAME, "1h", [], NEW_YEAR - DAY, NEW_YEAR - 3 * HOUR)
    cold.tick(NEW_YEAR - 4 * MINUTE)
    assert len(cold.core.official.waiting) == 0
    assert min(each.open_time for each in klines(cold.said) if each.interval == "1m") == NEW_YEAR - 19 * MINUTE
    assert int(cold.core.ledger.start_time[0]) == NEW_YEAR - 3 * HOUR - 1


@pytest.mark.parametrize(("lacking", "begins"), [(None, -19), (15, -13), (20, -18)])
def test_a_late_answer_begins_a_symbol_without_trades_with_its_first_watermark(
    lacking: int | None, begins: int
) -> None:
    """With its first whole minute, or behind the first row that has no gap behind it."""
    cold = ColdStart()
    watermark(cold.core, NEW_YEAR - 20 * MINUTE + 30_000, NAME)
    for minute in (20, 15, 10, 5):
        cold.tick(NEW_YEAR - minute * MINUTE + 2000)
    rows: list[Row] = [
        (NEW_YEAR - each * MINUTE, str(each), str(each), str(each), str(each), "0", "0", 0, "0", "0")
        for each in range(60, 5, -1)
        if each != lacking
    ]
    rows[-3] = (NEW_YEAR - 8 * MINUTE, "8", "9", "8", "8", "3", "25", 2, "3", "25")
    send(cold.core, NAME, "1m", rows)
    cold.tick(NEW_YEAR - 5 * MINUTE + 3000)
    found = {opening // MINUTE: each for (name, opening), each in found_of(cold).items() if name == "1m"}
    assert sorted(found) == list(range(begins, -5))
    assert {(each.source, each.standing) for each in found.values()} == {("exchange", "official")}
    assert [found[minute].close for minute in sorted(found)] == [str(-minute) for minute in sorted(found)]
    assert (found[-8].trades, found[-8].high) == (2, "9")


def test_the_first_trade_of_a_quiet_symbol_joins_up_with_its_official_past() -> None:
    cold = quiet()
    first = TradeRow(NAME, 77, "7", "2", 77, 77, NEW_YEAR - 10 * MINUTE + 5_000, False)
    feed(cold.core, [first, TradeRow(NAME, 78, "8", "1", 78, 78, NEW_YEAR + 1000, False)])
    for minute in range(10, -1, -1):
        cold.tick(NEW_YEAR - minute * MINUTE + 1500)
    cold.tick(NEW_YEAR + 11_000)
    assert found_of(cold)["1h", -HOUR].standing == "waiting"
    flat = ("5", "5", "5", "5", "0", "0", 0, "0", "0")
    rows: list[Row] = [(NEW_YEAR - each * MINUTE, *flat) for each in range(60, 10, -1)]
    rows.append((NEW_YEAR - 10 * MINUTE, "7", "7.5", "7", "7.5", "3", "21.5", 2, "3", "21.5"))
    send(cold.core, NAME, "1m", rows)
    cold.tick(NEW_YEAR + 12_000)
    hour = found_of(cold)["1h", -HOUR]
    assert (hour.open, hour.high, hour.close, hour.trades, hour.standing, hour.source) == (
        "7.0",
        "7.5",
        "7.5",
        2,
        "official",
        "exchange",
    )
    assert found_of(cold)["4h", -4 * HOUR].standing == "waiting", "nothing is known of its first three hours"


@pytest.mark.parametrize("answered", [True, False])
def test_only_where_the_exchange_has_nothing_at_all_it_was_listed_then(answered: bool) -> None:
    """Minutes that begin within the hour may be a listing or a gap of the exchange: longer rows tell."""
    joined_ms = NEW_YEAR - 20 * MINUTE
    cold, rows = joined_at(joined_ms)
    first_ms = next(row.time for row in rows if row.time >= joined_ms)
    whole_ms = first_ms // MINUTE * MINUTE + MINUTE
    minutes = exchange_rows(rows, "1m", NEW_YEAR - 30 * MINUTE, whole_ms)
    send(cold.core, NAME, "1m", minutes, NEW_YEAR - HOUR, whole_ms)
    if answered:
        send(cold.core, NAME, "1h", [], NEW_YEAR - DAY, NEW_YEAR - HOUR)
        send(cold.core, NAME, "1d", [], NEW_YEAR - 40 * DAY, NEW_YEAR - DAY)
    cold.tick(joined_ms + 12 * MINUTE)
    start_ms = int(cold.core.ledger.start_time[0])
    assert start_ms == (-(2**63) if answered else NEW_YEAR - 30 * MINUTE - 1)


def test_a_symbol_without_trades_misses_no_minute_while_the_exchange_does_not_answer() -> None:
    """Not even over the turn of an hour: what is asked for then reaches back to its first watermark."""
    joined_ms, core, said = NEW_YEAR + 26 * HOUR - 7 * MINUTE + 10_000, new_core("1m", "1h", "1d"), []
    before = TradeRow(NAME, 40, "6.50", "1.0", 40, 40, joined_ms - 2 * HOUR, False)
    for each in listing_entries([Listing(NAME, NEW_YEAR, 2, 1, "TRADING", 4 * 10**12)]):
        assert not list(core.apply("1-1", raw(each)))
    wanted: list[Request] = []
    for second in range(0, 2 * 3600, 2):
        now_ms = joined_ms + second * 1000
        watermark(core, now_ms, NAME)
        for one in wanted if second > 15 * 60 else []:
            rows = exchange_rows([before], one.interval, one.first, one.last)
            send(core, NAME, one.interval, rows, one.first, one.last)
        said.append(tick(core, now_ms))
        wanted = [request_of(raw(each)) for each in said[-1].requests]
    assert not [finding for each in said for finding in each.findings]
    found, first_ms = newest(klines(said)), joined_ms // MINUTE * MINUTE + MINUTE
    minutes = [key[2] for key in found if key[1] == "1m"]
    assert minutes == list(range(first_ms, minutes[-1] + MINUTE, MINUTE))
    proven = [key for key in found if key[2] <= joined_ms + HOUR]
    assert {(found[key].whole, found[key].close) for key in proven} == {(True, "6.50")}
    assert {key[1] for key in proven} == {"1m", "1h"}


@pytest.mark.parametrize("first_seen_s", [500, 3650, 10**6])
def test_what_happened_before_the_first_trade_that_is_known_is_asked_for(first_seen_s: int) -> None:
    """No id proves the minutes between the start and a symbol's first trade, and a trade that was lost among them opens
    no gap: only the exchange's klines can tell. The hour may be over by then, or the trade may never come."""
    joined_ms, end_s = NEW_YEAR + 26 * HOUR + 10_000, 5000
    lost = TradeRow(NAME, 41, "7.50", "2.0", 41, 41, joined_ms + 200_000, False)
    seen = TradeRow(NAME, 42, "8.50", "3.0", 42, 43, joined_ms + first_seen_s * 1000, True)
    later = TradeRow(NAME, 43, "8.25", "1.0", 44, 44, joined_ms + (end_s - 100) * 1000, True)
    before = TradeRow(NAME, 40, "6.50", "1.0", 40, 40, joined_ms - 2 * HOUR, False)
    traded = [before, lost, *([seen, later] if first_seen_s < end_s else [])]
    core, said = new_core("1m", "1h"), []
    wanted: list[Request] = []
    for each in listing_entries([Listing(NAME, NEW_YEAR, 2, 1, "TRADING", 4 * 10**12)]):
        assert not list(core.apply("1-1", raw(each)))
    for second in range(0, end_s, 2):
        now_ms = joined_ms + second * 1000
        watermark(core, now_ms, NAME)
        feed(core, [row for row in traded[2:] if now_ms - 2000 < row.time <= now_ms])
        for one in wanted:
            rows = exchange_rows(traded, one.interval, one.first, one.last)
            send(core, NAME, one.interval, rows, one.first, one.last)
        said.append(tick(core, now_ms))
        wanted = [request_of(raw(each)) for each in said[-1].requests]
    found = newest(klines(said))
    whole = joined_ms // MINUTE * MINUTE
    proven_ms = later.time if len(traded) > 2 else joined_ms + (end_s - 700) * 1000
    for name, start_ms in (("1m", whole + MINUTE), ("1h", whole // HOUR * HOUR)):
        rows = exchange_rows(traded, name, start_ms, proven_ms // interval(name).length_ms * interval(name).length_ms)
        assert len(rows) >= 1
        for row in rows:
            kline = found[NAME, name, int(str(row[0]))]
            assert (kline.whole, nine(kline)) == (True, nine_of(row)), kline


def test_bars_do_not_begin_earlier_once_rows_of_the_past_are_used() -> None:
    """The first fill that is seen counts in no kline, the next one is missing at first. An official minute that came
    meanwhile is in the hour and not in five minutes whose bar had not begun: that bar may not begin any more."""
    core = new_core("1m", "5m", "1h")
    feed(core, [trade(10, T0 + 4 * MINUTE + 1000, counts=False), trade(12, T0 + 5 * MINUTE, "12")], ids="trade")
    tick(core, T0 + 5 * MINUTE + 1000)
    send(core, NAME, "1m", [(T0, "5", "6", "4", "5", "7", "35", 7, "0", "0")])
    said = [tick(core, T0 + 5 * MINUTE + 2000)]
    feed(core, [trade(11, T0 + 4 * MINUTE + 2000, "11")], ids="trade")
    said.append(tick(core, T0 + 5 * MINUTE + 3000))
    flat = [(T0 + each * MINUTE, *["5"] * 4, "0", "0", 0, "0", "0") for each in (1, 2, 3)]
    send(core, NAME, "1m", [*flat, (T0 + 4 * MINUTE, *["11"] * 4, "1", "11", 1, "1", "11")])
    said.append(tick(core, T0 + 5 * MINUTE + 4000))
    feed(core, [trade(13, T0 + HOUR, "13")], ids="trade")
    said.append(tick(core, T0 + HOUR))
    found = newest(klines(said))
    assert (NAME, "5m", T0) not in found
    hour = found[NAME, "1h", T0]
    assert (hour.open, hour.trades, hour.quote_volume, hour.official) == ("5", 9, "58", 1)

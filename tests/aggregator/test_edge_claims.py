"""The exchange's split of an aggTrade at a close is adopted where own ids prove it, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from aggregator.checkpoint import Checkpoint, restore
from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg import settings
from klagg.edge_splits import runs, values_of
from klagg.intervals import INTERVALS, MINUTE, MINUTE_MS, Interval
from klagg.kline import Kline, Values, differences
from klagg.wire.entries import EDGE_ROWS_MAX, OFFICIAL_COLUMNS, TradeRow, edges_entry
from klagg.wire.findings import FindingKind
from tests.aggregator.kit import T0, feed, klines, new_core, newest, raw, tick, trade
from tests.auditors.test_classify import LASTING, Fill, market, official

END = T0 + LASTING * MINUTE_MS
FIRST = T0 - 2 * MINUTE_MS
"""The first trade that klagg sees of the symbol, of a minute of its own."""


def claim(core: Core, theirs: dict[int, Values], *opens: int, **changes: str) -> None:
    """The exchange's rows of these minutes, as the auditor writes them; `changes` replace values of the first."""
    rows = [[str({"open_time": at, **theirs[at]}[name]) for name in OFFICIAL_COLUMNS] for at in opens]
    for name, value in changes.items():
        rows[0][OFFICIAL_COLUMNS.index(name)] = value
    assert not list(core.apply("1-1", raw(edges_entry("BTCUSDT", rows))))


def straddling(close_ms: int, *, then: int = 0) -> list[TradeRow]:
    """Trades around a close: aggTrade 3 has fills 3 to 6, of which three are behind it; another trade follows."""
    return [
        trade(1, close_ms - 90_000, "99", "2"),
        trade(2, close_ms - 30_000, "101", "1"),
        trade(3, close_ms - 50, "100", "4", last=6),
        trade(4, close_ms + 20_000 + then, "102", "1", first=7, last=7),
        trade(5, close_ms + MINUTE_MS + 1_000, "103", "1", first=8, last=8),
    ]


def fills_around(close_ms: int) -> list[Fill]:
    """The fills of `straddling`, at their own times."""
    at = [close_ms - 90_000, close_ms - 30_000, close_ms - 50, *(close_ms + by for by in (10, 20, 30, 20_000))]
    prices = ["99", "101", "100", "100", "100", "100", "102"]
    qtys = ["2", "1", "1", "1", "1", "1", "1"]
    return [
        Fill(number, time, Decimal(price), Decimal(qty), False)
        for number, (time, price, qty) in enumerate(zip(at, prices, qtys, strict=True), 1)
    ]


def rows_of(fills: Sequence[Fill], interval: Interval, *opens: int) -> dict[int, Values]:
    """What the exchange says of these bars: it folds fills, by their own times."""
    found: dict[int, Values] = {}
    for opening in opens:
        inside = [each for each in fills if opening <= each.time <= interval.close_time(opening)]
        prices = [each.price for each in inside]
        quotes = [each.price * each.qty for each in inside]
        volume = sum((each.qty for each in inside), Decimal(0))
        quote = sum(quotes, Decimal(0))
        found[opening] = {
            "open": prices[0],
            "high": max(prices),
            "low": min(prices),
            "close": prices[-1],
            "volume": volume,
            "quote_volume": quote,
            "trades": len(inside),
            "taker_buy_volume": volume,
            "taker_buy_quote_volume": quote,
        }
    return found


def after(close_ms: int, *intervals: str, **changes: Any) -> tuple[Core, list[Outputs]]:
    """A core that has published the minutes on both sides of a straddled close."""
    core = Core(settings.Aggregator(intervals=intervals or ("1m",), **changes), epoch=1)
    rows = straddling(close_ms)
    feed(core, rows[:1])
    said = [tick(core, close_ms - 80_000)]
    feed(core, rows[1:])
    said.append(tick(core, close_ms + MINUTE_MS + 2_000))
    return core, said


def minutes_at(close_ms: int) -> dict[int, Values]:
    return rows_of(fills_around(close_ms), INTERVALS["1m"], close_ms - MINUTE_MS, close_ms)


CLOSES = {
    "1m": 1_699_999_260_000,
    "5m": 1_699_999_500_000,
    "1h": 1_700_002_800_000,
    "1d": 1_700_006_400_000,
    "1w": 1_700_438_400_000,
    "1M": 1_701_388_800_000,
}
"""A close of each interval, that is none of the longer ones."""


@pytest.mark.parametrize("name", CLOSES)
def test_every_bar_that_cuts_there_gets_the_exchange_s_split(name: str) -> None:
    close_ms = CLOSES[name]
    core, said = after(close_ms, *CLOSES)
    before = newest(klines(said))
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs)
    outputs = tick(core, close_ms + MINUTE_MS + 3_000)
    amended = {kline.key: kline for kline in klines(outputs)}
    cuts = [each for each in CLOSES if INTERVALS[each].open_time(close_ms) == close_ms]
    assert name in cuts
    assert {key[1] for key in amended} == set(cuts)
    for (_, interval, opening), kline in amended.items():
        was = before["BTCUSDT", interval, opening]
        assert (kline.revision, kline.complete) == (was.revision + 1, was.complete)
        if opening < close_ms:
            (row,) = rows_of(fills_around(close_ms), INTERVALS[interval], opening).values()
            assert not differences(values_of(kline), row)
            assert kline.last_trade_id == 3
            assert kline.edge.startswith(">3:3:3:100;3:3:6:")
    assert not [each for each in theirs if differences(values_of(amended["BTCUSDT", "1m", each]), theirs[each])]
    later = amended["BTCUSDT", "1m", close_ms]
    assert (later.first_agg_id, later.first_trade_id, later.edge) == (3, 4, "<3:3:3:100")
    assert {event["kind"] for event in outputs.events} == {"amended", "tick"}
    assert (outputs.findings, core.counts.edges) == ([], 1)


@pytest.mark.parametrize("name", ["5m", "1h"])
def test_a_bar_in_progress_gets_it_too(name: str) -> None:
    """The bar that opens at the close is published with the exchange's split from the first time on."""
    close_ms, kind = CLOSES[name], INTERVALS[name]
    core, _ = after(close_ms, "1m", name)
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs)
    tick(core, close_ms + MINUTE_MS + 3_000)
    end_ms = kind.close_time(close_ms) + 1
    feed(core, [trade(6, end_ms + 1_000, "104", "1", first=9, last=9)])
    closed = newest(klines(tick(core, end_ms + 2_000)))["BTCUSDT", name, close_ms]
    fills = [*fills_around(close_ms), Fill(8, close_ms + MINUTE_MS + 1_000, Decimal(103), Decimal(1), False)]
    (row,) = rows_of(fills, kind, close_ms).values()
    assert not differences(values_of(closed), row)
    assert (closed.revision, closed.complete, closed.edge) == (1, 1, "<3:3:3:100")


def test_bars_of_seconds_get_it_while_they_are_held() -> None:
    close_ms = CLOSES["1m"]
    core, said = after(close_ms, "1s", "1m")
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs)
    amended = {kline.key: kline for kline in klines(tick(core, close_ms + MINUTE_MS + 3_000))}
    assert sorted((key[1], key[2] - close_ms) for key in amended) == [
        ("1m", -60_000),
        ("1m", 0),
        ("1s", -1_000),
        ("1s", 0),
    ]
    second = amended["BTCUSDT", "1s", close_ms]
    assert (second.trades, second.volume, second.open, second.close) == (3, "3", "100", "100")
    assert newest(klines(said))["BTCUSDT", "1s", close_ms].trades == 0


def test_asking_twice_changes_nothing() -> None:
    close_ms = CLOSES["5m"]
    core, _ = after(close_ms, "1m", "5m")
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs)
    claim(core, theirs, *theirs)
    first = tick(core, close_ms + MINUTE_MS + 3_000)
    assert len(first.klines) == 3
    claim(core, theirs, *theirs)
    second = tick(core, close_ms + MINUTE_MS + 4_000)
    assert (second.klines, second.findings, second.dead, core.counts.edges) == ([], [], [], 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"volume": "3.1"},
        {"quote_volume": "301.1"},
        {"trades": "3"},
        {"taker_buy_volume": "1.9"},
        {"taker_buy_quote_volume": "200.5"},
        {"open": "100"},
        {"high": "102"},
        {"low": "99"},
        {"close": "101"},
    ],
)
def test_one_digit_off_is_refused_and_nothing_changes(changes: dict[str, str]) -> None:
    close_ms = CLOSES["5m"]
    core, _ = after(close_ms, "1m", "5m")
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs, **changes)
    outputs = tick(core, close_ms + MINUTE_MS + 3_000)
    assert outputs.klines == []
    assert core.counts.edges == 0
    if outputs.dead:  # a row that cannot be a kline
        assert "cannot be used" in outputs.dead[0]["reason"]
    else:
        (finding,) = outputs.findings
        assert (finding["kind"], finding["symbol"]) == (FindingKind.OFFICIAL_REFUSED, "BTCUSDT")
        assert "no fill is moved" in finding["evidence"]
    claim(core, theirs, *theirs)
    assert len(tick(core, close_ms + MINUTE_MS + 4_000).klines) == 3, "the right claim holds all the same"


def test_a_second_claim_that_says_otherwise_is_refused() -> None:
    """Of one close the ids prove one split."""
    close_ms = CLOSES["1m"]
    core, _ = after(close_ms)
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs)
    tick(core, close_ms + MINUTE_MS + 3_000)
    fills = [replace(each, time=close_ms - 40) if each.id == 4 else each for each in fills_around(close_ms)]
    other = rows_of(fills, INTERVALS["1m"], *theirs)
    claim(core, other, *other)
    outputs = tick(core, close_ms + MINUTE_MS + 4_000)
    assert outputs.klines == []
    assert [finding["kind"] for finding in outputs.findings] == [FindingKind.OFFICIAL_REFUSED]


def test_a_late_trade_behind_an_adoption_adds_to_it() -> None:
    """Trade 4 had an earlier id and a later time than one that came before it: the ids proved the bar too early. The
    moved fills stay where they are."""
    close_ms = CLOSES["5m"]
    core, _ = after(close_ms, "1m", "5m")
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs)
    tick(core, close_ms + MINUTE_MS + 3_000)
    feed(core, [trade(6, close_ms + 30_000, "90", "1", first=9, last=9)])
    amended = {kline.key: kline for kline in klines(tick(core, close_ms + MINUTE_MS + 4_000))}
    later = amended["BTCUSDT", "1m", close_ms]
    assert (later.open, later.low, later.close, later.volume, later.trades) == ("100", "90", "90", "5", 5)
    assert (later.revision, later.first_trade_id, later.edge) == (3, 4, "<3:3:3:100")
    feed(core, [trade(7, close_ms - 20_000, "80", "1", first=10, last=10)])
    amended = {kline.key: kline for kline in klines(tick(core, close_ms + MINUTE_MS + 5_000))}
    for name in ("1m", "5m"):
        kline = amended["BTCUSDT", name, close_ms - INTERVALS[name].length_ms]
        assert (kline.low, kline.close, kline.last_trade_id) == ("80", "80", 10)
        assert kline.edge.startswith(">3:3:3:100;")


def test_a_claim_about_a_bar_that_is_not_proven_changes_nothing_until_it_is() -> None:
    close_ms = CLOSES["1m"]
    core = new_core("1m")
    rows = straddling(close_ms)
    feed(core, rows[:1])
    tick(core, close_ms - 80_000)
    feed(core, [rows[2], *rows[3:]])
    tick(core, close_ms + 2 * MINUTE_MS)
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs)
    passed_over = tick(core, close_ms + 2 * MINUTE_MS + 1_000)
    assert (passed_over.findings, passed_over.klines) == ([], [])
    feed(core, rows[1:2])
    assert {kline.complete for kline in klines(tick(core, close_ms + 2 * MINUTE_MS + 2_000))} == {1}
    claim(core, theirs, *theirs)
    said = tick(core, close_ms + 2 * MINUTE_MS + 3_000)
    found = newest(klines(said))
    assert not [each for each in theirs if differences(values_of(found["BTCUSDT", "1m", each]), theirs[each])]
    assert all(kline.complete for kline in found.values())


def test_a_restart_between_replays_to_the_same() -> None:
    """Once from a checkpoint before the claim, once from one behind it."""
    close_ms = CLOSES["1h"]
    theirs = minutes_at(close_ms)

    def through(core: Core) -> list[dict[str, str]]:
        claim(core, theirs, *theirs)
        said = [tick(core, close_ms + MINUTE_MS + 3_000)]
        return [*said[0].klines, *behind(core)]

    def behind(core: Core) -> list[dict[str, str]]:
        end_ms = close_ms + 5 * MINUTE_MS
        feed(core, [trade(6, close_ms + 30_000, "90", "1", first=9, last=9)])
        feed(core, [trade(7, end_ms + 1, "104", "1", first=10, last=10)])
        return [*tick(core, close_ms + MINUTE_MS + 4_000).klines, *tick(core, end_ms + 2_000).klines]

    def again(core: Core) -> Core:
        kept = Checkpoint(core)
        fresh = new_core(*CLOSES)
        restore(fresh, kept.header, [kept.block(number) for number in range(kept.blocks)])
        return fresh

    core, _ = after(close_ms, *CLOSES)
    whole = through(core)
    assert any(each["edge"].startswith("<") for each in whole)
    core, _ = after(close_ms, *CLOSES)
    assert through(again(core)) == whole
    core, _ = after(close_ms, *CLOSES)
    claim(core, theirs, *theirs)
    first = tick(core, close_ms + MINUTE_MS + 3_000).klines
    assert [*first, *behind(again(core))] == whole


def test_own_edges_stay_by_setting() -> None:
    close_ms = CLOSES["1m"]
    core, _ = after(close_ms, edges="own")
    theirs = minutes_at(close_ms)
    claim(core, theirs, *theirs)
    outputs = tick(core, close_ms + MINUTE_MS + 3_000)
    assert (outputs.klines, outputs.findings, outputs.dead) == ([], [], [])


def test_what_is_no_claim_goes_to_dead() -> None:
    close_ms = CLOSES["1m"]
    core, _ = after(close_ms)
    theirs = minutes_at(close_ms)
    claim(core, theirs, close_ms)
    claim(core, {**theirs, close_ms + 5 * MINUTE_MS: theirs[close_ms]}, close_ms, close_ms + 5 * MINUTE_MS)
    many = {close_ms + at * MINUTE_MS: theirs[close_ms] for at in range(EDGE_ROWS_MAX + 1)}
    claim(core, many, *many)
    reasons = [each["reason"] for each in tick(core, close_ms + MINUTE_MS + 3_000).dead]
    assert ["needs 2 to 60 minutes" in each for each in reasons] == [True, False, True]
    assert "do not follow each other" in reasons[1]


def test_a_claim_about_bars_that_are_not_held_changes_nothing() -> None:
    close_ms = CLOSES["1m"]
    core, _ = after(close_ms)
    theirs = {at + 10 * MINUTE_MS: row for at, row in minutes_at(close_ms).items()}
    claim(core, theirs, *theirs)
    rows = [[str({"open_time": at, **row}[name]) for name in OFFICIAL_COLUMNS] for at, row in theirs.items()]
    core.apply("1-1", raw(edges_entry("NEVERUSDT", rows)))
    outputs = tick(core, close_ms + MINUTE_MS + 3_000)
    assert (outputs.findings, outputs.klines, outputs.dead) == ([], [], [])
    assert "NEVERUSDT" not in core.symbols.names


@pytest.mark.parametrize("seed", range(8))
def test_a_market_full_of_splits(seed: int) -> None:
    """Every minute of a market that the exchange says differently, in one claim a run; the longer bars too."""
    rows, fills = market(seed)
    core = new_core("1m", "5m", "15m")
    feed(core, [TradeRow("BTCUSDT", 1, "100", "1", 0, 0, FIRST, False), *(replace(row, id=row.id + 1) for row in rows)])
    feed(core, [TradeRow("BTCUSDT", len(rows) + 2, "100", "1", 10**9, 10**9, END + 1, False)])
    said = [tick(core, time_ms) for time_ms in range(T0, END + MINUTE_MS, MINUTE_MS)]
    theirs = official(fills)
    ours = newest(klines(said))

    def different(found: dict[tuple[str, str, int], Kline]) -> list[int]:
        return [at for at in theirs if differences(values_of(found["BTCUSDT", "1m", at]), theirs[at])]

    found = list(runs(MINUTE, {at: ours["BTCUSDT", "1m", at] for at in theirs}, theirs))
    assert len(found) > 2
    for run in found:
        claim(core, theirs, *(each.open_time for each in run.klines))
    said.append(tick(core, END + 2 * MINUTE_MS))
    assert (said[-1].findings, said[-1].dead) == ([], [])
    left = different(newest(klines(said)))
    assert left == [at for at in theirs if left and at >= left[0]]  # a run that goes on behind the last bar
    assert len(left) < 5 < len(different(ours))
    for name in ("5m", "15m"):
        kind = INTERVALS[name]
        for (_, interval, opening), kline in newest(klines(said)).items():
            inside = range(opening, kind.close_time(opening), MINUTE_MS)
            if interval == name and opening >= T0 and kind.close_time(opening) < END and not set(inside) & set(left):
                volume = sum((Decimal(theirs[at]["volume"] or 0) for at in inside), Decimal(0))
                assert Decimal(kline.volume) == volume
                assert kline.trades == sum(int(theirs[at]["trades"] or 0) for at in inside)

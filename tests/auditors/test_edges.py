"""The exchange's split of aggTrades at a close: the auditor asks for it, the aggregator adopts it, and nobody minds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest

from aggregator.core import Core
from auditors.amended import Amendment
from auditors.classify import EDGE_SHIFT
from auditors.completeness import Completeness
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from klagg.edge_splits import is_adopted, values_of
from klagg.intervals import INTERVALS, MINUTE, MINUTE_MS
from klagg.kline import Kline, Values, differences
from klagg.settings import Aggregator, Settings
from klagg.wire.entries import (
    OFFICIAL_COLUMNS,
    TradeRow,
    edges_entry,
    listing_entries,
    tick_entry,
    trades_entry_of_rows,
    watermark_entry,
)
from klagg.wire.fields import Fields
from tests.aggregator.kit import T0, raw
from tests.auditors.exchangekit import END, World, listing
from tests.auditors.kit import Said, judged, judged_with_restarts, numbered
from tests.auditors.test_classify import Fill, market, official

NAME = "BTCUSDT"
CONFIG = Aggregator(intervals=("1m", "5m", "15m", "1h"))
SETTINGS = Settings(aggregator=CONFIG)


@dataclass
class Pipeline:
    """An aggregator that is fed a market, and the auditor of the exchange behind it. `claims` are the auditor's."""

    seed: int
    settings: Settings = SETTINGS
    said: list[Said] = field(default_factory=list)
    claims: list[Fields] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows, self.fills = market(self.seed)
        first = TradeRow(NAME, 1, "100", "1", 0, 0, T0 - 2 * MINUTE_MS, False)
        last = TradeRow(NAME, len(rows) + 2, "100", "1", 10**9, 10**9, END + 1, False)
        self.rows = [first, *(replace(row, id=row.id + 1) for row in rows), last]
        self.core = Core(self.settings.aggregator, epoch=1)
        self.world = World(listings=[listing(NAME)], settings=self.settings)
        self.world.theirs[NAME, "1m"] = dict(official(self.fills))
        self.put(*listing_entries([listing(NAME)]))

    def put(self, *entries: Fields) -> None:
        """Entries of the feed, and what the aggregator says to them, which the table takes in."""
        for fields in entries:
            for outputs in self.core.apply("1-1", raw(fields)):
                outputs.encode()
                assert not outputs.dead
                self.said += [Said("klines", entry) for entry in outputs.klines]
                self.said += [Said("events", entry) for entry in outputs.events]
                self.findings = outputs.findings
                for kline in map(Kline.from_fields, outputs.klines):
                    self.world.ours.setdefault((NAME, kline.interval), {})[kline.open_time] = kline

    def run(self, *, audited: bool) -> None:
        """The market, minute after minute; the auditor looks at what is over."""
        at = 0
        for time_ms in range(T0 - 2 * MINUTE_MS, END + 5 * MINUTE_MS, MINUTE_MS // 4):
            begin = at
            while at < len(self.rows) and self.rows[at].time <= time_ms:
                at += 1
            if begin < at:
                self.put(trades_entry_of_rows(self.rows[begin:at], line="A", ids="agg", recv_ms=time_ms))
            self.put(watermark_entry("A", [NAME], time_ms), tick_entry(time_ms))
            if audited and time_ms > T0 + 3 * MINUTE_MS:
                self.look(time_ms)

    def look(self, time_ms: int) -> None:
        """The auditor's next looks at the minutes that are over; what it claims goes into the feed."""
        theirs = self.world.theirs[NAME, "1m"]
        kept, self.world.theirs[NAME, "1m"] = theirs, {at: row for at, row in theirs.items() if at + 90_000 < time_ms}
        self.world.edges = []
        self.world.lap(time_ms)
        self.world.theirs[NAME, "1m"] = kept
        for opens in self.world.edges:
            rows = [[str({"open_time": each, **theirs[each]}[name]) for name in OFFICIAL_COLUMNS] for each in opens]
            self.claims.append(edges_entry(NAME, rows))
        self.put(*self.claims[len(self.claims) - len(self.world.edges) :])

    def different(self) -> list[int]:
        """The minutes in the table that are not the exchange's."""
        ours, theirs = self.world.ours[NAME, "1m"], self.world.theirs[NAME, "1m"]
        return [at for at in theirs if differences(values_of(ours[at]), theirs[at])]


def as_exchange_says(fills: list[Fill], name: str, opening: int) -> Values:
    """The sums of a longer bar, by the times of its fills."""
    inside = [each for each in fills if opening <= each.time <= INTERVALS[name].close_time(opening)]
    return {
        "open": inside[0].price,
        "close": inside[-1].price,
        "high": max(each.price for each in inside),
        "low": min(each.price for each in inside),
        "volume": sum((each.qty for each in inside), Decimal(0)),
        "quote_volume": sum((each.qty * each.price for each in inside), Decimal(0)),
        "trades": len(inside),
    }


@pytest.mark.parametrize("seed", range(4))
def test_what_the_auditor_explains_is_exact_in_the_end(seed: int) -> None:
    line = Pipeline(seed)
    line.run(audited=True)
    assert len(line.claims) == len({str(each) for each in line.claims}) > 3, "each once"
    left = line.different()
    assert left == [
        at for at in line.world.theirs[NAME, "1m"] if left and at >= left[0]
    ]  # it goes on behind the last row
    assert len(left) < 3
    assert line.core.counts.edges >= len(line.claims)
    for at in (at for at in line.world.ours[NAME, "1m"] if line.world.ours[NAME, "1m"][at].revision > 1):
        line.world.audit.amended.note(  # as the table of amendments tells it
            [Amendment(NAME, "1m", at, line.world.ours[NAME, "1m"][at].version, at)], line.world.audit.schedule
        )
    line.look(END + 6 * MINUTE_MS)
    counts = line.world.day_counts[NAME, "1m"].counts
    moved = [at for at, kline in line.world.ours[NAME, "1m"].items() if is_adopted(kline) and at not in left]
    assert (counts["adopted"], counts["edge_shift"], counts["unexplained"]) == (len(moved), len(left), 0)
    for name in ("5m", "15m"):
        for opening, kline in line.world.ours[NAME, name].items():
            if opening >= T0 and INTERVALS[name].close_time(opening) < (left[0] if left else END):
                assert kline.complete == 1
                assert not differences(values_of(kline), as_exchange_says(line.fills, name, opening))


@pytest.mark.parametrize("judge", [Completeness, Lifecycle])
@pytest.mark.parametrize("seed", range(4))
def test_the_auditors_of_streams_find_nothing_in_it(seed: int, judge: type[Judge]) -> None:
    line = Pipeline(seed)
    line.run(audited=True)
    entries = numbered(line.said)
    assert [each.evidence for each in judged(judge(SETTINGS), entries)] == []
    every = random.Random(seed).randrange(2, 30)
    assert [each.evidence for each in judged_with_restarts(lambda: judge(SETTINGS), entries, every)] == []


def test_own_edges_are_asked_for_by_nobody() -> None:
    line = Pipeline(1, Settings(aggregator=replace(CONFIG, edges="own")))
    line.run(audited=True)
    assert line.claims == []
    assert len(line.different()) > 5
    assert line.world.counts["edge_shift"] > 5


def test_a_new_run_of_the_auditor_may_ask_again_and_changes_nothing() -> None:
    line = Pipeline(2)
    line.run(audited=True)
    before = len(line.said)
    line.put(*line.claims, tick_entry(END + 6 * MINUTE_MS))
    assert not [each for each in line.said[before:] if each.stream == "klines" and int(each.fields["open_time"]) < END]
    assert (line.findings, line.different()) == ([], [])


def test_what_the_aggregator_does_not_hold_any_more_is_not_asked_for() -> None:
    line = Pipeline(1, Settings(aggregator=replace(CONFIG, window_minutes=20)))
    line.run(audited=False)
    line.look(END + 25 * MINUTE_MS)
    assert line.claims == []
    assert line.world.day_counts[NAME, "1m"].counts[EDGE_SHIFT.lower()] > 5


def test_a_row_that_is_one_digit_off_stays_a_finding() -> None:
    line = Pipeline(1)
    line.run(audited=False)
    ours, theirs = line.world.ours[NAME, "1m"], line.world.theirs[NAME, "1m"]
    at = next(each for each in line.different() if int(ours[each].trades) > int(theirs[each]["trades"] or 0))
    theirs[at] = {**theirs[at], "volume": Decimal(theirs[at]["volume"] or 0) + Decimal("0.001")}
    line.look(END + 10 * MINUTE_MS)
    line.put(tick_entry(END + 11 * MINUTE_MS))
    assert at in line.different()
    assert not [each for each in line.claims if str(at) in each["open_time"].split(",")]
    found = [each for each in line.world.findings if each.place == f"{MINUTE.name}/{at}"]
    assert [each.kind for each in found] == ["UNEXPLAINED"]

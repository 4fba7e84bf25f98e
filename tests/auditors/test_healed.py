"""Beside an official minute: fills at its close are where the exchange counts them, and elsewhere where we do."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from auditors.classify import EDGE_SHIFT, EXACT, LATE, UNSEEN_ID, Comparison, healed_edges, puzzling, unseen
from klagg.edge_splits import AMOUNTS, Edge, values_of
from klagg.intervals import INTERVALS, MINUTE, MINUTE_MS
from klagg.kline import DECIMAL_FIELDS, Kline, Values, differences
from klagg.wire.findings import FindingKind
from tests.aggregator.kit import T0
from tests.auditors.exchangekit import half_an_hour
from tests.auditors.test_classify import LASTING

FIVE = INTERVALS["5m"]


def healed(kline: Kline, row: Values) -> Kline:
    """Our minute with the exchange's values; the edge evidence of our own trades stays."""
    values: dict[str, Any] = {name: str(row[name]) for name in DECIMAL_FIELDS}
    return replace(kline, **values, trades=int(row["trades"] or 0), source="mixed")


def kinds(ours: dict[int, Kline], theirs: dict[int, Values]) -> dict[int, str]:
    comparison = Comparison(MINUTE, ours, theirs)
    return {each.open_time: each.kind for each in comparison.verdicts(T0, T0 + LASTING * MINUTE_MS)}


@pytest.mark.parametrize("seed", range(6))
def test_any_minute_may_have_been_healed(seed: int) -> None:
    """Its own values are the exchange's; what it lost to its neighbours, or they to it, is proven by the edges."""
    bars, theirs = half_an_hour(seed)
    moved, plain = 0, kinds(bars, theirs)
    for at in sorted(bars)[1:-1]:
        if all(plain[each] == EDGE_SHIFT for each in bars if each > at):
            continue  # it is not known where what came in went
        ours = {**bars, at: healed(bars[at], theirs[at])}
        found = kinds(ours, theirs)
        assert found[at] == EXACT
        assert set(found.values()) <= {EXACT, EDGE_SHIFT}, (seed, at, found)
        moved += bool(differences(values_of(bars[at]), theirs[at]))
    assert moved > 1


@pytest.mark.parametrize("seed", range(6))
def test_the_aggtrade_at_the_close_may_be_lost_with_the_healed_minute(seed: int) -> None:
    """Nobody saw it, so there is no edge of it; its later fills are at one price, with which the exchange's bar opens.
    Where the bars behind it, that would tell what left again, are not there yet, it is too early to judge."""
    bars, theirs = half_an_hour(seed)
    explained = early = 0
    for at in sorted(bars)[1:-2]:
        ours = {**bars, at: replace(healed(bars[at], theirs[at]), source="exchange", edge="")}
        found = kinds(ours, theirs)
        if found[at + MINUTE_MS] == EDGE_SHIFT and bars[at].edge and found.keys() == bars.keys():
            explained += any(each.id == UNSEEN_ID for each in came_of(ours, theirs, at + MINUTE_MS))
        if found[at + MINUTE_MS] in (EDGE_SHIFT, FindingKind.UNEXPLAINED):
            short = {each: bar for each, bar in ours.items() if each <= at + MINUTE_MS}
            (told,) = Comparison(MINUTE, short, theirs, at + 3 * MINUTE_MS).verdicts(at + MINUTE_MS, at + 2 * MINUTE_MS)
            assert told.kind in (EDGE_SHIFT, LATE), told
            early += told.kind == LATE
    assert explained > 1
    assert early > 1


def came_of(ours: dict[int, Kline], theirs: dict[int, Values], at: int) -> list[Edge]:
    """The aggTrade, if a single one that nobody saw tells all by which our bar is short."""
    short = {name: Decimal(theirs[at][name] or 0) - Decimal(values_of(ours[at])[name] or 0) for name in AMOUNTS}
    return unseen(short, Decimal(theirs[at]["open"] or 0))


def test_fills_that_no_single_aggtrade_can_have_are_none() -> None:
    fills = {
        "trades": Decimal(2),
        "volume": Decimal("3"),
        "quote_volume": Decimal("30.3"),
        "taker_buy_volume": Decimal(3),
        "taker_buy_quote_volume": Decimal("30.3"),
    }
    (edge,) = unseen(fills, Decimal("10.1"))
    assert (edge.fills, edge.maker, edge.price) == (3, False, Decimal("10.1"))
    for wrong in (
        {"trades": Decimal(0)},
        {"volume": Decimal(0)},
        {"quote_volume": Decimal("30.2")},
        {"taker_buy_volume": Decimal(1)},
        {"taker_buy_quote_volume": Decimal(0)},
    ):
        assert unseen(fills | wrong, Decimal("10.1")) == []


def test_beside_own_minutes_a_lost_fill_stays_unexplained() -> None:
    """The allowance is for the neighbours of official rows alone."""
    bars, theirs = half_an_hour(2)
    found = kinds(bars, theirs)
    at = next(
        each
        for each in sorted(found)[1:-1]
        if found[each] == EDGE_SHIFT and found[each - MINUTE_MS] == EXACT and bars[each].edge
    )
    ours = {**bars, at: replace(healed(bars[at], theirs[at]), source="own")}
    assert FindingKind.UNEXPLAINED in set(kinds(ours, theirs).values())


def folded(minutes: list[Kline]) -> Kline:
    """Their longer bar."""
    sums: dict[str, Any] = {
        name: str(sum(Decimal(getattr(each, name)) for each in minutes)) for name in AMOUNTS if name != "trades"
    }
    source = "own" if all(each.source == "own" for each in minutes) else "mixed"
    return replace(
        minutes[0],
        interval="5m",
        close_time=FIVE.close_time(minutes[0].open_time),
        close=minutes[-1].close,
        high=str(max(Decimal(each.high) for each in minutes)),
        low=str(min(Decimal(each.low) for each in minutes)),
        trades=sum(each.trades for each in minutes),
        source=source,
        edge=minutes[-1].edge,
        **sums,
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_longer_bar_whose_minute_was_healed_says_so(seed: int) -> None:
    """A minute in its middle is official: fills at its close are missing inside the longer bar, or there twice."""
    bars, rows = half_an_hour(seed)
    explained = 0
    for opening in range(FIVE.open_time(T0) + FIVE.length_ms, T0 + (LASTING - 5) * MINUTE_MS, FIVE.length_ms):
        minutes = {each: bars[each] for each in range(opening, opening + FIVE.length_ms, MINUTE_MS)}
        theirs = {opening: values_of(folded(list(minutes.values())))}
        at = opening + 2 * MINUTE_MS
        minutes[at] = healed(bars[at], rows[at])
        ours = {opening: folded(list(minutes.values()))}
        wrong = {each.name for each in differences(values_of(ours[opening]), theirs[opening])}
        if not wrong or not wrong <= set(AMOUNTS):
            continue
        assert puzzling(FIVE, ours, theirs) == [opening]
        (blind,) = Comparison(FIVE, ours, theirs).verdicts(opening, opening + 1)
        (told,) = Comparison(FIVE, ours, theirs, minutes=minutes).verdicts(opening, opening + 1)
        assert blind.kind == FindingKind.UNEXPLAINED
        explained += 1
        assert told.kind == EDGE_SHIFT
        assert "beside minutes that its rows healed" in told.evidence
        off = {opening: {**theirs[opening], "trades": int(theirs[opening]["trades"] or 0) + 100}}
        (wrong_trades,) = Comparison(FIVE, ours, off, minutes=minutes).verdicts(opening, opening + 1)
        assert wrong_trades.kind == FindingKind.UNEXPLAINED
    assert explained > 0


def test_own_bars_are_no_puzzle() -> None:
    bars, rows = half_an_hour(1)
    assert puzzling(MINUTE, bars, rows) == []
    assert puzzling(FIVE, bars, rows) == []
    assert healed_edges(bars, T0, T0 + LASTING * MINUTE_MS) == ([], [])

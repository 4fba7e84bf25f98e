"""Beside an official minute: fills at its close are where the exchange counts them, and elsewhere where we do."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from auditors.classify import AMOUNTS, EDGE_SHIFT, EXACT, UNEXPLAINED, Comparison, healed_edges, puzzling, values_of
from klagg.compare import Values, differences
from klagg.intervals import INTERVALS, MINUTE, MINUTE_MS
from klagg.kline import DECIMAL_FIELDS, Kline
from tests.aggregator.kit import T0
from tests.auditors.exchangekit import half_an_hour
from tests.auditors.test_classify import LASTING

FIVE = INTERVALS["5m"]


def healed(kline: Kline, row: Values) -> Kline:
    """Our minute with the exchange's values; the edge evidence of our own trades stays."""
    values = {name: str(row[name]) for name in DECIMAL_FIELDS}
    return replace(kline, **values, trades=int(row["trades"] or 0), source="mixed")


def kinds(ours: dict[int, Kline], theirs: dict[int, Values]) -> dict[int, str]:
    comparison = Comparison(MINUTE, ours, theirs)
    return {each.open_time: each.kind for each in comparison.verdicts(T0, T0 + LASTING * MINUTE_MS)}


def both_ways(bars: dict[int, Kline], theirs: dict[int, Values]) -> set[int]:
    """Minutes into which and out of which fills were shifted: there the sum does not tell what came."""
    found = Comparison(MINUTE, bars, theirs).verdicts(T0, T0 + LASTING * MINUTE_MS)
    return {each.open_time for each in found if "in from" in each.evidence and "out to" in each.evidence}


@pytest.mark.parametrize("seed", range(6))
def test_almost_any_minute_may_have_been_healed(seed: int) -> None:
    """Its own values are the exchange's; what it lost to its neighbours, or they to it, is proven by the edges."""
    bars, theirs = half_an_hour(seed)
    unclear, moved = both_ways(bars, theirs), 0
    for at in sorted(bars)[1:-1]:
        if at + MINUTE_MS in unclear:
            continue
        ours = {**bars, at: healed(bars[at], theirs[at])}
        found = kinds(ours, theirs)
        assert found[at] == EXACT
        assert set(found.values()) <= {EXACT, EDGE_SHIFT}, (seed, at, found)
        moved += bool(differences(values_of(bars[at]), theirs[at]))
    assert moved >= 3


def test_beside_own_minutes_a_lost_fill_stays_unexplained() -> None:
    """The allowance is for the neighbours of official rows alone."""
    bars, theirs = half_an_hour(2)
    found = kinds(bars, theirs)
    at = next(
        each for each in sorted(found)[1:-1]
        if found[each] == EDGE_SHIFT and found[each - MINUTE_MS] == EXACT and bars[each].edge
    )  # fmt: skip
    ours = {**bars, at: replace(healed(bars[at], theirs[at]), source="own")}
    assert UNEXPLAINED in set(kinds(ours, theirs).values())


def folded(minutes: list[Kline]) -> Kline:
    """Their longer bar."""
    sums = {
        name: str(sum(Decimal(getattr(each, name)) for each in minutes)) for name in AMOUNTS if name != "trades"
    }  # fmt: skip
    source = "own" if all(each.source == "own" for each in minutes) else "mixed"
    return replace(
        minutes[0], interval="5m", close_time=FIVE.close_time(minutes[0].open_time), close=minutes[-1].close,
        high=str(max(Decimal(each.high) for each in minutes)), low=str(min(Decimal(each.low) for each in minutes)),
        trades=sum(each.trades for each in minutes), source=source, edge=minutes[-1].edge, **sums,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
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
        assert blind.kind == UNEXPLAINED
        explained += told.kind == EDGE_SHIFT
        assert told.kind == UNEXPLAINED or "beside a minute that the exchange's row healed" in told.evidence
    assert explained > 0


def test_own_bars_are_no_puzzle() -> None:
    bars, rows = half_an_hour(1)
    assert puzzling(MINUTE, bars, rows) == []
    assert puzzling(FIVE, bars, rows) == []
    assert healed_edges(bars, T0, T0 + LASTING * MINUTE_MS) == []

"""Open findings: closed when their bars are right, requested within bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from auditors.open_findings import DEADLINE_MS, REQUESTS_MAX, REQUESTS_PER_FINDING_MAX
from klagg.intervals import HOUR_MS, MINUTE_MS
from klagg.settings import Aggregator, Settings
from klagg.wire.findings import FindingKind
from tests.aggregator.kit import T0
from tests.auditors.exchangekit import SOUND_MS, World, clean, listing, put
from tests.auditors.test_exchange import CATALOGUE, NAME, Fault, bar_missing, busy


@pytest.mark.parametrize("fault", CATALOGUE, ids=lambda each: each.plant.__name__)
@pytest.mark.parametrize("restart", [False, True])
def test_what_is_right_again_is_closed(fault: Fault, restart: bool) -> None:
    """By an entry with the same id, also behind a restart."""
    world, sound = clean(edges=False), clean(edges=False)
    fault.plant(world, busy(world))
    (found,) = world.lap(SOUND_MS)
    world.ours, world.theirs = sound.ours, sound.theirs
    if restart:
        world.restart()
    (closed,) = world.lap(SOUND_MS + HOUR_MS)
    assert closed.closed
    assert closed.id == found.id
    assert closed.to_fields()["closed"] == "1"
    assert "EXACT" in closed.evidence
    assert world.counts["bars"] == world.counts["exact"]
    assert world.lap(SOUND_MS + 2 * HOUR_MS) == []


def test_a_gap_is_asked_for_and_closed_by_its_amendment() -> None:
    world, sound = clean(edges=False), clean(edges=False)
    at = busy(world)
    for opening in (at, at + MINUTE_MS, at + 2 * MINUTE_MS):
        put(world, NAME, opening, complete=0, trades=0, volume="0")
    (found,) = world.lap(SOUND_MS)
    (asked,) = world.requests
    assert (asked.symbol, asked.interval, asked.first, asked.last) == (NAME, "1m", at, at + 3 * MINUTE_MS)
    assert asked.deadline_ms == SOUND_MS + DEADLINE_MS
    assert "3 bars" in found.evidence
    bars = world.ours[NAME, "1m"]
    bars[at] = replace(sound.ours[NAME, "1m"][at], revision=2, source="exchange")
    assert world.lap(SOUND_MS + 2 * MINUTE_MS) == [], "two of three are still wrong"
    for opening in (at + MINUTE_MS, at + 2 * MINUTE_MS):
        bars[opening] = replace(sound.ours[NAME, "1m"][opening], revision=2, source="exchange")
    (closed,) = world.lap(SOUND_MS + HOUR_MS)
    assert (closed.id, closed.closed) == (found.id, True)
    assert len(world.requests) == 1


def test_requests_are_bounded() -> None:
    """So many unanswered at once, and so many for one gap."""
    names = tuple(f"X{number}USDT" for number in range(REQUESTS_MAX + 10))
    model = clean(edges=False, names=("AAAUSDT",))
    world = World(listings=[listing(each) for each in names])
    for name in names:
        world.ours[name, "1m"] = {at: replace(bar, symbol=name) for at, bar in model.ours["AAAUSDT", "1m"].items()}
        world.theirs[name, "1m"] = model.theirs["AAAUSDT", "1m"]
        put(world, name, T0 + 9 * MINUTE_MS, complete=0, trades=0, volume="0")
    world.lap(SOUND_MS)
    assert len(world.requests) == REQUESTS_MAX
    for number in range(1, 40):
        world.lap(SOUND_MS + number * 3 * MINUTE_MS)
    most = max(sum(each.symbol == name for each in world.requests) for name in names)
    assert most == REQUESTS_PER_FINDING_MAX
    assert len({each.id for each in world.requests}) == len(world.requests)


def test_what_no_aggregator_can_amend_is_not_asked_for() -> None:
    world = clean(edges=False)
    world.settings = Settings(aggregator=Aggregator(intervals=("1m",), window_minutes=20))
    world.restart()
    bar_missing(world, busy(world))
    (found,) = world.lap(SOUND_MS)
    assert found.kind == FindingKind.LOCAL_GAP
    assert "klagg backfill" in found.evidence
    assert world.requests == []


def test_a_missing_bar_is_asked_for_again_in_every_interval() -> None:
    """The aggregator may hold it proven: then the exchange's rows would change nothing."""
    world = clean(edges=False)
    at = busy(world)
    del world.ours[NAME, "1m"][at]
    (found,) = world.lap(SOUND_MS)
    assert found.kind == FindingKind.LOCAL_GAP
    assert world.again == [(NAME, "1m", at)]
    assert len(world.requests) == 1, "and from the exchange, in case it does not"


def test_what_stays_away_ends_with_the_command() -> None:
    world = clean(edges=False)
    at = busy(world)
    del world.ours[NAME, "1m"][at]
    found = [each for number in range(60) for each in world.lap(SOUND_MS + number * 3 * MINUTE_MS)]
    last = found[-1]
    assert {each.id for each in found} == {last.id}
    assert len(world.again) == REQUESTS_PER_FINDING_MAX
    assert f"asked for {REQUESTS_PER_FINDING_MAX} times and not healed: klagg backfill --from " in last.evidence
    assert f"--symbols {NAME} --intervals 1m --again" in last.evidence

"""The ledger against a set of ids: what is new, what is missing, when it was traded, and what became of it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.ledger import GAPS_MAX, LOST, LOST_MAX, NO_TIME, REPAIRED, Gap, GapEvent, Ledger
from klagg.intervals import MINUTE_MS

FAR = 10**15


def time_of(number: int) -> int:
    """Times rise with ids, now and then by nothing."""
    return 1000 + number // 2 * 10


def admit(ledger: Ledger, batch: list[tuple[int, int]]) -> list[bool]:
    """A batch of (slot, id), sorted by slot as the core gives it."""
    batch.sort(key=lambda row: row[0])
    slots, ids = (np.array(column, np.int64) for column in zip(*batch, strict=True))
    return [bool(each) for each in ledger.admit(slots, ids, np.array([time_of(each) for _, each in batch], np.int64))]


class Oracle:
    """Sets of ids by slot."""

    def __init__(self) -> None:
        self.first: dict[int, int] = {}
        self.seen: dict[int, set[int]] = {}

    def admit(self, batch: list[tuple[int, int]]) -> list[bool]:
        for slot in {slot for slot, _ in batch}:
            self.first.setdefault(slot, min(number for owner, number in batch if owner == slot))
        new = []
        for slot, number in batch:
            seen = self.seen.setdefault(slot, set())
            new.append(number >= self.first[slot] and number not in seen)
            if number >= self.first[slot]:
                seen.add(number)
        return new

    def missing(self, slot: int) -> set[int]:
        seen = self.seen.get(slot, {0})
        return set(range(min(seen), max(seen))) - seen


def pair(events: list[GapEvent]) -> dict[int, list[Gap]]:
    """Every end is that of a gap that opened and did not end before; what is still open, by slot."""
    live: dict[int, list[Gap]] = {}
    for event in events:
        gaps = live.setdefault(event.slot, [])
        if event.reason:
            gaps.remove(event.gap)
        else:
            assert event.gap not in gaps
            gaps.append(event.gap)
    return {slot: sorted(gaps, key=lambda gap: gap.from_id) for slot, gaps in live.items() if gaps}


ROWS = st.tuples(st.integers(0, 3), st.integers(0, 60))


@given(st.lists(st.lists(ROWS, min_size=1, max_size=25), max_size=12), st.integers(0, 10**15))
def test_any_sequence_of_ids_equals_the_sets(batches: list[list[tuple[int, int]]], offset: int) -> None:
    ledger, oracle, events = Ledger(4), Oracle(), []
    for batch in batches:
        batch = [(slot, number + offset) for slot, number in batch]
        found = admit(ledger, batch)
        assert found == oracle.admit(batch)
        events += ledger.drain_events()
        still = pair(events)
        assert {slot: sorted(gaps, key=lambda each: each.from_id) for slot, gaps in ledger.gaps.items()} == still
        for slot, seen in oracle.seen.items():
            assert ledger.last_id[slot] == max(seen)
            assert ledger.last_time[slot] == time_of(max(seen))
            first = oracle.first[slot]
            assert ledger.start_time[slot] == (NO_TIME if first <= 1 else time_of(first))
            gaps = ledger.gaps.get(slot, [])
            assert {number for gap in gaps for number in range(gap.from_id, gap.to_id + 1)} == oracle.missing(slot)
            for gap in gaps:
                assert {gap.from_id - 1, gap.to_id + 1} <= seen
                assert (gap.before_time, gap.after_time) == (time_of(gap.from_id - 1), time_of(gap.to_id + 1))
    assert {event.reason for event in events} <= {"", REPAIRED}


@given(st.integers(0, 2**32))
def test_a_gap_carries_its_neighbours_times_also_where_times_run_against_ids(seed: int) -> None:
    rng = random.Random(seed)
    times = {number: rng.randrange(1000, 2000) for number in range(2, 60)}
    kept = sorted(number for number in times if rng.random() < 0.7)
    ledger = Ledger(1)
    for at in range(0, len(kept), 5):
        part = kept[at : at + 5]
        if rng.random() < 0.5:
            rng.shuffle(part)
        slots, at_ms = np.zeros(len(part), np.int64), np.array([times[each] for each in part], np.int64)
        ledger.admit(slots, np.array(part, np.int64), at_ms)
        reached = kept[: at + 5]
        assert ledger.last_time[0] == max(times[each] for each in reached)
        for gap in ledger.gaps.get(0, []):
            near, far = times[gap.from_id - 1], times[gap.to_id + 1]
            assert (gap.before_time, gap.after_time) == (min(near, far), max(near, far))


@given(st.integers(0, 2**32))
def test_whatever_the_order_of_batches_the_same_is_missing_in_the_end(seed: int) -> None:
    rng = random.Random(seed)
    kept = [number for number in range(2, 80) if rng.random() < 0.8]
    first, others = kept[:1], kept[1:]
    found = []
    for _ in range(2):
        rng.shuffle(others)
        ledger = Ledger(1)
        admit(ledger, [(0, first[0])])
        for at in range(0, len(others), 9):
            admit(ledger, [(0, number) for number in others[at : at + 9]])
        found.append(sorted(ledger.gaps.get(0, []), key=lambda gap: gap.from_id))
    assert found[0] == found[1]


@given(st.lists(st.integers(1, 40), min_size=2, unique=True), st.integers(900, 1300), st.integers(1, 200))
def test_exactly_the_bars_that_may_lack_a_trade_are_tainted(ids: list[int], opening: int, length: int) -> None:
    ledger = Ledger(2)
    for number in sorted(ids):
        admit(ledger, [(1, number)])
    missing = set(range(min(ids), max(ids))) - set(ids)
    slots, opens = np.array([0, 1], np.int64), np.array([opening] * 2, np.int64)
    found = ledger.tainted(slots, opens, opens + length).tolist()
    assert not found[0], "another symbol's gaps are no one else's"
    if any(opening <= time_of(number) < opening + length for number in missing):
        assert found[1]
    spans = [(time_of(gap.from_id - 1), time_of(gap.to_id + 1)) for gap in ledger.gaps.get(1, [])]
    assert found[1] == any(low < opening + length and high >= opening for low, high in spans)


def test_too_many_gaps_give_up_the_oldest() -> None:
    ledger = Ledger(1)
    admit(ledger, [(0, 2 * number) for number in range(1, GAPS_MAX + 12)])
    assert len(ledger.gaps[0]) == GAPS_MAX
    events = ledger.drain_events()
    assert [event.gap.from_id for event in events if event.reason == LOST] == [3 + 2 * at for at in range(10)]
    assert pair(events)[0] == ledger.gaps[0]
    assert admit(ledger, [(0, 3)]) == [False], "a lost trade that comes after all is no longer wanted"
    assert admit(ledger, [(0, 2 * GAPS_MAX + 1)]) == [True]


def test_repairs_that_split_gaps_keep_the_bound_too() -> None:
    ledger = Ledger(1)
    admit(ledger, [(0, 1), (0, 10 * GAPS_MAX)])
    admit(ledger, [(0, number) for number in range(3, 4 * GAPS_MAX, 2)])
    assert len(ledger.gaps[0]) == GAPS_MAX
    assert pair(ledger.drain_events())[0] == ledger.gaps[0]


def test_lost_gaps_taint_until_no_bar_reaches_back_to_them() -> None:
    ledger = Ledger(1)
    admit(ledger, [(0, 2), (0, 10), (0, 20)])
    at = np.array([0], np.int64)

    def tainted(opening: int, closing: int) -> bool:
        return bool(ledger.tainted(at, np.array([opening]), np.array([closing]))[0])

    ledger.expire(time_of(10), 0, lambda *_: True)
    assert [gap.from_id for gap in ledger.gaps[0]] == [3, 11], "its last trade may still come"
    ledger.expire(time_of(10) + 1, 0, lambda *_: True)
    assert [gap.from_id for gap in ledger.gaps[0]] == [11]
    assert tainted(time_of(2), time_of(2) + 1)
    ledger.expire(FAR, time_of(10), lambda *_: True)
    assert not ledger.gaps
    assert tainted(0, time_of(4))
    ledger.expire(FAR, time_of(10) + 1, lambda *_: True)
    assert not tainted(0, time_of(4))
    assert tainted(time_of(12), FAR)
    ledger.expire(FAR, FAR, lambda *_: True)
    assert not tainted(0, FAR)
    assert not ledger.lost
    events = ledger.drain_events()
    assert pair(events) == {}
    assert [event.reason for event in events] == ["", "", LOST, LOST]


def test_the_last_lost_gap_stays_until_no_bar_can_carry_the_price_before_it() -> None:
    ledger = Ledger(1)
    admit(ledger, [(0, 2), (0, 10), (0, 20)])
    ledger.expire(FAR, FAR, lambda *_: False)
    assert [gap.from_id for gap in ledger.lost[0]] == [11]
    ledger.expire(FAR, FAR, lambda slot, gap: (slot, gap.to_id) == (0, 19))
    assert not ledger.lost


def test_lost_trades_taint_their_own_bars_by_runs() -> None:
    ledger = Ledger(3)
    slots, ids, times = ([2, 0, 2, 2], [7, 5, 6, 9], [70, 50, 60, 90])
    ledger.lose(*(np.array(column, np.int64) for column in (slots, ids, times)))
    assert ledger.lost == {0: [Gap(5, 5, 50, 50)], 2: [Gap(6, 7, 60, 70), Gap(9, 9, 90, 90)]}
    assert pair(ledger.drain_events()) == {}
    ledger.lose(*(np.zeros(0, np.int64) for _ in range(3)))
    assert ledger.drain_events() == []


def test_a_repair_that_cannot_be_used_leaves_the_whole_gap_in_doubt() -> None:
    ledger = Ledger(1)
    admit(ledger, [(0, 2), (0, 10)])
    admit(ledger, [(0, 5)])
    ledger.lose(*(np.array([each], np.int64) for each in (0, 5, time_of(5))))
    assert ledger.lost == {0: [Gap(5, 5, time_of(2), time_of(10))]}
    assert [each.from_id for each in pair(ledger.drain_events())[0]] == [3, 6]


@given(st.lists(st.integers(0, 1000), min_size=LOST_MAX + 1, max_size=2 * LOST_MAX, unique=True))
def test_lost_gaps_are_bounded_and_nothing_is_untainted_by_it(numbers: list[int]) -> None:
    ledger = Ledger(1)
    for number in numbers:
        ledger.lose(*(np.array([each], np.int64) for each in (0, number * 2, number * 10)))
    assert len(ledger.lost[0]) == LOST_MAX
    opens = np.array(numbers, np.int64) * 10
    assert ledger.tainted(np.zeros(len(opens), np.int64), opens, opens + 1).all()


@pytest.mark.parametrize("capacity", [5, 100])
def test_growth_keeps_what_is_known(capacity: int) -> None:
    ledger = Ledger(2)
    admit(ledger, [(0, 5), (1, 9)])
    ledger.grow(capacity)
    assert ledger.last_id.tolist() == [5, 9, *[-1] * (capacity - 2)]
    assert admit(ledger, [(0, 6), (1, 9), (capacity - 1, 3)]) == [True, False, True]
    assert len(ledger.last_time) == len(ledger.start_time) == capacity


def admit_at(ledger: Ledger, *rows: tuple[int, int]) -> list[bool]:
    """(id, time) of slot 0."""
    ids, times = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    return [bool(each) for each in ledger.admit(np.zeros(len(rows), np.int64), ids, times)]


def test_an_old_id_with_a_new_time_is_no_duplicate() -> None:
    ledger = Ledger(1)
    assert admit_at(ledger, (10, 100), (14, 200)) == [True, True]
    assert ledger.strange == []
    # 3 and 5 begin something new; 11 is missing, whatever its time; 10 is a duplicate, and 15 twice is one trade.
    assert admit_at(ledger, (3, 300), (10, 100), (5, 310), (11, 201), (15, 320), (15, 320), (4, 200)) == [
        False,
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert ledger.strange == [0, 2]
    assert (ledger.last_id[0], ledger.last_time[0]) == (15, 320)
    assert [(gap.from_id, gap.to_id) for gap in ledger.gaps[0]] == [(12, 13)]
    assert admit_at(ledger, (16, 330)) == [True]
    assert ledger.strange == []
    assert admit_at(ledger, (1, 400), (2, 401)) == [False, False]
    assert ledger.strange == [0, 1]


def test_a_new_generation_begins_at_1_and_proves_nothing_of_the_one_before() -> None:
    ledger = Ledger(1)
    admit_at(ledger, (10, 100), (13, 200))
    ledger.drain_events()
    ledger.begin(0, 500, 300)
    assert ledger.drain_events() == [GapEvent(0, Gap(11, 12, 100, 200), LOST)]
    assert admit_at(ledger, (3, 620)) == [True]
    assert ledger.drain_events() == [GapEvent(0, Gap(1, 2, 500, 620), "")]
    bars = [(0, 50), (50, 101), (101, 200), (201, 300), (300, 400), (400, 500), (500, 600), (620, 700), (700, 800)]
    opens, nexts = (np.array(column, np.int64) for column in zip(*bars, strict=True))
    tainted = ledger.tainted(np.zeros(len(bars), np.int64), opens, nexts).tolist()
    assert tainted == [True, True, True, True, False, False, True, True, False]
    assert admit_at(ledger, (1, 510), (2, 520)) == [True, True]
    assert not ledger.tainted(np.zeros(2, np.int64), opens[6:8], nexts[6:8]).any()
    assert ledger.start_time[0] == NO_TIME


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 3)), max_size=12),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(1, 3)), max_size=6),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 19), st.integers(1, 6)), min_size=1, max_size=20),
)
def test_bars_of_many_symbols_are_tainted_by_their_own_gaps_outside_official_minutes(
    gaps: list[tuple[int, int, int]], official: list[tuple[int, int, int]], bars: list[tuple[int, int, int]]
) -> None:
    """(slot, first half-minute or minute, length): a bar is tainted by each half-minute of a gap in a minute of its own
    that no official row covers."""
    ledger, half = Ledger(3), MINUTE_MS // 2
    for slot, minute, length in gaps:
        ledger.gaps.setdefault(slot, []).append(
            Gap(1, 1, minute * MINUTE_MS + half, (minute + length) * MINUTE_MS + half)
        )
    for slot, minute, length in official:
        ledger.coverage.add(slot, np.array([minute * MINUTE_MS]), np.array([(minute + length) * MINUTE_MS]))

    def tainted(slot: int, first: int, length: int) -> bool:
        for owner, minute, more in gaps:
            for each in range(2 * minute + 1, 2 * (minute + more) + 2):
                covered = any(own == slot and at <= each // 2 < at + count for own, at, count in official)
                if owner == slot and first <= each < first + length and not covered:
                    return True
        return False

    slots, firsts, lengths = (np.array(column, np.int64) for column in zip(*bars, strict=True))
    found = ledger.tainted(slots, firsts * half, (firsts + lengths) * half)
    assert found.tolist() == [tainted(*bar) for bar in bars]

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from klagg.drivers.commands import Entry
from klagg.wire.fields import stamp
from writers.klines_sequence import KlinesSequence, SequenceGap

STREAM = "klines:{0}"


def entry(seq: int, writer: str = "aggregator@1", at: int | None = None) -> Entry:
    fields = stamp({}, writer, seq)
    return Entry(f"{at or seq}-0", {name.encode(): value.encode() for name, value in fields.items()})


def jumps_of(numbers: list[int], pages: list[int]) -> list[SequenceGap]:
    """What is said of entries with these numbers, read in pages of these sizes."""
    sequence, found, left = KlinesSequence(), [], [entry(each) for each in numbers]
    for size in [*pages, len(numbers)]:
        page, left = left[:size], left[size:]
        found += sequence.note(STREAM, page)
    return found


@given(st.sets(st.integers(1, 30)), st.lists(st.integers(0, 10)))
def test_exactly_what_is_missing_between_the_first_and_the_last_is_told(numbers: set[int], pages: list[int]) -> None:
    there = sorted(numbers)
    missing = [each for gap in jumps_of(there, pages) for each in range(gap.first, gap.last + 1)]
    assert missing == [each for each in range(min(there, default=0), max(there, default=0)) if each not in numbers]


def test_a_jump_says_between_which_entries() -> None:
    assert jumps_of([1, 2, 6], [2]) == [SequenceGap("aggregator@1", 3, 5, "2-0", "6-0")]
    assert jumps_of([1, 2, 6], [2])[0].count == 3


def test_a_page_whose_ends_fit_by_chance_is_looked_through() -> None:
    """Two entries are missing and two came again: count and ends agree, the middle does not."""
    assert jumps_of([1, 2, 5, 5, 5, 6], []) == [SequenceGap("aggregator@1", 3, 4, "2-0", "5-0")]


def test_repetitions_and_later_runs_are_no_jumps() -> None:
    sequence = KlinesSequence()
    assert sequence.note(STREAM, [entry(5), entry(6), entry(5), entry(6), entry(7)]) == []
    assert sequence.note(STREAM, [entry(40, "aggregator@2", 50), entry(41, "aggregator@2", 51)]) == []
    assert sequence.note("klines:{1}", [entry(90)]) == [], "each stream by itself"
    assert sequence.note(STREAM, [entry(43, "aggregator@2", 53)]) == [
        SequenceGap("aggregator@2", 42, 42, "51-0", "53-0")
    ]


def test_entries_without_a_number_are_passed_over() -> None:
    sequence = KlinesSequence()
    bad = Entry("3-0", {b"seq": b"x"})
    assert sequence.note(STREAM, [entry(1), bad, entry(2)]) == []
    assert sequence.note(STREAM, [bad]) == []
    assert sequence.note(STREAM, [entry(4)]) == [SequenceGap("aggregator@1", 3, 3, "2-0", "4-0")]

"""Numbers of writers: a jump is a loss, a repetition is none, and what is remembered stays small."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.feed_sequences import FORGET_MS, WRITERS_MAX, FeedSequences
from klagg.errors import ContractError
from klagg.wire.entries import watermark_entry
from klagg.wire.fields import stamp
from tests.aggregator.kit import T0, new_core, tick


def note(sequences: FeedSequences, seq: int, writer: str = "a@1", at: str = "1-1", time_ms: int = T0) -> str:
    """The evidence of the finding for one entry, empty if there is none."""
    stamped = stamp({}, writer, seq)
    found = sequences.note(at, {name.encode(): value.encode() for name, value in stamped.items()}, time_ms)
    assert found is None or (found["kind"], found["severity"], found["time"]) == ("DATA_LOSS", "error", str(time_ms))
    return found["evidence"] if found else ""


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30)), max_size=60))
def test_what_is_reported_is_what_never_came_before_it(entries: list[tuple[str, int]]) -> None:
    """Against the plain rule: all numbers between the highest so far and this one are lost."""
    sequences, highest = FeedSequences(), {"a": 0, "b": 0}
    lost = repeated = 0
    for writer, seq in entries:
        evidence = note(sequences, seq, f"{writer}@1")
        missing = range(highest[writer] + 1, seq)
        assert bool(evidence) == bool(missing)
        if missing:
            assert f"seq {missing[0]} to {missing[-1]} of {writer}@1" in evidence
        lost, repeated = lost + len(missing), repeated + (seq <= highest[writer])
        highest[writer] = max(seq, highest[writer])
    assert (sequences.lost, sequences.repeated) == (lost, repeated)


def test_the_finding_says_where_and_when() -> None:
    sequences = FeedSequences()
    assert note(sequences, 1, at="1000-0", time_ms=T0) == ""
    evidence = note(sequences, 5, at="2000-3", time_ms=T0 + 250)
    assert evidence == (
        f"3 entries of the feed were never read: seq 2 to 4 of a@1, after 1000-0 ({T0} ms) and before 2000-3 "
        f"({T0 + 250} ms)"
    )
    assert "seq 1 to 6 of b@1, its first one and before" in note(sequences, 7, "b@1")


def test_runs_that_ended_are_forgotten_and_quiet_ones_are_not() -> None:
    sequences = FeedSequences()
    for writer in ("ingest-A@1", "repair@1", "ingest-A@2"):
        note(sequences, 1, writer, time_ms=T0)
    note(sequences, 1, "clock@1", time_ms=T0 + FORGET_MS)
    sequences.forget(T0 + FORGET_MS)
    assert set(sequences.writers) == {"ingest-A@1", "repair@1", "ingest-A@2", "clock@1"}, "a day is not over"
    sequences.forget(T0 + FORGET_MS + 1)
    assert set(sequences.writers) == {"repair@1", "ingest-A@2", "clock@1"}
    assert note(sequences, 2, "repair@1") == ""


def test_a_bounded_number_of_writers_is_remembered() -> None:
    sequences = FeedSequences()
    for number in range(WRITERS_MAX + 10):
        note(sequences, 1, f"w@{number}")
        note(sequences, 2 + number, "w@0")
    assert len(sequences.writers) == WRITERS_MAX
    assert "w@0" in sequences.writers, "the one unseen for longest is forgotten, not the oldest"
    assert sequences.lost == 0


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 30)), max_size=30), st.integers(1, 40))
def test_put_back_it_goes_on_the_same(entries: list[tuple[str, int]], seq: int) -> None:
    one, other = FeedSequences(), FeedSequences()
    for writer, number in entries:
        note(one, number, f"{writer}@1")
    other.restore([tuple(row) for row in one.to_rows()])  # type: ignore[misc]
    assert other.to_rows() == one.to_rows()
    assert note(other, seq) == note(one, seq)


@pytest.mark.parametrize("raw", [{b"seq": b"1"}, {b"writer": b"a"}, {b"writer": b"a", b"seq": b"x"}])
def test_an_entry_without_its_number_is_refused(raw: dict[bytes, bytes]) -> None:
    with pytest.raises(ContractError):
        FeedSequences().note("1-1", raw, 0)


def test_the_core_says_a_loss_at_the_next_tick_once() -> None:
    core = new_core()
    tick(core, T0)
    stamped = stamp(watermark_entry("A", ["BTCUSDT"], T0), "ingest-A@1", 4)
    list(core.apply("5-5", {name.encode(): value.encode() for name, value in stamped.items()}))
    (finding,) = tick(core, T0 + 250).findings
    assert re.search(r"seq 1 to 3 of ingest-A@1, .* before 5-5", finding["evidence"])
    assert tick(core, T0 + 500).findings == []
    assert core.feed_sequences.lost == 3

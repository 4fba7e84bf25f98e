from __future__ import annotations

from klagg.wire.entries import TRIGGER_DAYS, TRIGGER_RETENTION, TRIGGER_SNAPSHOT, trigger_entry
from klagg.wire.fields import RawFields
from writers.triggers import Triggers


def entry(name: str, time_ms: int) -> RawFields:
    return {key.encode(): value.encode() for key, value in trigger_entry(name, time_ms).items()}


def begun() -> Triggers:
    triggers = Triggers()
    triggers.receive([])
    return triggers


def test_a_trigger_is_due_until_it_is_done() -> None:
    triggers = begun()
    assert triggers.due(TRIGGER_SNAPSHOT) is None
    assert triggers.receive([entry(TRIGGER_SNAPSHOT, 10)]) == 0
    assert triggers.due(TRIGGER_SNAPSHOT) == 10
    assert triggers.due(TRIGGER_RETENTION) is None
    triggers.done(TRIGGER_SNAPSHOT)
    triggers.done(TRIGGER_SNAPSHOT)
    assert triggers.due(TRIGGER_SNAPSHOT) is None


def test_a_newer_one_takes_the_place_of_one_that_waits() -> None:
    triggers = begun()
    assert triggers.receive([entry(TRIGGER_SNAPSHOT, 10), entry(TRIGGER_SNAPSHOT, 20)]) == 1
    assert triggers.receive([entry(TRIGGER_SNAPSHOT, 30)]) == 1
    assert triggers.due(TRIGGER_SNAPSHOT) == 30


def test_of_what_was_before_only_retention_is_owed() -> None:
    triggers = Triggers()
    assert (
        triggers.receive([entry(TRIGGER_SNAPSHOT, 10), entry(TRIGGER_RETENTION, 11), entry(TRIGGER_SNAPSHOT, 12)]) == 0
    )
    assert triggers.due(TRIGGER_SNAPSHOT) is None
    assert triggers.due(TRIGGER_RETENTION) == 11


def test_what_is_no_trigger_of_this_process_is_passed_over() -> None:
    triggers = begun()
    triggers.receive([{b"name": b"snapshot"}, {b"x": b"y"}, entry("party", 5)])
    assert triggers.due(TRIGGER_SNAPSHOT) is None
    assert triggers.due("party") is None


def test_days_are_owed_from_before_the_start_and_the_newest_counts() -> None:
    triggers = Triggers()
    triggers.receive([entry(TRIGGER_DAYS, 5), entry(TRIGGER_DAYS, 9)])
    assert triggers.due(TRIGGER_DAYS) == 9

"""What version 1 of the contract left is read by this version, and nothing of it is lost.

`version_1.json` was written by klagg at commit 868f17f, the last one of version 1: a feed of two symbols with gaps,
what its aggregator published for that feed, its checkpoint in the middle (`cut` is the number of feed entries before
it), what its auditors of streams remembered there, the ids of findings, and a request.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pytest

from aggregator.checkpoint import Checkpoint, fits, restore
from aggregator.core import Core
from auditors.completeness import Completeness
from auditors.findings import Finding
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from klagg import settings
from klagg.errors import ContractError
from klagg.wire.entries import EVENT_GAP_CLOSED, EVENT_GAP_OPENED, REQUEST_TRADES, WATERMARK, request_of, tick_entry
from klagg.wire.fields import VERSION, Fields, RawFields, stamp, upgraded
from klagg.wire.findings import FindingKind, Severity
from writers.history import events_of
from writers.history_findings import finding_of

OLD: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("version_1.json").read_text(encoding="utf-8"))
CONFIG: Final = settings.Aggregator(intervals=("1m", "5m"), window_minutes=10, ask_after_ms=1000)
WORDS: Final = {
    "mark": "watermark",
    "hole_opened": "gap_opened",
    "hole_closed": "gap_closed",
    "GAP": "MISSING_KLINE",
    "EXCHANGE_HOLE": "EXCHANGE_GAP",
}


def raw(fields: Fields) -> RawFields:
    return {name.encode(): value.encode() for name, value in fields.items()}


def in_new_words(fields: Fields) -> Fields:
    return {**fields, "kind": WORDS.get(fields["kind"], fields["kind"])} if "kind" in fields else fields


def test_an_entry_of_this_version_is_returned_as_it_is() -> None:
    entry = raw(stamp(tick_entry(1), "w", 1))
    assert entry[b"v"] == b"2" == str(VERSION).encode()
    assert upgraded(entry) is entry


@pytest.mark.parametrize("version", [b"0", b"3", b"01", b"1.0", b"", b" 1", None])
def test_another_version_is_refused(version: bytes | None) -> None:
    entry = {} if version is None else {b"v": version}
    with pytest.raises(ContractError, match="this process reads 1 and 2"):
        upgraded(entry)


@pytest.mark.parametrize(("old", "new"), WORDS.items())
def test_a_kind_of_version_1_is_read_under_its_new_name(old: str, new: str) -> None:
    entry = {b"v": b"1", b"kind": old.encode(), b"n": b"7"}
    assert upgraded(entry) == {**entry, b"kind": new.encode()}
    assert entry[b"kind"] == old.encode(), "the entry itself stays what it was, for a dead letter"


def test_every_entry_of_version_1_is_one_of_this_version() -> None:
    everything: list[Fields] = [*OLD["feed"], *(fields for _, fields in both(OLD["klines_and_events"]))]
    kinds = {fields["kind"] for fields in everything if "kind" in fields}
    assert {"trades", "mark", "listing", "official", "tick", "hole_opened", "hole_closed"} <= kinds
    for fields in everything:
        assert upgraded(raw(fields)) == raw(in_new_words(fields))
    assert any(upgraded(raw(fields)).get(b"kind") == WATERMARK.encode() for fields in everything)


def both(halves: dict[str, list[Any]]) -> list[Any]:
    return halves["before"] + halves["after"]


def published(core: Core, feed: Iterable[tuple[int, Fields]]) -> list[dict[str, list[Fields]]]:
    """What the core publishes for entries of the feed, a dict for each tick."""
    made = []
    for at, fields in feed:
        for outputs in core.apply(f"{1000 + at}-0", raw(fields)):
            outputs.encode()
            names = ("klines", "events", "requests", "findings", "dead")
            made.append({name: getattr(outputs, name) for name in names if getattr(outputs, name)})
    return made


def test_a_feed_of_version_1_gives_what_it_gave() -> None:
    new = published(Core(CONFIG, epoch=1), enumerate(OLD["feed"]))
    old = [
        {name: [in_new_words(fields) for fields in entries] for name, entries in said.items()}
        for said in both(OLD["said"])
    ]
    assert new == old
    kinds = {fields["kind"] for said in new for fields in (*said.get("events", ()), *said.get("findings", ()))}
    assert {EVENT_GAP_OPENED, EVENT_GAP_CLOSED, "EXCHANGE_GAP"} <= kinds
    assert not any("dead" in said for said in new)


def test_a_checkpoint_of_version_1_goes_on_as_if_nothing_had_happened() -> None:
    saved, cut = OLD["checkpoint"], OLD["cut"]
    core, other = Core(CONFIG, epoch=1), Core(CONFIG, epoch=1)
    assert fits(core, saved["header"])
    restore(core, saved["header"], [base64.b64decode(block) for block in saved["blocks"]])
    published(other, list(enumerate(OLD["feed"]))[:cut])
    assert Checkpoint(core).header == Checkpoint(other).header
    assert core.counts.gaps_opened > 0, "the checkpoint holds an open gap"
    rest = list(enumerate(OLD["feed"]))[cut:]
    assert published(core, rest) == published(other, rest)


def test_a_checkpoint_of_version_1_with_other_intervals_does_not_fit() -> None:
    other = settings.Aggregator(intervals=("1m",), window_minutes=10)
    assert not fits(Core(other, epoch=1), OLD["checkpoint"]["header"])


def counted(summary: str) -> list[str]:
    """What a summary counts, in an order of its own: that of the summary is by name, and names differ."""
    return sorted(summary.partition(": ")[2].split(", "))


@pytest.mark.parametrize("kind", [Lifecycle, Completeness])
def test_what_an_auditor_remembered_under_version_1_goes_on(kind: type[Judge]) -> None:
    old = OLD["judges"][kind.__name__.lower()]
    judge = kind(settings.Settings(aggregator=CONFIG))
    judge.restore(old["memory"])
    for at, (stream, fields) in enumerate(OLD["klines_and_events"]["after"]):
        if stream in judge.streams:
            judge.receive(stream, f"{3000 + at}-0", raw(fields))
    assert [each.to_fields() for each in judge.drain_findings()] == old["after"] == []
    assert counted(judge.summary) == counted(old["summary"].replace("hole_", "gap_"))
    assert judge.counts["gap_opened"] + judge.counts["klines"] > 0


def test_an_open_gap_of_version_1_closes_in_this_version() -> None:
    """Without it in the memory the auditor would find that the gap was never opened."""
    judge = Lifecycle(settings.Settings(aggregator=CONFIG))
    memory = dict(OLD["judges"]["lifecycle"]["memory"])
    state = json.loads(memory["#judge"])
    assert state["holes"], "the fixture holds an open gap"
    memory["#judge"] = json.dumps({**state, "holes": {}})
    judge.restore(memory)
    for at, (stream, fields) in enumerate(OLD["klines_and_events"]["after"]):
        if stream in judge.streams:
            judge.receive(stream, f"{3000 + at}-0", raw(fields))
    assert [each.kind for each in judge.drain_findings()] == ["ILLEGAL"]


def test_ids_of_findings_are_what_they_were() -> None:
    """A finding that version 1 opened is closed by the entry with the same id."""
    for what, old_id in OLD["ids"].items():
        kind, symbol, place = what.split("|")
        new = Finding(
            FindingKind(WORDS.get(kind, kind)), Severity.ERROR, symbol, place.replace("hole/", "gap/"), 1, "evidence"
        )
        assert new.id == old_id, what


def test_findings_of_version_1_are_rows_of_this_version() -> None:
    rows = [finding_of(raw(fields), 0, "5-1") for fields in OLD["findings"]]
    assert [row.kind for row in rows] == ["MISSING_KLINE", "EXCHANGE_GAP", "ABSENT"]
    assert [row.id for row in rows] == [f"0:{fields['id']}" for fields in OLD["findings"]]


def test_events_and_requests_of_version_1_are_read() -> None:
    events = [fields for stream, fields in both(OLD["klines_and_events"]) if stream == "events"]
    kinds = {event.kind for fields in events for event in events_of(raw(fields))}
    assert {EVENT_GAP_OPENED, EVENT_GAP_CLOSED} <= kinds
    assert request_of(upgraded(raw(OLD["request"]))).kind == REQUEST_TRADES

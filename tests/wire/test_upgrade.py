"""What versions 1 and 2 of the contract left is read by this version, and nothing of it is lost.

`version_1.json` was written by klagg at commit 868f17f, the last one of version 1: a feed of two symbols with gaps,
what its aggregator published for that feed, its checkpoint in the middle (`cut` is the number of feed entries before
it), what its auditors of streams remembered there, the ids of findings, and a request. `version_2.json` was written
by klagg at commit 1abcbbe, the last one of version 2, of the same feed and an official row that heals a minute; it
has what was published to `live` and stood in `bars` too.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from aggregator.checkpoint import Checkpoint, fits, restore
from aggregator.core import Core
from auditors.bars import BarValues
from auditors.completeness import Completeness
from auditors.findings import Finding
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from klagg import settings
from klagg.errors import ContractError
from klagg.wire.entries import (
    EVENT_GAP_CLOSED,
    EVENT_GAP_OPENED,
    LIVE_VALUE,
    REQUEST_TRADES,
    WATERMARK,
    live_value_of,
    request_of,
    tick_entry,
)
from klagg.wire.fields import VERSION, Fields, RawFields, stamp, upgraded
from klagg.wire.findings import FindingKind, Severity
from klagg.wire.klines import kline_of
from writers.history import events_of
from writers.history_findings import finding_of

OLD, SECOND = (
    json.loads(Path(__file__).with_name(f"version_{number}.json").read_text(encoding="utf-8")) for number in (1, 2)
)
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
    if "kind" in fields:
        return {**fields, "kind": WORDS.get(fields["kind"], fields["kind"])}
    if "complete" not in fields:
        return fields
    told = fields["complete"] == "1" and fields["source"] != "own"
    return {**fields, "complete": "0", "official": "1"} if told else {**fields, "official": "0"}


def test_an_entry_of_this_version_is_returned_as_it_is() -> None:
    entry = raw(stamp(tick_entry(1), "w", 1))
    assert entry[b"v"] == b"3" == str(VERSION).encode()
    assert upgraded(entry) is entry


@pytest.mark.parametrize("version", [b"0", b"4", b"01", b"1.0", b"", b" 1", None])
def test_another_version_is_refused(version: bytes | None) -> None:
    entry = {} if version is None else {b"v": version}
    with pytest.raises(ContractError, match="this process reads 1, 2 and 3"):
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


@pytest.mark.parametrize("left", [OLD, SECOND], ids=["version 1", "version 2"])
def test_a_feed_of_an_older_version_gives_what_it_gave(left: dict[str, Any]) -> None:
    new = published(Core(CONFIG, epoch=1), enumerate(left["feed"]))
    old = [
        {name: [in_new_words(fields) for fields in entries] for name, entries in said.items()}
        for said in both(left["said"])
    ]
    assert new == old
    kinds = {fields["kind"] for said in new for fields in (*said.get("events", ()), *said.get("findings", ()))}
    assert {EVENT_GAP_OPENED, EVENT_GAP_CLOSED} <= kinds
    assert ("EXCHANGE_GAP" in kinds) == (left is OLD)
    assert not any("dead" in said for said in new)


@pytest.mark.parametrize("left", [OLD, SECOND], ids=["version 1", "version 2"])
def test_a_checkpoint_of_an_older_version_goes_on_as_if_nothing_had_happened(left: dict[str, Any]) -> None:
    saved, cut = left["checkpoint"], left["cut"]
    core, other = Core(CONFIG, epoch=1), Core(CONFIG, epoch=1)
    assert fits(core, saved["header"])
    restore(core, saved["header"], [base64.b64decode(block) for block in saved["blocks"]])
    published(other, list(enumerate(left["feed"]))[:cut])
    assert Checkpoint(core).header == Checkpoint(other).header
    assert core.ring.covered.tolist() == other.ring.covered.tolist()
    assert core.ring.covered.any() == (left is SECOND)
    assert core.counts.gaps_opened > 0, "the checkpoint has seen gaps"
    rest = list(enumerate(left["feed"]))[cut:]
    assert published(core, rest) == published(other, rest)


@pytest.mark.parametrize("left", [OLD, SECOND], ids=["version 1", "version 2"])
def test_a_checkpoint_of_an_older_version_with_other_intervals_does_not_fit(left: dict[str, Any]) -> None:
    other = settings.Aggregator(intervals=("1m",), window_minutes=10)
    assert not fits(Core(other, epoch=1), left["checkpoint"]["header"])


def test_what_the_exchange_made_whole_under_version_2_is_official() -> None:
    """Version 2 called each of these complete; the hour with an official minute is official too."""
    told = [kline_of(raw(fields)) for stream, fields in both(SECOND["klines_and_events"]) if stream == "klines"]
    assert [(each.interval, each.source, each.whole) for each in told if each.official] == [
        ("1m", "exchange", True),
        ("5m", "mixed", True),
    ]
    assert {(each.complete, each.source) for each in told if not each.official} == {(1, "own"), (0, "own")}


def test_a_live_value_of_version_2_does_not_say_whose_word_made_a_final_whole() -> None:
    values = [text for fields in both(SECOND["live"]) for name, text in fields.items() if ":" in name]
    finals = [live_value_of(text) for text in values if text.split(",")[12] == "1"]
    assert finals
    assert {(each["complete"], each["official"]) for each in finals} == {("0", "0")}
    assert {tuple(live_value_of(text)) for text in SECOND["bars"].values()} == {LIVE_VALUE}


@pytest.mark.parametrize("complete", ["0", "1"])
@pytest.mark.parametrize("source", ["own", "exchange", "mixed"])
def test_a_bar_that_an_auditor_remembered_says_whose_word_it_was(complete: str, source: str) -> None:
    kept = f"1,1,{complete},1.0,2.0,0.5,1.5,3,4.0,2,1,1.5,-1,-1,-1,-1,{source}"
    bar = BarValues.of_text(kept)
    told = complete == "1" and source != "own"
    assert (bar.complete, bar.official, bar.source) == (int(complete == "1" and not told), int(told), source)
    assert (bar.epoch, bar.open, bar.last_trade_id) == (1, Decimal("1.0"), -1)


def counted(summary: str) -> list[str]:
    """What a summary counts, in an order of its own: that of the summary is by name, and names differ."""
    return sorted(summary.partition(": ")[2].split(", "))


@pytest.mark.parametrize("left", [OLD, SECOND], ids=["version 1", "version 2"])
@pytest.mark.parametrize("kind", [Lifecycle, Completeness])
def test_what_an_auditor_remembered_under_an_older_version_goes_on(kind: type[Judge], left: dict[str, Any]) -> None:
    old = left["judges"][kind.__name__.lower()]
    judge = kind(settings.Settings(aggregator=CONFIG))
    judge.restore(old["memory"])
    for at, (stream, fields) in enumerate(left["klines_and_events"]["after"]):
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

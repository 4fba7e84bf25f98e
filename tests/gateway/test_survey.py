"""The look at Redis: processes, streams, findings, and what the table lacks."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.survey import findings_of, oldest_unwritten_ms, survey
from klagg.drivers.redis_streams import Streams
from klagg.wire.fields import stamp
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.gateway.kit import FINAL, Teller

pytestmark = pytest.mark.servers

KEYS = Keys(0)


def test_processes_lengths_and_findings(streams: Streams, teller: Teller) -> None:
    streams.set_with_ttl("heartbeat:clock", '{"process": "clock"}', 60)
    streams.set_with_ttl("heartbeat:odd", "no json", 60)
    streams.set_with_ttl("heartbeat:list", "[]", 60)
    streams.append(KEYS.findings, stamp(finding_entry(FindingKind.DATA_LOSS, Severity.ERROR, "gone"), "x", 1))
    teller.tell({("BTCUSDT", "1m"): FINAL})
    found = survey(streams, 1)
    assert found.beats == {
        "heartbeat:clock": '{"process": "clock"}',
        "heartbeat:odd": "no json",
        "heartbeat:list": "[]",
    }
    assert (found.lengths[KEYS.live], found.lengths[KEYS.klines], found.lengths[KEYS.dead]) == (1, 1, 0)
    assert [(each["kind"], each["stream"]) for each in found.findings] == [("DATA_LOSS", KEYS.findings)]
    assert found.unwritten_ms == {}, "nobody writes a table"
    (row,) = findings_of(found, None, "error")
    assert (row["id"], row["kind"], row["symbol"], row["said_at"], row["evidence"]) == (
        "0:x:1",
        "DATA_LOSS",
        None,
        None,
        "gone",
    )
    streams.ensure_group(KEYS.klines, GROUP_WRITERS)
    assert survey(streams, 1).unwritten_ms == {0: int(streams.range(KEYS.klines)[0].id.split("-")[0])}
    assert findings_of(found, "BTCUSDT", None) == findings_of(found, None, "info") == []


def test_a_finding_that_was_said_several_times_is_one(streams: Streams) -> None:
    def say(seq: int, evidence: str, **changes: Any) -> None:
        fields = finding_entry(FindingKind.LOCAL_GAP, Severity.ERROR, evidence, symbol="AUSDT", time_ms=seq, **changes)
        streams.append(KEYS.findings, stamp(fields, "x", seq))

    def rows(*, open_only: bool = False) -> list[tuple[Any, ...]]:
        names = ("id", "evidence", "said_at", "closed_at", "closed_by", "interval", "open_time", "standing")
        found = findings_of(survey(streams, 1), "AUSDT", "error", open_only)
        return [tuple(row[name] for name in names) for row in found]

    bar = {"finding_id": "f1", "interval": "1m", "open_time": 60_000}
    say(3, "lacks 3", **bar)
    say(4, "lacks 2", **bar)
    say(5, "a notice")
    stands = ("0:f1", "lacks 2", 3, None, None, "1m", 60_000, True)
    assert rows() == [("0:x:5", "a notice", 5, None, None, None, None, False), stands]
    assert rows(open_only=True) == [stands]
    say(9, "amended", **bar, closed=True)
    assert rows()[1] == ("0:f1", "lacks 2", 3, 9, "amended", "1m", 60_000, True)
    assert rows(open_only=True) == []
    say(12, "lacks 1", **bar)
    assert rows(open_only=True) == [("0:f1", "lacks 1", 3, None, None, "1m", 60_000, True)]
    assert rows() != rows(open_only=True), "the notice stays"


def test_the_oldest_final_that_the_writers_have_not_done_with(streams: Streams, teller: Teller) -> None:
    streams.ensure_group(KEYS.klines, GROUP_WRITERS)
    assert oldest_unwritten_ms(streams, KEYS) is None
    for _ in range(3):
        teller.tell({("BTCUSDT", "1m"): FINAL})
    first, second, third = (entry.id for entry in streams.range(KEYS.klines))
    assert oldest_unwritten_ms(streams, KEYS) == int(first.split("-")[0])
    streams.read_group([KEYS.klines], GROUP_WRITERS, "me", count=2)
    assert oldest_unwritten_ms(streams, KEYS) == int(first.split("-")[0]), "read is not yet written"
    streams.ack(KEYS.klines, GROUP_WRITERS, [first, second])
    assert oldest_unwritten_ms(streams, KEYS) == int(third.split("-")[0])
    streams.read_group([KEYS.klines], GROUP_WRITERS, "me", count=2)
    streams.ack(KEYS.klines, GROUP_WRITERS, [third])
    assert oldest_unwritten_ms(streams, KEYS) is None

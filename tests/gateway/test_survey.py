"""The look at Redis: processes, streams, findings, and what the table lacks."""

from __future__ import annotations

import pytest

from gateway.survey import findings_of, oldest_unwritten_ms, survey
from klagg.contract import GROUP_WRITERS, Keys, stamp
from klagg.findings import finding_entry
from klagg.redisio import Streams
from tests.gateway.kit import FINAL, Teller

pytestmark = pytest.mark.servers

KEYS = Keys(0)


def test_processes_lengths_and_findings(streams: Streams, teller: Teller) -> None:
    streams.set_with_ttl("heartbeat:clock", '{"process": "clock"}', 60)
    streams.set_with_ttl("heartbeat:odd", "no json", 60)
    streams.set_with_ttl("heartbeat:list", "[]", 60)
    streams.append(KEYS.findings, stamp(finding_entry("DATA_LOSS", "error", "gone"), "x", 1))
    teller.tell({("BTCUSDT", "1m"): FINAL})
    found = survey(streams, 1)
    assert found.heartbeats == [{"process": "clock"}]
    assert (found.lengths[KEYS.live], found.lengths[KEYS.klines], found.lengths[KEYS.dead]) == (1, 1, 0)
    assert [(each["kind"], each["stream"]) for each in found.findings] == [("DATA_LOSS", KEYS.findings)]
    assert found.unwritten_ms == {}, "nobody writes a table"
    (row,) = findings_of(found, None, "error")
    assert (row["id"], row["kind"], row["symbol"], row["said_at"], row["evidence"]) == (
        "0:x:1", "DATA_LOSS", None, None, "gone",
    )  # fmt: skip
    streams.ensure_group(KEYS.klines, GROUP_WRITERS)
    assert survey(streams, 1).unwritten_ms == {0: int(streams.range(KEYS.klines)[0].id.split("-")[0])}
    assert findings_of(found, "BTCUSDT", None) == findings_of(found, None, "info") == []


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

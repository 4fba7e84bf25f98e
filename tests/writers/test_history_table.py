from __future__ import annotations

from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.errors import DatabaseRefused
from klagg.wire.entries import events_entry
from klagg.wire.findings import FindingKind, Severity, finding_entry
from tests.writers.test_history import GAP_KEY, T, closed, delisted, listed, opened, raw, told
from writers.history_findings import Finding, finding_of
from writers.history_table import keep
from writers.kline_table import value_is_to_blame

pytestmark = pytest.mark.servers

SYMBOLS = """
SELECT *, (extract(epoch FROM listed_at) * 1000)::bigint AS listed_ms,
    (extract(epoch FROM delisted_at) * 1000)::bigint AS delisted_ms
FROM symbols ORDER BY symbol, generation
"""
GAPS = """
SELECT *, (extract(epoch FROM opened_at) * 1000)::bigint AS opened_ms,
    (extract(epoch FROM ended_at) * 1000)::bigint AS ended_ms
FROM gaps ORDER BY symbol, from_id, opened_at
"""


def tables(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Everything that is kept, with what changes when a row is written again."""
    return {
        name: database.query(f"SELECT *, xmin::text FROM {name} ORDER BY {key}")
        for name, key in (("symbols", "symbol, generation"), ("gaps", "symbol, from_id, opened_at"), ("findings", "id"))
    }


def test_events_become_rows(database: Database) -> None:
    other = ("币安人生USDT", 1, 1)
    events = [*listed(T), *opened(T + 1), *opened(T + 2, other), *closed(T + 3, "healed"), *delisted(T + 4)]
    assert keep(database, events, [], "trade") == 3
    (symbol,) = database.query(SYMBOLS)
    assert (symbol["symbol"], symbol["generation"], symbol["status"]) == ("AUSDT", T - 1000, "SETTLING")
    assert (symbol["price_scale"], symbol["qty_scale"]) == (2, 3)
    assert (symbol["listed_ms"], symbol["delisted_ms"]) == (T, T + 4)
    gap, still_open = database.query(GAPS)
    assert (gap["symbol"], gap["from_id"], gap["to_id"]) == GAP_KEY
    assert (gap["ids"], gap["generation"], gap["reason"]) == ("trade", T - 1000, "healed")
    assert (gap["opened_ms"], gap["ended_ms"]) == (T + 1, T + 3)
    assert (still_open["symbol"], still_open["reason"], still_open["ended_at"]) == ("币安人生USDT", None, None)


def test_what_is_delivered_again_changes_no_row(database: Database) -> None:
    events = [*listed(T), *opened(T + 1), *closed(T + 3, "lost"), *opened(T + 4)]
    findings = [
        finding_of(
            raw(finding_entry(FindingKind.OVERFLOW, Severity.INFO, '{"a": [1]}', symbol="AUSDT", time_ms=T), seq),
            0,
            f"{seq}-0",
        )
        for seq in (1, 2)
    ]
    assert keep(database, events, [*findings, findings[0]], "agg") == 5
    before = tables(database)
    assert [len(rows) for rows in before.values()] == [1, 2, 2]
    assert keep(database, events, findings, "agg") == 0
    assert keep(database, events[1:2], findings[:1], "agg") == 0
    assert tables(database) == before


def test_an_opening_that_comes_after_its_end_makes_one_row(database: Database) -> None:
    keep(database, closed(T, "lost"), [], "agg")
    keep(database, opened(T - 7), [], "agg")
    (gap,) = database.query(GAPS)
    assert (gap["opened_ms"], gap["ended_ms"], gap["reason"]) == (T - 7, T, "lost")


def test_evidence_can_be_asked_for(database: Database) -> None:
    findings = [
        finding_of(raw(finding_entry(FindingKind.OVERFLOW, Severity.INFO, text), seq), 3, f"{seq}-0")
        for seq, text in enumerate(['{"a": 1}', 'a "b"'])
    ]
    keep(database, [], findings, "agg")
    rows = database.query(
        "SELECT evidence #>> '{}' AS text, evidence ->> 'a' AS a, shard, said_at FROM findings ORDER BY id"
    )
    assert [row["a"] for row in rows] == ["1", None]
    assert rows[1]["text"] == 'a "b"'
    assert {(row["shard"], row["said_at"]) for row in rows} == {(3, None)}


def standing(entry_id: str, time_ms: int, evidence: str, **changes: Any) -> Finding:
    """A finding about a minute, as that entry says it."""
    fields = finding_entry(
        FindingKind.LOCAL_GAP,
        Severity.ERROR,
        evidence,
        symbol="AUSDT",
        time_ms=time_ms,
        finding_id="f1",
        interval="1m",
        open_time=T,
        **changes,
    )
    return finding_of(raw(fields), 0, entry_id)


STANDING = """
SELECT
    id, severity, "interval", evidence #>> '{}' AS evidence, closed_by #>> '{}' AS closed_by, standing,
    (extract(epoch FROM open_time) * 1000)::bigint AS open_ms,
    (extract(epoch FROM said_at) * 1000)::bigint AS said_ms,
    (extract(epoch FROM closed_at) * 1000)::bigint AS closed_ms
FROM findings
"""


def test_a_finding_with_an_id_is_one_row_that_is_settled_and_opens_again(database: Database) -> None:
    first, again = standing("9-0", T, '{"lacks":3}'), standing("10-1", T + 5, '{"lacks":2}')
    settled, anew = standing("11-0", T + 9, "amended", closed=True), standing("12-0", T + 20, "gone again")

    def row(*findings: Finding) -> dict[str, Any]:
        keep(database, [], findings, "agg")
        (found,) = database.query(STANDING)
        return found

    told = {"id": "0:f1", "severity": "error", "interval": "1m", "open_ms": T, "said_ms": T, "standing": True}
    assert row(first) == told | {"evidence": '{"lacks": 3}', "closed_by": None, "closed_ms": None}
    assert row(again, first)["evidence"] == '{"lacks": 2}'
    closed = told | {"evidence": '{"lacks": 2}', "closed_by": "amended", "closed_ms": T + 9}
    assert row(settled) == closed
    (before,) = tables(database)["findings"]
    assert keep(database, [], [first, settled, again], "agg") == 0, "what is delivered again undoes nothing"
    assert tables(database)["findings"] == [before]
    assert row(anew) == told | {"evidence": "gone again", "closed_by": None, "closed_ms": None}
    assert row(settled) == told | {"evidence": "gone again", "closed_by": None, "closed_ms": None}


def test_findings_of_two_shards_do_not_collide(database: Database) -> None:
    one = standing("1-0", T, "x")
    other = finding_of(
        raw(finding_entry(FindingKind.LOCAL_GAP, Severity.ERROR, "y", time_ms=T, finding_id="f1")), 1, "1-0"
    )
    assert keep(database, [], [one, other], "agg") == 2
    assert [row["id"] for row in database.query(STANDING + "ORDER BY id")] == ["0:f1", "1:f1"]


@pytest.mark.parametrize("poison", ["severity", "nul", "time", "reason", "scale"])
def test_a_value_that_the_database_refuses_is_to_blame_and_nothing_is_kept(database: Database, poison: str) -> None:
    finding = finding_entry(FindingKind.OVERFLOW, Severity.INFO, "e", time_ms=T)
    finding |= {"severity": "loud"} if poison == "severity" else {}
    if poison == "nul":
        finding["symbol"] = "A\0"
    if poison == "time":
        finding["time"] = str(2**62)
    events = listed(T)
    if poison == "reason":
        events += told("gap_closed", T, ("AUSDT", 1, 2, "boredom"))
    if poison == "scale":
        events += told("listed", T, ("BUSDT", 1, "TRADING", 2**40, 0))
    with pytest.raises(DatabaseRefused) as refused:
        keep(database, events, [finding_of(raw(finding), 0, "1-0")], "agg")
    assert value_is_to_blame(refused.value)
    assert [len(rows) for rows in tables(database).values()] == [0, 0, 0]


def test_many_rows_at_once(database: Database) -> None:
    rows = [(f"S{n:04}USDT", n + 1, n + 5, T, T + 1) for n in range(2000)]
    from writers.history import events_of

    events = events_of(raw(events_entry("gap_opened", T, rows)))
    assert keep(database, events, [], "agg") == 2000
    assert keep(database, events, [], "agg") == 0

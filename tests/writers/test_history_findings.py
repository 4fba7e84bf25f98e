from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.errors import ContractError
from klagg.wire.fields import RawFields
from klagg.wire.findings import FindingKind, Severity, finding_entry
from tests.writers.test_history import T, raw
from writers.history_findings import Finding, changed, finding_of


def fields(finding_id: str = "f1", time_ms: int = T, evidence: str = "e", **changes: Any) -> RawFields:
    return raw(
        finding_entry(
            FindingKind.LOCAL_GAP, Severity.ERROR, evidence, time_ms=time_ms, finding_id=finding_id, **changes
        )
    )


def row_of(*told: Finding) -> Finding:
    """The one row of these entries, each kept by itself."""
    rows: dict[str, Finding] = {}
    for each in told:
        rows |= {row.id: row for row in changed(rows.values(), [each])}
    (row,) = rows.values()
    return row


def test_a_notice() -> None:
    found = finding_of(
        raw(finding_entry(FindingKind.DATA_LOSS, Severity.ERROR, "seq 3", symbol="AUSDT", time_ms=T), seq=7), 2, "5-0"
    )
    assert (found.id, found.shard, found.kind, found.severity) == ("2:aggregator-0@1:7", 2, "DATA_LOSS", "error")
    assert (found.symbol, found.said_ms, found.evidence, found.standing) == ("AUSDT", T, '"seq 3"', False)
    without = finding_of(raw(finding_entry(FindingKind.REDIS_OLDER, Severity.ERROR, "x")), 0, "5-0")
    assert (without.symbol, without.said_ms, without.interval, without.open_ms) == (None, None, None, None)


def test_a_finding_that_stands() -> None:
    found = finding_of(fields(interval="1m", open_time=T), 3, "5-0")
    assert (found.id, found.standing, found.interval, found.open_ms) == ("3:f1", True, "1m", T)
    assert (found.said_entry, found.closed_entry, found.closed_ms) == ("5-0", "", None)
    settled = finding_of(fields(evidence="amended", closed=True), 3, "6-0")
    assert (settled.id, settled.closed_ms, settled.closed_by) == ("3:f1", T, '"amended"')
    undated = finding_of(fields(time_ms=0, closed=True), 3, f"{T + 1}-0")
    assert (undated.closed_ms, undated.said_ms) == (T + 1, None), "then the time of Redis has to do"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({b"closed": b"yes"}, "neither 0 nor 1"),
        ({b"closed": b"1"}, "has no id"),
        ({b"interval": b"1m"}, "open_time"),
        ({b"interval": b"1m", b"open_time": b"soon"}, "open_time"),
    ],
)
def test_what_cannot_be_read_is_refused(bad: dict[bytes, bytes], reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        finding_of({**fields(finding_id=""), **bad}, 0, "1-0")


@pytest.mark.parametrize(
    ("evidence", "parsed"),
    [
        ('{"a": 1}', {"a": 1}),
        ("{not json", "{not json"),
        ('{"a": NaN}', '{"a": NaN}'),
        ("[1]", "[1]"),
        ('said "so"', 'said "so"'),
        ("", ""),
    ],
)
def test_evidence_is_a_json_object_or_a_sentence(evidence: str, parsed: object) -> None:
    assert (
        json.loads(finding_of(raw(finding_entry(FindingKind.OVERFLOW, Severity.INFO, evidence)), 0, "1-0").evidence)
        == parsed
    )


FIRST = finding_of(fields(time_ms=T, evidence="first"), 0, "9-0")
AGAIN = finding_of(fields(time_ms=T + 5, evidence="again"), 0, "10-1")
SETTLED = finding_of(fields(time_ms=T + 9, evidence="amended", closed=True), 0, "10-2")
ANEW = finding_of(fields(time_ms=T + 20, evidence="anew"), 0, "11-0")


def test_the_last_saying_gives_the_values_and_the_first_the_time() -> None:
    row = row_of(FIRST, AGAIN)
    assert (row.evidence, row.said_ms, row.closed_ms) == ('"again"', T, None)


def test_it_is_settled_and_stands_again() -> None:
    row = row_of(FIRST, AGAIN, SETTLED)
    assert (row.evidence, row.said_ms, row.closed_ms, row.closed_by) == ('"again"', T, T + 9, '"amended"')
    row = row_of(FIRST, AGAIN, SETTLED, ANEW)
    assert (row.evidence, row.said_ms, row.closed_ms, row.closed_by) == ('"anew"', T, None, None)


@pytest.mark.parametrize("told", [[FIRST, AGAIN], [FIRST, SETTLED], [FIRST, AGAIN, SETTLED, ANEW], [SETTLED]])
def test_any_order_and_any_repetition_make_the_same_row(told: list[Finding]) -> None:
    wanted = row_of(*told)
    for order in itertools.permutations(told):
        assert row_of(*order) == wanted
        assert changed([], order) == [wanted]
        assert changed([wanted], order) == []
        assert row_of(*order, *told, *reversed(told)) == wanted


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=6), st.randoms())
def test_of_any_entries_the_last_decides(kinds: list[tuple[bool, int]], random: Any) -> None:
    told = [
        finding_of(fields(time_ms=T + late, evidence=f"e{number}", closed=closing), 0, f"{number + 1}-0")
        for number, (closing, late) in enumerate(kinds)
    ]
    row = row_of(*random.sample(told, len(told)))
    assert (row.closed_ms is not None) == kinds[-1][0]
    assert row.said_ms == T + min(late for _, late in kinds)
    sayings = [number for number, (closing, _) in enumerate(kinds) if not closing]
    assert row.evidence == f'"e{sayings[-1] if sayings else len(kinds) - 1}"'

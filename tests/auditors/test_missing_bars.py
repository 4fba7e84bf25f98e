"""Findings about bars that did not come are closed when these come."""

from __future__ import annotations

from dataclasses import replace

from auditors.completeness import Completeness
from auditors.findings import Finding
from auditors.missing_bars import BARS_MAX, FINDINGS_MAX, MissingFindings, bars_of
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.wire.findings import FindingKind, Severity
from klagg.wire.klines import AGAIN_FIELD
from tests.aggregator.kit import T0
from tests.auditors.kit import BEGIN, SETTINGS, Said, clean_hour, numbered


def missing(first: int, last: int, symbol: str = "AUSDT") -> Finding:
    place = f"1m/{first}-{last}"
    return Finding(FindingKind.MISSING_KLINE, Severity.ERROR, symbol, place, T0, "passed over", "1m", first)


def test_a_finding_is_closed_when_the_last_of_its_bars_has_come() -> None:
    open_ones = MissingFindings()
    finding = missing(T0, T0 + 2 * MINUTE_MS)
    open_ones.open(finding, (("AUSDT", "1m", opening) for opening in bars_of(finding, MINUTE)))
    again = MissingFindings()
    again.of_json(open_ones.to_json())
    for one in (open_ones, again):
        assert one.came(("AUSDT", "1m", T0 + MINUTE_MS), T0) == []
        assert one.came(("BUSDT", "1m", T0), T0) == []
        assert one.came(("AUSDT", "1m", T0), T0) == []
        (closed,) = one.came(("AUSDT", "1m", T0 + 2 * MINUTE_MS), T0 + 5)
        assert (closed.id, closed.closed, closed.time_ms) == (finding.id, True, T0 + 5)
        assert len(one) == 0
        assert one.came(("AUSDT", "1m", T0), T0) == []


def test_a_finding_about_one_bar_names_it() -> None:
    finding = replace(missing(T0, T0), kind=FindingKind.ABSENT, place=f"1m/{T0}")
    assert bars_of(finding, MINUTE) == [T0]


def test_what_is_followed_is_bounded() -> None:
    open_ones = MissingFindings()
    for number in range(FINDINGS_MAX + 5):
        open_ones.open(missing(T0, T0, f"X{number}USDT"), [(f"X{number}USDT", "1m", T0)])
    assert len(open_ones) == FINDINGS_MAX
    assert open_ones.came(("X0USDT", "1m", T0), T0) == []
    wide = missing(T0, T0 + 2 * BARS_MAX * MINUTE_MS)
    open_ones.open(wide, (("AUSDT", "1m", opening) for opening in bars_of(wide, MINUTE)))
    assert len(open_ones) == FINDINGS_MAX


def test_a_bar_that_comes_again_settles_what_its_absence_raised() -> None:
    """A minute is not in the stream; ten minutes later the aggregator publishes it again."""
    said = list(clean_hour())
    lost = {"symbol": "AAAUSDT", "interval": "1m", "open_time": str(BEGIN + 20 * MINUTE_MS)}
    versions = [each for each in said if each.stream == "klines" and lost.items() <= each.fields.items()]
    said = [each for each in said if each not in versions]
    again = Said("klines", {**versions[-1].fields, AGAIN_FIELD: "1"})
    behind = next(
        place
        for place, each in enumerate(said)
        if each.stream == "klines" and int(each.fields["open_time"]) >= int(lost["open_time"]) + 10 * MINUTE_MS
    )
    said[behind:behind] = [again, again]
    judge, found = Completeness(SETTINGS), []
    for stream, entry_id, raw in numbered(said):
        judge.receive(stream, entry_id, raw)
        found += judge.drain_findings()
    opened = {each.id: each.kind for each in found if not each.closed}
    assert FindingKind.MISSING_KLINE in opened.values()
    assert {FindingKind.DUPLICATE, FindingKind.ORDER}.isdisjoint(opened.values())
    awaited = {finding_id for finding_id, kind in opened.items() if kind == FindingKind.MISSING_KLINE}
    assert awaited <= {each.id for each in found if each.closed}
    assert judge.counts["again"] == 1

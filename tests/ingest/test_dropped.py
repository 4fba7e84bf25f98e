"""What was dropped, by symbol: exact ids in ranges, bounded, and said once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ingest.dropped import LOGGED_MAX, RANGES_MAX, Dropped, Ranges, sentence_of
from klagg.wire.entries import TradeRow, trades_entry_of_rows


@given(st.lists(st.integers(0, 60), max_size=120))
def test_ranges_are_exactly_the_ids_in_whatever_order(ids: list[int]) -> None:
    ranges = Ranges()
    for each in ids:
        ranges.add(each, 1000 + each)
    assert [each for low, high in ranges.spans for each in range(low, high + 1)] == sorted(set(ids))
    assert all(left[1] + 1 < right[0] for left, right in zip(ranges.spans, ranges.spans[1:], strict=False))
    assert ranges.count == len(set(ids))
    assert ranges.exact
    if ids:
        assert (ranges.first_ms, ranges.last_ms) == (1000 + min(ids), 1000 + max(ids))


def test_very_many_ranges_are_joined_where_they_are_nearest_and_the_count_stays() -> None:
    ranges = Ranges()
    ids = [*range(0, 10 * RANGES_MAX, 10), 5000, 5002]
    for each in ids:
        ranges.add(each, each)
    assert len(ranges.spans) == RANGES_MAX
    assert (5000, 5002) in ranges.spans
    assert ranges.count == len(ids)
    assert not ranges.exact
    assert str(ranges).startswith("ids within 0")


def test_findings_name_each_symbol_and_the_sentence_the_first_ones() -> None:
    dropped = Dropped()
    rows = [
        TradeRow(f"S{at:02}USDT", at + number, "1", "1", 1, 1, 7000 + number, False)
        for at in range(LOGGED_MAX + 3)
        for number in (0, 1, 5)
    ]
    counts = dropped.add(trades_entry_of_rows(rows, line="A", ids="agg", recv_ms=1))
    assert set(counts.values()) == {3}
    findings = dropped.findings("ingest-A@5", "Redis does not answer", 8000)
    assert len(findings) == LOGGED_MAX + 3
    assert findings[2] == {
        "kind": "INGEST_DROPPED",
        "severity": "warning",
        "symbol": "S02USDT",
        "time": "8000",
        "evidence": "ingest-A@5 dropped 3 trades before they were in the feed, ids 2 to 3, 7, of 7000 to 7005 ms: "
        "Redis does not answer",
    }
    said = sentence_of([dropped], "Redis does not answer")
    assert said.startswith(f"{3 * (LOGGED_MAX + 3)} trades of {LOGGED_MAX + 3} symbols were dropped")
    assert said.endswith("S09USDT ids 9 to 10, 14; and 3 more symbols")

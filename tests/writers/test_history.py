from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.errors import ContractError
from klagg.wire.entries import (
    EVENT_DELISTED,
    EVENT_FIRST_TRADE,
    EVENT_GAP_CLOSED,
    EVENT_GAP_OPENED,
    EVENT_GENESIS,
    EVENT_LISTED,
    EVENT_TICK,
    events_entry,
)
from klagg.wire.fields import RawFields, stamp
from writers.history import Event, Gap, Record, Symbol, events_of

T = 1_721_329_440_000
GAP_KEY = ("AUSDT", 5, 9)


def raw(fields: dict[str, str], seq: int = 1) -> RawFields:
    return {name.encode(): value.encode() for name, value in stamp(fields, "aggregator-0@1", seq).items()}


def told(kind: str, time_ms: int, *rows: tuple[object, ...]) -> list[Event]:
    return events_of(raw(events_entry(kind, time_ms, rows)))


def opened(time_ms: int, gap_key: tuple[str, int, int] = GAP_KEY) -> list[Event]:
    return told(EVENT_GAP_OPENED, time_ms, (*gap_key, time_ms - 20, time_ms - 10))


def closed(time_ms: int, *reasons: str, gap_key: tuple[str, int, int] = GAP_KEY) -> list[Event]:
    return told(EVENT_GAP_CLOSED, time_ms, *((*gap_key, reason) for reason in reasons))


def listed(time_ms: int, generation: int = T - 1000, status: str = "TRADING", name: str = "AUSDT") -> list[Event]:
    return told(EVENT_LISTED, time_ms, (name, generation, status, 2, 3))


def delisted(time_ms: int, generation: int = T - 1000) -> list[Event]:
    return told(EVENT_DELISTED, time_ms, ("AUSDT", generation, "SETTLING", 2, 3))


def kept(*pages: Sequence[Event]) -> tuple[list[Symbol], list[Gap]]:
    """The rows after these pages, each told to a record of what the pages before left."""
    symbols: dict[tuple[str, int], Symbol] = {}
    gaps: dict[Any, Gap] = {}
    for page in pages:
        record = Record.begin("agg", symbols.values(), gaps.values())
        record.apply(page)
        for gone in record.gone_gaps():
            del gaps[gone.key]
        symbols |= {(row.symbol, row.generation): row for row in record.changed_symbols()}
        gaps |= {row.key: row for row in record.changed_gaps()}
    return [symbols[key] for key in sorted(symbols)], [gaps[key] for key in sorted(gaps)]


def gaps_of(*pages: Sequence[Event]) -> list[tuple[int, int | None, str | None]]:
    return [(gap.opened_ms - T, gap.ended_ms and gap.ended_ms - T, gap.reason) for gap in kept(*pages)[1]]


def test_entries_that_the_tables_do_not_keep_say_nothing() -> None:
    assert events_of(raw(events_entry(EVENT_TICK, T, []))) == []
    assert told(EVENT_FIRST_TRADE, T, ("AUSDT", "1m", T)) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "party", "time": "1", "n": "0"}, "unknown event kind 'party'"),
        ({**events_entry(EVENT_GAP_CLOSED, T, [("A", 1, 2, "lost")]), "to_id": "x"}, "to_id"),
        ({**events_entry(EVENT_GAP_CLOSED, T, [("A", 1, 2, "lost")]), "n": "2"}, "differ in length"),
        ({**events_entry(EVENT_LISTED, T, [("A", 1, "TRADING", 2, 3)]), "time": "soon"}, "time"),
    ],
)
def test_what_cannot_be_read_is_refused(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        events_of(raw(fields))
    with pytest.raises(ContractError, match="version"):
        events_of({**raw(fields), b"v": b"99"})


def test_a_symbol_over_its_life() -> None:
    genesis = told(EVENT_GENESIS, T + 5, ("AUSDT", T - 1000, 1, T + 4))
    ((row,), _) = kept(listed(T), genesis, listed(T + 10, status="SETTLING"), delisted(T + 20))
    assert row == Symbol("AUSDT", T - 1000, 2, 3, "SETTLING", T, T + 20, 1, T + 4, T + 20)
    ((row,), _) = kept(listed(T), delisted(T + 20), listed(T + 30))
    assert (row.status, row.listed_ms, row.delisted_ms, row.last_seen_ms) == ("TRADING", T, None, T + 30)


def test_each_generation_has_a_row() -> None:
    rows, _ = kept(listed(T), delisted(T + 5), listed(T + 10, generation=T + 9))
    assert [(row.generation, row.listed_ms, row.delisted_ms) for row in rows] == [
        (T - 1000, T, T + 5),
        (T + 9, T + 10, None),
    ]


def test_the_first_trade_of_a_symbol_that_nobody_listed() -> None:
    ((row,), _) = kept(told(EVENT_GENESIS, T, ("AUSDT", 0, 7, T - 1)))
    assert row == Symbol("AUSDT", 0, first_id=7, first_trade_ms=T - 1, last_seen_ms=T)


def test_a_gap_opens_and_ends() -> None:
    _, (gap,) = kept([*listed(T), *opened(T + 1)], closed(T + 50, "repaired"))
    assert gap == Gap("AUSDT", T - 1000, "agg", 5, 9, T - 19, T - 9, T + 1, T + 50, "repaired")


def test_a_gap_of_a_symbol_that_is_listed_later_has_no_generation() -> None:
    _, (gap,) = kept(opened(T), [*listed(T + 1), *opened(T)])
    assert gap.generation == 0


def test_a_gap_may_open_again() -> None:
    assert gaps_of(opened(T), closed(T + 1, "repaired"), opened(T + 2), closed(T + 3, "lost")) == [
        (0, 1, "repaired"),
        (2, 3, "lost"),
    ]


def test_within_a_tick_openings_are_told_before_ends() -> None:
    # Filled, but of no use, and so given up as one more gap_key.
    assert gaps_of(opened(T), [*opened(T + 5), *closed(T + 5, "repaired", "lost")]) == [
        (0, 5, "repaired"),
        (5, 5, "lost"),
    ]
    # Lost with its generation, whose successor begins with the same gap_key.
    assert gaps_of(opened(T), [*opened(T + 5), *closed(T + 5, "lost")]) == [(0, 5, "lost"), (5, None, None)]
    # Opened and filled twice between two ticks.
    assert gaps_of([*opened(T), *closed(T, "repaired", "lost")]) == [(0, 0, "lost")]


def test_a_gap_whose_opening_was_never_read() -> None:
    _, (gap,) = kept(closed(T, "lost"))
    assert (gap.opened_ms, gap.ended_ms, gap.reason, gap.before_ms, gap.lacks_opening) == (T, T, "lost", None, True)
    assert gaps_of(closed(T, "lost"), opened(T - 5)) == [(-5, 0, "lost")], "it came after all"
    assert gaps_of(closed(T, "lost"), opened(T + 5)) == [(0, 0, "lost"), (5, None, None)]


def test_a_neighbour_without_a_time() -> None:
    _, (gap,) = kept(told(EVENT_GAP_OPENED, T, ("AUSDT", 1, 2, -(2**63), T)))
    assert (gap.before_ms, gap.after_ms) == (None, T)


@st.composite
def stories(draw: st.DrawFn) -> list[list[Event]]:
    """Entries as an aggregator writes them: gap_keys that open and end in turn, over symbols that are listed anew."""
    entries: list[list[Event]] = []
    open_gaps: set[tuple[str, int, int]] = set()
    for tick in range(draw(st.integers(1, 12))):
        time_ms = T + tick
        if draw(st.booleans()):
            entries.append(listed(time_ms, generation=T - draw(st.integers(0, 2))))
        for from_id in draw(st.sets(st.integers(1, 3))):
            gap_key = ("AUSDT", from_id, from_id + 1)
            turns = draw(st.integers(1, 3))
            begins = [n for n in range(turns) if (gap_key in open_gaps) == bool(n % 2)]
            if begins:
                entries.append(opened(time_ms, gap_key))
            ends = [draw(st.sampled_from(["repaired", "healed", "lost"])) for _ in range(turns - len(begins))]
            if ends:
                entries.append(closed(time_ms, *ends, gap_key=gap_key))
            if turns % 2:
                open_gaps ^= {gap_key}
    return entries


@given(stories(), st.data())
def test_pages_and_redelivery_change_nothing(entries: list[list[Event]], data: st.DataObject) -> None:
    """However the entries are cut into pages, and if what was settled is delivered again from any place on."""
    once = kept([event for entry in entries for event in entry])
    pages: list[list[Event]] = []
    at = 0
    while at < len(entries):
        size = data.draw(st.integers(1, 4))
        pages.append([event for entry in entries[at : at + size] for event in entry])
        at += size
        if data.draw(st.booleans()):
            at = max(0, at - data.draw(st.integers(0, 3)))  # a crash before the acknowledgement
        if len(pages) > 60:
            return
    assert kept(*pages) == once

"""Findings: their places and their ids."""

from __future__ import annotations

from auditors.completeness import Completeness
from auditors.findings import bar_of
from tests.auditors import plants
from tests.auditors.kit import (
    BEGIN,
    ENDED_MS,
    LASTING_MS,
    SETTINGS,
    clean_hour,
    judged,
    numbered,
)

T = 1_700_000_000_000


def test_a_place_names_its_bar() -> None:
    assert bar_of(f"1m/{T}") == bar_of(f"1m/{T}-{T + 60_000}") == bar_of(f"1m/{T}/1.1.1") == ("1m", T)
    for other in ("klines/1-5", "7m/60000", "1m", "1m/soon", "auditor-exchange/5", ""):
        assert bar_of(other) == ("", 0)


def test_ids_are_stable() -> None:
    """The same fault found by another run, later, has the same id."""
    log = numbered(plants.drop_a_bar(list(clean_hour())))
    first_run, second_run = (judged(Completeness(SETTINGS), entries) for entries in (log, log[200:]))
    assert {each.id for each in first_run} == {each.id for each in second_run}
    assert first_run[0].to_fields()["id"] == first_run[0].id
    assert ENDED_MS < BEGIN + LASTING_MS

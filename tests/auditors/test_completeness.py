"""The completeness auditor: each planted fault of its catalogue is found as what it is, and only where it is."""

from __future__ import annotations

import pytest

from auditors.completeness import Completeness
from klagg.wire.findings import FindingKind
from tests.auditors import plants
from tests.auditors.kit import SETTINGS, clean_hour, judged, numbered
from tests.auditors.plants import BUSY
from tests.auditors.test_mutations import CATALOGUE, Fault, check_planted

FAULTS = [each for each in CATALOGUE if each.judge is Completeness]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.plant.__name__)
def test_a_planted_fault_is_found_as_what_it_is(fault: Fault) -> None:
    check_planted(fault)


def test_a_fault_is_only_found_where_it_is() -> None:
    """The neighbours of a dropped bar, and all other symbols, stay without a finding."""
    log = list(clean_hour())
    opening = log[plants.first(log)].fields["open_time"]
    found = judged(Completeness(SETTINGS), numbered(plants.drop_a_bar(log)))
    assert {(each.kind, each.symbol) for each in found} <= {
        (FindingKind.MISSING_KLINE, BUSY),
        (FindingKind.ABSENT, BUSY),
    }
    assert opening in found[0].place

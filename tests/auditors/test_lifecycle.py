"""The lifecycle auditor: each planted fault of its catalogue is found as what it is."""

from __future__ import annotations

import pytest

from auditors.lifecycle import Lifecycle
from tests.auditors.test_mutations import CATALOGUE, Fault, check_planted

FAULTS = [each for each in CATALOGUE if each.judge is Lifecycle]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.plant.__name__)
def test_a_planted_fault_is_found_as_what_it_is(fault: Fault) -> None:
    check_planted(fault)

"""A data directory for each test of the servers themselves."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

_numbers = itertools.count(1)


@pytest.fixture
def data(servers_directory: Path) -> Path:
    """A data directory that is not there yet, with a space and a letter beyond ASCII in its name."""
    return servers_directory / f"own data é {next(_numbers)}"

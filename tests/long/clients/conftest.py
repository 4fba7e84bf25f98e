from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.long.clients.kit import Pipeline, pipeline


@pytest.fixture
def served(tmp_path: Path, redis_url: str, database_url: str) -> Iterator[Pipeline]:
    """A pipeline with a history, of the test alone."""
    with pipeline(tmp_path, redis_url, database_url) as running:
        yield running

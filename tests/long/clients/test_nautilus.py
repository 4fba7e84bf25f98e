"""nautilus_trader, unmodified: instruments, bars of the past, live bars, and a gateway that begins again.

It asks for no bars that are in the future by its own clock, so their market runs at speed 1; live bars it takes as they
come.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.endtoend.kit import ROOT
from tests.long.clients.kit import Pipeline, pipeline, programs, python

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.servers,
    pytest.mark.timeout(2_400),
    pytest.mark.skipif("KLAGG_LONG" not in os.environ, reason="takes minutes: make test-long runs it"),
]


@pytest.fixture(scope="module")
def nautilus() -> Path:
    return python("nautilus", (3, 12))


def test_it_loads_what_the_table_holds(nautilus: Path, tmp_path: Path, redis_url: str, database_url: str) -> None:
    with pipeline(tmp_path, redis_url, database_url, speed=1) as served:
        served.follow("nautilus", command_of(nautilus), {"PYTHONPATH": str(ROOT)}, live=())


def test_it_hears_what_the_table_holds(nautilus: Path, served: Pipeline) -> None:
    served.follow("nautilus", command_of(nautilus), {"PYTHONPATH": str(ROOT)}, history=())


def command_of(nautilus: Path) -> list[str]:
    return [str(nautilus), *programs("nautilus_client")]

"""nautilus_trader, unmodified: instruments, bars of the past, live bars, and a gateway that begins again.

It takes the exchange's time for its own, so the market runs at speed 1, and nobody waits for a live bar of 15m.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.endtoend.kit import ROOT
from tests.long.clients.kit import pipeline, programs, python

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.servers,
    pytest.mark.timeout(2_400),
    pytest.mark.skipif("KLAGG_LONG" not in os.environ, reason="takes minutes: make test-long runs it"),
]


@pytest.fixture(scope="module")
def nautilus() -> Path:
    return python("nautilus", (3, 12))


def test_it_follows(nautilus: Path, tmp_path: Path, redis_url: str, database_url: str) -> None:
    with pipeline(tmp_path, redis_url, database_url, speed=1) as served:
        command = [str(nautilus), *programs("nautilus_client")]
        served.follow("nautilus", command, {"PYTHONPATH": str(ROOT)}, live=("1m",))

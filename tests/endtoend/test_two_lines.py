"""A small market over two lines at ×4. `make soak ARGS="--two-lines"` plays 600 symbols at 5,000 trades/s."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.endtoend.kit import FLOOR_S
from tests.soak.expected import Market
from tests.soak.twolines import two_lines

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]


@pytest.mark.timeout(900)
def test_one_percent_lost_on_both_lines_then_either_line_lost(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    """Bar by bar what the exchange's own record gives, all of them proven. Without other losses, one line is enough."""
    market = Market(60, 300, 11, FLOOR_S)
    assert two_lines(tmp_path, market, redis_url, database_url, speed=4, calm_s=22.5) == []

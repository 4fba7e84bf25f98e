"""600 symbols at 5,000 trades/s over two lines: each may lose trades, and either may die."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from klagg.wire.entries import EVENT_GAP_CLOSED, EVENT_GAP_OPENED
from tests.endtoend.kit import Stack
from tests.soak.expected import Market
from tests.soak.run import Soak

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]

LOSSES = """
seed = 9

[[fault]]
kind = "lose"
line = "A"
at_s = 110
for_s = 120
share = 0.01

[[fault]]
kind = "lose"
line = "B"
at_s = 110
for_s = 120
share = 0.01
"""
ACTS = {
    60: ("kill", "ingest"),
    80: ("start", "ingest"),
    105: ("look", ""),
    130: ("kill", "ingest"),
    150: ("start", "ingest"),
    170: ("kill", "ingest-b"),
    190: ("start", "ingest-b"),
}
"""By the second since the exchange began. Losses begin after the look."""


@pytest.mark.timeout(2400)
def test_one_percent_lost_on_both_lines_then_either_line_lost(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    """Bar by bar what the exchange's own record gives, all of them proven. Without other losses, one line is enough."""
    waiting = dict(ACTS)
    calm: list[int] = []

    def act(running: Stack, second: float) -> None:
        for at_s in [each for each in waiting if each <= second]:
            what, name = waiting.pop(at_s)
            if what == "kill":
                running.children.pop(name).end(signal.SIGKILL)
            elif what == "start":
                running.start(name)
            else:
                calm.append(soak.events[EVENT_GAP_OPENED])

    soak = Soak(tmp_path, Market(600, 5000, 11), minutes=5, script=LOSSES, act=act)
    assert soak.run(redis_url, database_url) == []
    assert calm == [0], "a line that died while the other lived lost something"
    assert soak.events[EVENT_GAP_OPENED] > 1000
    assert soak.events[EVENT_GAP_CLOSED] == soak.events[EVENT_GAP_OPENED]

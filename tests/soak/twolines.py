"""Two lines, each of which may lose trades, and either may die: `make soak ARGS="--two-lines"`, and a test at ×4."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

from klagg.wire.entries import EVENT_GAP_CLOSED, EVENT_GAP_OPENED
from tests.endtoend.kit import Stack
from tests.soak.expected import Market
from tests.soak.plan import CALM_S
from tests.soak.run import Soak

MINUTES: Final = 5
LOSS_FROM_S, LOSS_FOR_S = 50, 120
LOSSES: Final = """
seed = 9

[[fault]]
kind = "lose"
line = "A"
at_s = {at_s}
for_s = {for_s}
share = 0.01

[[fault]]
kind = "lose"
line = "B"
at_s = {at_s}
for_s = {for_s}
share = 0.01
"""
ACTS: Final = {
    0: ("kill", "ingest"),
    20: ("start", "ingest"),
    45: ("look", ""),
    70: ("kill", "ingest"),
    90: ("start", "ingest"),
    110: ("kill", "ingest-b"),
    130: ("start", "ingest-b"),
}
"""By the exchange's second since the first one. Losses begin after the look."""


def two_lines(
    folder: Path, market: Market, redis_url: str, database_url: str, *, speed: float = 1.0, calm_s: float = CALM_S
) -> list[str]:
    """A percent is lost on both lines, then either line is lost: what is wrong with it, in sentences.

    Every bar is what the exchange's own record gives, all of them are proven, and every gap has ended. Without other
    losses one line is enough.
    """
    from_s = calm_s * speed
    waiting = {from_s + at_s: what for at_s, what in ACTS.items()}
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

    script = LOSSES.format(at_s=from_s + LOSS_FROM_S, for_s=LOSS_FOR_S)
    soak = Soak(folder, market, MINUTES, script=script, speed=speed, calm_s=calm_s, act=act)
    wrong = soak.run(redis_url, database_url)
    if calm != [0]:
        wrong.append(f"a line that died while the other lived lost something: {calm} gaps")
    opened, closed = soak.events[EVENT_GAP_OPENED], soak.events[EVENT_GAP_CLOSED]
    if not opened > market.rate / 5:
        wrong.append(f"only {opened} gaps opened: the losses were not what they should be")
    if closed != opened:
        wrong.append(f"{closed} gaps ended of {opened} that opened")
    return wrong

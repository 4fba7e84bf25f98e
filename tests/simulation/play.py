"""One seed from beginning to end."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from dataclasses import dataclass

from tests.simulation.check import check
from tests.simulation.world import World


@dataclass(frozen=True)
class Outcome:
    """What happened in a world, and what was wrong with it in the end (empty: nothing)."""

    seen: Counter[str]
    error: str


def play(seed: int) -> Outcome:
    """Run the world of a seed and check it."""
    logging.getLogger("simulation").setLevel(logging.CRITICAL + 1)
    world = World(seed)
    try:
        world.run()
        check(world)
    except Exception:
        return Outcome(world.seen, traceback.format_exc())
    return Outcome(world.seen, "")

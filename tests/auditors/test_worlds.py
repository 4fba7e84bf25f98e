"""The auditors over whole simulated worlds: processes are killed, trades are lost, doubled, late, repaired, healed by
official rows, and the aggregator keeps its promises all the same. So there is nothing to find.

Worlds in which Redis comes back older are left out: there, what an auditor remembers goes back with it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from typing import Any

import pytest

from auditors.completeness import Completeness
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from tests.simulation.actors import KEYS
from tests.simulation.check import OLDER
from tests.simulation.world import World

COUNT = int(os.environ.get("KLAGG_AUDITED_SEEDS", "25"))


class Recorded(list[Any]):
    """One stream; everything appended to it also goes into the log of all."""

    def __init__(self, key: str, log: list[tuple[str, Any]]) -> None:
        super().__init__()
        self._key, self._log = key, log

    def append(self, raw: Any) -> None:
        super().append(raw)
        self._log.append((self._key, raw))


class Record(dict[str, Any]):
    """Streams by key, and `log`: all of their entries in the order in which they were written."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, Any]] = []

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = Recorded(key, self.log)
        return self[key]


def logged(seed: int) -> tuple[World, list[tuple[str, Any]]]:
    """A world's klines and events as they were committed."""
    logging.getLogger("simulation").setLevel(logging.CRITICAL + 1)
    world = World(seed)
    record = Record()
    world.redis.ever = record
    world.run()
    names = {KEYS.klines: "klines", KEYS.events: "events"}
    return world, [(names[key], raw) for key, raw in record.log if key in names]


@pytest.mark.timeout(600)
def test_nothing_is_found_in_worlds_that_keep_their_promises() -> None:
    judged_worlds, counts, told = 0, Counter[str](), []
    for seed in range(COUNT):
        world, log = logged(seed)
        if any(world.seen[each] for each in OLDER):
            continue
        judged_worlds += 1
        judges: list[Judge] = [Completeness(world.settings), Lifecycle(world.settings)]
        for judge in judges:
            for at, (stream, raw) in enumerate(log):
                if stream in judge.streams:
                    judge.take(stream, f"{at + 1}-0", raw)
            told += [(seed, type(judge).__name__, each) for each in judge.take_found()]
            counts += judge.counts
    assert told == []
    assert judged_worlds >= COUNT // 4
    assert min(counts[each] for each in ("klines", "folds", "amended", "confirmed", "empty")) > 0, counts

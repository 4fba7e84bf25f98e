"""The auditors over whole simulated worlds: processes are killed, trades are lost, doubled, late, repaired, healed by
official rows, and the aggregator keeps its promises all the same. So there is nothing to find.

Worlds in which Redis comes back older are left out: there, what an auditor remembers goes back with it.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Collection
from typing import Any

import pytest

from auditors.completeness import Completeness
from auditors.findings import Finding
from auditors.judge import Judge
from auditors.lifecycle import Lifecycle
from klagg.settings import Settings
from klagg.wire.findings import FindingKind
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


Log = list[tuple[str, Any]]


def found(judge: Judge, log: Log, first: int = 0, without: Collection[int] = ()) -> list[Finding]:
    """What a judge finds in a log from its entry `first` on, without some entries."""
    for at, (stream, raw) in enumerate(log):
        if at >= first and stream in judge.streams and at not in without:
            judge.receive(stream, f"{at + 1}-0", raw)
    return judge.drain_findings()


def found_with_restarts(kind: type[Judge], config: Settings, log: Log, rng: random.Random) -> list[Finding]:
    """The same by judges that end now and then, each going on from what the one before wrote down."""
    judge, saved, told = kind(config), dict[str, str](), list[Finding]()
    for at, (stream, raw) in enumerate(log):
        if stream not in judge.streams:
            continue
        judge.receive(stream, f"{at + 1}-0", raw)
        if raw.get(b"kind") == b"tick" and rng.random() < 0.05:
            told += judge.drain_findings()
            put, gone = judge.dump()
            saved = {name: text for name, text in (saved | put).items() if name not in gone}
            judge = kind(config)
            judge.restore(saved)
    return told + judge.drain_findings()


@pytest.mark.timeout(600)
def test_nothing_is_found_in_worlds_that_keep_their_promises() -> None:
    """By judges that see all of it, that are restarted, that join in, and that lose entries (which they say)."""
    judged_worlds, counts, told = 0, Counter[str](), []
    for seed in range(COUNT):
        world, log = logged(seed)
        if any(world.seen[each] for each in OLDER):
            continue
        judged_worlds += 1
        rng = random.Random(seed)
        for kind in (Completeness, Lifecycle):
            whole = kind(world.settings)
            results = {"whole": found(whole, log)}
            counts += whole.counts
            results["restarted"] = found_with_restarts(kind, world.settings, log, rng)
            for part in (0.2, 0.5, 0.8):
                results[f"from {part} on"] = found(kind(world.settings), log, int(len(log) * part))
            middle = len(log) // 2
            own = [at for at, (stream, _) in enumerate(log) if stream in kind.streams and at > middle]
            lossy = found(kind(world.settings), log, without=own[: rng.choice((1, 3, 20))])
            assert any(each.kind == FindingKind.DATA_LOSS for each in lossy)
            results["lossy"] = [each for each in lossy if each.kind != FindingKind.DATA_LOSS]
            told += [(seed, kind.__name__, name, each) for name, some in results.items() for each in some]
    assert told == []
    assert judged_worlds >= COUNT // 4
    assert min(counts[each] for each in ("klines", "folds", "amended", "confirmed", "empty")) > 0, counts

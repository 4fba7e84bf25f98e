"""A thousand worlds: whatever fails, the table ends as if nothing had.

Failing seeds are kept in seeds.txt and run first. One seed alone: `python -m tests.simulation SEED`; more of them:
`KLAGG_SEEDS=20000 pytest tests/simulation`.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.simulation.play import play
from tests.simulation.world import FAULTS

KEPT = Path(__file__).with_name("seeds.txt")
COUNT = int(os.environ.get("KLAGG_SEEDS", "1000"))
WORKERS = 2
MEETINGS = (
    "message lost",
    "message late",
    "message doubled",
    "second clock",
    "leap",
    "kline given again",
    "not yet",
    "request for trades",
    "request for klines",
    "request never answered",
    "answer in part",
    "answer twice",
    "request too late",
)
"""What the processes around the aggregator do to it and it to them."""
DEATHS = (
    "RedisOlder",
    "CommitConflict",
    "CommitDoubt",
    "RedisUnavailable",
    "RedisRefused",
    "start failed",
    "crashed within a call",
    "crashed within a start",
    "started from a checkpoint",
)
CRASHES = tuple(
    f"crash {when} {call}"
    for when in ("before", "after")
    for call in ("range", "watch", "exec", "newest", "set_bytes", "delete", "last_id", "groups", "trim_slice")
)
OUTCOMES = (
    "confirmed",
    "amended",
    "kline amended",
    "gap opened",
    "gap repaired",
    "finding DATA_LOSS",
    "finding REDIS_OLDER",
    "bar right",
)


def kept() -> list[int]:
    """Seeds that failed once, in the order in which they did."""
    return [int(line.split()[0]) for line in KEPT.read_text(encoding="utf-8").splitlines() if line[:1].isdigit()]


@pytest.mark.timeout(1800)
def test_whatever_fails_the_table_ends_as_if_nothing_had() -> None:
    seeds = [*kept(), *range(COUNT)]
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        outcomes = list(pool.map(play, seeds, chunksize=10))
    failed = {seed: outcome.error for seed, outcome in zip(seeds, outcomes, strict=True) if outcome.error}
    for seed, error in list(failed.items())[:3]:
        print(f"\nseed {seed} (python -m tests.simulation {seed}; keep it in {KEPT.name}):\n{error}")
    assert not failed, f"{len(failed)} of {len(seeds)} seeds failed: {sorted(failed)[:50]}"
    seen: Counter[str] = sum((outcome.seen for outcome in outcomes), Counter())
    print(f"\n{len(seeds)} seeds:", *(f"{name} {count}" for name, count in sorted(seen.items())), sep="\n  ")
    never = [each for each in (*FAULTS, *MEETINGS, *DEATHS, *CRASHES, *OUTCOMES) if not seen[each]]
    assert not never, "a simulation in which these never happen tests nothing"

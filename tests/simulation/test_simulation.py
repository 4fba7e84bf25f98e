"""Hundreds of worlds: whatever fails, the table ends as if nothing had.

Failing seeds are kept in seeds.txt and run first. The others are drawn from the commit, so that every commit plays new
ones and the same commit the same ones: `KLAGG_SEED_BASE=N` plays those of another. One seed alone: `python -m
tests.simulation SEED`; more of them: `make test-long`, or `KLAGG_SEEDS=20000 pytest tests/simulation`.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tests.simulation.play import Outcome, play
from tests.simulation.world import FAULTS

KEPT = Path(__file__).with_name("seeds.txt")
COUNT = int(os.environ.get("KLAGG_SEEDS", "200"))
COUNT_MAX = max(COUNT, 1000)
"""Something rare may not happen in so few worlds: then more are played, until everything has happened, or so many."""
PIECE = 10
BASE_WITHOUT_COMMIT = 1_000_000
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
    "request for behind",
    "ticker right",
    "ticker too low",
    "ticker too high",
    "ticker left out",
    "ticker streamed",
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
    "finding WITNESS_WRONG",
    "a lie believed",
    "bar right",
)


def kept() -> list[int]:
    """Seeds that failed once, then those in which something rare happens."""
    return [int(line.split()[0]) for line in KEPT.read_text(encoding="utf-8").splitlines() if line[:1].isdigit()]


def base() -> int:
    """The first of the seeds that are not kept ones: of the commit that is checked out, if there is one."""
    given = os.environ.get("KLAGG_SEED_BASE")
    if given:
        return int(given)
    command = ["git", "-C", str(KEPT.parent), "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except OSError:  # no git here
        commit = ""
    return int(commit[:8], 16) if commit else BASE_WITHOUT_COMMIT


class Player(Protocol):
    """Plays seeds; the outcomes in their order."""

    def __call__(self, seeds: Sequence[int], /) -> list[Outcome]: ...


@contextmanager
def players() -> Iterator[Player]:
    """All cores play, but not beside the other workers of pytest-xdist, whose real-time tests need a core too."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield lambda seeds: list(map(play, seeds))
        return
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda seeds: list(pool.map(play, seeds, chunksize=PIECE))


@pytest.mark.timeout(1800)
def test_whatever_fails_the_table_ends_as_if_nothing_had() -> None:
    first = base()
    drawn = itertools.count(first)
    seeds = [*kept(), *itertools.islice(drawn, COUNT)]
    outcomes: list[Outcome] = []
    seen: Counter[str] = Counter()
    never: Sequence[str] = ()
    with players() as played:
        piece = seeds
        while piece:
            outcomes += (found := played(piece))
            seen = sum((outcome.seen for outcome in found), seen)
            never = [each for each in (*FAULTS, *MEETINGS, *DEATHS, *CRASHES, *OUTCOMES) if not seen[each]]
            more = min(PIECE, COUNT_MAX - len(seeds)) if never and not any(each.error for each in found) else 0
            seeds += (piece := list(itertools.islice(drawn, max(more, 0))))
    print(f"\nKLAGG_SEED_BASE={first}, {len(seeds)} seeds:")
    failed = {seed: outcome.error for seed, outcome in zip(seeds, outcomes, strict=True) if outcome.error}
    for seed, error in list(failed.items())[:3]:
        print(f"\nseed {seed} (python -m tests.simulation {seed}; keep it in {KEPT.name}):\n{error}")
    assert not failed, f"{len(failed)} of {len(seeds)} seeds failed: {sorted(failed)[:50]}"
    print(*(f"{name} {count}" for name, count in sorted(seen.items())), sep="\n  ")
    assert not never, "a simulation in which these never happen tests nothing"

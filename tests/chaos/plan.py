"""The seeded schedule of faults of one run: which fault, when. Pure: it does nothing.

Times are exchange time in ms after the window's beginning. The schedule follows from its arguments alone; what the
faults meet does not, for processes run in real time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

AGGREGATOR, INGEST_A, INGEST_B, CLOCK, REPAIR, WRITER, SNAPSHOT, REDIS = (
    "aggregator",
    "ingest-A",
    "ingest-B",
    "clock",
    "repair",
    "writer",
    "snapshot",
    "redis",
)

KILL: Final = "kill"
"""kill -9 of `target`."""
BLACKOUT: Final = "blackout"
"""kill -9 of both lines at once; `target` is the first, the kill of the second follows in the schedule."""
CUT_TAIL: Final = "cut tail"
"""kill -9 of Redis, `amount_ms` of its append-only file cut off, the same port again."""
CUT_EXEC: Final = "cut EXEC"
"""The aggregator's next EXEC does not reach Redis."""
CUT_REPLY: Final = "cut reply"
"""The aggregator's next EXEC reaches Redis, its reply does not come back."""
SECOND: Final = "second aggregator"
"""Another aggregator of the same shard is started by mistake."""

WEIGHTS: Final = {AGGREGATOR: 6, INGEST_A: 4, INGEST_B: 4, CLOCK: 4, REPAIR: 4, WRITER: 5, SNAPSHOT: 2, REDIS: 3}
"""Shares of the kills; Redis gets few, because every process waits while it loads."""

BLACKOUTS, CUT_TAILS, CUT_EXECS, CUT_REPLIES, SECONDS = 0.02, 0.04, 0.04, 0.04, 0.02
"""Further faults for each kill."""

TAIL_MS_MIN, TAIL_MS_MAX = 100, 900
"""How much real time a cut takes off the append-only file."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault `at_ms` after the window's beginning."""

    at_ms: int
    kind: str
    target: str = ""
    amount_ms: int = 0


def plan(seed: int, kills: int, span_ms: int) -> list[Fault]:
    """`kills` times kill -9 and the other faults in proportion (at least one of each), in order, spread over `span_ms`.

    Each kind is spread by itself: a moment at random in each of as many equal parts of the span, so that no part stays
    untouched. Tails are not cut in the last twentieth: what they lose has to come again.
    """
    if kills < 1 or span_ms < 1:
        raise ValueError(f"A plan needs at least one kill and one ms, not {kills} in {span_ms} ms.")
    chance = random.Random(f"chaos {seed}")
    blackouts = _share(kills, BLACKOUTS) if kills >= 4 else 0
    single = kills - 2 * blackouts
    times, targets = _moments(chance, single, span_ms), _targets(chance, single)
    faults = [Fault(at_ms, KILL, target) for at_ms, target in zip(times, targets, strict=True)]
    for at_ms in _moments(chance, blackouts, span_ms):
        faults += [Fault(at_ms, BLACKOUT, INGEST_A), Fault(at_ms, BLACKOUT, INGEST_B)]
    for at_ms in _moments(chance, _share(kills, CUT_TAILS), span_ms * 19 // 20):
        faults.append(Fault(at_ms, CUT_TAIL, REDIS, chance.randint(TAIL_MS_MIN, TAIL_MS_MAX)))
    for kind, share in ((CUT_EXEC, CUT_EXECS), (CUT_REPLY, CUT_REPLIES), (SECOND, SECONDS)):
        faults += [Fault(at_ms, kind, AGGREGATOR) for at_ms in _moments(chance, _share(kills, share), span_ms)]
    return sorted(faults)


def _share(kills: int, share: float) -> int:
    return max(1, round(kills * share))


def _moments(chance: random.Random, count: int, span_ms: int) -> list[int]:
    return [int((number + chance.random()) * span_ms / count) for number in range(count)]


def _targets(chance: random.Random, count: int) -> Sequence[str]:
    """Every process in turn as often as its weight says, shuffled; the first ones are all different."""
    names = list(WEIGHTS)
    chance.shuffle(names)
    rest = chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=max(0, count - len(names)))
    return [*names, *rest][:count]

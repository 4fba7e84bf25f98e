"""A tick's outputs in parts, each small enough for a commit that no other client of Redis waits for.

Pure. Redis runs a commit in one go: a day's rollover of 750 symbols and seven intervals is 5,250 klines. The cuts
depend on the klines alone, which a restart says again as they were, while what shows the present (`live`, `bars`) may
differ. So a restart skips exactly the parts that are out (Position.step).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aggregator.publisher import Outputs

KLINES_MAX = 500
"""Klines in one commit. A position that stands within a tick counts parts of this size: a version that changes it must
begin behind a whole tick."""


def parts_of(outputs: Outputs, klines_max: int = KLINES_MAX) -> Iterator[Outputs]:
    """The parts, in the order in which they are committed; few klines go out in one.

    Many go out in slices, then the rest without `live` and `bars`, then each of these by itself. Only the last part of
    a tick's last outputs is `last`.
    """
    whole = max(0, len(outputs.klines) - 1) // klines_max * klines_max
    if not whole:
        yield outputs
        return
    for start in range(0, whole, klines_max):
        yield Outputs(outputs.time_ms, last=False, klines=outputs.klines[start : start + klines_max])
    yield replace(outputs, last=False, klines=outputs.klines[whole:], live=[], bars={}, bars_gone=[])
    yield Outputs(outputs.time_ms, last=False, live=outputs.live)
    yield Outputs(outputs.time_ms, last=outputs.last, bars=outputs.bars, bars_gone=outputs.bars_gone)

"""Memory over time: samples by process, and whether they are flat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

RATIO_MAX: Final = 1.10
SLACK_MB: Final = 8.0
"""The last third may need so much more than the middle one: a tenth, and what a buffer or two take."""
KB: Final = 1024


def resident_mb(pid: int) -> float:
    """The memory of a process that is in RAM (VmRSS of /proc)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / KB
    return 0.0


class Memory:
    """`samples[name]` are MB in the order of time."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = defaultdict(list)

    def look(self, pids: Mapping[str, int], others: Mapping[str, float]) -> None:
        """One sample of each process, and of what is measured elsewhere."""
        for name, pid in pids.items():
            self.samples[name].append(resident_mb(pid))
        for name, size_mb in others.items():
            self.samples[name].append(size_mb)

    def grown(self) -> dict[str, tuple[float, float]]:
        """What is not flat: the most of the middle third and that of the last one, by name."""
        return {name: found for name, values in self.samples.items() if not is_flat(*(found := thirds(values)))}


def thirds(values: Sequence[float]) -> tuple[float, float]:
    """The most of the middle third and of the last third; what comes first is the start."""
    third = max(1, len(values) // 3)
    return max(values[third : 2 * third] or values), max(values[-third:])


def is_flat(middle: float, last: float) -> bool:
    """Whether a process did not grow."""
    return last <= middle * RATIO_MAX + SLACK_MB

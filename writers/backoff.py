"""How long to wait before trying again: pure, chance is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double from `first_s` to `most_s`, each shortened by chance to between half and all of it.

    Chance keeps several writers from coming back at the same moment.
    """

    first_s: float
    most_s: float

    def seconds(self, failures: int, chance: float) -> float:
        """The wait after so many failures in a row (from 1); `chance` is between 0 and 1."""
        full = min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return full * (0.5 + chance / 2)

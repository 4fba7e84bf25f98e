"""Waiting times between tries: doubling, capped, with jitter so that many clients do not return together. Pure."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Delays of `first_s`, twice that, … up to `cap_s`, each times a random factor from 0.5 to 1.

    `random` gives numbers in [0, 1).
    """

    def __init__(self, first_s: float, cap_s: float, random: Callable[[], float]) -> None:
        self._first_s, self._cap_s, self._random = first_s, cap_s, random
        self.tries = 0

    def next_s(self) -> float:
        """How long to wait now."""
        # The exponent is bounded so that a very long outage cannot overflow a float.
        delay_s = min(self._cap_s, self._first_s * 2.0 ** min(self.tries, 32))
        self.tries += 1
        return delay_s * (0.5 + 0.5 * self._random())

    def reset(self) -> None:
        """It worked: begin again at `first_s`."""
        self.tries = 0

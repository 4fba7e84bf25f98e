"""How often what was rejected, and which of it to log: pure, `now` is an argument."""

from __future__ import annotations

from typing import Final

from ingest.parser import Rejection

QUIET_MS: Final = 10_000
"""Of one kind, at most one rejection in this time is logged."""

SAMPLE_CHARACTERS: Final = 300


class Sampler:
    """Chooses the rejections that a person gets to see: the first of each kind, then one in QUIET_MS at most."""

    def __init__(self) -> None:
        self._said_ms: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def sentence(self, rejection: Rejection, now_ms: float) -> str:
        """What to log of this rejection, "" for nothing. `now_ms` is local time."""
        kind = rejection.kind
        said_ms = self._said_ms.get(kind)
        if said_ms is not None and 0 <= now_ms - said_ms < QUIET_MS:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return ""
        self._said_ms[kind] = now_ms
        unsaid = self._unsaid.pop(kind, 0)
        more = f" (and {unsaid} more of this kind since the last one shown)" if unsaid else ""
        # repr keeps control characters of hostile input out of the log.
        text = repr(rejection.frame[:SAMPLE_CHARACTERS].decode(errors="replace"))[:SAMPLE_CHARACTERS]
        return f"rejected a message, {kind}: {rejection.reason}{more}: {text}"

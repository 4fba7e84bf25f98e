"""Words of the exchange that nobody has seen: each is counted by kind and logged once, and things go on.

A list of what is known must never be a list of what is let live: the exchange has new words without notice.
"""

from __future__ import annotations

import logging
from typing import Final

from klagg.process.stats import Stats

LOGGED_MAX: Final = 100
"""So many words are logged; further ones are only counted, so that garbage cannot fill the log."""


class UnknownWords:
    """Counts words of `kinds` as `unknown_words`, by kind."""

    def __init__(self, stats: Stats, log: logging.Logger, *kinds: str) -> None:
        self._stats, self._log = stats, log
        self._logged: set[tuple[str, str]] = set()
        for kind in kinds:
            stats.add("unknown_words", 0, kind=kind)  # Prometheus sees growth only in what it saw before

    def note(self, kind: str, word: str, where: str, times: int = 1) -> None:
        """A word of this kind came so many `times`; `where` is a sentence's end: what it stands for, what is done."""
        self._stats.add("unknown_words", times, kind=kind)
        if (kind, word) in self._logged or len(self._logged) >= LOGGED_MAX:
            return
        self._logged.add((kind, word))
        self._log.warning("the exchange has a new word, %s %s: %s", kind, repr(word)[:80], where)

"""Words of the exchange that nobody has seen: each is counted by kind and is a standing alarm, and things go on.

A list of what is known must never be a list of what is let live: the exchange has new words without notice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats

TOLD_MAX: Final = 100
"""So many words are told; further ones are only counted, so that garbage cannot fill the log."""

STANDS_MS: Final = 3_600_000
"""How long (local ms) the alarm over a word stands after the word came last."""


class UnknownWords:
    """Counts words of `kinds` as `unknown_words`, by kind, and keeps an alarm over each as long as it comes."""

    def __init__(self, stats: Stats, log: logging.Logger, *kinds: str) -> None:
        self._stats, self._log = stats, log
        self._told: set[tuple[str, str]] = set()
        for kind in kinds:
            stats.add("unknown_words", 0, kind=kind)  # Prometheus sees growth only in what it saw before

    def note(
        self, kind: str, word: str, where: str, times: int = 1, *, alarm: bool = True, stands_ms: float = STANDS_MS
    ) -> None:
        """A word of this kind came so many `times`; `where` is a sentence's end: what it stands for, what is done.

        Without `alarm` it is logged once: another alarm stands for its cause. With `stands_ms` 0 only `keep` ends it.
        """
        self._stats.add("unknown_words", times, kind=kind)
        told = (kind, word) in self._told
        if not told and len(self._told) >= TOLD_MAX:
            return
        self._told.add((kind, word))
        sentence = f"the exchange has a new word, {kind} {repr(word)[:80]}: {where}"
        if alarm:
            self._stats.alarms.raise_(AlarmKind.NEW_WORD, sentence, f"{kind} {word}", lasting_ms=stands_ms)
        elif not told:
            self._log.warning("%s", sentence)

    def keep(self, kind: str, words: Iterable[str]) -> None:
        """End the alarms over words of this kind that are none of `words`."""
        for gone in {word for of, word in self._told if of == kind}.difference(words):
            self._stats.alarms.clear(AlarmKind.NEW_WORD, f"{kind} {gone}")

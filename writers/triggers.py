"""Which triggers of the clock are to be obeyed: pure."""

from __future__ import annotations

from collections.abc import Iterable

from klagg.errors import ContractError
from klagg.wire.entries import TRIGGER_DAYS, TRIGGER_RETENTION, TRIGGER_SNAPSHOT, trigger_of
from klagg.wire.fields import RawFields


class Triggers:
    """The newest trigger of each kind that waits to be carried out.

    Whoever falls behind has nothing to catch up with: a newer trigger takes the place of the one before. What was
    triggered before this process began to read is owed where it keeps (retention, days), and passed over where it does
    not (snapshots).
    """

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._begun = False

    def receive(self, entries: Iterable[RawFields]) -> int:
        """Receive what was read, in the order of the stream; how many snapshots will not be taken because of it.

        The first call brings what was there before.
        """
        skipped = 0
        for raw in entries:
            try:
                name, time_ms = trigger_of(raw)
            except ContractError:
                continue  # of another version: there will be more
            if name == TRIGGER_SNAPSHOT and self._begun:
                skipped += name in self._due
                self._due[name] = time_ms
            elif name in (TRIGGER_RETENTION, TRIGGER_DAYS):
                self._due[name] = time_ms
        self._begun = True
        return skipped

    def due(self, name: str) -> int | None:
        """The exchange time (ms) of the trigger that waits; None if none does."""
        return self._due.get(name)

    def done(self, name: str) -> None:
        """It was carried out, or nothing is to be done about it."""
        self._due.pop(name, None)

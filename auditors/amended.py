"""Bars that were amended after they had been compared: what stands in the table now was not. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from auditors.schedule import AGAIN_LEAD, AGAIN_TAIL, CHEAP_ROWS, Agenda, Key, Look, look_at
from klagg.intervals import INTERVALS

WAITING_MAX: Final = 20_000
"""Bars that may wait; of more, those that come last are left as they were compared."""
SPAN_BARS: Final = CHEAP_ROWS - AGAIN_LEAD - AGAIN_TAIL
"""Bars of a series that are as near to each other as this are one look."""


@dataclass(frozen=True, slots=True)
class Amendment:
    """A version of a bar that came later, as the table of amendments has it."""

    symbol: str
    interval: str
    open_time: int
    version: tuple[int, int, int]
    stored_ms: int


class Amended:
    """What waits to be compared anew. `since_ms` is when (by the database's clock) the last amendment was stored."""

    def __init__(self) -> None:
        self.since_ms = 0
        self._known: set[Amendment] = set()
        self._waiting: dict[Key, set[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def note(self, amendments: Iterable[Amendment], agenda: Agenda) -> None:
        """What the table says of the time since `since_ms` and a little before; it may say the same again. Bars that
        are still to be compared do not wait here."""
        said = set(amendments)
        for each in said - self._known:
            key = each.symbol, each.interval
            series = agenda.series.get(key)
            compared = series is not None and series.next_ms is not None and each.open_time < series.next_ms
            if compared and len(self) < WAITING_MAX:
                self._waiting.setdefault(key, set()).add(each.open_time)
        self._known = said
        self.since_ms = max([self.since_ms, *(each.stored_ms for each in said)])

    def again(self) -> Look | None:
        """The next look, if there is anything to look at."""
        if not self._waiting:
            return None
        (symbol, name), bars = next(iter(self._waiting.items()))
        interval, first = INTERVALS[name], min(bars)
        count = min(SPAN_BARS, interval.bucket_of(max(bars)) - interval.bucket_of(first) + 1)
        return look_at(symbol, interval, first, count, again=True)

    def done(self, look: Look) -> None:
        """A look was taken, or is not worth taking."""
        left = {each for each in self._waiting.get(look.key, ()) if not look.from_ms <= each < look.until_ms}
        self._waiting.pop(look.key, None)
        if left:
            self._waiting[look.key] = left

"""Bars that were amended after they had been compared: the version in the table now has not been compared. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from auditors.schedule import AGAIN_LEAD, AGAIN_TAIL, CHEAP_ROWS, Look, Schedule, SeriesKey, look_at
from klagg.intervals import INTERVALS

WAITING_MAX: Final = 20_000
"""Bars that may wait; a bar beyond that number is not compared again."""
SPAN_BARS: Final = CHEAP_ROWS - AGAIN_LEAD - AGAIN_TAIL
"""Bars of one series that open within so many bars of each other are compared with one look."""


@dataclass(frozen=True, slots=True)
class Amendment:
    """A row of the table of amendments: a later version of a bar. `open_time` is exchange ms, `stored_ms` is ms by the
    database's clock, `version` is (epoch, revision, complete, official)."""

    symbol: str
    interval: str
    open_time: int
    version: tuple[int, int, int, int]
    stored_ms: int


class Amended:
    """The bars that wait to be compared again. `since_ms` is when the last known amendment was stored (ms by the
    database's clock)."""

    def __init__(self) -> None:
        self.since_ms = 0
        self._known: set[Amendment] = set()
        self._waiting: dict[SeriesKey, set[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def note(self, amendments: Iterable[Amendment], schedule: Schedule) -> None:
        """Take in the amendments stored since shortly before `since_ms`. An amendment that was passed before changes
        nothing. A bar that its series has not reached yet does not wait here, because the schedule will compare it."""
        current = set(amendments)
        for each in current - self._known:
            key = each.symbol, each.interval
            series = schedule.series.get(key)
            compared = series is not None and series.next_ms is not None and each.open_time < series.next_ms
            if compared and len(self) < WAITING_MAX:
                self._waiting.setdefault(key, set()).add(each.open_time)
        self._known = current
        self.since_ms = max([self.since_ms, *(each.stored_ms for each in current)])

    def again(self) -> Look | None:
        """The next look at amended bars; None if none wait."""
        if not self._waiting:
            return None
        (symbol, name), bars = next(iter(self._waiting.items()))
        interval, first = INTERVALS[name], min(bars)
        count = min(SPAN_BARS, interval.bucket_of(max(bars)) - interval.bucket_of(first) + 1)
        return look_at(symbol, interval, first, count, again=True)

    def done(self, look: Look) -> None:
        """The bars of this look do not wait any more."""
        left = {each for each in self._waiting.get(look.key, ()) if not look.from_ms <= each < look.until_ms}
        self._waiting.pop(look.key, None)
        if left:
            self._waiting[look.key] = left

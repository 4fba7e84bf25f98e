"""What the auditor of the exchange compares next: laps over the minutes of all symbols, sometimes longer bars. Pure.

A look is one REST call for one symbol and interval: every bar that became due since the last look, and the bar before
them, which is needed to prove a shift into the first one. Calls are paced by their weight, so the longer a lap takes,
the more bars are in each look: a lap costs as many calls as there are symbols, however long it takes.

Minutes come first, the series that has waited longest before the others. Every fourth look may go to bars that are
compared again, and every eighth to longer bars that are overdue (by LONG_BARS bars, or a day); if no minutes are due,
longer bars are compared as soon as they are closed. `now_ms` and `settled_ms` are exchange ms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from klagg.binance.limits import klines_weight
from klagg.intervals import DAY_MS, MINUTE, Interval

CHEAP_ROWS: Final = 99
"""The most rows of a klines call that weighs 1 (klagg.binance: klines_weight)."""
MANY_ROWS: Final = 499
"""The most rows of a call that weighs 2: no other call has more rows for its weight."""
LONG_BARS: Final = 96
LONG_MS: Final = DAY_MS
AGAIN_LEAD: Final = 4
AGAIN_TAIL: Final = 2
"""Bars requested before and after those that are compared again. A first look needs only one bar before."""
AGAIN_EVERY: Final = 4
LONG_EVERY: Final = 8

SeriesKey = tuple[str, str]
"""Symbol and interval name."""


@dataclass(slots=True)
class AuditedSeries:
    """One symbol and interval; times are exchange ms. `next_ms` is the open time of the first bar without a final
    verdict; None until it is known where its bars begin. No bar that opens at or after `until_ms` is expected (None: no
    end). The series is not looked at before `paused_until_ms`, nor before there is a bar that closes at `more_ms`. Bars
    before `seen_ms` were compared at least once."""

    symbol: str
    interval: Interval
    next_ms: int | None = None
    until_ms: int | None = None
    paused_until_ms: int = 0
    more_ms: int = 0
    seen_ms: int = 0

    @property
    def key(self) -> SeriesKey:
        """Symbol and interval name."""
        return self.symbol, self.interval.name

    def due(self, settled_ms: int) -> int:
        """How many bars that closed by `settled_ms` have no final verdict yet."""
        if self.next_ms is None:
            return 0
        end_ms = settled_ms if self.until_ms is None else min(settled_ms, self.until_ms)
        if end_ms < self.more_ms:
            return 0
        return max(0, self.interval.bucket_of(end_ms) - self.interval.bucket_of(self.next_ms))

    def age_ms(self, now_ms: int) -> int:
        """How long ago (ms) the oldest bar that was not compared closed."""
        if self.next_ms is None:
            return 0
        return max(0, now_ms - self.interval.close_time(max(self.next_ms, self.seen_ms)) - 1)


@dataclass(frozen=True, slots=True)
class Look:
    """One call: bars with open times in [from, until) are judged; `lead` bars before them and `tail` bars behind them
    are asked for as well, because shifts into and out of them are only proven with these.

    `again`: bars that were judged before.
    """

    symbol: str
    interval: Interval
    from_ms: int
    until_ms: int
    again: bool = False

    @property
    def key(self) -> SeriesKey:
        """Symbol and interval name."""
        return self.symbol, self.interval.name

    @property
    def lead(self) -> int:
        """How many bars before the judged ones are requested."""
        return AGAIN_LEAD if self.again else 1

    @property
    def tail(self) -> int:
        """How many bars after the judged ones are requested."""
        return AGAIN_TAIL if self.again else 0

    def _off(self, time_ms: int, bars: int) -> int:
        return self.interval.open_of(self.interval.bucket_of(time_ms) + bars)

    @property
    def start_ms(self) -> int:
        """The open time of the first row that is asked for."""
        return self._off(self.from_ms, -self.lead)

    @property
    def end_ms(self) -> int:
        """No row that opens here or later is asked for."""
        return self._off(self.until_ms - 1, 1 + self.tail)

    @property
    def second_ms(self) -> int:
        """The open time of the second row."""
        return self._off(self.from_ms, 1 - self.lead)

    @property
    def ours_from_ms(self) -> int:
        """Our own bars are wanted from here on: the edge of one more may tell what came into the first."""
        return self._off(self.from_ms, -self.lead - 1)

    @property
    def rows(self) -> int:
        """How many rows are asked for."""
        return self.interval.bucket_of(self.end_ms - 1) - self.interval.bucket_of(self.start_ms) + 1

    @property
    def weight(self) -> int:
        """What the call weighs."""
        return klines_weight(self.rows)


def look_at(symbol: str, interval: Interval, from_ms: int, bars: int, *, again: bool = False) -> Look:
    """A look at `bars` bars from `from_ms` on, or at as many as the cheapest call for them returns."""
    beside = AGAIN_LEAD + AGAIN_TAIL if again else 1
    rows_max = CHEAP_ROWS if bars + beside <= CHEAP_ROWS else MANY_ROWS
    until_ms = interval.open_of(interval.bucket_of(from_ms) + min(bars, rows_max - beside))
    return Look(symbol, interval, from_ms, until_ms, again)


class Schedule:
    """All series. A lap is over when every series of minutes with a due bar was compared."""

    def __init__(self) -> None:
        self.series: dict[SeriesKey, AuditedSeries] = {}
        self.laps = 0
        self.lap_ms = 0
        """How long the last whole lap took (exchange ms)."""
        self._lap: set[str] = set()
        self._lap_began_ms = 0
        self._turn = 0

    def add(self, symbol: str, intervals: Iterable[Interval]) -> None:
        """Add the series of a listed symbol; those that are there already do not change."""
        for each in intervals:
            self.series.setdefault((symbol, each.name), AuditedSeries(symbol, each))

    def end(self, symbol: str, end_ms: int) -> None:
        """A symbol is not traded any more: its last bar is the one that holds `end_ms` (exchange ms)."""
        for each in self._of(symbol):
            if each.until_ms is None:
                each.until_ms = each.interval.close_time(end_ms) + 1

    def drop(self, symbol: str) -> None:
        """Remove a symbol that the exchange does not know any more."""
        for each in self._of(symbol):
            del self.series[each.key]

    def _of(self, symbol: str) -> list[AuditedSeries]:
        return [each for each in self.series.values() if each.symbol == symbol]

    @property
    def minutes(self) -> list[AuditedSeries]:
        """The series of minutes whose beginning is known."""
        return [each for each in self.series.values() if each.interval is MINUTE and each.next_ms is not None]

    def next(self, now_ms: int, settled_ms: int, again: Callable[[], Look | None]) -> Look | None:
        """The next look; None if nothing is due. `again` returns the next look at bars that are compared again.

        It stays the same until `done` or `postpone` is called.
        """
        due = [(each, each.due(settled_ms)) for each in self.series.values() if each.paused_until_ms <= now_ms]
        due = [(each, bars) for each, bars in due if bars]
        self._drop_ended(settled_ms)
        minutes = [pair for pair in due if pair[0].interval is MINUTE]
        longer = [pair for pair in due if pair[0].interval is not MINUTE]
        if self._turn % AGAIN_EVERY == AGAIN_EVERY - 1 and (look := again()):
            return look
        if self._turn % LONG_EVERY == 0:
            overdue = [pair for pair in longer if pair[1] >= LONG_BARS or pair[0].age_ms(now_ms) >= LONG_MS]
            if overdue:
                return _oldest(overdue, now_ms)
        if minutes:
            return _oldest(minutes, now_ms)
        return again() or (_oldest(longer, now_ms) if longer else None)

    def _drop_ended(self, settled_ms: int) -> None:
        """Remove series that were compared up to their end."""
        over = [
            key
            for key, each in self.series.items()
            if each.until_ms is not None and each.until_ms <= settled_ms and not each.due(settled_ms)
        ]
        for key in over:
            del self.series[key]

    def done(
        self, look: Look, goes_on_ms: int, seen_ms: int, now_ms: int, paused_until_ms: int = 0, more_ms: int = 0
    ) -> None:
        """A look was done: its series continues at `goes_on_ms`, but not before `paused_until_ms` and `more_ms`; all
        bars before `seen_ms` were compared."""
        self._turn += 1
        series = self.series.get(look.key)
        if series is None or look.again:
            return
        series.next_ms, series.paused_until_ms, series.more_ms = goes_on_ms, paused_until_ms, more_ms
        series.seen_ms = seen_ms
        self._count(look, now_ms)

    def postpone(self, look: Look, until_ms: int, now_ms: int) -> None:
        """The exchange refused this look, not all looks: do not look at its series before `until_ms`."""
        self._turn += 1
        if look.key in self.series:
            self.series[look.key].paused_until_ms = until_ms
            self._count(look, now_ms)

    def _count(self, look: Look, now_ms: int) -> None:
        """Count the symbol as compared in this lap."""
        if look.interval is not MINUTE:
            return
        self._lap_began_ms = self._lap_began_ms or now_ms
        self._lap.add(look.symbol)
        if all(each.symbol in self._lap for each in self.minutes):
            self.laps, self.lap_ms = self.laps + 1, now_ms - self._lap_began_ms
            self._lap, self._lap_began_ms = set(), now_ms

    @property
    def lap_percent(self) -> int:
        """How much of the current lap is done."""
        minutes = self.minutes
        return 100 * sum(each.symbol in self._lap for each in minutes) // len(minutes) if minutes else 0

    def oldest_ms(self, now_ms: int) -> int:
        """How long ago (ms) the oldest minute that was not compared closed."""
        return max((each.age_ms(now_ms) for each in self.minutes), default=0)

    def oldest(self, now_ms: int) -> str:
        """The symbol of that minute; empty without any."""
        return max(self.minutes, key=lambda each: each.age_ms(now_ms)).symbol if self.minutes else ""

    def ages_ms(self, now_ms: int) -> Mapping[str, int]:
        """The same by interval."""
        ages: dict[str, int] = {}
        for each in self.series.values():
            ages[each.interval.name] = max(ages.get(each.interval.name, 0), each.age_ms(now_ms))
        return ages


def _oldest(due: list[tuple[AuditedSeries, int]], now_ms: int) -> Look:
    series, bars = max(due, key=lambda pair: pair[0].age_ms(now_ms))
    assert series.next_ms is not None
    return look_at(series.symbol, series.interval, series.next_ms, bars)

"""What a recording lacks in the middle of the time that it covers: ids of trades, or klines. Pure."""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from klagg.intervals import Interval

TOLD_MAX: Final = 20
"""Stretches that are named at the end of an output."""
TOLD_OF_A_BAR_MAX: Final = 3
"""Stretches that are named of one bar."""
_RUNS_MAX: Final = 65_536


class Coverage(StrEnum):
    """How far a source reaches over a bar. Only the first and the last bar of a source can be `partial`; any other bar
    that the source does not cover is a `gap`."""

    WHOLE = "whole"
    PARTIAL = "partial"
    GAP = "gap"


@dataclass(frozen=True, slots=True)
class MissingIds:
    """Trades that a recording does not hold: ids `first` to `last` of a symbol, between trades at `after_ms` and
    `before_ms` (exchange ms)."""

    symbol: str
    first: int
    last: int
    after_ms: int
    before_ms: int

    @property
    def count(self) -> int:
        """How many ids."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return f"ids {self.first} to {self.last} ({self.count:,})"

    def sentence(self) -> str:
        """What is missing, and when it was."""
        between = f"between {moment(self.after_ms)} and {moment(self.before_ms)}"
        return f"missing: {self.symbol} trade {self}, {between}"

    def told(self) -> dict[str, object]:
        """The same for JSON."""
        return {
            "missing": "ids",
            "symbol": self.symbol,
            "first": self.first,
            "last": self.last,
            "count": self.count,
            "after_ms": self.after_ms,
            "before_ms": self.before_ms,
        }


@dataclass(frozen=True, slots=True)
class MissingKlines:
    """Klines of `step` that a file does not hold, or says to be not complete: those that open from `first_ms` to
    `last_ms` (UTC ms)."""

    step: Interval
    first_ms: int
    last_ms: int
    there: bool = False
    """Whether the file holds them, and says that they are not complete."""

    @property
    def count(self) -> int:
        """How many klines."""
        return self.step.bucket_of(self.last_ms) - self.step.bucket_of(self.first_ms) + 1

    def within(self, from_ms: int, until_ms: int) -> MissingKlines:
        """Those of them that open in [from_ms, until_ms]."""
        first_ms = max(self.first_ms, from_ms)
        return MissingKlines(self.step, first_ms, min(self.last_ms, self.step.open_time(until_ms)), self.there)

    def __str__(self) -> str:
        stretch = moment(self.first_ms)
        if self.last_ms > self.first_ms:
            stretch = f"{stretch} to {moment(self.last_ms)}"
        return f"{stretch} ({self.count:,}{', not complete' if self.there else ''})"

    def sentence(self) -> str:
        """What is missing."""
        return f"{'not complete' if self.there else 'missing'}: {self.step.name} klines {self}"

    def told(self) -> dict[str, object]:
        """The same for JSON."""
        return {
            "missing": "klines",
            "interval": self.step.name,
            "first": self.first_ms,
            "last": self.last_ms,
            "count": self.count,
            "there": self.there,
        }


Missing = MissingIds | MissingKlines


def listed(stretches: Sequence[Missing], most: int = TOLD_OF_A_BAR_MAX) -> str:
    """The first stretches, and how many more there are."""
    texts = [str(each) for each in stretches[:most]]
    more = stretches[most:]
    if more:
        texts.append(f"and {len(more):,} more stretches ({sum(each.count for each in more):,})")
    return ", ".join(texts)


def moment(time_ms: int) -> str:
    """A time in UTC, with seconds and ms where it has them."""
    at = datetime.fromtimestamp(time_ms // 1000, UTC)
    text = at.strftime("%Y-%m-%d %H:%M:%S" if time_ms % 60_000 else "%Y-%m-%d %H:%M")
    return f"{text}.{time_ms % 1000:03}" if time_ms % 1000 else text


@dataclass(slots=True)
class _Run:
    """Ids first to last without a gap, with the times of both."""

    first: int
    last: int
    first_ms: int
    last_ms: int


@dataclass(slots=True)
class SeenIds:
    """The ids of a recording's trades, by symbol, in any order."""

    _runs: dict[str, list[_Run]] = field(default_factory=dict)

    def add(self, symbol: str, number: int, time_ms: int) -> None:
        """A trade, at an exchange time in ms."""
        runs = self._runs.setdefault(symbol, [])
        if runs:
            run = runs[-1]
            if number == run.last + 1:
                run.last, run.last_ms = number, time_ms
                return
            if run.first <= number <= run.last:
                return
        runs.append(_Run(number, number, time_ms, time_ms))
        if len(runs) > _RUNS_MAX and len(runs) & (len(runs) - 1) == 0:
            self._runs[symbol] = _merged(runs)

    def missing(self, symbol: str) -> list[MissingIds]:
        """The ids between the lowest and the highest that were not there, ascending."""
        return [
            MissingIds(symbol, early.last + 1, late.first - 1, early.last_ms, late.first_ms)
            for early, late in itertools.pairwise(_merged(self._runs.get(symbol, [])))
        ]


def _merged(runs: Iterable[_Run]) -> list[_Run]:
    """The same ids in as few runs as there can be, ascending."""
    found: list[_Run] = []
    for run in sorted(runs, key=lambda each: each.first):
        if found and run.first <= found[-1].last + 1:
            if run.last > found[-1].last:
                found[-1].last, found[-1].last_ms = run.last, run.last_ms
        else:
            found.append(_Run(run.first, run.last, run.first_ms, run.last_ms))
    return found


class CoveredKlines:
    """Which time a series of klines covers: from its first to its last whole kline, and what it lacks between them.

    `opens` are open times (UTC ms) in any order, `unproven` those of them of which the file says that they are not
    complete.
    """

    def __init__(self, step: Interval, opens: Iterable[int], unproven: Iterable[int] = ()) -> None:
        self.step = step
        doubtful = set(unproven)
        times = sorted(opens)
        self._ends_ms = times[0], times[-1]
        proven = [each for each in times if each not in doubtful]
        self.first_ms = proven[0] if proven else times[-1] + 1
        self.last_ms = proven[-1] if proven else times[0] - 1
        """Open time of the last whole kline."""
        covered = [each for each in times if self.first_ms <= each <= self.last_ms]
        self.missing: list[MissingKlines] = list(_stretches(step, covered, doubtful))
        self._firsts = [each.first_ms for each in self.missing]
        self._lasts = [each.last_ms for each in self.missing]

    def of(self, bar: Interval, open_ms: int) -> tuple[Coverage, list[MissingKlines]]:
        """How far the series covers a longer bar, and what it lacks of it in the middle."""
        close_ms = bar.close_time(open_ms)
        first, last = bisect_left(self._lasts, open_ms), bisect_right(self._firsts, close_ms)
        lacking = [each.within(open_ms, close_ms) for each in self.missing[first:last]]
        reaches = self.first_ms <= open_ms and self.step.close_time(self.last_ms) >= close_ms
        if reaches and not lacking:
            return Coverage.WHOLE, []
        first_ms, last_ms = self._ends_ms
        inner = bar.open_time(first_ms) < open_ms < bar.open_time(last_ms)
        return Coverage.GAP if inner else Coverage.PARTIAL, lacking


def _stretches(step: Interval, times: Sequence[int], doubtful: set[int]) -> Iterator[MissingKlines]:
    """What is missing between ascending open times, and what there is but in doubt."""
    for early, late in itertools.pairwise(times):
        after, before = step.bucket_of(early) + 1, step.bucket_of(late) - 1
        if after <= before:
            yield MissingKlines(step, step.open_of(after), step.open_of(before))
        if late in doubtful:
            yield MissingKlines(step, late, late, there=True)

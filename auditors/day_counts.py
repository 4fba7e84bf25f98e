"""Which bars of a symbol were compared on a UTC day, so that a bar that is compared again counts once. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from auditors.classify import ADOPTED, EXACT, VERDICTS
from klagg.intervals import DAY_MS, Interval

Span = tuple[int, int]
"""Open times from the first (ms) up to, but without, the second."""

COUNTED: Final = tuple(kind.lower() for kind in (*VERDICTS, ADOPTED))
"""The names of the counts, as the columns of the table have them."""


@dataclass(frozen=True, slots=True)
class JudgedBar:
    """One bar that was compared: its verdict, and the open time (ms) by which its finding is named (0: it has none)."""

    open_time: int
    kind: str
    place_ms: int = 0


@dataclass(slots=True)
class DayCounts:
    """One symbol, interval and UTC day: which open times were compared, and the bars that are not exact at once."""

    interval: Interval
    ranges: list[Span] = field(default_factory=list)
    different: dict[int, JudgedBar] = field(default_factory=dict)

    @classmethod
    def of(
        cls, interval: Interval, ranges: Iterable[Sequence[int]], different: Iterable[Sequence[int | str]]
    ) -> DayCounts:
        """The counts that `saved_ranges` and `saved_different` described."""
        counts = cls(interval, [(int(first), int(until)) for first, until in ranges])
        for first, until, kind, place_ms in different:
            for opening in _opens(interval, (int(first), int(until))):
                counts.different[opening] = JudgedBar(opening, str(kind), int(place_ms))
        return counts

    def add(self, judged: Iterable[JudgedBar]) -> None:
        """Add verdicts; a verdict replaces an earlier one on the same bar."""
        for each in judged:
            self.different.pop(each.open_time, None)
            if each.kind != EXACT:
                self.different[each.open_time] = each
            self.ranges.append((each.open_time, self.interval.close_time(each.open_time) + 1))
        self.ranges = union_of(self.ranges)

    @property
    def counts(self) -> dict[str, int]:
        """How many bars were compared, and how many have each verdict, by the names of COUNTED; the `adopted` ones are
        among the `exact`."""
        bars = sum(self._bars(each) for each in self.ranges)
        kinds = Counter(each.kind.lower() for each in self.different.values())
        exact = bars - len(self.different) + kinds[ADOPTED.lower()]
        return {"bars": bars} | {name: kinds[name] for name in COUNTED} | {"exact": exact}

    def _bars(self, span: Span) -> int:
        return self.interval.bucket_of(span[1] - 1) - self.interval.bucket_of(span[0]) + 1

    @property
    def saved_ranges(self) -> list[list[int]]:
        """`ranges` for JSON."""
        return [list(each) for each in self.ranges]

    @property
    def saved_different(self) -> list[list[int | str]]:
        """`different` for JSON: consecutive bars with the same verdict and place as one [from, until, verdict,
        place]."""
        saved: list[list[int | str]] = []
        for opening in sorted(self.different):
            each, until = self.different[opening], self.interval.close_time(opening) + 1
            if saved and saved[-1][1:] == [opening, each.kind, each.place_ms]:
                saved[-1][1] = until
            else:
                saved.append([opening, until, each.kind, each.place_ms])
        return saved


def union_of(spans: Iterable[Span]) -> list[Span]:
    """The spans in order, those that touch or overlap as one."""
    joined: list[Span] = []
    for first, until in sorted(spans):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], until)
        else:
            joined.append((first, until))
    return joined


def by_day(judged: Iterable[JudgedBar]) -> Mapping[int, list[JudgedBar]]:
    """The verdicts by the UTC day (days since 1970) in which their bars open."""
    days: dict[int, list[JudgedBar]] = {}
    for each in judged:
        days.setdefault(each.open_time // DAY_MS, []).append(each)
    return days


def _opens(interval: Interval, span: Span) -> Iterable[int]:
    first, last = interval.bucket_of(span[0]), interval.bucket_of(span[1] - 1)
    return (interval.open_of(bucket) for bucket in range(first, last + 1))

"""Which bars are expected: the symbols, when their bars begin and end, and which bar of each interval is next. Pure.

No bar of a symbol is expected before its bars begin (at its genesis, or at its first kline where an official row began
them), and none that was not due when the symbol was delisted. All times are exchange ms, as the ticks carry them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from klagg.intervals import MINUTE_MS, Interval
from klagg.wire.entries import EVENT_DELISTED, EVENT_GENESIS, EVENT_LISTED

NEVER: Final = 1 << 62


@dataclass(slots=True)
class ExpectedSeries:
    """One interval of one symbol; all fields but `loose` are open times (exchange ms), -1 where there is none.

    `expected` is the bar that comes next; while `loose`, an earlier bar may come instead. `first` is where its bars
    begin, `newest` the newest bar that came, `reported` the newest bar whose absence was reported. `back` is where the
    series had begun before an earlier bar came (or where this auditor joined): bars from `first` to `back` may come.
    """

    expected: int
    loose: bool = True
    first: int = -1
    newest: int = -1
    reported: int = -1
    back: int = -1


@dataclass(slots=True)
class ExpectedSymbol:
    """One symbol. Times are exchange ms, -1 where there is none: `genesis_ms` of the first trade of its `generation`,
    `ended_ms` of the tick at which it was delisted, `resumed_ms` of the tick at which it was traded again. `adopted`:
    this auditor did not see the symbol's beginning."""

    generation: int = -1
    genesis_ms: int = -1
    ended_ms: int = -1
    resumed_ms: int = -1
    adopted: bool = False
    series: dict[str, ExpectedSeries] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        """The symbol for JSON."""
        series = {
            name: [each.expected, int(each.loose), each.first, each.newest, each.reported, each.back]
            for name, each in self.series.items()
        }
        return [self.generation, self.genesis_ms, self.ended_ms, self.resumed_ms, int(self.adopted), series]

    @classmethod
    def of_json(cls, saved: list[Any]) -> ExpectedSymbol:
        """The symbol that `to_json` described."""
        generation, genesis, ended, resumed, adopted, series = saved
        return cls(
            generation,
            genesis,
            ended,
            resumed,
            bool(adopted),
            {name: ExpectedSeries(values[0], bool(values[1]), *values[2:]) for name, values in series.items()},
        )


PASSED, ABSENT, BEHIND = "passed", "absent", "behind"


@dataclass(frozen=True, slots=True)
class MissingBars:
    """Bars of one series from `first` to `last` (open times, both included) that are missing for one `reason`.

    PASSED: a later bar came, and these did not. ABSENT: their deadline has passed. BEHIND: bars came that are earlier
    than where the series had begun, so all of these must exist; the caller, who holds the bars, checks which do.
    """

    symbol: str
    interval: str
    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class Deadlines:
    """`due_ms`: a bar must come within this time after its close. `window_ms`: how old a trade may be. Exchange ms."""

    due_ms: int
    window_ms: int


class ExpectedBars:
    """All symbols of a shard. `changed` holds the names of the symbols that must be saved again."""

    def __init__(self, intervals: tuple[Interval, ...], deadlines: Deadlines) -> None:
        self.intervals = {each.name: each for each in intervals}
        self.symbols: dict[str, ExpectedSymbol] = {}
        self.changed: set[str] = set()
        self.now_ms = 0
        self.watched = False
        """Whether every entry since the shard began was seen: then a symbol that is not known is new."""
        self._deadlines = deadlines
        self._next_check_ms = 0
        """No bar becomes overdue before this time."""
        self._skipped: list[MissingBars] = []
        self._fresh: set[str] = set()
        """Symbols whose beginning was not seen: from the next tick on their bars are expected."""
        self._reached_back: dict[tuple[str, str], int] = {}
        """Series that got bars before their beginning, and when all bars in between must have come."""

    def apply_event(self, kind: str, row: dict[str, str]) -> None:
        """Take in a genesis, listed or delisted event; the tick of its commit comes after it."""
        name, generation = row["symbol"], int(row["generation"])
        self.changed.add(name)
        self._next_check_ms = 0
        if kind == EVENT_GENESIS:
            self._genesis(name, generation, int(row["trade_time"]))
            return
        member = self.symbols.get(name)
        if member is None or kind not in (EVENT_LISTED, EVENT_DELISTED):
            return
        if kind == EVENT_DELISTED:
            if member.ended_ms < 0 or member.resumed_ms >= 0:
                member.ended_ms, member.resumed_ms = self.now_ms, -1
        elif member.ended_ms >= 0 and generation <= member.generation and row["status"] == "TRADING":
            member.resumed_ms = self.now_ms

    def _genesis(self, name: str, generation: int, trade_ms: int) -> None:
        member = self.symbols.setdefault(name, ExpectedSymbol(adopted=not self.watched))
        begins = not member.series or member.ended_ms >= 0
        member.generation, member.genesis_ms = generation, trade_ms
        if not begins or (self.now_ms and trade_ms < self.now_ms - self._deadlines.window_ms):
            return
        member.ended_ms = member.resumed_ms = -1
        for kind in self.intervals.values():
            if kind.shortest_ms >= MINUTE_MS:
                opening = kind.open_time(trade_ms)
                held = member.series.get(kind.name)
                if held is None:
                    member.series[kind.name] = ExpectedSeries(opening)
                elif held.expected < opening:
                    held.expected, held.loose = opening, True

    def observe(self, name: str, interval_name: str, open_time: int) -> bool:
        """Take in the first version of a bar; False if it came after a later bar of its series, which is out of
        order."""
        member = self.symbols.get(name)
        if member is None:
            member = self.symbols[name] = ExpectedSymbol(adopted=not self.watched)
            if member.adopted:
                self._fresh.add(name)
        self.changed.add(name)
        if name in self._fresh:
            return True
        kind = self.intervals[interval_name]
        series = member.series.get(interval_name)
        if series is None:
            series = member.series[interval_name] = ExpectedSeries(open_time)
            self._begin(member, open_time)
        if open_time < series.expected and member.adopted and series.loose:
            return True  # another version of a bar that came before this auditor began to read
        if open_time < series.expected and not series.loose:
            return self._reach_back(name, interval_name, open_time)
        if open_time > series.expected:
            last = kind.open_of(kind.bucket_of(open_time) - 1)
            self._skipped.append(MissingBars(name, interval_name, series.expected, last, PASSED))
        series.first = open_time if series.first < 0 else series.first
        series.loose = False
        series.newest = max(series.newest, open_time)
        series.expected = kind.open_of(kind.bucket_of(open_time) + 1)
        self._next_check_ms = min(self._next_check_ms, self._due(kind, series.expected))
        return True

    def _reach_back(self, name: str, interval_name: str, open_time: int) -> bool:
        """Whether a bar may come that is earlier than the expected one. It may before the beginning of its series: a
        repaired trade can be that early, and an auditor that joined later gets new versions of bars it has not seen."""
        member = self.symbols[name]
        series = member.series[interval_name]
        if open_time < series.first:
            series.back = max(series.back, series.first)
            if not member.adopted:
                self._reached_back[name, interval_name] = self.now_ms + self._deadlines.due_ms
            series.first = open_time
            return True
        return open_time < series.back

    def _begin(self, member: ExpectedSymbol, time_ms: int) -> None:
        """For the other intervals of a symbol whose bars begin without a genesis: expect the bar that opens next."""
        for kind in self.intervals.values():
            if kind.name not in member.series and kind.shortest_ms >= MINUTE_MS:
                following = kind.open_of(kind.bucket_of(max(time_ms, self.now_ms)) + 1)
                member.series[kind.name] = ExpectedSeries(following)

    def forget_progress(self) -> None:
        """Entries were lost: until the next tick it is not known which bar comes next in any series."""
        self._skipped, self._reached_back, self._fresh = [], {}, set(self.symbols)
        for member in self.symbols.values():
            member.adopted = True

    def _adopt(self) -> None:
        """Of symbols whose beginning was not seen, expect the bars in progress at this tick and all later ones."""
        for name in self._fresh:
            member = self.symbols[name]
            self.changed.add(name)
            member.series = {
                kind.name: ExpectedSeries(kind.open_time(self.now_ms))
                for kind in self.intervals.values()
                if kind.name in member.series or not member.series or kind.shortest_ms >= MINUTE_MS
            }
        self._fresh, self._next_check_ms = set(), 0

    def tick(self, time_ms: int) -> list[MissingBars]:
        """The bars that are overdue or were passed over, as of this tick."""
        self.now_ms = max(time_ms, self.now_ms)
        if self._fresh:
            self._adopt()
        skipped, self._skipped = self._skipped, []
        found = [each for each in skipped if not self._excused(each)]
        found += [self._behind(*each) for each, due_ms in list(self._reached_back.items()) if self.now_ms >= due_ms]
        if self.now_ms >= self._next_check_ms:
            found += self._absent()
        return found

    def _excused(self, missing: MissingBars) -> bool:
        """Whether bars that were passed over were not expected: they were not due when the symbol was delisted, and the
        bars after them belong to the time when it was traded again."""
        member = self.symbols[missing.symbol]
        if member.ended_ms < 0 or self._due(self.intervals[missing.interval], missing.first) < member.ended_ms:
            return False
        return member.resumed_ms < 0 or missing.last < member.resumed_ms

    def _behind(self, name: str, kind_name: str) -> MissingBars:
        """The bars that must exist now in a series that got bars before its beginning."""
        kind, series = self.intervals[kind_name], self.symbols[name].series[kind_name]
        del self._reached_back[name, kind_name]
        last = kind.open_of(kind.bucket_of(series.back) - 1)
        series.back = -1
        self.changed.add(name)
        return MissingBars(name, kind_name, series.first, last, BEHIND)

    def to_json(self) -> list[Any]:
        """The state for JSON, without the symbols."""
        return [self.now_ms, [[*each, due_ms] for each, due_ms in self._reached_back.items()]]

    def of_json(self, saved: list[Any]) -> None:
        """Put back the state that `to_json` gave right after a tick."""
        self.now_ms, self._reached_back = saved[0], {(name, kind): due_ms for name, kind, due_ms in saved[1]}

    def _due(self, kind: Interval, open_time: int) -> int:
        return kind.close_time(open_time) + 1 + self._deadlines.due_ms

    def _absent(self) -> list[MissingBars]:
        found, next_check_ms = [], NEVER
        for name, member in self.symbols.items():
            for kind_name, series in member.series.items():
                kind = self.intervals[kind_name]
                due_ms = self._due(kind, series.expected)
                if member.ended_ms >= 0:
                    if due_ms >= member.ended_ms and member.resumed_ms < 0:
                        continue
                    if member.resumed_ms >= 0:
                        due_ms = max(due_ms, member.resumed_ms + self._deadlines.due_ms)
                if self.now_ms < due_ms:
                    next_check_ms = min(next_check_ms, due_ms)
                elif series.reported < series.expected:
                    series.reported = series.expected
                    self.changed.add(name)
                    found.append(MissingBars(name, kind_name, series.expected, series.expected, ABSENT))
        self._next_check_ms = next_check_ms
        return found

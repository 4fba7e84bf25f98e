"""Which bars are owed: the symbols, when their bars begin and end, and which bar of each interval comes next. Pure.

A symbol owes nothing before its bars begin (its genesis, or its first kline where an official row began them) and
nothing that was not due when it was delisted. `now` is the exchange time of the ticks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from klagg.intervals import MINUTE_MS, Interval
from klagg.wire.entries import EVENT_DELISTED, EVENT_GENESIS, EVENT_LISTED

NEVER: Final = 1 << 62


@dataclass(slots=True)
class Series:
    """One interval of one symbol. `expected` is the open time of the bar that comes next; while `loose`, a bar before
    it may come instead. `first` is where its bars begin, `newest` the newest one that came (-1: none). `said` is the
    newest open time whose absence was said; bars reach back from `back`, where they had begun or where this
    auditor joined in, to `first` (-1: no)."""

    expected: int
    loose: bool = True
    first: int = -1
    newest: int = -1
    said: int = -1
    back: int = -1


@dataclass(slots=True)
class Member:
    """One symbol. Times are ms, -1 where there is none: `genesis_ms` of the first trade of its `generation`, `ended_ms`
    of the tick at which it was delisted, `resumed_ms` of that at which it went on. `adopted`: its beginning was not
    seen."""

    generation: int = -1
    genesis_ms: int = -1
    ended_ms: int = -1
    resumed_ms: int = -1
    adopted: bool = False
    series: dict[str, Series] = field(default_factory=dict)

    def to_json(self) -> list[Any]:
        """What a restart needs."""
        series = {
            name: [each.expected, int(each.loose), each.first, each.newest, each.said, each.back]
            for name, each in self.series.items()
        }
        return [self.generation, self.genesis_ms, self.ended_ms, self.resumed_ms, int(self.adopted), series]

    @classmethod
    def of_json(cls, saved: list[Any]) -> Member:
        """As it was when `to_json` was called."""
        generation, genesis, ended, resumed, adopted, series = saved
        return cls(
            generation,
            genesis,
            ended,
            resumed,
            bool(adopted),
            {name: Series(values[0], bool(values[1]), *values[2:]) for name, values in series.items()},
        )


PASSED, ABSENT, BEHIND = "passed", "absent", "behind"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Bars of one series from `first` to `last` (open times, both included), all of one `reason`.

    PASSED: a later one came, and they did not. ABSENT: they are owed by now. BEHIND: bars came that reach back before
    where the series had begun, so all of these must be there; whoever holds the bars looks which are.
    """

    symbol: str
    interval: str
    first: int
    last: int
    reason: str


@dataclass(frozen=True, slots=True)
class Terms:
    """`due_ms` is how long after its close a bar is owed; `window_ms` how old a trade may be."""

    due_ms: int
    window_ms: int


class Roster:
    """All symbols of a shard. `changed` collects the names of those that a restart needs anew."""

    def __init__(self, intervals: tuple[Interval, ...], terms: Terms) -> None:
        self.intervals = {each.name: each for each in intervals}
        self.members: dict[str, Member] = {}
        self.changed: set[str] = set()
        self.now_ms = 0
        self.watched = False
        """Whether nothing has escaped it since the shard began: then a symbol that it does not know is new."""
        self._terms = terms
        self._look_ms = 0
        """Nothing new is owed before it."""
        self._jumps: list[Trouble] = []
        self._fresh: set[str] = set()
        """Symbols that this auditor met on their way: the next tick says what they owe from then on."""
        self._backs: dict[tuple[str, str], int] = {}
        """Series that reached back, and when that must have come to its end."""

    def take(self, kind: str, row: dict[str, str]) -> None:
        """A genesis, listed or delisted event; the tick that closes its moment is still to come."""
        name, generation = row["symbol"], int(row["generation"])
        self.changed.add(name)
        self._look_ms = 0
        if kind == EVENT_GENESIS:
            self._genesis(name, generation, int(row["trade_time"]))
            return
        member = self.members.get(name)
        if member is None or kind not in (EVENT_LISTED, EVENT_DELISTED):
            return
        if kind == EVENT_DELISTED:
            if member.ended_ms < 0 or member.resumed_ms >= 0:
                member.ended_ms, member.resumed_ms = self.now_ms, -1
        elif member.ended_ms >= 0 and generation <= member.generation and row["status"] == "TRADING":
            member.resumed_ms = self.now_ms

    def _genesis(self, name: str, generation: int, trade_ms: int) -> None:
        member = self.members.setdefault(name, Member(adopted=not self.watched))
        begins = not member.series or member.ended_ms >= 0
        member.generation, member.genesis_ms = generation, trade_ms
        if not begins or (self.now_ms and trade_ms < self.now_ms - self._terms.window_ms):
            return
        member.ended_ms = member.resumed_ms = -1
        for kind in self.intervals.values():
            if kind.shortest_ms >= MINUTE_MS:
                opening = kind.open_time(trade_ms)
                held = member.series.get(kind.name)
                if held is None:
                    member.series[kind.name] = Series(opening)
                elif held.expected < opening:
                    held.expected, held.loose = opening, True

    def note(self, name: str, interval_name: str, open_time: int) -> bool:
        """A bar comes for the first time; whether its series may hold it. False: it came behind its successors."""
        member = self.members.get(name)
        if member is None:
            member = self.members[name] = Member(adopted=not self.watched)
            if member.adopted:
                self._fresh.add(name)
        self.changed.add(name)
        if name in self._fresh:
            return True
        kind = self.intervals[interval_name]
        series = member.series.get(interval_name)
        if series is None:
            series = member.series[interval_name] = Series(open_time)
            self._begin(member, open_time)
        if open_time < series.expected and member.adopted and series.loose:
            return True  # another version of a bar that was said before this auditor came
        if open_time < series.expected and not series.loose:
            return self._reach_back(name, interval_name, open_time)
        if open_time > series.expected:
            last = kind.open_of(kind.bucket_of(open_time) - 1)
            self._jumps.append(Trouble(name, interval_name, series.expected, last, PASSED))
        series.first = open_time if series.first < 0 else series.first
        series.loose = False
        series.newest = max(series.newest, open_time)
        series.expected = kind.open_of(kind.bucket_of(open_time) + 1)
        self._look_ms = min(self._look_ms, self._due(kind, series.expected))
        return True

    def _reach_back(self, name: str, interval_name: str, open_time: int) -> bool:
        """Whether a bar may come that is earlier than the one expected: before where the series had begun (a repaired
        trade can reach back there, and an auditor that joined in gets new versions of bars it does not know)."""
        member = self.members[name]
        series = member.series[interval_name]
        if open_time < series.first:
            series.back = max(series.back, series.first)
            if not member.adopted:
                self._backs[name, interval_name] = self.now_ms + self._terms.due_ms
            series.first = open_time
            return True
        return open_time < series.back

    def _begin(self, member: Member, time_ms: int) -> None:
        """The other intervals of a symbol whose bars begin without a genesis owe at the latest what opens next."""
        for kind in self.intervals.values():
            if kind.name not in member.series and kind.shortest_ms >= MINUTE_MS:
                following = kind.open_of(kind.bucket_of(max(time_ms, self.now_ms)) + 1)
                member.series[kind.name] = Series(following)

    def lose(self) -> None:
        """Entries were lost: what comes next in every series is not known before the next tick."""
        self._jumps, self._backs, self._fresh = [], {}, set(self.members)
        for member in self.members.values():
            member.adopted = True

    def _adopt(self) -> None:
        """Whoever was met on the way owes the bars in progress at this tick, and all behind them."""
        for name in self._fresh:
            member = self.members[name]
            self.changed.add(name)
            member.series = {
                kind.name: Series(kind.open_time(self.now_ms))
                for kind in self.intervals.values()
                if kind.name in member.series or not member.series or kind.shortest_ms >= MINUTE_MS
            }
        self._fresh, self._look_ms = set(), 0

    def tick(self, time_ms: int) -> list[Trouble]:
        """What is owed and not there, and what was passed over, as of this tick."""
        self.now_ms = max(time_ms, self.now_ms)
        if self._fresh:
            self._adopt()
        jumps, self._jumps = self._jumps, []
        found = [each for each in jumps if not self._excused(each)]
        found += [self._behind(*each) for each, due_ms in list(self._backs.items()) if self.now_ms >= due_ms]
        if self.now_ms >= self._look_ms:
            found += self._absent()
        return found

    def _excused(self, jump: Trouble) -> bool:
        """Whether what was passed over was not owed: it was not due when the symbol was delisted, and what follows is
        where it went on."""
        member = self.members[jump.symbol]
        if member.ended_ms < 0 or self._due(self.intervals[jump.interval], jump.first) < member.ended_ms:
            return False
        return member.resumed_ms < 0 or jump.last < member.resumed_ms

    def _behind(self, name: str, kind_name: str) -> Trouble:
        """What must be there now of a series that reached back."""
        kind, series = self.intervals[kind_name], self.members[name].series[kind_name]
        del self._backs[name, kind_name]
        last = kind.open_of(kind.bucket_of(series.back) - 1)
        series.back = -1
        self.changed.add(name)
        return Trouble(name, kind_name, series.first, last, BEHIND)

    def to_json(self) -> list[Any]:
        """What a restart needs beside the members."""
        return [self.now_ms, [[*each, due_ms] for each, due_ms in self._backs.items()]]

    def of_json(self, saved: list[Any]) -> None:
        """As it was when `to_json` was called, right behind a tick."""
        self.now_ms, self._backs = saved[0], {(name, kind): due_ms for name, kind, due_ms in saved[1]}

    def _due(self, kind: Interval, open_time: int) -> int:
        return kind.close_time(open_time) + 1 + self._terms.due_ms

    def _absent(self) -> list[Trouble]:
        found, look_ms = [], NEVER
        for name, member in self.members.items():
            for kind_name, series in member.series.items():
                kind = self.intervals[kind_name]
                due_ms = self._due(kind, series.expected)
                if member.ended_ms >= 0:
                    if due_ms >= member.ended_ms and member.resumed_ms < 0:
                        continue
                    if member.resumed_ms >= 0:
                        due_ms = max(due_ms, member.resumed_ms + self._terms.due_ms)
                if self.now_ms < due_ms:
                    look_ms = min(look_ms, due_ms)
                elif series.said < series.expected:
                    series.said = series.expected
                    self.changed.add(name)
                    found.append(Trouble(name, kind_name, series.expected, series.expected, ABSENT))
        self._look_ms = look_ms
        return found

"""Bars that a person was told of, until they are right: looked at again, asked for, closed. Pure.

What is found in one look at a series and is of one kind is one finding, named by its first bar; bars that follow right
behind it join it. So there are at most three findings a call, and their number is bounded by the weight. EDGE_SHIFT is
no finding: it is counted, because nothing is wrong and nothing can be done.

A finding is closed when all of its bars are right. Until then they are looked at again, at first soon, then ever more
rarely. Bars that we lack or that are not complete are asked for: the exchange's rows replace what an aggregator has not
proven. It can do so within its window; what is older heals by `klagg backfill` alone. Of longer bars it is their
minutes that are asked for, which this auditor finds by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from auditors.classify import Verdict
from auditors.day_counts import Judged
from auditors.findings import Finding
from auditors.schedule import AGAIN_LEAD, AGAIN_TAIL, MANY_ROWS, Key, Look, look_at
from klagg.intervals import HOUR_MS, MINUTE, MINUTE_MS, Interval
from klagg.wire.entries import REQUEST_KLINES, Request
from klagg.wire.findings import FindingKind, Severity

TOLD: Final[Mapping[str, Severity]] = {
    FindingKind.LOCAL_GAP: Severity.WARNING,
    FindingKind.EXCHANGE_GAP: Severity.INFO,
    FindingKind.UNEXPLAINED: Severity.ERROR,
}
"""What becomes a finding, and its severity."""

AGAIN_MS: Final[Mapping[str, int]] = {
    FindingKind.LOCAL_GAP: MINUTE_MS,
    FindingKind.EXCHANGE_GAP: 10 * MINUTE_MS,
    FindingKind.UNEXPLAINED: 10 * MINUTE_MS,
}
AGAIN_BARS: Final = MANY_ROWS - AGAIN_LEAD - AGAIN_TAIL
AGAIN_MS_MAX: Final = 6 * HOUR_MS
"""When a finding is looked at again: twice as long each time."""

STANDING_MAX: Final = 2_000
"""Findings that are looked at again; with more, those that were looked at most often are left as they are."""

ASKED_MAX: Final = 3
"""Requests for one finding."""
REQUESTS_MAX: Final = 50
"""Requests that may be unanswered at once."""
DEADLINE_MS: Final = 10 * MINUTE_MS
WINDOW_LEFT_MS: Final = 5 * MINUTE_MS
"""What leaves the aggregator's window before an answer could come is not asked for."""


@dataclass(slots=True)
class Standing:
    """One finding: the open times of its bars that are not right yet. `there`: whether the exchange has any of them;
    `fresh`: they were looked at since they were asked for."""

    symbol: str
    interval: Interval
    kind: str
    place_ms: int
    bars: set[int] = field(default_factory=set)
    evidence: str = ""
    there: bool = False
    tries: int = 0
    look_ms: int = 0
    asked: int = 0
    deadline_ms: int = 0
    fresh: bool = False

    @property
    def key(self) -> Key:
        return self.symbol, self.interval.name

    def look(self) -> Look:
        """At all of its bars; at a part of them in turn, if they are more than one call gives."""
        bars = sorted(self.bars)
        buckets = [self.interval.bucket_of(each) for each in (bars[0], bars[-1])]
        count = buckets[1] - buckets[0] + 1
        first = 0 if count <= AGAIN_BARS else self.tries * AGAIN_BARS % len(bars)
        left = buckets[1] - self.interval.bucket_of(bars[first]) + 1
        return look_at(self.symbol, self.interval, bars[first], left, again=True)

    def finding(self, time_ms: int, closed_by: str = "") -> Finding:
        """The finding as it stands, or as it is closed."""
        many = f"{len(self.bars)} bars from {_time(min(self.bars))} to {_time(max(self.bars))}: " if self.bars else ""
        place = f"{self.interval.name}/{self.place_ms}"
        return Finding(
            FindingKind(self.kind),
            TOLD[self.kind],
            self.symbol,
            place,
            time_ms,
            closed_by or (many if len(self.bars) > 1 else "") + self.evidence,
            self.interval.name,
            self.place_ms,
            bool(closed_by),
        )


class Book:
    """All findings that stand, by series."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._by_series: dict[Key, list[Standing]] = {}
        self._left: set[tuple[Key, str, int]] = set()

    def __len__(self) -> int:
        return sum(map(len, self._by_series.values()))

    @property
    def standing(self) -> list[Standing]:
        """All of them."""
        return [each for series in self._by_series.values() for each in series]

    def restore(self, symbol: str, interval: Interval, judged: Iterable[Judged]) -> None:
        """Findings that stood before a restart, from the verdicts of the bars of one series; all of them are due."""
        for each in judged:
            if each.kind in TOLD and each.place_ms:
                self._named(symbol, interval, each.kind, each.place_ms).bars.add(each.open_time)

    def _named(self, symbol: str, interval: Interval, kind: str, place_ms: int) -> Standing:
        series = self._by_series.setdefault((symbol, interval.name), [])
        found = next((each for each in series if (each.kind, each.place_ms) == (kind, place_ms)), None)
        if found is None:
            found = Standing(symbol, interval, kind, place_ms)
            series.append(found)
        return found

    def note(
        self, look: Look, verdicts: Sequence[Verdict], theirs: Container[int], now_ms: int
    ) -> tuple[list[Judged], list[Finding]]:
        """What a look showed: each bar with the name of its finding, and what is to be said.

        `theirs` holds the open times of the exchange's rows.
        """
        series = self._by_series.get(look.key, [])
        grown: dict[str, Standing] = {}
        became: dict[int, Counter[str]] = {}
        judged = []
        for verdict in verdicts:
            opening, kind = verdict.open_time, verdict.kind
            holder = next((each for each in series if opening in each.bars), None)
            if holder is not None and holder.kind != kind:
                holder.bars.discard(opening)
                became.setdefault(id(holder), Counter())[kind] += 1
                holder = None
            if holder is None and kind in TOLD:
                holder = grown[kind] = self._take(look, verdict, grown.get(kind), now_ms)
                holder.there |= opening in theirs
            judged.append(Judged(opening, kind, holder.place_ms if holder else 0))
        said = [each.finding(now_ms) for each in grown.values()]
        for each in list(self._by_series.get(look.key, ())):
            if not each.bars:
                self._by_series[look.key].remove(each)
                now = ", ".join(f"{kind} {count}" for kind, count in sorted(became[id(each)].items()))
                said.append(each.finding(now_ms, f"its bars were looked at again, the last of them are now: {now}"))
            elif look.again and any(look.from_ms <= bar < look.until_ms for bar in each.bars):
                each.tries, each.fresh = each.tries + 1, True
                each.look_ms = now_ms + min(AGAIN_MS_MAX, AGAIN_MS[each.kind] * 2 ** min(each.tries, 20))
        self._keep_few()
        return judged, said

    def _take(self, look: Look, verdict: Verdict, grown: Standing | None, now_ms: int) -> Standing:
        """The finding that a bar belongs to: that of this look, one that it follows right behind, or a new one."""
        opening, interval = verdict.open_time, look.interval
        if grown is None:
            before = interval.open_of(interval.bucket_of(opening) - 1)
            series = self._by_series.get(look.key, [])
            grown = next((each for each in series if each.kind == verdict.kind and before in each.bars), None)
        if grown is None:
            grown = self._named(look.symbol, interval, verdict.kind, opening)
            grown.look_ms, grown.fresh = now_ms + AGAIN_MS[verdict.kind], True
        if not grown.evidence:
            grown.evidence = verdict.evidence + self._hint(verdict, interval, now_ms)
        grown.bars.add(opening)
        return grown

    def _hint(self, verdict: Verdict, interval: Interval, now_ms: int) -> str:
        if (
            verdict.kind != FindingKind.LOCAL_GAP
            or interval is not MINUTE
            or verdict.open_time >= self._oldest_ms(now_ms)
        ):
            return ""
        return "; no aggregator can amend it any more: klagg backfill heals it"

    def _oldest_ms(self, now_ms: int) -> int:
        return now_ms - self._window_ms + WINDOW_LEFT_MS

    def _keep_few(self) -> None:
        if len(self) <= STANDING_MAX:
            return
        for each in sorted(self.standing, key=lambda each: -each.tries)[: len(self) - STANDING_MAX]:
            self._by_series[each.key].remove(each)

    def again(self, now_ms: int) -> Look | None:
        """What is to be looked at again now, if anything."""
        due = [each for each in self.standing if each.look_ms <= now_ms]
        return min(due, key=lambda each: each.look_ms).look() if due else None

    def put_off(self, look: Look, until_ms: int) -> None:
        """A look at what stands could not be taken: not before `until_ms`."""
        for each in self._by_series.get(look.key, ()):
            each.look_ms = max(each.look_ms, until_ms)

    def requests(self, now_ms: int) -> list[Request]:
        """What is to be asked for now. The answer is looked at when it may have been stored."""
        unanswered = sum(each.deadline_ms > now_ms for each in self.standing)
        asked: list[Request] = []
        for each in self.standing:
            mine = [bar for bar in each.bars if bar >= self._oldest_ms(now_ms)]
            wanted = (
                each.kind == FindingKind.LOCAL_GAP and each.interval is MINUTE and each.there and each.asked < ASKED_MAX
            )
            due = each.look_ms <= now_ms  # it may be right by now
            if not wanted or not mine or not each.fresh or due or each.deadline_ms > now_ms:
                continue
            if unanswered + len(asked) >= REQUESTS_MAX:
                break
            each.asked, each.deadline_ms = each.asked + 1, now_ms + DEADLINE_MS
            each.tries, each.fresh, each.look_ms = 0, False, now_ms + AGAIN_MS[FindingKind.LOCAL_GAP]
            first, until = min(mine), max(mine) + MINUTE_MS
            name = f"audit-{each.symbol}-{first}-{until}-{each.asked}"
            asked.append(Request(REQUEST_KLINES, name, each.symbol, MINUTE.name, first, until, each.deadline_ms))
        return asked


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")

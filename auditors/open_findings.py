"""The open findings about bars, until the bars are right: compared again, repair requested, closed. Pure.

All bars of one kind in one look at a series are one finding, named by its first bar; bars right after them join it. So
there are at most three findings a look, and the REST weight bounds their number. EDGE_SHIFT is no finding, only a
count: nothing is wrong and nothing can be repaired.

A finding is closed when all of its bars are right. Until then its bars are compared again, twice as late each time.
Missing and incomplete bars are asked for again, because the aggregator may hold them proven and only their entry was
lost; it then publishes them in the same version. And they are requested: the exchange's rows replace what an aggregator
has not proven. An aggregator can do both within its window; older bars, and bars that stay away after all requests, are
repaired by `klagg backfill` only, and the finding then says so with the command. Only minutes are requested: this
auditor compares them separately, and longer bars are folded from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from auditors.classify import Verdict
from auditors.day_counts import JudgedBar
from auditors.findings import Finding
from auditors.schedule import AGAIN_LEAD, AGAIN_TAIL, MANY_ROWS, Look, SeriesKey, look_at
from klagg.intervals import HOUR_MS, MINUTE, MINUTE_MS, Interval
from klagg.wire.entries import REQUEST_KLINES, BarKey, Request
from klagg.wire.findings import FindingKind, Severity, backfill_command

SEVERITIES: Final = {
    FindingKind.LOCAL_GAP: Severity.WARNING,
    FindingKind.EXCHANGE_GAP: Severity.INFO,
    FindingKind.UNEXPLAINED: Severity.ERROR,
}
"""The verdicts that become findings, with their severities."""

RECHECK_MS: Final = {
    FindingKind.LOCAL_GAP: MINUTE_MS,
    FindingKind.EXCHANGE_GAP: 10 * MINUTE_MS,
    FindingKind.UNEXPLAINED: 10 * MINUTE_MS,
}
RECHECK_BARS: Final = MANY_ROWS - AGAIN_LEAD - AGAIN_TAIL
RECHECK_MS_MAX: Final = 6 * HOUR_MS
"""The longest time until a finding is compared again; the time doubles from RECHECK_MS with each try."""

OPEN_FINDINGS_MAX: Final = 2_000
"""Findings that are compared again; of more, those compared most often stay open and are not compared again."""

REQUESTS_PER_FINDING_MAX: Final = 3
"""Requests for one finding, and how often the aggregator is asked for its bars again."""
AGAIN_BARS_MAX: Final = 5_000
"""Bars that the aggregator is asked for at once."""
REQUESTS_MAX: Final = 50
"""Requests without an answer at the same time."""
DEADLINE_MS: Final = 10 * MINUTE_MS
WINDOW_LEFT_MS: Final = 5 * MINUTE_MS
"""A bar that leaves the aggregator's window within this time is not requested: no answer could come in time."""


@dataclass(slots=True)
class OpenFinding:
    """One finding. `bars` are the open times (exchange ms) of its bars that are not right yet, `place_ms` is that of
    its first bar, which names it. `there`: the exchange has a row of at least one of them. `tries` counts the looks
    since the last request, the next look is at `look_ms`. `requested` counts the requests, the last one is answered or
    expires by `deadline_ms`. `fresh`: the bars were compared since they were requested."""

    symbol: str
    interval: Interval
    kind: FindingKind
    place_ms: int
    bars: set[int] = field(default_factory=set)
    evidence: str = ""
    there: bool = False
    tries: int = 0
    look_ms: int = 0
    requested: int = 0
    deadline_ms: int = 0
    fresh: bool = False
    asked: int = 0
    """How often the aggregator was asked for its bars again."""
    told: bool = False
    """Whether the finding says what a person must do."""

    @property
    def key(self) -> SeriesKey:
        """Symbol and interval name."""
        return self.symbol, self.interval.name

    def look(self) -> Look:
        """The next look: at all of its bars, or at the next part of them if one call does not return all."""
        bars = sorted(self.bars)
        buckets = [self.interval.bucket_of(each) for each in (bars[0], bars[-1])]
        count = buckets[1] - buckets[0] + 1
        first = 0 if count <= RECHECK_BARS else self.tries * RECHECK_BARS % len(bars)
        left = buckets[1] - self.interval.bucket_of(bars[first]) + 1
        return look_at(self.symbol, self.interval, bars[first], left, again=True)

    def finding(self, time_ms: int, closed_by: str = "") -> Finding:
        """The finding to publish: open, or closed for the reason `closed_by`."""
        many = f"{len(self.bars)} bars from {_time(min(self.bars))} to {_time(max(self.bars))}: " if self.bars else ""
        place = f"{self.interval.name}/{self.place_ms}"
        return Finding(
            self.kind,
            SEVERITIES[self.kind],
            self.symbol,
            place,
            time_ms,
            closed_by or (many if len(self.bars) > 1 else "") + self.evidence,
            self.interval.name,
            self.place_ms,
            bool(closed_by),
        )


class OpenFindings:
    """All open findings, by series. `window_ms` is how far back (exchange ms) an aggregator amends bars."""

    def __init__(self, window_ms: int) -> None:
        self._window_ms = window_ms
        self._by_series: dict[SeriesKey, list[OpenFinding]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_series.values()))

    @property
    def findings(self) -> list[OpenFinding]:
        """All of them."""
        return [each for series in self._by_series.values() for each in series]

    def restore(self, symbol: str, interval: Interval, judged: Iterable[JudgedBar]) -> None:
        """Put back the findings that were open before a restart, from the verdicts of one series; all are due at
        once."""
        for each in judged:
            if each.kind in SEVERITIES and each.place_ms:
                self._named(symbol, interval, each.kind, each.place_ms).bars.add(each.open_time)

    def _named(self, symbol: str, interval: Interval, kind: str, place_ms: int) -> OpenFinding:
        series = self._by_series.setdefault((symbol, interval.name), [])
        found = next((each for each in series if (each.kind, each.place_ms) == (kind, place_ms)), None)
        if found is None:
            found = OpenFinding(symbol, interval, FindingKind(kind), place_ms)
            series.append(found)
        return found

    def note(
        self, look: Look, verdicts: Sequence[Verdict], theirs: Container[int], now_ms: int
    ) -> tuple[list[JudgedBar], list[Finding]]:
        """Take in the verdicts of a look; returns each bar with the place of its finding, and the findings to publish.

        `theirs` holds the open times (exchange ms) of the exchange's rows.
        """
        series = self._by_series.get(look.key, [])
        grown: dict[str, OpenFinding] = {}
        became: dict[int, Counter[str]] = {}
        judged = []
        for verdict in verdicts:
            opening, kind = verdict.open_time, verdict.kind
            holder = next((each for each in series if opening in each.bars), None)
            if holder is not None and holder.kind != kind:
                holder.bars.discard(opening)
                became.setdefault(id(holder), Counter())[kind] += 1
                holder = None
            if holder is None and kind in SEVERITIES:
                holder = grown[kind] = self._assign(look, verdict, grown.get(kind), now_ms)
                holder.there |= opening in theirs
            judged.append(JudgedBar(opening, kind, holder.place_ms if holder else 0))
        reported = [each.finding(now_ms) for each in grown.values()]
        for each in list(self._by_series.get(look.key, ())):
            if not each.bars:
                self._by_series[look.key].remove(each)
                now = ", ".join(f"{kind} {count}" for kind, count in sorted(became[id(each)].items()))
                reported.append(each.finding(now_ms, f"its bars were looked at again, the last of them are now: {now}"))
            elif look.again and any(look.from_ms <= bar < look.until_ms for bar in each.bars):
                each.tries, each.fresh = each.tries + 1, True
                each.look_ms = now_ms + min(RECHECK_MS_MAX, RECHECK_MS[each.kind] * 2 ** min(each.tries, 20))
        self._drop_excess()
        return judged, reported

    def _assign(self, look: Look, verdict: Verdict, grown: OpenFinding | None, now_ms: int) -> OpenFinding:
        """The finding that a bar belongs to: that of this look, one that ends right before the bar, or a new one."""
        opening, interval = verdict.open_time, look.interval
        if grown is None:
            before = interval.open_of(interval.bucket_of(opening) - 1)
            series = self._by_series.get(look.key, [])
            grown = next((each for each in series if each.kind == verdict.kind and before in each.bars), None)
        if grown is None:
            grown = self._named(look.symbol, interval, verdict.kind, opening)
            grown.look_ms, grown.fresh = now_ms + RECHECK_MS[grown.kind], True
        if not grown.evidence:
            grown.evidence = verdict.evidence + self._hint(look.symbol, verdict, interval, now_ms)
        grown.bars.add(opening)
        return grown

    def _hint(self, symbol: str, verdict: Verdict, interval: Interval, now_ms: int) -> str:
        if verdict.kind != FindingKind.LOCAL_GAP or self.is_held(interval, verdict.open_time, now_ms):
            return ""
        return (
            f"; no aggregator can amend it any more: {backfill_command([(symbol, interval.name, verdict.open_time)])}"
        )

    def is_held(self, interval: Interval, open_time: int, now_ms: int) -> bool:
        """Whether an aggregator may still hold this bar: one stays for the window after its close."""
        return interval.close_time(open_time) >= self._oldest_ms(now_ms)

    def _oldest_ms(self, now_ms: int) -> int:
        return now_ms - self._window_ms + WINDOW_LEFT_MS

    def _drop_excess(self) -> None:
        if len(self) <= OPEN_FINDINGS_MAX:
            return
        for each in sorted(self.findings, key=lambda each: -each.tries)[: len(self) - OPEN_FINDINGS_MAX]:
            self._by_series[each.key].remove(each)

    def again(self, now_ms: int) -> Look | None:
        """The look that is due first at `now_ms` (exchange ms); None if none is due."""
        due = [each for each in self.findings if each.look_ms <= now_ms]
        return min(due, key=lambda each: each.look_ms).look() if due else None

    def put_off(self, look: Look, until_ms: int) -> None:
        """A look at open findings was not possible: not before `until_ms` (exchange ms) again."""
        for each in self._by_series.get(look.key, ()):
            each.look_ms = max(each.look_ms, until_ms)

    def asked_again(self, now_ms: int) -> list[BarKey]:
        """The bars to ask the aggregator for again now; they are compared again soon. To be called before `requests`,
        which then asks the exchange for the same bars."""
        asked: list[BarKey] = []
        for each in self.findings:
            mine = sorted(bar for bar in each.bars if self.is_held(each.interval, bar, now_ms))
            if not mine or not self._is_open_for(each, now_ms) or each.asked >= REQUESTS_PER_FINDING_MAX:
                continue
            if len(asked) + len(mine) > AGAIN_BARS_MAX:
                break
            each.asked += 1
            if not self._is_requestable(each):
                each.tries, each.fresh, each.look_ms = 0, False, now_ms + RECHECK_MS[FindingKind.LOCAL_GAP]
            asked += ((each.symbol, each.interval.name, bar) for bar in mine)
        return asked

    @staticmethod
    def _is_open_for(each: OpenFinding, now_ms: int) -> bool:
        """Whether bars of a finding are missing as of a look, and nothing that was asked for is under way."""
        looked = each.fresh and each.look_ms > now_ms  # a look that is due may find it right by now
        return each.kind == FindingKind.LOCAL_GAP and looked and each.deadline_ms <= now_ms

    @staticmethod
    def _is_requestable(each: OpenFinding) -> bool:
        return each.interval is MINUTE and each.there and each.requested < REQUESTS_PER_FINDING_MAX

    def beyond_repair(self, now_ms: int) -> list[Finding]:
        """The findings that were asked for as often as may be and still stand: published again with the command that a
        person has to run, once each."""
        found = []
        for each in self.findings:
            spent = each.asked >= REQUESTS_PER_FINDING_MAX and not self._is_requestable(each)
            if each.told or not spent or not self._is_open_for(each, now_ms):
                continue
            each.told = True
            command = backfill_command([(each.symbol, each.interval.name, bar) for bar in each.bars])
            each.evidence += f"; asked for {each.asked} times and not healed: {command}"
            found.append(each.finding(now_ms))
        return found

    def requests(self, now_ms: int) -> list[Request]:
        """The requests to publish now. Their bars are compared again when the answers may have been stored."""
        unanswered = sum(each.deadline_ms > now_ms for each in self.findings)
        requested: list[Request] = []
        for each in self.findings:
            mine = [bar for bar in each.bars if bar >= self._oldest_ms(now_ms)]
            if not mine or not self._is_requestable(each) or not self._is_open_for(each, now_ms):
                continue
            if unanswered + len(requested) >= REQUESTS_MAX:
                break
            each.requested, each.deadline_ms = each.requested + 1, now_ms + DEADLINE_MS
            each.tries, each.fresh, each.look_ms = 0, False, now_ms + RECHECK_MS[FindingKind.LOCAL_GAP]
            first, until = min(mine), max(mine) + MINUTE_MS
            name = f"audit-{each.symbol}-{first}-{until}-{each.requested}"
            requested.append(Request(REQUEST_KLINES, name, each.symbol, MINUTE.name, first, until, each.deadline_ms))
        return requested


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")

"""Every closed kline of every listed symbol against the exchange's own: what to request, what the answers mean. Pure.

Listings, our bars, the exchange's rows and the time come in; looks, findings, requests and counts go out.

A bar is due LOOK_AFTER_MS after its close, once the table has any symbol's minute that closed at the same time. A
difference in a bar younger than HEAL_MS is not reported, because repair may be running or the exchange may be late: the
bar and all bars after it are compared again with the next look at the series. So are edge shifts up to the newest bar,
because only the bar after it proves the last shift. A difference in an older bar becomes a finding or a count
(auditors.open_findings).

A bar that is amended after it was compared is compared again (auditors.amended).

The bars of a symbol begin with the first bar in the table. Of a traded symbol without a bar in the table, bars are
expected from BEGIN_MS after its listing, or after it was first seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from auditors.amended import Amended
from auditors.classify import ADOPTED, EDGE_SHIFT, EXACT, LATE, VERDICTS, Comparison, Verdict
from auditors.day_counts import DayCounts, JudgedBar
from auditors.findings import Finding
from auditors.open_findings import OpenFindings
from auditors.schedule import AuditedSeries, Look, Schedule, SeriesKey
from klagg.binance.contracts import TRADING, is_over
from klagg.binance.kline_rows import told_by_rest
from klagg.edge_splits import EXCHANGE_EDGES, is_adopted, runs
from klagg.errors import ContractError
from klagg.intervals import HOUR_MS, MINUTE, MINUTE_MS, Interval, ordered
from klagg.kline import Kline, Values
from klagg.settings import Settings
from klagg.wire.entries import BarKey, Listing, Request
from klagg.wire.findings import FindingKind, Severity

LOOK_AFTER_MS: Final = 30_000
HEAL_MS: Final = 3 * MINUTE_MS
"""A gap of a few seconds heals within three minutes: tests/endtoend/test_losses.py."""
YOUNG_PAUSE_MS: Final = 20_000
"""The pause of a series whose newest bars are too young for a verdict."""
SHIFTS_MAX: Final = 60
"""Consecutive edge shifts that are compared together."""
CLAIMED_MAX: Final = 20_000
"""Claims of splits that are remembered."""
NEITHER_SIDE_MS: Final = 5 * MINUTE_MS
"""How long to wait for the newest bars if neither side has them."""
BEGIN_MS: Final = 10 * MINUTE_MS
REACH_MS: Final = 3 * HOUR_MS
"""How far the first start looks back."""
UNREADABLE_PAUSE_MS: Final = HOUR_MS
"""The pause of a series whose bars in the table cannot be read."""

LAG_LAPS: Final = 3
LAG_MS_MIN: Final = 10 * MINUTE_MS
"""The auditor is behind when the oldest minute that was not compared is older than LAG_LAPS laps, and than this."""

PROCESS: Final = "auditor-exchange"
EXCHANGE: Final = "the exchange's REST API"
DATABASE: Final = "the database"


@dataclass(frozen=True, slots=True)
class LookResult:
    """The result of a look: the judged bars for the day counts, the findings and the requests to publish, the bars to
    ask the aggregator for again, and the runs of minutes (open times, exchange ms) whose splits it is to adopt."""

    judged: Sequence[JudgedBar]
    findings: Sequence[Finding]
    requests: Sequence[Request]
    again: Sequence[BarKey] = ()
    edges: Sequence[Sequence[int]] = ()


class ExchangeAudit:
    """All symbols of all shards. All times are exchange ms."""

    def __init__(self, settings: Settings) -> None:
        config = settings.aggregator
        self.intervals = tuple(each for each in ordered(config.intervals) if told_by_rest(each))
        self._weight = settings.audit.weight_per_minute
        self.schedule = Schedule()
        self.open_findings = OpenFindings(config.window_minutes * MINUTE_MS)
        self.amended = Amended()
        self.counts: Counter[str] = Counter(dict.fromkeys(VERDICTS, 0))
        self.bars = self.looks = self._began_ms = 0
        self.speed = 1.0
        """How fast the exchange's clock runs (1: real time); weight is counted in real minutes."""
        self._seen_ms: dict[str, int] = {}
        """When each traded symbol was first seen as traded."""
        self._generations: dict[str, int] = {}
        self._ended: set[str] = set()
        self._known: dict[SeriesKey, int] = {}
        """Of series that are not listed yet: where they continue, and which bars were shifts."""
        self._shifts: dict[SeriesKey, set[int]] = {}
        self._own_open: set[str] = set()
        """The open findings about the auditor itself."""
        self._claims_edges = config.edges == EXCHANGE_EDGES
        self._claimed: dict[tuple[str, tuple[int, ...]], None] = {}
        """The runs that were claimed last, so that each is claimed once; a restart may claim one again."""

    # The series.

    def restore(self, symbol: str, interval: Interval, counts: DayCounts) -> None:
        """Put back the counts of a day from before a restart. The series continues after them, or at a LATE bar."""
        if counts.ranges and interval in self.intervals:
            late = [each.open_time for each in counts.different.values() if each.kind == LATE]
            goes_on = min([counts.ranges[-1][1], *late])
            key = symbol, interval.name
            self._known[key] = max(goes_on, self._known.get(key, 0))
            shifts = {each.open_time for each in counts.different.values() if each.kind == EDGE_SHIFT}
            self._shifts.setdefault(key, set()).update(shifts)
            self.open_findings.restore(symbol, interval, counts.different.values())

    def update_listings(self, listings: Iterable[Listing], now_ms: int, names: Collection[str] = ()) -> None:
        """Take in the exchange's current listings of the configured symbols, and all `names` that it lists: a symbol
        that is in neither has ended."""
        self._began_ms = self._began_ms or now_ms
        listed = {each.symbol: each for each in listings}
        for name, each in listed.items():
            if is_over(each.status, each.delivery, now_ms):
                self._end(name, min(now_ms, each.delivery))
                continue
            if name in self._ended:  # it is listed again
                self._ended.discard(name)
                self.schedule.drop(name)
            if each.status == TRADING and each.generation <= now_ms:
                self._seen_ms.setdefault(name, now_ms)
            self._generations[name] = each.generation
            self.schedule.add(name, self.intervals)
            for interval in self.intervals:
                series = self.schedule.series[name, interval.name]
                goes_on = self._known.pop(series.key, None)
                if series.next_ms is None and goes_on is not None and goes_on >= each.generation:
                    series.next_ms = self._shifted_before(series.key, interval, goes_on)
                    series.seen_ms = goes_on
        for name in {each.symbol for each in self.schedule.series.values()} - listed.keys() - set(names):
            self._end(name, now_ms)

    def _shifted_before(self, key: SeriesKey, interval: Interval, time_ms: int) -> int:
        """The beginning of the shifts right before `time_ms` that were found before the restart."""
        shifts = self._shifts.pop(key, set())
        for _ in range(SHIFTS_MAX):
            before_ms = interval.open_of(interval.bucket_of(time_ms) - 1)
            if before_ms not in shifts:
                break
            time_ms = before_ms
        return time_ms

    def _end(self, name: str, end_ms: int) -> None:
        self._seen_ms.pop(name, None)
        if name not in self._ended:
            self._ended.add(name)
            self.schedule.end(name, end_ms)

    @property
    def unplaced(self) -> list[AuditedSeries]:
        """The series whose beginning is not known."""
        return [each for each in self.schedule.series.values() if each.next_ms is None]

    def reach_ms(self, symbol: str, now_ms: int) -> int:
        """Bars of a symbol that closed before this time are not compared: they are too old, or of an earlier
        listing."""
        return max(now_ms - REACH_MS, self._generations.get(symbol, 0))

    def place(self, first_ms: Mapping[SeriesKey, int], now_ms: int) -> None:
        """Take in the open times of the first bars in the table of series whose beginning is not known."""
        for series in self.unplaced:
            seen_ms = self._seen_ms.get(series.symbol)
            found = first_ms.get(series.key)
            if found is not None:
                series.next_ms = found
            elif series.interval is MINUTE:
                if seen_ms is not None and now_ms >= seen_ms + BEGIN_MS:
                    series.next_ms = MINUTE.close_time(seen_ms) + 1
            elif (minutes := self.schedule.series.get((series.symbol, MINUTE.name))) and minutes.next_ms is not None:
                whole_ms = series.interval.close_time(minutes.next_ms) + 1
                if now_ms >= series.interval.close_time(whole_ms) + HEAL_MS:
                    series.next_ms = whole_ms

    # Looks.

    def next(self, now_ms: int, stored_ms: int) -> Look | None:
        """The next look; None if nothing is due. `stored_ms` is the open time of the newest final minute of any symbol
        in the table: bars that closed by its end are assumed to be stored."""
        settled_ms = min(now_ms - LOOK_AFTER_MS, MINUTE.close_time(stored_ms) + 1)
        return self.schedule.next(now_ms, settled_ms, lambda: self.open_findings.again(now_ms) or self.amended.again())

    def judge(
        self,
        look: Look,
        ours: Mapping[int, Kline],
        theirs: Mapping[int, Values],
        now_ms: int,
        minutes: Mapping[int, Kline] | None = None,
        refused: Mapping[int, str] | None = None,
    ) -> LookResult:
        """Judge the answer to a look, requested at `now_ms`. `ours` and `theirs` are bars by open time, `ours` from one
        bar earlier on; `minutes` are our minutes in the bars that classify.puzzling names; `refused` says why rows of
        the answer are not among `theirs`."""
        try:
            comparison = Comparison(look.interval, ours, theirs, now_ms, minutes, refused)
            verdicts = comparison.verdicts(look.second_ms, look.end_ms)
        except ContractError as bad:
            return self._unreadable(look, str(bad), now_ms)
        verdicts = [each for each in verdicts if look.from_ms <= each.open_time < look.until_ms]
        if look.symbol in self._ended:
            verdicts = [_as_owed(each, ours, theirs) for each in verdicts]
        series = self.schedule.series.get(look.key)
        young = next((each for each in verdicts if self._is_young(look, each, now_ms)), None)
        settled = [each for each in verdicts if young is None or each.open_time < young.open_time]
        if look.again:
            known_ms = series.next_ms if series is not None else None
            settled = [each for each in settled if known_ms is None or each.open_time < known_ms]
        else:
            behind_ms = self._go_on(look, verdicts, young, now_ms)
            counted = [each.kind for each in settled if each.open_time < behind_ms]
            self.bars += len(counted)
            self.counts.update(counted)
        judged, findings = self.open_findings.note(look, settled, theirs, now_ms)
        if young is not None and young.kind == LATE and not look.again:
            judged.append(JudgedBar(young.open_time, LATE))
            self.counts[LATE] += 1
        if look.again:
            self.amended.done(look)
            self.schedule.done(look, 0, 0, now_ms)
            self.open_findings.put_off(look, now_ms + MINUTE_MS)
        self.looks += 1
        beyond_repair, again = self.open_findings.beyond_repair(now_ms), self.open_findings.asked_again(now_ms)
        found = [*findings, *beyond_repair, *self._lag(now_ms)]
        edges = self._edges_to_claim(look, ours, theirs, now_ms)
        judged = [
            JudgedBar(each.open_time, ADOPTED)
            if each.kind == EXACT and each.open_time in ours and is_adopted(ours[each.open_time])
            else each
            for each in judged
        ]
        return LookResult(judged, found, self.open_findings.requests(now_ms), again, edges)

    def _edges_to_claim(
        self, look: Look, ours: Mapping[int, Kline], theirs: Mapping[int, Values], now_ms: int
    ) -> list[Sequence[int]]:
        """The runs of minutes that differ by proven splits alone, that the aggregator still holds, and that were not
        claimed yet."""
        if not self._claims_edges or look.interval is not MINUTE:
            return []
        claims: list[Sequence[int]] = []
        for run in runs(MINUTE, ours, theirs):
            opens = tuple(each.open_time for each in run.klines)
            claim = look.symbol, opens
            if claim not in self._claimed and self.open_findings.is_held(MINUTE, opens[0], now_ms):
                self._claimed[claim] = None
                claims.append(opens)
        while len(self._claimed) > CLAIMED_MAX:
            del self._claimed[next(iter(self._claimed))]
        return claims

    def _is_young(self, look: Look, verdict: Verdict, now_ms: int) -> bool:
        if verdict.kind in (EXACT, EDGE_SHIFT):
            return False
        return verdict.kind == LATE or now_ms < look.interval.close_time(verdict.open_time) + 1 + HEAL_MS

    def _go_on(self, look: Look, verdicts: Sequence[Verdict], young: Verdict | None, now_ms: int) -> int:
        """Set where the series continues after a look, and when; returns where."""
        interval, paused_until_ms, more_ms = look.interval, 0, 0
        last_ms = interval.open_of(interval.bucket_of(look.until_ms - 1))
        goes_on = seen_ms = look.until_ms
        if young is not None:
            before = [each for each in verdicts if each.open_time < young.open_time]
            seen_ms, paused_until_ms = young.open_time, now_ms + YOUNG_PAUSE_MS
            goes_on = _shifted_from(before, seen_ms)
        elif verdicts and verdicts[-1].open_time == last_ms:
            if look.symbol not in self._ended:
                goes_on = _shifted_from(verdicts, look.until_ms)
            if goes_on < look.until_ms:
                more_ms = interval.close_time(look.until_ms) + 1
        elif now_ms < look.until_ms + NEITHER_SIDE_MS and look.symbol not in self._ended:
            behind_ms = interval.close_time(verdicts[-1].open_time) + 1 if verdicts else look.from_ms
            goes_on = min(look.until_ms, max(behind_ms, interval.open_time(now_ms - NEITHER_SIDE_MS)))
            seen_ms, paused_until_ms = goes_on, now_ms + YOUNG_PAUSE_MS
        self.schedule.done(look, goes_on, seen_ms, now_ms, paused_until_ms, more_ms)
        return goes_on

    def _unreadable(self, look: Look, why: str, now_ms: int) -> LookResult:
        self.refused(look, now_ms + UNREADABLE_PAUSE_MS - BEGIN_MS, unknown=False)
        sentence = f"bars of {look.symbol} {look.interval.name} in the table cannot be compared: {why}"
        place = f"{look.interval.name}/{look.from_ms}"
        return LookResult(
            [], [Finding(FindingKind.MALFORMED, Severity.ERROR, look.symbol, place, now_ms, sentence)], []
        )

    def refused(self, look: Look, now_ms: int, *, unknown: bool) -> None:
        """The exchange refused a look: it does not know the symbol (`unknown`), or refuses for now."""
        if unknown and look.symbol in self._ended:
            self.schedule.drop(look.symbol)
        self.schedule.postpone(look, now_ms + BEGIN_MS, now_ms)
        if look.again:
            self.amended.done(look)
            self.open_findings.put_off(look, now_ms + BEGIN_MS)

    # Findings about the auditor itself.

    @property
    def lag_ms_max(self) -> int:
        """The auditor is behind when the oldest minute that was not compared closed longer ago than this (exchange
        ms)."""
        lap_ms = len(self.schedule.minutes) * MINUTE_MS // self._weight
        return int(max(LAG_MS_MIN, LAG_LAPS * lap_ms) * max(1.0, self.speed))

    def _lag(self, now_ms: int) -> list[Finding]:
        """The finding that the auditor is behind, when it opens; it closes at half of `lag_ms_max`."""
        age_ms, most_ms = self.schedule.oldest_ms(now_ms), self.lag_ms_max
        behind = FindingKind.LAGGING in self._own_open
        if not self.schedule.laps and now_ms < self._began_ms + most_ms:
            return []  # bars that came while the auditor did not run
        if behind == (age_ms > (most_ms // 2 if behind else most_ms)):
            return []
        whose = f" (of {self.schedule.oldest(now_ms)})" if age_ms else ""
        closed_s = age_ms // 1000
        sentence = f"the oldest minute that was not compared with the exchange's own{whose} closed {closed_s} s ago"
        return [self._own_finding(FindingKind.LAGGING, sentence, now_ms, closed=behind)]

    def _own_finding(self, what: str, evidence: str, now_ms: int, *, closed: bool) -> Finding:
        """Open or close a finding about the auditor: LAGGING, or UNREACHABLE for what cannot be reached."""
        self._own_open ^= {what}
        kind = FindingKind.LAGGING if what == FindingKind.LAGGING else FindingKind.UNREACHABLE
        return Finding(kind, Severity.WARNING, "", f"{PROCESS}/{what}", now_ms, evidence, closed=closed)

    @staticmethod
    def own_finding_ids() -> dict[str, str]:
        """What the findings about the auditor itself can be about, by the id of the finding."""
        whats = {
            FindingKind.LAGGING: FindingKind.LAGGING,
            EXCHANGE: FindingKind.UNREACHABLE,
            DATABASE: FindingKind.UNREACHABLE,
        }
        return {
            Finding(kind, Severity.WARNING, "", f"{PROCESS}/{what}", 0, "").id: what for what, kind in whats.items()
        }

    def restore_own_findings(self, whats: Iterable[str]) -> None:
        """Put back the findings about the auditor itself that were open before a restart."""
        self._own_open = set(whats)

    def unreachable(self, what: str, why: str, now_ms: int) -> list[Finding]:
        """`what` cannot be reached for the reason `why`, or can be reached again (empty); returns what is new."""
        closed = what in self._own_open
        if closed == bool(why):
            return []
        sentence = f"{what} cannot be reached, so nothing is compared: {why}" if why else f"{what} can be reached again"
        return [self._own_finding(what, sentence, now_ms, closed=closed)]

    def summary(self, now_ms: int) -> str:
        """The counts since the start, how far the lap is, and how old the oldest minute is, in one line."""
        kinds = ", ".join(f"{self.counts[kind]} {kind.lower()}" for kind in VERDICTS)
        schedule = self.schedule
        return (
            f"{self.bars} bars compared ({kinds}) in {self.looks} looks, {len(self.open_findings)} findings are open; "
            f"{schedule.laps} laps, the last took {schedule.lap_ms // 1000} s, this one is at "
            f"{schedule.lap_percent} %; the oldest minute not compared closed "
            f"{schedule.oldest_ms(now_ms) // 1000} s ago"
        )


def _shifted_from(verdicts: Sequence[Verdict], until_ms: int) -> int:
    """The open time of the first of the consecutive edge shifts at the end of these verdicts; `until_ms` if there are
    none.

    A shift into a bar from a bar that was shifted itself can only be proven from where the shifts began.
    """
    begin_ms = until_ms
    for each in reversed(verdicts[-SHIFTS_MAX:]):
        if each.kind != EDGE_SHIFT:
            return begin_ms
        begin_ms = each.open_time
    return begin_ms if len(verdicts) < SHIFTS_MAX else until_ms


def _as_owed(verdict: Verdict, ours: Mapping[int, Kline], theirs: Mapping[int, Values]) -> Verdict:
    """The verdict on a bar of a symbol that has ended: a bar without a trade on either side is not expected."""
    mine, other = ours.get(verdict.open_time), theirs.get(verdict.open_time)
    traded = (mine and mine.trades) or (other and other.get("trades"))
    return verdict if traded or verdict.kind == EXACT else Verdict(verdict.open_time, EXACT, "")

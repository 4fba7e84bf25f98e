"""Every closed kline of every listed symbol against the exchange's own: what is asked for, and what the answers mean.

Pure: listings, our bars, the exchange's rows and the time come in; looks, findings, requests and tallies go out.

A bar is due LOOK_AFTER_MS after its close, once the table has the minute of any symbol that closed with it. What is
wrong with a bar that is not HEAL_MS old yet is not said: repair may be at work, or the exchange late. Such a bar, and
what follows it, is looked at again with the next look at its series. So are edge shifts up to the newest bar, which
only the bar behind it proves wholly. What is wrong later than that becomes a finding or a count (`open_findings`).

A bar that is amended after it was compared is compared again (auditors.amended).

Where the bars of a symbol begin is known from the first one that the table has. A symbol that is traded and has none
is owed bars from BEGIN_MS on after it was listed, or first seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from auditors.amended import Amended
from auditors.classify import EDGE_SHIFT, EXACT, LATE, VERDICTS, Comparison, Verdict
from auditors.day_counts import Judged, Tally
from auditors.findings import Finding
from auditors.open_findings import Book
from auditors.schedule import Agenda, Key, Look, Series
from klagg.binance.kline_rows import told_by_rest
from klagg.binance.payloads import SUBSCRIBABLE
from klagg.errors import ContractError
from klagg.intervals import HOUR_MS, MINUTE, MINUTE_MS, Interval, ordered
from klagg.kline import Kline, Values
from klagg.settings import Settings
from klagg.wire.entries import Listing, Request
from klagg.wire.findings import FindingKind, Severity

LOOK_AFTER_MS: Final = 30_000
HEAL_MS: Final = 3 * MINUTE_MS
"""A gap of a few seconds heals within three minutes: tests/endtoend/test_losses.py."""
YOUNG_REST_MS: Final = 20_000
"""A series whose newest bars are not judged yet is left alone for so long."""
SHIFTS_MAX: Final = 60
"""Shifts in a row that are looked at together."""
UNTOLD_MS: Final = 5 * MINUTE_MS
"""Bars that neither side has and behind which there is none are waited for, up to so long."""
BEGIN_MS: Final = 10 * MINUTE_MS
REACH_MS: Final = 3 * HOUR_MS
"""The first start looks back so far."""
TRADING: Final = "TRADING"
AILING_MS: Final = HOUR_MS
"""A series whose bars in the table cannot be read is left alone for so long."""

LAG_LAPS: Final = 3
LAG_MS_MIN: Final = 10 * MINUTE_MS
"""The auditor is behind when the oldest minute is older than so many laps at its weight, and at least this."""

PROCESS: Final = "auditor-exchange"
EXCHANGE: Final = "the exchange's REST API"
DATABASE: Final = "the database"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a look gave: the bars judged, for the tallies, what is to be said, and what is to be asked for."""

    judged: Sequence[Judged]
    findings: Sequence[Finding]
    requests: Sequence[Request]


class ExchangeAudit:
    """All symbols of all shards. Times are exchange ms."""

    def __init__(self, settings: Settings) -> None:
        config = settings.aggregator
        self.intervals = tuple(each for each in ordered(config.intervals) if told_by_rest(each))
        self._weight = settings.audit.weight_per_minute
        self.agenda = Agenda()
        self.book = Book(config.window_minutes * MINUTE_MS)
        self.amended = Amended()
        self.counts: Counter[str] = Counter(dict.fromkeys(VERDICTS, 0))
        self.bars = self.looks = self._began_ms = 0
        self.speed = 1.0
        """How fast the exchange's clock runs; weight is counted in real minutes."""
        self._seen_ms: dict[str, int] = {}
        """By symbol that is traded, since when that is known."""
        self._generations: dict[str, int] = {}
        self._ended: set[str] = set()
        self._known: dict[Key, int] = {}
        """Of series that are not listed yet: where they go on, and which bars were shifts."""
        self._shifts: dict[Key, set[int]] = {}
        self._open: set[str] = set()
        """What stands about the auditor itself."""

    # What there is to audit.

    def restore(self, symbol: str, interval: Interval, tally: Tally) -> None:
        """What was audited before a restart. Its series goes on behind it, or where the exchange was late."""
        if tally.ranges and interval in self.intervals:
            late = [each.open_time for each in tally.different.values() if each.kind == LATE]
            goes_on = min([tally.ranges[-1][1], *late])
            key = symbol, interval.name
            self._known[key] = max(goes_on, self._known.get(key, 0))
            shifts = {each.open_time for each in tally.different.values() if each.kind == EDGE_SHIFT}
            self._shifts.setdefault(key, set()).update(shifts)
            self.book.restore(symbol, interval, tally.different.values())

    def carry(self, listings: Iterable[Listing], now_ms: int) -> None:
        """The exchange's listings of the symbols that are carried. One that is not there any more has ended."""
        self._began_ms = self._began_ms or now_ms
        listed = {each.symbol: each for each in listings}
        for name, each in listed.items():
            if each.status not in SUBSCRIBABLE or (each.status != TRADING and each.delivery <= now_ms):
                self._end(name, min(now_ms, each.delivery))
                continue
            if name in self._ended:  # it is listed again
                self._ended.discard(name)
                self.agenda.drop(name)
            if each.status == TRADING and each.generation <= now_ms:
                self._seen_ms.setdefault(name, now_ms)
            self._generations[name] = each.generation
            self.agenda.add(name, self.intervals)
            for interval in self.intervals:
                series = self.agenda.series[name, interval.name]
                goes_on = self._known.pop(series.key, None)
                if series.next_ms is None and goes_on is not None and goes_on >= each.generation:
                    series.next_ms = self._shifted_before(series.key, interval, goes_on)
                    series.seen_ms = goes_on
        for name in {each.symbol for each in self.agenda.series.values()} - listed.keys():
            self._end(name, now_ms)

    def _shifted_before(self, key: Key, interval: Interval, time_ms: int) -> int:
        """Where the shifts right before a time begin that were found before the restart."""
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
            self.agenda.end(name, end_ms)

    @property
    def unplaced(self) -> list[Series]:
        """Series of which it is not known where they begin."""
        return [each for each in self.agenda.series.values() if each.next_ms is None]

    def reach_ms(self, symbol: str, now_ms: int) -> int:
        """Bars of a symbol that close before it are not looked for: they are older, or of a listing before."""
        return max(now_ms - REACH_MS, self._generations.get(symbol, 0))

    def place(self, first_ms: Mapping[Key, int], now_ms: int) -> None:
        """The first bars that the table has of series that are not placed, by open time."""
        for series in self.unplaced:
            seen_ms = self._seen_ms.get(series.symbol)
            found = first_ms.get(series.key)
            if found is not None:
                series.next_ms = found
            elif series.interval is MINUTE:
                if seen_ms is not None and now_ms >= seen_ms + BEGIN_MS:
                    series.next_ms = MINUTE.close_time(seen_ms) + 1
            elif (minutes := self.agenda.series.get((series.symbol, MINUTE.name))) and minutes.next_ms is not None:
                whole_ms = series.interval.close_time(minutes.next_ms) + 1
                if now_ms >= series.interval.close_time(whole_ms) + HEAL_MS:
                    series.next_ms = whole_ms

    # Looking.

    def next(self, now_ms: int, stored_ms: int) -> Look | None:
        """The next look. `stored_ms` is the open time of the newest final minute in the table, of any symbol: what
        closed by its end is taken to be stored."""
        settled_ms = min(now_ms - LOOK_AFTER_MS, MINUTE.close_time(stored_ms) + 1)
        return self.agenda.next(now_ms, settled_ms, lambda: self.book.again(now_ms) or self.amended.again())

    def judge(
        self,
        look: Look,
        ours: Mapping[int, Kline],
        theirs: Mapping[int, Values],
        now_ms: int,
        minutes: Mapping[int, Kline] | None = None,
    ) -> Outcome:
        """What a look showed. `now_ms` is when the exchange was asked; `ours` reaches one bar further back; `minutes`
        are ours in the bars that classify.puzzling names."""
        try:
            comparison = Comparison(look.interval, ours, theirs, now_ms, minutes)
            verdicts = comparison.verdicts(look.second_ms, look.end_ms)
        except ContractError as bad:
            return self._unreadable(look, str(bad), now_ms)
        verdicts = [each for each in verdicts if look.from_ms <= each.open_time < look.until_ms]
        if look.symbol in self._ended:
            verdicts = [_owed(each, ours, theirs) for each in verdicts]
        series = self.agenda.series.get(look.key)
        young = next((each for each in verdicts if self._young(look, each, now_ms)), None)
        settled = [each for each in verdicts if young is None or each.open_time < young.open_time]
        if look.again:
            known_ms = series.next_ms if series is not None else None
            settled = [each for each in settled if known_ms is None or each.open_time < known_ms]
        else:
            behind_ms = self._go_on(look, verdicts, young, now_ms)
            counted = [each.kind for each in settled if each.open_time < behind_ms]
            self.bars += len(counted)
            self.counts.update(counted)
        judged, findings = self.book.note(look, settled, theirs, now_ms)
        if young is not None and young.kind == LATE and not look.again:
            judged.append(Judged(young.open_time, LATE))
            self.counts[LATE] += 1
        if look.again:
            self.amended.done(look)
            self.agenda.done(look, 0, 0, now_ms)
            self.book.put_off(look, now_ms + MINUTE_MS)
        self.looks += 1
        return Outcome(judged, [*findings, *self._lag(now_ms)], self.book.requests(now_ms))

    def _young(self, look: Look, verdict: Verdict, now_ms: int) -> bool:
        if verdict.kind in (EXACT, EDGE_SHIFT):
            return False
        return verdict.kind == LATE or now_ms < look.interval.close_time(verdict.open_time) + 1 + HEAL_MS

    def _go_on(self, look: Look, verdicts: Sequence[Verdict], young: Verdict | None, now_ms: int) -> int:
        """Settle where the series goes on behind a look, and when; where that is."""
        interval, rest_ms, more_ms = look.interval, 0, 0
        last_ms = interval.open_of(interval.bucket_of(look.until_ms - 1))
        goes_on = seen_ms = look.until_ms
        if young is not None:
            before = [each for each in verdicts if each.open_time < young.open_time]
            seen_ms, rest_ms = young.open_time, now_ms + YOUNG_REST_MS
            goes_on = _shifted_from(before, seen_ms)
        elif verdicts and verdicts[-1].open_time == last_ms:
            if look.symbol not in self._ended:
                goes_on = _shifted_from(verdicts, look.until_ms)
            if goes_on < look.until_ms:
                more_ms = interval.close_time(look.until_ms) + 1
        elif now_ms < look.until_ms + UNTOLD_MS and look.symbol not in self._ended:
            behind_ms = interval.close_time(verdicts[-1].open_time) + 1 if verdicts else look.from_ms
            goes_on = min(look.until_ms, max(behind_ms, interval.open_time(now_ms - UNTOLD_MS)))
            seen_ms, rest_ms = goes_on, now_ms + YOUNG_REST_MS
        self.agenda.done(look, goes_on, seen_ms, now_ms, rest_ms, more_ms)
        return goes_on

    def _unreadable(self, look: Look, why: str, now_ms: int) -> Outcome:
        self.refused(look, now_ms + AILING_MS - BEGIN_MS, unknown=False)
        said = f"bars of {look.symbol} {look.interval.name} in the table cannot be compared: {why}"
        place = f"{look.interval.name}/{look.from_ms}"
        return Outcome([], [Finding(FindingKind.MALFORMED, Severity.ERROR, look.symbol, place, now_ms, said)], [])

    def refused(self, look: Look, now_ms: int, *, unknown: bool) -> None:
        """The exchange does not tell of this series: at all (`unknown` to it), or now."""
        if unknown and look.symbol in self._ended:
            self.agenda.drop(look.symbol)
        self.agenda.rest(look, now_ms + BEGIN_MS, now_ms)
        if look.again:
            self.amended.done(look)
            self.book.put_off(look, now_ms + BEGIN_MS)

    # What is said of the auditor itself.

    @property
    def lag_ms_max(self) -> int:
        """An oldest minute older than this means that the auditor is behind."""
        lap_ms = len(self.agenda.minutes) * MINUTE_MS // self._weight
        return int(max(LAG_MS_MIN, LAG_LAPS * lap_ms) * max(1.0, self.speed))

    def _lag(self, now_ms: int) -> list[Finding]:
        """What is new about being behind; said once, and closed at half of it."""
        age_ms, most_ms = self.agenda.oldest_ms(now_ms), self.lag_ms_max
        behind = FindingKind.LAGGING in self._open
        if not self.agenda.laps and now_ms < self._began_ms + most_ms:
            return []  # what came while it was away
        if behind == (age_ms > (most_ms // 2 if behind else most_ms)):
            return []
        whose = f" (of {self.agenda.oldest(now_ms)})" if age_ms else ""
        said = f"the oldest minute that was not compared with the exchange's own{whose} closed {age_ms // 1000} s ago"
        return [self._of_itself(FindingKind.LAGGING, said, now_ms, closed=behind)]

    def _of_itself(self, what: str, said: str, now_ms: int, *, closed: bool) -> Finding:
        """A finding about the auditor: LAGGING, or UNREACHABLE and what cannot be asked."""
        self._open ^= {what}
        kind = FindingKind.LAGGING if what == FindingKind.LAGGING else FindingKind.UNREACHABLE
        return Finding(kind, Severity.WARNING, "", f"{PROCESS}/{what}", now_ms, said, closed=closed)

    @staticmethod
    def of_itself_ids() -> dict[str, str]:
        """What may stand about the auditor itself, by the id of its finding."""
        whats = {
            FindingKind.LAGGING: FindingKind.LAGGING,
            EXCHANGE: FindingKind.UNREACHABLE,
            DATABASE: FindingKind.UNREACHABLE,
        }
        return {
            Finding(kind, Severity.WARNING, "", f"{PROCESS}/{what}", 0, "").id: what for what, kind in whats.items()
        }

    def stood(self, whats: Iterable[str]) -> None:
        """What stood about the auditor itself before a restart."""
        self._open = set(whats)

    def unreachable(self, what: str, why: str, now_ms: int) -> list[Finding]:
        """Something that is needed cannot be asked (`why`), or can again (empty); what is new about it."""
        closed = what in self._open
        if closed == bool(why):
            return []
        said = f"{what} cannot be asked, so nothing is compared: {why}" if why else f"{what} can be asked again"
        return [self._of_itself(what, said, now_ms, closed=closed)]

    def summary(self, now_ms: int) -> str:
        """The counts since the start, how far the lap is and how old the oldest minute is."""
        kinds = ", ".join(f"{self.counts[kind]} {kind.lower()}" for kind in VERDICTS)
        agenda = self.agenda
        return (
            f"{self.bars} bars compared ({kinds}) in {self.looks} looks, {len(self.book)} findings stand; "
            f"{agenda.laps} laps, the last took {agenda.lap_ms // 1000} s, this one is at {agenda.lap_percent} %; the "
            f"oldest minute not compared closed {agenda.oldest_ms(now_ms) // 1000} s ago"
        )


def _shifted_from(verdicts: Sequence[Verdict], until_ms: int) -> int:
    """Where the shifts begin that these verdicts, which reach up to `until_ms`, end with: `until_ms` if with none.

    What came into a bar out of one that was shifted itself is only known from where shifts began.
    """
    begin_ms = until_ms
    for each in reversed(verdicts[-SHIFTS_MAX:]):
        if each.kind != EDGE_SHIFT:
            return begin_ms
        begin_ms = each.open_time
    return begin_ms if len(verdicts) < SHIFTS_MAX else until_ms


def _owed(verdict: Verdict, ours: Mapping[int, Kline], theirs: Mapping[int, Values]) -> Verdict:
    """The verdict on a bar of a symbol that has ended: without a trade on either side nobody owes it."""
    mine, other = ours.get(verdict.open_time), theirs.get(verdict.open_time)
    traded = (mine and mine.trades) or (other and other.get("trades"))
    return verdict if traded or verdict.kind == EXACT else Verdict(verdict.open_time, EXACT, "")

"""The completeness auditor: every bar once, in order, none missing, right in itself and beside its neighbours. Pure.

It reads `klines:{n}`, and from `events:{n}` the ticks, the listings and the first trades of symbols. Versions, values
and the grid are judged bar by bar; what a bar has to do with others (the close that it carries, the fold of its
minutes, ids that go on) is judged at the tick, because one tick may revise many bars. What does not fit then must still
not fit a second later: of an aggregator that catches up, klines may come before the events of earlier ticks (Weave).
"""

from __future__ import annotations

from typing import Any, Final

from auditors.bars import OWN, Bar, Fold, faults_of, text_of_kline
from auditors.expected_bars import BEHIND, PASSED, Trouble
from auditors.judge import Judge
from klagg.errors import ContractError
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.kline import Kline
from klagg.settings import Settings
from klagg.wire.entries import EVENT_COLUMNS, EVENT_DELISTED, EVENT_GENESIS, EVENT_LISTED, EVENT_TICK, event_rows
from klagg.wire.fields import RawFields, integer_of, text_of, texts_of
from klagg.wire.findings import FindingKind, Severity
from klagg.wire.klines import kline_of

LISTING_EVENTS: Final = frozenset({EVENT_GENESIS, EVENT_LISTED, EVENT_DELISTED})

Key = tuple[str, str, int]
"""Symbol, interval, open time."""
Suspect = tuple[FindingKind, Key]
"""The kind of a finding that may be one, and its bar."""

SETTLED_MS: Final = 1_000
"""For so long, in exchange time, what does not fit may still be in the making."""


class Completeness(Judge):
    """The judge. Tables of a shelf: `bar/<interval>` holds the newest version of a bar, `fold/<interval>` its fold."""

    streams = ("klines", "events")
    counted = ("klines", "duplicates", "absent", "amended", "folds")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._longer = [each for each in self.intervals if each.shortest_ms > MINUTE_MS]
        self._touched: set[Key] = set()
        """Bars that came, or whose minutes did, since the last tick."""
        self._folds: set[Key] = set()
        """Longer bars that are not the fold of their minutes yet."""
        self._suspects: dict[Suspect, int] = {}
        """What did not fit at the last tick, and since when."""

    def take_entry(self, stream: str, entry_id: str, raw: RawFields) -> None:
        """A kline, or events."""
        if stream == "klines":
            self._kline(kline_of(raw))
            return
        kind = text_of(raw, "kind")
        if kind == EVENT_TICK:
            self.tick(integer_of(raw, "time"))
        elif kind in LISTING_EVENTS:
            for row in event_rows(texts_of(raw)):
                self.roster.take(kind, row)
        elif kind not in EVENT_COLUMNS:
            raise ContractError(f"unknown event kind {kind!r}")

    def _kline(self, kline: Kline) -> None:
        self.counts["klines"] += 1
        bar = Bar.of_text(text := text_of_kline(kline))
        place, faults = f"{kline.interval}/{kline.open_time}", list(faults_of(kline, bar))
        for kind, why in faults:
            self.say(
                kind,
                kline.symbol,
                f"{place}/{kline.epoch}.{kline.revision}.{kline.complete}",
                f"{kline.interval} {kline.open_time}: {why}",
            )
        interval = self.roster.intervals.get(kline.interval)
        if interval is None:
            self.say(
                FindingKind.MALFORMED,
                kline.symbol,
                kline.interval,
                f"klines of {kline.interval}, which is not configured",
            )
            return
        opening = interval.open_time(kline.open_time)
        if opening != kline.open_time:
            return
        shelf, table = self.shelf(kline.symbol), f"bar/{kline.interval}"
        held_text = shelf.get(table, opening)
        held = None if held_text is None else Bar.of_text(held_text)
        if held is not None:
            if not self._is_next(kline, held, place):
                return
        elif not self.roster.note(kline.symbol, kline.interval, opening):
            self.came_behind(kline.symbol, kline.interval, opening)
        elif bar.revision != 1 and not self.roster.members[kline.symbol].adopted:
            self.say(
                FindingKind.VERSION,
                kline.symbol,
                place,
                f"{kline.interval} {opening} begins with revision {bar.revision}",
            )
        shelf.put(table, opening, text)
        self._touched.add((kline.symbol, kline.interval, opening))
        if interval is MINUTE:
            for longer in self._longer:
                self._fold_into(kline.symbol, longer.name, longer.open_time(opening), opening, held, bar)

    def _is_next(self, kline: Kline, held: Bar, place: str) -> bool:
        """Whether this version may follow the one held: what does not is said, and only a higher one is kept."""
        was, now = held.version, kline.version
        if now == was:
            self.counts["duplicates"] += 1
            self.say(
                FindingKind.DUPLICATE,
                kline.symbol,
                f"{place}/{now}",
                f"{kline.interval} {kline.open_time} {now} came twice",
            )
            return False
        if now < was:
            self.say(
                FindingKind.VERSION,
                kline.symbol,
                f"{place}/{now}",
                f"{kline.interval} {kline.open_time}: {now} after {was}",
            )
            return False
        confirmed = now == (was[0], was[1], 1)
        if now[0] == was[0] and not confirmed and now[1] != was[1] + 1:
            self.say(
                FindingKind.VERSION,
                kline.symbol,
                f"{place}/{now}",
                f"{kline.interval} {kline.open_time}: revision {now[1]} after {was[1]}",
            )
        self.counts["confirmed" if confirmed else "amended"] += 1
        return True

    def _fold_into(self, symbol: str, name: str, opening: int, minute: int, held: Bar | None, bar: Bar) -> None:
        """A minute goes into one longer bar."""
        shelf, table, key = self.shelf(symbol), f"fold/{name}", (symbol, name, opening)
        fold = self._fold_of(key)
        if fold is None:
            member = self.roster.members.get(symbol)
            begins = minute == opening or (
                member is not None and not member.adopted and MINUTE.open_time(member.genesis_ms) == minute
            )
            shelf.put(table, opening, fold := Fold(minute, known=begins and held is None))
        fold.take(minute, held, bar)
        shelf.touch(opening)
        if held is not None or shelf.get(f"bar/{name}", opening) is not None:
            self._touched.add(key)

    def _fold_of(self, key: Key) -> Fold | None:
        symbol, name, opening = key
        shelf = self.shelf(symbol)
        fold = shelf.get(f"fold/{name}", opening)
        if isinstance(fold, list):
            fold = Fold.of_json(fold)
            shelf.put(f"fold/{name}", opening, fold)
        return fold if isinstance(fold, Fold) else None

    def lose(self, stream: str) -> None:
        """What was lost may have been of any bar: nothing is known any more of folds in progress and of versions."""
        super().lose(stream)
        if stream == "klines":
            for shelf in self._shelves.values():
                shelf.drop([f"{table}/{each.name}" for each in self.intervals for table in ("bar", "fold")])
            self._touched, self._folds, self._suspects = set(), set(), {}

    def judge(self) -> None:
        """Neighbours of what came since the last tick, and what is missing by now."""
        touched, self._touched = self._touched, set()
        again: dict[Suspect, int] = {}
        for key in touched | {key for _, key in self._suspects}:
            for kind, found_key, why in self._beside(key):
                self._suspect(again, kind, found_key, why)
        for key in touched | self._folds:
            self._judge_fold(key, again)
        self._suspects = again
        for trouble in self.roster.tick(self.time_ms):
            self._missing(trouble)

    def _suspect(self, again: dict[Suspect, int], kind: FindingKind, key: Key, why: str) -> None:
        """Say it if it has not fitted for a while; else look again at the next tick."""
        since_ms = self._suspects.get((kind, key), self.time_ms)
        if self.time_ms - since_ms >= SETTLED_MS:
            severity = Severity.WARNING if kind == FindingKind.IDS else Severity.ERROR
            self.say(kind, key[0], f"{key[1]}/{key[2]}", f"{key[1]} {key[2]}: {why}", severity)
        else:
            again[kind, key] = since_ms

    def _beside(self, key: Key) -> list[tuple[FindingKind, Key, str]]:
        """What is wrong between a bar and those before and behind it: kind, the later bar, a sentence."""
        symbol, name, opening = key
        interval, shelf, table = self.roster.intervals[name], self.shelf(symbol), f"bar/{name}"
        bucket = interval.bucket_of(opening)
        texts = [shelf.get(table, interval.open_of(bucket + by)) for by in (-1, 0, 1)]
        bars = [None if text is None else Bar.of_text(text) for text in texts]
        found = []
        for before, bar, at in ((bars[0], bars[1], bucket), (bars[1], bars[2], bucket + 1)):
            if before is None or bar is None:
                continue
            later = symbol, name, interval.open_of(at)
            if bar.empty and bar.source == OWN and bar.open != before.close:
                found.append(
                    (FindingKind.CARRY, later, f"is empty at {bar.open}, and the close before it is {before.close}")
                )
            if why := self._broken_ids(symbol, before, bar, interval.open_of(at - 1), interval.close_time(later[2])):
                found.append((FindingKind.IDS, later, why))
        return found

    def _broken_ids(self, symbol: str, before: Bar, bar: Bar, from_ms: int, to_ms: int) -> str:
        """Whether two complete bars of own trades leave ids out between them, or share some."""
        if before.source != OWN or bar.source != OWN or not before.complete or not bar.complete:
            return ""
        if min(before.last_agg_id, bar.first_agg_id) < 0 or bar.first_agg_id == before.last_agg_id + 1:
            return ""
        genesis_ms = self.roster.members[symbol].genesis_ms
        if from_ms <= genesis_ms <= to_ms:  # the ids of a generation begin anew
            return ""
        return f"aggTrade {bar.first_agg_id} follows {before.last_agg_id}"

    def _judge_fold(self, key: Key, again: dict[Suspect, int]) -> None:
        """Compare a longer bar with its minutes; what does not fit has time until the bar is owed."""
        symbol, name, opening = key
        self._folds.discard(key)
        interval = self.roster.intervals[name]
        text, fold = self.shelf(symbol).get(f"bar/{name}", opening), None
        if interval.shortest_ms > MINUTE_MS and text is not None:
            fold = self._fold_of(key)
        if fold is None or not fold.known:
            return
        bar, end_ms = Bar.of_text(text), interval.close_time(opening) + 1
        if bar.source != OWN:
            return
        whole = fold.last_ms == end_ms - MINUTE_MS and fold.count == (end_ms - fold.first_ms) // MINUTE_MS
        wrong = fold.differences(bar) if whole else []
        if whole and not wrong:
            self.counts["folds"] += 1
        elif self.time_ms < end_ms + self.due_ms:
            self._folds.add(key)
        elif wrong:
            self._folds.add(key)
            self._suspect(again, FindingKind.FOLD, key, f"is not the fold of its minutes: {'; '.join(wrong)}")
            if (FindingKind.FOLD, key) not in again:
                self._folds.discard(key)

    def _missing(self, trouble: Trouble) -> None:
        symbol, name = trouble.symbol, trouble.interval
        if trouble.reason == PASSED:
            self.passed_over(symbol, name, trouble.first, trouble.last)
        elif trouble.reason == BEHIND:
            interval, shelf, bucket = self.roster.intervals[name], self.shelf(symbol), 0
            for bucket in range(interval.bucket_of(trouble.first), interval.bucket_of(trouble.last) + 1):
                if shelf.get(f"bar/{name}", opening := interval.open_of(bucket)) is None:
                    self.passed_over(symbol, name, opening, opening)
        else:
            self.counts["absent"] += 1
            why = f"{name} {trouble.first} is owed since {self.time_ms} at the latest and not there"
            self.say(FindingKind.ABSENT, symbol, f"{name}/{trouble.first}", why)

    def kept_from(self, symbol: str) -> dict[str, int]:
        """The newest bar of each interval stays, for the one behind it, and folds in progress do."""
        member = self.roster.members.get(symbol)
        series = member.series if member else {}
        return {f"{table}/{name}": each.newest for name, each in series.items() for table in ("bar", "fold")}

    def to_json(self) -> dict[str, Any]:
        """What is remembered of no single symbol; only right behind a tick is it everything."""
        return super().to_json() | {
            "folds": sorted(self._folds),
            "suspects": [[*each, since_ms] for each, since_ms in self._suspects.items()],
        }

    def of_json(self, saved: dict[str, Any]) -> None:
        super().of_json(saved)
        self._folds = {(symbol, name, opening) for symbol, name, opening in saved["folds"]}
        self._suspects = {
            (FindingKind(kind), (key[0], key[1], key[2])): since_ms for kind, key, since_ms in saved["suspects"]
        }

"""The completeness auditor: every bar once, in order, none missing, right in itself and beside its neighbours. Pure.

It reads `klines:{n}`, and from `events:{n}` the ticks, the listings and the first trades of symbols. Versions, values
and the grid are judged bar by bar; the relations between bars (the close that an empty bar carries, the fold of its
minutes, ids that continue) are judged at the tick, because one tick may revise many bars. A mismatch is reported only
if it lasts a second: while an aggregator catches up, klines may come before the events of earlier ticks
(auditors.stream_merge)."""

from __future__ import annotations

from typing import Any, Final

from auditors.bars import OWN, BarValues, MinuteFold, faults_of, text_of_kline
from auditors.expected_bars import BEHIND, PASSED, MissingBars
from auditors.judge import Judge
from klagg.errors import ContractError
from klagg.intervals import MINUTE, MINUTE_MS
from klagg.kline import Kline
from klagg.settings import Settings
from klagg.wire.entries import EVENT_COLUMNS, EVENT_DELISTED, EVENT_GENESIS, EVENT_LISTED, EVENT_TICK, event_rows
from klagg.wire.fields import RawFields, integer_of, text_of, texts_of
from klagg.wire.findings import FindingKind, Severity
from klagg.wire.klines import is_again, kline_of

LISTING_EVENTS: Final = frozenset({EVENT_GENESIS, EVENT_LISTED, EVENT_DELISTED})

BarKey = tuple[str, str, int]
"""Symbol, interval, open time."""
Suspect = tuple[FindingKind, BarKey]
"""A possible finding: its kind and its bar."""

SETTLED_MS: Final = 1_000
"""A mismatch is reported only if it lasts longer than this (exchange time): later entries may resolve it."""


class Completeness(Judge):
    """The judge. Tables of the pages: `bar/<interval>` holds the newest version of a bar, `fold/<interval>` its
    fold."""

    streams = ("klines", "events")
    counted = ("klines", "duplicates", "again", "absent", "amended", "folds")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._longer = [each for each in self.intervals if each.shortest_ms > MINUTE_MS]
        self._touched: set[BarKey] = set()
        """Bars that came, or whose minutes came, since the last tick."""
        self._folds: set[BarKey] = set()
        """Longer bars that do not equal the fold of their minutes yet."""
        self._suspects: dict[Suspect, int] = {}
        """The mismatches of the last tick, and since when (exchange ms) each has lasted."""

    def receive_entry(self, stream: str, entry_id: str, raw: RawFields) -> None:
        """Take in a kline, or the events of one kind."""
        if stream == "klines":
            self._kline(kline_of(raw), again=is_again(raw))
            return
        kind = text_of(raw, "kind")
        if kind == EVENT_TICK:
            self.tick(integer_of(raw, "time"))
        elif kind in LISTING_EVENTS:
            for row in event_rows(texts_of(raw)):
                self.expected.apply_event(kind, row)
        elif kind not in EVENT_COLUMNS:
            raise ContractError(f"unknown event kind {kind!r}")

    def _kline(self, kline: Kline, *, again: bool) -> None:
        """Judge a version of a bar; `again`: it was published before, and somebody lost it. Then it may be known, or
        come behind its successors."""
        self.counts["klines"] += 1
        bar = BarValues.of_text(text := text_of_kline(kline))
        place, faults = f"{kline.interval}/{kline.open_time}", list(faults_of(kline, bar))
        for kind, why in faults:
            self.report(
                kind,
                kline.symbol,
                f"{place}/{kline.epoch}.{kline.revision}.{kline.complete}.{kline.official}",
                f"{kline.interval} {kline.open_time}: {why}",
            )
        interval = self.expected.intervals.get(kline.interval)
        if interval is None:
            self.report(
                FindingKind.MALFORMED,
                kline.symbol,
                kline.interval,
                f"klines of {kline.interval}, which is not configured",
            )
            return
        opening = interval.open_time(kline.open_time)
        if opening != kline.open_time:
            return
        pages, table = self.pages(kline.symbol), f"bar/{kline.interval}"
        held_text = pages.get(table, opening)
        held = None if held_text is None else BarValues.of_text(held_text)
        self.came(kline.symbol, kline.interval, opening)
        if held is not None:
            if again and kline.version <= held.version:
                self.counts["again"] += 1
                return
            if not again and not self._is_next(kline, held, place):
                return
        elif not self.expected.observe(kline.symbol, kline.interval, opening):
            if not again:
                self.came_behind(kline.symbol, kline.interval, opening)
        elif not again and bar.revision != 1 and not self.expected.symbols[kline.symbol].adopted:
            self.report(
                FindingKind.VERSION,
                kline.symbol,
                place,
                f"{kline.interval} {opening} begins with revision {bar.revision}",
            )
        pages.put(table, opening, text)
        self._touched.add((kline.symbol, kline.interval, opening))
        if interval is MINUTE:
            for longer in self._longer:
                self._fold_into(kline.symbol, longer.name, longer.open_time(opening), opening, held, bar)

    def _is_next(self, kline: Kline, held: BarValues, place: str) -> bool:
        """Whether this version is higher than the one held. A version that may not follow it is reported."""
        was, now = held.version, kline.version
        if now == was:
            self.counts["duplicates"] += 1
            self.report(
                FindingKind.DUPLICATE,
                kline.symbol,
                f"{place}/{now}",
                f"{kline.interval} {kline.open_time} {now} came twice",
            )
            return False
        if now < was:
            self.report(
                FindingKind.VERSION,
                kline.symbol,
                f"{place}/{now}",
                f"{kline.interval} {kline.open_time}: {now} after {was}",
            )
            return False
        confirmed = now[:2] == was[:2]
        if now[0] == was[0] and not confirmed and now[1] != was[1] + 1:
            self.report(
                FindingKind.VERSION,
                kline.symbol,
                f"{place}/{now}",
                f"{kline.interval} {kline.open_time}: revision {now[1]} after {was[1]}",
            )
        self.counts["confirmed" if confirmed else "amended"] += 1
        return True

    def _fold_into(
        self, symbol: str, name: str, opening: int, minute: int, held: BarValues | None, bar: BarValues
    ) -> None:
        """Fold a minute into one longer bar."""
        pages, table, key = self.pages(symbol), f"fold/{name}", (symbol, name, opening)
        fold = self._fold_of(key)
        if fold is None:
            member = self.expected.symbols.get(symbol)
            begins = minute == opening or (
                member is not None and not member.adopted and MINUTE.open_time(member.genesis_ms) == minute
            )
            pages.put(table, opening, fold := MinuteFold(minute, known=begins and held is None))
        fold.add(minute, held, bar)
        pages.touch(opening)
        if held is not None or pages.get(f"bar/{name}", opening) is not None:
            self._touched.add(key)

    def _fold_of(self, key: BarKey) -> MinuteFold | None:
        symbol, name, opening = key
        pages = self.pages(symbol)
        fold = pages.get(f"fold/{name}", opening)
        if isinstance(fold, list):
            fold = MinuteFold.of_json(fold)
            pages.put(f"fold/{name}", opening, fold)
        return fold if isinstance(fold, MinuteFold) else None

    def forget_lost(self, stream: str) -> None:
        """The lost klines may have been of any bar: forget the versions and the folds in progress."""
        super().forget_lost(stream)
        if stream == "klines":
            for pages in self._pages.values():
                pages.drop([f"{table}/{each.name}" for each in self.intervals for table in ("bar", "fold")])
            self._touched, self._folds, self._suspects = set(), set(), {}

    def judge(self) -> None:
        """Judge the neighbours of what came since the last tick, and report bars that are overdue."""
        touched, self._touched = self._touched, set()
        again: dict[Suspect, int] = {}
        for key in touched | {key for _, key in self._suspects}:
            for kind, found_key, why in self._beside(key):
                self._suspect(again, kind, found_key, why)
        for key in touched | self._folds:
            self._judge_fold(key, again)
        self._suspects = again
        for missing in self.expected.tick(self.time_ms):
            self._report_missing(missing)

    def _suspect(self, again: dict[Suspect, int], kind: FindingKind, key: BarKey, why: str) -> None:
        """Report a mismatch that has lasted SETTLED_MS; a younger one is judged again at the next tick."""
        since_ms = self._suspects.get((kind, key), self.time_ms)
        if self.time_ms - since_ms >= SETTLED_MS:
            severity = Severity.WARNING if kind == FindingKind.IDS else Severity.ERROR
            self.report(kind, key[0], f"{key[1]}/{key[2]}", f"{key[1]} {key[2]}: {why}", severity)
        else:
            again[kind, key] = since_ms

    def _beside(self, key: BarKey) -> list[tuple[FindingKind, BarKey, str]]:
        """The mismatches between a bar and those before and after it: kind, the later bar, a sentence."""
        symbol, name, opening = key
        interval, pages, table = self.expected.intervals[name], self.pages(symbol), f"bar/{name}"
        bucket = interval.bucket_of(opening)
        texts = [pages.get(table, interval.open_of(bucket + by)) for by in (-1, 0, 1)]
        bars = [None if text is None else BarValues.of_text(text) for text in texts]
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

    def _broken_ids(self, symbol: str, before: BarValues, bar: BarValues, from_ms: int, to_ms: int) -> str:
        """Why the ids of two complete bars of own trades do not follow each other; empty if they do."""
        if before.source != OWN or bar.source != OWN or not before.complete or not bar.complete:
            return ""
        if min(before.last_agg_id, bar.first_agg_id) < 0 or bar.first_agg_id == before.last_agg_id + 1:
            return ""
        if bar.first_agg_id == before.last_agg_id == before.moved_id and bar.first_trade_id == before.last_trade_id + 1:
            return ""  # its fills are in both bars
        genesis_ms = self.expected.symbols[symbol].genesis_ms
        if from_ms <= genesis_ms <= to_ms:  # the ids of a generation begin anew
            return ""
        return f"aggTrade {bar.first_agg_id} follows {before.last_agg_id}"

    def _judge_fold(self, key: BarKey, again: dict[Suspect, int]) -> None:
        """Compare a longer bar with its minutes; a mismatch is reported after the bar's deadline."""
        symbol, name, opening = key
        self._folds.discard(key)
        interval = self.expected.intervals[name]
        text, fold = self.pages(symbol).get(f"bar/{name}", opening), None
        if interval.shortest_ms > MINUTE_MS and text is not None:
            fold = self._fold_of(key)
        if fold is None or not fold.known:
            return
        bar, end_ms = BarValues.of_text(text), interval.close_time(opening) + 1
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

    def _report_missing(self, missing: MissingBars) -> None:
        symbol, name = missing.symbol, missing.interval
        if missing.reason == PASSED:
            self.passed_over(symbol, name, missing.first, missing.last)
        elif missing.reason == BEHIND:
            interval, pages, bucket = self.expected.intervals[name], self.pages(symbol), 0
            for bucket in range(interval.bucket_of(missing.first), interval.bucket_of(missing.last) + 1):
                if pages.get(f"bar/{name}", opening := interval.open_of(bucket)) is None:
                    self.passed_over(symbol, name, opening, opening)
        else:
            self.counts["absent"] += 1
            why = f"{name} {missing.first} is owed since {self.time_ms} at the latest and not there"
            self.report(FindingKind.ABSENT, symbol, f"{name}/{missing.first}", why)

    def kept_from(self, symbol: str) -> dict[str, int]:
        """The newest bar of each interval is kept for the one after it, and so are the folds in progress."""
        member = self.expected.symbols.get(symbol)
        series = member.series if member else {}
        return {f"{table}/{name}": each.newest for name, each in series.items() for table in ("bar", "fold")}

    def to_json(self) -> dict[str, Any]:
        """The state that belongs to no single symbol, for JSON; complete only right after a tick."""
        return super().to_json() | {
            "folds": sorted(self._folds),
            "suspects": [[*each, since_ms] for each, since_ms in self._suspects.items()],
        }

    def of_json(self, saved: dict[str, Any]) -> None:
        """Put back the state that `to_json` gave."""
        super().of_json(saved)
        self._folds = {(symbol, name, opening) for symbol, name, opening in saved["folds"]}
        self._suspects = {
            (FindingKind(kind), (key[0], key[1], key[2])): since_ms for kind, key, since_ms in saved["suspects"]
        }

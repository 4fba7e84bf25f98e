"""What the auditors of streams share: entries in, findings out, and what a restart needs. Pure.

Entries come in the order of the log: of a tick first the klines, then the events, the tick itself last. A judge speaks
at ticks, because a tick's entries only make sense together.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, ClassVar, Final

from auditors.entry_sequence import Continuity
from auditors.expected_bars import Member, Roster, Terms
from auditors.findings import Finding, bar_of, joined
from auditors.hour_pages import PAGE_MS, Shelf
from klagg.errors import ContractError
from klagg.intervals import MINUTE_MS, ordered
from klagg.settings import Settings
from klagg.wire.entries import EVENT_GAP_CLOSED, EVENT_GAP_OPENED
from klagg.wire.fields import RawFields, upgraded
from klagg.wire.findings import FindingKind, Severity

SELF: Final = "#judge"
"""The field of what is remembered of no single symbol; no symbol begins with that character."""


class Judge:
    """One shard's auditor of streams. `time_ms` is the newest tick's; `counts` is for the summary."""

    streams: ClassVar[tuple[str, ...]] = ()
    """The streams that it reads, by name."""
    counted: ClassVar[tuple[str, ...]] = ()
    """What the summary says even if it is 0, beside what every judge counts."""

    def __init__(self, settings: Settings) -> None:
        config = settings.aggregator
        self.intervals = ordered(config.intervals)
        self.window_ms = config.window_minutes * MINUTE_MS
        due_ms = max(config.grace_ms, config.grace_without_watermark_ms) + settings.audit.owed_ms
        self.roster = Roster(self.intervals, Terms(due_ms, self.window_ms))
        self.due_ms = due_ms
        self.time_ms = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(("gaps", "findings", "lost entries", *self.counted), 0))
        self.found: list[Finding] = []
        self._moment: list[Finding] = []
        self._shelves: dict[str, Shelf] = {}
        self._continuity = {name: Continuity() for name in self.streams}
        self._expired_ms = 0
        self._lost = False

    def take(self, stream: str, entry_id: str, raw: RawFields) -> None:
        """Take in the next entry of one of the streams. What it shows goes to `found` at the next tick."""
        self.counts[f"{stream} entries"] += 1
        try:
            raw = upgraded(raw)
            jump = self._continuity[stream].note(entry_id, raw)
            if jump is not None:
                self.counts["lost entries"] += jump.count
                self.say(
                    FindingKind.DATA_LOSS,
                    "",
                    f"{stream}/{jump.first}-{jump.last}",
                    f"{jump.count} entries of {stream} were gone before this auditor was given them: seq {jump.first} "
                    f"to {jump.last}, behind {jump.after or 'the beginning'} and before {jump.before}",
                )
                self._lost = True
                self.lose(stream)
            self.roster.watched = self.watched
            self.take_entry(stream, entry_id, raw)
        except ContractError as bad:
            self.say(
                FindingKind.MALFORMED,
                "",
                f"{stream}/{entry_id}",
                f"the entry {entry_id} of {stream} cannot be read: {bad}",
            )
        if self.time_ms == 0:
            self._speak()

    def take_entry(self, stream: str, entry_id: str, raw: RawFields) -> None:
        """What a judge does with an entry. ContractError if it cannot be one."""
        raise NotImplementedError

    def lose(self, stream: str) -> None:
        """Entries of a stream were lost: forget what only they could tell."""
        self.roster.lose()

    def say(
        self, kind: FindingKind, symbol: str, place: str, evidence: str, severity: Severity = Severity.ERROR
    ) -> None:
        """Something was found; it goes out at the next tick, together with what else is."""
        self._moment.append(Finding(kind, severity, symbol, place, self.time_ms, evidence, *bar_of(place)))

    def tick(self, time_ms: int) -> None:
        """The end of a moment: judge what came, and speak."""
        if time_ms < self.time_ms:
            self.say(FindingKind.TIME_BACK, "", str(time_ms), f"the tick {time_ms} follows that of {self.time_ms}")
            self._speak()
            return
        self.time_ms = time_ms
        self.judge()
        if time_ms // PAGE_MS != self._expired_ms // PAGE_MS:
            self._expired_ms = time_ms
            self._expire()
        self._speak()

    def judge(self) -> None:
        """What can be told at a tick."""
        raise NotImplementedError

    def _speak(self) -> None:
        if self._moment:
            said = joined(self._moment)
            self.found += said
            self.counts["findings"] += len(said)
            self._moment = []

    def take_found(self) -> list[Finding]:
        """The findings since the last call."""
        found, self.found = self.found, []
        return found

    def shelf(self, symbol: str) -> Shelf:
        """What is remembered of the symbol's bars."""
        held = self._shelves.get(symbol)
        if held is None:
            held = self._shelves[symbol] = Shelf()
        return held

    def kept_from(self, symbol: str) -> dict[str, int]:
        """By table of the symbol's shelf, the open time from which on nothing may be forgotten."""
        raise NotImplementedError

    def _expire(self) -> None:
        for symbol, shelf in self._shelves.items():
            shelf.expire(self.time_ms - self.window_ms - PAGE_MS, self.kept_from(symbol))

    def came_behind(self, symbol: str, interval: str, open_time: int) -> None:
        """A bar came for the first time, but behind its successors."""
        self.say(
            FindingKind.ORDER, symbol, f"{interval}/{open_time}", f"{interval} {open_time} came behind its successors"
        )

    def passed_over(self, symbol: str, interval: str, first: int, last: int) -> None:
        """Bars did not come."""
        self.counts["gaps"] += 1
        span = f"{interval} {first}" if first == last else f"{interval} from {first} to {last}"
        self.say(FindingKind.MISSING_KLINE, symbol, f"{interval}/{first}-{last}", f"{span} was passed over")

    @property
    def summary(self) -> str:
        """One line about everything so far."""
        series = sum(len(member.series) for member in self.roster.members.values())
        counted = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{len(self.roster.members)} symbols, {series} series up to {self.time_ms}: {counted or 'nothing yet'}"

    def dump(self) -> tuple[dict[str, str], list[str]]:
        """Fields that changed since the last call, and fields that are gone: together what `restore` needs."""
        put, gone = {SELF: json.dumps(self.to_json())}, []
        for name in self.roster.changed:
            put[name] = (
                json.dumps(self.roster.members[name].to_json(), separators=(",", ":"))
                if (name in self.roster.members)
                else ""
            )
        self.roster.changed = set()
        for name, shelf in self._shelves.items():
            if not shelf.dirty:
                continue
            for number, text in shelf.take_dirty().items():
                field = f"{name}@{number}"
                if text:
                    put[field] = text
                else:
                    gone.append(field)
        return {name: text for name, text in put.items() if text}, gone

    def to_json(self) -> dict[str, Any]:
        """What is remembered of no single symbol."""
        return {
            "time": self.time_ms,
            "lost": self._lost,
            "roster": self.roster.to_json(),
            "counts": dict(self.counts),
            "continuity": {name: each.to_list() for name, each in self._continuity.items()},
        }

    def restore(self, saved: dict[str, str]) -> None:
        """Everything as `dump` wrote it."""
        if SELF in saved:
            self.of_json(_upgraded(json.loads(saved[SELF])))
        for name, text in saved.items():
            symbol, is_page, page = name.rpartition("@")
            if is_page:
                self.shelf(symbol).restore(int(page), text)
            elif name != SELF:
                self.roster.members[name] = Member.of_json(json.loads(text))

    def of_json(self, saved: dict[str, Any]) -> None:
        """As it was when `to_json` was called."""
        self.time_ms, self._lost, self.counts = saved["time"], saved["lost"], Counter(saved["counts"])
        self.roster.of_json(saved["roster"])
        for name, each in saved["continuity"].items():
            self._continuity[name].restore(each)

    @property
    def watched(self) -> bool:
        """Whether every stream was read from its first entry on, and nothing of it was lost."""
        return not self._lost and all(each.since_start or not each.number for each in self._continuity.values())


def _upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """What a judge remembered under version 1 of the contract, with the names of this version."""
    names = {"hole_opened": EVENT_GAP_OPENED, "hole_closed": EVENT_GAP_CLOSED}
    counts = {names.get(name, name): count for name, count in saved["counts"].items()}
    return {**saved, "counts": counts, "gaps": saved.get("gaps", saved.get("holes", {}))}

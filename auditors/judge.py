"""What the auditors of streams share: entries in, findings and the state for a restart out. Pure.

Entries come in the order of the log: of a tick first the klines, then the events, the tick itself last. A judge reports
at ticks, because the entries of one tick can only be judged together.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, ClassVar, Final

from auditors.entry_sequence import EntrySequence
from auditors.expected_bars import Deadlines, ExpectedBars, ExpectedSymbol
from auditors.findings import Finding, bar_of, joined
from auditors.hour_pages import PAGE_MS, HourPages
from auditors.missing_bars import AWAITED, MissingFindings, bars_of
from klagg.errors import ContractError
from klagg.intervals import MINUTE_MS, ordered
from klagg.settings import Settings
from klagg.wire.entries import EVENT_GAP_CLOSED, EVENT_GAP_OPENED
from klagg.wire.fields import RawFields, upgraded
from klagg.wire.findings import FindingKind, Severity

SELF: Final = "#judge"
"""The field of the state that belongs to no single symbol; no symbol begins with that character."""


class Judge:
    """One shard's auditor of streams. `time_ms` is the newest tick's; `counts` is for the summary."""

    streams: ClassVar[tuple[str, ...]] = ()
    """The names of the streams that it reads."""
    counted: ClassVar[tuple[str, ...]] = ()
    """Counts that the summary shows even if they are 0, beside those of every judge."""

    def __init__(self, settings: Settings) -> None:
        config = settings.aggregator
        self.intervals = ordered(config.intervals)
        self.window_ms = config.window_minutes * MINUTE_MS
        due_ms = max(config.grace_ms, config.grace_without_watermark_ms) + settings.audit.owed_ms
        self.expected = ExpectedBars(self.intervals, Deadlines(due_ms, self.window_ms))
        self.due_ms = due_ms
        self.time_ms = 0
        self.counts: Counter[str] = Counter(dict.fromkeys(("gaps", "findings", "lost entries", *self.counted), 0))
        self.findings: list[Finding] = []
        self._moment: list[Finding] = []
        self._closed: list[Finding] = []
        self.missing = MissingFindings()
        self._pages: dict[str, HourPages] = {}
        self._sequences = {name: EntrySequence() for name in self.streams}
        self._expired_ms = 0
        self._lost = False

    def receive(self, stream: str, entry_id: str, raw: RawFields) -> None:
        """Take in the next entry of one of the streams. What is wrong goes to `findings` at the next tick."""
        self.counts[f"{stream} entries"] += 1
        try:
            raw = upgraded(raw)
            lost = self._sequences[stream].note(entry_id, raw)
            if lost is not None:
                self.counts["lost entries"] += lost.count
                self.report(
                    FindingKind.DATA_LOSS,
                    "",
                    f"{stream}/{lost.first}-{lost.last}",
                    f"{lost.count} entries of {stream} were gone before this auditor was given them: seq {lost.first} "
                    f"to {lost.last}, behind {lost.after or 'the beginning'} and before {lost.before}",
                )
                self._lost = True
                self.forget_lost(stream)
            self.expected.watched = self.watched
            self.receive_entry(stream, entry_id, raw)
        except ContractError as bad:
            self.report(
                FindingKind.MALFORMED,
                "",
                f"{stream}/{entry_id}",
                f"the entry {entry_id} of {stream} cannot be read: {bad}",
            )
        if self.time_ms == 0:
            self._publish_moment()

    def receive_entry(self, stream: str, entry_id: str, raw: RawFields) -> None:
        """What a judge does with an entry. ContractError if the entry breaks the contract."""
        raise NotImplementedError

    def forget_lost(self, stream: str) -> None:
        """Entries of a stream were lost: forget what depended on them."""
        self.expected.forget_progress()

    def report(
        self, kind: FindingKind, symbol: str, place: str, evidence: str, severity: Severity = Severity.ERROR
    ) -> None:
        """Note a finding; it goes out at the next tick, together with the others of that tick."""
        self._moment.append(Finding(kind, severity, symbol, place, self.time_ms, evidence, *bar_of(place)))

    def tick(self, time_ms: int) -> None:
        """All entries up to `time_ms` (exchange ms) have come: judge them and publish the findings."""
        if time_ms < self.time_ms:
            self.report(FindingKind.TIME_BACK, "", str(time_ms), f"the tick {time_ms} follows that of {self.time_ms}")
            self._publish_moment()
            return
        self.time_ms = time_ms
        self.judge()
        if time_ms // PAGE_MS != self._expired_ms // PAGE_MS:
            self._expired_ms = time_ms
            self._expire()
        self._publish_moment()

    def judge(self) -> None:
        """Judge what came since the last tick."""
        raise NotImplementedError

    def _publish_moment(self) -> None:
        if self._moment:
            combined = joined(self._moment)
            self.findings += combined
            self.counts["findings"] += len(combined)
            self._follow(combined)
            self._moment = []
        self.findings += self._closed
        self._closed = []

    def _follow(self, combined: list[Finding]) -> None:
        """Note which bars the published findings wait for; one finding about many symbols waits for all of theirs."""
        for finding in combined:
            if finding.kind in AWAITED and finding.interval in self.expected.intervals:
                interval = self.expected.intervals[finding.interval]
                names = [
                    each.symbol for each in self._moment if (each.kind, each.place) == (finding.kind, finding.place)
                ]
                symbols = [finding.symbol] if finding.symbol else names
                opens = bars_of(finding, interval)
                self.missing.open(finding, ((name, interval.name, opening) for name in symbols for opening in opens))

    def came(self, symbol: str, interval: str, open_time: int) -> None:
        """A bar came, whatever its version: findings that waited for it alone are closed."""
        self._closed += self.missing.came((symbol, interval, open_time), self.time_ms)

    def drain_findings(self) -> list[Finding]:
        """Remove and return the findings since the last call."""
        found, self.findings = self.findings, []
        return found

    def pages(self, symbol: str) -> HourPages:
        """The pages with the symbol's bars."""
        held = self._pages.get(symbol)
        if held is None:
            held = self._pages[symbol] = HourPages()
        return held

    def kept_from(self, symbol: str) -> dict[str, int]:
        """By table of the symbol's pages, the open time (exchange ms) from which on no bar may be forgotten."""
        raise NotImplementedError

    def _expire(self) -> None:
        for symbol, pages in self._pages.items():
            pages.expire(self.time_ms - self.window_ms - PAGE_MS, self.kept_from(symbol))

    def came_behind(self, symbol: str, interval: str, open_time: int) -> None:
        """Report a bar whose first version came after a later bar."""
        self.report(
            FindingKind.ORDER, symbol, f"{interval}/{open_time}", f"{interval} {open_time} came behind its successors"
        )

    def passed_over(self, symbol: str, interval: str, first: int, last: int) -> None:
        """Report bars that did not come; `first` and `last` are their open times (exchange ms)."""
        self.counts["gaps"] += 1
        span = f"{interval} {first}" if first == last else f"{interval} from {first} to {last}"
        self.report(FindingKind.MISSING_KLINE, symbol, f"{interval}/{first}-{last}", f"{span} was passed over")

    @property
    def summary(self) -> str:
        """The counts so far in one line."""
        series = sum(len(member.series) for member in self.expected.symbols.values())
        counted = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))
        return f"{len(self.expected.symbols)} symbols, {series} series up to {self.time_ms}: {counted or 'nothing yet'}"

    def dump(self) -> tuple[dict[str, str], list[str]]:
        """Fields that changed since the last call, and fields that are gone: together the state for `restore`."""
        put, gone = {SELF: json.dumps(self.to_json())}, []
        for name in self.expected.changed:
            put[name] = (
                json.dumps(self.expected.symbols[name].to_json(), separators=(",", ":"))
                if (name in self.expected.symbols)
                else ""
            )
        self.expected.changed = set()
        for name, pages in self._pages.items():
            if not pages.dirty:
                continue
            for number, text in pages.drain_dirty().items():
                field = f"{name}@{number}"
                if text:
                    put[field] = text
                else:
                    gone.append(field)
        return {name: text for name, text in put.items() if text}, gone

    def to_json(self) -> dict[str, Any]:
        """The state that belongs to no single symbol, for JSON."""
        return {
            "time": self.time_ms,
            "lost": self._lost,
            "expected": self.expected.to_json(),
            "counts": dict(self.counts),
            "missing": self.missing.to_json(),
            "sequences": {name: each.to_list() for name, each in self._sequences.items()},
        }

    def restore(self, saved: dict[str, str]) -> None:
        """Put back the state from all fields that `dump` gave."""
        if SELF in saved:
            self.of_json(_upgraded(json.loads(saved[SELF])))
        for name, text in saved.items():
            symbol, is_page, page = name.rpartition("@")
            if is_page:
                self.pages(symbol).restore(int(page), text)
            elif name != SELF:
                self.expected.symbols[name] = ExpectedSymbol.of_json(json.loads(text))

    def of_json(self, saved: dict[str, Any]) -> None:
        """Put back the state that `to_json` gave."""
        self.time_ms, self._lost, self.counts = saved["time"], saved["lost"], Counter(saved["counts"])
        self.expected.of_json(saved["expected"])
        self.missing.of_json(saved.get("missing", []))
        for name, each in saved["sequences"].items():
            self._sequences[name].restore(each)

    @property
    def watched(self) -> bool:
        """Whether every stream was read from its first entry on, without a loss."""
        return not self._lost and all(each.since_start or not each.number for each in self._sequences.values())


_RENAMED: Final = {
    "roster": "expected",
    "continuity": "sequences",
    "untold": "awaiting_first_trade",
    "holes": "gaps",
}


def _upgraded(saved: dict[str, Any]) -> dict[str, Any]:
    """The state that a judge saved under version 1 of the contract, with the names of this version."""
    kinds = {"hole_opened": EVENT_GAP_OPENED, "hole_closed": EVENT_GAP_CLOSED}
    renamed = {_RENAMED.get(name, name): value for name, value in saved.items()}
    return renamed | {"counts": {kinds.get(name, name): count for name, count in saved["counts"].items()}}

"""The lifecycle auditor: the legal life of every bar, as a state machine over `events:{n}` alone. Pure.

    none ──first trade──► open ──close──► waiting ──confirmed──► final
      └──────close (empty)───────────────►  │  ▲        ▲          │
                                            └──┴─amended┴──────────┘

A close by a trade is proven at once (final), a close by the clock waits. An amendment adds one revision, a confirmation
adds none. A symbol begins with its genesis, ends with a delisting and may be traded again. The state before, as an
event names it, must be the state that this machine holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from auditors.bars import OWN
from auditors.expected_bars import BEHIND, PASSED, MissingBars
from auditors.findings import GAP_PLACE
from auditors.judge import Judge
from klagg.errors import ContractError
from klagg.settings import Settings
from klagg.wire.entries import (
    EVENT_CLOSE,
    EVENT_CONFIRMED,
    EVENT_DELISTED,
    EVENT_FIRST_TRADE,
    EVENT_GAP_CLOSED,
    EVENT_GAP_OPENED,
    EVENT_GENESIS,
    EVENT_LISTED,
    EVENT_TICK,
    event_rows,
)
from klagg.wire.fields import RawFields, integer_of, text_of, texts_of
from klagg.wire.findings import FindingKind

NONE, OPEN, WAITING, FINAL = "none", "open", "waiting", "final"
CLOSED: Final = (WAITING, FINAL)
TRIGGERS: Final = {"trade": FINAL, "clock": WAITING}
"""The state in which a close leaves a bar, by what triggered it."""

BarKey = tuple[str, str, int]
Row = Mapping[str, str]


class Lifecycle(Judge):
    """The judge. The table `life/<interval>` of the pages holds of each bar [state, revision, first trade seen (0 or
    1)]."""

    streams = ("events",)
    counted = ("close", "empty", "never closed")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._first_trade_within_ms = settings.aggregator.live_long_ms
        self._awaiting_first_trade: dict[BarKey, int] = {}
        """Bars that closed with trades before their first-trade event, and until when (exchange ms) that event may
        come."""
        self._gaps: dict[str, set[tuple[int, int]]] = {}

    def receive_entry(self, stream: str, entry_id: str, raw: RawFields) -> None:
        """The events of one kind of one tick."""
        fields = texts_of(raw)
        kind, rows = text_of(raw, "kind"), event_rows(fields)
        if kind == EVENT_TICK:
            self.tick(integer_of(raw, "time"))
            return
        self.counts[kind] += len(rows)
        for row in rows:
            try:
                self._event(kind, row)
            except ValueError as bad:
                raise ContractError(f"a {kind} event holds what is no number: {bad}") from None

    def _event(self, kind: str, row: Row) -> None:
        if kind == EVENT_GENESIS:
            self._genesis(row)
        elif kind in (EVENT_LISTED, EVENT_DELISTED):
            self.expected.apply_event(kind, dict(row))
        elif kind in (EVENT_GAP_OPENED, EVENT_GAP_CLOSED):
            self._gap(kind, row)
        else:
            self._life(kind, row)

    def _genesis(self, row: Row) -> None:
        name, generation = row["symbol"], int(row["generation"])
        member = self.expected.symbols.get(name)
        again = member is not None and member.genesis_ms >= 0 and generation <= member.generation and generation > 0
        if again and member is not None and member.ended_ms < 0:
            self._illegal(
                name, f"genesis/{generation}", "genesis", "begun", "begun", f"generation {generation} begins again"
            )
        self._gaps.pop(name, None)  # gaps of the generation before do not count any more
        self.expected.apply_event(EVENT_GENESIS, dict(row))

    def _gap(self, kind: str, row: Row) -> None:
        name, span = row["symbol"], (int(row["from_id"]), int(row["to_id"]))
        held = self._gaps.setdefault(name, set())
        place = f"{GAP_PLACE}{span[0]}-{span[1]}"
        if kind == EVENT_GAP_OPENED:
            if span in held or span[0] > span[1]:
                self._illegal(name, place, kind, "opened", "opened", f"the gap from {span[0]} to {span[1]}")
            held.add(span)
        elif span in held:
            held.discard(span)
        elif self.watched:
            self._illegal(name, place, kind, NONE, "closed", f"the gap from {span[0]} to {span[1]} was never opened")

    def _life(self, kind: str, row: Row) -> None:
        """A step in the life of a bar."""
        name, interval_name, opening = row["symbol"], row["interval"], int(row["open_time"])
        interval = self.expected.intervals.get(interval_name)
        place = f"{kind}/{interval_name}/{opening}"
        if interval is None or interval.open_time(opening) != opening:
            self._illegal(name, place, kind, NONE, NONE, f"{interval_name} has no bar that opens at {opening}")
            return
        key = name, interval_name, opening
        held = self.pages(name).get(f"life/{interval_name}", opening)
        if kind != EVENT_FIRST_TRADE:
            self.came(*key)
        if kind == EVENT_FIRST_TRADE:
            self._first_trade(key, held)
        elif kind == EVENT_CLOSE:
            self._close(key, held, row)
        elif kind == EVENT_CONFIRMED:
            self._confirmed(key, held, row)
        else:
            self._amended(key, held, row)

    def _put(self, key: BarKey, state: str, revision: int, first_seen: int) -> None:
        self.pages(key[0]).put(f"life/{key[1]}", key[2], [state, revision, first_seen])

    def _first_trade(self, key: BarKey, held: list[Any] | None) -> None:
        name, interval_name, opening = key
        if self._awaiting_first_trade.pop(key, None) is not None and held is not None:
            self._put(key, held[0], held[1], 1)
        elif held is None:
            member = self.expected.symbols.get(name)
            if member is None and self.watched:
                place = f"{EVENT_FIRST_TRADE}/{interval_name}/{opening}"
                self._illegal(name, place, EVENT_FIRST_TRADE, NONE, OPEN, "the symbol has had no genesis")
            self._put(key, OPEN, 0, 1)
        elif not self._unknown(key):
            why = "a second first trade" if held[2] else "a first trade behind the close"
            self._illegal(
                name,
                f"{EVENT_FIRST_TRADE}/{interval_name}/{opening}",
                EVENT_FIRST_TRADE,
                held[0],
                OPEN,
                f"{interval_name} {opening}: {why}",
            )

    def _unknown(self, key: BarKey) -> bool:
        """Whether events of the bar may have come before this auditor began to read."""
        member = self.expected.symbols.get(key[0])
        return not self.watched if member is None else member.adopted

    def _close(self, key: BarKey, held: list[Any] | None, row: Row) -> None:
        name, interval_name, opening = key
        state, _, first_seen = held or [NONE, 0, 0]
        empty, after, place = row["empty"] == "1", row["after"], f"close/{interval_name}/{opening}"
        what = f"{interval_name} {opening}"
        if state in CLOSED:
            self._illegal(name, place, "close", state, after, f"{what} is closed already")
            return
        if int(row["revision"]) != 1:
            self._illegal(name, place, "close", state, after, f"{what} closes with revision {row['revision']}")
        if TRIGGERS.get(row["trigger"]) != after:
            self.report(FindingKind.TRIGGER, name, place, f"{what} is closed by {row['trigger']!r} and {after!r} then")
        if row["before"] != (NONE if empty else OPEN):
            self._illegal(
                name, place, "close", row["before"], after, f"{what} was not that, its empty is {row['empty']}"
            )
        if empty and first_seen:
            self.report(
                FindingKind.GAP_FILL, name, place, f"{what} is said to be empty, but its first trade was published"
            )
        elif not empty and not first_seen and row["source"] == OWN and not self._joined_in(key):
            self._awaiting_first_trade[key] = self.time_ms + self._first_trade_within_ms
        if not self.expected.observe(name, interval_name, opening):
            self.came_behind(name, interval_name, opening)
        self.counts["empty"] += empty
        self.counts[f"closed by {row['trigger']}"] += 1
        self._put(key, after if after in CLOSED else WAITING, max(1, int(row["revision"])), first_seen)

    def _joined_in(self, key: BarKey) -> bool:
        """Whether the bar was open when this auditor began to read, so that its first-trade event had come before."""
        return not self.watched and self._unknown(key) and key[2] <= self._joined_ms

    def _confirmed(self, key: BarKey, held: list[Any] | None, row: Row) -> None:
        name, interval_name, opening = key
        what, revision = f"{interval_name} {opening}", int(row["revision"])
        if held is None and self._unknown(key):
            self.expected.observe(*key)
            self._put(key, FINAL, revision, 1)
            return
        state, known, first_seen = held or [NONE, 0, 0]
        legal = state == row["before"] == WAITING and row["after"] == FINAL and revision == known
        if not legal:
            self._illegal(
                name,
                f"confirmed/{what}/{revision}",
                "confirmed",
                f"{state} ({row['before']})",
                row["after"],
                f"{what}, revision {revision} after {known}",
            )
        if state in CLOSED:
            self._put(key, FINAL, revision, first_seen)

    def _amended(self, key: BarKey, held: list[Any] | None, row: Row) -> None:
        name, interval_name, opening = key
        what, revision = f"{interval_name} {opening}", int(row["revision"])
        after = row["after"] if row["after"] in CLOSED else WAITING
        if held is None and self._unknown(key):
            self.expected.observe(*key)
            self._put(key, after, revision, 1)
            return
        state, known, first_seen = held or [NONE, 0, 0]
        legal = state in CLOSED and row["before"] == state and row["after"] in CLOSED and revision == known + 1
        if not legal:
            self._illegal(
                name,
                f"amended/{what}/{revision}",
                "amended",
                f"{state} ({row['before']})",
                row["after"],
                f"{what}, revision {revision} after {known}",
            )
        if state in CLOSED:
            self._put(key, after, revision, first_seen)

    def _illegal(self, name: str, place: str, event: str, before: str, after: str, what: str) -> None:
        """Report an illegal step: the event, the state before it and the state after it."""
        self.report(FindingKind.ILLEGAL, name, place, f"{event}, before {before}, after {after}: {what}")

    @property
    def _joined_ms(self) -> int:
        return self._first_tick_ms or self.time_ms or (1 << 62)

    _first_tick_ms = 0

    def judge(self) -> None:
        """Report first-trade events that did not come in time, and bars that are overdue."""
        self._first_tick_ms = self._first_tick_ms or self.time_ms
        for key in [key for key, until_ms in self._awaiting_first_trade.items() if self.time_ms >= until_ms]:
            del self._awaiting_first_trade[key]
            why = f"{key[1]} {key[2]} was closed with trades, before open, and its first trade was never published"
            self.report(FindingKind.NO_FIRST_TRADE, key[0], f"{key[1]}/{key[2]}", why)
        for missing in self.expected.tick(self.time_ms):
            self._report_missing(missing)

    def _report_missing(self, missing: MissingBars) -> None:
        name, interval_name = missing.symbol, missing.interval
        table, interval = f"life/{interval_name}", self.expected.intervals[interval_name]
        if missing.reason == PASSED:
            self.passed_over(name, interval_name, missing.first, missing.last)
        elif missing.reason == BEHIND:
            for bucket in range(interval.bucket_of(missing.first), interval.bucket_of(missing.last) + 1):
                held = self.pages(name).get(table, opening := interval.open_of(bucket))
                if held is None or held[0] not in CLOSED:
                    self.passed_over(name, interval_name, opening, opening)
        else:
            held = self.pages(name).get(table, missing.first)
            state = held[0] if held else NONE
            self.counts["never closed"] += 1
            self.report(
                FindingKind.NEVER_CLOSED,
                name,
                f"{interval_name}/{missing.first}",
                f"{interval_name} {missing.first} is over and still {state} at {self.time_ms}",
            )

    def forget_lost(self, stream: str) -> None:
        """The lost events may have been of any bar: forget the states of all."""
        super().forget_lost(stream)
        for pages in self._pages.values():
            pages.drop([f"life/{each.name}" for each in self.intervals])
        self._awaiting_first_trade, self._gaps = {}, {}
        self._first_tick_ms = 0

    def kept_from(self, symbol: str) -> dict[str, int]:
        """Bars that are not closed yet are kept."""
        member = self.expected.symbols.get(symbol)
        return {f"life/{name}": each.expected for name, each in member.series.items()} if member else {}

    def to_json(self) -> dict[str, Any]:
        """The state that belongs to no single symbol, for JSON; complete only right after a tick."""
        return super().to_json() | {
            "awaiting_first_trade": [[*key, until_ms] for key, until_ms in self._awaiting_first_trade.items()],
            "gaps": {name: sorted(held) for name, held in self._gaps.items() if held},
            "first_tick": self._first_tick_ms,
        }

    def of_json(self, saved: dict[str, Any]) -> None:
        """Put back the state that `to_json` gave."""
        super().of_json(saved)
        self._awaiting_first_trade = {
            (name, interval, opening): until_ms for name, interval, opening, until_ms in saved["awaiting_first_trade"]
        }
        self._gaps = {name: {(low, high) for low, high in held} for name, held in saved["gaps"].items()}
        self._first_tick_ms = saved["first_tick"]

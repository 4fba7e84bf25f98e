"""Standing alarms of a process: the catalogue of their kinds, and which of them stand now.

An alarm stands from when its cause begins until the cause is over; whoever sees the one also sees the other. Standing
alarms are part of the heartbeat, so `klagg status`, `klagg up`, the gateway and Prometheus tell of the same ones. A
finding (`klagg.wire.findings`) is about data that were written; an alarm is about what a process does now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from klagg.clock import local_ms

SUBJECTS_MAX: Final = 100
"""So many subjects (symbols, connections, streams) of one kind stand at once; further ones are not kept."""

MOMENT_MS: Final = 60_000
"""How long (local ms) an alarm about a moment stands, such as a clock that was set."""


class AlarmKind(StrEnum):
    """Every kind of alarm. The docstring of each says what is wrong while it stands."""

    # The market as a whole.
    NO_MARKET_DATA = "no_market_data"
    """The gateway saw no trade of any symbol for `ingest.silent_s`: whatever it serves is old."""
    LINE_SILENT = "line_silent"
    """A line brought no trade of any symbol for `ingest.silent_s`, whatever the cause."""

    # A line's connections.
    STALLED = "stalled"
    """A connection gives no sign of life, not even an answer to a ping (`ingest.stalled_ms`)."""
    SILENT = "silent"
    """A connection is acknowledged and answers pings, but brings none of the trades that take place."""
    DEAD_SYMBOL = "dead_symbol"
    """One symbol's trades do not come, while others on its connection do (`ingest.dead_symbol_ms`)."""
    SILENT_CONTROL = "silent_control"
    """Trades come, but no tickers: the control connection is silent, and no symbol can be judged."""
    STALE_ROUTE = "stale_route"
    """Everything is connected and acknowledged, and nothing comes at all: the exchange may have moved its streams, as
    it did when it routed them by kind of data (Binance USDⓈ-M docs, "Important WebSocket Change Notice")."""
    HAND_OVER = "hand_over"
    """A connection should be replaced, but the one to replace it brings nothing."""
    NOT_CARRIED = "not_carried"
    """A symbol that fits the choice is traded or was announced, and exchangeInfo does not confirm it."""

    # What the exchange lists.
    HALTED = "halted"
    """A chosen symbol is listed and neither trades nor is over: a halt, or a status that nobody has seen."""
    WAITING = "waiting"
    """A chosen symbol is not listed, or nothing that is chosen trades: a process waits for it."""

    NEW_WORD = "new_word"
    """The exchange uses a word that this version of klagg does not know (a contract type, an event, `st`, `X`): what it
    is about goes on as it was."""

    # The way into the feed.
    FEED_FULL = "feed_full"
    """A feed is at its cap (`streams.feed_percent`): trades are held back until the aggregator has caught up."""
    BUFFER_FULL = "buffer_full"
    """A line's buffer is full (`ingest.buffer_mb_max`, `ingest.buffer_s_max`) and drops its oldest trades."""

    # Time.
    CLOCK_LOST = "clock_lost"
    """The exchange's clock could not be read for `clock.lost_s`: time goes on by the last offset."""
    CLOCK_JUMPED = "clock_jumped"
    """The exchange's clock jumped against this machine's; the alarm stands until a later reading agrees."""
    TIME_WENT_BACK = "time_went_back"
    """The exchange's time went back: ticks stand still, and nothing is closed by the clock until it has caught up."""
    WALL_CLOCK_SET = "wall_clock_set"
    """This machine's clock was set while klagg ran; the alarm stands for a minute."""

    # Processes.
    NO_OUTPUT = "no_output"
    """A process takes its input and makes nothing of it: it rejects everything, or its next step is stuck."""
    LIVE_STALLED = "live_stalled"
    """The gateway's live state does not move on (`gateway.pull_timeout_ms`): the aggregator or Redis stands still."""
    PROCESS_SILENT = "process_silent"
    """A process lost its heartbeat (`service.silent_s`) and did not say that it ends: it is dead or frozen."""


@dataclass(slots=True)
class _Alarm:
    reason: str
    since_ms: int
    until_ms: float


@dataclass(frozen=True, slots=True)
class StandingAlarm:
    """One kind that stands: the reason of its oldest subject, since when (local ms), and how many subjects there
    are."""

    kind: AlarmKind
    reason: str
    since_ms: int
    subjects: int

    @property
    def sentence(self) -> str:
        """The reason, and how many more there are of its kind."""
        return self.reason if self.subjects == 1 else f"{self.reason} (and {self.subjects - 1} more of this kind)"

    def to_json(self) -> dict[str, Any]:
        """As the heartbeat has it."""
        return {"kind": str(self.kind), "reason": self.sentence, "since_ms": self.since_ms, "subjects": self.subjects}


class Alarms:
    """The alarms of one process. An alarm has a kind and, where a kind can stand several times, a subject (`of`).

    Raising one logs it once, as an error that begins with ALARM; clearing it logs once. `now_ms` is local wall clock.
    """

    def __init__(self, now_ms: Callable[[], float] = local_ms, log: logging.Logger | None = None) -> None:
        self._now_ms, self._log = now_ms, log or logging.getLogger("klagg.alarms")
        self._standing: dict[AlarmKind, dict[str, _Alarm]] = {}
        self.raised: dict[AlarmKind, int] = dict.fromkeys(AlarmKind, 0)
        """How often each kind was raised since the start."""

    def raise_(self, kind: AlarmKind, reason: str, of: str = "", *, lasting_ms: float = 0.0) -> bool:
        """Let an alarm stand; whether it did not stand before. One that stands gets the new reason without a log line.

        `reason` is one sentence that names the setting which would change the matter, if there is one. With
        `lasting_ms` (local) the alarm is over by itself after that time.
        """
        now_ms = self._now_ms()
        until_ms = now_ms + lasting_ms if lasting_ms else float("inf")
        subjects = self._standing.setdefault(kind, {})
        if known := subjects.get(of):
            known.reason, known.until_ms = reason, until_ms
            return False
        if len(subjects) >= SUBJECTS_MAX:
            return False
        subjects[of] = _Alarm(reason, int(now_ms), until_ms)
        self.raised[kind] += 1
        self._log.error("ALARM: %s", reason)
        return True

    def clear(self, kind: AlarmKind, of: str = "") -> bool:
        """End an alarm; whether it stood."""
        over = self._standing.get(kind, {}).pop(of, None)
        if over is None:
            return False
        stood_s = max(0.0, self._now_ms() - over.since_ms) / 1000
        self._log.warning("the alarm %s is over after %.0f s: %s", kind, stood_s, over.reason)
        return True

    def keep(self, kind: AlarmKind, subjects: Collection[str]) -> None:
        """End the alarms of this kind whose subject is none of `subjects`."""
        for of in [each for each in self._standing.get(kind, {}) if each not in subjects]:
            self.clear(kind, of)

    def expire(self) -> None:
        """End the alarms whose time is over."""
        now_ms = self._now_ms()
        for kind, subjects in self._standing.items():
            for of in [each for each, alarm in subjects.items() if alarm.until_ms <= now_ms]:
                self.clear(kind, of)

    @property
    def standing(self) -> list[StandingAlarm]:
        """The kinds that stand, in the order of the catalogue. Safe to read from another thread."""
        found = []
        for kind in AlarmKind:
            alarms = list(self._standing.get(kind, {}).values())
            if alarms:
                oldest = min(alarms, key=lambda each: each.since_ms)
                found.append(StandingAlarm(kind, oldest.reason, oldest.since_ms, len(alarms)))
        return found

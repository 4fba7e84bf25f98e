"""What a process counts, and the pulse by which it shows that it lives: pure, `now` is an argument.

A pulse yields the heartbeat (JSON, for `klagg status`) and the statistics line. Alarm of DESIGN §2: messages that bring
no trades for a whole statistics period; a parser that rejects everything once stayed unnoticed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import ujson

from klagg import settings


@dataclass(slots=True)
class Stats:
    """Counters (only ever grow) and gauges (latest value) of one process, by name."""

    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, float | str] = field(default_factory=dict)

    def add(self, name: str, amount: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + amount

    def show(self, name: str, value: float | str) -> None:
        self.gauges[name] = value


@dataclass(frozen=True, slots=True)
class Alarm:
    """`inputs` grew over a whole period while `outputs` stood still."""

    inputs: str
    outputs: str

    def sentence(self, inputs: int, period_s: float) -> str:
        return f"ALARM: {inputs} {self.inputs} in {period_s:.0f} s and no {self.outputs}"


@dataclass(slots=True)
class Beat:
    """What is due now, each empty if nothing: `heartbeat` is JSON, `line` the statistics, `alarm` a sentence."""

    heartbeat: str = ""
    line: str = ""
    alarm: str = ""


class Pulse:
    """Heartbeats and statistics lines of one process, when they are due."""

    def __init__(
        self, process: str, stats: Stats, config: settings.Service, now_ms: float, alarm: Alarm | None = None
    ) -> None:
        self._process, self._stats, self._config, self._alarm = process, stats, config, alarm
        self._started_ms = now_ms
        self._beat_ms = 0.0
        self._line_ms = now_ms
        self._line_counters: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self._alarmed = ""
        self.state = "starting"

    def due(self, now_ms: float) -> Beat:
        """What is due at `now_ms` (local wall clock)."""
        beat = Beat()
        period_s = (now_ms - self._line_ms) / 1000
        if period_s >= self._config.statistics_s:
            beat.line, beat.alarm = self._statistics(period_s)
            self._line_ms = now_ms
        if now_ms - self._beat_ms >= self._config.heartbeat_ms or beat.line:
            beat.heartbeat = self._heartbeat(now_ms)
            self._beat_ms = now_ms
        return beat

    def _statistics(self, period_s: float) -> tuple[str, str]:
        counters = dict(self._stats.counters)
        grown = {name: value - self._line_counters.get(name, 0) for name, value in counters.items()}
        self._rates = {name: value / period_s for name, value in grown.items()}
        self._line_counters = counters
        parts = [f"{name} {counters[name]} (+{grown[name]})" for name in sorted(counters)]
        parts += [f"{name} {value}" for name, value in sorted(self._stats.gauges.items())]
        alarm = self._alarm
        self._alarmed = ""
        if alarm and grown.get(alarm.inputs, 0) and not grown.get(alarm.outputs, 0):
            self._alarmed = alarm.sentence(grown[alarm.inputs], period_s)
        return "statistics: " + (", ".join(parts) or "nothing yet"), self._alarmed

    def _heartbeat(self, now_ms: float) -> str:
        return ujson.dumps(
            {
                "process": self._process,
                "pid": os.getpid(),
                "state": self.state,
                "alarm": self._alarmed,
                "started_ms": int(self._started_ms),
                "time_ms": int(now_ms),
                "counters": self._stats.counters,
                "rates": {name: round(value, 1) for name, value in self._rates.items()},
                "gauges": self._stats.gauges,
            },
            ensure_ascii=False,
        )

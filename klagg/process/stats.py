"""What a process counts, and the pulse by which it shows that it lives: pure, `now` is an argument.

A pulse yields the heartbeat (JSON, for `klagg status`) and the statistics line. An alarm (NO_OUTPUT) stands when
messages bring no trades for a whole statistics period: a parser that rejects everything must not stay unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import ujson

from klagg import settings
from klagg.process.alarms import AlarmKind, Alarms
from klagg.process.histograms import BOUNDS_MS, Histogram

Labels = tuple[tuple[str, str], ...]
"""Label names and values, sorted by name: one labelled series of a counter or gauge."""

SERIES_MAX: Final = 4096
"""How many labelled counters, and as many labelled gauges, a process keeps; further ones only count in total."""


@dataclass(slots=True)
class Stats:
    """Counters (only ever grow) and gauges (latest value) of one process, by name, and its standing alarms.

    A labelled counter (`add("rejected", kind="price")`) counts in its series and in the flat total that statistics line
    and heartbeat show. A labelled gauge (`show("silence_ms", 12, connection="A1")`) is in its series alone. The series
    are for `klagg.process.metrics`. Histograms are kept by name and by the value of their one label
    (`keep("close_to_proof_ms", "interval", {"1m": …})`); the heartbeat has their counts.
    """

    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, float | str] = field(default_factory=dict)
    labelled_counters: dict[tuple[str, Labels], int] = field(default_factory=dict)
    labelled_gauges: dict[tuple[str, Labels], float] = field(default_factory=dict)
    histograms: dict[str, tuple[str, Mapping[str, Histogram]]] = field(default_factory=dict)
    series_refused: int = 0
    """How often a labelled value came for which there was no room for a series."""
    alarms: Alarms = field(default_factory=Alarms)

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """Let counter `name` grow by `amount`; with labels, that series of it too."""
        self.counters[name] = self.counters.get(name, 0) + amount
        if labels:
            key = (name, tuple(sorted(labels.items())))
            if key in self.labelled_counters:
                self.labelled_counters[key] += amount
            elif len(self.labelled_counters) < SERIES_MAX:
                self.labelled_counters[key] = amount
            else:
                self.series_refused += 1

    def show(self, name: str, value: float | str, **labels: str) -> None:
        """Set gauge `name`, or with labels that series of it. ValueError for a labelled text."""
        if not labels:
            self.gauges[name] = value
            return
        if isinstance(value, str):
            raise ValueError(f"the labelled gauge {name!r} must be a number, not the text {value!r}")
        key = (name, tuple(sorted(labels.items())))
        if key in self.labelled_gauges or len(self.labelled_gauges) < SERIES_MAX:
            self.labelled_gauges[key] = value
        else:
            self.series_refused += 1

    def keep(self, name: str, label: str, series: Mapping[str, Histogram]) -> None:
        """Let histograms, by the value of their `label`, be shown under `name` (in ms); their owner counts on."""
        self.histograms[name] = label, series

    def forget(self, **labels: str) -> None:
        """Remove the labelled gauges that bear all of `labels`: what they measured is gone. Counters stay.

        ValueError without labels, which would mean every gauge.
        """
        if not labels:
            raise ValueError("name the labels of the gauges to forget")
        wanted = set(labels.items())
        for key in [each for each in self.labelled_gauges if wanted.issubset(each[1])]:
            del self.labelled_gauges[key]


@dataclass(frozen=True, slots=True)
class Flow:
    """The counters of what a process takes in and of what it makes of it. If `inputs` grow over a whole period while
    `outputs` stand still, that is an alarm."""

    inputs: str
    outputs: str

    def sentence(self, inputs: int, period_s: float) -> str:
        """The alarm for people: so many `inputs` came in `period_s` seconds."""
        return f"{inputs} {self.inputs} in {period_s:.0f} s and no {self.outputs}: the log says why"


@dataclass(slots=True)
class Beat:
    """What is due now, each empty if nothing: `heartbeat` is JSON, `line` the statistics."""

    heartbeat: str = ""
    line: str = ""


class Pulse:
    """Heartbeats and statistics lines of one process, when they are due."""

    def __init__(
        self, process: str, stats: Stats, config: settings.Service, now_ms: float, flow: Flow | None = None
    ) -> None:
        self._process, self._stats, self._config, self._flow = process, stats, config, flow
        self._started_ms = now_ms
        self._beat_ms = 0.0
        self._line_ms = now_ms
        self._line_counters: dict[str, int] = {}
        self._rates: dict[str, float] = {}
        self.state = "starting"

    def due(self, now_ms: float) -> Beat:
        """What is due at `now_ms` (local wall clock)."""
        beat = Beat()
        self._stats.alarms.expire()
        period_s = (now_ms - self._line_ms) / 1000
        if period_s >= self._config.statistics_s:
            beat.line = self._statistics(period_s)
            self._line_ms = now_ms
        if now_ms - self._beat_ms >= self._config.heartbeat_ms or beat.line:
            beat.heartbeat = self._heartbeat(now_ms)
            self._beat_ms = now_ms
        return beat

    def _statistics(self, period_s: float) -> str:
        counters = dict(self._stats.counters)
        grown = {name: value - self._line_counters.get(name, 0) for name, value in counters.items()}
        self._rates = {name: value / period_s for name, value in grown.items()}
        self._line_counters = counters
        parts = [f"{name} {counters[name]} (+{grown[name]})" for name in sorted(counters)]
        parts += [f"{name} {value}" for name, value in sorted(self._stats.gauges.items())]
        flow = self._flow
        if flow and grown.get(flow.inputs, 0) and not grown.get(flow.outputs, 0):
            self._stats.alarms.raise_(AlarmKind.NO_OUTPUT, flow.sentence(grown[flow.inputs], period_s))
        else:
            self._stats.alarms.clear(AlarmKind.NO_OUTPUT)
        return "statistics: " + (", ".join(parts) or "nothing yet")

    def _heartbeat(self, now_ms: float) -> str:
        kept = self._stats.histograms
        shown = {name: {value: each.counts for value, each in series.items()} for name, (_, series) in kept.items()}
        return ujson.dumps(
            {
                "process": self._process,
                "pid": os.getpid(),
                "state": self.state,
                "alarms": [each.to_json() for each in self._stats.alarms.standing],
                "started_ms": int(self._started_ms),
                "time_ms": int(now_ms),
                "counters": self._stats.counters,
                "rates": {name: round(value, 1) for name, value in self._rates.items()},
                "gauges": self._stats.gauges,
            }
            | ({"bounds_ms": BOUNDS_MS, "histograms": shown} if shown else {}),
            ensure_ascii=False,
        )

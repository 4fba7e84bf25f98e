"""Processes that are started again whenever they end, as supervisord does it, and killed on request."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

STEADY_S = 1.0
"""A process that ran this long had started: the next one follows at once."""
PAUSE_S = 0.25
PAUSE_S_MAX = 2.0
FAILURES_MAX = 60
"""Ends in a row without being steady in between, after which the run has failed."""
LOG_TAIL = 3_000


class ChaosFailed(Exception):
    """The run cannot go on; the message says why."""


def spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """A Python module as a process in a session of its own, its output appended to `log`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], deadline_s: float = 30.0) -> int:
    """SIGTERM, and SIGKILL if that does not help; the exit code."""
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def log_tail(log: Path) -> str:
    """The last lines of a log."""
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:]


class Kept:
    """One process that should always run."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self.kills = 0
        self.ends: Counter[int] = Counter()
        """Exit codes of ends that were not asked for."""
        self._command = command
        self._failures = 0
        self._due_s = 0.0
        self._killed = False
        self._start()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """kill -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.kills += 1
        self._killed = True

    def tend(self, now_s: float) -> None:
        """Start it again if it ended. ChaosFailed if it cannot start."""
        code = self._process.poll()
        if code is None:
            return
        if not self._due_s:
            if not self._killed:
                self.ends[code] += 1
            steady = now_s - self._started_s >= STEADY_S
            self._failures = 0 if steady or self._killed else self._failures + 1
            if self._failures > FAILURES_MAX:
                raise ChaosFailed(f"{self.name} ended {self._failures} times in a row:\n{log_tail(self.log)}")
            self._due_s = now_s + min(PAUSE_S_MAX, PAUSE_S * self._failures)
        if now_s >= self._due_s:
            self._start()

    def end(self) -> int:
        """End it in order; the exit code."""
        return end(self._process)

    def _start(self) -> None:
        self._process = spawn(self._command, self.log)
        self._started_s, self._due_s, self._killed = time.monotonic(), 0.0, False


def report(kept: Mapping[str, Kept]) -> str:
    """Who ended by itself, and how often."""
    ended = [f"{name} {sum(each.ends.values())}" for name, each in kept.items() if each.ends]
    return ", ".join(ended) or "none"

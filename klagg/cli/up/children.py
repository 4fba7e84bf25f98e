"""Child processes of `klagg up`: in sessions of their own, logged, restarted with patience, drained in order."""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import klagg
from klagg.cli.up.signals import SIGNALS
from klagg.errors import ConfigError, KlaggError
from klagg.process.freeze import ABORT_S
from klagg.process.service import Deadline

LOG_BYTES = 8 << 20
LOG_FILES = 3
LAST_LINES = 12
LATER_S = 1.0
NOT_AGAIN = 2
"""Exit code of a process that cannot use its configuration: starting it again changes nothing."""

_LOUD = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b")
_SETTING = re.compile(r"KLAGG_(\w*__\w+|SHARDS|DATA_DIR)\Z")


@dataclass(frozen=True, slots=True)
class ChildLimits:
    """How a child is logged and restarted. All times are local.

    Its log is a file of `log_bytes` and `log_files` older ones. It starts again after a pause that doubles from
    `restart_first_s` to `restart_cap_s`; after more than `deaths_max` deaths within `deaths_s` it is given up.
    """

    log_bytes: int = LOG_BYTES
    log_files: int = LOG_FILES
    deaths_max: int = 5
    deaths_s: float = 60.0
    restart_first_s: float = 0.5
    restart_cap_s: float = 8.0


DEFAULT_LIMITS: Final = ChildLimits()


class ChildFailed(KlaggError):
    """A process of klagg dies again and again."""


def environment() -> dict[str, str]:
    """What children see: the effective settings come from their file alone, and modules from where klagg itself is."""
    kept = {name: value for name, value in os.environ.items() if not _SETTING.match(name)}
    home = str(Path(klagg.__file__).resolve().parents[1])
    paths = [home, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    direct = _without_proxy(kept)
    return {**kept, **direct, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}


def _without_proxy(environment: Mapping[str, str]) -> dict[str, str]:
    """`no_proxy` with this machine added: a proxy set for the live exchange cannot reach a local one."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = ",".join([*filter(None, [given]), "127.0.0.1", "localhost"])
    return {"no_proxy": hosts, "NO_PROXY": hosts}


class Child:
    """One process that should run. `say` gets its warnings and errors, a line each."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        logs: Path,
        say: Callable[[str], None],
        limits: ChildLimits = DEFAULT_LIMITS,
    ) -> None:
        self.name = name
        self._limits = limits
        self.restarts = 0
        self.started_s = 0.0
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._command = [sys.executable, "-m", "klagg.cli.up.child", module, *arguments]
        self._say = say
        self._deaths: deque[float] = deque(maxlen=limits.deaths_max + 1)
        self._again_s = 0.0
        self._kill_s = 0.0
        """When it is killed if it has not ended yet; 0: it is not to be."""
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._log = logging.handlers.RotatingFileHandler(
            logs / f"{name}.log", maxBytes=limits.log_bytes, backupCount=limits.log_files, encoding="utf-8", delay=True
        )

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start it, in a session of its own: a terminal's Ctrl-C reaches `klagg up` alone."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        self.started_s = time.monotonic()
        self._reader = threading.Thread(target=self._read, args=(self._process,), name=self.name, daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            self.last_lines.append(line)
            self._log.emit(logging.LogRecord(self.name, logging.INFO, "", 0, line, None, None))
            if _LOUD.search(line):
                self._say(line)

    def tend(self) -> None:
        """Start it again if it died; ChildFailed if it dies too often, ConfigError if it can never run."""
        now = time.monotonic()
        if self._kill_s and now >= self._kill_s:
            self._kill_s = 0.0
            self.kill()
        if self._process is None or self._process.poll() is None:
            return
        self._kill_s = 0.0
        if not self._again_s:
            self._finish_reading()
            code = self._process.returncode
            self._deaths.append(now)
            limits = self._limits
            recent = [each for each in self._deaths if now - each < limits.deaths_s]
            if code == NOT_AGAIN:
                raise ConfigError(f"{self.name} cannot run: {self.last_words()}")
            if len(recent) > limits.deaths_max:
                said = "\n  ".join(self.last_lines or ["nothing"])
                died = f"{self.name} died {len(recent)} times within {limits.deaths_s:.0f} s"
                raise ChildFailed(f"{died}; it said:\n  {said}")
            pause_s = min(limits.restart_cap_s, limits.restart_first_s * 2.0 ** (len(recent) - 1))
            self._again_s = now + pause_s
            self._say(f"{self.name} ended with exit code {code}; it starts again in {pause_s:.1f} s")
        if now >= self._again_s:
            self._again_s = 0.0
            self.restarts += 1
            self.start()

    def last_words(self) -> str:
        """The last warning or error it said, else its last line."""
        loud = [line for line in self.last_lines if _LOUD.search(line)]
        return (loud or list(self.last_lines) or ["it said nothing"])[-1]

    def ask_to_end(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end_frozen(self) -> None:
        """End it although it cannot end itself: first with a word, SIGABRT, at which it writes its stacks into its log.
        `tend` starts it again."""
        if self._process and self._process.poll() is None and not self._kill_s:
            self._say(f"{self.name} gives no sign of life and is frozen (service.freeze_s): it is ended")
            self._process.send_signal(signal.SIGABRT)
            self._kill_s = time.monotonic() + ABORT_S

    def kill(self) -> None:
        """End it hard, whatever it does."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within this time."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._finish_reading()
        return True

    def _finish_reading(self) -> None:
        """Its last lines are read, unless somebody else still holds its output."""
        if self._reader:
            self._reader.join(2.0)

    def close(self) -> None:
        """Let go of its pipes and its log."""
        if self._process and self._process.stdin:
            self._process.stdin.close()
        self._log.close()


def drain(
    stages: Sequence[Sequence[Child]], deadline: Deadline, forced: Callable[[], bool], later_s: float = LATER_S
) -> Iterator[str]:
    """End the children stage by stage before the deadline; yields what was done with each, a sentence.

    A sentence that begins with ! tells of a process that had to be killed or that left something behind. A stage that
    hangs leaves `later_s` (local) to each stage after it: those who only have to finish their work can do so.
    """
    for number, stage in enumerate(stages, 1):
        for child in stage:
            child.ask_to_end()
        own = Deadline(deadline.remaining_s - later_s * (len(stages) - number))
        for child in stage:
            while not child.wait(0.1) and not own.passed and not forced():
                pass
            if child.pid is not None:
                child.kill()
                yield f"! {child.name} did not end in time and was killed"
            elif child.exit_code is not None and -child.exit_code in SIGNALS:
                # Every process hears SIGTERM from when it has read its settings; this one had not come so far. Before
                # its session was its own, not even the terminal's Ctrl-C passed it by.
                yield f"{child.name} ended before it had begun"
            elif child.exit_code:
                yield f"! {child.name} ended with exit code {child.exit_code}: {child.last_words()}"
            else:
                yield f"{child.name} drained"
            child.close()

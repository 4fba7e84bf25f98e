"""What Redis and PostgreSQL have in common as children of klagg: locks, ports, logs, start, stop, recovery.

A server's folder holds
  owner.lock   held (flock) by the klagg process that started the server; names it, for the message of a second start
  server.lock  held by the server itself, which inherits it: free means that no server works on this data
  server.pid   the server's process id and the mark of that very process, since ids are used again
  port, url    where it listens, kept over restarts where the port is still free; url stands only while it runs
  server.log   what the server says; the one before is server.log.1

flock ends with its holder however that dies, so no lock is ever stale. If klagg was killed, its server goes on as an
orphan: it holds server.lock while owner.lock is free. The next start stops it in order and starts its own, rather
than taking it over, because its settings may have changed since.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from klagg.embedded import traces
from klagg.embedded.account import make_folder
from klagg.errors import EmbeddedServerError

LOG_BYTES_MAX = 8 << 20
PORT_TRIES = 5

log = logging.getLogger(__name__)


class PortTaken(Exception):
    """Another program took the port between the choice and the start."""


class EmbeddedServer(ABC):
    """A server on a free loopback port, with its data under DATA_DIRECTORY/`name`.

    Runs in a session of its own, so that Ctrl-C at the terminal reaches klagg alone, which then ends things in order.
    """

    name: str
    title: str
    start_deadline_s = 120.0
    stop_signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    """Tried in turn within the deadline of `stop`, the gentlest first; SIGKILL follows."""

    def __init__(self, data_directory: str | Path) -> None:
        self.home = Path(data_directory).absolute() / self.name
        self.notes: list[str] = []
        """Sentences that a person should read, such as that hypertables are off."""
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._owner_lock: int | None = None
        self._log_start = 0

    # What each server says for itself.

    @abstractmethod
    def _prepare(self) -> None:
        """Finds the programs and lays out the data, before the first attempt to start."""

    @abstractmethod
    def _command(self, port: int) -> list[str]:
        """The command that runs the server in the foreground on PORT."""

    @abstractmethod
    def _is_ready(self, port: int, pid: int) -> bool:
        """Whether the server answers on PORT and is the process PID, not a stranger on the same port."""

    @abstractmethod
    def _url(self, port: int) -> str:
        """Where clients connect."""

    def _after_start(self) -> None:  # noqa: B027 — most servers have nothing left to do
        """What is left to do once the server answers."""

    def _popen_options(self) -> dict[str, Any]:
        return {}

    # Start and stop.

    def start(self) -> Self:
        """Starts the server and returns when it answers; EmbeddedServerError in one sentence if it cannot."""
        if self._process is not None:
            raise EmbeddedServerError(f"{self.title} in {self.home} was started already.")
        make_folder(self.home)
        self._take_ownership()
        try:
            self._end_orphan()
            self._prepare()
            self._start_on_free_port()
            self._after_start()
            traces.write(self.home / "url", f"{self.url}\n")
        except OSError as bad:
            self.stop(deadline_s=5)
            raise EmbeddedServerError(f"{self.title} in {self.home} cannot be started: {bad}.") from bad
        except BaseException:
            self.stop(deadline_s=5)
            raise
        atexit.register(self.stop)
        return self

    def stop(self, deadline_s: float = 20.0) -> bool:
        """Stops the server within DEADLINE_S seconds, by force in the end; whether it ended in order. Repeatable."""
        in_order = True
        if self._process is not None:
            in_order = _end_process(self._process, self.stop_signals, deadline_s)
            if not in_order:
                log.warning("%s did not end in order (status %d)", self.title, self._process.returncode)
            for name in ("server.pid", "url"):
                (self.home / name).unlink(missing_ok=True)
            self._process = None
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None
        atexit.unregister(self.stop)  # last: if Ctrl-C interrupts this, the interpreter's end does it again
        return in_order

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Facts.

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self._url(self.port)

    @property
    def port(self) -> int:
        """The port on 127.0.0.1."""
        if self._process is None:
            raise EmbeddedServerError(f"{self.title} in {self.home} is not started.")
        return self._port

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise EmbeddedServerError(f"{self.title} in {self.home} is not started.")
        return self._process.pid

    @property
    def log_file(self) -> Path:
        """What the server says."""
        return self.home / "server.log"

    def is_running(self) -> bool:
        """Whether the server was started and has not ended since."""
        # A handler that raises inside of poll can leave Popen's own lock taken, and every later wait would hang.
        with _undisturbed():
            return self._process is not None and self._process.poll() is None

    # How.

    def _take_ownership(self) -> None:
        # A moment's patience: a child that a killed klagg had just forked holds its lock until it is another program.
        lock = traces.lock(self.home / "owner.lock", deadline_s=1.0)
        if lock is None:
            holder = traces.read(self.home / "owner.lock").strip() or "another process"
            raise EmbeddedServerError(
                f"{self.title} in {self.home} is already in use by klagg (process {holder}): "
                "stop that one first, or choose another data directory."
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._owner_lock = lock

    def _end_orphan(self) -> None:
        """Stops the server that a killed klagg left behind on this data, if there is one."""
        pid = traces.recorded_process(self.home)
        # The children of a killed server hold the lock too, until they notice.
        lock = traces.lock(self.home / "server.lock", deadline_s=0.0 if pid else 10.0)
        if lock is None:
            if pid is None:
                raise EmbeddedServerError(
                    f"A server still works on {self.home}, but server.pid there does not name it: end it by hand."
                )
            log.warning("stopping %s (process %d), which an earlier klagg left behind", self.title, pid)
            for number in (*self.stop_signals, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                lock = traces.lock(self.home / "server.lock", deadline_s=20.0)
                if lock is not None:
                    break
            else:
                raise EmbeddedServerError(f"{self.title} (process {pid}) on {self.home} cannot be ended.")
        os.close(lock)

    def _start_on_free_port(self) -> None:
        port = traces.kept_port(self.home)
        for _ in range(PORT_TRIES):
            try:
                self._start_once(port)
            except PortTaken:
                port = traces.free_port()
                continue
            traces.write(self.home / "port", f"{port}\n")
            return
        raise EmbeddedServerError(f"{self.title} found no free port on 127.0.0.1 in {PORT_TRIES} tries.")

    def _start_once(self, port: int) -> None:
        self._spawn(port)
        assert self._process is not None
        process, deadline = self._process, time.monotonic() + self.start_deadline_s
        while not self._is_ready(port, process.pid):
            if process.poll() is not None:
                self._process = None
                raise self._failure(process.returncode)
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.title} does not answer {self.start_deadline_s:.0f} s after its start; see {self.log_file}."
                )
            time.sleep(traces.POLL_S)

    def _spawn(self, port: int) -> None:
        lock = traces.lock(self.home / "server.lock")
        if lock is None:
            raise EmbeddedServerError(f"Another server works on {self.home}.")
        try:
            if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES_MAX:
                self.log_file.replace(self.home / "server.log.1")
            with self.log_file.open("ab") as output, _undisturbed():
                self._log_start = output.tell()
                self._process = subprocess.Popen(
                    self._command(port),
                    cwd=self.home,
                    env=server_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock,),
                    start_new_session=True,
                    **self._popen_options(),
                )
                self._port = port
                traces.record_process(self.home, self._process.pid)
        finally:
            os.close(lock)  # from here on it is the server's alone

    def _failure(self, status: int) -> Exception:
        """Why the server ended while it started, from what it wrote into its log since."""
        with self.log_file.open("rb") as log_file:
            log_file.seek(self._log_start)
            said = log_file.read(65_536).decode(errors="replace")
        if "Address already in use" in said:
            return PortTaken()
        lines = said.strip().splitlines() or ["it said nothing"]
        reason = next((line for line in lines if "FATAL:" in line), lines[-1])
        return EmbeddedServerError(
            f"{self.title} ended while it started (status {status}): {reason}; see {self.log_file}."
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Holds signals back whose handlers may raise: between the birth of a server and the note of its process id, that
    would leave a server which nobody knows, and which no later start could end."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread alone
        return
    came: list[int] = []
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if callable(signal.getsignal(each))]
    before = [signal.signal(each, lambda number, _frame: came.append(number)) for each in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


def server_environment() -> dict[str, str]:
    """A small, known environment: nothing of the user's (PGPORT, LD_PRELOAD, locale) changes what a server does."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _end_process(process: subprocess.Popen[bytes], signals: tuple[signal.Signals, ...], deadline_s: float) -> bool:
    """Sends each signal in turn with a share of the time, then SIGKILL; whether the server ended with status 0."""
    for number in signals:
        process.send_signal(number)
        try:
            process.wait(deadline_s / len(signals))
        except subprocess.TimeoutExpired:
            continue
        return process.returncode == 0
    process.kill()
    process.wait()
    return False

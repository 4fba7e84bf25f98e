"""Nothing that a run of tests started outlives the run, however the run ends.

Each pytest process, and each long run (`make soak`, `make chaos`), starts a guard: a small process of its own session
that waits for the end of the process that started it. A process that is killed runs no fixture's end and no `finally`;
the guard then ends every process that belongs to the run, and removes the run's temporary folder.

A process belongs to the run if the environment in which it was started has the run's mark, or if its working folder is
one of the run's. The second rule is for servers: klagg gives them an environment of their own, and Redis and PostgreSQL
write their titles over it. Their working folder is their data's.

The guard cannot be told by process ids: a server of `klagg up` is a grandchild, and ids are used again. The kernel's
PR_SET_PDEATHSIG does not serve either: it reaches no grandchildren, and it fires at the end of the thread that started
the child.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "RUN_OF_TESTS"
"""The environment variable that children inherit; not KLAGG_…, which tests take away."""
GENTLE_S = 5.0
"""So long a process may take to end in order."""
DEADLINE_S = 15.0
POLL_S = 0.05


def restore_interrupts() -> None:
    """Gives signals their usual meaning where this process was started with them ignored: SIGINT, as a script's
    `command &` has it, and SIGHUP, as `nohup` has it.

    An ignored signal stays ignored in every child, so a test could interrupt none of its processes.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Guard:
    """The guard of this process. Temporary files go into `folder` from now on, which is removed at the end."""

    def __init__(self) -> None:
        before = tempfile.gettempdir()
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", before)  # pytest keeps its own folders for people to look at
        self.folder = Path(tempfile.mkdtemp(prefix="klagg-tests-", dir=before))
        self.folder.chmod(0o1777)  # as /tmp: PostgreSQL runs as another user under root
        self._restore = {name: os.environ.get(name) for name in ("TMPDIR", MARK)}
        os.environ["TMPDIR"] = tempfile.tempdir = str(self.folder)
        os.environ[MARK] = mark = secrets.token_hex(8)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), f"{MARK}={mark}", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            start_new_session=True,
        )

    def add_folder(self, folder: Path) -> None:
        """Processes that work in FOLDER belong to the run too; the folder itself stays."""
        assert self._process.stdin is not None
        self._process.stdin.write(os.fsencode(folder.resolve()) + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Ends what is left of the run, and the guard. Repeatable."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
            self._process.wait(2 * DEADLINE_S)
            for name, value in self._restore.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value
            tempfile.tempdir = None


# The guard's own process, which must not import klagg or what is installed.


def _await_the_end(pid: int) -> list[bytes]:
    """Returns when the process PID has ended or closed this process's standard input; the folders that it named."""
    watched = [sys.stdin.fileno()]
    with contextlib.suppress(ProcessLookupError):
        parent = os.pidfd_open(pid)
        if os.getppid() == pid:
            watched.append(parent)
        else:  # the process ended before it could be watched
            watched = []
    said = b""
    while watched and sys.stdin.fileno() in watched:
        ready, _, _ = select.select(watched, [], [])
        if sys.stdin.fileno() in ready:
            piece = os.read(sys.stdin.fileno(), 65_536)
            said += piece
            if not piece:
                break
        else:  # the process has ended, and all it said was read; a forked child may hold the other end of the pipe
            break
    return said.split(b"\n")[:-1]


def _belongs(pid: int, mark: bytes, folders: list[bytes]) -> bool:
    """Whether the process PID is one of the run's and still runs."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment:
            if mark in environment.read().split(b"\0"):
                return True
        place = os.readlink(f"/proc/{pid}/cwd".encode())
    except OSError:  # ended, a zombie, or another user's
        return False
    return any(place == folder or place.startswith((folder + b"/", folder + b" (deleted)")) for folder in folders)


def _members(mark: bytes, folders: list[bytes]) -> Iterator[tuple[int, int]]:
    """The process id and an open pidfd of every process of the run: the descriptor means that very process for ever."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                descriptor = os.pidfd_open(int(name))
            except OSError:
                continue
            if _belongs(int(name), mark, folders):
                yield int(name), descriptor
            else:
                os.close(descriptor)


def _end_all(mark: bytes, folders: list[bytes]) -> None:
    """Interrupts every process of the run, and kills what has not ended GENTLE_S later.

    SIGINT is a fast shutdown for PostgreSQL, and means the same as SIGTERM for Redis and klagg's services.
    """
    interrupted: set[int] = set()
    begin = time.monotonic()
    while members := list(_members(mark, folders)):
        late = time.monotonic() - begin > GENTLE_S
        for pid, descriptor in members:
            with contextlib.suppress(OSError):
                if late:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                elif pid not in interrupted:
                    interrupted.add(pid)
                    signal.pidfd_send_signal(descriptor, signal.SIGINT)
            os.close(descriptor)
        if time.monotonic() - begin > DEADLINE_S:
            return
        time.sleep(POLL_S)


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    pid, mark, folder = sys.argv[1:]
    named = _await_the_end(int(pid))
    _end_all(os.fsencode(mark), [os.fsencode(os.path.realpath(folder)), *named])
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main()

"""What a server leaves in its folder for later klagg processes: locks, the process id, the port, the URL."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import time
from pathlib import Path

from klagg.errors import EmbeddedServerError

POLL_S = 0.01


def lock(path: Path, deadline_s: float = 0.0) -> int | None:
    """An open descriptor of PATH with an exclusive flock, or None if another holds it until DEADLINE_S has passed.

    The lock ends with the last copy of the descriptor, however its holders die.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as bad:
        raise EmbeddedServerError(f"{path} cannot be opened: {bad.strerror}.") from None
    deadline = time.monotonic() + deadline_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(POLL_S)
        else:
            return descriptor


def record_process(home: Path, pid: int) -> None:
    """Writes server.pid: the id, and the mark of that very process."""
    write(home / "server.pid", f"{pid} {_mark(pid)}\n")


def recorded_process(home: Path) -> int | None:
    """The process in server.pid, if it still is that very process."""
    pid, _, mark = read(home / "server.pid").strip().partition(" ")
    return int(pid) if pid.isdigit() and mark and _mark(int(pid)) == mark else None


def running_url(home: Path) -> str | None:
    """The URL of the server that runs in the folder HOME (DATA/redis, DATA/postgres), None if none does.

    For processes other than the one that started it.
    """
    return read(home / "url").strip() or None if recorded_process(home) is not None else None


def kept_port(home: Path) -> int:
    """The port of the last run, so that bookmarks stay good; the server's own bind says whether it is still free."""
    text = read(home / "port").strip()
    return int(text) if text.isdigit() and 1024 <= int(text) <= 65_535 else free_port()


def free_port() -> int:
    """A port on 127.0.0.1 that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def can_listen(host: str, port: int) -> bool:
    """Whether this port of an address of this machine is free now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def read(path: Path) -> str:
    """The text of a small file, empty if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as bad:
        raise EmbeddedServerError(f"{path} cannot be read: {bad.strerror}.") from None


def write(path: Path, text: str) -> None:
    """Writes a small file for this user's eyes, whole or not at all."""
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _mark(pid: int) -> str:
    """What tells the process PID from a later one with the same id; empty if there is no such process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return _mark_without_proc(pid)
    ended = fields[0] in "ZX"  # a zombie has ended; only its parent has not looked yet
    return "" if ended else f"{boot}-{fields[19]}"  # field 22 of proc(5): the start, in clock ticks since boot


def _mark_without_proc(pid: int) -> str:
    if Path("/proc/self").exists():
        return ""
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "-".join(found.stdout.split())

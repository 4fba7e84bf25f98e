"""A Redis of klagg's own: the system's redis-server or valkey-server if there is one, else Debian's, without root."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

from klagg.embedded.prefix import bring_prefix
from klagg.embedded.server import EmbeddedServer
from klagg.errors import EmbeddedServerError

OLDEST_USABLE = (7, 0)
"""6.2 leaves deleted entries in the pending lists and knows no `lag`, so its consumer groups cannot be trusted."""


class RedisServer(EmbeddedServer):
    """Redis for streams that must not be lost: append-only file, fsync every second, nothing evicted.

    `maxmemory_mb` bounds it; beyond it Redis refuses writes.
    """

    name = "redis"
    title = "Redis"

    def __init__(self, data_directory: str | Path, *, maxmemory_mb: int = 2048) -> None:
        super().__init__(data_directory)
        self.maxmemory_mb = maxmemory_mb
        self.program = ""
        """The server program that is used, once started."""

    def _prepare(self) -> None:
        self.program = system_program() or str(bring_prefix("redis") / "bin" / "redis-server")

    def _command(self, port: int) -> list[str]:
        configuration = self.home / "redis.conf"
        configuration.write_text(self._configuration(port), encoding="utf-8")
        return [self.program, str(configuration)]

    def _configuration(self, port: int) -> str:
        return (
            "# Written by klagg at each start; changes here are lost.\n"
            "bind 127.0.0.1\n"
            f"port {port}\n"
            "protected-mode yes\n"
            "daemonize no\n"
            f"dir {_quoted(str(self.home))}\n"
            'save ""\n'
            "appendonly yes\n"
            "appendfsync everysec\n"
            f"maxmemory {self.maxmemory_mb}mb\n"
            "maxmemory-policy noeviction\n"
        )

    def _is_ready(self, port: int, pid: int) -> bool:
        info = _info(port)
        with contextlib.suppress(OSError, ValueError):
            return info.get("loading") == "0" and os.getsid(int(info["process_id"])) == pid
        return False

    def _url(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def command(self, *words: str) -> str:
        """Runs one command through the redis-cli beside the server and returns its answer as plain text.

        EmbeddedServerError if there is no redis-cli, or Redis answers with an error.
        """
        program = Path(self.program)
        cli = str(program.with_name(program.name.replace("-server", "-cli")))
        try:
            done = subprocess.run(
                [cli, "-e", "-h", "127.0.0.1", "-p", str(self.port), *words],
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as bad:
            raise EmbeddedServerError(f"{cli} cannot be run: {bad.strerror}.") from None
        if done.returncode != 0:
            raise EmbeddedServerError(f"Redis refused a command: {(done.stderr or done.stdout).strip()}")
        return done.stdout.strip()


def system_program() -> str | None:
    """The first redis-server or valkey-server on PATH that is recent enough, None if there is none."""
    for name in ("redis-server", "valkey-server"):
        program = shutil.which(name)
        if program is not None and _version(program) >= OLDEST_USABLE:
            return program
    return None


def _version(program: str) -> tuple[int, int]:
    """(major, minor), or (0, 0) if the program does not say."""
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"\bv=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _quoted(text: str) -> str:
    if "\n" in text:
        raise EmbeddedServerError(f"The folder {text!r} has a line break in its name, which Redis cannot be told.")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _info(port: int) -> dict[str, str]:
    """INFO of whatever listens on PORT, over a socket of our own; empty if it does not answer like a Redis."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.25) as connection:
            connection.sendall(b"INFO\r\n")
            with connection.makefile("rb") as answer:
                head = answer.readline(64)
                if not head.startswith(b"$"):
                    return {}
                text = answer.read(min(int(head[1:]), 1 << 20)).decode(errors="replace")
    except (OSError, ValueError):
        return {}
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

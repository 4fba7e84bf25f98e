"""A PostgreSQL of klagg's own, with TimescaleDB where Debian packages can be had, without root."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from klagg.embedded import traces
from klagg.embedded.account import Account, make_folder, require_reach, unprivileged_account
from klagg.embedded.postgres_build import Build, choose_build
from klagg.embedded.server import EmbeddedServer, server_environment
from klagg.errors import EmbeddedServerError

BOOTSTRAP_SQL = Path(__file__).with_name("bootstrap.sql")
READY_LINE = 7
"""The line of postmaster.pid (from 0) that says `ready`; line 0 is the process id, line 3 the port."""


class PostgresServer(EmbeddedServer):
    """PostgreSQL with the database and role `klagg`, open to whoever knows the password in DATA/postgres/password.

    `hypertables` says after the start whether TimescaleDB is there; if not, `notes` says why. `fsync=False` and
    `background_workers` are for tests and for editions of TimescaleDB with jobs: Debian's Apache edition has none, and
    its scheduler gets in the way of DROP DATABASE, so by default no worker runs. `source` is auto, debian or pip.
    """

    name = "postgres"
    title = "PostgreSQL"
    # Fast shutdown, which ends sessions; then immediate, which leaves the rest to the recovery at the next start.
    stop_signals = (signal.SIGINT, signal.SIGQUIT)

    def __init__(
        self,
        data_directory: str | Path,
        *,
        fsync: bool = True,
        background_workers: int = 0,
        shared_buffers_mb: int = 256,
        source: str = "auto",
    ) -> None:
        super().__init__(data_directory)
        self.fsync = fsync
        self.background_workers = background_workers
        self.shared_buffers_mb = shared_buffers_mb
        self.source = source
        self.cluster = self.home / "cluster"
        self._account: Account | None = None
        self._build: Build | None = None
        self._password = ""

    @property
    def build(self) -> Build:
        """The programs in use, once started."""
        if self._build is None:
            raise EmbeddedServerError(f"{self.title} in {self.home} is not started.")
        return self._build

    @property
    def hypertables(self) -> bool:
        """Whether TimescaleDB is there."""
        return self.build.hypertables

    def database_url(self, database: str) -> str:
        """The URL of DATABASE on this server for the role klagg."""
        return self._url(self.port, database)

    def sql(self, statements: str, database: str = "postgres") -> str:
        """Runs STATEMENTS in psql as the superuser and returns the bare rows, `|` between columns.

        EmbeddedServerError with PostgreSQL's message if one fails; the ones before it stay done.
        """
        command = [str(self.build.programs / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
        command += ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        environment = server_environment() | {"PGPASSWORD": self._password, "PGCLIENTENCODING": "UTF8"}
        done = subprocess.run(command, input=statements, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EmbeddedServerError(f"PostgreSQL refused a statement: {done.stderr.strip()}")
        return done.stdout.strip()

    def create_database(self, database: str) -> str:
        """Creates DATABASE for the role klagg, with TimescaleDB where it is there, and returns its URL."""
        self.sql(f'CREATE DATABASE "{database}" OWNER klagg')
        if self.hypertables:
            self.sql("CREATE EXTENSION timescaledb", database)
        return self.database_url(database)

    def drop_database(self, database: str) -> None:
        """Drops DATABASE, whoever is still connected to it."""
        self.sql(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    # How.

    def _prepare(self) -> None:
        self._account = unprivileged_account(self.cluster)
        require_reach(self._account, self.home, "the data directory")
        self._build = choose_build(self.source, self._account, self._cluster_major())
        self.notes[:] = [self._build.note] if self._build.note else []
        self._password = self._load_password()
        if self.cluster.exists():
            self._forget_dead_postmaster()
        else:
            self._make_cluster()

    def _forget_dead_postmaster(self) -> None:
        """Removes postmaster.pid if its process is not a PostgreSQL on this cluster.

        After kill -9 the file stays, and once its process id belongs to another program, as soon happens in containers,
        PostgreSQL would refuse to start. No server of klagg's works here, since server.lock is free.
        """
        path = self.cluster / "postmaster.pid"
        pid = traces.read(path).partition("\n")[0].strip()
        if pid.isdigit() and Path("/proc/self").exists():
            command = traces.read(Path("/proc") / pid / "cmdline")
            if str(self.cluster) not in command:
                path.unlink()

    def _cluster_major(self) -> int | None:
        try:
            return int((self.cluster / "PG_VERSION").read_text(encoding="ascii"))
        except FileNotFoundError:
            if self.cluster.exists():
                raise EmbeddedServerError(
                    f"{self.cluster} is there, but it is no PostgreSQL data: move it away."
                ) from None
            return None
        except (OSError, ValueError) as bad:
            raise EmbeddedServerError(f"The PostgreSQL data in {self.cluster} cannot be read: {bad}.") from None

    def _load_password(self) -> str:
        """The password, made once; PostgreSQL's user must read it when the cluster is made."""
        path = self.home / "password"
        if not path.exists():
            if self.cluster.exists():
                raise EmbeddedServerError(f"{path} is missing, without which nobody can connect to {self.cluster}.")
            new = path.with_name("password.new")
            new.touch(mode=0o600)
            new.write_text(secrets.token_hex(16) + "\n", encoding="ascii")
            self._give_away(new)
            new.replace(path)
        return path.read_text(encoding="ascii").strip()

    def _make_cluster(self) -> None:
        """Makes the cluster under another name and renames it: one that a crash left half-made is never used."""
        new = self.home / "cluster.new"
        shutil.rmtree(new, ignore_errors=True)
        make_folder(new)
        new.chmod(0o700)
        self._give_away(new)
        command = [
            str(self.build.programs / "initdb"),
            "-D",
            str(new),
            "-U",
            "postgres",
            "--encoding=UTF8",
            "--locale=C",
        ]
        command += ["--auth=scram-sha-256", f"--pwfile={self.home / 'password'}"]
        command += [] if self.fsync else ["--no-sync"]
        done = subprocess.run(
            command,
            cwd=self.home,
            env=server_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **self._popen_options(),
        )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            reason = next((line for line in said if "error" in line or "FATAL" in line), said[-1])
            raise EmbeddedServerError(f"PostgreSQL's data cannot be made in {self.home}: {reason}.")
        new.rename(self.cluster)

    def _give_away(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def _popen_options(self) -> dict[str, Any]:
        return self._account.popen_options() if self._account else {}

    def _command(self, port: int) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",  # a socket's path must fit 107 bytes, which a data directory need not
            "fsync": "on" if self.fsync else "off",
            "shared_buffers": f"{self.shared_buffers_mb}MB",
            "max_wal_size": "2GB",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",
            "logging_collector": "off",
            "log_destination": "stderr",
        }
        if self.build.hypertables:
            settings |= {
                "shared_preload_libraries": "timescaledb",
                "timescaledb.telemetry_level": "off",
                "timescaledb.max_background_workers": str(self.background_workers),
            }
        return [
            str(self.build.programs / "postgres"),
            "-D",
            str(self.cluster),
            *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
        ]

    def _is_ready(self, port: int, pid: int) -> bool:
        try:
            lines = (self.cluster / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > READY_LINE and lines[0] == str(pid) and lines[READY_LINE].strip() == "ready"

    def _url(self, port: int, database: str = "klagg") -> str:
        return f"postgresql://klagg:{self._password}@127.0.0.1:{port}/{database}"

    def _after_start(self) -> None:
        self.sql(f"\\set password {self._password}\n" + BOOTSTRAP_SQL.read_text(encoding="utf-8"))
        if self.hypertables:
            self._bring_extension()

    def _bring_extension(self) -> None:
        """Creates TimescaleDB's extension, or brings it to the version of the programs."""
        # Noted from outside the database: once the version has changed, the update must be a session's first statement.
        done = self.home / "extension"
        try:
            if done.exists():
                self.sql("ALTER EXTENSION timescaledb UPDATE", "klagg")
        except EmbeddedServerError as refused:
            if 'extension "timescaledb" does not exist' not in str(refused):
                raise
            done.unlink()
        if not done.exists():
            self.sql("CREATE EXTENSION IF NOT EXISTS timescaledb", "klagg")
            done.touch()

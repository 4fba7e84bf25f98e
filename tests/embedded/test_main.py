"""`python -m klagg.embedded` as a process of its own: how its servers end with it, and what a killed one leaves."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from klagg.embedded import PostgresServer, RedisServer, cache_directory, running_url
from klagg.embedded.traces import recorded_process
from tests.conftest import ROOT
from tests.kit import eventually, is_alive

pytestmark = pytest.mark.servers


@contextmanager
def _klagg(
    data: Path, root: Path = ROOT, python: str = sys.executable, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A klagg with both servers in DATA, in a process group of its own, as a terminal would start it."""
    environment = os.environ | {"PYTHONPATH": str(root), "KLAGG_CACHE": str(cache_directory())}
    with subprocess.Popen(
        [python, "-m", "klagg.embedded", str(data)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    ) as parent:
        try:
            eventually(lambda: parent.poll() is not None or _servers(data), deadline_s=60)
            if parent.poll() is not None:
                assert parent.stdout is not None
                pytest.fail(parent.stdout.read())
            yield parent
        finally:
            parent.terminate()  # in order, so that it takes its servers along
            parent.wait(30)


def _servers(data: Path) -> list[int]:
    """The process ids of the servers that run and have said where."""
    homes = [data / "redis", data / "postgres"]
    running = [recorded_process(home) for home in homes if home.exists() and running_url(home)]
    return [pid for pid in running if pid is not None] if len(running) == 2 else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_klagg_ends_the_servers_in_order(data: Path, number: signal.Signals) -> None:
    with _klagg(data) as parent:
        assert all(os.getpgid(pid) != parent.pid for pid in _servers(data))
        os.killpg(parent.pid, number)  # as the terminal sends Ctrl-C: to the whole group
        assert parent.wait(30) == 0
        assert _servers(data) == []
    assert "bye bye" in (data / "redis" / "server.log").read_text()
    assert "database system is shut down" in (data / "postgres" / "server.log").read_text()


def test_kill_9_of_klagg_leaves_servers_that_the_next_start_replaces(data: Path) -> None:
    with _klagg(data) as parent:
        parent.kill()
        parent.wait()
        orphans = _servers(data)
    with RedisServer(data) as redis, PostgresServer(data, fsync=False) as postgres:
        assert len(orphans) == 2
        assert not {redis.pid, postgres.pid} & set(orphans)
        assert redis.command("PING") == "PONG"
        assert postgres.sql("SELECT 1") == "1"
        assert not [orphan for orphan in orphans if is_alive(orphan)]
    assert "database system was not properly shut down" not in (data / "postgres" / "server.log").read_text()


def test_two_klaggs_on_the_same_data(data: Path) -> None:
    with _klagg(data) as first:
        command = [sys.executable, "-m", "klagg.embedded", str(data)]
        second = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=60
        )
        assert second.returncode == 1
        assert second.stderr.splitlines()[-1] == (
            f"Redis in {data / 'redis'} is already in use by klagg (process {first.pid}): "
            "stop that one first, or choose another data directory."
        )
        assert first.poll() is None
        assert len(_servers(data)) == 2


def test_a_dead_server_ends_klagg_with_a_sentence(data: Path) -> None:
    with _klagg(data) as parent:
        redis, _ = _servers(data)
        os.kill(redis, signal.SIGKILL)
        assert parent.wait(30) == 1
        assert parent.stdout is not None
        assert "A server ended by itself" in parent.stdout.read()
        assert _servers(data) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_needs_no_root(data: Path, redis_server: RedisServer, postgres_server: PostgresServer) -> None:
    user = pwd.getpwnam("games")
    reach: dict[str, Any] = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    python = _interpreter_for_all(reach)
    data.mkdir()
    shutil.copytree(ROOT / "klagg", data / "source" / "klagg")  # the checkout may be in a folder closed to others
    os.chown(data, user.pw_uid, user.pw_gid)
    with _klagg(data, data / "source", python, **reach) as parent:
        for pid in _servers(data):
            assert f"Uid:\t{user.pw_uid}\t{user.pw_uid}" in Path(f"/proc/{pid}/status").read_text()
        parent.terminate()
        assert parent.wait(30) == 0


def _interpreter_for_all(reach: dict[str, Any]) -> str:
    """A Python of the right age that the user REACH can run; embedded servers need its standard library alone."""
    probe = "import sys; sys.exit(sys.version_info < (3, 11))"
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            if subprocess.run([python, "-c", probe], check=False, **reach).returncode == 0:
                return python
        except PermissionError:
            continue
    pytest.skip("no Python 3.11 or newer here that an ordinary user can run")

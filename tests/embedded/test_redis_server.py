"""RedisServer on a real Redis: settings, durability, refusals, recovery."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from klagg.embedded import RedisServer, running_url
from klagg.embedded.redis_server import system_program
from klagg.embedded.traces import recorded_process
from klagg.errors import EmbeddedServerError
from tests.conftest import ROOT
from tests.kit import eventually

pytestmark = pytest.mark.servers


def test_settings_that_protect_the_streams(redis_server: RedisServer) -> None:
    names = ("appendonly", "appendfsync", "maxmemory-policy", "maxmemory", "save", "bind", "protected-mode")
    answers = [redis_server.command("CONFIG", "GET", name).partition("\n")[2] for name in names]
    assert answers == ["yes", "everysec", "noeviction", str(512 << 20), "", "127.0.0.1", "yes"]


def test_the_file_for_production_says_the_same(redis_server: RedisServer) -> None:
    lines = (ROOT / "config" / "redis.conf").read_text().partition("# ----")[0].splitlines()
    needed = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    assert len(needed) == 5
    for name, value in needed.items():
        assert redis_server.command("CONFIG", "GET", name).partition("\n")[2] == value.strip('"')


def test_the_file_for_production_is_one_that_redis_reads(redis_server: RedisServer, tmp_path: Path) -> None:
    text = (ROOT / "config" / "redis.conf").read_text()
    here = text.replace("dir /var/lib/redis", "dir .").replace("port 6379", "port 0")
    assert here.count("dir .") == here.count("port 0") == 1
    (tmp_path / "redis.conf").write_text(here)
    command = [redis_server.program, "redis.conf"]  # it reads all, says that with port 0 it listens nowhere, and ends
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20)
    assert "Configured to not listen anywhere, exiting" in said.stdout


def test_restart_keeps_data_and_port(data: Path) -> None:
    with RedisServer(data) as first:
        assert first.command("SET", "bar", "1 2") == "OK"
        assert running_url(data / "redis") == first.url
        port = first.port
    assert running_url(data / "redis") is None
    with RedisServer(data) as second:
        assert second.command("GET", "bar") == "1 2"
        assert second.port == port


def test_a_taken_port_is_left_to_its_owner(data: Path) -> None:
    with RedisServer(data) as first:
        port = first.port
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        with RedisServer(data) as second:
            assert second.port != port
            assert second.command("PING") == "PONG"


def test_a_stranger_on_every_port_ends_in_a_sentence(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        monkeypatch.setattr("klagg.embedded.traces.free_port", lambda: stranger.getsockname()[1])
        with pytest.raises(EmbeddedServerError, match=r"found no free port on 127\.0\.0\.1 in 5 tries"):
            RedisServer(data).start()


def test_another_redis_on_the_port_is_not_taken_for_ours(data: Path, redis_server: RedisServer) -> None:
    (data / "redis").mkdir(parents=True)
    (data / "redis" / "port").write_text(f"{redis_server.port}\n")
    with RedisServer(data) as server:
        assert server.port != redis_server.port
        assert server.command("INFO", "server").count(f"process_id:{server.pid}") == 1


def test_a_second_start_on_the_same_data_is_refused(data: Path) -> None:
    with RedisServer(data) as first:
        with pytest.raises(EmbeddedServerError, match=rf"already in use by klagg \(process {os.getpid()}\)"):
            RedisServer(data).start()
        assert first.command("PING") == "PONG"
        with pytest.raises(EmbeddedServerError, match="was started already"):
            first.start()


def test_kill_9_loses_nothing_acknowledged(data: Path) -> None:
    server = RedisServer(data).start()
    assert server.command("XADD", "feed:{0}", "1-1", "kind", "tick") == "1-1"
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: not server.is_running())
    assert server.stop() is False
    with RedisServer(data) as after:
        assert after.command("XLEN", "feed:{0}") == "1"


def test_stop_ends_in_order_and_may_be_repeated(data: Path) -> None:
    server = RedisServer(data).start()
    pid = server.pid
    assert server.stop() is True
    assert server.stop() is True
    assert recorded_process(data / "redis") is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(EmbeddedServerError, match="is not started"):
        _ = server.url


def test_a_server_that_hangs_is_ended_by_force_within_the_deadline(data: Path) -> None:
    server = RedisServer(data).start()
    os.kill(server.pid, signal.SIGSTOP)
    assert server.stop(deadline_s=0.2) is False
    assert not server.is_running()


def test_a_broken_append_only_file_ends_in_a_sentence(data: Path) -> None:
    with RedisServer(data) as server:
        server.command("SET", "a", "b")
    manifest = data / "redis" / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text("no manifest\n")
    with pytest.raises(EmbeddedServerError, match=r"Redis ended while it started \(status 1\): .*server\.log"):
        RedisServer(data).start()


def test_a_long_log_is_put_aside(data: Path) -> None:
    (data / "redis").mkdir(parents=True)
    (data / "redis" / "server.log").write_bytes(b"x" * (9 << 20))
    with RedisServer(data) as server:
        assert server.log_file.stat().st_size < 1 << 20
        assert (data / "redis" / "server.log.1").stat().st_size == 9 << 20


def test_a_refused_command_is_a_sentence(redis_server: RedisServer) -> None:
    with pytest.raises(EmbeddedServerError, match=r"Redis refused a command: .*unknown command"):
        redis_server.command("NOSUCHCOMMAND")


def _program(folder: Path, name: str, says: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("name", "says", "used"),
    [
        ("redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", True),
        ("valkey-server", "Valkey server v=8.1.1 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64", True),
        ("redis-server", "Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", False),
        ("redis-server", "something else", False),
    ],
)
def test_a_system_server_is_preferred_if_it_is_recent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str, used: bool
) -> None:
    _program(tmp_path / "bin", name, says)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    assert system_program() == (str(tmp_path / "bin" / name) if used else None)


def test_a_system_server_runs(data: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(redis_server.program).parent}:{os.environ['PATH']}")
    found = shutil.which("redis-server")
    with RedisServer(data) as server:
        assert server.program == found == redis_server.program
        assert server.command("PING") == "PONG"


def test_ctrl_c_at_the_birth_of_a_server_leaves_none_behind(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    born: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def interrupted(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = popen(*args, **options)
        if str(args[0][-1]).endswith("redis.conf"):
            born.append(process)
            signal.raise_signal(signal.SIGINT)
        return process

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RedisServer(data).start()
    assert born[0].poll() is not None
    monkeypatch.setattr(subprocess, "Popen", popen)
    with RedisServer(data) as server:
        assert server.command("PING") == "PONG"

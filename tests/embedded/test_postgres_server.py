"""PostgresServer on the real PostgreSQL with TimescaleDB: settings, durability, refusals, recovery."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from klagg.embedded import PostgresServer, running_url
from klagg.errors import EmbeddedServerError
from tests.kit import eventually

pytestmark = pytest.mark.servers


def _server(data: Path, **options: object) -> PostgresServer:
    return PostgresServer(data, **({"fsync": False, "source": "debian", "shared_buffers_mb": 32} | options))  # type: ignore[arg-type]


def _as_klagg(server: PostgresServer, statements: str) -> subprocess.CompletedProcess[str]:
    command = [str(server.build.programs / "psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", server.url]
    return subprocess.run([*command, "-c", statements], capture_output=True, text=True, check=False)


def test_settings(postgres_server: PostgresServer) -> None:
    wanted = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "timezone": "UTC",
        "jit": "off",
        "fsync": "off",
        "password_encryption": "scram-sha-256",
        "server_encoding": "UTF8",
        "timescaledb.telemetry_level": "off",
        "timescaledb.max_background_workers": "0",
    }
    assert {name: postgres_server.sql(f"SHOW {name}") for name in wanted} == wanted
    assert postgres_server.sql("SHOW server_version_num").startswith("17")


def test_durable_unless_told_otherwise(data: Path) -> None:
    with _server(data, fsync=True, background_workers=2) as server:
        assert server.sql("SHOW fsync") == "on"
        assert server.sql("SHOW synchronous_commit") == "on"
        assert server.sql("SHOW timescaledb.max_background_workers") == "2"


def test_restart_keeps_hypertable_and_port(data: Path) -> None:
    make = "CREATE TABLE bars (t timestamptz NOT NULL, n int); SELECT create_hypertable('bars', by_range('t'));"
    with _server(data) as first:
        assert first.hypertables
        assert first.notes == []
        assert running_url(data / "postgres") == first.url
        assert _as_klagg(first, make + "INSERT INTO bars VALUES ('2026-01-01', 7)").returncode == 0
        port = first.port
    assert running_url(data / "postgres") is None
    with _server(data) as second:
        assert _as_klagg(second, "SELECT n FROM bars").stdout.strip() == "7"
        assert _as_klagg(second, "SELECT count(*) FROM show_chunks('bars')").stdout.strip() == "1"
        assert second.port == port


def test_only_the_password_opens_the_door(postgres_server: PostgresServer) -> None:
    wrong = postgres_server.url.replace("klagg:", "klagg:wrong", 1)
    command = [str(postgres_server.build.programs / "psql"), "-X", wrong, "-c", "SELECT 1"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert "password authentication failed" in said.stderr
    assert (postgres_server.home / "password").stat().st_mode & 0o077 == 0


def test_the_role_is_no_superuser(postgres_server: PostgresServer) -> None:
    refused = _as_klagg(postgres_server, "COPY (SELECT 1) TO PROGRAM 'true'")
    assert "permission denied" in refused.stderr


def test_a_taken_port_is_left_to_its_owner(data: Path) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        (data / "postgres").mkdir(parents=True)
        (data / "postgres" / "port").write_text(f"{port}\n")
        with _server(data) as server:
            assert server.port != port
            assert server.sql("SELECT 1") == "1"


def test_a_second_start_on_the_same_data_is_refused(data: Path) -> None:
    with (
        _server(data),
        pytest.raises(EmbeddedServerError, match=rf"PostgreSQL in .* in use by klagg \(process {os.getpid()}\): stop"),
    ):
        _server(data).start()


def test_kill_9_is_recovered_even_if_the_process_id_is_used_again(data: Path) -> None:
    server = _server(data, fsync=True).start()
    assert _as_klagg(server, "CREATE TABLE kept AS SELECT 5 AS n").returncode == 0
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: not server.is_running())
    assert server.stop() is False
    pid_file = server.cluster / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    with subprocess.Popen(
        ["sleep", "60"], user=server.cluster.stat().st_uid if os.geteuid() == 0 else None
    ) as stranger:
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        try:
            with _server(data) as after:
                assert _as_klagg(after, "SELECT n FROM kept").stdout.strip() == "5"
        finally:
            stranger.kill()


def test_sessions_do_not_hold_up_the_stop(data: Path) -> None:
    server = _server(data).start()
    command = [str(server.build.programs / "psql"), "-X", server.url, "-c", "SELECT pg_sleep(60)"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as session:
        eventually(
            lambda: server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'") == "1"
        )
        assert server.stop(deadline_s=20) is True
        assert session.wait(10) != 0


def test_a_half_made_cluster_is_made_anew(data: Path) -> None:
    (data / "postgres" / "cluster.new" / "base").mkdir(parents=True)
    with _server(data) as server:
        assert server.sql("SELECT 1") == "1"
        assert not (data / "postgres" / "cluster.new").exists()


def test_a_lost_extension_is_brought_back(data: Path) -> None:
    with _server(data) as server:
        server.sql("DROP EXTENSION timescaledb", "klagg")
    with _server(data) as server:
        assert server.sql("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'", "klagg") == "1"


def test_data_of_another_version_is_refused(data: Path) -> None:
    with _server(data) as server:
        version = server.cluster / "PG_VERSION"
    version.write_text("12\n")
    with pytest.raises(EmbeddedServerError, match=r"The data is of PostgreSQL 12, but the PostgreSQL here is 17"):
        _server(data).start()


def test_what_is_no_cluster_is_refused(data: Path) -> None:
    (data / "postgres" / "cluster").mkdir(parents=True)
    with pytest.raises(EmbeddedServerError, match="it is no PostgreSQL data: move it away"):
        _server(data).start()


def test_a_lost_password_is_said(data: Path) -> None:
    with _server(data) as server:
        password = server.home / "password"
    password.unlink()
    with pytest.raises(EmbeddedServerError, match="password is missing, without which nobody can connect"):
        _server(data).start()


def test_a_failed_statement_is_a_sentence(postgres_server: PostgresServer) -> None:
    with pytest.raises(EmbeddedServerError, match='relation "nothing" does not exist'):
        postgres_server.sql("SELECT * FROM nothing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives PostgreSQL to another user")
def test_root_gives_the_server_to_an_unprivileged_user(postgres_server: PostgresServer) -> None:
    status = Path(f"/proc/{postgres_server.pid}/status").read_text()
    uid = postgres_server.cluster.stat().st_uid
    assert uid != 0
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
    assert "Groups:\t \n" in status


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives PostgreSQL to another user")
def test_root_is_told_of_a_closed_directory(data: Path) -> None:
    data.mkdir(mode=0o700)
    with pytest.raises(
        EmbeddedServerError, match=rf"nobody cannot reach the data directory .* because {data} is closed"
    ):
        _server(data).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives PostgreSQL to another user")
def test_root_runs_the_data_of_an_ordinary_user_as_that_user(data: Path) -> None:
    with _server(data) as server:
        cluster = server.cluster
    for path in (cluster, *cluster.rglob("*")):
        os.chown(path, 1, 1)
    with _server(data) as server:
        assert "Uid:\t1\t1\t1\t1\n" in Path(f"/proc/{server.pid}/status").read_text()

"""The shared fixtures give what they promise."""

from __future__ import annotations

import subprocess

import pytest

from klagg.embedded import PostgresServer, RedisServer

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("round_", [1, 2])
def test_redis_is_empty_in_every_test(redis_url: str, redis_server: RedisServer, round_: int) -> None:
    assert redis_url == redis_server.url
    assert redis_server.command("DBSIZE") == "0"
    assert redis_server.command("SET", "left over", str(round_)) == "OK"


@pytest.mark.parametrize("round_", [1, 2])
def test_a_database_is_fresh_in_every_test(database_url: str, postgres_server: PostgresServer, round_: int) -> None:
    psql = [str(postgres_server.build.programs / "psql"), "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", database_url]
    make = "CREATE TABLE bars (t timestamptz NOT NULL, n int); SELECT create_hypertable('bars', by_range('t'))"
    made = subprocess.run([*psql, "-c", make], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    chunk = subprocess.run(
        [*psql, "-c", f"INSERT INTO bars VALUES (now(), {round_}); SELECT count(*) FROM show_chunks('bars')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert chunk.stdout.split()[-1] == "1"

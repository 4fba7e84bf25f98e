"""Real servers and recorded data for the tests.

A session starts each server once, on a free loopback port with its data in a temporary folder. Nothing here skips
because a server cannot be had: a machine on which TimescaleDB is missing fails the tests that need it, and says why.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from klagg.embedded import PostgresServer, RedisServer

hypothesis.settings.register_profile("klagg", deadline=None, print_blob=True)
hypothesis.settings.load_profile("klagg")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    """A temporary data directory that PostgreSQL's user can reach even under root, unlike pytest's tmp_path."""
    folder = Path(tempfile.mkdtemp(prefix="klagg-tests-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_server(servers_directory: Path) -> Iterator[RedisServer]:
    """A real, fresh Redis; `redis_url` gives it flushed."""
    with RedisServer(servers_directory, maxmemory_mb=512) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(servers_directory: Path) -> Iterator[PostgresServer]:
    """A real PostgreSQL with TimescaleDB, without fsync; `database_url` gives a fresh database of it."""
    with PostgresServer(servers_directory, fsync=False, background_workers=0, source="debian") as server:
        assert server.hypertables
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the real Redis, emptied."""
    redis_server.command("FLUSHALL")
    return redis_server.url


_numbers = itertools.count(1)


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database with TimescaleDB's extension, for its owner `klagg`; dropped afterwards."""
    database = f"test_{next(_numbers)}"
    yield postgres_server.create_database(database)
    postgres_server.drop_database(database)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of recorded trades and official klines: ../shared/realdata, or KLAGG_REALDATA."""
    folder = Path(os.environ.get("KLAGG_REALDATA") or ROOT.parent / "shared" / "realdata")
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}: set KLAGG_REALDATA to their folder")
    return folder

"""Real servers and recorded data for the tests, and the order in which they run.

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
from tests.guard import Guard, restore_interrupts

hypothesis.settings.register_profile("klagg", deadline=None, print_blob=True)
hypothesis.settings.load_profile("klagg")

ROOT = Path(__file__).resolve().parent.parent
GUARD = pytest.StashKey[Guard]()


def pytest_configure(config: pytest.Config) -> None:
    """Every pytest process, workers and their controller alike, has its guard from the beginning."""
    restore_interrupts()
    config.stash[GUARD] = guard = Guard()
    config.add_cleanup(guard.close)


@pytest.fixture(scope="session", autouse=True)
def _guarded_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What works in a test's own folder ends with the session too."""
    request.config.stash[GUARD].add_folder(tmp_path_factory.getbasetemp())


LONGEST_FIRST = (
    "simulation/test_simulation.py",
    "endtoend/test_faults.py",
    "endtoend/test_losses.py",
    "cli/test_up_command.py",
    "endtoend/test_two_lines.py",
    "endtoend/test_halts.py",
    "soak/test_soak.py",
    "test_guard.py",
    "endtoend/test_audit.py",
    "endtoend/test_fills.py",
    "endtoend/test_weight.py",
    "chaos/test_chaos.py",
    "endtoend/test_recordings.py",
    "ingest/test_fuzz.py",
    "endtoend/test_clients.py",
    "endtoend/test_holding.py",
    "endtoend/test_synthetic.py",
    "endtoend/test_skew.py",
    "endtoend/test_silence.py",
    "cli/test_supervisord.py",
    "endtoend/test_lost.py",
    "endtoend/test_quiet.py",
    "endtoend/test_statuses.py",
    "endtoend/test_browser.py",
    "endtoend/test_gateway.py",
    "bench/test_audit.py",
    "bench/test_writer.py",
)
"""Files of tests that take long. They begin first, so that the workers end at about the same time: one of these that
began last would run alone. Each worker takes the next file when it has done one (`--dist loadfile`), so the fixtures of
a module are made once, and files that compute stand between those that wait for an exchange's time to pass."""
SLOW = (*LONGEST_FIRST, "test_packaging.py")
"""Files that people leave out with `make test-fast`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest first, all else in its order; and marks what is slow."""
    place = {name: number for number, name in enumerate(LONGEST_FIRST)}
    tests = ROOT / "tests"
    named = [
        (item.path.relative_to(tests).as_posix() if item.path.is_relative_to(tests) else item.path.name, item)
        for item in items
    ]
    for name, item in named:
        if name in SLOW:
            item.add_marker(pytest.mark.slow)
    named.sort(key=lambda each: place.get(each[0], len(place)))
    items[:] = [item for _, item in named]


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
        server.create_database(TEMPLATE)
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the real Redis, emptied."""
    redis_server.command("FLUSHALL")
    return redis_server.url


TEMPLATE = "test_template"
"""A database with TimescaleDB's extension that nobody connects to: a copy is made sooner than the extension is."""
_numbers = itertools.count(1)


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a fresh database with TimescaleDB's extension, for its owner `klagg`; dropped afterwards."""
    database = f"test_{next(_numbers)}"
    postgres_server.sql(f'CREATE DATABASE "{database}" OWNER klagg TEMPLATE {TEMPLATE} STRATEGY FILE_COPY')
    yield postgres_server.database_url(database)
    postgres_server.drop_database(database)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of recorded trades and official klines: ../shared/realdata, or KLAGG_REALDATA."""
    folder = Path(os.environ.get("KLAGG_REALDATA") or ROOT.parent / "shared" / "realdata")
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}: set KLAGG_REALDATA to their folder")
    return folder

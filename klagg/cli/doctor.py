"""`klagg doctor`: what this machine has and lacks for klagg, a line each, with what to do."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import ujson
from packaging.requirements import Requirement

from klagg.embedded import cache_directory, usable_data_directory
from klagg.embedded.redis_server import system_program
from klagg.errors import KlaggError
from klagg.redisio import Streams
from klagg.settings import Settings, load

OK, WARN, FAIL = "ok", "warn", "FAIL"
FREE_GB_LEAST, FREE_GB_GOOD = 1, 10
OFFSET_MS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: how it stands, what was looked at, and what was seen or what to do."""

    verdict: str
    subject: str
    words: str


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `doctor` command to the main parser."""
    parser = commands.add_parser(
        "doctor",
        help="check this machine",
        description="Checks what klagg needs of this machine, a line each. The exit code is 1 if anything fails.",
    )
    parser.add_argument("--config", help="TOML file with settings (see config/klagg.toml)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs all checks; the exit code."""
    checks = list(examine(args.config))
    for each in checks:
        print(f"{each.verdict:4}  {each.subject:13} {each.words}")
    return 1 if any(each.verdict == FAIL for each in checks) else 0


def examine(config: str | None) -> Iterator[Check]:
    """All findings, one after the other."""
    yield python_version()
    yield from dependencies()
    try:
        settings = load(config)
    except KlaggError as bad:
        yield Check(FAIL, "settings", str(bad))
        return
    yield Check(OK, "settings", str(config or "the defaults"))
    yield redis(settings)
    yield database(settings)
    yield data_directory(settings)
    yield exchange(settings)


def python_version() -> Check:
    """Python 3.11 or newer."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Check(OK if sys.version_info >= (3, 11) else FAIL, "Python", f"{version} (klagg needs 3.11 or newer)")


def dependencies() -> Iterator[Check]:
    """Every declared dependency at a version that klagg allows."""
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("klagg") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Check(
            WARN, "packages", "klagg itself is not installed, so its packages cannot be checked: run make setup"
        )
        return
    bad = []
    for need in wanted:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            bad.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(found, prereleases=True):
            bad.append(f"{need.name} is {found}, klagg needs {need.specifier}")
    for words in bad:
        yield Check(FAIL, "packages", f"{words}: run make setup")
    if not bad:
        yield Check(OK, "packages", f"all {len(wanted)} as declared")


def redis(settings: Settings) -> Check:
    """The Redis that the configuration names, or what an embedded one would be made of."""
    if settings.redis.url:
        return _asked("Redis", lambda: _redis_words(settings))
    program = system_program()
    if program:
        return Check(OK, "Redis", f"embedded, by {program}")
    return _from_packages("Redis", "redis")


def _redis_words(settings: Settings) -> str:
    streams = Streams(settings.redis.url, timeout_ms=settings.redis.timeout_ms)
    try:
        server, memory = streams.information("server"), streams.information("memory")
    finally:
        streams.close()
    policy = memory.get("maxmemory_policy")
    if policy != "noeviction":
        raise KlaggError(f"its maxmemory-policy is {policy}: it would drop trades; set noeviction")
    return f"{server.get('redis_version')} answers, {policy}"


def database(settings: Settings) -> Check:
    """The database that the configuration names, or what an embedded one would be made of."""
    if not settings.database.enabled:
        return Check(OK, "database", "switched off by the configuration")
    if settings.database.url:
        return _asked("database", lambda: _database_words(settings))
    return _from_packages("database", "timescaledb")


def _database_words(settings: Settings) -> str:
    from klagg.database import Database
    from writers.migrate import require_schema

    connection = Database(settings.database.url, application="klagg-doctor")
    try:
        require_schema(connection)
    finally:
        connection.close()
    return "answers, its schema is up to date"


def _asked(subject: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(OK, subject, ask())
    except KlaggError as bad:
        return Check(FAIL, subject, str(bad))


def _from_packages(subject: str, recipe: str) -> Check:
    """An embedded server from Debian packages: unpacked already, or can it be had?"""
    cache = cache_directory()
    if any(cache.glob(f"{recipe}-*/bin")):
        return Check(OK, subject, f"embedded, unpacked in {cache}")
    if shutil.which("apt-get") and shutil.which("dpkg-deb"):
        return Check(OK, subject, "embedded; the first start fetches it from Debian packages")
    if recipe == "timescaledb":
        return Check(WARN, subject, "no apt-get here: a pip-installed PostgreSQL without hypertables will serve")
    return Check(FAIL, subject, "neither redis-server nor apt-get is here: install Redis, or name one in redis.url")


def data_directory(settings: Settings) -> Check:
    """The data directory can be written and has room."""
    path = (
        usable_data_directory(settings.data_dir)
        if settings.data_dir == Settings().data_dir
        else Path(settings.data_dir)
    )
    existing = next(folder for folder in [path.absolute(), *path.absolute().parents] if folder.exists())
    if not os.access(existing, os.W_OK):
        return Check(FAIL, "data", f"{existing} cannot be written: choose another data_dir")
    free_gb = shutil.disk_usage(existing).free / 1e9
    verdict = FAIL if free_gb < FREE_GB_LEAST else WARN if free_gb < FREE_GB_GOOD else OK
    return Check(verdict, "data", f"{path}, {free_gb:.0f} GB free")


def exchange(settings: Settings) -> Check:
    """The exchange's clock can be read, and this machine's clock is near it."""
    url = f"{settings.exchange.rest_url}/fapi/v1/time"
    before = time.time()
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            server_ms = int(ujson.loads(answer.read(4096))["serverTime"])
    except (urllib.error.URLError, OSError, ValueError, KeyError, TypeError) as bad:
        return Check(WARN, "exchange", f"{url} does not answer ({bad}): klagg up --source sim works without it")
    offset_ms = server_ms - (before + time.time()) * 500
    verdict = OK if abs(offset_ms) <= OFFSET_MS_MAX else WARN
    return Check(verdict, "exchange", f"reachable; its clock is {offset_ms:+.0f} ms from this machine's")

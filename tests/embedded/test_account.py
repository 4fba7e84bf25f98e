"""Who PostgreSQL runs as, and what that user can reach."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from klagg.embedded.account import (
    SYSTEM_DATA_DIRECTORY,
    blocking_folder,
    make_folder,
    require_reach,
    unprivileged_account,
    usable_data_directory,
)
from klagg.errors import EmbeddedServerError

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@pytest.mark.skipif(os.geteuid() == 0, reason="an ordinary user stays who it is")
def test_an_ordinary_user_stays_who_it_is(tmp_path: Path) -> None:
    assert unprivileged_account(tmp_path) is None
    assert usable_data_directory(tmp_path / "data") == tmp_path / "data"


@only_root
def test_root_becomes_nobody_or_the_owner_of_the_data(servers_directory: Path) -> None:
    nobody = unprivileged_account()
    assert nobody is not None
    assert nobody.name == "nobody"
    assert unprivileged_account(servers_directory / "missing") == unprivileged_account(servers_directory) == nobody
    owned = servers_directory / "owned"
    owned.mkdir()
    os.chown(owned, 1, 2)
    owner = unprivileged_account(owned)
    assert owner is not None
    assert (owner.uid, owner.gid) == (1, 2)


@only_root
def test_reach(servers_directory: Path) -> None:
    account = unprivileged_account()
    assert account is not None
    closed = servers_directory / "closed"
    inner = closed / "inner"
    make_folder(inner)
    require_reach(account, inner, "the data directory")
    assert blocking_folder(inner) is None
    closed.chmod(0o700)
    assert blocking_folder(inner) == closed
    with pytest.raises(
        EmbeddedServerError, match=rf"nobody cannot reach the data directory {inner}, because {closed} is"
    ):
        require_reach(account, inner, "the data directory")
    assert usable_data_directory(inner / "data") == SYSTEM_DATA_DIRECTORY
    closed.chmod(0o711)
    assert usable_data_directory(inner / "data") == inner / "data"


def test_no_account_reaches_what_klagg_reaches(tmp_path: Path) -> None:
    require_reach(None, tmp_path / "not there", "anything")


def test_folders_are_open_to_read_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "a/b")] == [0o755, 0o755]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match=r"^The folder .*/file/data cannot be made: Not a directory\.$"):
        make_folder(tmp_path / "file" / "data")


def test_relative_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers_directory: Path
) -> None:
    monkeypatch.chdir(servers_directory)
    assert usable_data_directory("data") == servers_directory / "data"

"""debian-prefix.sh and its Python side: concurrency, interruption, refusals. Needs a Debian with its mirror."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from klagg.embedded.prefix import SCRIPT, PrefixUnavailable, bring_prefix, cache_directory
from tests.kit import eventually

pytestmark = pytest.mark.servers


def _start(recipe: str, cache: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(SCRIPT), recipe, str(cache)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _rest(cache: Path) -> list[str]:
    """What is in CACHE beside lock files."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_concurrent_runs_make_one_prefix(tmp_path: Path) -> None:
    runs = [_start("pip", tmp_path / "ca che") for _ in range(3)]
    said = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], said
    (path,) = {out.strip() for out, _ in said}
    assert sum(err.count("bringing in") for _, err in said) == 1
    assert _rest(tmp_path / "ca che") == [Path(path).name]
    assert len(list(Path(path).glob("usr/share/python-wheels/pip-*.whl"))) == 1
    assert (Path(path) / "versions.txt").read_text().startswith("python3-pip-whl ")


def test_programs_run_from_a_path_with_a_space_and_a_quote(tmp_path: Path) -> None:
    prefix = bring_prefix("redis", tmp_path / "it's a cache")
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": "/nowhere", "LD_PRELOAD": ""}
    command = [str(prefix / "bin" / "redis-server"), "--version"]
    said = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert said.stdout.startswith(b"Redis server v=8")


def test_an_interrupted_run_leaves_nothing_that_the_next_one_uses(tmp_path: Path) -> None:
    run = _start("pip", tmp_path)
    eventually(lambda: list(tmp_path.glob("*.work/apt.conf")), deadline_s=60)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    (left,) = _rest(tmp_path)
    assert left.endswith(".work")
    prefix = bring_prefix("pip", tmp_path)
    assert _rest(tmp_path) == [prefix.name]


def test_sigterm_cleans_up(tmp_path: Path) -> None:
    run = _start("pip", tmp_path)
    eventually(lambda: list(tmp_path.glob("*.work/apt.conf")), deadline_s=60)
    os.killpg(run.pid, signal.SIGTERM)
    run.communicate()
    assert run.returncode != 0
    assert _rest(tmp_path) == []


@pytest.mark.parametrize("mirror", ["file:///nowhere/debian", "http://127.0.0.1:9/debian"])
def test_a_broken_mirror_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    monkeypatch.setenv("KLAGG_DEBIAN_MIRROR", mirror)
    with pytest.raises(PrefixUnavailable) as refused:
        bring_prefix("redis", tmp_path)
    assert str(refused.value) == (
        f"No package lists of Debian trixie could be had from {mirror}: check the network and the mirror."
    )
    assert _rest(tmp_path) == []


def _tools(folder: Path, without: str = "", **own: str) -> str:
    """A PATH with the tools of the script but WITHOUT, and with shell scripts of our own in place of some."""
    folder.mkdir()
    tools = "apt-config apt-get awk bash cut df dpkg dpkg-deb flock grep mkdir rm sed sha256sum sort tr uname"
    for tool in tools.split():
        found = shutil.which(tool)
        assert found, tool
        if tool != without and tool not in own:
            (folder / tool).symlink_to(found)
    for tool, text in own.items():
        (folder / tool).write_text(f"#!/bin/sh\n{text}\n")
        (folder / tool).chmod(0o755)
    return str(folder)


def test_a_system_without_apt_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", _tools(tmp_path / "bin", without="apt-get"))
    with pytest.raises(PrefixUnavailable, match=r"^PostgreSQL 17 with TimescaleDB cannot .*: apt-get is missing, and"):
        bring_prefix("timescaledb", tmp_path / "cache")


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", _tools(tmp_path / "bin", df="echo head; echo disk 100 93 7 93% /"))
    with pytest.raises(PrefixUnavailable, match=r"^The disk is too full for Redis: .* 7 MiB free, 400 MiB are needed"):
        bring_prefix("redis", tmp_path / "cache")
    assert _rest(tmp_path / "cache") == []


def test_a_host_without_a_debian_mirror_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt_get = 'case $1 in indextargets) echo "http://127.0.0.1:9/other nodistro main Other";; *) exit 9;; esac'
    monkeypatch.setenv("PATH", _tools(tmp_path / "bin", **{"apt-get": apt_get}))
    with pytest.raises(PrefixUnavailable, match=r"^No Debian mirror is among this host's apt sources; name one in K"):
        bring_prefix("redis", tmp_path / "cache")


def test_an_unknown_recipe_is_one_sentence(tmp_path: Path) -> None:
    said = r"^Unknown recipe 'mysql': use timescaledb, redis, prometheus, nginx, chromium or pip\.$"
    with pytest.raises(PrefixUnavailable, match=said):
        bring_prefix("mysql", tmp_path)


def test_a_cache_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PrefixUnavailable, match=r"^The cache folder .*/file/cache cannot be made\.$"):
        bring_prefix("redis", tmp_path / "file" / "cache")


@pytest.mark.parametrize("name", ['a "cache"', "a\\\\cache"])
def test_a_path_that_apt_cannot_take_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(PrefixUnavailable, match=r"has a quote or a backslash in its path, which apt cannot take\.$"):
        bring_prefix("pip", tmp_path / name)


def test_progress_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "klagg.embedded.prefix"):
        bring_prefix("pip", tmp_path)
        assert [record.message.partition(",")[0] for record in caplog.records] == [
            f"bringing in pip from Debian {_codename()}"
        ]
        caplog.clear()
        bring_prefix("pip", tmp_path)
        assert caplog.records == []


def _codename() -> str:
    lines = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return lines["VERSION_CODENAME"].strip('"')


@pytest.mark.parametrize(
    ("environment", "uid", "expected"),
    [
        ({"KLAGG_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, 0, "/c"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, 1000, "/x/klagg"),
        ({"HOME": "/h"}, 1000, "/h/.cache/klagg"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/root"}, 0, "/var/cache/klagg"),
    ],
)
def test_cache_directory(environment: dict[str, str], uid: int, expected: str) -> None:
    assert cache_directory(environment, uid) == Path(expected)

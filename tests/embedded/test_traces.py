"""Locks, process ids and small files in a server's folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from klagg.embedded import traces
from klagg.errors import EmbeddedServerError
from tests.kit import eventually


def test_a_lock_has_one_holder_until_it_is_closed(tmp_path: Path) -> None:
    first = traces.lock(tmp_path / "lock")
    assert first is not None
    assert traces.lock(tmp_path / "lock") is None
    assert traces.lock(tmp_path / "lock", deadline_s=0.05) is None
    os.close(first)
    again = traces.lock(tmp_path / "lock")
    assert again is not None
    os.close(again)


def test_a_lock_lives_as_long_as_the_child_that_inherits_it(tmp_path: Path) -> None:
    lock = traces.lock(tmp_path / "lock")
    assert lock is not None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,)) as child:
        os.close(lock)
        assert traces.lock(tmp_path / "lock") is None
        child.kill()
    free = traces.lock(tmp_path / "lock", deadline_s=5.0)
    assert free is not None
    os.close(free)


def test_a_lock_that_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"missing/lock cannot be opened: No such file or directory\.$"):
        traces.lock(tmp_path / "missing" / "lock")


def test_a_recorded_process_is_that_very_process(tmp_path: Path) -> None:
    assert traces.recorded_process(tmp_path) is None
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        traces.record_process(tmp_path, child.pid)
        assert traces.recorded_process(tmp_path) == child.pid
        child.kill()
        eventually(lambda: traces.recorded_process(tmp_path) is None)  # before anybody has waited for it, too
    pid, _, mark = (tmp_path / "server.pid").read_text().partition(" ")
    (tmp_path / "server.pid").write_text(f"{os.getpid()} {mark}")  # as if the id had been given to another process
    assert pid != str(os.getpid())
    assert traces.recorded_process(tmp_path) is None


@pytest.mark.parametrize("text", ["", "\n", "12", "x y", "-1 a", "99999999 boot-1"])
def test_a_process_file_that_says_nothing_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.pid").write_text(text)
    assert traces.recorded_process(tmp_path) is None


def test_a_url_counts_while_the_server_runs(tmp_path: Path) -> None:
    traces.write(tmp_path / "url", "redis://127.0.0.1:1/0\n")
    assert traces.running_url(tmp_path) is None
    traces.record_process(tmp_path, os.getpid())
    assert traces.running_url(tmp_path) == "redis://127.0.0.1:1/0"
    assert (tmp_path / "url").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "abc", "80", "70000"])
def test_a_port_that_makes_no_sense_is_chosen_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "port").write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", traces.kept_port(tmp_path)))


def test_a_sensible_port_is_kept(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("6380\n")
    assert traces.kept_port(tmp_path) == 6380

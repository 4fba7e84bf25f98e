"""A run of tests that is ended from outside leaves nothing behind, and can be started anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.kit import eventually, is_alive

LEFT_S = 15.0
"""Within this time everything that belonged to a run has ended."""

TESTS = """
import json, os, subprocess, sys, time
from pathlib import Path

def test_that_lasts(redis_server, postgres_server, tmp_path):
    options = dict(cwd="/", start_new_session=True)
    marked = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **options)
    deaf = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)"], **options
    )
    placed = subprocess.Popen(["/bin/sleep", "600"], cwd=tmp_path, env={})
    found = [os.getpid(), redis_server.pid, postgres_server.pid, marked.pid, deaf.pid, placed.pid]
    written = Path(os.environ["FOUND"])
    written.with_suffix(".new").write_text(json.dumps([found, str(redis_server.home.parent)]))
    written.with_suffix(".new").rename(written)
    time.sleep(600)
"""
"""A module of tests whose only one starts all kinds of processes, says which, and then takes its time."""


@contextmanager
def run(folder: Path, *options: str, ignored: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A run of FOLDER/test_inner.py by one worker, with the fixtures of the project, SIGINT ignored or not."""
    (folder / "conftest.py").write_text("from tests.conftest import *\nfrom tests.conftest import _guarded_folder\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-c",
        str(ROOT / "pyproject.toml"),
        "--rootdir",
        str(folder),
        "--basetemp",
        str(folder / "basetemp"),
        "-p",
        "no:cacheprovider",
        "-n",
        "1",
        *options,
        str(folder / "test_inner.py"),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FOUND": str(folder / "found")}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    try:
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.servers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ["SIGTERM of the controller", "SIGKILL of a worker"])
def test_an_ended_run_leaves_no_process_and_no_folder(tmp_path: Path, end: str) -> None:
    (tmp_path / "test_inner.py").write_text(TESTS, encoding="utf-8")
    number, _, whom = end.partition(" of ")
    with run(tmp_path, "--max-worker-restart", "0") as process:

        def found() -> bool:
            if process.poll() is not None:
                raise RuntimeError((tmp_path / "output").read_text(encoding="utf-8"))
            return (tmp_path / "found").exists()

        eventually(found, 200)
        pids, data = json.loads((tmp_path / "found").read_text(encoding="utf-8"))
        worker, *others = pids
        assert [pid for pid in others if not is_alive(pid)] == []
        os.kill(worker if whom == "a worker" else process.pid, signal.Signals[number])
        eventually(lambda: not [pid for pid in pids if is_alive(pid)] and not Path(data).exists(), LEFT_S)


INTERRUPTS = """
import signal, subprocess

def test_that_interrupts_a_child():
    child = subprocess.Popen(["/bin/sleep", "600"])
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == -signal.SIGINT
"""


def test_children_can_be_interrupted_although_the_run_was_started_with_sigint_ignored(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(INTERRUPTS, encoding="utf-8")
    with run(tmp_path, ignored=True) as process:
        assert process.wait(150) == 0, (tmp_path / "output").read_text(encoding="utf-8")

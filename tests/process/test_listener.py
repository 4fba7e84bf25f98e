"""The event listener of supervisord. A real supervisord is in tests/cli/test_supervisord.py."""

from __future__ import annotations

import subprocess
import sys

from supervisor.states import ProcessStates

from klagg.process.listener import pids_of


def program(name: str, state: int = ProcessStates.RUNNING, pid: int = 7) -> dict[str, object]:
    return {"name": name, "group": "any", "state": state, "pid": pid}


def test_programs_are_known_by_their_names_while_they_run() -> None:
    found = pids_of(
        [
            program("klagg-aggregator-0", pid=1),
            program("klagg-ingest-A", pid=2),
            program("klagg-clock", ProcessStates.STOPPING, 3),
            program("klagg-repair", ProcessStates.STARTING, 4),
            program("klagg-gateway", pid=0),
            program("postgres", pid=5),
        ]
    )
    assert found == {"aggregator-0": 1, "ingest-A": 2}


def test_without_supervisord_it_says_how_it_is_started() -> None:
    command = [sys.executable, "-m", "klagg.process.listener"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={"PYTHONPATH": "."})
    assert done.returncode == 1
    assert "is started by supervisord as an event listener: see config/supervisord.conf" in done.stderr
    assert done.stdout == "", "standard output is the line to supervisord"
